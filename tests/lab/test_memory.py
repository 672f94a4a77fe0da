"""The estimator against llama.cpp itself, on models and settings that are drawn anew from a fixed seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.cache import llama_python, require
from tests.memory.against import difference
from tests.memory.cases import ARCHITECTURES


@pytest.mark.parametrize("arch", ARCHITECTURES)
async def test_the_engine_takes_what_was_estimated(arch: str, tmp_path: Path) -> None:
    require("llamacpp")
    for number in range(2):
        found = await difference(llama_python(), arch, f"lab {number}", tmp_path)
        assert abs(found.weights) < 0.011, found
        assert abs(found.kv) < 0.011, found
        assert abs(found.compute) < (2 if found.flash else 16), found
        assert 0 <= found.share < 0.02, found
