"""Self-distillation of kernel ridge regression: iterated fits are the closed form, and the optimal weight is so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mmkd
from mmkd.errors import GraphError, RecipeError
from mmkd.library.encoders.kernel_machine import KernelMachine
from mmkd.library.procedures.kernel_ridge import KernelRidge, optimal
from mmkd.testing import check_procedure

RIDGE = 0.05


class Waves(mmkd.Dataset):
    """A sine and a cosine of one number beside a second that is noise, with noisy targets."""

    def __init__(self, size: int, seed: int, noise: float = 0.4) -> None:
        random = np.random.default_rng(seed)
        self.x = random.uniform(-2, 2, (size, 2)).astype(np.float32)
        clean = np.stack([np.sin(2 * self.x[:, 0]), np.cos(self.x[:, 0])], 1)
        self.y = (clean + noise * random.standard_normal((size, 2))).astype(np.float32)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> mmkd.Sample:
        label = int(self.y[index].argmax())
        return {"key": f"wave/{index}", "vector": self.x[index], "target": self.y[index], "label": label}


TRAIN, HELD_OUT = Waves(60, 0), Waves(40, 1, noise=0.0)


def distill(folder: Path, resume: bool = False, **procedure: Any) -> dict[str, Any]:
    document = {
        "recipe": "core.krr",
        "student": {"outputs": 2, "gamma": 2.0},
        "procedure": {"ridge": RIDGE, **procedure},
        "data": {"batch_size": 7},
        "train": {"device": "cpu"},
        "evaluate": [{"use": "core.top_k", "student": "student.logits", "k": [1]}],
    }
    data = {"train": TRAIN, "eval": HELD_OUT}
    return mmkd.distill(document, output_dir=folder, data=data, resume=resume, preflight=procedure == {})


def function(folder: Path, x: np.ndarray) -> Tensor:
    """What an exported machine gives."""
    model = mmkd.from_pretrained(folder)
    return model.values({"vector": torch.from_numpy(x)}, ["student.logits"])["student.logits"].double()


def gram(x: np.ndarray, z: np.ndarray) -> Tensor:
    a, b = torch.from_numpy(x).double(), torch.from_numpy(z).double()
    return torch.stack([torch.stack([torch.exp(-2.0 * (u - v).square().sum()) for v in b]) for u in a])


def closed_form(x: np.ndarray, alpha: float, generations: int) -> Tensor:
    """From the eigenvalues: `f_t(x) = k(x, X) (K + ridge)^-1 V (a + (1 - a) B_{t-1}) V' y`, B a geometric series."""
    values, vectors = torch.linalg.eigh(gram(TRAIN.x, TRAIN.x))
    a = values / (values + RIDGE)
    q = (1 - alpha) * a
    t = generations - 1
    before = a * q**t + alpha * a * (1 - q**t) / (1 - q) if t else a  # B_t, from B_1 = A on
    inner = torch.ones_like(a) if generations == 1 else alpha + (1 - alpha) * _before(a, alpha, t)
    assert torch.allclose(before, a * inner, atol=1e-12)
    dual = vectors @ torch.diag(inner / (values + RIDGE)) @ vectors.T @ torch.from_numpy(TRAIN.y).double()
    return gram(x, TRAIN.x) @ dual


def _before(a: Tensor, alpha: float, t: int) -> Tensor:
    b = a
    for _ in range(t - 1):
        b = a * (alpha + (1 - alpha) * b)
    return b


@pytest.mark.parametrize(("alpha", "generations"), [(0.0, 4), (0.3, 4), (1.0, 2), (-0.2, 3), (0.3, 1)])
def test_iterated_fits_are_the_closed_form(alpha: float, generations: int, tmp_path: Path) -> None:
    results = distill(tmp_path / "run", alpha=alpha, generations=generations)
    for x in (TRAIN.x, HELD_OUT.x):
        torch.testing.assert_close(
            function(tmp_path / "run", x), closed_form(x, alpha, generations), atol=1e-6, rtol=1e-6
        )
    names = [f"generation_{k}" for k in range(1, generations)]
    assert list(results.get("stages", {})) == names
    scored = [*(results["stages"][name] for name in names), results["student"]] if names else [results["student"]]
    assert all("top_k" in one["scores"]["eval"] for one in scored)


def test_without_ground_truth_it_shrinks_and_with_it_ends_at_a_penalty(tmp_path: Path) -> None:
    distill(tmp_path / "none", alpha=0.0, generations=6)
    distill(tmp_path / "some", alpha=0.5, generations=6)
    one = closed_form(TRAIN.x, 1.0, 1).norm()
    assert function(tmp_path / "none", TRAIN.x).norm() < 0.9 * one
    k, y = gram(TRAIN.x, TRAIN.x), torch.from_numpy(TRAIN.y).double()
    ridge = k @ torch.linalg.solve(k + RIDGE / 0.5 * torch.eye(len(k)), y)
    torch.testing.assert_close(function(tmp_path / "some", TRAIN.x), ridge, atol=5e-2, rtol=0)


def test_the_optimal_weight_is_the_minimum_of_a_grid() -> None:
    generator = torch.Generator().manual_seed(0)
    y, f, p = (torch.randn(30, 2, generator=generator, dtype=torch.float64) for _ in range(3))
    f, p = y + 0.5 * f, y + 0.7 * p
    grid = torch.linspace(-2, 3, 5_001, dtype=torch.float64)
    losses = torch.stack([(a * f + (1 - a) * p - y).square().sum() for a in grid])
    assert optimal(y, f, p) == pytest.approx(grid[losses.argmin()].item(), abs=1e-3)
    assert optimal(y, f, f) == 1.0


def test_optimal_fits_hold_the_same_samples_out_at_every_generation(tmp_path: Path) -> None:
    distill(tmp_path / "run", alpha="optimal", generations=3)
    first, second = (mmkd.from_pretrained(tmp_path / "run" / "stages" / f"generation_{k}") for k in (1, 2))
    last = mmkd.from_pretrained(tmp_path / "run")
    points = [model.nodes["student"].support for model in (first, second, last)]
    assert len(points[0]) == 48 and all(torch.equal(points[0], other) for other in points)
    kept, held = KernelRidge()._split(60)
    x, y = torch.from_numpy(TRAIN.x), torch.from_numpy(TRAIN.y)
    errors = {}
    for alpha in np.linspace(-1, 2, 61):  # the second machine is the best that any weight would have made
        machine = KernelMachine(2, gamma=2.0)
        before = first.nodes["student"].at(x)
        machine.fit(x[kept], alpha * y[kept] + (1 - alpha) * before[kept], RIDGE)
        errors[alpha] = (machine.at(x[held]) - y[held]).square().sum().item()
    own = (second.nodes["student"].at(x[held]) - y[held]).square().sum().item()
    assert own <= min(errors.values()) + 1e-9


def test_the_recipe_as_it_is(tmp_path: Path) -> None:
    results = distill(tmp_path / "run")
    assert list(results["stages"]) == [f"generation_{k}" for k in (1, 2, 3, 4)]


def test_a_fit_that_was_interrupted_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    distill(tmp_path / "whole", alpha=0.3, generations=3)
    fit, calls = KernelMachine.fit, []

    def dies(self: KernelMachine, *args: Any) -> None:
        calls.append(1)
        if len(calls) == 3:  # the second generation fits its target again
            raise Killed
        fit(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(KernelMachine, "fit", dies)
        with pytest.raises(Killed):
            distill(tmp_path / "cut", alpha=0.3, generations=3)
    distill(tmp_path / "cut", resume=True, alpha=0.3, generations=3)
    one, other = (function(tmp_path / name, HELD_OUT.x) for name in ("whole", "cut"))
    assert torch.equal(one, other)


class Frozen(mmkd.Encoder):
    """A layer in front."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 5)

    def values(self) -> list[str]:
        return ["embedding"]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"embedding": self.layer(image).tanh()}


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_a_kernel_over_the_features_of_another_encoder(kernel: Any) -> None:
    torch.manual_seed(0)
    front = Frozen()
    machine = KernelMachine(3, kernel=kernel, gamma=0.5, features=front)
    assert machine.inputs() == {"image": True}
    image, y = torch.randn(20, 2), torch.randn(20, 3)
    empty = machine(image=image)
    assert empty["logits"].shape == (20, 3) and not empty["logits"].any()
    machine.fit(front(image)["embedding"], y, 0.1)
    z = front(image)["embedding"].detach().double()
    k = z @ z.T if kernel == "linear" else torch.exp(-0.5 * torch.cdist(z, z).square())
    expected = k @ torch.linalg.solve(k + 0.1 * torch.eye(20), y.double())
    torch.testing.assert_close(machine(image=image)["logits"], expected.float(), atol=1e-5, rtol=1e-4)
    again = KernelMachine(3, kernel=kernel, gamma=0.5, features=Frozen())
    again.load_state_dict(machine.state_dict())
    assert torch.equal(again(image=image)["logits"], machine(image=image)["logits"])
    assert machine(image=image.requires_grad_())["logits"].grad_fn is not None and not front.training


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    labels = {"use": "core.cross_entropy", "student": "student.logits", "label": "batch.label"}
    document = {"recipe": "core.krr", "student": {"outputs": 3}, "losses": {"fit": labels}, "train": {"device": "cpu"}}
    with pytest.raises(GraphError, match=r"'batch.label' is \[60\], the machine gives 3 numbers a sample"):
        mmkd.distill(document, output_dir=tmp_path, data={"train": TRAIN, "eval": HELD_OUT}, preflight=False)
    two = {"fit": {"use": "core.mse", "student": "student.logits", "teacher": "batch.target"}}
    with pytest.raises(RecipeError, match="a fit has one loss"):
        mmkd.stages({"recipe": "core.krr", "losses": {**two, "more": two["fit"]}})
    with pytest.raises(RecipeError, match="none is left to fit"):
        KernelRidge(held_out=0.9)._split(1)


def test_the_procedure_is_sound() -> None:
    ran = check_procedure(KernelRidge, **KernelRidge.conformance)
    assert {"pure", "stages_train"} <= set(ran)
