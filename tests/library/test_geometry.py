"""The learned weight of TGeo-KD: its formula, its means, a whole run, and whom it learns to mistrust."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import mmkd
from mmkd import plugins
from mmkd.engine import checkpoint
from mmkd.errors import GraphError
from mmkd.library.schedules.geometry import GeometrySchedule

CLASSES = 3


def ready(**options: Any) -> GeometrySchedule:
    torch.manual_seed(0)
    schedule = GeometrySchedule(width=4, **options)
    schedule.setup(student=torch.Size([2, CLASSES]), teacher=torch.Size([2, CLASSES]), label=torch.Size([2]))
    return schedule.double()


def inputs(size: int = 6, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(size, CLASSES, generator=generator, dtype=torch.float64) for _ in range(2))
    return {"student": student, "teacher": teacher, "label": torch.randint(CLASSES, (size,), generator=generator)}


def by_hand(schedule: GeometrySchedule, student: list[float], teacher: list[float], label: int) -> float:
    """One sample, in loops."""

    def softmax(x: list[float]) -> list[float]:
        total = sum(math.exp(v) for v in x)
        return [math.exp(v) / total for v in x]

    s, t = softmax(student), softmax(teacher)
    g = [float(c == label) for c in range(CLASSES)]
    m = schedule.means[label].tolist()
    x = [*s, *t, *g, *m]
    for a, b in ((s, t), (s, g), (t, g), (s, m), (m, g)):
        x += [(u - v) ** 2 for u, v in zip(a, b, strict=True)]
    first, _, last = schedule.network  # type: ignore[misc]
    hidden = [max(0.0, b + sum(w * v for w, v in zip(row, x, strict=True)))
              for row, b in zip(first.weight.tolist(), first.bias.tolist(), strict=True)]  # fmt: skip
    z = last.bias.item() + sum(w * h for w, h in zip(last.weight[0].tolist(), hidden, strict=True))
    return 1 / (1 + math.exp(-z))


def test_the_formula() -> None:
    schedule, given = ready(), inputs()
    nn.init.normal_(schedule.network[-1].weight)  # type: ignore[index]
    schedule.update(teacher=given["teacher"], label=given["label"])
    weights = schedule(5, 10, **given)
    rows = zip(given["student"].tolist(), given["teacher"].tolist(), given["label"].tolist(), strict=True)
    expected = [by_hand(schedule, *row) for row in rows]
    assert weights.tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("start", [0.1, 0.5, 0.9])
def test_it_starts_where_it_is_told(start: float) -> None:
    assert ready(start=start)(0, 10, **inputs()).tolist() == pytest.approx([start] * 6, rel=1e-6)


def test_means_are_those_of_all_samples_of_a_label() -> None:
    schedule = ready()
    batches = [inputs(seed=seed) for seed in range(4)]
    for given in batches:
        schedule.update(teacher=given["teacher"], label=given["label"])
    teacher, label = (torch.cat([given[port] for given in batches]) for port in ("teacher", "label"))
    for c in range(CLASSES):
        torch.testing.assert_close(schedule.means[c], teacher[label == c].softmax(-1).mean(0))
        assert schedule.counts[c] == (label == c).sum()
    unseen = ready()
    unseen.update(teacher=batches[0]["teacher"][:1], label=torch.tensor([1]))
    assert unseen.means[0].tolist() == pytest.approx([1 / 3] * 3)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(GraphError, match="was not set up"):
        GeometrySchedule()(0, 1, **inputs())
    with pytest.raises(GraphError, match=r"logits \[B, C\] of the same classes"):
        GeometrySchedule().setup(student=torch.Size([2, 3]), teacher=torch.Size([2, 4]), label=torch.Size([2]))


# -- a run ------------------------------------------------------------------------------------------------------

FEATURES = 8


class Points(mmkd.Dataset):
    def __init__(self, size: int, seed: int) -> None:
        self.x = np.random.default_rng(seed).standard_normal((size, FEATURES)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> mmkd.Sample:
        x = self.x[index]
        return {"key": f"point/{index}", "image": x, "label": int(x[:CLASSES].argmax())}


def mlp(*widths: int, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers[:-1])


def distill(folder: Path, resume: bool = False, **changes: Any) -> dict[str, Any]:
    train = {"steps": 12, "lr": 0.01, "checkpoint_every": 5, "log_every": 4, "device": "cpu"}
    document = {"recipe": "core.tgeo_kd", "train": train, "data": {"batch_size": 16}, **changes}
    student = nn.Sequential(mlp(FEATURES, 6, seed=1), nn.BatchNorm1d(6), nn.Dropout(0.2), mlp(6, CLASSES, seed=2))
    nodes = {"student": student, "teacher": mlp(FEATURES, 12, CLASSES, seed=3)}
    data = {"train": Points(80, 0), "eval": Points(20, 1), "streams": {"meta": Points(30, 2)}}
    return mmkd.distill(document, output_dir=folder, nodes=nodes, data=data, resume=resume, baseline=False)


def final(folder: Path) -> dict[str, Tensor]:
    (last,) = checkpoint.checkpoints(folder)
    return {**load_file(last / "graph.safetensors"), **load_file(last / "state.safetensors")}


def test_killed_and_resumed_it_equals_the_run_that_was_not_and_exports_the_student_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    distill(tmp_path / "whole")
    call = plugins.Host.call

    def killing(self: plugins.Host, hook: str, **arguments: Any) -> None:
        if hook == "mmkd_step_end" and arguments["step"] == 8:
            raise Killed
        call(self, hook, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(plugins.Host, "call", killing)
        with pytest.raises(Killed):
            distill(tmp_path / "cut")
    distill(tmp_path / "cut", resume=True)
    whole, cut = final(tmp_path / "whole"), final(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert [key for key in whole if not torch.equal(whole[key], cut[key])] == []
    held = {key for key in whole if key.startswith(("schedules.alpha.", "alpha/"))}
    assert {"schedules.alpha.means", "schedules.alpha.network.0.weight", "alpha/0/exp_avg"} <= held
    exported = load_file(tmp_path / "whole" / "student" / "model.safetensors")
    assert {key.split(".")[0] for key in exported} == {"nodes"}
    assert {key.split(".")[1] for key in exported} == {"student"}
    assert '"meta_loss"' in (tmp_path / "whole" / "log.jsonl").read_text()


# -- digits, half of them with a teacher that errs ----------------------------------------------------------------

datasets = pytest.importorskip("sklearn.datasets")
digits = datasets.load_digits()
image, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)


class Erring(nn.Module):
    """Says the next class wherever a sample is marked."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, bad: Tensor) -> Tensor:
        logits = self.network(image)
        return torch.where(bad[:, None], logits.roll(1, 1), logits)


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    network = mlp(64, 64, 10, seed=7)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        F.cross_entropy(network(image), labels).backward()
        optimizer.step()
    return network


def learn(teacher: nn.Module, seed: int, lr: float) -> tuple[float, float, float]:
    """Mean weight of samples on which the teacher errs and of others, and the student's accuracy on new ones."""
    generator = torch.Generator().manual_seed(seed)
    order, bad = torch.randperm(len(image), generator=generator), torch.rand(len(image), generator=generator) < 0.5
    train, meta, test = order[:300], order[300:400], order[400:]

    def fields(rows: Tensor) -> dict[str, Any]:
        return {"image": image[rows], "label": labels[rows], "bad": bad[rows]}

    settings = {"steps": 250, "lr": 3e-3, "lr_schedule": "constant", "device": "cpu"}
    change = {"schedules": {"alpha": {"lr": lr}}, "losses": {"kd": {"temperature": 2.0}}}
    recipe = mmkd.load_recipe({"recipe": "core.tgeo_kd", "train": settings, **change})
    nodes = {"student": mlp(64, 16, 10, seed=seed), "teacher": mmkd.wrap(Erring(teacher), inputs=["image", "bad"])}
    torch.manual_seed(seed)
    graph = mmkd.build(recipe, nodes=nodes, example={**fields(train[:8]), "@meta": fields(meta[:8])})
    optimizers = mmkd.optimizers(graph, recipe.train)
    for _ in range(settings["steps"]):  # type: ignore[call-overload]
        rows, held = (torch.randint(size, (32,), generator=generator) for size in (len(train), len(meta)))
        graph.step({**fields(train[rows]), "@meta": fields(meta[held])}, optimizers)
    with torch.no_grad():
        weight = graph.eval().values(fields(train), ["alpha"])["alpha"]
        right = graph.values(fields(test), ["student.logits"])["student.logits"].argmax(1) == labels[test]
    wrong = bad[train]
    return weight[wrong].mean().item(), weight[~wrong].mean().item(), right.double().mean().item()


def test_weights_go_down_where_the_teacher_errs(teacher: nn.Module) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    learned, fixed = (torch.tensor([learn(teacher, seed, lr) for seed in range(3)]) for lr in (0.005, 0.0))
    torch.set_num_threads(threads)
    assert (fixed[:, :2] == 0.5).all() and (learned[:, 0] < 0.25).all()
    bad, good, accuracy = learned.mean(0)
    assert bad < 0.7 * good and accuracy > fixed[:, 2].mean() + 0.05
