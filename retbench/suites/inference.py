"""The inference suite: TTFT, TPOT, memory and their analytic bounds over context and batch size.

One cell is a model at a context and a batch size. Its prompt of real text is prefilled, timed, for
several trials; then, at the context that the last prefill left, windows of decode steps are timed,
each window from that same position. Importing this module does not import torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from retbench.config.run import PROFILES, RunConfig
from retbench.data import prompt_tokens
from retbench.errors import Misfit
from retbench.measure.ceilings import violates_matmul_rate, violates_physics
from retbench.measure.clock import LAUNCH_BOUND, Timing, repeats_for
from retbench.plan import Contender, Plan, Point
from retbench.suites.base import Ceilings, CellFailure, Rows, Session, Suite
from retbench.suites.inference_cost import InferenceCost

if TYPE_CHECKING:
    import torch

    from models.config import ModelConfig, Phase
    from retbench.suites.execution import Execution

VOCAB_SIZE = 50257  # of retbench.data.tokenizer, which takes its time to import

MATH_LIMIT = 512
"""Tokens of context from which attention's math kernel on a GPU is a failure, not a baseline."""

GATE_PROMPT = 240
GATE_STEPS = 16
GATE_TOLERANCE = {"float64": 1e-10, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest relative L2 distance of decoded logits from the full forward's: the dtype's rounding,
grown over the layers of a deep model. A wrong cache, mask or state is off by 0.1 or more."""


class InferenceSuite(Suite):
    """Prefill and decode of matched models."""

    name = "inference"
    trains = False

    def plan(self, config: RunConfig) -> Plan:
        """Every context at the first batch size, and every batch size at ``batch_context``."""
        points = {Point(context, config.batch[0]) for context in config.context}
        points |= {Point(config.batch_context, batch) for batch in config.batch}
        contenders = tuple(
            Contender(name, name, config.overrides_for(name)) for name in config.models
        )
        blocks = PROFILES[config.profile].blocks
        return Plan(self.name, contenders, tuple(sorted(points)), blocks, config.seed)

    def data(self, config: RunConfig) -> None:
        """Read and encode the embedded text that prompts are made of."""
        prompt_tokens(1, 1, config.seed)

    def check(self, config: RunConfig, models: Mapping[str, ModelConfig]) -> None:
        """Every model must hold the contexts and know every token of the prompts."""
        for family, model in models.items():
            _check_length(config, family, model)
            _check_vocabulary(family, model)

    def cost(self, config: RunConfig, ceilings: Ceilings) -> InferenceCost:
        """Bounds of prefill and decode steps under the caps of the profile."""
        return InferenceCost(config, ceilings)

    def build(
        self,
        config: RunConfig,
        contender: Contender,
        options: Mapping[str, Any],
        device: torch.device,
    ) -> Any:
        """The model, unless its attention would fall back to the math kernel on a GPU."""
        model = super().build(config, contender, options, device)
        asked = model.config.implementation == "math"
        if device.type == "cuda" and max(config.context) >= MATH_LIMIT and not asked:
            for phase in ("prefill", "decode"):
                if model.implementation(phase) == "sdpa-math":
                    raise CellFailure("unsupported", f"{phase} has no fused attention on this GPU")
        return model

    def verify(self, session: Session) -> float:
        """Decoding must reproduce the model's own full forward, in this mode and dtype."""
        import torch

        tokens = _prompt(session, Point(GATE_PROMPT + GATE_STEPS, 1))
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
            error = float((torch.stack(decoded) - expected).norm() / expected.norm())
        limit = GATE_TOLERANCE[session.config.dtype]
        if not error <= limit:  # NaN fails too
            raise CellFailure(
                "error",
                f"decoding does not reproduce the full forward: relative error {error:.2g}, "
                f"allowed {limit:g} in {session.config.dtype}",
            )
        return error

    def measure(self, session: Session, rows: Rows, progress: Callable[[str], None]) -> None:
        """Prefill, then decode, with the memory of each; see the module's description."""
        prompt = _prompt(session, rows.point)
        session.meter.reset()
        run = _execution(session, rows.point, session.config.new_tokens)
        _add_sizes(rows, run)
        _add_analytic(rows)
        progress("prefill")
        _measure_prefill(rows, run, prompt)
        progress("decode")
        _measure_decode(rows, run)


SUITE = InferenceSuite()


def _check_length(config: RunConfig, family: str, model: ModelConfig) -> None:
    longest = {"context": max(config.context), "batch_context": config.batch_context}
    for name, length in longest.items():
        if length + config.new_tokens > model.max_len:
            raise Misfit(
                f"{name.replace('_', '-')} {length} and {config.new_tokens} new tokens exceed the "
                f"{model.max_len} tokens that {family} can hold (its max_len)",
                f"shorten it or use --set max_len={length + config.new_tokens}",
                keys=(name, "overrides.max_len", f"overrides.{family}.max_len"),
            )


def _check_vocabulary(family: str, model: ModelConfig) -> None:
    """The prompts are text of GPT-2's tokenizer, whose every token a model must know."""
    if model.vocab_size < VOCAB_SIZE:
        raise Misfit(
            f"set: vocab_size = {model.vocab_size} of {family} is less than the {VOCAB_SIZE} "
            "tokens that prompts are made of",
            keys=("overrides.vocab_size", f"overrides.{family}.vocab_size"),
        )


def _prompt(session: Session, point: Point) -> torch.Tensor:
    """Real text of the point's shape, int64, on the device."""
    import torch

    vocab = session.model.config.vocab_size
    tokens = prompt_tokens(point.batch_size, point.seq_len, session.config.seed)
    if tokens.max() >= vocab:
        raise CellFailure("unsupported", f"the text needs GPT-2's vocabulary, not {vocab} entries")
    return torch.from_numpy(tokens).to(session.device)


def _execution(session: Session, point: Point, new_tokens: int) -> Execution:
    from retbench.suites.execution import Execution

    return Execution(
        session.model,
        point.batch_size,
        point.seq_len + new_tokens,
        session.config.mode,
        session.device,
    )


def _measure_prefill(rows: Rows, run: Execution, prompt: torch.Tensor) -> None:
    """Cold start, then time to first token: warm-up and trials; then the peak of memory."""
    session = rows.session

    def trial() -> list[Timing]:
        run.reset()
        return [session.clock.time(lambda: run.prefill(prompt))]

    flops = session.model.flops_per_token(prompt.shape[1], "prefill") * prompt.numel()

    def violation(seconds: float, ceilings: Ceilings) -> str | None:
        return violates_matmul_rate(flops, seconds, session.config.dtype, ceilings)

    cold_s, first = _cold_start(session, run, prompt)
    rows.add("setup", "cold_start_s", cold_s)
    # A prefill as long as all the time a phase may take was its own warm-up, if it only computed.
    is_warm = session.config.mode != "compile" and first.seconds > session.profile.phase_budget_s
    flags = [] if is_warm else session.warm_up(trial)
    trials = list(session.trials(trial))
    _add_memory(rows, "prefill_peak_bytes", session.meter.peak_bytes())
    _add_memory(rows, "prefill_reserved_bytes", session.meter.reserved_peak_bytes())
    _add_times(rows, "prefill", "ttft_s", trials, flags, violation)


def _measure_decode(rows: Rows, run: Execution) -> None:
    """Time per output token over windows that start at the same position; then memory."""
    session, window = rows.session, rows.session.config.new_tokens
    session.meter.reset()
    run.seek(rows.point.seq_len)
    # M4: steps too short for the clock are timed several at once.
    repeats = min(window, repeats_for(session.clock.time(run.step, window).seconds))

    def trial() -> list[Timing]:
        run.seek(rows.point.seq_len)
        return [session.clock.time(run.step, repeats) for _ in range(window // repeats)]

    def violation(seconds: float, ceilings: Ceilings) -> str | None:
        return violates_physics(_decode_bytes(rows), seconds, ceilings)

    flags = session.warm_up(trial)
    trials = list(session.trials(trial))
    if not bool(run.step_logits.isfinite().all()):
        raise CellFailure("error", "the logits of the last decode step are not finite")
    _add_memory(rows, "decode_peak_bytes", session.meter.peak_bytes())
    _add_memory(rows, "steady_bytes", session.meter.current_bytes())
    _add_memory(rows, "device_used_bytes", session.meter.device_used_bytes())
    _add_times(rows, "decode", "tpot_s", trials, flags, violation)


def _add_times(
    rows: Rows,
    phase: Phase,
    metric: str,
    trials: Sequence[Sequence[Timing]],
    flags: Sequence[str],
    violation: Callable[[float, Ceilings], str | None],
) -> None:
    """The samples of a phase, and M15's check of the fastest.

    Called once the phase's memory has been read: the check may measure the ceilings again.
    """
    implementation = rows.session.model.implementation(phase)
    for number, timings in enumerate(trials):
        for timing in timings:
            rows.add(
                phase, metric, timing.seconds, trial=number, implementation=implementation,
                flags=[*flags, LAUNCH_BOUND] if timing.launch_bound else flags,
            )  # fmt: skip
    fastest_s = min(timing.seconds for timings in trials for timing in timings)
    rows.session.require_physical(partial(violation, fastest_s))


def _cold_start(session: Session, run: Execution, prompt: torch.Tensor) -> tuple[float, Timing]:
    """Seconds of compilation or capture, the first prefill and the first step; that prefill."""
    started = time.perf_counter()
    run.ready()
    first = session.clock.time(lambda: run.prefill(prompt))
    session.clock.time(run.step)
    return time.perf_counter() - started, first


def _add_sizes(rows: Rows, run: Execution) -> None:
    """Bytes of the weights and of the state, summed over the actual tensors."""
    model = rows.session.model
    tensors = [*model.parameters(), *model.buffers()]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    rows.add("memory", "weights_bytes", weights, implementation="tensors")
    rows.add("memory", "state_bytes", run.state.nbytes, implementation="tensors")


def _add_memory(rows: Rows, metric: str, value: int | None) -> None:
    """A figure of the memory meter, labelled with its source; none where the device has none."""
    if value is not None:
        rows.add("memory", metric, value, implementation=rows.session.meter.source)


def _add_analytic(rows: Rows) -> None:
    """FLOPs of a prefill and of a decode step, and the bytes that a step must move."""
    model, point = rows.session.model, rows.point
    per_token = model.flops_per_token(point.seq_len, "prefill")
    step = model.flops_per_token(point.seq_len, "decode")
    tokens = point.batch_size * point.seq_len
    rows.add("analytic", "prefill_flops", per_token * tokens, implementation="analytic")
    rows.add("analytic", "decode_flops", step * point.batch_size, implementation="analytic")
    rows.add("analytic", "decode_bytes", _decode_bytes(rows), implementation="analytic")


def _decode_bytes(rows: Rows) -> int:
    """Analytic bytes of one decode step in the run's dtype."""
    model, point = rows.session.model, rows.point
    size = next(model.parameters()).element_size()
    return model.config.decode_bytes(point.batch_size, point.seq_len, size)
