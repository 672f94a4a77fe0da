"""What is wrong with a LiteLLM configuration, where, why it matters, and what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from backends.gateway.document import Edit

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault; `edits` mend it, and there are some only where that is safe."""

    rule: str
    severity: Severity
    line: int
    what: str
    why: str
    cure: str
    edits: tuple[Edit, ...] = field(default=(), repr=False)

    @property
    def fixable(self) -> bool:
        """Whether --fix mends it."""
        return bool(self.edits)

    def to_json(self) -> dict[str, Any]:
        """As data."""
        return {
            "rule": self.rule, "severity": self.severity, "line": self.line, "what": self.what, "why": self.why,
            "cure": self.cure, "fixable": self.fixable,
        }  # fmt: skip
