"""The leave-one-set-out table: learned without a set, tried on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

from backends.routing.table import TASKS
from tests.learn.own import Prompt
from tests.learn.softmax import Sample, learn, likely

HEAT = 1.4
"""What scores are divided by, so that of the answers with confidence .7 about seven in ten are right."""

CAUTION = 0.4
"""How much the score of fast is lowered: a hard prompt sent there costs more than an easy one sent elsewhere."""

SURE = 0.6
KIN = (("mbpp", "aug_mbpp"), ("self_instruct", "belle_seed_zh"))
"""Sets made from one another are left out together."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A prompt that the table had never seen, and what it was taken for."""

    prompt: Prompt
    task: str
    confidence: float

    @property
    def right(self) -> bool:
        """Whether it is the one right task."""
        return self.task == self.prompt.task

    @property
    def sure(self) -> bool:
        """Whether the answer counts as sure."""
        return self.confidence >= SURE


def report(prompts: Sequence[Prompt], samples: Sequence[Sample]) -> None:
    """Print the table as Markdown, a row a set and a row a language, and their means."""
    found: dict[str, list[Tried]] = {}
    print("| set | prompts | accuracy | macro-F1 | sure | accuracy when sure | hard to fast |")
    print("|---|---|---|---|---|---|---|", flush=True)
    names = [name for name, _ in groupby(prompt.source for prompt in prompts) if not name.startswith("own ")]
    for name in names:
        found[name] = _left_out(name, prompts, samples)
        print(_row(name, found[name]), flush=True)
    means = [fmean(column) for column in zip(*(_figures(each) for each in found.values()), strict=True)]
    print(f"| **mean of sets** | {sum(map(len, found.values()))} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    everything = sorted((each for tried in found.values() for each in tried), key=lambda each: each.prompt.lang)
    for lang, group in groupby(everything, key=lambda each: each.prompt.lang):
        print(_row(f"language {lang}", list(group)))


def _left_out(name: str, prompts: Sequence[Prompt], samples: Sequence[Sample]) -> list[Tried]:
    kin = next((family for family in KIN if name in family), (name,))
    weights = learn([each for each in samples if each.source not in kin])
    weights[0][TASKS.index("fast")] -= CAUTION
    tried = []
    for prompt, each in zip(prompts, samples, strict=True):
        if each.source == name:
            chances = likely(weights, each, HEAT)
            tried.append(Tried(prompt, TASKS[chances.index(max(chances))], max(chances)))
    return tried


def _row(name: str, tried: Sequence[Tried]) -> str:
    return f"| {name} | {len(tried)} | {' | '.join(f'{figure:.3f}' for figure in _figures(tried))} |"


def _figures(tried: Sequence[Tried]) -> tuple[float, float, float, float, float]:
    """Accuracy, macro-F1 over the set's tasks, share of sure answers, their accuracy, share of hard sent to fast."""
    sure = [each.right for each in tried if each.sure]
    hard = [each.task == "fast" for each in tried if each.prompt.task in ("code", "reason")]
    return (
        fmean(each.right for each in tried),
        fmean(_f1(tried, task) for task in {each.prompt.task for each in tried}),
        len(sure) / len(tried),
        fmean(sure) if sure else 1.0,
        fmean(hard) if hard else 0.0,
    )


def _f1(tried: Sequence[Tried], task: str) -> float:
    hits = sum(each.right for each in tried if each.prompt.task == task)
    named = sum(each.task == task for each in tried) + sum(each.prompt.task == task for each in tried)
    return 2 * hits / named
