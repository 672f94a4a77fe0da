"""The leave-one-set-out table."""

from tests.learn.own import Prompt
from tests.learn.softmax import Sample


def report(prompts: list[Prompt], samples: list[Sample]) -> None:
    raise NotImplementedError
