"""The exception tree: every error a person may see says what happened and what to do next.

TierdeckError
├── InventoryError          cluster.toml cannot be used
├── SecretError             a reference cannot be resolved
├── ReachError              a node cannot be touched
│   ├── SshError            ... by SSH
│   ├── CommandError        a command on a node failed
│   ├── RuntimeFailure      its Docker or service manager refused
│   ├── WakeError           a Wake-on-LAN packet could not be sent
│   └── RdpError            a desktop session could not be had, or was not kept
├── ChatError               an answer broke off
├── GatewayError            LiteLLM's configuration cannot be read or written
├── ProcedureError          a procedure cannot be begun, followed or ended
│   ├── Inadvisable         it can be done all the same, once a person knows what will happen
│   └── StaleLease          another's lease on the node is in its way, and is not renewed any more
├── HistoryError            what was recorded cannot be read, or nothing is
└── AlertError              nobody could be told
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
    """SSH to a node failed: refused, timed out, dropped; `kind` tells host_key and denied, which no retry cures."""

    def __init__(self, message: str, advice: str = "", *, kind: str = "") -> None:
        super().__init__(message, advice)
        self.kind = kind


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


class WakeError(ReachError):
    """A Wake-on-LAN packet could not be sent; whether a sent one was heard, nobody can say."""


class RdpError(ReachError):
    """A desktop session could not be had, or ended; `fault` names why, `why` has the client's last words."""

    def __init__(self, message: str, advice: str = "", *, fault: str, why: str = "") -> None:
        super().__init__(message, advice)
        self.fault = fault
        self.why = why


class ChatError(TierdeckError):
    """A prompt could not be answered, or its answer broke off.

    `cause` is the word of health for it, `retry_after` the seconds the server asked us to stay away; `sent` says that
    the prompt may have reached the engine, so that sending it again would be sending it twice.
    """

    def __init__(
        self, message: str, advice: str = "", *, cause: str = "", retry_after: float | None = None, sent: bool = True
    ) -> None:
        super().__init__(message, advice)
        self.cause = cause
        self.retry_after = retry_after
        self.sent = sent


class GatewayError(TierdeckError):
    """A configuration of LiteLLM cannot be read or written; where it is a file's fault, the message names the line."""


class ProcedureError(TierdeckError):
    """A procedure cannot be begun, followed or ended."""


class Inadvisable(ProcedureError):
    """Something that is better not done, and can be done all the same: `cure` is the better way, `consequence` not."""

    def __init__(self, message: str, cure: str, consequence: str) -> None:
        super().__init__(message, f"{cure} --force goes on all the same: {consequence}".lstrip())
        self.cure = cure
        self.consequence = consequence


class StaleLease(ProcedureError):
    """Another procedure's lease on the node is in the way; its owner gives no sign of life, so it may be taken over."""


class HistoryError(TierdeckError):
    """What was recorded cannot be read, or nothing is recorded."""


class AlertError(TierdeckError):
    """Nobody could be told what happened; the message names the target, never its address."""
