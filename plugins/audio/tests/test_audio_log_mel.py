"""The log-mel spectrogram, beside librosa's."""

import numpy as np
import pytest
import torch
from mmkd_audio.log_mel import FLOOR, LogMel, mirrored
from mmkd_audio.resample import resampled
from mmkd_audio.sound import Sound

from mmkd.errors import MmkdError

CASES = [
    (16_000, 400, 160, 80, 0.0, None, 16_000),
    (22_050, 2048, 512, 128, 0.0, None, 30_000),
    (16_000, 512, 100, 40, 50.0, 7000.0, 5_003),
    (44_100, 1024, 256, 64, 20.0, None, 1_025),
    (16_000, 400, 160, 40, 0.0, None, 150),  # shorter than a frame: mirrored again and again
    (16_000, 400, 160, 40, 0.0, None, 1),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore:n_fft=:UserWarning")
def test_it_is_librosas(case):
    librosa = pytest.importorskip("librosa", reason="librosa is the reference, and is not installed")
    rate, n_fft, hop, mels, low, high, size = case
    wave = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    wave += np.sin(np.arange(size, dtype=np.float32) / 9)
    wanted = librosa.feature.melspectrogram(
        y=wave.astype(np.float64), sr=rate, n_fft=n_fft, hop_length=hop, n_mels=mels, fmin=low, fmax=high,
        pad_mode="reflect", power=2.0, htk=False, norm="slaney",
    )  # fmt: skip
    front = LogMel(rate, n_fft, hop, mels, low, high)
    made = front(torch.from_numpy(wave)).numpy()
    assert made.shape == (front.frames(size), mels) == wanted.T.shape
    assert np.abs(made - np.log10(np.maximum(wanted, FLOOR)).T).max() < 1e-4


def test_mirrored_is_numpys():
    for size in (1, 2, 3, 7, 11, 12, 40):
        wave = torch.arange(size) + 1.0
        assert mirrored(wave, 11).tolist() == np.pad(wave.numpy(), 11, mode="reflect").tolist()


def test_a_tone_is_loudest_in_its_band_and_silence_is_the_floor():
    time = torch.arange(16_000) / 16_000
    front = LogMel(mels=80)
    bands = [int(front(torch.sin(2 * torch.pi * hertz * time))[50].argmax()) for hertz in (300, 900, 2700)]
    assert bands == sorted(set(bands))
    assert (front(torch.zeros(1000)) == -10).all()


def test_a_click_is_in_the_frame_of_its_time():
    wave = torch.zeros(16_000)
    wave[160 * 37] = 1.0
    assert int(LogMel()(wave).sum(1).argmax()) == 37


def test_bands_that_would_be_empty_are_refused():
    with pytest.raises(MmkdError, match="too many for frames of 128"):
        LogMel(n_fft=128, mels=80)
    with pytest.raises(MmkdError, match="between 0 and 8000"):
        LogMel(high=9000)


def test_gradients_reach_the_waveform():
    wave = torch.randn(40, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(LogMel(n_fft=16, hop=8, mels=4), wave)


@pytest.mark.parametrize(("rate", "to"), [(44_100, 16_000), (8_000, 16_000), (22_050, 16_000), (16_000, 16_000)])
def test_resampling_keeps_a_tone(rate, to):
    def tone(r):
        return np.sin(2 * np.pi * 440 * np.arange(r // 2) / r).astype(np.float32)

    made = resampled(Sound(tone(rate), rate), to)
    assert made.dtype == np.float32 and len(made) == to // 2
    assert np.abs(made - tone(to))[500:-500].max() < 1e-3


def test_resampling_removes_what_the_new_rate_cannot_hold():
    high = np.sin(2 * np.pi * 12_000 * np.arange(44_100) / 44_100).astype(np.float32)
    assert np.abs(resampled(Sound(high, 44_100), 16_000)[500:-500]).max() < 1e-3
    assert len(resampled(Sound(np.ones(1, np.float32), 48_000), 8_000)) == 1
