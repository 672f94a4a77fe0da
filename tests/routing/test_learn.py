"""The learner: what it is given, and that it gives the same table every time."""

from __future__ import annotations

from collections import Counter

from backends.routing.features import FIRST, ROWS, features
from backends.routing.table import TASKS
from tests.learn.own import own
from tests.learn.softmax import learn, likely, sample


def test_our_own_prompts() -> None:
    prompts = list(own())
    assert prompts == list(own()), "the same ones in every run"
    tasks = Counter(prompt.task for prompt in prompts)
    assert set(tasks) == set(TASKS)
    assert min(tasks.values()) > 800
    assert {"de", "en", "es", "fr", "it", "ja", "ko", "pt", "ru", "zh"} <= {prompt.lang for prompt in prompts}
    assert not [prompt.text for prompt in prompts if "\0" in prompt.text or "{n}" in prompt.text]


def test_the_learner_is_deterministic_and_learns() -> None:
    samples = [sample(prompt.text, prompt.task, prompt.source) for prompt in list(own())[::60]]
    weights = learn(samples)
    assert weights == learn(samples)
    right = [max(range(len(TASKS)), key=likely(weights, each).__getitem__) == each.task for each in samples]
    assert sum(right) / len(right) > 0.95


def test_features_stay_inside_the_table() -> None:
    for prompt in list(own())[::40]:
        found = features(prompt.text)
        assert all(0 <= row < FIRST for row in (*found.cues, *found.crosses))
        assert all(FIRST <= row < ROWS for row in found.words)
