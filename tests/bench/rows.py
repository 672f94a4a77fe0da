"""A line of the bench's table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One budget: what was measured, the yardstick of the same run where there is one, and the limit, in `unit`."""

    what: str
    measured: float
    yardstick: float | None
    limit: float
    unit: str

    @property
    def kept(self) -> bool:
        """Whether the budget was kept."""
        return self.measured <= self.limit

    @property
    def markdown(self) -> str:
        """The line as it stands in docs/performance.md."""
        ratio = f"{self.measured / self.yardstick:.2f} x {self.yardstick:.3g}" if self.yardstick else ""
        measured = f"{self.measured:.3g}" if self.kept else f"**{self.measured:.3g}, missed**"
        return f"| {self.what} | {self.limit:.3g} {self.unit} | {measured} | {ratio} |"


HEAD = "| what | budget | measured | of its yardstick |\n|---|---|---|---|"
"""What stands above the lines."""
