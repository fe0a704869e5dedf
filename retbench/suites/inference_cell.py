"""One cell of the inference suite: a prompt of real text prefilled, and decode steps behind it.

Memory is read in the first blocks, from the first calls of a process that does the same calls in
the same order in each. Then three phases are timed in turns: ``prefill``; ``decode``, steps at the
context that the last prefill left; ``generation``, steps at positions spread evenly from the first
token to the context, whose mean is what a token costs on average while a text of that length is
generated.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import count

import torch

from models.compiler import making_graphs
from retbench.config.plan import Point
from retbench.config.run import CAPTURED_MODES, COMPILED_MODES
from retbench.data import prompt_tokens
from retbench.machine.clock import Timing
from retbench.suites.base import CellFailure
from retbench.suites.cell import Cell, Phase
from retbench.suites.distance import worst_distance
from retbench.suites.execution import Execution, Generation, require_rounding
from retbench.suites.measurer import Measurer, Progress
from retbench.suites.session import Rows, Session

GATE_PROMPT = 240
GATE_STEPS = 16
SHALLOW_VOCABULARY = 256
"""Entries of the shallow model's vocabulary: a head of the model's own size tells no more."""

MATH_LIMIT = 512
"""Tokens of context from which attention's math kernel on a GPU is a failure, not a baseline."""


class InferenceMeasurer(Measurer):
    """Prefill and decode of one model."""

    def verify(self, session: Session) -> float:
        """Decoding a short text must reproduce the full forward, in this mode and dtype.

        So must that of a shallow model with the same heads, mode, dtype and kernels: in a deep one
        a head that is wrong in one layer hides in the rounding of all, and in a compiled or
        captured step no layer can be looked at. It has weights of its own; what one of the deep
        model's layers does wrong alone only its own decoding shows.

        Nor may the model's attention fall back to the math kernel on a GPU.
        """
        _require_fused(session)
        tokens = _prompt(session, Point(GATE_PROMPT + GATE_STEPS, 1))
        what = "decoding does not reproduce the full forward"
        error = _decoding_error(session, tokens)
        require_rounding(session, error, what)
        shallow = _shallow(session)
        found = _decoding_error(shallow, tokens % shallow.model.config.vocab_size)
        layers = shallow.model.config.n_layers
        require_rounding(session, found, f"{what} of {layers} of its layers")
        return error

    def prepare(self, rows: Rows, progress: Progress) -> Cell:
        """Make the first calls, read their memory, and say what is to be timed."""
        session = rows.session
        prompt = _prompt(session, rows.point)
        with session.meter.exact() if session.reads_memory else nullcontext():
            run = _execution(session, rows.point, session.config.new_tokens)
            work = _work(rows)
            rows.add_analytic(work)
            progress("first calls")
            first = _first_calls(rows, run, prompt)
            if rows.verify:
                _check_steps(rows, run, prompt)
            if session.reads_memory:
                progress("memory")
                _measure_memory(rows, run, prompt)
            _add_sizes(rows, run)  # of a state that holds all its tokens
        progress("warm-up")
        phases = (
            _prefill(rows, run, prompt, work, first), _decode(rows, run, work),
            _generation(rows, run),
        )  # fmt: skip
        return Cell(rows, *phases)


def _decoding_error(session: Session, tokens: torch.Tensor) -> float:
    """How far a prefill and steps are from the full forward, at the worst position."""
    run = _execution(session, Point(GATE_PROMPT, 1), GATE_STEPS)
    run.ready()
    with torch.inference_mode():
        expected = session.model(tokens)[0, GATE_PROMPT - 1 :].double()
        run.prefill(tokens[:, :GATE_PROMPT])
        decoded = [run.prompt_logits[0].double()]
        for position in range(GATE_PROMPT, GATE_PROMPT + GATE_STEPS):
            run.token.copy_(tokens[:, position])
            run.step()
            decoded.append(run.step_logits[0].double())
        return worst_distance(torch.stack(decoded), expected)


def _shallow(session: Session) -> Session:
    """The session of a model of a small vocabulary and as few layers as have all kinds of them."""
    config = session.model.config
    kinds = len(set(config.layers))
    few = (replace(config, n_layers=n, vocab_size=SHALLOW_VOCABULARY) for n in count(1))
    small = next(each for each in few if len(set(each.layers)) == kinds)
    dtype = getattr(torch, session.config.dtype)
    model = small.build(device=session.device, dtype=dtype, seed=session.config.seed)
    return replace(session, subject=model)


def _require_fused(session: Session) -> None:
    model = session.model
    insisted = model.config.implementation == "math"
    if session.device.type == "cuda" and max(session.config.context) >= MATH_LIMIT and not insisted:
        for phase in ("prefill", "decode"):
            if "sdpa-math" in model.implementation(phase):
                raise CellFailure("unsupported", f"{phase} has no fused attention on this GPU")


def _check_steps(rows: Rows, run: Execution, prompt: torch.Tensor) -> None:
    """A step is that of a prefill of one token more, at this context, batch size, mode and kernel.

    So is one of a generation where it has a state of its own; others are the same call. And the
    prefill's own logits are those of a step behind one of a token less.
    """
    session, point = rows.session, rows.point
    error = run.prefill_error(prompt)
    what = f"a prefill at {point.id} is not one of a token less and a step"
    require_rounding(session, error, what)
    if session.config.mode == "eager":
        error = Generation(run, point.seq_len).error(prompt)
        what = f"a step of a generation at {point.id} does not continue a prefill"
        require_rounding(session, error, what)
    error = run.step_error(prompt)
    rows.add("setup", "step_error", error)
    require_rounding(session, error, f"a step at {point.id} does not continue its prefill")


def _prompt(session: Session, point: Point) -> torch.Tensor:
    """Real text of the point's shape, int64, on the device."""
    vocab = session.model.config.vocab_size
    tokens = prompt_tokens(point.batch_size, point.seq_len, session.config.seed)
    if tokens.max() >= vocab:
        raise CellFailure("unsupported", f"the text needs GPT-2's vocabulary, not {vocab} entries")
    return torch.from_numpy(tokens).to(session.device)


def _execution(session: Session, point: Point, new_tokens: int) -> Execution:
    return Execution(
        session.model,
        point.batch_size,
        point.seq_len + new_tokens,
        session.config.mode,
        session.device,
    )


def _first_calls(rows: Rows, run: Execution, prompt: torch.Tensor) -> Timing:
    """Compilation or capture, the first prefill and the first step: the cold start; that prefill.

    The peak of the prefill's memory is read here where nothing was compiled meanwhile. Each of the
    two must be compiled where the mode says so; a step that is captured is when it is made ready.
    """
    session = rows.session
    compiles = session.config.mode in COMPILED_MODES
    captures = session.config.mode in CAPTURED_MODES
    started = time.perf_counter()
    with making_graphs(compiles and captures):
        run.ready()
    with making_graphs(compiles):
        first = session.clock.time(lambda: run.prefill(prompt))
    peaks = session.meter.peak_bytes(), session.meter.reserved_peak_bytes()
    with making_graphs(compiles and not captures):
        session.clock.time(run.step)
    rows.add("setup", "cold_start_s", time.perf_counter() - started)
    if session.config.mode == "eager" and session.reads_memory:
        _add_memory(rows, "prefill_peak_bytes", peaks[0])
        _add_memory(rows, "prefill_reserved_bytes", peaks[1])
    return first


def _measure_memory(rows: Rows, run: Execution, prompt: torch.Tensor) -> None:
    """The peaks of a prefill, unless its first call has told, and of steps; and what is held."""
    session = rows.session
    if session.config.mode != "eager":
        session.meter.reset()
        run.reset()
        run.prefill(prompt, captured=False)  # a replay asks for no memory: it has it already
        _add_memory(rows, "prefill_peak_bytes", session.meter.peak_bytes())
        _add_memory(rows, "prefill_reserved_bytes", session.meter.reserved_peak_bytes())
    session.meter.reset()
    run.seek(prompt.shape[1])
    for _ in range(session.config.new_tokens):
        run.step()
    idle = session.meter.idle_pool_bytes(run.graph_pool)
    _add_memory(rows, "decode_peak_bytes", session.meter.peak_bytes() + idle)
    _add_memory(rows, "steady_bytes", session.meter.current_bytes() + idle)
    _add_memory(rows, "device_used_bytes", session.meter.device_used_bytes())


def _prefill(
    rows: Rows, run: Execution, prompt: torch.Tensor, work: Mapping[str, float], first: Timing
) -> Phase:
    session = rows.session
    return Phase(
        "prefill",
        "ttft_s",
        lambda: run.prefill(prompt),
        before=run.reset,
        implementation=session.model.implementation("prefill"),
        flops=work["prefill_flops"],
        moved_bytes=work["prefill_bytes"],
        energy="prefill_j",
        compiles=session.config.mode != "eager",
        first_s=first.seconds,
        is_warm=session.config.device == "cpu" and not session.reads_memory,
    )


def _decode(rows: Rows, run: Execution, work: Mapping[str, float]) -> Phase:
    context = rows.point.seq_len
    return Phase(
        "decode",
        "tpot_s",
        run.step,
        before=lambda: run.seek(context),
        most_calls=rows.session.config.new_tokens,
        implementation=rows.session.model.implementation("decode"),
        flops=work["decode_flops"],
        moved_bytes=work["decode_bytes"],
        energy="token_j",
        energy_per=rows.point.batch_size,
        check=partial(_require_finite, run),
    )


def _generation(rows: Rows, run: Execution) -> Phase:
    generation = Generation(run, rows.point.seq_len)
    return Phase(
        "generation",
        "mean_tpot_s",
        generation,
        wake=generation.first,
        per_call=len(generation),
        energy="mean_token_j",
        energy_per=len(generation) * rows.point.batch_size,
        implementation=rows.session.model.implementation("decode"),
        check=partial(_require_finite, run),
    )


def _require_finite(run: Execution) -> None:
    if not bool(run.step_logits.isfinite().all()):
        raise CellFailure("error", "the logits of the last decode step are not finite")


def _add_sizes(rows: Rows, run: Execution) -> None:
    """Bytes of the weights and of the state, summed over the actual tensors."""
    model = rows.session.model
    tensors = [*model.parameters(), *model.buffers()]
    weights = sum(tensor.nbytes for tensor in tensors)
    rows.add("memory", "weights_bytes", weights, implementation="tensors")
    rows.add("memory", "state_bytes", run.state.nbytes, implementation="tensors")


def _add_memory(rows: Rows, metric: str, value: int | None) -> None:
    """A figure of the memory meter, labelled with its source; none where the device has none."""
    if value is not None:
        rows.add("memory", metric, value, implementation=rows.session.meter.source)


def _work(rows: Rows) -> dict[str, float]:
    """Analytic FLOPs and bytes of a prefill and of a decode step in the run's dtype, by metric."""
    model, point = rows.session.model, rows.point
    config, batch, context = model.config, point.batch_size, point.seq_len
    size = next(model.parameters()).element_size()
    return {
        "prefill_flops": model.flops_per_token(context, "prefill") * point.tokens,
        "prefill_hardware_flops": (
            config.hardware_flops_per_token(context, "prefill") * point.tokens
        ),
        "prefill_bytes": config.prefill_bytes(batch, context, size),
        "decode_flops": model.flops_per_token(context, "decode") * batch,
        "decode_bytes": config.decode_bytes(batch, context, size),
    }
