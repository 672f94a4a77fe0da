"""What is generated from the program agrees with it, and is understood by those who read it."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.tools.generated import ROOT, generated


def test_generated_files_agree_with_the_program() -> None:
    old = [path.name for path, text in generated().items() if path.read_text(encoding="utf-8") != text]
    assert not old, "run: make docs"


def test_the_manual_page_is_set_without_a_warning() -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is not there")
    ran = subprocess.run(["groff", "-man", "-ww", "-z", ROOT / "docs/tierdeck.1"], capture_output=True, check=True)
    assert ran.stderr == b""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("tierdeck sta", ["status"]),
        ("tierdeck queue r", ["run"]),
        ("tierdeck recover --int", ["--interrupt"]),
        ("tierdeck route --task vi", ["vision"]),
    ],
)
def test_bash_completes_verbs_options_and_choices(words: str, offered: list[str]) -> None:
    listed = words.split(" ")
    script = f"""
        source {ROOT}/docs/completions/tierdeck.bash
        COMP_WORDS=({" ".join(listed)}); COMP_CWORD={len(listed) - 1}
        "$(complete -p tierdeck | sed 's/.*-F \\([^ ]*\\).*/\\1/')" tierdeck {listed[-1]} {listed[-2]}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == offered
