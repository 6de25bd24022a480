"""Probes that any component made of tensors must pass: losses, projectors, encoders."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.components import Critic
from mmkd.errors import MmkdError
from mmkd.signature import options
from mmkd.testing.probe import NotApplicable, ProbeFailure, Probes, require
from mmkd.testing.sameness import difference, inner_state, mapped, tensors
from mmkd.testing.specimen import Specimen, seeded
from mmkd.testing.surroundings import TORCH_RANDOM, changed, surroundings

TOLERANCE = 1e-4


class ModuleCase:
    """A component made of tensors, and inputs that it takes.

    Args:
        specimen: makes instances.
        inputs: what `forward` is called with, by port; None until `made` is called.
        inert: options that need not change anything.
    """

    evaluates = False
    """Whether probes run it in evaluation mode."""

    def __init__(self, specimen: Specimen, inputs: Mapping[str, Any], inert: tuple[str, ...] = ()) -> None:
        self.specimen, self.inputs, self.inert = specimen, dict(inputs), inert

    def fresh(self, seed: int = 0, changed: Mapping[str, Any] | None = None) -> Any:
        """An instance, ready to be called."""
        made = self.specimen.fresh(seed, changed)
        with seeded(seed):
            self.prepare(made)
        return made.eval() if self.evaluates else made

    def prepare(self, module: Any) -> None:
        """What the host does before the first call."""

    def arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs as one call takes them: copies, so that nothing is handed on."""
        return mapped(lambda t: t if t.requires_grad else t.clone(), inputs)  # type: ignore[no-any-return]

    def run(self, module: Any, inputs: Mapping[str, Any] | None = None, seed: int = 0) -> Any:
        """The output of one call, its random numbers being those of `seed`."""
        with seeded(seed):
            return module(**self.arguments(self.inputs if inputs is None else inputs))

    def behaviour(self, module: Any) -> Any:
        """Output, gradients, shapes of parameters, and what the host reads of critics."""
        inputs = self.inputs if self.carries_graph else mapped(_leaf, self.inputs)
        made = self.run(module, inputs)
        slopes = gradients(made, [t for t in tensors(inputs) if t.requires_grad])
        critics = [(m.ascend, m.steps, m.lr) for m in module.modules() if isinstance(m, Critic)]
        shapes = {name: list(t.shape) for name, t in module.state_dict().items()}
        return kept([made, slopes, critics, shapes])

    @property
    def carries_graph(self) -> bool:
        """Whether the author's inputs hang together by a graph of their own, and so cannot be converted or cut."""
        return any(t.requires_grad for t in tensors(self.inputs))

    @property
    def random(self) -> bool:
        """Whether a call draws random numbers."""
        module = self.fresh()
        return bool(difference(self.run(module, seed=1), self.run(module, seed=2)))

    def convertible(self) -> None:
        if self.carries_graph:
            raise NotApplicable


MODULE = Probes()


@MODULE("give inputs={...} and options={...} to the check, or let example() return valid inputs by port", first=True)
def runs(case: ModuleCase) -> None:
    """Nothing else can be said of a component that does not run on its own example."""
    refuses_to_build(case.specimen)
    case.run(case.fresh())


@MODULE("draw from torch's global generator (the host saves it), or from none; no time, ids or set order")
def deterministic(case: ModuleCase) -> None:
    """A run must be repeatable and resumable bit for bit."""
    first, second = case.fresh(), case.fresh()
    found = difference(case.run(first), case.run(second))
    require(not found, f"two equal instances give different outputs: {found}")
    found = difference(case.run(first), case.run(first))
    require(not found, f"a second call gives another output: {found}")


@MODULE("create tensors and counters in setup(), and change them in update() alone")
def forward_keeps_state(case: ModuleCase) -> None:
    """The host may call forward any number of times: to probe shapes, for a gradient cache, in a phase."""
    module = case.fresh()
    before = kept(inner_state(module))
    case.run(module)
    found = difference(*(_counted(state) for state in (before, inner_state(module))))
    require(not found, f"forward changed the state: {found}")
    before = kept(inner_state(module))  # what it may have noted about options and settings is noted by now
    case.run(module)
    found = difference(before, inner_state(module))
    require(not found, f"forward changed the state: {found}")


@MODULE("create every parameter in __init__ or setup(**shapes)")
def parameters_declared(case: ModuleCase) -> None:
    """A parameter that is born in forward is in no optimiser, on no device and in no checkpoint."""
    module = case.fresh()
    before = set(dict(module.named_parameters())) | set(dict(module.named_buffers()))
    case.run(module)
    born = (set(dict(module.named_parameters())) | set(dict(module.named_buffers()))) - before
    require(not born, f"forward created {', '.join(sorted(born))}")
    held = {id(p) for p in module.parameters()}
    loose = [
        f"{path or type(inner).__name__}.{name}"
        for path, inner in module.named_modules()
        for name, value in vars(inner).items()
        if name not in ("_parameters", "_buffers", "_modules")
        for p in _parameters(value)
        if id(p) not in held
    ]
    require(not loose, f"parameters outside of the module: {', '.join(dict.fromkeys(loose))}")


@MODULE("compute on copies: `x = x + 1`, not `x += 1`; no `_` methods on what forward is given")
def inputs_untouched(case: ModuleCase) -> None:
    """A value has other readers, who would read what this component wrote."""
    module, given = case.fresh(), case.arguments(case.inputs)
    before, needed = kept(given), [t.requires_grad for t in tensors(given)]
    listed = {name: list(value) for name, value in given.items() if isinstance(value, list)}
    with seeded(0):
        module(**given)
    found = difference(before, given)
    require(not found, f"forward wrote into its input: {found}")
    require([t.requires_grad for t in tensors(given)] == needed, "forward changed requires_grad of its input")
    require(all(len(given[name]) == len(listed[name]) for name in listed), "forward changed the list it was given")


@MODULE("register what must survive as buffers or parameters, on setup; what is made of options needs no saving")
def state_is_saved(case: ModuleCase) -> None:
    """What is not in state_dict() is lost when a run is resumed, and the numbers silently change."""
    first, second = case.fresh(seed=0), case.fresh(seed=1)
    second.load_state_dict(first.state_dict())
    found = difference(case.run(first), case.run(second), tolerance=1e-6)
    require(not found, f"an instance that loads another's state_dict() gives another output: {found}")


@MODULE("make tensors of the input's dtype: `x.new_zeros(...)`, `torch.eye(n, dtype=x.dtype, device=x.device)`")
def keeps_float64(case: ModuleCase) -> None:
    """An oracle in double precision, and a gradient check, are worth nothing where part of it is rounded to float32."""
    case.convertible()
    wide = {name: mapped(_double, value) for name, value in case.inputs.items()}
    made = [t for t in tensors(case.run(case.fresh().double(), wide)) if t.is_floating_point()]
    narrow = [str(t.dtype).removeprefix("torch.") for t in made if t.dtype != torch.float64]
    require(not narrow, f"float64 went in and {', '.join(dict.fromkeys(narrow))} came out")
    plain = [t for t in tensors(case.run(case.fresh())) if t.is_floating_point()]
    if not case.random:
        found = difference([t.double() for t in plain], made, tolerance=1e-2)
        require(not found, f"float64 gives another result than float32: {found}")


@MODULE("make tensors on the input's device: `x.new_zeros(...)`, `torch.arange(n, device=x.device)`, or buffers")
def follows_device(case: ModuleCase) -> None:
    """A tensor made on the CPU stops the first run on a GPU."""
    case.convertible()
    module = case.fresh().to("meta")
    inputs = {name: mapped(lambda t: t.to("meta"), value) for name, value in case.inputs.items()}
    try:
        made = tensors(case.run(module, inputs))
    except (RuntimeError, ValueError) as error:
        text = str(error).lower()
        if "device" in text and "meta" in text and "data-dependent" not in text and "item()" not in text:
            where = str(error).splitlines()[0]
            raise ProbeFailure(f"does not run on another device than the CPU: {where}") from error
        raise NotApplicable from error  # it looks at values, which this device has none of
    except (NotImplementedError, TypeError, MmkdError) as error:
        raise NotApplicable from error
    left = [t.device for t in made if t.device.type != "meta"]
    require(not left, f"inputs on another device, output on {left[:1]}")


@MODULE("leave global settings alone; draw from a torch generator of your own, or from torch's global one in forward")
def surroundings_kept(case: ModuleCase) -> None:
    """Seeds, dtypes, threads and the environment belong to the run; who changes them changes everybody's numbers."""
    before = surroundings()
    module = case.fresh()
    if found := changed(before, allowed=frozenset({TORCH_RANDOM})):
        raise ProbeFailure(f"making it changed {', '.join(found)}")
    module(**case.arguments(case.inputs))
    if found := changed(before, allowed=frozenset({TORCH_RANDOM})):
        raise ProbeFailure(f"forward changed {', '.join(found)}")
    left = []
    for seed in (1, 2):
        torch.default_generator.manual_seed(seed)
        module(**case.arguments(case.inputs))
        left.append(torch.get_rng_state())
    require(not torch.equal(*left), "forward sets torch's random seed")


@MODULE("keep no lambdas, open files, generators or hooks in attributes")
def copies(case: ModuleCase) -> None:
    """The host copies components for a baseline and for an average of weights."""
    module = case.fresh()
    found = difference(case.run(module), case.run(copy.deepcopy(module)))
    require(not found, f"a deep copy gives another output: {found}")


def options_matter(case: ModuleCase) -> None:
    """An option that does nothing is a typo or a lost line, and users will tune it."""
    idle = idle_options(case)
    require(not idle, f"nothing changes with option {', '.join(idle)}")


def idle_options(case: Any) -> list[str]:
    """Options of which every other value behaves the same."""
    names = [name for name in options(case.specimen.cls) if name not in case.inert]
    if not isinstance(case.specimen.target, type) or not names:
        raise NotApplicable
    now, idle = case.behaviour(case.fresh()), []
    for name in names:
        tried = 0
        for value in case.specimen.others(name):
            try:
                other = case.behaviour(case.fresh(changed={name: value}))
            except Exception:  # this value needs other inputs or options
                continue
            tried += 1
            if difference(now, other):
                break
        else:
            if tried:
                idle.append(name)
    return idle


def refuses_to_build(specimen: Specimen) -> None:
    """Fail the probe where options without a default were not given."""
    if lacking := specimen.lacking:
        raise ProbeFailure(f"options without a default: {', '.join(lacking)}; give them: options={{...}}")


def gradients(output: Any, sought: list[Tensor]) -> list[Tensor | None]:
    """Gradient of the sum of all outputs; None where there is none."""
    moving = [t for t in tensors(output) if t.requires_grad]
    if not moving or not sought:
        return [None] * len(sought)
    total = torch.stack([t.sum().to(torch.float64) for t in moving]).sum()
    return list(torch.autograd.grad(total, sought, allow_unused=True, retain_graph=True))


def nudged(module: Any) -> Any:
    """The module after a little training: layers that begin at zero have begun to act."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return module


def kept(value: Any) -> Any:
    """A copy that later writes do not reach."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: kept(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [kept(item) for item in value]
    if isinstance(value, nn.Module):
        return value
    try:
        return copy.deepcopy(value)
    except Exception:  # what cannot be copied is compared as it is
        return value


def _counted(state: Mapping[str, Any]) -> dict[str, Any]:
    """What is tensor or number."""
    return {
        name: value
        for name, value in state.items()
        if tensors(value) or (isinstance(value, int | float) and not isinstance(value, bool))
    }


def _parameters(value: Any) -> list[nn.Parameter]:
    if isinstance(value, nn.Module):
        return list(value.parameters())
    if isinstance(value, list | tuple | dict):
        return [p for item in (value.values() if isinstance(value, dict) else value) for p in _parameters(item)]
    return [value] if isinstance(value, nn.Parameter) else []


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.clone().requires_grad_() if tensor.is_floating_point() else tensor


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
