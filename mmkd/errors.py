"""Errors that say what is wrong, where, what exists, the nearest name and the next command."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name`, whatever the case, or None where nothing comes close."""
    spelled = {candidate.casefold(): candidate for candidate in candidates}
    matches = difflib.get_close_matches(name.casefold(), list(spelled), n=1, cutoff=0.5)
    return spelled[matches[0]] if matches else None


class MmkdError(Exception):
    """Base of every error a user is meant to read.

    Args:
        what: what is wrong, one sentence without a final stop.
        where: file, recipe path or component it is wrong in (`recipe.yaml: losses.kd.teacher`).
        name: the name that was not understood; the nearest of `exists` is suggested for it.
        exists: what there is instead.
        next: the command or edit that helps.
    """

    def __init__(
        self, what: str, *, where: str = "", name: str = "", exists: Iterable[str] = (), next: str = ""
    ) -> None:
        self.what, self.where, self.exists, self.next = what, where, tuple(exists), next
        self.nearest = nearest(name, self.exists) if name else None
        super().__init__(self._text())

    def _text(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.nearest:
            text += f"; did you mean '{self.nearest}'?"
        if self.exists:
            shown, more = self.exists[:20], len(self.exists) - 20
            text += f"\n  there is: {', '.join(shown)}" + (f" and {more} more" if more > 0 else "")
        if self.next:
            text += f"\n  next: {self.next}"
        return text

    def at(self, where: str) -> MmkdError:
        """The same error with `where` put in front of its place."""
        self.where = f"{where}: {self.where}" if self.where else where
        self.args = (self._text(),)
        return self


class PluginError(MmkdError):
    """A plugin, or a component it registers, cannot be used."""


class RecipeError(MmkdError):
    """A recipe says something that cannot be run."""


class GraphError(MmkdError):
    """The training graph cannot be built, or a batch does not fit it."""


class DataError(MmkdError):
    """A dataset, sample or file cannot be read."""


class TrainingError(MmkdError):
    """A run cannot start, go on or be resumed."""


class CacheError(MmkdError):
    """Cached teacher outputs are damaged, or are not those that were asked for."""
