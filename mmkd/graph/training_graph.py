"""The training graph: one `nn.Module` that maps a batch to named losses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmkd.components import Critic, Curator, Part, Sample, Schedule, trainable
from mmkd.errors import GraphError
from mmkd.graph import ranks
from mmkd.graph.apart import check as check_groups
from mmkd.graph.binding import Binding
from mmkd.graph.collate import Collator
from mmkd.graph.curation import curated
from mmkd.graph.node import Node
from mmkd.graph.objective import Objective, together
from mmkd.graph.phase import Phase
from mmkd.graph.plan import Plan, located, preserved
from mmkd.graph.scheduled import Scheduled
from mmkd.graph.settle import settle
from mmkd.graph.state import complete, omit_constant
from mmkd.graph.step import take
from mmkd.graph.term import Term
from mmkd.graph.update import Updates
from mmkd.graph.value import Address, parse
from mmkd.graph.weighting import Weighting, check_learnable, check_readers, learning
from mmkd.procedure import Procedure


class TrainingGraph(nn.Module):
    """Maps a batch to `loss` and one `<name>_loss` per term, running only what the losses need.

    Made by `mmkd.build`. In any loop:

        out = graph(batch)
        out["loss"].backward()
        optimizer.step()
        graph.update()          # schedules move on, averages follow, queues take in the batch

    `train()` never thaws a frozen teacher; `state_dict()` leaves out what is constant.

    Args:
        nodes: networks with their roles.
        projectors: projectors as bound.
        terms: losses as bound, with weights; those of a schedule's phase among them.
        scheduled: options that follow a schedule.
        mixers: mixers as bound.
        schedules: schedules that weights name, as bound.
        total_steps: length of the run, for schedules.
        precision: `fp32`, or `bf16` for autocast of networks and projectors; mixers and losses read float32.
    """

    def __init__(
        self,
        nodes: Mapping[str, Node],
        projectors: Mapping[str, Binding] | None = None,
        terms: Sequence[Term] = (),
        scheduled: Sequence[Scheduled] = (),
        *,
        mixers: Mapping[str, Binding] | None = None,
        schedules: Mapping[str, Weighting] | None = None,
        total_steps: int = 1,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        self.roles, self.weightings = dict(nodes), dict(schedules or {})
        self.terms = [term for term in terms if not term.phase]
        """The terms of the objective."""
        lessons = {name: [term for term in terms if term.phase == name] for name in self.weightings}
        self.lessons = {name: lessons[name] for name in learning(self.weightings, self.terms, lessons)}
        """By schedule that learns: the terms that it learns from, in its own phase."""
        self.bound: dict[str, Binding] = {**(projectors or {}), **(mixers or {}), **self.weightings}
        """Projectors, mixers and schedules by name."""
        self.scheduled, self.total_steps, self.precision = list(scheduled), total_steps, precision
        self.steps = 0
        """Optimiser steps applied so far."""
        self.attention: contextlib.AbstractContextManager[Any] | None = None
        """Entered around the networks' forward passes, to have attention computed by others than torch."""
        self.decided: dict[str, str] = {}
        """What was decided for this machine when the graph was built, each with its reason."""
        self.drift: dict[str, Mapping[str, float]] = {}
        """By network that runs in a form of its own: relative error of its values against float32."""
        self.nodes = _named({name: node.encoder for name, node in self.roles.items()})
        self.projectors = _named({name: b.module for name, b in (projectors or {}).items()})
        self.mixers = _named({name: b.module for name, b in (mixers or {}).items()})
        averages = {name: node.average for name, node in self.roles.items() if node.average is not None}
        self.averages = _named(averages)
        self._followers = [(a, self.roles[name].encoder, self.roles[a.of].encoder) for name, a in averages.items()]
        self.losses = _named({term.name: term.loss for term in terms})
        plain = {str(i): schedule for i, schedule in enumerate(self._schedules())}
        self.schedules = _named({**plain, **{name: weighting.module for name, weighting in self.weightings.items()}})
        self.plan = Plan(self.roles, self.bound, self._readers(), inner=True)
        """All that is read in a step."""
        check_readers(self.weightings, self._all_terms(), self.plan.derived)
        self.plans = self._phase_plans()
        """What each phase reads, where they do not all read the same."""
        self.exported: tuple[str, ...] = ()
        """Networks, projectors and mixers that the exported model keeps."""
        self.curators: tuple[Curator, ...] = ()
        """Those that change whole batches."""
        self.seed = 0
        """Seed of their draws."""
        self.procedure: Procedure | None = None
        """How a step is made, where the recipe says so."""
        self.groups: dict[str, list[str]] = {}
        """Names of losses whose gradients are kept apart until the optimiser, by group."""
        self.phases: tuple[Phase, ...] = ()
        self._updates = Updates()
        self.register_state_dict_post_hook(omit_constant)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(complete)  # type: ignore[no-untyped-call]
        for node in self.roles.values():
            if not node.trained:
                node.freeze()

    def _schedules(self) -> Iterator[Schedule]:
        yield from (t.weight for t in self.terms if isinstance(t.weight, Schedule))
        yield from (s.schedule for s in self.scheduled)

    def _readers(self) -> Iterator[tuple[Address, str]]:
        for term in self._all_terms():
            yield from term.readers()

    def _all_terms(self) -> list[Term]:
        return [*self.terms, *(term for lessons in self.lessons.values() for term in lessons)]

    def _phase_plans(self) -> dict[str, Plan]:
        """The plan of the objective, and of every schedule's phase; none where there is no such phase."""
        terms = {"main": self.terms, **self.lessons} if self.lessons else {}
        read = {phase: (reader for term in of for reader in term.readers()) for phase, of in terms.items()}
        return {phase: Plan(self.roles, self.bound, own, inner=True) for phase, own in read.items()}

    # -- building -----------------------------------------------------------------------------------------------

    def setup(self, example: Mapping[str, Any]) -> Self:
        """Infer widths from one batch, then declare the phases. Moves no BatchNorm statistics and no RNG state."""
        self._apply_schedules()
        example = self.curate(example)
        with self._autocast():
            probe = Plan(self.roles, self.bound, self._readers(), inner=True, probing=True)
            values = probe.probe(example, self._setup)
            probe.close()
            settle(self, example, values)
            for plan in (self.plan, *self.plans.values()):
                plan.learn(example)
        check_learnable(self.weightings, self.lessons, self.plan.derived)
        for term in self._all_terms():
            with located(term.binding.where):
                self._setup(term.binding, values)
                with preserved([term.loss]):
                    term.probe(values)
        self.phases = tuple(self._phases())
        if self.procedure is not None:
            names = [term.name for term in self.terms]
            self.groups = check_groups(self.procedure.groups(names), names)
        bindings = [*self.plans.get("main", self.plan).derived, *(term.binding for term in self.terms)]
        self._updates = Updates(bindings)
        self.widths = {b.name: b.shapes(values) for b in self.plan.derived}
        """What each projector and mixer was set up with, by port."""
        self.sources = {run.id: run.sources(example) for run in self.plan.runs}
        """What feeds each network, by input."""
        self.shapes = {key: tuple(value.shape) for key, value in values.items() if isinstance(value, Tensor)}
        return self

    def _setup(self, binding: Binding, values: Mapping[str, Tensor]) -> None:
        if isinstance(binding.module, Part):
            binding.module.setup(**binding.shapes(values))
            binding.module.to(self.device)

    def _phases(self) -> Iterator[Phase]:
        owned: set[int] = set()
        for term in self.terms:
            for path, module in term.loss.named_modules():
                if isinstance(module, Critic):
                    parameters = tuple(trainable([module]))
                    owned.update(id(p) for p in parameters)
                    yield Phase(f"{term.name}.{path}", parameters, module.ascend, module.steps, module.lr, term.name)
        for name, weighting in self.weightings.items():
            parameters = tuple(trainable([weighting.module]))
            owned.update(id(p) for p in parameters)
            if name in self.lessons:
                yield Phase(name, parameters, lr=weighting.schedule.lr, schedule=True)
        students = [node.encoder for node in self.roles.values() if node.trained]
        modules = [*students, *(b.module for b in self.plan.derived), *self.losses.values(), self.schedules]
        yield Phase("main", tuple(p for p in trainable(modules) if id(p) not in owned))

    def owner(self, parameter: str) -> str:
        """Who a parameter of `named_parameters()` belongs to: `student`, `teacher`, `auxiliary` or `critic`."""
        head, _, rest = parameter.partition(".")
        if head == "nodes":
            return "student" if self.roles[rest.partition(".")[0]].trained else "teacher"
        critics = {id(p) for phase in self.phases if phase.term for p in phase.parameters}
        return "critic" if id(dict(self.named_parameters())[parameter]) in critics else "auxiliary"

    # -- running ------------------------------------------------------------------------------------------------

    def curate(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch as curators of batches change it at this step; `forward` (in training, with gradient) and `step`
        call it themselves.

        Raises:
            GraphError: the samples have no keys, by which random numbers are drawn.
        """
        if not self.curators:
            return batch
        self._apply_schedules()
        with self._autocast():
            return curated(self, batch)

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of one batch; `loss` is their weighted sum, `<name>_loss` each one before its weight."""
        if len(self.phases) != 1 and torch.is_grad_enabled():
            self.check_set_up()
            raise GraphError(
                "this graph has phases with optimisers of their own",
                exists=[phase.name for phase in self.phases],
                next="call graph.step(batch, optimizers)",
            )
        if self.training and torch.is_grad_enabled():
            batch = self.curate(batch)
        return self.objective(self.compute(batch))

    def check_set_up(self) -> None:
        """Raise a `GraphError` where `setup` has not been called."""
        if not self.phases:
            raise GraphError("the graph has not been set up", next="call graph.setup(example_batch)")

    def compute(self, batch: Mapping[str, Any], phase: str = "main") -> dict[str, Tensor]:
        """All values that the losses of a phase read, by address; schedules are where they are at this step."""
        plan = self.plans[phase] if self.plans else self.plan
        if self.scheduled or self.weightings:
            self._apply_schedules()
        if self.precision == "fp32" and self.attention is None:
            return plan.run(batch)
        with self._autocast():
            return plan.run(batch)

    def objective(self, values: Mapping[str, Tensor], *, note: bool = True) -> dict[str, Tensor]:
        """The losses of these values, which queues take in with the next step unless they are not to `note` them."""
        return self.weighed(values, self.whole(values), note=note).told

    def weighed(self, values: Mapping[str, Tensor], whole: Mapping[str, Tensor], *, note: bool = True) -> Objective:
        """The losses of these values term by term; `whole` is what `whole(values)` has made of them."""
        objective = Objective(self.terms, values, whole, self.steps, self.total_steps)
        if note:
            self.note(whole)
        return objective

    @property
    def told(self) -> list[str]:
        """Addresses of what `update` is told with every step."""
        return self._updates.reads

    def note(self, whole: Mapping[str, Tensor]) -> None:
        """Keep what `update` is to be told of these values, in training."""
        if self._updates and self.training and torch.is_grad_enabled():
            self._updates.note(whole)

    def whole(self, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The values, with those that coupled losses and `update` read as of the global batch."""
        if not together():
            return values
        for term in self.terms:
            if term.loss.coupled and term.loss.needs_graph:
                raise GraphError(
                    f"{type(term.loss).__name__} needs the whole batch and its graph, which ends at this process",
                    where=term.binding.where, next="train in one process",
                )  # fmt: skip
        coupled = [address.key for term in self.terms if term.loss.coupled for address, _ in term.readers()]
        told = [key for key in self._updates.reads if key not in coupled]
        return ranks.whole({**values, **{key: values[key].detach() for key in told}}, [*coupled, *told])

    def values(self, batch: Mapping[str, Any], addresses: Iterable[str]) -> dict[str, Tensor]:
        """Any values of the grammar for one batch, by address: `graph.values(batch, ["student.embedding"])`.

        Networks run as they are exported and evaluated: without inner inputs, which belong to training.
        """
        wanted = list(addresses)
        plan = self.reading(wanted)
        try:
            with self._autocast():
                values = plan.run(batch)
        finally:
            plan.close()
        return {address: values[parse(address).key] for address in wanted}

    def reading(self, addresses: Iterable[str]) -> Plan:
        """A plan for these values, to be kept where they are read many times."""
        return Plan(self.roles, self.bound, [(parse(a), a) for a in addresses])

    def step(
        self,
        batch: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        optimizers: Mapping[str, Optimizer],
        *,
        max_grad_norm: float | None = None,
        kept_graphs: int = 0,
    ) -> dict[str, Tensor]:
        """One optimiser step: every critic's phase, then the students'.

        Several batches are micro-batches of one: the step is that of all their samples together, also for coupled
        losses and critics, which see them whole (`mmkd.graph.gradient_cache`). Layers that take statistics of a batch
        take those of each micro-batch. A step with a non-finite loss or gradient is skipped by the optimiser on the
        device.

        Args:
            optimizers: one per phase, by name (`mmkd.engine.optimizer.optimizers(graph, ...)` makes them).
            kept_graphs: how many micro-batches are not computed twice where something needs the batch whole.

        Returns:
            The losses of `forward` (of all samples together), `finite`, and `grad_norm` where `max_grad_norm` is given,
            as detached tensors.

        Raises:
            GraphError: several batches for a loss or schedule that cannot do with them, or no parameter gets a
                gradient.
        """
        self.check_set_up()
        batches = [batch] if isinstance(batch, Mapping) else batch
        return take(self, [self.curate(part) for part in batches], optimizers, max_grad_norm, kept_graphs)

    def grad_norm(self) -> Tensor:
        """Norm of the gradient that the last step has left (after clipping)."""
        return torch.nn.utils.get_total_norm(self.phases[-1].gradients())

    def update(self) -> None:
        """Tell the graph that an optimiser step has been applied: schedules move on, averages follow their students,
        queues take in the batch."""
        self.advance(None)

    def advance(self, skipped: Tensor | None) -> None:
        """Count a step; nothing else moves where it was skipped, which is read on the device unless that is a CPU."""
        self.__dict__["steps"] += 1  # past nn.Module's own way, which is slow
        if skipped is not None and skipped.is_cpu:
            if skipped:
                self._updates.forget()
                return
            skipped = None
        for average, network, student in self._followers:
            average.update(network, student, self.steps, skipped)
        self._updates.apply(self.steps, self.total_steps)

    def _apply_schedules(self) -> None:
        for item in self.scheduled:
            item.set(self.steps, self.total_steps)
        for weighting in self.weightings.values():
            weighting.set(self.steps, self.total_steps)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        half = self.precision != "fp32"
        autocast = torch.autocast(self.device.type, torch.bfloat16) if half else contextlib.nullcontext()
        return autocast if self.attention is None else _both(self.attention, autocast)

    # -- samples ------------------------------------------------------------------------------------------------

    def collate(
        self,
        samples: Sequence[Sample],
        addresses: Iterable[str] | None = None,
        *,
        streams: Mapping[str, Sequence[Sample]] | None = None,
    ) -> dict[str, Any]:
        """Raw samples to a batch that holds what the losses read, or what `addresses` do, and not more.

        Args:
            samples: raw samples.
            addresses: values that will be read; those that the losses read unless given.
            streams: raw samples of further streams or views, for `student@unlabeled.logits`: `{"unlabeled": [...]}`.
        """
        return self.collator(addresses)(samples, streams)

    def collator(self, addresses: Iterable[str] | None = None, *, remembered: bool = False) -> Collator:
        """What makes batches of raw samples, for the losses or for these values.

        Before `setup` it also serves what projectors are to be `like`; a graph without losses reads everything.
        """
        if addresses is None and not self.terms:
            return Collator(list(self.roles.values()))
        plan = self.plan
        if addresses is not None:
            plan = self.reading(addresses)
        elif not self.phases:
            plan = Plan(self.roles, self.bound, self._readers(), inner=True, probing=True)
        if plan is not self.plan:
            plan.close()
        return Collator(plan.nodes, wanted=plan.wanted, remembered=remembered)

    @property
    def device(self) -> torch.device:
        tensor = next(self.parameters(), None)
        return tensor.device if tensor is not None else torch.device("cpu")

    # -- state --------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for node in self.roles.values():
            if not node.trained:
                node.encoder.eval()
        return self

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        self.steps = int(state)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `nn.Module.load_state_dict`; constant networks and the second names of tied weights may be absent."""
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            raise GraphError(f"the state does not fit this graph: {error}") from error


@contextlib.contextmanager
def _both(
    first: contextlib.AbstractContextManager[Any], second: contextlib.AbstractContextManager[Any]
) -> Iterator[None]:
    with first, second:
        yield


def _named(modules: Mapping[str, nn.Module]) -> nn.ModuleDict:
    """Modules by names of the user's choice; `half` or `values` may be among them."""
    held = nn.ModuleDict()
    held._modules.update(modules)
    return held
