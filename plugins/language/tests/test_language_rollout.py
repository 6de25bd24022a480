"""GKD: completions that a network writes in the step."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from language_models import DATA, JSD, WORDS, batch, model, rolled, samples
from mmkd_language.causal_lm import CausalLM
from mmkd_language.rollout import Rollout

import mmkd
from mmkd.errors import GraphError, MmkdError, RecipeError

SUPERVISED = {
    "use": "core.cross_entropy", "student": "student.logits", "label": "student.labels", "mask": "student.reference",
}  # fmt: skip


def gradients(graph: mmkd.TrainingGraph, made: dict[str, Any]) -> dict[str, torch.Tensor]:
    graph.zero_grad()
    graph(made)["loss"].backward()
    return {name: p.grad.clone() for name, p in graph.named_parameters() if p.grad is not None}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_no_rollouts_is_off_policy_bit_for_bit() -> None:
    plain, never = rolled(model(1), model(2)), rolled(model(1), model(2), fraction=0.0)
    made = plain.collate(samples())
    assert equal(gradients(plain, made), gradients(never, made))
    assert not never.curate(made)["written"].any()


def test_half_rollouts_are_not() -> None:
    plain, half = rolled(model(1), model(2)), rolled(model(1), model(2), fraction=0.5)
    made = plain.collate(samples())
    assert not equal(gradients(plain, made), gradients(half, made))


def test_all_rollouts_are_the_students_own_words_after_the_datas_prompts() -> None:
    student = model(1)
    graph = rolled(student, model(2), fraction=1.0)
    made = graph.collate(samples())
    curated = graph.curate(made)
    assert curated["written"].tolist() == [1] * 8
    assert not curated["student"]["reference"].any()
    before, after = (list(student.text.rows(each["student"])) for each in (made, curated))
    assert [prompt for prompt, _ in after] == [prompt for prompt, _ in before]
    assert all(1 <= len(completion) <= 12 for _, completion in after)
    for (_, completion), (_, reference), text in zip(after, before, curated["target"], strict=True):
        assert completion != reference and student.text.decode(completion) == text
    sharp = rolled(student, model(2), fraction=1.0, temperature=0)
    greedy = student.generate(made["student"], range(8), torch.zeros(8, 12), temperature=0)
    assert [completion for _, completion in student.text.rows(sharp.curate(made)["student"])] == greedy


def test_the_teacher_reads_what_the_student_reads() -> None:
    teacher = model(2, width=24)
    graph = rolled(model(1), teacher, fraction=0.7)
    curated = graph.curate(graph.collate(samples()))
    assert 0 < curated["written"].sum() < 8
    for name, value in curated["student"].items():
        assert torch.equal(value, curated["teacher"][name])
    values = graph.compute(curated)
    with torch.no_grad():
        torch.testing.assert_close(values["teacher.logits"], teacher(curated["student"]["input_ids"])["logits"])


def test_who_writes_is_a_share_of_the_samples_and_nested() -> None:
    """What a larger fraction leaves to the data, a smaller one leaves to it too."""
    made = rolled(model(1), model(2)).collate([DATA[i] for i in range(64)])
    masks = [rolled(model(1), model(2), fraction=f).curate(made)["written"].bool() for f in (0.2, 0.5, 0.9)]
    for mask, fraction in zip(masks, (0.2, 0.5, 0.9), strict=True):
        assert mask.float().mean().item() == pytest.approx(fraction, abs=0.13)
    assert not (masks[0] & ~masks[1]).any() and not (masks[1] & ~masks[2]).any()


def test_a_rollout_knows_nothing_of_the_batch_around_it() -> None:
    student = model(1)
    graph = rolled(student, model(2), fraction=0.6)
    whole = graph.curate(graph.collate(samples()))
    turned = graph.curate(graph.collate(samples()[::-1]))
    rows, back = (list(student.text.rows(each["student"])) for each in (whole, turned))
    assert rows == back[::-1] and whole["written"].tolist() == turned["written"].tolist()[::-1]
    for i, sample in enumerate(samples()):
        alone = graph.curate(graph.collate([sample]))
        assert list(student.text.rows(alone["student"])) == [rows[i]]
        assert alone["written"].item() == whole["written"][i]


def test_another_step_another_rollout_and_back() -> None:
    graph = rolled(model(1), model(2), fraction=1.0)
    made = graph.collate(samples())
    texts = []
    for step in (0, 1, 0):
        graph.steps = step
        texts.append(graph.curate(made)["target"])
    assert texts[0] == texts[2] != texts[1]


def test_one_draw_may_decide_for_the_whole_batch() -> None:
    graph = rolled(model(1), model(2), fraction=0.5, whole_batch=True)
    made, seen = graph.collate(samples()), []
    for step in range(20):
        graph.steps = step
        written = graph.curate(made)["written"]
        assert written.unique().numel() == 1
        seen.append(written[0].item())
    assert 4 <= sum(seen) <= 16


def test_several_may_write_in_turns() -> None:
    student, teacher = model(1), model(2)
    graph = rolled(student, teacher, node=["student", "teacher"], fraction=1.0, temperature=0)
    made = graph.collate(samples())
    curated = graph.curate(made)
    assert set(curated["written"].tolist()) == {1, 2}
    for number, writer in enumerate((student, teacher), 1):
        greedy = writer.generate(made["student"], range(8), torch.zeros(8, 12), temperature=0)
        rows = [completion for _, completion in student.text.rows(curated["student"])]
        assert all(rows[i] == greedy[i] for i in range(8) if curated["written"][i] == number)


def test_the_fraction_may_follow_a_schedule() -> None:
    graph = rolled(model(1), model(2), fraction={"use": "core.linear", "start": 0.0, "end": 1.0})
    made = graph.collate(samples())
    shares = []
    for step in (0, 4, 8):
        graph.steps = step
        shares.append(graph.curate(made)["written"].float().mean().item())
    assert shares[0] == 0 < shares[1] < shares[2] == 1


def test_networks_write_without_dropout_and_train_with_it_again() -> None:
    student = CausalLM(architecture="gpt2", tokenizer=WORDS, width=16, config={"resid_pdrop": 0.5}, max_length=32)
    graph = rolled(student, model(2, architecture="gpt2"), fraction=1.0)
    made = graph.collate(samples())
    modes = {name: module.training for name, module in graph.named_modules()}
    state = torch.get_rng_state()
    assert graph.curate(made)["target"] == graph.curate(made)["target"]
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in graph.named_modules()} == modes
    assert student.training and not graph.roles["teacher"].encoder.training
    assert any(isinstance(m, torch.nn.Dropout) and m.training for m in student.modules())


def test_no_gradient_flows_through_the_writing() -> None:
    """The gradient is that of the divergence on fixed completions."""
    student, teacher = model(1), model(2)
    graph = rolled(student, teacher, fraction=1.0)
    made = graph.collate(samples())
    fixed = rolled(copy.deepcopy(student), copy.deepcopy(teacher))
    assert equal(gradients(graph, made), gradients(fixed, dict(graph.curate(made))))


@pytest.mark.parametrize(("beta", "limit"), [(1e-4, "core.kl"), (1 - 1e-4, "core.reverse_kl")])
def test_scaled_limits_of_the_divergence_are_forward_and_reverse_kl(beta: float, limit: str) -> None:
    options = {"fraction": 1.0}
    nodes = (model(1).double(), model(2, width=24).double())
    jsd = rolled(*nodes, {"gkd": {**JSD, "beta": beta}}, **options)
    made = jsd.collate(samples())
    assert jsd.curate(made)["written"].all()
    scaled = {n: g / min(beta, 1 - beta) for n, g in gradients(jsd, made).items()}
    expected = gradients(rolled(*nodes, {"gkd": {**JSD, "use": limit}}, **options), made)
    size = max(g.abs().max() for g in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(scaled[name], gradient, atol=2e-3 * size.item(), rtol=0)


def test_a_supervised_term_reads_the_datas_own_completions_alone() -> None:
    losses = {"gkd": JSD, "supervised": SUPERVISED}
    student = model(1)
    graph = rolled(student, model(2), losses, fraction=0.5)
    made = graph.collate(samples())
    written = graph.curate(made)["written"]
    own = [row for row, by in zip(samples(), written.tolist(), strict=True) if by == 0]
    fields = batch(student, own)
    with torch.no_grad():
        per_token = graph.losses["supervised"](student(**fields)["logits"], fields["labels"])
    expected = per_token[fields["completion"]].mean().item()
    assert graph(made)["supervised_loss"].item() == pytest.approx(expected, rel=1e-5)
    always = rolled(student, model(2), losses, fraction=1.0)
    assert always(made)["supervised_loss"].item() == 0


def test_a_network_of_another_tokenizer_reads_the_same_text() -> None:
    student, teacher = model(1, tokenizer="bytes", max_length=200), model(2, max_length=60)
    losses = {
        "student": {"use": "core.mse", "student": "student.logits", "teacher": "detach(student.logits)"},
        "teacher": {"use": "core.mse", "student": "detach(teacher.logits)", "teacher": "detach(teacher.logits)"},
    }
    for writer, other in (("student", "teacher"), ("teacher", "student")):
        graph = rolled(student, teacher, losses, node=writer, fraction=1.0)
        curated = graph.curate(graph.collate(samples()))
        encoders = {"student": student, "teacher": teacher}
        for i, (row, sample) in enumerate(zip(encoders[other].text.rows(curated[other]), samples(), strict=True)):
            written = list(encoders[writer].text.rows(curated[writer]))[i][1]
            text, ended = encoders[writer].read(written)
            assert encoders[other].text.decode(row[0]).strip() == sample["text"]
            assert row[1] == encoders[other].spell(text, ended)
            assert (row[1][-1:] == [encoders[other].text.eos]) == ended


def test_micro_batches_write_the_same_completions(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    curate = Rollout.curate

    def noted(self: Rollout, *args: Any) -> dict[str, Any]:
        made = curate(self, *args)
        written.extend(made["target"])
        return made

    monkeypatch.setattr(Rollout, "curate", noted)
    graph = rolled(model(1), model(2), fraction=0.5)
    train = mmkd.load_recipe({"student": {}, "losses": {"a": SUPERVISED}, "train": {"steps": 8}}).train
    state = copy.deepcopy(graph.state_dict())
    seen = []
    for size in (8, 4, 2):
        graph.load_state_dict(copy.deepcopy(state))
        written.clear()
        parts = [graph.collate(samples()[i : i + size]) for i in range(0, 8, size)]
        graph.step(parts, mmkd.optimizers(graph, train))
        seen.append(list(written))
    assert seen[0] == seen[1] == seen[2] != [sample["target"] for sample in samples()]


RECIPE: dict[str, Any] = {
    "recipe": "language.gkd",
    "data": {
        "batch_size": 8,
        "curators": [{"use": "language.rollout", "fraction": 0.5, "max_new_tokens": 8}],
    },
    "train": {"steps": 6, "checkpoint_every": 3, "seed": 1, "lr": 0.01},
}


def distilled(folder: Path, steps: int = 6, **said: Any) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    nodes = {"student": model(1, max_new_tokens=8), "teacher": model(2, max_new_tokens=8)}
    data = {"train": DATA, "eval": DATA}
    said = {"baseline": False, "preflight": False, **said}
    mmkd.distill(RECIPE, output_dir=folder, nodes=nodes, data=data, **said)
    return load_file(folder / "student" / "model.safetensors")


def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmkd.engine import checkpoint

    whole = distilled(tmp_path / "whole")
    save = checkpoint.save

    def killed(*args: Any, **kwargs: Any) -> Any:
        save(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        distilled(tmp_path / "cut")
    monkeypatch.undo()
    resumed = distilled(tmp_path / "cut", resume=True)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_packaged_recipe_runs_with_its_baseline_and_the_student_writes_after_export(tmp_path: Path) -> None:
    results = mmkd.distill(
        {**RECIPE, "student": {"use": "language.causal_lm", "tokenizer": WORDS, "width": 16, "max_length": 32,
                               "max_new_tokens": 8}},
        output_dir=tmp_path / "run", nodes={"teacher": model(2, max_new_tokens=8)}, data={"train": DATA, "eval": DATA},
    )  # fmt: skip
    for arm in ("teacher", "student", "baseline"):
        assert 0 <= results[arm]["scores"]["eval"]["generation"]["bleu"] <= 1
    graph = mmkd.build(tmp_path / "run" / "recipe.yaml", nodes={"teacher": model(2)}, data={"train": DATA})
    from mmkd.engine import checkpoint

    checkpoint.restore(checkpoint.checkpoints(tmp_path / "run")[-1], graph, {})
    exported = mmkd.from_pretrained(tmp_path / "run")
    assert set(exported.roles) == {"student"}
    made = exported.collate(samples())
    values = exported.values(made, ["student.logits", "student.generated"])
    trained = graph.eval().values(made, ["student.logits", "student.generated"])
    assert torch.equal(values["student.logits"], trained["student.logits"])
    assert torch.equal(values["student.generated"], trained["student.generated"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"node": "studnt"}, "no such network"),
        ({"fraction": 1.5}, "less than or equal to 1"),
        ({"fraction": {"use": "core.linear", "start": 0.0, "end": -1.0}}, "fraction must be from 0 to 1"),
        ({"max_new_tokens": 0}, "greater than or equal to 1"),
        ({"top_p": 0.0}, "greater than 0"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be(options: dict[str, Any], message: str) -> None:
    def curated() -> None:
        graph = rolled(model(1), model(2), **options)
        graph.steps = 8
        graph.curate(graph.collate(samples()))

    with pytest.raises(MmkdError, match=message):
        curated()


def test_a_network_that_cannot_write() -> None:
    reader = mmkd.wrap(torch.nn.Linear(4, 4), inputs=["image"], outputs="logits")
    loss = {"use": "core.mse", "student": "student.logits", "teacher": "detach(student.logits)"}
    recipe = {"student": {}, "losses": {"a": loss}, "data": {"curators": [{"use": "language.rollout"}]}}
    example = {"image": torch.zeros(4, 4), "key": list("abcd")}
    with pytest.raises(GraphError, match="'student' cannot write"):
        mmkd.build(recipe, nodes={"student": reader}, example=example)


def test_rollouts_are_not_of_a_single_view() -> None:
    recipe = {
        "student": {}, "teacher": {},
        "losses": {"a": {**JSD, "student": "student@weak.logits", "mask": "student@weak.completion"}},
        "data": {"views": {"weak": [{"use": "language.rollout"}]}},
    }  # fmt: skip
    with pytest.raises(RecipeError, match="changes whole batches"):
        mmkd.build(recipe, nodes={"student": model(1), "teacher": model(2)}, data={"train": DATA})


def test_a_remembered_teacher_is_refused(tmp_path: Path) -> None:
    for cache in ("memory", "fixed"):
        recipe = {**RECIPE, "teacher": {"cache": cache}, "evaluate": []}
        nodes = {"student": model(1), "teacher": model(2)}
        with pytest.raises(MmkdError, match=r"curators change .*'target'.*\n  next: remove `cache` or the curator$"):
            mmkd.distill(recipe, output_dir=tmp_path / cache, nodes=nodes, data={"train": DATA}, baseline=False)


def test_the_curator_is_told_by_its_class() -> None:
    assert Rollout.of_batches() and not Rollout.of_samples()
