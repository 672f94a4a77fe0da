"""No fault that was ever named loses its test unseen."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.faults.named import NAMED

TESTS = Path(__file__).parents[1]


@cache
def functions(path: str) -> frozenset[str]:
    tree = ast.parse((TESTS / path).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("fault", NAMED)
def test_a_fault_has_its_tests(fault: str) -> None:
    proofs = [proof.split("::") for proof in NAMED[fault]]
    assert proofs
    assert [name for path, name in proofs if name not in functions(path)] == []
