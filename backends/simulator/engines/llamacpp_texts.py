"""llama.cpp's longer texts: its default settings, its metrics, and the log of a load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backends.simulator.engines.llamacpp import LlamaCpp

_SAMPLING: dict[str, Any] = {
    "seed": 4294967295, "temperature": 0.8, "dynatemp_range": 0.0, "dynatemp_exponent": 1.0, "top_k": 40,
    "top_p": 0.95, "min_p": 0.05, "top_n_sigma": -1.0, "xtc_probability": 0.0, "xtc_threshold": 0.1,
    "typical_p": 1.0, "repeat_last_n": 64, "repeat_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "dry_multiplier": 0.0, "dry_base": 1.75, "dry_allowed_length": 2,
    "dry_penalty_last_n": 64, "mirostat": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1,
    "adaptive_target": -1.0, "adaptive_decay": 0.9, "max_tokens": -1, "n_predict": -1, "n_keep": 0,
    "n_discard": 0, "ignore_eos": False, "stream": False, "n_probs": 0, "min_keep": 0,
    "chat_format": "Content-only", "reasoning_format": "none", "reasoning_in_content": False,
    "generation_prompt": "", "samplers": ["penalties", "dry", "top_k", "top_p", "min_p", "temperature"],
    "speculative.types": "none", "timings_per_token": False, "post_sampling_probs": False,
    "backend_sampling": False, "lora": [],
}  # fmt: skip
_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
_CAPS = {
    "supports_object_arguments": False, "supports_parallel_tool_calls": False,
    "supports_preserve_reasoning": False, "supports_reasoning_effort": False, "supports_string_content": True,
    "supports_system_role": True, "supports_tool_calls": False, "supports_tools": False,
    "supports_typed_content": False,
}  # fmt: skip

_METRICS = {
    "prompt_tokens_total": "Number of prompt tokens processed, excluding cached tokens",
    "prompt_tokens_cached_total": "Number of prompt tokens reused from the cache",
    "prompt_seconds_total": "Total time spent processing prompts",
    "tokens_predicted_total": "Number of generation tokens processed",
    "tokens_predicted_seconds_total": "Total time spent generating tokens",
    "n_decode_total": "Total number of llama_decode() calls, excluding speculative decoding and multimodal",
    "n_tokens_max": "Largest observed sequence length (prompt + generation)",
    "spec_decode_num_draft_tokens_total": "Speculative: Total draft tokens generated",
    "spec_decode_num_accepted_tokens_total": "Speculative: Total draft tokens accepted by the target model",
    "spec_decode_num_drafts_total": "Speculative: Total speculative decoding verification steps",
    "prompt_tokens_seconds": "Average prompt throughput in tokens/s",
    "predicted_tokens_seconds": "Average generation throughput in tokens/s",
    "requests_processing": "Number of requests processing",
    "requests_deferred": "Number of requests deferred",
    "n_busy_slots_per_decode": "Average number of busy slots per llama_decode() call",
}


def defaults(model: str, context: int, slots: int, quant: str, vision: bool) -> dict[str, Any]:
    """/props without what changes."""
    return {
        "default_generation_settings": {"params": _SAMPLING, "n_ctx": context},
        "total_slots": slots, "model_alias": model, "model_ftype": quant, "model_path": model,
        "modalities": {"vision": vision, "video": False, "audio": False}, "media_marker": "<__media__>",
        "endpoint_slots": True, "endpoint_props": True, "endpoint_metrics": True, "ui": True,
        "ui_settings": {}, "chat_template": _TEMPLATE, "chat_template_caps": _CAPS, "bos_token": "<s>",
        "eos_token": "</s>",
    }  # fmt: skip


def metrics(engine: LlamaCpp) -> str:
    """/metrics, in the order and the words of b11549."""
    read_s = engine.prompt_tokens / engine.prompt_tokens_per_second
    made_s = engine.predicted_seconds
    values: dict[str, float] = {
        "prompt_tokens_total": engine.prompt_tokens,
        "prompt_seconds_total": read_s,
        "tokens_predicted_total": engine.predicted_tokens,
        "tokens_predicted_seconds_total": made_s,
        "n_decode_total": int(engine.decodes),
        "n_tokens_max": engine.peak_tokens,
        "prompt_tokens_seconds": engine.prompt_tokens / read_s if read_s else 0,
        "predicted_tokens_seconds": engine.predicted_tokens / made_s if made_s else 0,
        "requests_processing": engine.running,
        "requests_deferred": engine.waiting,
        "n_busy_slots_per_decode": min(1, int(engine.decodes)),
    }
    return "".join(
        f"# HELP llamacpp:{name} {text}\n# TYPE llamacpp:{name} {_kind(name)}\n"
        f"llamacpp:{name} {_figure(values.get(name, 0))}\n"
        for name, text in _METRICS.items()
    )


def _figure(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _kind(name: str) -> str:
    return "counter" if name.endswith("_total") or name == "n_tokens_max" else "gauge"


def device_lines(gpu: str, memory_mib: float) -> list[str]:
    """What ggml says when CUDA is there."""
    return [
        "ggml_cuda_init: found 1 CUDA devices:",
        f"  Device 0: {gpu}, compute capability 8.6, VMM: yes, VRAM: {memory_mib:.0f} MiB",
        f"llama_model_load_from_file_impl: using device CUDA0 ({gpu}) - {memory_mib - 280:.0f} MiB free",
    ]


def load_lines(model: str, layers: int, context: int, slots: int, vram_mib: float) -> list[str]:
    """A load: on the GPU where it takes memory there, else on the CPU."""
    lines = [
        f"llama_model_loader: loaded meta data with 34 key-value pairs and {layers * 12 + 3} tensors from {model}",
        "load_tensors: loading model tensors, this can take a while... (mmap = true)",
    ]
    if vram_mib <= 0:
        return [
            *lines,
            "load_tensors:   CPU_Mapped model buffer size =  4460.45 MiB",
            f"llama_context: n_ctx         = {context}",
            "llama_kv_cache:        CPU KV buffer size =   448.00 MiB",
            "llama_context:        CPU compute buffer size =   304.00 MiB",
            f"srv          init: initializing slots, n_slots = {slots}",
        ]
    return [
        *lines,
        f"load_tensors: offloading {layers} repeating layers to GPU",
        "load_tensors: offloading output layer to GPU",
        f"load_tensors: offloaded {layers + 1}/{layers + 1} layers to GPU",
        "load_tensors:   CPU_Mapped model buffer size =   292.36 MiB",
        f"load_tensors:        CUDA0 model buffer size = {vram_mib * 0.80:8.2f} MiB",
        f"llama_context: n_ctx         = {context}",
        f"llama_kv_cache:      CUDA0 KV buffer size = {vram_mib * 0.14:8.2f} MiB",
        f"llama_context:      CUDA0 compute buffer size = {vram_mib * 0.03:8.2f} MiB",
        "llama_context:  CUDA_Host compute buffer size =    24.01 MiB",
        f"srv          init: initializing slots, n_slots = {slots}",
    ]
