"""What a runtime tells of a workload beside its state: volumes, scans, notices. Frozen values, each with its words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

FULL: Final = 0.9
"""The share of a volume over which a person should look."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume that a workload claims; sizes in MiB, None is "not known".

    `disk_mib` is the file system below where it is another size than the claim: then `used_mib` counts all that lies
    on it. `trouble` is why its fill is not known.
    """

    name: str
    claimed_mib: float | None
    used_mib: float | None = None
    disk_mib: float | None = None
    trouble: str = ""

    @property
    def full(self) -> bool:
        """Whether little of it is left."""
        size = self.disk_mib or self.claimed_mib
        return self.used_mib is not None and size is not None and self.used_mib > FULL * size

    @property
    def words(self) -> str:
        """Its fill: "model-cache: 61.0 of 100.0 GiB"."""
        claimed = "?" if self.claimed_mib is None else f"{self.claimed_mib / 1024:.1f}"
        if self.used_mib is None:
            return f"{self.name}: {claimed} GiB" + (f", fill not known ({self.trouble})" if self.trouble else "")
        if self.disk_mib is None:
            return f"{self.name}: {self.used_mib / 1024:.1f} of {claimed} GiB"
        disk = f"{self.used_mib / 1024:.1f} of {self.disk_mib / 1024:.1f} GiB"
        return f"{self.name}: {claimed} GiB claimed, on a disk filled with {disk}"


@dataclass(frozen=True, slots=True)
class Scan:
    """How many vulnerabilities or faults of its configuration a `scanner` counted in a `subject`.

    `trouble` is why its reports could not be read.
    """

    scanner: str
    kind: str
    subject: str
    critical: int = 0
    high: int = 0
    medium: int = 0
    low: int = 0
    trouble: str = ""

    @property
    def grave(self) -> bool:
        """Whether a person should look."""
        return bool(self.critical or self.high)

    @property
    def words(self) -> str:
        """What it found: "12 critical, 40 high in vllm/vllm-openai:v0.11"."""
        if self.trouble:
            return self.trouble
        counts = ((self.critical, "critical"), (self.high, "high"), (self.medium, "medium"), (self.low, "low"))
        told = [f"{count} {word}" for count, word in counts if count][:2]
        return f"{', '.join(told) or 'nothing'} in {self.subject}"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the runtime said of a workload at a time (Unix seconds); `bad` where it warned."""

    at: float = field(compare=False)
    reason: str
    text: str
    bad: bool = False

    @property
    def words(self) -> str:
        """What was said."""
        return f"{self.reason}: {self.text}" if self.text else self.reason
