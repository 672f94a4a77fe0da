"""`python -m tests.memory.record`: asks llama.cpp once for every architecture, for tests that run without it."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.lab.cache import llama_python
from tests.memory.against import taken
from tests.memory.cases import ARCHITECTURES

RECORDED = Path(__file__).with_name("measured.jsonl")


def main() -> None:
    """Write the file anew."""
    with tempfile.TemporaryDirectory() as folder, RECORDED.open("w") as file:
        for arch in ARCHITECTURES:
            for seed in ("first", "second"):
                size, settings, measured = taken(llama_python(), arch, seed, Path(folder))
                found = {"size": asdict(size), "settings": asdict(settings), "measured": asdict(measured)}
                print(json.dumps({"arch": arch, **found}), file=file)


if __name__ == "__main__":
    main()
