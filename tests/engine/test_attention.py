import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mmkd
from mmkd.engine import attention
from mmkd.engine.attention import decide
from mmkd.engine.rerouting import Rerouting
from mmkd.errors import TrainingError

CPU = torch.device("cpu")


class LowerTriangularMask:
    """As xformers': a causal mask that is never written out."""


def plain(query, key, value, attn_bias=None, p=0.0, scale=None):
    """What `memory_efficient_attention` computes: `[B, L, heads, D]`, softmax(q k / sqrt(D) + bias) v."""
    q, k, v = (t.transpose(1, 2) for t in (query, key, value))
    if q.shape[1] != k.shape[1]:
        raise ValueError("query and key differ in heads")
    scores = q @ k.transpose(-2, -1) * (scale if scale is not None else q.shape[-1] ** -0.5)
    if isinstance(attn_bias, LowerTriangularMask):
        scores = scores + torch.full(scores.shape[-2:], -torch.inf, dtype=scores.dtype).triu(1)
    elif attn_bias is not None:
        assert attn_bias.shape == scores.shape and attn_bias.dtype == query.dtype and attn_bias.stride(-2) % 8 == 0
        scores = scores + attn_bias
    return (F.dropout(scores.softmax(-1), p) @ v).transpose(1, 2)


@pytest.fixture
def xformers(monkeypatch):
    """Makes `xformers.ops` a module whose kernel is the given function."""

    def install(kernel=plain):
        ops = types.ModuleType("xformers.ops")
        ops.memory_efficient_attention, ops.LowerTriangularMask = kernel, LowerTriangularMask
        package = types.ModuleType("xformers")
        package.ops = ops
        monkeypatch.setitem(sys.modules, "xformers", package)
        monkeypatch.setitem(sys.modules, "xformers.ops", ops)

    return install


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers", None)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def wrong_gradient(query, key, value, **options):
    return plain(query, Doubled.apply(key), value, **options)


def wrong_mask(query, key, value, attn_bias=None, **options):
    return plain(query, key, value, attn_bias=None, **options)


def not_finite(query, key, value, **options):
    return plain(query, key, value, **options) * torch.nan


def no_kernel(query, key, value, **options):
    raise NotImplementedError("No operator found for `memory_efficient_attention_forward`\nwith inputs ...")


# -- the decision -------------------------------------------------------------------------------------------------


def test_without_xformers_torch_does_it_and_says_why(absent):
    assert str(decide("auto", CPU, torch.float32)) == "sdpa: xformers is not installed"
    assert decide("auto", CPU, torch.float32).rerouting() is None


@pytest.mark.parametrize("requested", ["auto", "xformers"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_kernel_that_is_right_is_taken(xformers, requested, dtype):
    xformers()
    decision = decide(requested, "cpu", dtype)
    assert decision.backend == "xformers" and decision.rerouting().dtype == dtype


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (no_kernel, "its probe fails on cpu in float32: NotImplementedError: No operator found"),
        (wrong_gradient, "its gradient of keys is .* away from torch's"),
        (wrong_mask, "its output with a causal mask is .* away"),
        (not_finite, "its output is nan away"),
    ],
)
def test_a_kernel_that_is_wrong_is_left(xformers, kernel, reason):
    xformers(kernel)
    decision = decide("auto", CPU, torch.float32)
    assert decision.backend == "sdpa"
    with pytest.raises(TrainingError, match=reason) as caught:
        decide("xformers", CPU, torch.float32)
    assert decision.reason in str(caught.value)
    assert "train.attention=auto" in caught.value.next


def test_sdpa_asks_no_xformers(xformers):
    xformers(no_kernel)
    assert str(decide("sdpa", CPU, torch.float32)) == "sdpa: asked for"


def test_derivatives_of_derivatives_stay_with_torch(xformers):
    xformers()
    decision = decide("auto", CPU, torch.float32, twice=True)
    assert str(decision) == "sdpa: a loss takes derivatives of derivatives, which it has not"
    with pytest.raises(TrainingError, match="xformers was asked for, but a loss takes derivatives of derivatives"):
        decide("xformers", CPU, torch.float32, twice=True)


def test_a_broken_installation_is_a_reason(monkeypatch):
    class Broken(types.ModuleType):
        def __getattr__(self, name):
            raise ImportError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setitem(sys.modules, "xformers", types.ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", Broken("xformers.ops"))
    monkeypatch.setattr(sys.modules["xformers"], "ops", Broken("ops"), raising=False)
    assert "libcudart" in decide("auto", CPU, torch.float32).reason


def test_the_probe_moves_no_random_numbers(xformers):
    xformers()
    before = torch.get_rng_state()
    with torch.no_grad():
        assert decide("auto", CPU, torch.float32).backend == "xformers"
    assert torch.equal(torch.get_rng_state(), before)


# -- the rerouting ------------------------------------------------------------------------------------------------


def tensors(heads=4, kv_heads=4, queries=6, keys=6, width=8):
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, heads, queries, width), (2, kv_heads, keys, width), (2, kv_heads, keys, width))
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


def both(shapes, **options):
    """Output and gradients by torch and under the mode."""
    mode, results = Rerouting(torch.float32), []
    for context in (None, mode):
        q, k, v = tensors(**shapes)
        if context is None:
            out = F.scaled_dot_product_attention(q, k, v, **options)
        else:
            with context:
                out = torch.nn.functional.scaled_dot_product_attention(q, k, v, **options)
        results.append([out, *torch.autograd.grad(out.square().sum(), (q, k, v))])
    return mode, results


PADDED = torch.ones(2, 1, 1, 6, dtype=torch.bool)
PADDED[1, ..., 4:] = False
NOWHERE = PADDED.expand(2, 1, 6, 6).clone()
NOWHERE[0, 0, 3] = False
BIAS = torch.linspace(-1, 1, 4 * 36).view(1, 4, 6, 6)


@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        ({}, {}),
        ({}, {"is_causal": True}),
        ({}, {"scale": 0.7}),
        ({}, {"attn_mask": PADDED}),
        ({}, {"attn_mask": NOWHERE}),
        ({}, {"attn_mask": BIAS}),
        ({}, {"attn_mask": BIAS.masked_fill(~NOWHERE, -torch.inf)}),
        ({}, {"attn_mask": BIAS[0, 0]}),
        ({"queries": 3, "keys": 11}, {}),
        ({"kv_heads": 2}, {"enable_gqa": True}),
        ({"kv_heads": 1}, {"enable_gqa": True, "is_causal": True}),
    ],
)
def test_forward_and_backward_equal_torch(xformers, shapes, options):
    xformers()
    mode, (expected, found) = both(shapes, **options)
    for right, got in zip(expected, found, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-5, atol=1e-5)
    assert (mode.taken, mode.left) == (1, {})


@pytest.mark.parametrize(
    ("shapes", "options", "reason"),
    [
        ({"queries": 3}, {"is_causal": True}, "not square"),
        ({"width": 8}, {"attn_mask": BIAS.clone().requires_grad_()}, "a mask that is trained"),
    ],
)
def test_what_it_does_not_take_stays_with_torch(xformers, shapes, options, reason):
    xformers()
    mode, (expected, found) = both(shapes, **options)
    for right, got in zip(expected, found, strict=True):
        torch.testing.assert_close(got, right)
    assert mode.taken == 0
    assert reason in str(mode)


def test_other_arithmetic_and_layouts_stay_with_torch(xformers):
    xformers()
    mode = Rerouting(torch.float32)
    with mode:
        F.scaled_dot_product_attention(*(t.double() for t in tensors()))
        F.scaled_dot_product_attention(*(t[0] for t in tensors()))
    assert mode.taken == 0
    assert mode.left == {"in float64, where float32 was probed": 1, "not of four dimensions": 1}


def test_a_call_without_a_kernel_stays_with_torch(xformers):
    xformers(no_kernel)
    mode, (expected, found) = both({})
    torch.testing.assert_close(found, expected)
    assert str(mode).endswith("1 left to torch (NotImplementedError: No operator found for "
                              "`memory_efficient_attention_forward`)")  # fmt: skip


def test_dropout_reaches_the_kernel(xformers):
    seen = []
    xformers(lambda *args, p=0.0, **options: seen.append(p) or plain(*args, p=p, **options))
    with Rerouting(torch.float32):
        F.scaled_dot_product_attention(*tensors(), dropout_p=0.25)
    assert seen == [0.25]


def test_under_autocast_the_kernel_gets_half_precision(xformers):
    xformers()
    mode = Rerouting(torch.bfloat16)
    with mode, torch.autocast("cpu", torch.bfloat16):
        out = F.scaled_dot_product_attention(*tensors())
    assert out.dtype == torch.bfloat16 and mode.taken == 1


@pytest.mark.parametrize("training", [True, False])
def test_multi_head_modules_are_rerouted_too(xformers, training):
    xformers()
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True).train(training)
    x, mode, padding = torch.randn(3, 5, 16), Rerouting(torch.float32), torch.zeros(3, 5, dtype=torch.bool)
    padding[0, 3:] = True
    grad = torch.enable_grad if training else torch.no_grad
    with grad():
        expected = layer(x, src_key_padding_mask=padding)
        with mode:
            found = layer(x, src_key_padding_mask=padding)
    torch.testing.assert_close(found[~padding], expected[~padding], rtol=1e-5, atol=1e-5)
    assert mode.taken == 1


# -- in a graph ---------------------------------------------------------------------------------------------------


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x):
        q, k, v = self.qkv(x).view(len(x), -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.head(y.transpose(1, 2).flatten(2).mean(1))


def graph(choice, precision="fp32"):
    torch.manual_seed(0)
    recipe = {
        "teacher": {}, "student": {},
        "losses": {"kd": {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits"}},
        "train": {"steps": 1, "attention": choice, "precision": precision, "device": "cpu"},
    }  # fmt: skip
    nodes = {name: mmkd.wrap(Attentive(), inputs=["x"]) for name in ("teacher", "student")}
    return mmkd.build(recipe, nodes=nodes, example=batch())


def batch():
    return {"x": torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(3))}


def gradients(graph):
    graph(batch())["loss"].backward()
    return [p.grad for p in graph.parameters() if p.grad is not None]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_graph_uses_xformers_in_every_network(xformers, precision):
    xformers()
    plain_graph, rerouted = graph("sdpa", precision), graph("xformers", precision)
    tolerance = {"fp32": 1e-5, "bf16": 3e-2}[precision]
    rerouted.attention.taken = 0
    torch.testing.assert_close(gradients(rerouted), gradients(plain_graph), rtol=tolerance, atol=tolerance)
    assert str(rerouted.attention) == "2 calls by xformers"
    assert plain_graph.attention is None


def test_a_graph_without_xformers_is_not_touched(absent):
    built = graph("auto")
    assert built.attention is None
    assert built.decided == {"attention": "sdpa: xformers is not installed"}
    with pytest.raises(TrainingError, match=r"train.attention: xformers was asked for, but xformers is not installed"):
        graph("xformers")


def test_explain_says_who_computes_attention(absent):
    from mmkd.report.explain import explain

    assert "attention   sdpa: xformers is not installed" in explain(graph("auto"))


def test_the_tolerance_is_above_rounding(xformers):
    xformers()
    for dtype in attention.TOLERANCE:
        assert decide("auto", CPU, dtype).backend == "xformers"
