"""Components that are wrong on purpose, each with the probe that must catch it."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import mmkd
from mmkd.library.losses.explanation import ExplanationMatch
from mmkd.library.losses.factor_transfer import FactorTransfer
from mmkd.library.losses.info_nce import InfoNCE
from mmkd.library.losses.kl import KLDivergence
from mmkd.library.losses.mse import MeanSquaredError
from mmkd.library.losses.norm_direction import NormDirection
from mmkd.library.losses.rkd import RelationalDistance
from mmkd.library.losses.similarity_preserving import SimilarityPreserving
from mmkd.library.losses.vid import VariationalInformation
from mmkd.library.metrics.top_k import TopK
from mmkd.library.projectors.linear import LinearProjector
from mmkd.testing import (
    check_curator,
    check_dataset,
    check_encoder,
    check_loss,
    check_metric,
    check_projector,
    check_schedule,
)

# Mutations of shipped components


class SummedMSE(MeanSquaredError):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return super().forward(student, teacher).sum()


class UnreducedMSE(MeanSquaredError):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square()[:, None].expand(-1, 2, -1)


class TeacherOnlyMSE(MeanSquaredError):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return super().forward(student.detach(), teacher)


class SwappedFactors(FactorTransfer):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return super().forward(teacher, student)

    def setup(self, student: torch.Size, teacher: torch.Size) -> None:
        super().setup(teacher, student)


class SwappedKL(KLDivergence):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return super().forward(teacher, student)


class UnscaledKL(KLDivergence):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return super().forward(student, teacher) / self.temperature**2


class EntropylessKL(KLDivergence):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        p = (teacher / self.temperature).softmax(-1)
        return -(self.temperature**2) * (p * (student / self.temperature).log_softmax(-1)).sum(-1)


class NaiveKL(KLDivergence):
    """A logit of `-inf` is fine, they say."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        p, q = (x.div(self.temperature).exp() for x in (teacher, student))
        p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
        return self.temperature**2 * (p * (p.log() - q.log())).sum(-1)


class DefaultTemperatureKL(KLDivergence):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        self.temperature = 1.0
        return super().forward(student, teacher)


class UncoupledRKD(RelationalDistance):
    coupled = False
    min_batch = 1


class SmallRKD(RelationalDistance):
    min_batch = 1


class UngraphedE2KD(ExplanationMatch):
    needs_graph = frozenset({"student", "features"})


class UnguardedRKD(RelationalDistance):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = (torch.pdist(z).square().sqrt() for z in (student, teacher))
        d = torch.stack([(x - y).square().sum().sqrt() for x in student for y in student])
        return F.smooth_l1_loss(s / s.mean(), t / t.mean()) + 0 * d.sum()


class CoupledMSE(MeanSquaredError):
    coupled = True


class SpoiltMSE(MeanSquaredError):
    min_batch = 2


class LateVID(VariationalInformation):
    def setup(self, student: torch.Size, teacher: torch.Size) -> None:
        self.shapes = student, teacher

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.raw is None:
            super().setup(*self.shapes)
        return super().forward(student, teacher)


class ForgetfulND(NormDirection):
    def setup(self, **shapes: torch.Size) -> None:
        super().setup(**shapes)
        for name in list(self._buffers):
            self._non_persistent_buffers_set.add(name)


class RankedInfoNCE(InfoNCE):
    def forward(self, student: Tensor, teacher: Tensor, group: Tensor | None = None) -> Tensor:
        return super().forward(student, teacher, group) * torch.arange(1, len(student) + 1, device=student.device)


class QuadraticSP(SimilarityPreserving):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        g_s, g_t = (z @ z.T for z in (student, teacher))
        return (g_s**4 - g_t**4).square().mean(1)


class UndetachedFactors(FactorTransfer):
    """Forgets to detach the teacher's factors."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return super().forward(student, teacher) + self.encoder(teacher).square().flatten(1).mean(1)


# Losses of a stranger


class Plain(mmkd.Loss):
    """Mean squared error."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().mean(1)


class InPlace(Plain):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        teacher -= teacher.mean(1, keepdim=True)
        return super().forward(student, teacher)


class Seeds(Plain):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        torch.manual_seed(0)
        return super().forward(student, teacher)


class ConsumesNumPy(Plain):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        np.random.rand()
        return super().forward(student, teacher)


class Environment(Plain):
    def __init__(self) -> None:
        super().__init__()
        os.environ["BROKEN_ON_PURPOSE"] = "1"


class Counts(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(student, teacher)


class Moody(Plain):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return super().forward(student, teacher) * random.random()


class Narrow(Plain):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return super().forward(student.float(), teacher.float())


class Earthbound(Plain):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return super().forward(student, teacher) + torch.zeros(len(student))


class Idle(Plain):
    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin


class Blind(Plain):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return student.square().mean(1)


class FirstOnly(Plain):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        keep = torch.arange(len(student), device=student.device) < 2
        return super().forward(student, teacher) * keep


class PythonState(Plain):
    def setup(self, **shapes: torch.Size) -> None:
        self.centre: Tensor | float = 0.0

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return super().forward(student, teacher - self.centre)

    def update(self, teacher: Tensor) -> None:
        self.centre = teacher.mean(0)


class UnreadState(Plain):
    def setup(self, teacher: torch.Size, **shapes: torch.Size) -> None:
        self.register_buffer("queue", torch.zeros(teacher))

    def update(self, teacher: Tensor) -> None:
        self.queue = teacher.clone()


class Hidden(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(8, 8)]

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return super().forward(self.layers[0](student), teacher)


class ZeroNorm(Plain):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student / student.square().sum(1, keepdim=True).sqrt() - teacher).square().mean(1)


class Differentiates(Plain):
    """Takes a derivative of one port in another and does not say so."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        teacher = teacher.detach().requires_grad_()
        (slope,) = torch.autograd.grad(student.sum(), teacher)
        return (student - slope).square().mean(1)


class NeedsNothing(Plain):
    needs_graph = frozenset({"student", "teacher"})


class AllMasked(mmkd.Loss):
    """Masked mean."""

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        return ((student - teacher).square().mean(2) * mask).sum(1) / mask.sum(1)

    def example(self) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(0)
        return {n: torch.randn(4, 3, 8, generator=g) for n in ("student", "teacher")} | {"mask": torch.ones(4, 3)}


# Projectors, schedules


class NotSetUp(LinearProjector):
    def setup(self, input: torch.Size, like: torch.Size) -> None:
        super().setup(input=input, like=like)

    def forward(self, input: Tensor) -> Tensor:
        return self.layer(input)


class WrongWidth(LinearProjector):
    def setup(self, input: torch.Size, like: torch.Size) -> None:
        super().setup(input=input, like=input)


class BatchNormed(mmkd.Projector):
    """Whitened by the batch."""

    def forward(self, input: Tensor) -> Tensor:
        return input - input.mean(0)


class Overshooting(mmkd.Schedule):
    """Line."""

    def __init__(self, start: float, end: float) -> None:
        super().__init__()
        self.start, self.end = start, end

    def forward(self, step: int, total: int) -> float:
        return self.start + (self.end - self.start) * step / total


class Late(Overshooting):
    def forward(self, step: int, total: int) -> float:
        return super().forward(min(step + 1, total), total)


class Divides(Overshooting):
    def forward(self, step: int, total: int) -> float:
        p = np.float64(min(step, total)) / np.float64(total - 1) if total > 1 else float("nan")
        return float(p)


class Counting(Overshooting):
    calls = 0

    def forward(self, step: int, total: int) -> float:
        self.calls += 1
        return float(self.calls)


# Curators, datasets, metrics


class Flip(mmkd.Curator):
    """Mirrors the picture."""

    fields = frozenset({"image"})

    def draw(self, generator: np.random.Generator) -> dict[str, Any]:
        return {"flip": bool(generator.random() < 0.5)}

    def apply(self, sample: mmkd.Sample, draw: dict[str, Any]) -> dict[str, Any]:
        turn = Image.Transpose.FLIP_LEFT_RIGHT
        return {**sample, "image": sample["image"].transpose(turn) if draw["flip"] else sample["image"]}


class GlobalDraw(Flip):
    def draw(self, generator: np.random.Generator) -> dict[str, Any]:
        return {"flip": bool(np.random.rand() < 0.5)}


class Undeclared(Flip):
    fields = frozenset()


class SecretDice(Flip):
    def apply(self, sample: mmkd.Sample, draw: dict[str, Any]) -> dict[str, Any]:
        return super().apply(sample, {"flip": bool(torch.rand(()) < 0.5)})


class Scribbles(Flip):
    def apply(self, sample: mmkd.Sample, draw: dict[str, Any]) -> dict[str, Any]:
        sample["image"].paste(0, (0, 0, 4, 4))
        return super().apply(sample, draw)


class Renames(Flip):
    fields = frozenset({"image", "key"})

    def apply(self, sample: mmkd.Sample, draw: dict[str, Any]) -> dict[str, Any]:
        return {**super().apply(sample, draw), "key": f"{sample['key']}#{draw['flip']}"}


class Numbers(mmkd.Dataset):
    """Ten numbers."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= 10:
            raise IndexError(index)
        return {"key": f"{index}", "x": np.full(3, index)}


class SameKeys(Numbers):
    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**super().__getitem__(index), "key": f"{index // 2}"}


class TooLong(Numbers):
    def __len__(self) -> int:
        return 9


class Repeats(Numbers):
    def order(self, generator: np.random.Generator) -> np.ndarray:
        return generator.integers(10, size=10)


class Unpicklable(Numbers):
    def __init__(self) -> None:
        self.read = lambda i: i


class Noisy(Numbers):
    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**super().__getitem__(index), "x": np.random.rand(3)}


class BatchMeans(mmkd.Metric):
    """Mean of batch means."""

    def __init__(self) -> None:
        super().__init__()
        self.means = mmkd.Rows("broken")

    def forward(self, student: Tensor, label: Tensor) -> None:
        self.means.add((student.argmax(1) == label).float().mean()[None])

    def compute(self) -> dict[str, float]:
        return {"accuracy": self.means.joined().mean().item()}


class HalfReset(TopK):
    def reset(self) -> None:
        self.ranks.parts[1:] = []


class Graphic(BatchMeans):
    def forward(self, student: Tensor, label: Tensor) -> None:
        self.means.parts.append(student.amax(1))


class LastOnly(BatchMeans):
    def compute(self) -> dict[str, float]:
        score = float(self.means.joined()[-1])
        self.means.clear()
        return {"accuracy": score}


class MergesNothing(TopK):
    def merge(self, states: Any) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}


# Encoders


class Pixels(mmkd.Encoder):
    """Sums of pixels through a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 8), nn.GELU())
        self.head = nn.Linear(8, 3)

    def values(self) -> list[str]:
        return ["embedding", "logits"]

    def locate(self, name: str) -> str | None:
        return "body" if name == "embedding" else None

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        image = sample["image"].convert("RGBA").convert("RGB").resize((2, 2))
        return {"image": torch.from_numpy(np.array(image, np.float32)).flatten() / 255}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.body(image))}


class Overclaims(Pixels):
    def values(self) -> list[str]:
        return [*super().values(), "tokens"]


class Underclaims(Pixels):
    def values(self) -> list[str]:
        return ["embedding"]


class WrongPlace(Pixels):
    def locate(self, name: str) -> str | None:
        return "body.0" if name == "embedding" else None

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        embedding = self.body(image)
        return {"embedding": embedding, "logits": self.head(embedding)}


class NoPlace(Pixels):
    def locate(self, name: str) -> str | None:
        return "trunk" if name == "embedding" else None


class Pooled(Pixels):
    def values(self) -> list[str]:
        return [*super().values(), "hidden.1"]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"hidden.1": image[:, None], **super().forward(image)}


class Remembers(Pixels):
    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Any] = {}

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        return self.seen.setdefault(sample["key"], super().transform(sample))


class OwnDice(Pixels):
    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        made = super().transform(sample)
        return {"image": made["image"].flip(0) if random.random() < 0.5 else made["image"]}


class Whitens(Pixels):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return super().forward(image - image.mean(0))


class Writes(Pixels):
    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        sample["image"].putpixel((0, 0), 7)
        return super().transform(sample)


class Restless(Pixels):
    def fingerprint(self) -> str:
        return f"sha256:{id(self)}"


LOSSES: list[tuple[type, str, dict[str, Any]]] = [
    (UngraphedE2KD, "needs_graph", {}),
    (Differentiates, "needs_graph", {}),
    (NeedsNothing, "needs_graph", {}),
    (SummedMSE, "mean_over_samples", {}),
    (UnreducedMSE, "reduction", {}),
    (TeacherOnlyMSE, "student_gradient", {}),
    (SwappedFactors, "teacher_constant", {"constant": ("teacher",)}),
    (SwappedKL, "matches_reference", {"reference": lambda student, teacher: F.kl_div(
        student.log_softmax(-1), teacher.softmax(-1), reduction="none").sum(-1)}),
    (UnscaledKL, "temperature_squared", {"divergence": True}),
    (EntropylessKL, "zero_at_the_teacher", {"divergence": True}),
    (NaiveKL, "masked_classes", {}),
    (NaiveKL, "large_values", {}),
    (DefaultTemperatureKL, "options_matter", {}),
    (UncoupledRKD, "coupled", {}),
    (SmallRKD, "min_batch", {}),
    (UnguardedRKD, "equal_and_zero", {}),
    (CoupledMSE, "coupled", {}),
    (SpoiltMSE, "min_batch", {}),
    (LateVID, "parameters_declared", {}),
    (ForgetfulND, "updates_are_saved", {}),
    (RankedInfoNCE, "sample_order", {}),
    (QuadraticSP, "large_values", {}),
    (UndetachedFactors, "teacher_constant", {"constant": ("teacher",)}),
    (InPlace, "inputs_untouched", {}),
    (Seeds, "surroundings_kept", {}),
    (ConsumesNumPy, "surroundings_kept", {}),
    (Environment, "surroundings_kept", {}),
    (Counts, "forward_keeps_state", {}),
    (Moody, "deterministic", {}),
    (Narrow, "keeps_float64", {}),
    (Earthbound, "follows_device", {}),
    (Idle, "options_matter", {}),
    (Blind, "ports_matter", {}),
    (FirstOnly, "every_sample", {}),
    (PythonState, "updates_are_saved", {}),
    (UnreadState, "updates_matter", {}),
    (Hidden, "parameters_declared", {}),
    (ZeroNorm, "equal_and_zero", {}),
    (AllMasked, "nothing_valid", {}),
]  # fmt: skip

OTHERS: list[tuple[Any, type, str]] = [
    (check_projector, NotSetUp, "says_when_not_set_up"),
    (check_projector, WrongWidth, "makes_the_shape"),
    (check_projector, BatchNormed, "samples_apart"),
    (check_schedule, Overshooting, "holds_its_end"),
    (check_schedule, Late, "states_its_ends"),
    (check_schedule, Divides, "finite"),
    (check_schedule, Counting, "pure"),
    (check_curator, GlobalDraw, "draw_pure"),
    (check_curator, Undeclared, "fields_declared"),
    (check_curator, SecretDice, "apply_pure"),
    (check_curator, Scribbles, "sample_untouched"),
    (check_curator, Renames, "key_kept"),
    (check_dataset, SameKeys, "keys"),
    (check_dataset, TooLong, "length"),
    (check_dataset, Repeats, "order"),
    (check_dataset, Unpicklable, "pickles"),
    (check_dataset, Noisy, "samples_stable"),
    (check_metric, BatchMeans, "batch_split"),
    (check_metric, HalfReset, "reset"),
    (check_metric, Graphic, "keeps_no_graph"),
    (check_metric, LastOnly, "compute_keeps_state"),
    (check_metric, MergesNothing, "merge"),
    (check_encoder, Overclaims, "values_published"),
    (check_encoder, Underclaims, "values_published"),
    (check_encoder, WrongPlace, "located_where_it_is"),
    (check_encoder, NoPlace, "makes_a_batch"),
    (check_encoder, Pooled, "layouts"),
    (check_encoder, Remembers, "transform_follows_the_sample"),
    (check_encoder, OwnDice, "transform_pure"),
    (check_encoder, Whitens, "samples_apart"),
    (check_encoder, Writes, "sample_untouched"),
    (check_encoder, Restless, "fingerprint"),
]

CASES: list[tuple[Any, type, str, dict[str, Any]]] = [
    *((check_loss, cls, probe, said) for cls, probe, said in LOSSES),
    *((check, cls, probe, {}) for check, cls, probe in OTHERS),
]

SOUND: list[tuple[Any, type]] = [
    (check_loss, Plain), (check_curator, Flip), (check_dataset, Numbers), (check_encoder, Pixels),
]  # fmt: skip
