"""A number of a recipe that follows a schedule."""

from __future__ import annotations

from dataclasses import dataclass

from mmkd.components import Schedule


@dataclass
class Scheduled:
    """An option of a component, or one item of it, that follows a schedule."""

    module: object
    option: str
    schedule: Schedule
    item: int | None = None

    def set(self, step: int, total: int) -> None:
        """Give the option its value at this step."""
        if self.item is None:
            setattr(self.module, self.option, self.schedule(step, total))
        else:
            getattr(self.module, self.option)[self.item] = self.schedule(step, total)
