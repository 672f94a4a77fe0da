"""A LiteLLM configuration as its author wrote it: every value with its line, and edits that touch nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from backends.errors import GatewayError
from backends.text import plain

MERGE: Final = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True)
class Edit:
    """What stands from `start` to `end` (characters) becomes `text`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One deployment of the model list."""

    name: ScalarNode | None
    params: dict[str, Node]
    info: dict[str, Node]
    line: int

    @property
    def group(self) -> str:
        """The name under which it is asked for."""
        return said(self.name)


@dataclass(frozen=True, slots=True)
class Document:
    """A configuration: its text, its tables by name, and its deployments."""

    text: str
    root: MappingNode
    tables: dict[str, Node]
    entries: tuple[Entry, ...]

    def table(self, name: str) -> dict[str, Node]:
        """A table's keys; none where it is not there."""
        return keys(self.tables.get(name))

    def scalar(self, table: str, key: str) -> ScalarNode | None:
        """A plain value of a table."""
        found = self.table(table).get(key)
        return found if isinstance(found, ScalarNode) else None

    def replaced(self, node: ScalarNode, value: str) -> tuple[Edit, ...]:
        """The edit that gives a value another, in the quotes it has; none where it is anchored or of several lines."""
        start, end = node.start_mark.index, node.end_mark.index
        old = self.text[start:end]
        if old[:1] in ("&", "!", "|", ">") or "\n" in old:
            return ()
        quote = node.style or ""
        return (Edit(start, end, f"{quote}{value}{quote}"),)

    def inserted(self, table: str, line: str) -> tuple[Edit, ...]:
        """The edit that adds a key to a table of settings, or the table, where it is not there."""
        node = self.tables.get(table)
        if node is None:
            gap = "" if self.text.endswith("\n") else "\n"
            return (Edit(len(self.text), len(self.text), f"{gap}{table}:\n  {line}\n"),)
        if not isinstance(node, MappingNode) or not node.value or self.text[node.start_mark.index] == "&":
            return ()
        first = node.value[0][0].start_mark
        after = ", " if node.flow_style else "\n" + " " * first.column
        return (Edit(first.index, first.index, line + after),)

    def without(self, node: ScalarNode) -> tuple[Edit, ...]:
        """The edit that removes the line of a key and its value; none where there is more on that line."""
        start = self.text.rfind("\n", 0, node.start_mark.index) + 1
        end = self.text.find("\n", node.end_mark.index) + 1 or len(self.text)
        key = self.text[start : node.start_mark.index]
        alone = "{" not in key and ":" in key and "," not in key
        return (Edit(start, end, ""),) if alone else ()


def read(text: str, name: str) -> Document:
    """Read a configuration; GatewayError with the line where it is no YAML, or not one of LiteLLM's shape."""
    try:
        root = YAML(typ="rt").compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}, line {mark.line + 1}, column {mark.column + 1}" if mark else name
        raise GatewayError(f"{where}: this is no YAML: {plain(error.problem or 'it ends too early')}.") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise GatewayError(f"{name}: this is no YAML: {plain(str(error))}.") from None
    if not isinstance(root, MappingNode):
        raise GatewayError(f"{name}: this is no configuration of LiteLLM.", "It begins with a key, such as model_list:")
    tables = keys(root)
    listed = tables.get("model_list")
    if not (listed is None or blank(listed) or isinstance(listed, SequenceNode)):
        raise GatewayError(f"{name}, line {line(listed)}: model_list is no list.", "Each model begins with a dash.")
    return Document(text, root, tables, tuple(_entries(listed)))


def data(text: str, name: str) -> dict[str, Any]:
    """A configuration as plain data, as LiteLLM reads it (YAML 1.1); GatewayError as `read`."""
    read(text, name)
    loader = YAML(typ="safe", pure=True)
    loader.version = (1, 1)  # as PyYAML, by which LiteLLM reads it
    try:
        found = loader.load(text)
    except (YAMLError, ValueError) as error:
        raise GatewayError(f"{name}: this is no YAML: {plain(str(error))}.") from None
    return found if isinstance(found, dict) else {}


def edited(text: str, edits: Iterable[Edit]) -> str:
    """The text with its edits; of two that overlap the first counts."""
    parts, at = [], 0
    for edit in sorted(set(edits), key=lambda e: (e.start, e.end)):
        if edit.start >= at:
            parts += [text[at : edit.start], edit.text]
            at = edit.end
    return "".join([*parts, text[at:]])


def difference(old: str, new: str, old_name: str, new_name: str) -> list[str]:
    """What differs, line by line, as `diff -u` shows it."""
    return [*unified_diff(old.splitlines(), new.splitlines(), old_name, new_name, lineterm="", n=2)]


def keys(node: Node | None, within: frozenset[int] = frozenset()) -> dict[str, Node]:
    """A mapping's values by key, and those merged into it (`<<`); `within` are the mappings that led here."""
    pairs = node.value if isinstance(node, MappingNode) and id(node) not in within else ()
    found: dict[str, Node] = {}
    for source in (each for key, value in pairs if key.tag == MERGE for each in items(value) or (value,)):
        found = keys(source, within | {id(node)}) | found
    return found | {said(key): value for key, value in pairs if key.tag != MERGE and isinstance(key, ScalarNode)}


def items(node: Node | None) -> Sequence[Node]:
    """A list's members; none where it is no list."""
    return list(node.value) if isinstance(node, SequenceNode) else ()


def blank(node: Node | None) -> bool:
    """Whether nothing is said after a key."""
    return isinstance(node, ScalarNode) and said(node) in ("", "null", "~")


def said(node: Node | None) -> str:
    """A plain value as text; "" where it is none."""
    return str(node.value) if isinstance(node, ScalarNode) else ""


def number(node: Node | None) -> float | None:
    """A value as a number; None where it is none."""
    try:
        return float(said(node))
    except ValueError:
        return None


def truth(node: Node | None) -> bool:
    """Whether a value says yes, as YAML 1.1 has it."""
    return said(node).lower() in ("true", "yes", "on")


def line(node: Node | None) -> int:
    """The line on which something begins, counted from 1."""
    return node.start_mark.line + 1 if node is not None else 1


def scalars(node: Node) -> Iterator[tuple[str, ScalarNode]]:
    """Every plain value below a node once, with the key it stands under."""
    seen: set[int] = set()
    waiting = [("", node)]
    while waiting:
        key, each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, ScalarNode):
            yield key, each
        elif isinstance(each, SequenceNode):
            waiting += [(key, member) for member in each.value]
        elif isinstance(each, MappingNode):
            waiting += [(said(name), value) for name, value in each.value]


def _entries(listed: Node | None) -> Iterator[Entry]:
    for node in items(listed):
        told = keys(node)
        name = told.get("model_name")
        params, info = keys(told.get("litellm_params")), keys(told.get("model_info"))
        yield Entry(name if isinstance(name, ScalarNode) else None, params, info, line(node))
