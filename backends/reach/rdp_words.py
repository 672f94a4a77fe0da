"""What FreeRDP says while it connects: when the session has begun, and by what name a failure goes.

Its words are those of FreeRDP 2.11 (seen against xrdp) and of the ERRCONNECT and LOGON_FAILED names that 2 and 3 share.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from backends.errors import RdpError
from backends.reach.streams import clean
from backends.text import plain

FILTERS: Final = ",".join(
    f"com.freerdp.{name}:DEBUG" for name in ("core.nego", "core.connection", "core.rdp", "channels.rdpdr.client")
)
"""Logs in which the signs below are written; none of them has a password in it."""

_AUTHENTICATED: Final = re.compile(r"Negotiated (?:NLA|HYBRID|NLA-EXT|AAD) security|Negotiated RDSTLS", re.IGNORECASE)
_ACTIVE: Final = re.compile(r"(?:-->|to) CONNECTION_STATE_ACTIVE\b|gdi\] - Local framebuffer format")
_ACCEPTED: Final = re.compile(r"CONNECTION_STATE_NLA\W+(?:--> |to )?CONNECTION_STATE_(?:MCS|AAD)")
_LOGGED_ON: Final = re.compile(r"recv Save Session Info|USER_LOGGEDON|to RDPDR_CHANNEL_STATE_READY")
_HEAD: Final = re.compile(r"^(?:Password:\s*)?(?:\[[^\]]*\]\s*)+-\s*")
_NOISE: Final = re.compile(
    r"DEBUG|com\.freerdp\.utils|Certificate verification failure|CN = |resetting error state|@@@|^\s*$"
)


class Fault(NamedTuple):
    """A failure: its name, the words that tell it, what to say of it and what to do."""

    name: str
    words: re.Pattern[str]
    text: str
    advice: str


FAULTS: Final = (
    Fault(
        "certificate",
        re.compile(r"IDENTIFICATION HAS CHANGED|Host key verification failed|has changed!!!|certificate not trusted"),
        "{who} shows another certificate than before: it was installed anew, or is another machine.",
        "If you know why it changed, remove {pins} and try again.",
    ),
    Fault(
        "locked",
        re.compile(r"ACCOUNT_(?:LOCKED_OUT|DISABLED|EXPIRED|RESTRICTION)"),
        "The account of {who} is locked, disabled or restricted.",
        "Unlock it on the node; a Windows account without a password cannot log in by RDP.",
    ),
    Fault(
        "password",
        re.compile(
            r"(?:LOGON_FAILURE|WRONG_PASSWORD|PASSWORD_(?:CERTAINLY_)?EXPIRED|PASSWORD_MUST_CHANGE|AUTHENTICATION_FAILED"
            r"|NO_OR_MISSING_CREDENTIALS|LOGON_FAILED_\w+)"
        ),
        "{who} refuses the user name or the password, or wants a new one.",
        "Correct the secret that wake.rdp.password of this node names; repeated tries can lock the account.",
    ),
    Fault(
        "refused",
        re.compile(r"ACCESS_DENIED|INSUFFICIENT_PRIVILEGES|LOGON_TYPE_NOT_GRANTED|SERVER_DENIED_CONNECTION"),
        "{who} may not open a desktop session.",
        "Add the user to Remote Desktop Users on the node.",
    ),
    Fault(
        "negotiation",
        re.compile(r"SECURITY_NEGO_CONNECT_FAILED|TLS_CONNECT_FAILED|MCS_CONNECT_INITIAL_ERROR"),
        "{who}: FreeRDP and the desktop service agree on no security protocol.",
        "Is it a desktop service that listens on that port, and FreeRDP of this machine a recent one?",
    ),
    Fault(
        "replaced",
        re.compile(r"DISCONNECTED_BY_OTHER_?CONNECTION"),
        "{who}: somebody else took the desktop session over.",
        "Let them finish; Docker lives as long as the session is theirs.",
    ),
)
"""The first that fits is the one."""


class Progress:
    """How far a client has come, by the lines it wrote so far."""

    def __init__(self) -> None:
        self.active = False
        """The desktop service took the connection; what it thinks of the login is not said yet."""
        self.accepted = False
        """NLA accepted the login; nothing of a session was asked for yet."""
        self.begun = False
        """The login was accepted: before connecting (NLA), or by a session that says so or whose channels speak."""
        self._authenticated = False

    def hear(self, line: str) -> None:
        """Take in a line."""
        self._authenticated |= bool(_AUTHENTICATED.search(line))
        self.accepted |= bool(_ACCEPTED.search(line))
        self.active |= bool(_ACTIVE.search(line))
        self.begun |= (self.active and self._authenticated) or bool(_LOGGED_ON.search(line))


def last_words(lines: Sequence[str]) -> str:
    """What the client said last that tells anything, in one line; "" where there is nothing."""
    told = [line for line in lines if not _NOISE.search(line)]
    return plain(_HEAD.sub("", clean(told[-1]))) if told else ""


def failure(lines: Sequence[str], who: str, pins: str) -> RdpError:
    """Why a client ended, by what it said."""
    said, why = "\n".join(lines), last_words(lines)
    for fault in FAULTS:
        if fault.words.search(said):
            advice = fault.advice.format(pins=pins)
            return RdpError(fault.text.format(who=who), advice, fault=fault.name, why=why)
    words = f": {why}" if why else " without a word"
    return RdpError(
        f"The desktop session of {who} ended{words}.", "Is the node going down again?", fault="ended", why=why
    )
