"""The non-finite guard: a bad step is skipped on the device, then the run stops and says which term it was."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor

from mmkd.errors import TrainingError
from mmkd.graph.training_graph import TrainingGraph


class Guard:
    """Reads the `finite` flag of each step without making the device wait for it."""

    def __init__(self, graph: TrainingGraph) -> None:
        self._graph = graph
        self._pending: deque[tuple[int, Mapping[str, Tensor], Tensor, torch.cuda.Event | None]] = deque()

    def watch(self, step: int, out: Mapping[str, Tensor]) -> None:
        """Queue this step's flag and look at those that have arrived.

        Raises:
            TrainingError: a step was not finite; names step, term and component.
        """
        event = None
        flag = out["finite"]
        if flag.is_cuda:
            flag = flag.to("cpu", non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._pending.append((step, out, flag, event))
        self.drain(wait=False)

    def drain(self, *, wait: bool = True) -> None:
        """Look at all flags, or at those that have arrived."""
        while self._pending:
            step, out, flag, event = self._pending[0]
            if event is not None and not event.query():  # type: ignore[no-untyped-call]
                if not wait:
                    return
                event.synchronize()
            self._pending.popleft()
            if not flag:
                raise self._error(step, out)

    def _error(self, step: int, out: Mapping[str, Tensor]) -> TrainingError:
        for term in self._graph.terms:
            loss = out[f"{term.name}_loss"]
            if not torch.isfinite(loss):
                what = f"loss '{term.name}' ({type(term.loss).__name__}) is {loss.item()} at step {step}"
                return TrainingError(f"{what}; the update was skipped", where=term.binding.where, next=_NEXT)
        bad = [n for n, p in self._graph.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
        of = f" of {bad[0]}" if bad else ""
        return TrainingError(
            f"the gradient{of} is not finite at step {step} though every loss is; the update was skipped",
            where="losses", exists=[t.name for t in self._graph.terms], next=_NEXT,
        )  # fmt: skip


_NEXT = "lower train.lr, set train.max_grad_norm=1.0, or use train.precision=fp32"
