"""The part of a run in which a scheduled number moves."""

from __future__ import annotations

from mmkd.errors import RecipeError


class Window:
    """Holds a number still before `begin` and after `until`, both fractions of all steps.

    Raises:
        RecipeError: not `0 <= begin <= until <= 1`.
    """

    def __init__(self, component: str, begin: float, until: float) -> None:
        if not 0 <= begin <= until <= 1:
            raise RecipeError(f"needs 0 <= begin <= until <= 1, not begin {begin} and until {until}", where=component)
        self.begin, self.until = begin, until

    def progress(self, step: int, total: int) -> float:
        """How much of the window has passed, from 0 to 1; 1 from `step = total` on."""
        first, last = self.begin * total, self.until * total
        if step >= last:
            return 1.0
        return (step - first) / (last - first) if step > first else 0.0
