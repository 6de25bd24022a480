"""DistilHuBERT's loss and recipe."""

import math

import pytest
import sounds
import torch
from mmkd_audio.distilhubert import DistilHuBERT
from mmkd_audio.transformers import SoundEncoder

import mmkd
from mmkd.errors import GraphError, RecipeError


def made(cosine=1.0, seed=0, width=4, layers=(3, 5)):
    torch.manual_seed(seed)
    loss = DistilHuBERT(cosine).double()
    student = torch.randn(2, 3, width, dtype=torch.float64)
    teacher = [torch.randn(2, 3, size, dtype=torch.float64) for size in layers]
    loss.setup(student=student.shape, teacher=[t.shape for t in teacher])
    return loss.double(), student, teacher


def oracle(loss, student, teacher, cosine):
    """Sums over single numbers."""
    total = torch.zeros(student.shape[:2], dtype=torch.float64)
    for b in range(student.shape[0]):
        for t in range(student.shape[1]):
            terms = []
            for (first, _, last), target in zip(loss.heads, teacher, strict=True):
                s = student[b, t].tolist()
                inner = [
                    sum(w * x for w, x in zip(row, s, strict=True)) + bias
                    for row, bias in zip(first.weight.tolist(), first.bias.tolist(), strict=True)
                ]
                inner = [0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in inner]
                p = [
                    sum(w * x for w, x in zip(row, inner, strict=True)) + bias
                    for row, bias in zip(last.weight.tolist(), last.bias.tolist(), strict=True)
                ]
                q = target[b, t].tolist()
                dot = sum(x * y for x, y in zip(p, q, strict=True))
                cos = dot / math.sqrt(sum(x * x for x in p) * sum(y * y for y in q))
                l1 = sum(abs(x - y) for x, y in zip(p, q, strict=True)) / len(p)
                terms.append(l1 + cosine * math.log(1 + math.exp(-cos)))
            total[b, t] = sum(terms) / len(terms)
    return total


@pytest.mark.parametrize("cosine", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_formula(cosine, seed):
    loss, student, teacher = made(cosine, seed)
    assert torch.allclose(loss(student, teacher), oracle(loss, student, teacher, cosine), atol=1e-12)


def test_gradients():
    loss, student, teacher = made()
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student)


def test_without_the_cosine_term_it_is_an_l1_distance():
    loss, student, teacher = made(0.0)
    plain = torch.stack([(head(student) - t).abs().mean(-1) for head, t in zip(loss.heads, teacher, strict=True)])
    assert torch.equal(loss(student, teacher), plain.mean(0))


def test_a_perfect_prediction_costs_what_the_sigmoid_leaves():
    loss, student, _ = made()
    teacher = [head(student) for head in loss.heads]
    assert torch.allclose(loss(student, teacher), torch.tensor(math.log(1 + math.exp(-1)), dtype=torch.float64))


def test_layers_are_apart():
    """A head learns from its own layer alone."""
    loss, student, teacher = made()
    (loss(student, [teacher[0], teacher[1].detach()])).sum().backward()
    before = [p.grad.clone() for p in loss.heads[0].parameters()]
    loss.zero_grad()
    loss(student, [teacher[0], teacher[1] * 3]).sum().backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(before, loss.heads[0].parameters(), strict=True))


def test_odd_inputs():
    loss, student, teacher = made()
    assert loss(student[:0], [t[:0] for t in teacher]).shape == (0, 3)
    assert loss(student[:, 0], [t[:, 0] for t in teacher]).shape == (2,)
    zero = loss(student, [torch.zeros_like(t) for t in teacher])
    assert zero.isfinite().all()
    with pytest.raises(GraphError, match=r"audio\.align_frames"):
        loss(student, [t[:, :2] for t in teacher])
    with pytest.raises(RecipeError, match="call setup"):
        DistilHuBERT()(student, teacher)


@pytest.fixture(scope="module")
def hubert(tmp_path_factory):
    """The recipe on a tiny HuBERT of twelve blocks."""
    weights = sounds.waves(tmp_path_factory.mktemp("hubert"), "hubert", layers=12)
    return {
        "recipe": "audio.distilhubert",
        "teacher": {"pretrained": weights},
        "student": {"model": weights, "pretrained": weights},
        "data": {"batch_size": 4},
        "train": {"steps": 20, "lr": 3e-3, "warmup_steps": 2},
    }


SAMPLES = sounds.samples(3000, 2600, 2000, 3000)


def build(recipe, **loss):
    torch.manual_seed(0)
    changed = {**recipe, "losses": {"layers": loss}}
    return mmkd.build(changed, data={"train": SAMPLES}).eval()


def by_hand(graph):
    """Blocks 4, 8 and 12 predicted from the student's last frames, with the cosine term; mean over the frames."""
    layers = [f"teacher.hidden.{i}" for i in (4, 8, 12)]
    names = ["student.tokens", "student.mask", *layers]
    found = graph.values(graph.collate(SAMPLES, names), names)
    loss = next(m for m in graph.modules() if isinstance(m, DistilHuBERT))
    frames = oracle(loss, found["student.tokens"].double(), [found[n].double() for n in layers], 1.0)
    mask = found["student.mask"].bool()
    return float(frames[mask].mean())


def value(graph):
    return float(graph(graph.collate(SAMPLES))["loss"].detach())


def test_the_recipe_predicts_three_layers_by_a_head_each(hubert):
    graph = build(hubert)
    heads = next(m for m in graph.modules() if isinstance(m, DistilHuBERT)).heads
    assert len(heads) == len({id(p) for head in heads for p in head.parameters()}) / 4 == 3
    assert value(graph) == pytest.approx(by_hand(graph), rel=1e-4)


OFF = {
    "no cosine term": {"cosine": 0.0},
    "other layers": {"teacher": ["teacher.hidden.4", "teacher.hidden.8", "teacher.hidden.11"]},
    "padding counts": {"mask": None},
    "the first block": {"student": "student.hidden.1"},
}


@pytest.mark.parametrize("off", OFF)
def test_the_recipe_switched_off_is_seen(off, hubert):
    graph = build(hubert, **OFF[off])
    assert abs(value(graph) - by_hand(graph)) > 1e-4 * value(graph)


def test_the_recipe_without_learning_heads_learns_less(hubert):
    """Heads that stay as they began are in the way."""

    def after(frozen):
        graph = build(hubert)
        optimizers = mmkd.optimizers(graph, mmkd.load_recipe(hubert).train)
        heads = next(m for m in graph.modules() if isinstance(m, DistilHuBERT)).heads
        kept = {name: p.detach().clone() for name, p in heads.named_parameters()}
        for _ in range(20):
            graph.step(graph.collate(SAMPLES), optimizers)
            if frozen:
                for name, p in heads.named_parameters():
                    p.data.copy_(kept[name])
        return value(graph)

    assert after(frozen=False) < 0.95 * after(frozen=True)


def test_the_recipe_lets_a_tenth_of_the_gradient_through(hubert):
    """In training; the exported network is the same function with or without."""

    def slopes(share):
        graph = build({**hubert, "student": {**hubert["student"], **share}})
        value = graph(graph.collate(SAMPLES))["loss"]
        value.backward()
        net = graph.roles["student"].encoder.net
        return {n: p.grad for n, p in net.named_parameters() if p.grad is not None}, float(value.detach())

    (plain, whole), (scaled, tenth) = slopes({"feature_grad": 1.0}), slopes({})
    assert whole == tenth and scaled.keys() == plain.keys()
    for name, gradient in plain.items():
        share = 0.1 if name.startswith("feature_extractor.") else 1.0
        assert torch.allclose(scaled[name], share * gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


def test_the_exported_student_knows_nothing_of_gradients(hubert, tmp_path):
    mmkd.distill({**hubert, "train": {"steps": 1}}, output_dir=tmp_path / "run", data={"train": SAMPLES})
    model = mmkd.from_pretrained(tmp_path / "run")
    names = ["student.tokens"]
    tokens = model.values(model.collate(SAMPLES, names), names)["student.tokens"]
    encoder = model.roles["student"].encoder
    plain = SoundEncoder(**{**hubert["student"], "config": {"num_hidden_layers": 2}}).eval()
    plain.load_state_dict(encoder.state_dict())
    assert not tokens.requires_grad
    with torch.no_grad():
        assert torch.equal(plain(**plain.collate([plain.transform(s) for s in SAMPLES]))["tokens"], tokens)


def test_the_recipe_learns_and_drops_its_heads(tmp_path):
    """Two blocks of a tiny HuBERT begin as the teacher's own and come to predict its deeper ones."""
    weights = sounds.waves(tmp_path / "hubert", "hubert", layers=5)
    layers = ["teacher.hidden.3", "teacher.hidden.5"]
    recipe = {
        "recipe": "audio.distilhubert",
        "teacher": {"pretrained": weights},
        "student": {"model": weights, "pretrained": weights},
        "losses": {"layers": {"teacher": layers}},
        "data": {"batch_size": 4},
        "train": {"steps": 20, "lr": 3e-3, "warmup_steps": 2},
    }
    samples = sounds.samples(3000, 2600, 2000, 3000)
    graph = mmkd.build(recipe, data={"train": samples})
    student, teacher = (graph.roles[name].encoder.net for name in ("student", "teacher"))
    assert len(student.encoder.layers) == 2
    for i in range(2):
        pairs = zip(student.encoder.layers[i].parameters(), teacher.encoder.layers[i].parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    optimizers = mmkd.optimizers(graph, mmkd.load_recipe(recipe).train)
    losses = [float(graph.step(graph.collate(samples), optimizers)["loss"]) for _ in range(20)]
    assert losses[-1] < 0.9 * losses[0]
    mmkd.distill({**recipe, "train": {"steps": 1}}, output_dir=tmp_path / "run", data={"train": samples})
    model = mmkd.from_pretrained(tmp_path / "run")
    assert not [name for name in model.state_dict() if "heads" in name]
