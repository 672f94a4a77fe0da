"""asyncssh comes without children: each would have our whole environment, and what secrets are in it."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE

from tests.cli.driving import PATIENCE, environment

CODE = """
import sys
started = []
STARTS = ("subprocess.Popen", "os.posix_spawn", "os.exec", "os.fork", "os.system")
sys.addaudithook(lambda event, told: started.append((event, told[:1])) if event in STARTS else None)
import asyncio, ctypes.util
find = ctypes.util.find_library
from backends.cluster.tables import Node
from backends.cluster.inventory import Inventory
from backends.reach.reaches import Reaches
from backends.secrets import Secrets

async def main():
    node = {"name": "mark", "address": "127.0.0.1", "ssh": {"port": 1}}
    inventory = Inventory.model_validate({"version": 1, "name": "x", "nodes": [node]})
    async with Reaches(inventory, None, Secrets()) as reaches:
        assert reaches["mark"].shell

asyncio.run(main())
assert "asyncssh" in sys.modules
assert ctypes.util.find_library is find
print(started)
"""


async def test_no_child_is_started() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CODE, env=environment(), stdout=PIPE, stderr=PIPE
    )
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert out.decode().strip() == "[]"
