"""The exception tree: every error a person may see says what happened and what to do next.

TierdeckError
├── InventoryError          cluster.toml cannot be used
├── SecretError             a reference cannot be resolved
├── ReachError              a node cannot be touched
│   ├── SshError            ... by SSH
│   ├── CommandError        a command on a node failed
│   └── RuntimeFailure      its Docker or service manager refused
├── ChatError               an answer broke off
└── ProcedureError          a procedure cannot be begun, followed or ended
    └── StaleLease          another's lease on the node is in its way, and is not renewed any more
"""

from __future__ import annotations


class TierdeckError(Exception):
    """What went wrong, in a sentence for a person, and `advice`, what to do next ("" where nothing helps)."""

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.message} {self.advice}".strip() if self.advice else self.message


class InventoryError(TierdeckError):
    """cluster.toml, or a file of cluster.d, cannot be used; the message names file and line."""


class SecretError(TierdeckError):
    """A reference to a secret cannot be resolved; the message names the reference, never the value."""


class ReachError(TierdeckError):
    """A node cannot be touched."""


class SshError(ReachError):
    """SSH to a node failed: refused, timed out, host key unknown or changed, denied, dropped."""


class CommandError(ReachError):
    """A command on a node failed; `status` is its exit code, None where the connection was lost."""

    def __init__(self, message: str, advice: str = "", *, status: int | None = None) -> None:
        super().__init__(message, advice)
        self.status = status


class RuntimeFailure(ReachError):
    """A node's Docker or service manager does not answer, or refused; `status` is its HTTP status, if any."""

    def __init__(self, message: str, advice: str = "", *, status: int | None = None) -> None:
        super().__init__(message, advice)
        self.status = status


class ChatError(TierdeckError):
    """A prompt could not be answered, or its answer broke off."""


class ProcedureError(TierdeckError):
    """A procedure cannot be begun, followed or ended."""


class StaleLease(ProcedureError):
    """Another procedure's lease on the node is in the way; its owner gives no sign of life, so it may be taken over."""
