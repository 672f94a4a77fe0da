from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backends.errors import ProcedureError
from backends.procedures.lock import hold, holder, lock_path, refuse_if_held

HOLD = """
import sys
from pathlib import Path
from backends.procedures.lock import hold
with hold(Path(sys.argv[1]), "mark", owner="ops@desk:7", procedure="p1", now=float(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_held_by_another_process_until_it_ends_however(tmp_path: Path) -> None:
    now = time.time()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), str(now - 100)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"held\n"
            found = holder(tmp_path, "mark")
            assert found is not None
            assert (found.owner, found.procedure, found.since) == ("ops@desk:7", "p1", now - 100)
            with (
                pytest.raises(ProcedureError, match=r"ops@desk:7 has held mark for 100 s with procedure p1"),
                hold(tmp_path, "mark", owner="me", procedure="p2", now=now),
            ):
                pass
            with pytest.raises(ProcedureError, match=r"one procedure per node.*attach p1"):
                refuse_if_held(tmp_path, "mark", now)
            with pytest.raises(ProcedureError, match="no sign of life for"):
                refuse_if_held(tmp_path, "mark", now + 60)
            with hold(tmp_path, "desk", owner="me", procedure="p2", now=now):
                pass
        finally:
            other.send_signal(signal.SIGKILL)
            other.wait(10)
    assert holder(tmp_path, "mark") is None
    refuse_if_held(tmp_path, "mark", now)
    with hold(tmp_path, "mark", owner="me", procedure="p2", now=now) as lock:
        found = holder(tmp_path, "mark")
        assert found is not None
        assert found.owner == "me"
        os.utime(lock.fd, (0, 0))
        lock.beat()
        found = holder(tmp_path, "mark")
        assert found is not None
        assert found.beat > now - 60
    assert holder(tmp_path, "mark") is None


def test_nothing_yet(tmp_path: Path) -> None:
    assert holder(tmp_path, "mark") is None


@pytest.mark.parametrize("node", ["a/b", "..", ".", "ü node", "x" * 120, "é" * 120, "%2F"])
def test_any_name_has_a_lock_of_its_own_inside_the_folder(tmp_path: Path, node: str) -> None:
    with hold(tmp_path, node, owner="me", procedure="p", now=1.0):
        assert holder(tmp_path, node) is not None
        assert holder(tmp_path, node + "x") is None
    path = lock_path(tmp_path, node)
    assert path.parent == tmp_path / "locks"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_damaged_lock_file_does_not_matter(tmp_path: Path) -> None:
    path = lock_path(tmp_path, "mark")
    path.parent.mkdir()
    path.write_bytes(b"\xff{")
    assert holder(tmp_path, "mark") is None
    with hold(tmp_path, "mark", owner="me", procedure="p", now=1.0):
        found = holder(tmp_path, "mark")
        assert found is not None
        assert found.owner == "me"
