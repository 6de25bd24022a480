"""Every arm of the bench: a patch of one base recipe. To prove another method, add a line here.

What a loss whose name begins with `method` weighs is tuned; its weight in the patch is relative. `unit` is how much of
it is as large as the label loss at the start; None measures that. Widths differ, so features pass through a projector.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Patch = Mapping[str, Any]

BASE: dict[str, Any] = {
    "teacher": {},
    "student": {"use": "vision.convnet", "widths": [16, 32, 64], "blocks": [0, 1, 1], "activation": "relu"},
    "losses": {"label": {"use": "core.cross_entropy", "student": "student.logits", "mask": "batch.labelled"}},
    "data": {"batch_size": 48},
    "train": {"steps": 160, "lr": 8.0e-3, "weight_decay": 0.05, "warmup_steps": 20, "log_every": 160},
}
VIT: dict[str, Any] = {
    "student": {"use": "vision.timm", "model": "test_vit.r160_in1k", "image_size": 64},
    "data": {"batch_size": 32},
    "train": {"lr": 1.0e-3},
}
"""The base for methods that need attention: a ViT taught by a ViT."""
GRID = (0.1, 1.0, 8.0)
"""Weights tried, in units of the arm."""
RATES = (0.5, 1.0, 2.0)
"""Learning rates tried for an arm without a method, relative to the base's."""


@dataclass(frozen=True)
class Arm:
    """One recipe of the bench."""

    patch: Patch
    proves: tuple[str, ...] = ()
    """Kind and id (`loss core.kl`) of the rows of the table that show this arm."""
    kind: Literal["conv", "vit"] = "conv"
    unit: float | None = None
    reads: str = "student.logits"
    """The logits that are judged."""
    teacher: bool = True
    """Whether batches hold views without a label too, with the teacher's class in the place of theirs."""


def logits(loss: str, *, proves: tuple[str, ...] | None = None, unit: float | None = None, **options: Any) -> Arm:
    """Label and a loss between the two networks' logits."""
    term = {"use": loss, "student": "student.logits", "teacher": "teacher.logits", **options}
    return Arm({"losses": {"method": term}}, (f"loss {loss}",) if proves is None else proves, unit=unit)


def embedding(loss: str, *, up: bool = False, unit: float | None = None, **options: Any) -> Arm:
    """Label and a loss between embeddings, the student's mapped to the teacher's width where `up`."""
    term = {"use": loss, "student": "up" if up else "student.embedding", "teacher": "teacher.embedding", **options}
    patch: dict[str, Any] = {"losses": {"method": term}}
    if up:
        patch["projectors"] = {"up": linear("student.embedding", "teacher.embedding")}
    return Arm(patch, (f"loss {loss}",), unit=unit)


def maps(loss: str, *, up: bool = False, level: int = 3, tap: str | None = None, **options: Any) -> Arm:
    """Label and a loss between two feature maps of 4 positions a side (8 at level 2, 16 at level 1)."""
    student, teacher = tap or f"student.hidden.{level}", f"teacher.hidden.{level}"
    term = {"use": loss, "student": "up" if up else student, "teacher": teacher, **options}
    patch: dict[str, Any] = {"losses": {"method": term}}
    if up:
        patch["projectors"] = {"up": linear(student, teacher)}
    return Arm(patch, (f"loss {loss}",))


def linear(input: str, like: str) -> dict[str, str]:
    """A linear projector."""
    return {"use": "core.linear", "input": input, "like": like}


def hidden(*levels: int, node: str = "student") -> list[str]:
    """Addresses of several maps."""
    return [f"{node}.hidden.{level}" for level in levels]


def merged(base: Patch, patch: Patch) -> dict[str, Any]:
    """Maps merge (not where another component takes the place), the rest replaces, None removes."""
    made = dict(copy.deepcopy(base))
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(made.get(key), Mapping) and "use" not in value:
            made[key] = merged(made[key], value)
        else:
            made[key] = copy.deepcopy(value)
    return made


SGD: dict[str, Any] = {"train": {"optimizer": "sgd", "momentum": 0.9, "lr": 0.1, "weight_decay": 5.0e-4}}
BEFORE_RELU = "student/stages.2.1.activation.input"

ARMS: dict[str, Arm] = {
    "labels": Arm({"teacher": None}, ("loss core.cross_entropy",), teacher=False, unit=1.0),
    "labels_half": Arm({"teacher": None}, unit=1.0),
    # logits
    "kd": logits("core.kl", proves=("loss core.kl", "recipe core.kd"), temperature=4.0),
    "kd_standardized": logits("core.kl", proves=(), temperature=4.0, standardize=True),
    "reverse_kl": logits("core.reverse_kl", temperature=4.0),
    "jsd": logits("core.jsd", temperature=4.0),
    "skew_kl": logits("core.skew_kl", temperature=4.0),
    "skew_reverse_kl": logits("core.skew_kl", proves=(), temperature=4.0, reverse=True),
    "balanced_kl": logits("core.balanced_kl", temperature=4.0),
    "dkd": logits("core.dkd", temperature=4.0),
    "dist": logits("core.dist", temperature=4.0),
    "luminet": logits("core.luminet", temperature=4.0),
    "binary_kl": logits("core.binary_kl", temperature=2.0),
    "binary_kl_normalized": logits("core.binary_kl", proves=(), temperature=2.0, normalized=True),
    "ofa": logits("core.ofa", epsilon=1.4, temperature=4.0),
    "confidence_kl": logits("core.confidence_kl", temperature=4.0),
    "class_similarity_kl": Arm(
        {"losses": {"method": {
            "use": "core.class_similarity_kl", "student": "student.logits", "classifier": "teacher/head.weight",
        }}},
        ("loss core.class_similarity_kl",),
    ),
    "virtual_teacher": Arm(
        {"teacher": None, "losses": {"method": {
            "use": "core.virtual_teacher", "student": "student.logits", "soften": "logarithms", "temperature": 4.0,
        }}},
        ("loss core.virtual_teacher",), teacher=False,
    ),
    "cwtm": logits("core.cwtm"),
    "dkpp": logits("core.dkpp", temperature=4.0),
    "sinkd": logits("core.sinkd"),
    "uld": logits("core.uld"),
    "hard_label": logits("core.hard_label"),
    # embeddings and relations between samples
    "mse": embedding("core.mse", up=True),
    "cosine": embedding("core.cosine", up=True),
    "info_nce": embedding("core.info_nce", up=True),
    "nd": embedding("core.nd", up=True, unit=1.0, classes=95),
    "vid": embedding("core.vid", up=True),
    "crd": embedding("core.crd", negatives=1024, group="batch.label"),
    "similarity_kl": embedding("core.similarity_kl", temperature=0.1),
    "rkd_distance": embedding("core.rkd_distance"),
    "rkd_angle": embedding("core.rkd_angle"),
    "correlation_congruence": embedding("core.correlation_congruence"),
    "pkt": embedding("core.pkt"),
    "wcord_local": embedding("core.wcord_local", up=True),
    "wcord_global": embedding("core.wcord_global", unit=1.0),
    # feature maps
    "fitnet": Arm(
        {"losses": {"method": {"use": "core.mse", "student": "up", "teacher": "teacher.hidden.2"}},
         "projectors": {"up": {"use": "core.conv", "input": "student.hidden.2", "like": "teacher.hidden.2"}}},
    ),
    "similarity_preserving": maps("core.similarity_preserving"),
    "at": Arm(
        {"losses": {
            f"method_{i}": {"use": "core.at", "student": f"student.hidden.{i}", "teacher": f"teacher.hidden.{i}"}
            for i in (1, 2, 3)
        }},
        ("loss core.at",),
    ),
    "nst": maps("core.nst"),
    "fsp": Arm(
        {"losses": {"method": {
            "use": "core.fsp", "student": ["up_2", "up_3"], "teacher": hidden(2, 3, node="teacher"),
        }},
         "projectors": {f"up_{i}": linear(f"student.hidden.{i}", f"teacher.hidden.{i}") for i in (2, 3)}},
        ("loss core.fsp",),
    ),
    "ft": maps("core.ft"),
    "ab": maps("core.ab", up=True, tap=BEFORE_RELU),
    "ofd": maps("core.ofd", up=True, tap=BEFORE_RELU),
    "hcl": maps("core.hcl", up=True),
    "review": Arm(
        {"losses": {"method": {
            "use": "core.review", "width": 32, "student": hidden(1, 2, 3), "teacher": hidden(1, 2, 3, node="teacher"),
        }}},
        ("loss core.review",),
    ),
    "cwd": maps("core.cwd", up=True, temperature=4.0),
    "mgd": maps("core.mgd", up=True, level=2, ratio=0.15, blank="channel"),
    "ickd": maps("core.ickd", up=True),
    "pearson_map": maps("core.pearson_map", up=True),
    "trg_inner": maps("core.trg_inner"),
    "trg_local": maps("core.trg_local"),
    "trg_global": maps("core.trg_global", up=True),
    "e2kd": Arm(
        {"losses": {"method": {
            "use": "core.e2kd", "student": "student.logits", "features": "student.tokens", "teacher": "teacher.logits",
            "teacher_features": "teacher.tokens",
        }}},
        ("loss core.e2kd",),
    ),
    "e2kd_given": Arm(
        {"losses": {"method": {
            "use": "core.e2kd_given", "student": "student.logits", "features": "student.tokens",
            "teacher": "teacher.logits", "explanation": "teacher.explanation",
        }}},
        ("loss core.e2kd_given",),
    ),
    # recipes
    "taid": Arm(
        {"mixers": {"target": {"use": "core.taid", "student": "student.logits", "teacher": "teacher.logits"}},
         "losses": {"method": {"use": "core.kl", "student": "student.logits", "teacher": "target"}}},
        ("mixer core.taid", "recipe core.taid"), unit=1.0,
    ),
    "label_mix": Arm(
        {"mixers": {"target": {
            "use": "core.label_mix", "teacher": "teacher.logits", "temperature": 4.0, "share": "batch.labelled",
        }},
         "losses": {"method": {
             "use": "core.kl", "student": "student.logits", "teacher": "target", "temperature": 4.0,
         }}},
        ("mixer core.label_mix",),
    ),
    "dml": Arm(
        {"teacher": None, "student": None,
         "students": {"first": {}, "second": {}},
         "losses": {
             "label": None,
             "label_first": {"use": "core.cross_entropy", "student": "first.logits", "mask": "batch.labelled"},
             "label_second": {"use": "core.cross_entropy", "student": "second.logits", "mask": "batch.labelled"},
             "method_first": {"use": "core.kl", "student": "first.logits", "teacher": "detach(second.logits)"},
             "method_second": {"use": "core.kl", "student": "second.logits", "teacher": "detach(first.logits)"},
         }},
        ("recipe core.dml",), unit=1.0, reads="first.logits", teacher=False,
    ),
    "mkd": Arm(
        {"teacher": None, "teachers": {"mean": {"average": {"of": "student", "momentum": 0.99}}},
         "losses": {"method": {
             "use": "core.kl", "student": "student.logits", "teacher": "mean.logits", "temperature": 4.0,
         }}},
        ("recipe core.mkd",), unit=1.0, teacher=False,
    ),
    "wakd": Arm(
        {"teacher": None,
         "teachers": {"teacher": {}, "mean": {"average": {"of": "student", "kind": "uniform", "start": 100}}},
         "losses": {"method": {
             "use": "core.kl", "student": "student.logits", "teacher": "teacher.logits", "temperature": 4.0,
         }},
         "export": ["mean"]},
        ("recipe core.wakd",), reads="mean.logits",
    ),
    "dhkd": Arm(
        {"losses": {"method": {
            "use": "core.binary_kl", "student": "head", "teacher": "teacher.logits", "temperature": 2.0,
            "normalized": True,
        }},
         "projectors": {"head": linear("student.embedding", "teacher.logits")}},
        ("recipe core.dhkd",),
    ),
    "kd_sgd": Arm(merged(logits("core.kl", temperature=4.0).patch, SGD)),
    "dot": Arm(
        {**merged(logits("core.kl", temperature=4.0).patch, SGD),
         "procedure": {"use": "core.dot", "distill": ["method"]}},
        ("procedure core.dot", "recipe core.dot"),
    ),
    "fitnets": Arm(
        {"projectors": {"regressor": {"use": "core.conv", "input": "student.hidden.2", "like": "teacher.hidden.2"}},
         "losses": {"method": {
             "use": "core.kl", "student": "student.logits", "teacher": "teacher.logits", "temperature": 4.0,
         }},
         "train": {"steps": 80},
         "procedure": {"use": "core.stages", "stages": {
             "hint": {"losses": {"hint": {"use": "core.mse", "student": "regressor", "teacher": "teacher.hidden.2"}}},
             "kd": {},
         }}},
        ("procedure core.stages", "recipe core.fitnets"),
    ),
    "ban": Arm(
        {"losses": {"method": {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits"}},
         "procedure": {"use": "core.generations", "generations": 2, "first": {"teacher": None, "losses": {
             "label": BASE["losses"]["label"],
         }}}},
        ("procedure core.generations", "recipe core.ban"), unit=1.0, teacher=False,
    ),
    # a ViT taught by a ViT
    "vit_labels": Arm({"teacher": None}, kind="vit", teacher=False, unit=1.0),
    "vit_kd": Arm(logits("core.kl", temperature=4.0).patch, kind="vit"),
    "attention_kl": Arm(
        {"losses": {"method": {
            "use": "core.attention_kl", "heads": "mean",
            "student": "student.attention.5", "teacher": "teacher.attention.8",
        }}},
        ("loss core.attention_kl",), kind="vit",
    ),
    "a2d": Arm(
        {"losses": {"method": {
            "use": "core.a2d", "temperature": 0.1,
            "student": [f"student.attention.{i}" for i in range(6)],
            "teacher": [f"teacher.attention.{i}" for i in range(9)],
        }}},
        ("loss core.a2d",), kind="vit",
    ),
    "minilm": Arm(
        {"losses": {"method": {
            "use": "core.minilm", "relation_heads": 6,
            "student": ["student/blocks.5.attn.qkv"], "teacher": ["teacher.qkv"],
        }}},
        ("loss core.minilm",), kind="vit",
    ),
    "patient": Arm(
        {"losses": {"method": {
            "use": "core.patient", "student": ["up_2", "up_4"], "teacher": ["teacher.hidden.3", "teacher.hidden.6"],
        }},
         "projectors": {
             "up_2": linear("student.hidden.2", "teacher.hidden.3"),
             "up_4": linear("student.hidden.4", "teacher.hidden.6"),
         }},
        ("loss core.patient",), kind="vit",
    ),
    "hidden_states": Arm(
        {"losses": {"method": {
            "use": "core.hidden_states", "layers": "each", "student": hidden(2, 4, 6),
            "teacher": hidden(3, 6, 9, node="teacher"),
        }}},
        ("loss core.hidden_states",), kind="vit",
    ),
}  # fmt: skip

NOT_PROVED = {
    "core.soft_cross_entropy": "a label loss for mixed labels; it has no teacher",
    "core.binary_cross_entropy": "a label loss for several labels of one picture; it has no teacher",
    "core.label_embedding": "asks for several labels of one picture",
    "core.contrastive_gradient": "asks for pairs of embeddings of two modalities",
    "core.cross_attention": "asks for two modalities",
    "core.linear_divergence": "gives the numbers of `core.kl` and its kin, as tests show, of a large vocabulary",
}
"""Losses without an arm, and why."""


def recipe(name: str) -> dict[str, Any]:
    """The recipe of an arm, but for classes, seed and tuned number."""
    arm = ARMS[name]
    made = copy.deepcopy(BASE)
    for patch in (VIT, arm.patch) if arm.kind == "vit" else (arm.patch,):
        made = merged(made, patch)
    student = made.pop("student", None) or merged(BASE, VIT if arm.kind == "vit" else {})["student"]
    if "students" in made:
        made["students"] = {name: merged(student, own) for name, own in made["students"].items()}
    else:
        made["student"] = student
    return made
