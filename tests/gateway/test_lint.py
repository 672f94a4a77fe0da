"""Each fault of a configuration is found on its line, and what is mended leaves every other byte alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from backends.cluster.inventory import Inventory
from backends.cluster.reading import ModelInfo
from backends.errors import GatewayError
from backends.gateway.document import difference
from backends.gateway.findings import Finding
from backends.gateway.lint import lint, masked, mended
from backends.gateway.render import render
from tests.cli.driving import tierdeck
from tests.gateway.test_render import engine, inventory

SERVED = {"a": [ModelInfo("qwen2.5:32b"), ModelInfo("nomic-embed-text:latest")], "v": [ModelInfo("org/small")]}

GOOD = """\
# mine
model_list:
  - model_name: chat            # the desk
    litellm_params:
      model: ollama_chat/qwen2.5:32b
      api_base: http://10.0.10.20:11434
  - model_name: code
    litellm_params:
      model: "openai/coder"
      api_base: 'http://10.0.10.20:3011/v1'   # llama.cpp
      api_key: none
router_settings:
  fallbacks: [{"chat": ["code"]}]
  allowed_fails: 1
  cooldown_time: 60
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
"""


def cluster() -> Inventory:
    return inventory(
        engine("a", "ollama", url="http://10.0.10.20:11434"),
        engine("l", "llama.cpp", url="http://localhost:3011"),
        engine("v", "vllm", url="http://10.0.10.20:3012"),
    )


def found(text: str) -> tuple[Finding, ...]:
    return lint(text, cluster(), SERVED)


def test_a_good_file_has_no_findings() -> None:
    assert found(GOOD) == ()


def test_what_is_rendered_has_no_findings() -> None:
    assert found(render(cluster(), SERVED).text) == ()


@pytest.mark.parametrize(
    ("old", "new", "rule", "line"),
    [
        ("ollama_chat/qwen2.5:32b", "qwen2.5:32b", "no-prefix", 5),
        ('"openai/coder"', '"Qwen/Coder"', "no-prefix", 9),
        ('"openai/coder"', '"ollama/coder"', "wrong-prefix", 9),
        ("20:11434", "20:11434/v1", "api-base", 6),
        ("20:11434", "20:11434/api/chat", "api-base", 6),
        ("http://10.0.10.20:11434", "10.0.10.20:11434", "api-base", 6),
        ("3011/v1", "3011", "api-base", 10),
        ("3011/v1", "3011/v1/chat/completions", "api-base", 10),
        ("allowed_fails: 1", "allowed_fails: 3", "cooldown-never", 14),
        ("  allowed_fails: 1\n", "", "cooldown-never", 13),
    ],
)
def test_what_is_safe_is_mended_and_nothing_else_is_touched(old: str, new: str, rule: str, line: int) -> None:
    text = GOOD.replace(old, new)
    assert text != GOOD
    (finding,) = found(text)
    assert (finding.rule, finding.line, finding.fixable) == (rule, line, True), finding
    fixed = mended(text, [finding], "f")
    assert found(fixed) == ()
    changed = [each for each in difference(text, fixed, "old", "new")[2:] if each[:1] in "+-"]
    assert len(changed) <= 2, "one line, with its comment"
    assert fixed.count("#") == GOOD.count("#")


def test_all_is_mended_at_once() -> None:
    text = GOOD.replace("ollama_chat/", "").replace("3011/v1", "3011").replace("fails: 1", "fails: 3")
    fixed = mended(text, found(text), "f")
    assert found(fixed) == ()
    assert fixed == GOOD.replace("fails: 1", "fails: 2")


@pytest.mark.parametrize(
    ("old", "new", "rule", "line", "words"),
    [
        ('["code"]', '["coda"]', "unknown-group", 13, 'Did you mean "code"?'),
        ('{"chat"', '{"chap"', "unknown-group", 13, 'Did you mean "chat"?'),
        ('["code"]', '["chat"]', "fallback-to-itself", 13, "Remove it"),
        ('[{"chat": ["code"]}]', '[{"chat": ["code"]}, {"code": ["chat"]}]', "fallback-loop", 13, "nothing"),
        ('[{"chat": ["code"]}]', '{"chat": ["code"]}', "fallback-shape", 13, "GROUP"),
        ("api_key: none", "api_key: sk-abcdefg", "plaintext-key", 11, "os.environ/NAME"),
        ("os.environ/LITELLM_MASTER_KEY", "sk-1234", "plaintext-key", 17, "os.environ/NAME"),
        ("qwen2.5:32b", "qwen2.5:14b", "not-served", 5, 'Did you mean "qwen2.5:32b"?'),
        ("20:11434", "20:11435", "no-endpoint", 6, "cluster.toml"),
        ("cooldown_time: 60", "cooldown_time: 0", "cooldown-off", 15, "60"),
        ("cooldown_time: 60", "disable_cooldowns: true", "cooldown-off", 15, "Remove"),
        ("cooldown_time: 60", "health_check_interval: 60", "misplaced", 15, "general_settings"),
    ],
)
def test_what_a_person_must_decide_is_told_with_its_line(old: str, new: str, rule: str, line: int, words: str) -> None:
    (finding,) = found(GOOD.replace(old, new))
    assert (finding.rule, finding.line, finding.fixable) == (rule, line, False), finding
    assert words in finding.cure
    assert finding.why


def test_a_model_twice() -> None:
    again = GOOD.split("model_list:\n")[1].split("  - model_name: code")[0]
    (finding,) = found(GOOD.replace("router_settings", again + "router_settings"))
    assert (finding.rule, finding.line) == ("duplicate", 12)
    assert "line 3" in finding.what


def test_allowed_fails_in_the_wrong_table_is_moved() -> None:
    text = GOOD.replace("  allowed_fails: 1\n", "") + "litellm_settings:\n  drop_params: true\n  allowed_fails: 3\n"
    (finding,) = found(text)
    fixed = yaml.safe_load(mended(text, [finding], "f"))
    assert fixed["router_settings"]["allowed_fails"] == 2
    assert fixed["litellm_settings"] == {"drop_params": True}


def test_health_checks_slower_than_the_cool_down() -> None:
    checks = "  background_health_checks: true\n"
    assert [f.rule for f in found(GOOD + checks)] == ["health-check-late"], "300 s is LiteLLM's own interval"
    assert found(f"{GOOD}{checks}  health_check_interval: 30\n") == ()


def test_wildcards_aliases_and_included_files_are_known() -> None:
    text = GOOD.replace('["code"]', '["any/thing", "alias"]').replace(
        "allowed", "model_group_alias: {alias: chat}\n  allowed"
    )
    wild = "  - model_name: any/*\n    litellm_params: {model: openai/*}\nrouter_settings"
    assert found(text.replace("router_settings", wild)) == ()
    assert found("include: [more.yaml]\n" + GOOD.replace('["code"]', '["elsewhere"]')) == ()


def test_merged_keys_are_seen() -> None:
    anchored = GOOD.replace("    litellm_params:\n      model: ollama", "    litellm_params: &p\n      model: ollama")
    text = anchored.replace(
        "router_settings", "  - {model_name: more, litellm_params: {<<: *p, model: other}}\nrouter_settings"
    )
    assert [f.rule for f in found(text)] == ["no-prefix", "not-served"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model_list:\n\t- a", "line 2, column 1: this is no YAML"),
        ("a: b: c", "line 1, column 5: this is no YAML"),
        ("model_list: [", "this is no YAML"),
        ("just words", "no configuration of LiteLLM"),
        ("", "no configuration of LiteLLM"),
        ("model_list: {a: b}", "line 1: model_list is no list"),
        ("a: &x [*x]\nb: *y", "this is no YAML"),
        ("a: \x00", "this is no YAML"),
        ("a: 1\na: 2", "this is no YAML"),
    ],
)
def test_a_yaml_that_is_none_is_told_with_its_line(text: str, words: str) -> None:
    with pytest.raises(GatewayError, match=words):
        found(text)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("model_list: &a [*a]", "incomplete"),
        ("a: &a {<<: *a}", "no-models"),
        ("model_list:\n- 1\n- {model_name: x}\n- []", "incomplete"),
        ("model_list:\nrouter_settings: 3", "no-models"),
    ],
)
def test_strange_shapes_end_in_findings(text: str, rule: str) -> None:
    assert rule in [finding.rule for finding in found(text)]


def test_secrets_are_never_shown() -> None:
    text = GOOD.replace("api_key: none", "api_key: sk-abcdefg") + "  database_url: postgres://u:hidden@db/x\n"
    assert "sk-abcdefg" not in masked(text)
    assert "hidden" not in masked(text)
    assert "sk-abcdefg" not in str([f.to_json() for f in found(text)])
    assert masked(GOOD) == GOOD


async def test_the_verb_shows_first_and_writes_only_when_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERDECK_STATE", str(tmp_path / "state"))
    toml = tmp_path / "cluster.toml"
    toml.write_text('version = 1\nname = "home"\n')
    file = tmp_path / "config.yaml"
    broken = GOOD.replace("ollama_chat/", "").replace("api_key: none", "api_key: sk-abcdefg").replace("\n", "\r\n")
    file.write_bytes(broken.encode())
    verb = ("gateway", "lint", "--cluster", str(toml), str(file))
    shown = await tierdeck(*verb)
    assert shown.code == 1
    assert "config.yaml:5: error: chat: model qwen2.5:32b names no provider." in shown.out
    assert "--fix shows how" in shown.err
    tried = await tierdeck(*verb, "--fix")
    assert "+      model: ollama_chat/qwen2.5:32b" in tried.out
    assert "sk-abcdefg" not in tried.out + shown.out
    assert file.read_bytes() == broken.encode()
    told = json.loads((await tierdeck(*verb, "--fix", "--yes", "--json")).out)
    assert (told["schema"], told["written"]) == ("tierdeck.gateway-lint/1", True)
    assert file.read_bytes() == broken.replace("model: qwen", "model: ollama_chat/qwen").encode()
    file.write_text("a: b: c")
    wrong = await tierdeck(*verb)
    assert (wrong.code, wrong.out) == (1, "")
    assert "config.yaml, line 1, column 5: this is no YAML" in wrong.err
    gone = await tierdeck("gateway", "lint", "--cluster", str(toml), str(tmp_path / "no.yaml"))
    assert "no.yaml cannot be read: No such file" in gone.err
