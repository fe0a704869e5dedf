"""Prefill and decode steps of a model in one execution mode: eager, compiled, captured, or both.

All models of a comparison run through this file alone, so none gets a treatment that another
lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor

from models.compiler import compiled
from models.protocol import LanguageModel, State
from retbench.config.run import CAPTURED_MODES, COMPILED_MODES
from retbench.suites.base import require_close
from retbench.suites.distance import worst_distance
from retbench.suites.inference import PREFILL_TOKENS
from retbench.suites.measurer import state_dtypes
from retbench.suites.session import Session

STATE_ALIGNMENT = 16
"""States hold a multiple of so many tokens where the model can, for the kernels' sake."""

GRAPH_WARM_UP_CALLS = 3
"""Calls on a side stream before a capture, as torch.cuda.graph asks for."""

CAPTURED_PREFILL_TOKENS = 4096
"""Most tokens of a prefill that is captured: on more a GPU computes longer than its host launches,
and a graph keeps the memory of all activations."""

GATE_TOLERANCE = {
    "float64": 1e-10, "float32": 1e-4, "float16": 1e-2, "int8": 2e-2, "bfloat16": 5e-2,
}  # fmt: skip
"""Largest relative L2 distance of one position's logits from the full forward's: the rounding of
the coarsest type that computes or keeps the state, grown over the layers of a deep model. A wrong
cache, mask or state is off by 0.1 or more in a model of few layers; one head of one layer of many
is by less."""


class Execution:
    """One batch of sequences: its state, its last token, and the means to move on.

    All work runs in inference mode. Buffers stay in place from call to call.

    Args:
        model: the model, on its device and in evaluation mode.
        batch_size: sequences.
        max_len: tokens that prompt and new tokens may come to.
        mode: ``eager``; ``compile`` (prefill and step); ``cudagraph`` (the step, and a prefill of
            up to ``CAPTURED_PREFILL_TOKENS``); ``compile-cudagraph``, both.
        device: the model's.

    Attributes:
        state: the model's, empty at first.
        token: int64, (batch,): the token that the next step takes in.
        prompt_logits: (batch, vocab) of the last prefill.
        step_logits: (batch, vocab) of the last step.
    """

    def __init__(
        self, model: LanguageModel, batch_size: int, max_len: int, mode: str, device: torch.device
    ) -> None:
        self._mode = mode
        self._model = model
        self._prefill, self._model_step = model.prefill, model.step
        self._step_graph: torch.cuda.CUDAGraph | None = None
        self._prefill_graph: torch.cuda.CUDAGraph | None = None
        self._prompt = torch.empty(0)
        aligned = -(-max_len // STATE_ALIGNMENT) * STATE_ALIGNMENT
        room = aligned if aligned <= model.config.max_len else max_len
        with torch.inference_mode():
            self.state = model.init_state(batch_size, room, device=device)
            self.token = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.prompt_logits = self.step_logits = torch.empty(0)

    def ready(self) -> None:
        """Compile and capture what the mode asks for, and leave the state empty.

        A prefill is so at its first call.
        """
        if self._mode in COMPILED_MODES:
            # Each cell has its own shapes; those of the last one would only fill the cache.
            torch.compiler.reset()
            self._prefill = compiled(self._prefill)
            self._model_step = compiled(self._model_step)
        if self._mode in CAPTURED_MODES:
            self._step_graph = self._capture(self._step)

    @torch.inference_mode()
    def prefill(self, prompt: Tensor, *, captured: bool = True) -> None:
        """Take a prompt (batch, time) into the empty state and choose the first new token.

        Args:
            prompt: int64 tokens.
            captured: whether a graph may be replayed, where the mode has one of such a prefill.
        """
        if captured and self._mode in CAPTURED_MODES and prompt.numel() <= CAPTURED_PREFILL_TOKENS:
            if self._prefill_graph is None or self._prompt.shape != prompt.shape:
                self._prompt = prompt.clone()
                self._prefill_graph = self._capture(self._prefill_prompt)
            self._prompt.copy_(prompt)
            self._prefill_graph.replay()
            return
        self.prompt_logits = self._prefill_by_parts(prompt, self._prefill)
        self.token.copy_(self.prompt_logits.argmax(-1))

    @torch.inference_mode()
    def prefill_error(self, prompt: Tensor) -> float:
        """How far a prefill is from an eager one of a token less, and an eager step with that.

        To be asked for after :meth:`prefill` of ``prompt``, whose state it is afterwards.

        Returns:
            The distance of the logits, see :func:`worst_distance`.
        """
        self.state.reset()
        if prompt.shape[1] > 1:
            self._prefill_by_parts(prompt[:, :-1], self._model.prefill)
        expected = self._model.step(prompt[:, -1], self.state)
        return worst_distance(self.prompt_logits.double(), expected.double())

    @torch.inference_mode()
    def step_error(self, prompt: Tensor) -> float:
        """How far the step after a prefill is from an eager prefill of one token more.

        To be asked for after :meth:`prefill` of ``prompt`` and one :meth:`step`; the state is that
        of the longer prompt afterwards.

        Returns:
            The distance of the logits, see :func:`worst_distance`.
        """
        tokens = torch.cat([prompt, self.prompt_logits.argmax(-1, keepdim=True)], dim=1)
        self.state.reset()
        expected = self._prefill_by_parts(tokens, self._model.prefill).double()
        return worst_distance(self.step_logits.double(), expected)

    @torch.inference_mode()
    def error_at(self, position: int, prompt: Tensor) -> float:
        """How far :meth:`step_at` is, in eager mode, from a prefill that ends with its token.

        The state is that of the prompt's first ``position + 1`` tokens afterwards.

        Args:
            position: of the prompt, from 0.
            prompt: token ids, (batch, time), at least ``position + 1`` of time.

        Returns:
            The distance of the logits, see :func:`worst_distance`.
        """
        tokens, kept = prompt[:, : position + 1], self.step_logits
        self.state.reset()
        if position:
            self._prefill_by_parts(tokens[:, :-1], self._model.prefill)
        self.token.copy_(tokens[:, -1])
        self.step_at(position, self.state_at(position))
        found, self.step_logits = self.step_logits.double(), kept
        self.state.reset()
        expected = self._prefill_by_parts(tokens, self._model.prefill).double()
        return worst_distance(found, expected)

    @property
    def step(self) -> Callable[[], None]:
        """What takes in ``token`` and puts the greedy choice in its place."""
        return self._step if self._step_graph is None else self._step_graph.replay

    @property
    def graph_pool(self) -> tuple[int, int] | None:
        """The private memory pool of the captured step; None in any other mode."""
        return None if self._step_graph is None else self._step_graph.pool()

    @torch.inference_mode()
    def reset(self) -> None:
        """Empty the state."""
        self.state.reset()

    @torch.inference_mode()
    def seek(self, position: int) -> None:
        """Go back to an earlier position; see :meth:`models.protocol.State.seek`."""
        self.state.seek(position)

    @torch.inference_mode()
    def state_at(self, position: int) -> State:
        """The state as :meth:`step_at` is to be given it, for a step at that position."""
        return self.state.within(position + 1) if self._mode == "eager" else self.state

    @torch.inference_mode()
    def step_at(self, position: int, state: State) -> None:
        """One step at a position of a state that :meth:`state_at` gave."""
        state.seek(position)
        if state is self.state:
            self.step()
        else:
            self.step_logits = self._model_step(self.token, state)
            self.token.copy_(self.step_logits.argmax(-1))

    def _prefill_by_parts(
        self, prompt: Tensor, prefill: Callable[[Tensor, State], Tensor]
    ) -> Tensor:
        """Take in a prompt (batch, time), some sequences after the others; logits of all."""
        parts = prompt.split(max(1, PREFILL_TOKENS // prompt.shape[1]))
        if len(parts) == 1:
            return prefill(parts[0], self.state)
        ends = list(accumulate(len(part) for part in parts))
        states = [
            self.state.rows(end - len(part), end) for end, part in zip(ends, parts, strict=True)
        ]
        logits = [prefill(*pair) for pair in zip(parts, states, strict=True)]
        self.state.join(states)
        return torch.cat(logits)

    @torch.inference_mode()
    def _step(self) -> None:
        self.step_logits = self._model_step(self.token, self.state)
        self.token.copy_(self.step_logits.argmax(-1))

    def _prefill_prompt(self) -> None:
        """Prefill ``_prompt``, without asking the device how many tokens the empty state holds."""
        empty = State(self.state.layers, torch.zeros(1, dtype=torch.int64), self.state.max_len)
        self.prompt_logits = self._prefill(self._prompt, empty)
        self.token.copy_(self.prompt_logits.argmax(-1))
        self.state.position.fill_(self._prompt.shape[1])

    @torch.inference_mode()
    def _capture(self, call: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Capture a call. Trial calls start from an empty state, and leave one."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(GRAPH_WARM_UP_CALLS):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        self.state.reset()
        return graph


def require_rounding(session: Session, error: float, what: str) -> None:
    """Raise a CellFailure where logits are farther off than by their types' rounding.

    Args:
        session: whose model gave them.
        error: as :func:`worst_distance` says.
        what: is then wrong, in words.
    """
    dtypes = {session.config.dtype, *state_dtypes(session.model)}
    coarsest = max(dtypes, key=lambda dtype: GATE_TOLERANCE.get(dtype, 0.0))  # none of a count
    require_close(what, error, GATE_TOLERANCE[coarsest], coarsest)


class Generation:
    """Decode steps at positions spread evenly over a context: called, it makes one at each.

    Their mean stands for that of all steps of a generation from one token to the context: exactly,
    where the time of a step grows evenly with its position. In eager mode a step reads no more of
    the state than it holds at its position (as a cache that grows would); a compiled or captured
    step has one shape, and reads all.

    Args:
        execution: the batch whose state holds the context.
        context: tokens, at least 1.
    """

    POSITIONS = 4

    def __init__(self, execution: Execution, context: int) -> None:
        self._execution = execution
        count = min(self.POSITIONS, context)
        # The middles of so many equal parts of the context.
        self._positions = [context * (2 * part + 1) // (2 * count) for part in range(count)]
        self._states = [execution.state_at(position) for position in self._positions]

    def __len__(self) -> int:
        return len(self._positions)

    def error(self, prompt: Tensor) -> float:
        """How far its first step is from a prefill, as :meth:`Execution.error_at` says."""
        return self._execution.error_at(self._positions[0], prompt)

    def first(self) -> None:
        """One step at the first position."""
        self._execution.step_at(self._positions[0], self._states[0])

    def __call__(self) -> None:
        """One step at each position, ascending."""
        for position, state in zip(self._positions, self._states, strict=True):
            self._execution.step_at(position, state)
