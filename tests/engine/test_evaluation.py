"""Scores of teacher and students in one pass, alone or shared among processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.toys import CLASSES, FEATURES, Noise, networks, recipe
from torch import Tensor, nn

import mmkd
from mmkd.datasets import evaluation
from mmkd.engine.evaluation import Evaluation, Measure
from mmkd.engine.share import Share
from mmkd.errors import GraphError, MmkdError
from mmkd.graph.binding import bind

KNN = {"use": "core.knn", "student": "student.logits", "k": 3}
TOP = {"use": "core.top_k", "student": "student.logits"}
AGREE = {"use": "core.agreement", "student": "student.logits", "teacher": "teacher.logits"}


def judged(
    *evaluate: dict[str, Any], nodes: dict[str, nn.Module] | None = None, **changed: Any
) -> tuple[mmkd.TrainingGraph, Evaluation]:
    spec = {**recipe(), "evaluate": list(evaluate), **changed}
    data = {"train": Noise(), "eval": Noise(40, seed=1)}
    graph = mmkd.build(spec, nodes=nodes or networks(), data=data)
    return graph, evaluation(mmkd.load_recipe(spec), data)


def scored(*evaluate: dict[str, Any], **given: Any) -> tuple[Any, Any]:
    graph, judge = judged(*evaluate, **given)
    judge.check(graph)
    return judge(graph, 20, 20)


def truth(network: nn.Module) -> float:
    samples = [Noise(40, seed=1)[i] for i in range(40)]
    with torch.no_grad():
        said = network.eval()(torch.stack([torch.as_tensor(s["image"]) for s in samples])).argmax(1)
    return sum(int(a) == s["label"] for a, s in zip(said, samples, strict=True)) / 40


def test_the_teacher_is_scored_by_its_values_of_the_same_names() -> None:
    students, teachers = scored(TOP, AGREE, {**KNN, "name": "neighbours"})
    assert students["eval"].keys() == {"top_k", "agreement", "neighbours"}
    assert students["eval"]["top_k"] == {"top_1_accuracy": pytest.approx(truth(networks()["student"]))}
    assert teachers.keys() == {"teacher"}
    assert teachers["teacher"]["eval"].keys() == {"top_k", "neighbours"}  # it agrees with itself anyway
    assert teachers["teacher"]["eval"]["top_k"] == {"top_1_accuracy": pytest.approx(truth(networks()["teacher"]))}


def test_it_is_scored_at_the_end_alone() -> None:
    graph, judge = judged({**TOP, "every": 5})
    assert judge(graph, 5, 20)[1] == {}
    assert judge(graph, 4, 20) == ({}, {})
    assert judge(graph, 20, 20)[1] != {}


def test_a_projector_stands_for_the_value_that_it_is_like() -> None:
    graph, judge = judged({"use": "core.effective_rank", "student": "up"})
    _, teachers = judge(graph, 20, 20)
    batch = graph.collate([Noise(40, seed=1)[i] for i in range(40)], ["teacher/0"])
    hidden = graph.values(batch, ["teacher/0"])["teacher/0"].double()
    spectrum = torch.linalg.svdvals(hidden)
    p = spectrum / spectrum.sum()
    expected = torch.exp(-(p * p.log()).sum()).item()
    assert teachers["teacher"]["eval"]["effective_rank"]["effective_rank"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "metric",
    [
        AGREE,
        {"use": "core.cka", "student": "student.logits", "teacher": "teacher.logits"},
        {"use": "core.retrieval", "a": "up", "b": "teacher/0"},
        {"use": "core.cka", "student": "student/1", "teacher": "teacher/0"},
        {**TOP, "student": "student/4"},
        {**TOP, "student": "teacher.logits"},
        {**TOP, "teacher_score": False},
        {"use": "core.cka", "student": "student.logits", "teacher": "detach(student.logits)"},
    ],
    ids=["agreement", "cka", "projector", "tap and tap", "tap", "the teacher alone", "switched off", "itself"],
)
def test_no_score_where_it_would_say_nothing(metric: dict[str, Any]) -> None:
    students, teachers = scored(metric)
    assert students["eval"] and teachers == {}


def test_no_score_over_other_classes_nor_without_its_inputs() -> None:
    hint = {"hint": recipe()["losses"]["hint"]}
    wide = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES + 3))
    assert scored(TOP, nodes={**networks(), "teacher": wide}, losses=hint)[1] == {}
    other = mmkd.wrap(networks()["teacher"], inputs=["sound"])
    losses = {"ce": {"use": "core.cross_entropy", "student": "student.logits"}}
    assert scored(TOP, nodes={**networks(), "teacher": other}, losses=losses, projectors={})[1] == {}


def test_ports_of_ones_own() -> None:
    metric = {**TOP, "student": "student/4", "teacher_score": {"student": "teacher/2"}}
    assert scored(metric)[1] == scored(TOP)[1]
    with pytest.raises(GraphError, match=r"evaluate\.0\.teacher_score.*no port 'logits'"):
        scored({**TOP, "teacher_score": {"logits": "teacher.logits"}})
    with pytest.raises(GraphError, match=r"evaluate\.0\.teacher_score: must read values of one teacher"):
        scored({**TOP, "teacher_score": {"student": "student.logits"}})
    with pytest.raises(MmkdError, match=r"did you mean 'teacher\.logits'"):
        scored({**TOP, "teacher_score": {"student": "teacher.logit"}})


def test_each_teacher_has_a_column(tmp_path: Path) -> None:
    nodes = {**networks(), "big": networks()["teacher"], "small": nn.Linear(FEATURES, CLASSES)}
    spec = recipe(steps=2)
    del spec["teacher"], spec["projectors"], spec["losses"]["hint"]
    spec |= {"teachers": {"big": {}, "small": {}}, "evaluate": [TOP, {**AGREE, "teacher": "big.logits"}]}
    spec["losses"]["kd"]["teacher"] = "big.logits"
    del nodes["teacher"]
    data = {"train": Noise(), "eval": Noise(40, seed=1)}
    results = mmkd.distill(spec, output_dir=tmp_path / "run", nodes=nodes, data=data)
    assert results["teachers"]["big"]["scores"]["eval"].keys() == {"top_k"}
    assert results["teachers"]["small"]["scores"]["eval"].keys() == {"top_k", "agreement"}  # with the other teacher
    assert "teacher" not in results
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert "| dataset | metric | big (teacher) | small (teacher) | student |" in card
    again = mmkd.evaluate(tmp_path / "run", nodes=nodes, data=data)
    assert again == {"teachers": results["teachers"], "student": {"scores": results["student"]["scores"]}}


def test_results_stand_three_abreast(tmp_path: Path) -> None:
    plain = {"losses": {"ce": {"use": "core.cross_entropy", "student": "student.logits"}}}
    spec = {**recipe(steps=2), "evaluate": [{**TOP, "teacher_score": {"student": "teacher/2"}}], "baseline": plain}
    data = {"train": Noise(), "eval": Noise(40, seed=1)}
    results = mmkd.distill(spec, output_dir=tmp_path / "run", nodes=networks(), data=data)
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
    assert mmkd.load_recipe(tmp_path / "run" / "recipe.yaml") == mmkd.load_recipe(spec)
    arms = ["teacher", "student", "baseline"]
    assert [key for key in results if key in arms] == arms
    assert results["teacher"] == {"scores": scored(TOP)[1]["teacher"]}
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert "| dataset | metric | teacher | student | baseline |" in card
    told = next(line for line in card.splitlines() if line.startswith("| eval | top_k.top_1_accuracy |"))
    assert told.count("|") == 6 and "-" not in told
    again = mmkd.evaluate(tmp_path / "run", nodes=networks(), data=data)
    assert again == {arm: {"scores": results[arm]["scores"]} for arm in arms}


class Plain(mmkd.Metric):
    """Only what one process needs."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = 0.0

    def reset(self) -> None:
        self.sum = 0.0

    def forward(self, student: Tensor) -> None:
        self.sum += student.sum().item()

    def compute(self) -> dict[str, float]:
        return {"sum": self.sum}


class Adding(Plain):
    """One that says how it is put together."""

    def state(self) -> dict[str, Any]:
        return {"sum": self.sum}

    def merge(self, states: Any) -> None:
        self.sum += sum(state["sum"] for state in states)


SHARED = (
    TOP,
    AGREE | {"correlations": ["spearman", "kendall"]},
    KNN,
    {"use": "core.retrieval", "a": "student.logits", "b": "teacher.logits", "group": "batch.label",
     "one_per_group": "a", "also": ["mean_average_precision", "median_rank"]},
    {"use": "core.retrieval", "name": "pairs", "a": "student.logits", "b": "teacher.logits"},
    {"use": "core.calibration", "student": "student.logits"},
    {"use": "core.linear_probe", "student": "student.logits", "key": "batch.key"},
    {"use": "core.cka", "student": "student.logits", "teacher": "teacher.logits"},
    {"use": "core.effective_rank", "student": "student.logits"},
)  # fmt: skip


def _with(metric: mmkd.Metric) -> tuple[mmkd.TrainingGraph, Evaluation]:
    graph, judge = judged(*SHARED)
    judge.measures.append(Measure(bind("own", metric, {"student": "student.logits"}, "evaluate.own")))
    return graph, judge


def _process(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    graph, judge = _with(Adding())
    scores = judge(graph, 20, 20)
    sizes = [len(Share(dataset, 16)) for dataset in (Noise(40), Noise(16), Noise(0), Noise(33))]
    graph, judge = _with(Plain())
    try:
        judge.check(graph)
        said = ""
    except GraphError as error:
        said = str(error)
    Path(folder, f"{rank}.json").write_text(json.dumps({"scores": scores, "sizes": sizes, "said": said}))
    torch.distributed.destroy_process_group()


def test_two_processes_say_what_one_says(tmp_path: Path) -> None:
    graph, judge = _with(Adding())
    alone = json.loads(json.dumps(judge(graph, 20, 20)))
    torch.multiprocessing.spawn(_process, (2, str(tmp_path)), nprocs=2)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert found[0]["scores"] == found[1]["scores"]
    for (place, one), (other_place, two) in zip(_numbers(alone), _numbers(found[0]["scores"]), strict=True):
        assert place == other_place and two == pytest.approx(one, abs=1e-6), place
    assert len(list(_numbers(alone))) > 30
    assert [f["sizes"] for f in found] == [[16, 0, 0, 16], [24, 16, 0, 17]]
    for each in found:
        assert each["said"].startswith("evaluate.own: Plain cannot be merged across 2 processes")
        assert "mmkd.Rows" in each["said"]


def _numbers(scores: Any, place: str = "") -> Any:
    for key, value in scores.items() if isinstance(scores, dict) else enumerate(scores):
        if isinstance(value, float):
            yield f"{place}.{key}", value
        else:
            yield from _numbers(value, f"{place}.{key}")


def test_what_a_metric_must_define() -> None:
    class Counts(mmkd.Metric):
        def __init__(self) -> None:
            super().__init__()
            self.seen, self.keys = mmkd.Rows("mine.counts"), mmkd.Rows()

        def forward(self, student: Tensor, key: list[str]) -> None:
            self.seen.add(student)
            self.keys.add(key)

        def compute(self) -> dict[str, float]:
            return {"sum": self.seen.joined().sum().item(), "keys": float(len(set(self.keys.listed())))}

    one, two, three = Counts(), Counts(), Counts()
    one(torch.ones(2), ["a", "b"])
    two(torch.ones(1), ["b"])
    one.merge([two.state(), three.state()])
    assert one.compute() == {"sum": 3.0, "keys": 2.0}
    assert two.compute() == {"sum": 1.0, "keys": 1.0}
    one.reset()
    with pytest.raises(MmkdError, match=r"mine\.counts: saw 0 samples"):
        one.compute()
    assert one.mergeable and Adding().mergeable
    assert not Plain().mergeable and not mmkd.Metric().mergeable
    for act in (mmkd.Metric().reset, Plain().state, lambda: Plain().merge([])):
        with pytest.raises(TypeError, match="must define"):
            act()
