"""What sudo would do, from what it says when it is only asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from pydantic import SecretStr

from backends.reach.runtime import Completed
from backends.reach.sudo import refusal

PASSWORD = "open sesame"
RESTART = ["systemctl", "restart", "docker"]
SHOWN = "/usr/bin/systemctl restart docker\n"
HEAD = """Matching Defaults entries for ops on mark:
    env_reset, use_pty

User ops may run the following commands on mark:
"""


@dataclass
class Sudo:
    """A shell whose sudo 1.9.13 has these rules, as `sudo -l` lists them."""

    rules: str = "    (ALL) ALL\n"
    allows: bool = True
    ran: list[Sequence[str]] = field(default_factory=list)

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
        self.ran.append(argv)
        assert argv[0] == "sudo"
        match list(argv[1:]):
            case ["-n", "-l"]:
                return Completed(0, HEAD + self.rules, "")
            case ["-k", "-S", "-p", "", "-v"]:
                right = stdin == PASSWORD.encode() + b"\n"
                return Completed(0, "", "") if right else Completed(1, "", "Sorry, try again.\nsudo: 1 incorrect\n")
            case [*_, "-l", "systemctl", "restart", "docker"]:
                return Completed(0, SHOWN, "") if self.allows else Completed(1, "", "")
        raise AssertionError(argv)


FREE = """\
    (root) PASSWD: /usr/bin/true, NOPASSWD: /usr/bin/systemctl restart docker,
        /bin/ls, PASSWD: /bin/cat
"""


@pytest.mark.parametrize(
    ("rules", "allows", "why"),
    [
        ("    (ALL : ALL) NOPASSWD: ALL\n", True, ""),
        (FREE, True, ""),
        ("    (root) NOPASSWD: /usr/bin/systemctl\n", True, ""),
        ("    (root) NOPASSWD: /usr/bin/systemctl restart *\n", True, ""),
        ("    (ALL) ALL\n    (root) NOPASSWD: /bin/ls\n", True, "asks for a password before it runs"),
        (FREE.replace("NOPASSWD", "PASSWD"), True, "asks for a password before it runs"),
        ("    (root) NOPASSWD: /bin/ls\n    (ALL) ALL\n", True, "asks for a password before it runs"),
        ("    (root) NOPASSWD: /bin/ls\n", False, "sudo may not run: systemctl restart docker"),
    ],
)
async def test_without_a_password(rules: str, allows: bool, why: str) -> None:
    found = await refusal(Sudo(rules, allows), RESTART, None)  # type: ignore[arg-type]
    assert (why in found) if why else found == ""


@pytest.mark.parametrize(
    ("password", "allows", "why"),
    [
        (PASSWORD, True, ""),
        (PASSWORD, False, "sudo may not run: systemctl restart docker"),
        ("wrong", True, "Sorry, try again."),
    ],
)
async def test_with_a_password(password: str, allows: bool, why: str) -> None:
    sudo = Sudo(allows=allows)
    assert await refusal(sudo, RESTART, SecretStr(password)) == why  # type: ignore[arg-type]
    assert all(password not in word for argv in sudo.ran for word in argv)
    assert not any(list(argv[1:]) == RESTART for argv in sudo.ran), "nothing is run"
