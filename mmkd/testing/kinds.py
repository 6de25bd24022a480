"""The check of each kind."""

from __future__ import annotations

from collections.abc import Callable

from mmkd.testing.curator import check_curator
from mmkd.testing.dataset import check_dataset
from mmkd.testing.encoder import check_encoder
from mmkd.testing.loss import check_loss
from mmkd.testing.metric import check_metric
from mmkd.testing.mixer import check_mixer
from mmkd.testing.procedure import check_procedure
from mmkd.testing.projector import check_projector
from mmkd.testing.schedule import check_schedule

CHECKS: dict[str, Callable[..., list[str]]] = {
    "encoder": check_encoder,
    "projector": check_projector,
    "mixer": check_mixer,
    "loss": check_loss,
    "schedule": check_schedule,
    "curator": check_curator,
    "procedure": check_procedure,
    "metric": check_metric,
    "dataset": check_dataset,
}
"""By kind: a function of a class and what its author says of it. A kind without one is checked as an entry alone."""

SAMPLED = ("encoder", "curator")
"""Kinds whose checks take raw samples."""
