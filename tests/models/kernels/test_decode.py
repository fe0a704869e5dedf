"""A whole model's decode step by Triton's kernels beside the one in plain torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from models import build
from models.config import ConfigError
from models.decoder import Decoder
from models.registry import config_for

KERNELS = {
    "retnet": "recurrent-triton",
    "retnet-gq": "recurrent-triton",
    "transformer": "split-kv-triton",
    "transformer-gqa": "split-kv-triton",
}
MODELS = [
    *((family, {}) for family in KERNELS),
    ("retnet", {"group_norm": False, "gate": False}),
    ("retnet", {"state_dtype": "model"}),
]


@pytest.fixture(autouse=True)
def _no_gradients_by_default() -> Iterator[None]:
    """As the models' fixture, which the kernels' overrides."""
    with torch.no_grad():
        yield


def pair(
    small: Any, family: str, device: torch.device, dtype: torch.dtype, **overrides: Any
) -> list[Decoder]:
    """The same model by Triton and by torch, built where it runs: Triton's is refused elsewhere."""
    return [
        small.model(family, dtype, device, implementation=name, **overrides)
        for name in ("triton", "torch")
    ]


# Roundings of 24, 8 and 11 bits through a layer or two; the interpreter cuts bfloat16 off.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 6e-2, torch.float16: 6e-3}


@pytest.mark.parametrize(
    ("family", "overrides", "dtype"),
    [
        *((*model, torch.float32) for model in MODELS),
        ("retnet", {}, torch.bfloat16),
        ("transformer-gqa", {}, torch.bfloat16),
        ("transformer", {}, torch.float16),
    ],
)
def test_a_models_steps_are_those_in_torch(
    small: Any, family: str, overrides: dict[str, Any], dtype: torch.dtype, device: torch.device
) -> None:
    models = pair(small, family, device, dtype, n_layers=1, **overrides)
    tokens = small.tokens(2, 9).to(device)
    states = [model.init_state(2, 70) for model in models]
    for model, state in zip(models, states, strict=True):
        model.prefill(tokens[:, :7], state)
    for token in tokens.T[7:]:
        found, expected = (m.step(token, s) for m, s in zip(models, states, strict=True))
        assert small.distance(found, expected) < TOLERANCES[dtype]
    assert [int(state.position) for state in states] == [9, 9]
    for layers in zip(*(state.layers for state in states), strict=True):
        for found, expected in zip(*(layer.tensors() for layer in layers), strict=True):
            assert small.distance(found, expected) < TOLERANCES[dtype]


@pytest.mark.parametrize("family", KERNELS)
def test_a_step_compiles_into_one_graph(small: Any, family: str, device: torch.device) -> None:
    model, plain = pair(small, family, device, torch.float32)
    tokens = small.tokens(1, 2).to(device)
    states = [m.init_state(1, 16) for m in (model, plain)]
    step = torch.compile(model.step, backend="aot_eager", fullgraph=True, dynamic=False)
    for token in tokens.T:
        found, expected = step(token, states[0]), plain.step(token, states[1])
        assert small.distance(found, expected) < TOLERANCES[torch.float32]


@pytest.mark.parametrize("family", ["retnet", "transformer"])
def test_a_compiled_step_updates_its_state_in_place(
    small: Any, family: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inductor takes mutation out of a graph and puts it back, or else copies the whole state."""
    # Seconds, in each process that collects the tests.
    from torch._inductor import config as inductor
    from torch._inductor.graph import GraphLowering

    model = small.model(family, torch.float32, device, implementation="triton", n_layers=1)
    state, tokens = model.init_state(2, 80), small.tokens(2, 1)[:, 0].to(device)
    written = []

    def stop(graph: GraphLowering) -> None:
        written.append(graph.codegen()[0].value)
        raise NotImplementedError("it is not to be compiled")

    monkeypatch.setattr(GraphLowering, "compile_to_module", stop)
    unasked = inductor.patch({"cpp.vec_isa_ok": False})  # else the compiler is run to find out
    with unasked, pytest.raises(RuntimeError, match="not to be compiled"):
        torch.compile(model.step, fullgraph=True, dynamic=False)(tokens, state)
    assert len(re.findall(r"= torch\.ops\.\w+\.step\.default\(", written[0])) == 1
    shapes = re.findall(r"= empty_strided_\w+\(\(([\d, ]+)\)", written[0])
    sizes = [math.prod(int(size) for size in shape.split(",") if size.strip()) for shape in shapes]
    assert 0 < max(sizes) < state.layers[0].tensors()[0].numel()


@pytest.mark.parametrize("family", KERNELS)
def test_the_record_names_the_kernels(family: str, device: torch.device) -> None:
    def named(implementation: str) -> str:
        sizes: dict[str, Any] = {"vocab_size": 61, "implementation": implementation}
        return build(family, preset="tiny", device=device, **sizes).implementation("decode")

    assert named("triton") == KERNELS[family]
    assert "triton" not in named("torch")
    # Where nobody asks for them, they run on a GPU alone.
    assert named("auto") == named("triton" if device.type == "cuda" else "torch")


@pytest.mark.parametrize("family", KERNELS)
@pytest.mark.parametrize(
    ("dtype", "major", "runs"),
    [(torch.bfloat16, 9, True), (torch.float64, 9, False), (torch.bfloat16, 7, False)],
)
def test_auto_takes_the_kernels_on_a_gpu_where_they_can_run(
    pretend_gpu: Callable[[int, int], None],
    family: str,
    dtype: torch.dtype,
    major: int,
    runs: bool,
) -> None:
    pretend_gpu(major, 0)
    mixer = config_for(family, "tiny").mixer()
    with FakeTensorMode():
        mixer.out.weight = torch.nn.Parameter(torch.empty(64, 64, dtype=dtype, device="cuda"))
    assert (mixer.implementation("decode") == KERNELS[family]) is runs


@pytest.mark.parametrize(
    ("family", "sizes", "dtype", "reason"),
    [
        ("retnet", {}, torch.float64, "float64 is none of"),
        ("retnet", {"d_model": 258, "n_heads": 1}, None, "d_k = 258, d_v = 516 is beyond"),
        ("transformer", {}, torch.float64, "float64 is none of"),
        ("transformer", {"d_model": 516, "n_heads": 2}, None, "head_dim = 258 is beyond 256"),
        ("transformer", {"d_model": 34, "n_heads": 17, "n_kv_heads": 1}, None, "17 heads for a KV"),
    ],
)
def test_a_step_the_kernels_cannot_run_is_an_error_only_where_they_were_asked_for(
    family: str, sizes: dict[str, Any], dtype: torch.dtype, reason: str, device: torch.device
) -> None:
    def stepped(implementation: str) -> None:
        sizes.update(vocab_size=61, n_layers=1, implementation=implementation)
        model = build(family, preset="tiny", device=device, dtype=dtype, **sizes)
        model.step(torch.zeros(1, dtype=torch.int64, device=device), model.init_state(1, 8))

    stepped("auto")
    with pytest.raises(ConfigError, match=f"implementation triton: {reason}"):
        stepped("triton")
