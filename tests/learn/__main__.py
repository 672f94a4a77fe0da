"""`python -m tests.learn PROMPTS.jsonl [--check]`: learns the router's table, or leaves out set by set and prints."""

from __future__ import annotations

import argparse
import json
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path

from backends.routing.table import COLUMNS, TASKS
from tests.learn.own import Prompt, own
from tests.learn.report import CAUTION, HEAT, report
from tests.learn.softmax import learn, sample

TABLE = Path(__file__).parents[2] / "backends/routing/table.bin"


def main() -> int:
    """Write the table; with --check print the leave-one-set-out figures, and the heat to write, instead."""
    parser = argparse.ArgumentParser(prog="python -m tests.learn")
    parser.add_argument("prompts", type=Path, help="labelled prompts, one JSON object a line")
    parser.add_argument("--check", action="store_true", help="print the leave-one-set-out figures")
    arguments = parser.parse_args()
    prompts = [*_shared(arguments.prompts), *own()]
    samples = [sample(each.text, each.task, each.source) for each in prompts]
    if arguments.check:
        report(prompts, samples)
    else:
        TABLE.write_bytes(_table(learn(samples)))
    return 0


def _shared(path: Path) -> Iterator[Prompt]:
    with path.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            yield Prompt(row["text"], row["label"], row["set"], row["lang"])


def _table(weights: list[list[float]]) -> bytes:
    chat = TASKS.index("chat")
    weights[0][TASKS.index("fast")] -= CAUTION
    flat = [row[task] - row[chat] for row in weights for task in range(COLUMNS)]
    step = max(map(abs, flat)) / 127
    head = json.dumps({"heat": HEAT, "step": round(step, 8)})
    return head.encode() + b"\n" + array("b", [round(weight / step) for weight in flat]).tobytes()


if __name__ == "__main__":
    sys.exit(main())
