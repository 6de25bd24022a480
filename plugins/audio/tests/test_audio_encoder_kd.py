"""AAC-EncoderKD: a captioner taught by captions, by its teacher's captions, and by its teacher's encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captioners import WORDS, Listed, batch, captioner, scenes
from mmkd_audio.captioner import Captioner
from mmkd_language.generated import Generated
from torch import Tensor

import mmkd
from mmkd.errors import DataError

MSE = {
    "projectors": {"teacher_space": None},
    "losses": {"encoder": {"use": "core.mse", "student": "space", "teacher": "teacher@written.audio.embedding"}},
}
NO_ENCODER = {"projectors": {"space": None, "teacher_space": None}, "losses": {"encoder": None}, "teacher": None}


def given(folder: Path, changes: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any], Captioner, Captioner]:
    """The packaged recipe on four captioned scenes and six that the teacher captions; its batch; both captioners."""
    student, teacher = captioner(1), captioner(2, width=24)
    sounds = Listed(scenes(6, captioned=False, seed=3))
    written = Generated(sounds, teacher, str(folder / "written.jsonl"), beams=2, max_new_tokens=6)
    data = {"train": Listed(scenes()), "streams": {"written": written}}
    changes = changes or {}
    nodes = {"student": student, **({} if changes.get("teacher", 1) is None else {"teacher": teacher})}
    fixed = {name: None for name in ("teacher", "student") if name in nodes}
    recipe = {"recipe": "audio.encoder_kd", **fixed, **changes, "train": {"steps": 1}}
    recipe |= {name: {} for name in nodes}
    recipe["data"] = {"batch_size": 4, "streams": {"written": {"dataset": None, "batch_size": 6}}}
    torch.manual_seed(0)
    graph = mmkd.build(recipe, nodes=nodes, data=data).eval()
    made = graph.collate(scenes(), streams={"written": [written[i] for i in range(6)]})
    return graph, made, student, teacher


def captioned(encoder: Captioner, samples: list[dict[str, Any]]) -> Tensor:
    """Mean cross-entropy over the words of all captions, one sound at a time."""
    losses: list[Tensor] = []
    for sample in samples:
        out = encoder(**batch(encoder, [sample]))
        losses += F.cross_entropy(out["logits"][0], out["labels"][0], reduction="none")
    return torch.stack(losses).mean()


def pooled(encoder: Captioner, samples: list[dict[str, Any]]) -> Tensor:
    return torch.cat([encoder(**batch(encoder, [sample]))["audio.embedding"] for sample in samples])


@pytest.mark.parametrize("kind", ["contrastive", "mse"])
def test_the_loss_is_the_sum_of_three(kind: str, tmp_path: Path) -> None:
    """Computed by hand, one sound at a time: the data's captions, the teacher's, and pooled sounds."""
    graph, made, student, teacher = given(tmp_path, MSE if kind == "mse" else None)
    with torch.no_grad():
        out = graph(made)
        written = scenes(6, captioned=False, seed=3)
        for sample in written:
            best, _ = teacher.beams(batch(teacher, [sample]), [0], 2, 6)[0]
            sample["target"] = teacher.read(best)[0]
        supervised, sequence = captioned(student, scenes()), captioned(student, written)
        space = graph.bound["space"].module
        mine, theirs = space(pooled(student, written)), pooled(teacher, written)
        assert space.layer.weight.shape == (24, 16)
        if kind == "mse":
            encoder = (mine - theirs).square().mean()
        else:
            theirs = graph.bound["teacher_space"].module(theirs)
            cosines = F.normalize(mine, dim=1) @ F.normalize(theirs, dim=1).T / 0.376
            own = torch.arange(6)
            encoder = (F.cross_entropy(cosines, own) + F.cross_entropy(cosines.T, own)) / 2
    parts = {"supervised": supervised, "sequence": sequence, "encoder": encoder}
    for name, value in parts.items():
        assert float(out[f"{name}_loss"]) == pytest.approx(float(value), rel=1e-4), name
    assert float(out["loss"]) == pytest.approx(float(sum(parts.values())), rel=1e-4)
    assert set(out) == {"loss", *(f"{name}_loss" for name in parts)}


def slopes(graph: Any, made: dict[str, Any], student: Captioner) -> dict[str, Tensor]:
    student.zero_grad()
    graph(made)["loss"].backward()
    return {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}


def test_each_part_moves_what_it_should_and_switched_off_nothing(tmp_path: Path) -> None:
    """The encoder's loss reaches the audio encoder alone; without it exactly its part of the gradient is gone."""
    off = {"supervised": None, "sequence": None, "encoder": None}
    whole = slopes(*given(tmp_path)[:3])
    alone: dict[str, dict[str, Tensor]] = {}
    for name in off:
        rest = {other: None for other in off if other != name}
        changes: dict[str, Any] = {"losses": rest} if name == "encoder" else {**NO_ENCODER, "losses": rest}
        alone[name] = slopes(*given(tmp_path, changes)[:3])
    assert alone["encoder"] and all(name.startswith("audio.") for name in alone["encoder"])
    assert any(name.startswith("decoder.") for name in alone["sequence"])
    assert alone["sequence"].keys() == alone["supervised"].keys() == whole.keys()
    without = slopes(*given(tmp_path, NO_ENCODER)[:3])
    for name, slope in whole.items():
        parts = [part[name] for part in alone.values() if name in part]
        torch.testing.assert_close(sum(parts), slope, atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(without[name], alone["supervised"][name] + alone["sequence"][name])
        if name not in alone["encoder"]:
            torch.testing.assert_close(without[name], slope)
    assert any(not torch.allclose(without[name], whole[name]) for name in alone["encoder"])


def test_the_teacher_teaches_by_its_encoder_alone_in_the_step(tmp_path: Path) -> None:
    """Its captions are in the file; its decoder is not run, and nothing of it is trained."""
    graph, made, student, teacher = given(tmp_path)
    calls: list[str] = []
    for name in ("audio", "decoder"):
        getattr(teacher, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    graph(made)["loss"].backward()
    assert calls == ["audio"] and all(p.grad is None for p in teacher.parameters())
    assert "input_ids" not in made["teacher@written"] and "input_ids" in made["student@written"]
    heard: list[str] = []
    student.audio.register_forward_hook(lambda *_: heard.append("audio"))
    graph(made)
    assert len(heard) == 2  # once for each stream, whatever reads it


def test_captions_of_sounds_alone(tmp_path: Path) -> None:
    """Samples without any text get the teacher's; the file knows the sounds again, and refuses others."""
    teacher, sounds = captioner(2), scenes(5, captioned=False)
    path = tmp_path / "a.jsonl"
    made = Generated(Listed(sounds), teacher, str(path), beams=2)
    fields = batch(teacher, sounds)
    for i, several in enumerate(teacher.beams(fields, range(5), 2)):
        assert made[i]["target"] == teacher.read(several[0])[0] and "reference" not in made[i]
    assert path.read_text().count('"prompt": "sha256:') == 5 and '"text"' not in path.read_text()
    again = Generated(Listed([{**s, "text": "unread"} for s in sounds]), teacher, str(path), beams=2)
    assert [again[i]["target"] for i in range(5)] == [made[i]["target"] for i in range(5)]
    louder = [{**s, "audio": {**s["audio"], "array": 2 * s["audio"]["array"]}} for s in sounds]
    with pytest.raises(DataError, match="written with another prompt for sample '0/train/0'"):
        Generated(Listed(louder), teacher, str(path), beams=2)
    kept = Generated(Listed(scenes(5)), teacher, str(path), beams=2)
    assert [kept[i]["text"] for i in range(5)] == [s["text"] for s in scenes(5)]


def test_references_and_captions_of_the_teacher_are_different_lessons(tmp_path: Path) -> None:
    graph, made, student, _ = given(tmp_path)
    out = graph(made)
    assert abs(float(out["supervised_loss"].detach()) - float(out["sequence_loss"].detach())) > 1e-3
    read = [student.read(row[keep].tolist())[0] for row, keep in zip(
        made["student"]["labels"], made["student"]["completion"], strict=True)]  # fmt: skip
    assert read == [sample["text"] for sample in scenes()]


def test_the_packaged_recipe_runs_with_its_baseline_from_a_teachers_run(tmp_path: Path) -> None:
    small = {"audio": {"width": 16, "layers": 1, "heads": 2, "mels": 20}, "width": 16, "heads": 2, "layers": 1}
    small |= {"tokenizer": WORDS, "corpus": None}
    data = {"use": "audio.scenes", "size": 24}
    train = {"steps": 4, "warmup_steps": 0}
    mmkd.distill(
        {"recipe": "audio.captioning", "student": small, "train": train,
         "data": {"train": data, "eval": {**data, "size": 4}, "batch_size": 4}},
        output_dir=tmp_path / "teacher", preflight=False,
    )  # fmt: skip
    student = {
        "audio": {"use": "audio.convnet", "width": 8, "blocks": 1, "mels": 20}, "width": 8, "heads": 2,
        "tokenizer": WORDS, "max_length": 20,
    }  # fmt: skip
    stream = {
        "dataset": {**data, "captioned": False}, "path": str(tmp_path / "written.jsonl"), "beams": 2,
        "teacher": {"use": "core.exported", "path": str(tmp_path / "teacher")},
    }  # fmt: skip
    recipe = {
        "recipe": "audio.encoder_kd", "student": student, "train": {"steps": 3},
        "teacher": {"path": str(tmp_path / "teacher"), "cache": "memory"},
        "data": {"train": {**data, "size": 8}, "eval": {**data, "size": 4}, "batch_size": 4,
                 "streams": {"written": {"dataset": stream}}},
    }  # fmt: skip
    results = mmkd.distill(recipe, output_dir=tmp_path / "run")
    for arm in ("teacher", "student", "baseline"):
        assert 0 <= results[arm]["scores"]["eval"]["generation"]["bleu"] <= 1
    exported = mmkd.from_pretrained(tmp_path / "run")
    assert set(exported.roles) == {"student"} and not exported.bound
    values = exported.values(exported.collate(scenes()), ["student.generated"])
    assert len(values["student.generated"]) == 4
