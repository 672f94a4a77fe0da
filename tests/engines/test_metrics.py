"""Progress from Prometheus text, whatever it looks like."""

from __future__ import annotations

import random

import pytest

from backends.cluster.reading import ModelCount, Progress
from backends.engines.metrics import LLAMACPP, VLLM, gateway, progress
from backends.prometheus import samples


def test_several_engines_of_one_server_are_summed() -> None:
    text = "\n".join(
        f'vllm:{name}{{engine="{engine}",model_name="a}} b"}} {value}'
        for engine, values in enumerate([(1, 2, 100.5, 0.25), (3, 4, 50, 0.75)])
        for name, value in zip(
            ("num_requests_running", "num_requests_waiting", "generation_tokens_total", "kv_cache_usage_perc"),
            values,
            strict=True,
        )
    )
    assert progress(text, VLLM) == Progress(tokens=150.5, running=4, waiting=6, kv_used=0.75)


def test_the_older_name_of_the_cache() -> None:
    assert progress("vllm:gpu_cache_usage_perc 0.5", VLLM) == Progress(kv_used=0.5)


def test_timestamps_and_exponents() -> None:
    assert progress("llamacpp:tokens_predicted_total 1.5e+03 1700000000000", LLAMACPP) == Progress(tokens=1500)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment",
        "llamacpp:tokens_predicted_total",
        "llamacpp:tokens_predicted_total NaN",
        "llamacpp:tokens_predicted_total -1",
        "llamacpp:tokens_predicted_total +Inf",
        "llamacpp:tokens_predicted_total{ 3",
        "llamacpp:tokens_predicted_total_created 3",
        "llamacpp:tokens_predicted_total many",
        "<html></html>",
        "llamacpp:tokens_predicted_total" + " " * 5000 + "3",
    ],
)
def test_what_says_nothing(text: str) -> None:
    assert progress(text, LLAMACPP) is None


def test_a_broken_line_hides_no_good_one() -> None:
    text = "llamacpp:tokens_predicted_total x\n}{ 3\nllamacpp:tokens_predicted_total 7\n{\n"
    assert progress(text, LLAMACPP) == Progress(tokens=7)


def test_noise_does_no_harm() -> None:
    chance = random.Random(1)
    for _ in range(300):
        text = "".join(chance.choice('vllm:num_requests_running{}" 0123.e\n#\x00é') for _ in range(200))
        assert isinstance(samples(text, {"vllm:num_requests_running"}), list)


def test_a_gateways_models() -> None:
    text = "\n".join(
        [
            'litellm_proxy_total_requests_metric_total{api_key_alias="x",requested_model="big",status_code="200"} 3.0',
            'litellm_proxy_total_requests_metric_total{api_key_alias="y",requested_model="big",status_code="500"} 1.0',
            'litellm_total_tokens_metric_total{model="openai/big",requested_model="big",user="u"} 900.0',
            'litellm_total_tokens_metric_total{model="a\\"b, c}",team="None"} 7.0',
            'litellm_proxy_total_requests_metric_total{requested_model="None"} 5.0',
            'litellm_proxy_total_requests_metric_created{requested_model="big"} 1.7e9',
        ]
    )
    found = gateway(text)
    assert found is not None
    assert found.models == (ModelCount('a\\"b, c}', 0, 7), ModelCount("big", 4, 900))
    assert gateway("litellm_total_tokens_metric_total{} 3\n") is None
    many = "".join(f'litellm_total_tokens_metric_total{{model="m{n}"}} 1\n' for n in range(5000))
    assert len((gateway(many) or Progress()).models) == 50
