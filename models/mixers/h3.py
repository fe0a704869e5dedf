"""H3: two state space models between three projections (Fu et al. 2022, arXiv 2212.14052)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.footprint import Phase
from models.mixers.base import Mixer, Span
from models.protocol import LayerState
from models.statespace import discretise, fft_convolve, final_states, response

if TYPE_CHECKING:
    from models.family.h3 import H3Config

FASTEST, SLOWEST = 0.1, 0.001
"""Step sizes that the heads begin with, spread evenly in their logarithm (S4D, section 4.3)."""


@dataclass
class H3State(LayerState):
    """What the two systems remember, float32 or float64.

    Attributes:
        recent: the last inputs of the shift system, (batch, d_model, d_state), newest last.
        pairs: the diagonal system's states, real and imaginary parts,
            (batch, heads, head_dim, head_dim, d_state / 2, 2).
    """

    recent: Tensor
    pairs: Tensor


@dataclass(frozen=True)
class _Shared:
    """What all layers' poles are learned from: log step sizes, and frequencies; and the form."""

    log_step: Tensor
    frequency: Tensor
    form: str


@dataclass(frozen=True)
class _System:
    """Both systems of a layer, ready to run: taps and skip, poles, gains, weights and skip."""

    taps: Tensor
    shift_skip: Tensor
    log_pole: Tensor
    gain: Tensor
    weights: Tensor
    skip: Tensor


class H3(Mixer):
    """q * diagonal(shift(k) * v), each system with a skip (algorithm 1 and section 3 of H3).

    The diagonal one is S4D-Lin (Gu et al. 2022, arXiv 2206.11893): A = -1/2 + i pi n, B = 1,
    discretised with zero-order hold; the shift one a filter of ``d_state`` taps. Poles and step
    sizes are held as learned offsets from those initial values, which no conversion of the model
    rounds; whatever the weights' type, both systems run in float32 or float64.
    """

    forms = ("parallel", "recurrent")

    def __init__(self, config: H3Config) -> None:
        super().__init__()
        self.config = config
        d, heads, pairs = config.d_model, config.n_heads, config.d_state // 2
        # One matrix for queries, keys and values: one product over the same input.
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d, bias=False)
        self.taps = nn.Parameter(torch.zeros(d, config.d_state))
        self.shift_skip = nn.Parameter(torch.ones(d))
        self.weights = nn.Parameter(torch.zeros(heads, pairs, 2))
        self.skip = nn.Parameter(torch.ones(heads))
        # Flat, so that they begin at zero and are spared weight decay, which vectors are.
        self.log_step = nn.Parameter(torch.zeros(heads))
        self.log_damping = nn.Parameter(torch.zeros(heads * pairs))
        self.frequency = nn.Parameter(torch.zeros(heads * pairs))

    def initialise(self, generator: torch.Generator) -> None:
        """Taps as of a convolution, output weights complex normal: H3's own initialisation."""
        bound = self.config.d_state**-0.5
        self.taps.uniform_(-bound, bound, generator=generator)
        self.weights.normal_(0.0, 0.5**0.5, generator=generator)

    def prepare(self, span: Span, state: LayerState | None) -> _Shared:
        """The initial poles in the type that the state is kept in, and the form."""
        c, weight = self.config, self.out.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        ends = math.log(SLOWEST), math.log(FASTEST)
        log_step = torch.linspace(*ends, c.n_heads, dtype=wide, device=weight.device)
        frequency = math.pi * torch.arange(c.d_state // 2, dtype=wide, device=weight.device)
        return _Shared(log_step, frequency, span.form or self.forms[0])

    def forward(self, x: Tensor, shared: _Shared) -> Tensor:
        """Mix a whole sequence in the chosen form."""
        system = self._system(shared)
        q, k, v = self._project(x, system)
        if shared.form == "recurrent":
            return self._output(q, self._token_by_token(k, v, system), x.dtype)
        u = self._products(fft_convolve(k, system.taps), k, v, system)
        kernel = response(system.log_pole, system.weights * system.gain, x.shape[1])
        return self._output(q, fft_convolve(u, kernel) + system.skip * u, x.dtype)

    def init_state(
        self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype
    ) -> H3State:
        """Zeros; the same size for any ``max_len``."""
        c = self.config
        wide = torch.promote_types(dtype, torch.float32)
        recent = torch.zeros(batch_size, c.d_model, c.d_state, device=device, dtype=wide)
        shape = (batch_size, c.n_heads, c.head_dim, c.head_dim, c.d_state // 2, 2)
        return H3State(recent, torch.zeros(shape, device=device, dtype=wide))

    def prefill(self, x: Tensor, shared: _Shared, state: LayerState) -> Tensor:
        """Mix tokens after those in the state."""
        assert isinstance(state, H3State)
        system, time = self._system(shared), x.shape[1]
        q, k, v = self._project(x, system)
        inputs = torch.cat((state.recent.flip(-1).to(k.dtype), k), dim=-1)
        u = self._products(fft_convolve(inputs, system.taps)[..., -time:], k, v, system)
        before = torch.view_as_complex(state.pairs.to(k.dtype))
        kernel = response(system.log_pole, system.weights * system.gain, time)
        remembered = system.weights * system.log_pole.exp() * before
        y = fft_convolve(u, kernel) + response(system.log_pole, remembered, time)
        state.recent.copy_(inputs[..., -self.config.d_state :].flip(-1))
        after = final_states(system.log_pole, system.gain, u, before)
        state.pairs.copy_(torch.view_as_real(after))
        return self._output(q, y + system.skip * u, x.dtype)

    def step(self, x: Tensor, shared: _Shared, state: LayerState) -> Tensor:
        """Mix one token by the recurrences."""
        assert isinstance(state, H3State)
        system = self._system(shared)
        q, k, v = self._project(x, system)
        before = torch.view_as_complex(state.pairs)
        y, recent, after = self._recur(k, v, system, state.recent, before)
        state.recent.copy_(recent)
        state.pairs.copy_(torch.view_as_real(after))
        return self._output(q, y, x.dtype)

    def implementation(self, phase: Phase) -> str:
        """The recurrences for decoding, else convolution by Fourier transforms."""
        return "recurrent" if phase == "decode" else "fft"

    def _system(self, shared: _Shared) -> _System:
        """Both systems' parameters in the wide type, shaped to meet (batch, heads, n, n, time)."""
        wide = shared.log_step.dtype

        def heads(x: Tensor) -> Tensor:
            return x.to(wide).view(self.config.n_heads, 1, 1, -1)

        step = (heads(shared.log_step) + heads(self.log_step)).exp()
        frequency = shared.frequency + heads(self.frequency)
        log_pole, gain = discretise(0.5 * heads(self.log_damping).exp(), frequency, step)
        weights = torch.complex(*(heads(part) for part in self.weights.unbind(-1)))
        return _System(
            self.taps.to(wide), self.shift_skip.to(wide)[:, None],
            log_pole, gain, weights, heads(self.skip),
        )  # fmt: skip

    def _project(self, x: Tensor, system: _System) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values in the wide type, (batch, d_model, time)."""
        q, k, v = self.qkv(x).transpose(1, 2).to(system.taps.dtype).chunk(3, dim=1)
        return q, k, v

    def _products(self, shifted: Tensor, k: Tensor, v: Tensor, system: _System) -> Tensor:
        """Each key channel of a head times each value channel, (batch, heads, n, n, time)."""
        c = self.config
        k = torch.unflatten(shifted + system.shift_skip * k, 1, (c.n_heads, c.head_dim, 1))
        return k * torch.unflatten(v, 1, (c.n_heads, 1, c.head_dim))

    def _recur(
        self, k: Tensor, v: Tensor, system: _System, recent: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One token, keys and values (batch, d_model, 1): what it gives, and the states after."""
        recent = torch.cat((k, recent[..., :-1]), dim=-1)
        u = self._products((recent * system.taps).sum(-1, keepdim=True), k, v, system)
        state = system.log_pole.exp() * state + system.gain * u
        y = 2 * (system.weights * state).real.sum(-1, keepdim=True)
        return y + system.skip * u, recent, state

    def _token_by_token(self, k: Tensor, v: Tensor, system: _System) -> Tensor:
        """The recurrences over a whole sequence, the reference for the convolutions."""
        empty = self.init_state(k.shape[0], 0, k.device, k.dtype)
        recent, state = empty.recent, torch.view_as_complex(empty.pairs)
        outs = []
        for k_n, v_n in zip(k.split(1, -1), v.split(1, -1), strict=True):
            y, recent, state = self._recur(k_n, v_n, system, recent, state)
            outs.append(y)
        return torch.cat(outs, dim=-1)

    def _output(self, q: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
        """Queries times the heads' series, summed over key channels, and projected back."""
        c = self.config
        mixed = (torch.unflatten(q, 1, (c.n_heads, c.head_dim, 1)) * y).sum(2).flatten(1, 2)
        return self.out(mixed.transpose(1, 2).to(dtype))  # type: ignore[no-any-return]
