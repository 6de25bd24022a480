from __future__ import annotations

from typing import Any

import pytest

from mmkd.errors import GraphError
from mmkd.graph.node import Node
from mmkd.graph.training_graph import TrainingGraph
from mmkd.report.explain import WIDTH, explain

from .toys import CE, HINT, KD, Tower, adversarial, graph


def entry(text: str, heading: str) -> str:
    """The lines of one network, projector, loss or phase."""
    parts = [part for part in text.split("\n\n") if f"\n{heading}" in f"\n{part}"]
    assert len(parts) == 1, text
    return parts[0]


def test_says_who_is_trained_and_who_is_frozen() -> None:
    text = explain(graph({"kd": KD}))
    student, teacher = entry(text, "student: student, trained"), entry(text, "teacher: teacher, frozen")
    assert "parameters  472, all trained" in student
    assert "parameters  756, none trained" in teacher
    assert "under no_grad" in teacher
    assert "under no_grad" not in student
    assert "B = 6 in the example batch" in text
    assert "input       image [B, 8]" in teacher
    assert "Tower (handed in)" in teacher


def test_totals_are_those_of_the_parameters() -> None:
    built = graph({"hint": HINT, "kd": KD})
    text = explain(built)
    trained = sum(p.numel() for p in built.phases[-1].parameters)
    assert f"main: descends the weighted sum of all losses\n  moves       {trained} parameters, once per step" in text
    totals = text[text.index("Totals") :]
    assert "student     472 trained" in totals
    assert f"auxiliary   {trained - 472} trained" in totals
    assert "teacher     756 frozen" in totals


def test_a_pass_stops_early_only_where_taps_are_all_that_is_read() -> None:
    both, taps = (
        entry(explain(graph({"hint": HINT, **more})), "teacher: teacher") for more in ({"kd": KD}, {"ce": CE})
    )
    assert "stops early, as soon as teacher/blocks.1 is there; under no_grad" in taps
    assert "full, since the whole network makes teacher.logits; under no_grad" in both
    assert "read        teacher/blocks.1 [B, 16] (tap)" in taps
    assert "5 of 5 published values: logits, embedding, hidden.1, hidden.2 and 1 more" in taps
    assert "4 of 5 published values" in both


def test_batch_norm_in_training_forbids_to_stop_early_whatever_the_mode_now() -> None:
    plain, norm = graph({"hint": HINT}), graph({"hint": HINT}, norm=True)
    for mode in (True, False):
        assert "stops early, as soon as student.hidden.2 is there" in explain(plain.train(mode))
        assert "full, since BatchNorm in training needs all of it" in explain(norm.train(mode))
    assert "student.hidden.2 [B, 12] (at blocks.1)" in explain(plain)


def test_says_what_nobody_reads() -> None:
    text = explain(graph({"kd": KD}, teacher=None, teachers={"teacher": {}, "spare": {}}))
    assert "pass        none: no loss reads this network" in entry(text, "spare: teacher, frozen")
    assert entry(text, "up\n").endswith("unused      no loss reads it")


@pytest.mark.parametrize(("export", "kept"), [(None, "train-only"), (["student", "up"], "exported")])
def test_projectors(export: list[str] | None, kept: str) -> None:
    up = entry(explain(graph({"hint": HINT}, export=export)), f"up: projector, {kept}")
    for fact in ("input       <- student.hidden.2 [B, 12]", "like        teacher/blocks.1 [B, 16]", "up [B, 16]"):
        assert fact in up
    assert "LinearProjector (core.linear)" in up


def test_losses_with_ports_weights_and_schedules() -> None:
    losses = {
        "kd": {**KD, "temperature": {"use": "core.linear", "start": 4.0, "end": 1.0}, "weight": 0.25},
        "ce": {**CE, "weight": {"use": "core.cosine", "start": 1.0, "end": 0.1}},
        "nce": {"use": "core.info_nce", "student": "student.embedding", "teacher": "detach(student/blocks.0)"},
    }
    text = explain(graph(losses))
    kd, ce, nce = (entry(text, f"{name}: loss") for name in losses)
    assert "KLDivergence (core.kl)" in kd
    assert "student      <- student.logits [B, 4]" in kd
    assert "weight       0.25" in kd
    assert "temperature  4 -> 1 over 2,000 steps (LinearSchedule)" in kd
    assert "label       <- batch.label [B]" in ce
    assert "weight      1 -> 0.1 over 2,000 steps (CosineSchedule)" in ce
    assert "<- detach(student/blocks.0) [B, 12]  detached" in nce
    assert "coupled" in nce
    assert "at least 2" in nce
    assert "detached" not in kd + ce
    assert "coupled" not in kd + ce


def test_masks_and_sample_weights() -> None:
    text = explain(graph({"ce": {**CE, "mask": "batch.label", "sample_weight": "detach(batch.label)"}}))
    assert "mask           <- batch.label [B]" in text
    assert "sample_weight  <- detach(batch.label) [B]" in text


def test_critics_have_a_phase() -> None:
    text = explain(adversarial())
    critic = entry(text, "adv.critic: ascends adv alone")
    assert "13 parameters, 5 updates per step" in critic
    assert "Adam, lr 0.0002" in critic
    assert "critic      13 trained" in text
    assert "0 -> 1 over 500 steps" in text


def test_memory() -> None:
    built = graph({"kd": KD}, teacher={"cache": "memory"})
    assert "run over the training data before step 0" in explain(built)
    assert "cache" not in explain(graph({"kd": KD}))


def test_fits_the_terminal() -> None:
    long = {f"a_loss_with_a_rather_long_name_{i}": KD for i in range(3)}
    students: dict[str, Any] = {"hint": HINT, **long}
    assert all(len(line) <= WIDTH for line in explain(graph(students)).splitlines())


def test_needs_shapes() -> None:
    with pytest.raises(GraphError, match="has not been set up"):
        explain(TrainingGraph({"student": Node("student", Tower(12), True)}))
