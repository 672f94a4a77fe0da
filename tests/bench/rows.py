"""A line of the bench's table."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One budget: what was measured, the yardstick, the limit, in `unit`."""

    what: str
    measured: float
    yardstick: float
    limit: float
    unit: str

    @property
    def kept(self) -> bool:
        """Whether the budget was kept."""
        return self.measured <= self.limit
