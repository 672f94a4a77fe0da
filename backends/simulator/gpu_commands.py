"""nvidia-smi, rocm-smi, sysctl and ioreg of a node, on whatever GPUs it has."""

from __future__ import annotations

import asyncio

from backends.simulator import smi
from backends.simulator.physics import SimHost
from backends.simulator.terminal import Command, Terminal, options


class GpuCommands:
    """Reads `host`."""

    def __init__(self, host: SimHost) -> None:
        self.host = host

    def known(self) -> dict[str, Command]:
        """The commands by name: those of the GPUs' vendor, and macOS's own."""
        found: dict[str, Command] = {}
        if self.host.vendor == "nvidia":
            found["nvidia-smi"] = self._nvidia_smi
        if self.host.vendor == "amd":
            found["rocm-smi"] = self._rocm_smi
        if self.host.os == "macos":
            found |= {"sysctl": self._sysctl, "ioreg": self._ioreg}
        return found

    async def _nvidia_smi(self, argv: list[str], terminal: Terminal) -> int:
        if self.host.smi_hangs:
            await asyncio.Event().wait()
        if trouble := smi.nvidia_trouble(self.host):
            await terminal.write(trouble[1])
            return trouble[0]
        if "-L" in argv:
            await terminal.write(smi.nvidia_list(self.host))
            return 0
        given = options(argv)
        apps = "--query-compute-apps" in given
        asked = given.get("--query-compute-apps") or given.get("--query-gpu") or ""
        fields = [field.strip() for field in asked.split(",") if field.strip()]
        if not fields:
            await terminal.write(f"NVIDIA-SMI {self.host.driver}\n")
            return 0
        if bad := smi.unknown_field(fields, apps=apps):
            await terminal.write(f'Field "{bad}" is not a valid field to query.\n\n')
            return 2
        return await self._nvidia_rows(fields, apps, given, terminal)

    async def _nvidia_rows(self, fields: list[str], apps: bool, given: dict[str, str], terminal: Terminal) -> int:
        form = given.get("--format", "csv")
        units = "nounits" not in form
        every = float(given.get("-l") or given.get("--loop") or 0) + float(given.get("-lms") or 0) / 1000
        if "noheader" not in form:
            await terminal.write(smi.header(fields, apps=apps, units=units))
        query = smi.query_apps if apps else smi.query_gpus
        while True:
            if trouble := smi.nvidia_trouble(self.host):
                await terminal.write(trouble[1])
                return trouble[0]
            await terminal.write(query(self.host, fields, units=units))
            if not every:
                return 0
            await self.host.world.sleep(every)
            if self.host.smi_hangs:
                await asyncio.Event().wait()

    async def _rocm_smi(self, argv: list[str], terminal: Terminal) -> int:
        await terminal.write(smi.rocm(self.host))
        return 0

    async def _sysctl(self, argv: list[str], terminal: Terminal) -> int:
        code = 0
        for name in (a for a in argv if not a.startswith("-")):
            value = smi.sysctl(self.host, name)
            if value is None:
                await terminal.complain(f"sysctl: unknown oid '{name}'\n")
                code = 1
            else:
                await terminal.write(f"{value}\n" if "-n" in argv else f"{name}: {value}\n")
        return code

    async def _ioreg(self, argv: list[str], terminal: Terminal) -> int:
        await terminal.write(smi.ioreg(self.host))
        return 0
