"""What a projector must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkd import MmkdError, Projector
from mmkd.signature import ports
from mmkd.testing.module import MODULE, TOLERANCE, ModuleCase, gradients, nudged, options_matter, refuses_to_build
from mmkd.testing.probe import ProbeFailure, Probes, ask, require
from mmkd.testing.sameness import difference, mapped, tensors
from mmkd.testing.specimen import Specimen
from mmkd.testing.surroundings import preserved

Shape = Sequence[int]
LAYOUTS: tuple[tuple[Shape, Shape], ...] = (
    ((4, 8), (4, 6)),
    ((4, 5, 8), (4, 5, 6)),
    ((4, 3, 8, 8), (4, 5, 4, 4)),
    ((4, 5, 8), (4, 6)),
    ((4, 3, 8, 8), (4, 6)),
)
"""Input and model: embeddings, sequences, maps, and embeddings of either."""


class ProjectorCase(ModuleCase):
    """A projector between two shapes."""

    def __init__(
        self, specimen: Specimen, input: Shape | None, like: Shape | None, inert: tuple[str, ...], given: Any = None
    ) -> None:
        super().__init__(specimen, {}, inert)
        self.like: torch.Size | None = None
        self.refused: list[str] = []
        self.layouts: tuple[tuple[Shape, Shape], ...] = ()
        self.options_now: Mapping[str, Any] | None = None
        port = ports(specimen.cls).get("input")
        self.many = port is not None and port.many
        if given is not None:
            self.inputs, self.like = dict(given), torch.Size(like) if like else None
            return
        self.layouts = LAYOUTS if input is None else ((input, like or input),)
        for shape, model in self.layouts:
            self.lay_out(shape, model)
            try:
                with preserved():
                    self.run(self.fresh())
            except Exception as error:
                self.refused.append(f"{list(shape)} like {list(model)}: {error}")
            else:
                break

    def lay_out(self, shape: Shape, model: Shape) -> None:
        """Take an input and a model of these shapes."""
        generator = torch.Generator().manual_seed(0)
        made = torch.randn(*shape, generator=generator)
        self.inputs = {"input": [made, torch.randn(*shape, generator=generator)] if self.many else made}
        self.like = torch.Size(model)

    def behaviour(self, module: Any) -> Any:
        """Under every layout that it takes."""
        before, changed = (self.inputs, self.like), self.options_now
        found = []
        for shape, model in self.layouts:
            self.lay_out(shape, model)
            try:
                found.append(super().behaviour(self.fresh(changed=changed)))
            except Exception as error:
                found.append(type(error).__name__)
        self.inputs, self.like = before
        return found

    def fresh(self, seed: int = 0, changed: Mapping[str, Any] | None = None) -> Any:
        self.options_now = changed
        return super().fresh(seed, changed)

    def prepare(self, module: Any) -> None:
        shapes: dict[str, Any] = {
            name: [t.shape for t in value] if isinstance(value, list) else value.shape
            for name, value in self.inputs.items()
        }
        if self.like is not None:
            shapes["like"] = self.like
        if type(module).setup is not Projector.setup:
            module.setup(**shapes)


PROJECTOR = Probes()


@PROJECTOR("derive Projector, build the layers in setup(input=shape, like=shape)", first=True)
def takes_a_layout(case: ProjectorCase) -> None:
    """Embeddings [B, D], sequences [B, L, D] or maps [B, C, H, W]: a projector takes at least one of them."""
    refuses_to_build(case.specimen)
    require(not case.layouts or len(case.refused) < len(case.layouts), "takes no layout: " + "; ".join(case.refused))
    case.run(case.fresh())


@PROJECTOR("infer the width from `like`; users never type one")
def makes_the_shape(case: ProjectorCase) -> None:
    """The value it makes stands where the teacher's would, and losses do not broadcast."""
    made = case.run(case.fresh())
    require(isinstance(made, Tensor), f"returns {type(made).__name__}, not a tensor")
    size = len(tensors(case.inputs)[0])
    require(len(made) == size, f"returns {list(made.shape)} for a batch of {size}")
    if case.like is not None and type(case.fresh()).setup is not Projector.setup:
        axis = 1 if len(case.like) == 4 else -1
        require(made.dim() == len(case.like), f"returns {list(made.shape)}, not a value like {list(case.like)}")
        require(made.shape[axis] == case.like[axis], f"returns {list(made.shape)}, not the width of {list(case.like)}")


@PROJECTOR("raise mmkd.errors.RecipeError('has no layers yet', next='call setup(...)') before setup")
def says_when_not_set_up(case: ProjectorCase) -> None:
    """In plain Python setup is easily forgotten."""
    module = case.specimen.fresh()
    if type(module).setup is Projector.setup or not isinstance(case.specimen.target, type):
        return
    try:
        case.run(module)
    except MmkdError:
        return
    except Exception as error:
        raise ProbeFailure(f"without setup it raises {type(error).__name__}: {error}") from error
    raise ProbeFailure("runs without setup")


@PROJECTOR("use every parameter, and the input's own tensor, in forward")
def gradient(case: ProjectorCase) -> None:
    """It stands between student and loss: what it stops, the student never learns."""
    module = nudged(case.fresh())
    given = mapped(lambda t: t.clone().requires_grad_(), case.inputs)
    made = case.run(module, given)
    weighed = made * torch.randn(made.shape, generator=torch.Generator().manual_seed(0))
    named = dict(module.named_parameters())
    slopes = gradients(weighed, [*tensors(given), *named.values()])
    for name, slope in zip([*(["input"] * len(tensors(given))), *named], slopes, strict=True):
        require(slope is not None and bool(slope.isfinite().all()), f"no finite gradient reaches '{name}'")
    for slope in slopes[: len(tensors(given))]:
        require(slope is not None and slope.abs().max() > 0, "no gradient reaches the input")


@PROJECTOR("use norms over features (LayerNorm, GroupNorm), or BatchNorm by the user's choice only")
def samples_apart(case: ProjectorCase) -> None:
    """In evaluation a sample's value must not depend on its neighbours in the batch."""
    module = case.fresh().eval()
    whole = case.run(module)
    for i in range(len(whole)):
        alone = case.run(module, mapped(lambda t: t[i : i + 1], case.inputs))  # noqa: B023
        found = difference(whole[i : i + 1], alone, tolerance=TOLERANCE)
        require(not found, f"sample {i} alone gives another value: {found}")


PROJECTOR("use it in __init__, setup or forward, or remove it")(options_matter)


def check_projector(
    target: Any,
    *,
    options: Mapping[str, Any] | None = None,
    input: Shape | None = None,
    like: Shape | None = None,
    inputs: Mapping[str, Any] | None = None,
    inert: tuple[str, ...] = (),
) -> list[str]:
    """Ask a projector everything that the contract promises; returns the names of the probes that ran.

    Args:
        target: a class, or an instance, of which copies are made before its `setup`.
        options: options of the class.
        input: shape of its input; otherwise an embedding, a sequence or a map, the first that it takes.
        like: shape that it must produce.
        inputs: values by port, instead of `input`.
        inert: options that need not change anything on this example.

    Raises:
        ConformanceError: some probes failed; it names all of them.
    """
    specimen = Specimen(target, options)
    case = ProjectorCase(specimen, input, like, inert, inputs)
    return ask(f"projector {specimen.cls.__name__}", case, [*PROJECTOR[:1], *MODULE, *PROJECTOR[1:]])
