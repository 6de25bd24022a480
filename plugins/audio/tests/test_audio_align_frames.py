"""Frames at other times, beside a slow oracle and NumPy."""

import numpy as np
import pytest
import sounds
import torch
from mmkd_audio.align_frames import AlignFrames
from mmkd_audio.convnet import ConvNet

from mmkd.errors import GraphError


def oracle(input, times, to, lengths, how="linear"):
    """One number at a time."""
    made = np.zeros((len(to), to.shape[1], input.shape[2]))
    for b in range(len(to)):
        t, x = times[b, : lengths[b]].numpy().astype(float), input[b, : lengths[b]].numpy()
        for s in range(to.shape[1]):
            if how == "nearest":
                made[b, s] = x[int(np.abs(t - float(to[b, s])).argmin())]
            else:
                made[b, s] = [np.interp(float(to[b, s]), t, x[:, d]) for d in range(x.shape[1])]
    return torch.from_numpy(made)


@pytest.mark.parametrize("how", ["linear", "nearest"])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_interpolation(how, seed):
    g = torch.Generator().manual_seed(seed)
    input = torch.randn(3, 9, 2, generator=g, dtype=torch.float64)
    times = torch.rand(3, 9, generator=g, dtype=torch.float64).cumsum(1)
    to = torch.rand(3, 13, generator=g, dtype=torch.float64) * 7 - 1
    lengths = [9, 5, 1]
    mask = (torch.arange(9) < torch.tensor(lengths)[:, None]).long()
    made = AlignFrames(how)(input, times, to, mask)
    assert torch.allclose(made, oracle(input, times, to, lengths, how), atol=1e-12)
    assert torch.allclose(AlignFrames(how)(input, times, to), oracle(input, times, to, [9] * 3, how), atol=1e-12)


def test_at_its_own_times_it_is_itself_and_padding_is_never_read():
    input = torch.randn(2, 6, 3)
    times = (20_000 * torch.arange(6)).expand(2, 6)
    for how in ("linear", "nearest"):
        assert torch.equal(AlignFrames(how)(input, times, times), input)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    broken = input.masked_fill(mask[..., None] == 0, torch.nan)
    made = AlignFrames()(broken, times, times + 7_000, mask)
    assert made.isfinite().all() and torch.equal(made[1, 3], input[1, 2])


@pytest.mark.parametrize(("rate", "first"), [(50, 12_500), (49.9, 0), (25, 3_000)])
def test_a_ramp_in_seconds_stays_one_at_any_rate(rate, first):
    """The value of a frame is its own time, so any frame that is off by one shows."""
    times = (first + torch.arange(40, dtype=torch.float64) * 1e6 / rate).round().long().expand(1, 40)
    to = (torch.arange(400).double() * 1e4).round().long().expand(1, 400)
    made = AlignFrames()(times.double()[..., None], times, to)[0, :, 0]
    assert torch.allclose(made, to[0].double().clamp(float(times.min()), float(times.max())), atol=1e-6)


def test_gradients_reach_frames_and_times():
    input = torch.randn(2, 5, 2, dtype=torch.float64, requires_grad=True)
    times = torch.arange(5.0).double().expand(2, 5).clone().requires_grad_()
    to = torch.tensor([[0.3, 2.6, 3.1], [1.2, 1.9, 3.7]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(AlignFrames(), (input, times, to))


def test_shapes_that_do_not_fit_are_named():
    x, t = torch.randn(2, 5, 3), torch.rand(2, 5)
    for bad in ((x[0], t, t), (x, t[:, :4], t), (x, t, t, t[:, :2]), (x, t, t[:1]), (x[:, :0], t[:, :0], t)):
        with pytest.raises(GraphError, match=r"audio\.align_frames"):
            AlignFrames()(*bad)


def test_two_networks_of_other_rates_in_a_graph():
    import mmkd

    recipe = {
        "teacher": {"use": "audio.transformer", "width": 16, "layers": 1, "heads": 2, "mels": 20, "hop": 200},
        "student": {"use": "audio.convnet", "width": 8, "blocks": 1, "mels": 20},
        "projectors": {
            "aligned": {
                "use": "audio.align_frames", "input": "student.tokens", "times": "student.times",
                "to": "teacher.times", "mask": "student.mask",
            },
            "up": {"use": "core.linear", "input": "aligned", "like": "teacher.tokens"},
        },
        "losses": {"tokens": {"use": "core.mse", "student": "up", "teacher": "teacher.tokens", "mask": "teacher.mask"}},
        "train": {"steps": 1},
    }  # fmt: skip
    samples = sounds.samples(4000, 9000, 700)
    graph = mmkd.build(recipe, data={"train": samples})
    out = graph(graph.collate(samples))
    out["loss"].backward()
    student = graph.nodes["student"]
    assert out["loss"].isfinite() and isinstance(student, torch.nn.Module)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    assert ConvNet().frame_rate == 25
