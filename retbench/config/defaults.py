"""What a suite uses of a run's configuration, and the defaults of all it uses, by device.

>>> SUITE_DEFAULTS["perplexity", "cpu"]["preset"]
'1m'
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULTS: dict[str, Any] = {
    "suite": "inference",
    "models": ("retnet", "transformer", "transformer-gqa"),
    "profile": "quick",
    "seed": 0,
    "ffn": "gelu",
    "plugins": (),
    "overrides": {},
    "memory_limit_gib": None,
    "out": None,
    "precision": 0.02,
    "margin": 0.01,
    "parallel": "none",
    "world_size": 1,
}
_TRAINING_DEFAULTS: dict[str, Any] = {
    "models": ("retnet", "transformer"),
    "mode": "eager",
    "timeout_s": 3600.0,
}


def _without_text(defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given for name, given in defaults.items() if name != "tokenizer"}


_CPU_TRAINING: dict[str, Any] = _TRAINING_DEFAULTS | {
    "dtype": "float32",
    "preset": "1m",
    "tokenizer": "char",
    "context": (256,),
    "batch": (4,),
    "steps": 350,
    "learning_rates": (2e-3, 4e-3, 8e-3),
}
# Many trainings in the same time: short ones, whose best rates are lower.
_SHORT: dict[str, Any] = {"learning_rates": (1e-3, 2e-3, 4e-3)}
_CUDA_TRAINING: dict[str, Any] = _TRAINING_DEFAULTS | {
    "dtype": "bfloat16",
    "preset": "30m",
    "tokenizer": "gpt2",
    "context": (1024,),
    "batch": (32,),
    "steps": 1000,
    "learning_rates": (5e-4, 1e-3, 2e-3),
}
_RECALL: dict[str, Any] = {"preset": "tiny", "tasks": ("mqar", "copy", "needle")}
_CPU_RECALL = (
    _without_text(_CPU_TRAINING)
    | _RECALL
    | {"context": (16,), "batch": (64,), "steps": 1600, "learning_rates": (5e-4, 1e-3)}
)
_CUDA_RECALL = (
    _without_text(_CUDA_TRAINING)
    | _RECALL
    | {"context": (256,), "batch": (256,), "steps": 10_000, "learning_rates": (3e-4, 1e-3, 3e-3)}
)
SUITE_DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("inference", "cpu"): {
        "preset": "10m",
        "dtype": "float32",
        "mode": "eager",
        "context": (1024, 2048, 4096),
        "batch": (1, 4),
        "batch_context": 1024,
        "new_tokens": 8,
        "timeout_s": 600.0,
    },
    ("inference", "cuda"): {
        "preset": "1.3b",
        "dtype": "bfloat16",
        "mode": "cudagraph",
        "context": tuple(2**power for power in range(9, 17)),
        "batch": tuple(2**power for power in range(11)),
        "batch_context": 8192,
        "new_tokens": 32,
        "timeout_s": 900.0,
    },
    ("perplexity", "cpu"): _CPU_TRAINING,
    ("perplexity", "cuda"): _CUDA_TRAINING,
    ("scaling", "cpu"): _CPU_TRAINING
    | _SHORT
    | {"presets": ("tiny", "1m", "3m"), "batch": (2,), "steps": 160},
    ("scaling", "cuda"): _CUDA_TRAINING | {"presets": ("30m", "125m", "350m")},
    ("ablation", "cpu"): _CPU_TRAINING
    | _SHORT
    | {"models": ("retnet",), "steps": 100},
    ("ablation", "cuda"): _CUDA_TRAINING | {"models": ("retnet",)},
    ("recall", "cpu"): _CPU_RECALL,
    ("recall", "cuda"): _CUDA_RECALL,
    ("training", "cpu"): {
        "preset": "1m",
        "dtype": "float32",
        "tokenizer": "char",
        "context": (512, 1024, 2048),
        "tokens_per_step": 2048,
        "batch": (4,),
        "batch_context": 512,
        "modes": ("eager",),
        "activations": ("kept",),
        "variants": ("math",),
        "timeout_s": 600.0,
    },
    ("training", "cuda"): {
        "preset": "350m",
        "dtype": "bfloat16",
        "tokenizer": "gpt2",
        "context": tuple(2**power for power in range(10, 16)),
        "tokens_per_step": 32768,
        "batch": tuple(2**power for power in range(9)),
        "batch_context": 2048,
        "modes": ("eager", "compile"),
        "activations": ("kept", "recomputed"),
        "variants": ("math", "parallel", "torch", "chunk-64", "chunk-256"),
        "timeout_s": 900.0,
    },
    ("kernels", "cpu"): {
        "operations": (
            "retention-chunkwise", "retention-parallel", "retention-recurrent", "sdpa-flash",
            "sdpa-math",
        ),
        "directions": ("forward", "train"),
        "head_dims": (64,),
        "dtypes": ("float32",),
        "context": (256, 512, 1024, 2048),
        "batch": (1,),
        "timeout_s": 300.0,
    },
    # Few lengths and the paper's heads alone, for the time's sake: two operations compile anew for
    # each point.
    ("kernels", "cuda"): {
        "operations": (
            "retention-triton", "retention-chunkwise", "retention-compiled", "retention-parallel",
            "retention-recurrent", "fla-chunk", "fla-parallel", "fla-fused-recurrent",
            "sdpa-flash", "sdpa-efficient", "sdpa-cudnn", "sdpa-math", "flex-attention",
        ),
        "directions": ("forward", "train"),
        "head_dims": (256,),
        "dtypes": ("bfloat16",),
        "context": (2048, 4096, 16384, 65536),
        "batch": (1,),
        "timeout_s": 300.0,
    },
}  # fmt: skip

_INFERENCE = ("inference",)
_TEXT = ("perplexity", "scaling", "ablation")
_LEARNING = (*_TEXT, "recall")  # the suites whose trainings are carried through
_MODELS = ("inference", *_LEARNING, "training")
_TIMED = ("inference", "training", "kernels")  # the suites whose contenders take turns
USED_BY: dict[str, tuple[str, ...]] = {
    "models": _MODELS,
    "preset": _MODELS,
    "ffn": _MODELS,
    "plugins": (*_MODELS, "kernels"),
    "overrides": _MODELS,
    "implementation": _MODELS,
    "context": (*_MODELS, "kernels"),
    "mode": _MODELS,
    "batch_context": ("inference", "training"),
    "new_tokens": _INFERENCE,
    "data": (*_TEXT, "training"),
    "tokenizer": (*_TEXT, "training"),
    "steps": _LEARNING,
    "learning_rates": _LEARNING,
    "training": _LEARNING,
    "presets": ("scaling",),
    "tasks": ("recall",),
    "tokens_per_step": ("training",),
    "modes": ("training",),
    "activations": ("training",),
    "variants": ("training",),
    "operations": ("kernels",),
    "directions": ("kernels",),
    "head_dims": ("kernels",),
    "dtypes": ("kernels",),
    "minutes": _TIMED,
    "precision": _TIMED,
    "margin": _TIMED,
    "parallel": ("training",),
    "world_size": ("training",),
}
"""The suites that use a field; one that is not listed is used by all."""

OPTIONAL = (
    "implementation", "memory_limit_gib", "out", "plugins", "overrides", "data", "training",
    "parallel", "world_size", "minutes", "precision", "margin",
)  # fmt: skip
"""Fields that a stored configuration may lack: nothing was asked for."""

SWEPT = (("presets", "preset"), ("modes", "mode"), ("dtypes", "dtype"))
"""Fields of a suite that sweeps what others take one of; the first is then the run's one."""


def is_used(name: str, suite: str) -> bool:
    """Whether a suite has a use for a field of :class:`RunConfig`."""
    return suite in USED_BY.get(name, (suite,))


def divisible(
    defaults: Mapping[str, Any], tokens_per_step: int | None, size: int
) -> dict[str, Any]:
    """Of the default sweeps what so many processes can share equally; all, where they can none.

    Args:
        defaults: of the suite training.
        tokens_per_step: what was asked for; None for the default.
        size: processes.
    """
    tokens = tokens_per_step or defaults["tokens_per_step"]
    context = tuple(n for n in defaults["context"] if tokens // n % size == 0)
    batch = tuple(n for n in defaults["batch"] if n % size == 0)
    return {"context": context or defaults["context"], "batch": batch or defaults["batch"]}
