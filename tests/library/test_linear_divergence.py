"""Divergence from hidden states and heads: the numbers of the plain losses on logits, and never the logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given as drawn, settings, strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import mmkd
from mmkd import Loss
from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses import slope as comparison
from mmkd.library.losses.divergences import JensenShannon, ReverseKL, SkewKL
from mmkd.library.losses.kl import KLDivergence
from mmkd.library.losses.linear_divergence import LinearDivergence
from mmkd.signature import construct

from . import logit_oracle as truth

PLAIN: dict[str, tuple[dict[str, Any], Callable[[float], Loss]]] = {
    "kl": ({}, lambda t: KLDivergence(t)),
    "reverse_kl": ({"divergence": "reverse_kl"}, lambda t: ReverseKL(t)),
    "jsd": ({"divergence": "jsd"}, lambda t: JensenShannon(0.5, t)),
    "jsd beta": ({"divergence": "jsd", "beta": 0.1}, lambda t: JensenShannon(0.1, t)),
    "skew": ({"divergence": "skew_kl", "skew": 0.3}, lambda t: SkewKL(0.3, False, t)),
    "skew reverse": ({"divergence": "skew_reverse_kl"}, lambda t: SkewKL(0.1, True, t)),
    "no skew": ({"divergence": "skew_kl", "skew": 0.0}, lambda t: KLDivergence(t)),
    "no skew reverse": ({"divergence": "skew_reverse_kl", "skew": 0.0}, lambda t: ReverseKL(t)),
}
each = pytest.mark.parametrize(("options", "plain"), PLAIN.values(), ids=PLAIN.keys())
VOCABULARY = 11


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def ports(*tokens: int, dtype: torch.dtype = torch.float64, bias: bool = True) -> dict[str, Tensor]:
    """Ports of a student that asks for gradients and a teacher that does not."""
    made = {
        "student": normal(*tokens, 6, dtype=dtype), "student_head": normal(VOCABULARY, 6, seed=1, dtype=dtype),
        "teacher": normal(*tokens, 4, seed=2, dtype=dtype), "teacher_head": normal(VOCABULARY, 4, seed=3, dtype=dtype),
    }  # fmt: skip
    if bias:
        made["student_bias"] = normal(VOCABULARY, seed=4, dtype=dtype)
        made["teacher_bias"] = normal(VOCABULARY, seed=5, dtype=dtype)
    return {name: value.requires_grad_(name.startswith("student")) for name, value in made.items()}


def logits(given: dict[str, Tensor], side: str) -> Tensor:
    return F.linear(given[side], given[f"{side}_head"], given.get(f"{side}_bias"))


def slopes(loss: Tensor, given: dict[str, Tensor], upstream: Tensor) -> dict[str, Tensor]:
    own = {name: value for name, value in given.items() if value.requires_grad}
    made = torch.autograd.grad((loss * upstream).sum(), own.values(), retain_graph=True)
    return dict(zip(own, made, strict=True))


# -- the numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_equal_the_sum_over_the_vocabulary(temperature: float) -> None:
    given, square = {n: v.detach() for n, v in ports(3, bias=False).items()}, temperature**2
    made = {
        name: LinearDivergence(temperature=temperature, chunk=2, **options)(**given).tolist()
        for name, (options, _) in PLAIN.items()
    }
    for i in range(3):
        q, p = (
            truth.soft(
                [
                    sum(h * w for h, w in zip(given[side][i].tolist(), row, strict=True))
                    for row in given[f"{side}_head"].tolist()
                ],
                temperature,
            )
            for side in ("student", "teacher")
        )
        m = truth.mix(p, q, 0.1)
        expected = {
            "kl": truth.divergence(p, q),
            "reverse_kl": truth.divergence(q, p),
            "jsd beta": 0.1 * truth.divergence(p, m) + 0.9 * truth.divergence(q, m),
            "skew": truth.divergence(p, truth.mix(p, q, 0.3)),
            "skew reverse": truth.divergence(q, truth.mix(q, p, 0.1)),
        }
        for name, value in expected.items():
            assert made[name][i] == pytest.approx(square * value, rel=1e-10)


@each
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("chunk", [1, 4, None])
@pytest.mark.parametrize("tokens", [(7,), (3, 5)])
def test_equal_the_plain_loss_on_logits(
    options: dict[str, Any], plain: Callable[[float], Loss], temperature: float, chunk: int | None, tokens: Any
) -> None:
    given = ports(*tokens)
    loss = LinearDivergence(temperature=temperature, chunk=chunk, **options)(**given)
    expected = plain(temperature)(logits(given, "student"), logits(given, "teacher"))
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    even, uneven = torch.ones_like(loss) / 3, normal(*tokens, seed=6)
    for upstream in (even, even, uneven, even):  # the second time, nothing is left of the forward pass
        made, wanted = slopes(loss, given, upstream), slopes(expected, given, upstream)
        for name in wanted:
            torch.testing.assert_close(made[name], wanted[name], rtol=1e-9, atol=1e-12, msg=lambda m, n=name: n + m)
    first = LinearDivergence(temperature=temperature, chunk=chunk, **options)(**given)
    made, wanted = slopes(first, given, uneven), slopes(expected, given, uneven)
    for name in wanted:
        torch.testing.assert_close(made[name], wanted[name], rtol=1e-9, atol=1e-12)


@each
def test_gradient_is_that_of_the_value(options: dict[str, Any], plain: Any) -> None:
    given = ports(3)
    loss = LinearDivergence(temperature=2.0, chunk=2, **options)
    assert torch.autograd.gradcheck(lambda *own: loss(**dict(zip(given, own, strict=True))), tuple(given.values()))


@each
def test_float32_is_near_float64(options: dict[str, Any], plain: Callable[[float], Loss]) -> None:
    given, narrow = ports(9), ports(9, dtype=torch.float32)
    made, wanted = (
        LinearDivergence(**options, chunk=4)(**narrow),
        plain(1.0)(logits(given, "student"), logits(given, "teacher")),
    )
    torch.testing.assert_close(made.double(), wanted, rtol=2e-5, atol=2e-6)
    one = torch.ones(9)
    for name, slope in slopes(made, narrow, one).items():
        torch.testing.assert_close(slope.double(), slopes(wanted, given, one)[name], rtol=1e-4, atol=1e-5)


@each
@pytest.mark.parametrize("even", [True, False])
def test_autocast_makes_the_logits_that_the_heads_would(
    options: dict[str, Any], plain: Callable[[float], Loss], even: bool
) -> None:
    given = ports(40, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        made = LinearDivergence(**options, chunk=16)(**given)
        own, teacher = logits(given, "student"), logits(given, "teacher")
    assert own.dtype == torch.bfloat16 and made.dtype == torch.float32
    expected = plain(1.0)(own, teacher)
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)
    upstream = torch.ones(40) / 40 if even else normal(40, seed=6, dtype=torch.float32)
    wanted = slopes(expected, given, upstream)
    for name, slope in slopes(made, given, upstream).items():
        assert slope.dtype == torch.float32
        assert (slope - wanted[name]).norm() < 1e-2 * wanted[name].norm()


def test_half_precision_of_its_own_is_summed_in_float32() -> None:
    given = ports(40, dtype=torch.bfloat16)
    loss = LinearDivergence(chunk=1)(**given)
    expected = KLDivergence()(logits(given, "student"), logits(given, "teacher"))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    one = torch.ones(40)
    wide = {name: value.detach().double().requires_grad_(value.requires_grad) for name, value in given.items()}
    exact = slopes(KLDivergence()(logits(wide, "student"), logits(wide, "teacher")), wide, one)
    for name, slope in slopes(loss, given, one).items():
        assert slope.dtype == torch.bfloat16
        assert (slope.double() - exact[name]).norm() < 2e-2 * exact[name].norm()


# -- any values ---------------------------------------------------------------------------------------------------

ANY: dict[str, dict[str, Any]] = {
    "eager": {},
    "fused": {"divergence": "jsd", "beta": 0.3, "student_softcap": 2.0, "chunk": 4, "fused": True},
}


@pytest.mark.parametrize("fixed", ANY.values(), ids=ANY.keys())
@settings(max_examples=60, deadline=None, derandomize=True)
@drawn(data=st.data())
def test_any_values_are_those_of_the_plain_loss(fixed: dict[str, Any], data: st.DataObject) -> None:
    """Ragged and empty inputs, masks, chunks, blocks, autocast; eager, and compiled by one kernel."""
    draw = data.draw
    tokens = draw(st.lists(st.integers(0, 5), min_size=1, max_size=2))
    temperature = draw(st.sampled_from([0.5, 1.0, 3.0]))
    options, plain = draw(st.sampled_from(list(PLAIN.values())))
    caps = [draw(st.sampled_from([None, 1.5])) for _ in range(2)]
    options = {**options, "chunk": draw(st.sampled_from([1, 2, 3, None])), "student_softcap": caps[0]}
    options |= {"teacher_softcap": caps[1], "temperature": temperature}
    if fixed:
        options = {**fixed, "temperature": temperature}
        plain, caps = (lambda t: JensenShannon(0.3, t)), [2.0, None]
    autocast = not fixed and draw(st.booleans())
    bias = bool(fixed) or draw(st.booleans())
    given = ports(*tokens, dtype=torch.float32 if autocast or fixed else torch.float64, bias=bias)
    mask = torch.arange(math.prod(tokens)).view(tokens) % 3 > 0 if draw(st.booleans()) else None
    upstream = draw(st.sampled_from([torch.ones(tokens), normal(*tokens, seed=6)])).to(given["student"].dtype)
    if mask is not None:
        upstream = torch.where(mask, upstream, 0.0)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), blocks(draw(st.sampled_from([1, 30, 2**18]))):
        loss = LinearDivergence(**options)(**given, mask=mask)
        own, teacher = logits(given, "student"), logits(given, "teacher")
    made = slopes(loss, given, upstream)
    own, teacher = (x if c is None else c * (widened(x) / c).tanh() for x, c in zip((own, teacher), caps, strict=True))
    expected = plain(temperature)(widened(own), widened(teacher))
    loss = loss if mask is None else torch.where(mask, loss, expected)
    close = {torch.bfloat16: 2e-5, torch.float32: 2e-5, torch.float64: 1e-9}[logits(given, "student").dtype]
    torch.testing.assert_close(loss, expected, rtol=close, atol=close)
    wanted = slopes(expected, given, upstream)
    for name, slope in made.items():
        assert slope.dtype == given[name].dtype
        error, size = (slope - wanted[name]).norm(), wanted[name].norm()
        assert error <= (2e-2 if autocast else 20 * close) * size + close, name


@contextmanager
def blocks(cells: int) -> Iterator[None]:
    """So many logits are compared at once inside."""
    before, comparison.BLOCK_CELLS = comparison.BLOCK_CELLS, cells
    try:
        yield
    finally:
        comparison.BLOCK_CELLS = before


def widened(value: Tensor) -> Tensor:
    return value.float() if value.dtype == torch.bfloat16 else value


def test_a_softcap_is_that_of_the_network() -> None:
    given = ports(5)
    loss = LinearDivergence(student_softcap=1.5, teacher_softcap=0.7)
    assert torch.autograd.gradcheck(lambda *own: loss(**dict(zip(given, own, strict=True))), tuple(given.values()))
    own, teacher = (c * (logits(given, side) / c).tanh() for side, c in (("student", 1.5), ("teacher", 0.7)))
    torch.testing.assert_close(loss(**given), KLDivergence()(own, teacher))
    assert not torch.allclose(loss(**given), LinearDivergence()(**given))


def test_equal_heads_cost_exactly_nothing() -> None:
    given = ports(9, dtype=torch.float32)
    same = {name.replace("teacher", "student"): value for name, value in given.items() if "student" in name}
    same |= {name.replace("student", "teacher"): value.detach() for name, value in same.items()}
    for name in ("kl", "reverse_kl"):
        loss = LinearDivergence(name, chunk=2)(**same)
        assert loss.tolist() == [0.0] * 9
        assert all(slope.abs().max() < 1e-6 for slope in slopes(loss, same, torch.ones(9)).values())


def test_what_cannot_be_compiled_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Callable[..., Tensor]:
        def kernel(*_: Any) -> Tensor:
            raise RuntimeError("no C++ compiler\n\nmore")

        return kernel

    monkeypatch.setattr(comparison, "_kernel", refuse)
    with pytest.raises(GraphError, match=r"fused: cannot be compiled: no C\+\+ compiler; more"):
        LinearDivergence(fused=True)(**ports(5))


# -- what does not count ------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("chunk", [1, 3, None])
def test_a_masked_token_costs_nothing(
    options: dict[str, Any], plain: Callable[[float], Loss], chunk: int | None
) -> None:
    given, mask = ports(2, 4), torch.tensor([[1, 1, 0, 1], [0, 1, 0, 0]])
    expected = plain(1.0)(logits(given, "student"), logits(given, "teacher"))
    spoilt = dict(given)
    for name in ("student", "teacher"):
        without = given[name].detach().masked_fill(mask[..., None] == 0, math.nan)
        spoilt[name] = without.requires_grad_(name == "student")
    loss = LinearDivergence(**options, chunk=chunk)(**spoilt, mask=mask)
    torch.testing.assert_close(loss, torch.where(mask > 0, expected, 0.0))
    for weight in (torch.ones(2, 4), normal(2, 4, seed=8)):
        upstream = torch.where(mask > 0, weight.double(), 0.0)
        wanted = slopes(expected, given, upstream)
        for name, slope in slopes(loss, spoilt, upstream).items():
            torch.testing.assert_close(slope, wanted[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mask", [None, torch.zeros(0, 5), torch.zeros(3, 5)])
def test_nothing_valid_is_a_zero_with_a_graph(mask: Tensor | None) -> None:
    given = ports(3 if mask is not None and len(mask) else 0, 5)
    loss = LinearDivergence()(**given, mask=mask)
    assert loss.shape == given["student"].shape[:2] and not loss.any()
    for slope in slopes(loss, given, torch.ones_like(loss)).values():
        assert not slope.any()


def test_the_teacher_is_a_constant() -> None:
    given = {name: value.requires_grad_() for name, value in ports(3).items()}
    LinearDivergence()(**given).sum().backward()
    assert {name for name, value in given.items() if value.grad is not None} == {
        "student", "student_head", "student_bias",
    }  # fmt: skip


@pytest.mark.parametrize("frozen", ["student", "student_head", "student_bias"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    given = ports(5)
    wanted = slopes(LinearDivergence()(**given), given, torch.ones(5))
    given[frozen].requires_grad_(False)
    for upstream in (torch.ones(5), torch.arange(5.0)):
        made = slopes(LinearDivergence()(**given), given, upstream)
        assert set(made) == set(wanted) - {frozen}
        if upstream[0]:
            assert all(torch.equal(made[name], wanted[name]) for name in made)


def test_a_class_that_is_ruled_out() -> None:
    """On both sides it costs nothing; on the student's alone, everything, but for the bounded divergences."""
    given = ports(5)
    for side in ("student", "teacher"):
        given[f"{side}_bias"] = given[f"{side}_bias"].detach().index_fill(0, torch.tensor([2]), -math.inf)
    given["student_bias"].requires_grad_()
    for options, plain in PLAIN.values():
        loss = LinearDivergence(**options)(**given)
        torch.testing.assert_close(loss, plain(1.0)(logits(given, "student"), logits(given, "teacher")))
        assert all(slope.isfinite().all() for slope in slopes(loss, given, torch.ones(5)).values())
    given["teacher_bias"] = torch.zeros(VOCABULARY, dtype=torch.float64)
    assert (LinearDivergence()(**given) == math.inf).all()
    bounded = LinearDivergence("skew_kl")(**given)
    torch.testing.assert_close(bounded, SkewKL()(logits(given, "student"), logits(given, "teacher")))
    assert all(slope.isfinite().all() for slope in slopes(bounded, given, torch.ones(5)).values())


@each
def test_huge_logits_are_finite(options: dict[str, Any], plain: Callable[[float], Loss]) -> None:
    given = ports(5, dtype=torch.float32, bias=False)
    grown = {n: (1e3 * v.detach()).requires_grad_(v.requires_grad) for n, v in given.items()}
    loss = LinearDivergence(**options)(**grown)
    assert loss.isfinite().all()
    assert all(slope.isfinite().all() for slope in slopes(loss, grown, torch.ones(5)).values())
    if options.get("skew", 0) == 0 and "reverse" not in options.get("divergence", ""):  # those know no floor
        expected = plain(1.0)(logits(grown, "student"), logits(grown, "teacher"))
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_it_is_differentiated_once() -> None:
    given = ports(3)
    with pytest.raises(GraphError, match="once only"):
        torch.autograd.grad(LinearDivergence()(**given).sum(), given["student"], create_graph=True)


def test_a_head_changed_between_the_passes_is_noticed() -> None:
    given = ports(3)
    loss = LinearDivergence()(**given)
    with torch.no_grad():
        given["student_head"].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (loss * torch.arange(3.0)).sum().backward()


# -- memory -------------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return made


@each
@pytest.mark.parametrize("even", [True, False])
def test_no_more_than_a_chunk_of_logits_is_made(
    options: dict[str, Any], plain: Callable[[float], Loss], even: bool
) -> None:
    tokens, vocabulary, width, chunk = 64, 500, 4, 8
    given = {
        "student": normal(tokens, width).requires_grad_(), "student_head": normal(vocabulary, width).requires_grad_(),
        "teacher": normal(tokens, width, seed=1), "teacher_head": normal(vocabulary, width, seed=2),
    }  # fmt: skip
    upstream = torch.ones(tokens) if even else torch.arange(tokens).double()
    with Largest() as largest:
        (LinearDivergence(**options, chunk=chunk)(**given) * upstream).sum().backward()
    assert largest.numel == chunk * vocabulary
    with Largest() as whole:
        plain(1.0)(logits(given, "student"), logits(given, "teacher")).sum().backward()
    assert whole.numel == tokens * vocabulary


def test_the_chunk_is_a_budget_of_logits() -> None:
    vocabulary = 2**20
    given = {
        "student": normal(20, 1).float(), "student_head": normal(vocabulary, 1).float(),
        "teacher": normal(20, 1, seed=1).float(), "teacher_head": normal(vocabulary, 1, seed=2).float(),
    }  # fmt: skip
    with Largest() as largest:
        LinearDivergence()(**given)
    assert largest.numel == 10 * vocabulary  # two parts alike, of at most 16


def test_only_valid_tokens_are_multiplied() -> None:
    given, mask = ports(64, bias=False), torch.arange(64) < 5
    with Largest() as largest:
        LinearDivergence()(**given, mask=mask).sum().backward()
    assert largest.numel == 64 * 6  # the gradient of all hidden states; all logits are 64 * 11


# -- in a graph ---------------------------------------------------------------------------------------------------


class Language(nn.Module):
    """A tiny language model with a head that counts its calls."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embed = nn.Embedding(VOCABULARY, width)
            self.body = nn.GRU(width, width, batch_first=True)
            self.lm_head = nn.Linear(width, VOCABULARY, bias=False)
        self.calls = 0
        self.lm_head.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1

    def forward(self, ids: Tensor) -> Tensor:
        return self.lm_head(self.body(self.embed(ids))[0])  # type: ignore[no-any-return]


FUSED = {
    "use": "core.linear_divergence", "divergence": "jsd", "temperature": 2.0, "chunk": 4,
    "student": "student/lm_head.input", "student_head": "student/lm_head.weight",
    "teacher": "teacher/lm_head.input", "teacher_head": "teacher/lm_head.weight",
}  # fmt: skip
ON_LOGITS = {"use": "core.jsd", "temperature": 2.0, "student": "student.logits", "teacher": "teacher.logits"}


def stepped(loss: dict[str, Any], precision: str = "fp32") -> tuple[list[float], nn.Module, list[Language]]:
    networks = [Language(6, 0), Language(5, 1)]
    batch = {
        "ids": torch.randint(0, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(0)),
        "mask": torch.arange(7) < torch.tensor([[7], [2], [4]]),
        "weight": torch.tensor([0.5, 1.0, 2.0]),
    }
    train = {"steps": 3, "lr": 0.01, "device": "cpu", "precision": precision}
    recipe = mmkd.load_recipe({"student": {}, "teacher": {}, "losses": {"kd": loss}, "train": train})
    nodes = {
        name: mmkd.wrap(network, inputs=["ids"], outputs="logits")
        for name, network in zip(("student", "teacher"), networks, strict=True)
    }
    graph = mmkd.build(recipe, nodes=nodes, example=batch)
    before = [network.calls for network in networks]
    optimizers = mmkd.optimizers(graph, recipe.train)
    losses = [float(graph.step(batch, optimizers)["loss"].detach()) for _ in range(3)]
    for network, calls in zip(networks, before, strict=True):
        network.calls -= calls
    return losses, networks[0], networks


@pytest.mark.parametrize("more", [{}, {"mask": "batch.mask"}, {"mask": "batch.mask", "sample_weight": "batch.weight"}])
def test_a_run_on_taps_is_a_run_on_logits(more: dict[str, str]) -> None:
    made, student, networks = stepped({**FUSED, **more})
    wanted, plain, others = stepped({**ON_LOGITS, **more})
    assert made == pytest.approx(wanted, rel=1e-5)
    for (name, own), other in zip(student.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6, msg=name)
    assert [network.calls for network in networks] == [0, 0] and [network.calls for network in others] == [3, 3]


# -- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"teacher": normal(3, 4)}, "not the same tokens"),
        ({"student_head": normal(11, 5)}, "does not go into student_head"),
        ({"teacher_head": normal(12, 4)}, "vocabularies of 11 and 12"),
        ({"mask": torch.ones(4)}, "not one number per token"),
    ],
)
def test_what_does_not_fit_is_named(changed: dict[str, Tensor], said: str) -> None:
    with pytest.raises(GraphError, match=said):
        LinearDivergence()(**{**ports(5, bias=False), **changed})


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0.0},
        {"student_softcap": 0.0},
        {"teacher_softcap": -1.0},
        {"beta": 1.0},
        {"skew": 1.0},
        {"skew": -0.1},
        {"chunk": 0},
        {"divergence": "js"},
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        LinearDivergence(**wrong)
    with pytest.raises(RecipeError, match=f"losses.kd.{next(iter(wrong))}"):
        construct(LinearDivergence, wrong, lambda *_: None, "losses.kd")
    if "temperature" in wrong:
        scheduled = LinearDivergence()
        scheduled.temperature = 0.0
        with pytest.raises(RecipeError, match="greater than 0"):
            scheduled(**ports(3))
