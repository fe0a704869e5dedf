"""Diagonal state space models as pure functions: S4D (Gu et al. 2022, arXiv 2206.11893).

A system maps each series u to y through pairs of conjugate complex states, of which one is kept::

    s_t = exp(log_pole) s_{t-1} + gain u_t          y_t = 2 Re(sum_n weight_n s_tn)

Poles, gains and weights are complex of shape (..., pairs), broadcast against series (..., time).
Powers of a pole are never made for every position at once: position t is split in t = stride a + b,
and a product over the pairs joins the powers of a with those of b.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from models.costs import fft_length


def discretise(damping: Tensor, frequency: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Zero-order hold of s' = A s + u with A = -damping + i frequency (section 3.1 of S4D).

    Args:
        damping: positive, real.
        frequency: real, of that shape.
        step: positive, real, broadcast against them.

    Returns:
        log_pole = step A and gain = (exp(step A) - 1) / A, complex.
    """
    decay, angle = -step * damping, step * frequency
    # exp(z) - 1 without the cancellation that a small step would suffer.
    real = torch.expm1(decay) * angle.cos() - 2 * (angle / 2).sin().square()
    grown = torch.complex(real, decay.exp() * angle.sin())
    return torch.complex(decay, angle), grown / torch.complex(-damping, frequency)


def response(log_pole: Tensor, weights: Tensor, length: int) -> Tensor:
    """2 Re(sum_n weights_n exp(log_pole_n t)) at t = 0 to length - 1.

    With weights = weight gain this is the system's convolution kernel; with weights = weight
    exp(log_pole) state, what an initial state adds to the outputs.

    Returns:
        Real, (..., length).
    """
    coarse, fine = _powers(log_pole, length)
    left = weights[..., None, :] * coarse
    values = left.real @ fine.real - left.imag @ fine.imag
    return 2 * values.flatten(-2)[..., :length]


def final_states(log_pole: Tensor, gain: Tensor, u: Tensor, state: Tensor) -> Tensor:
    """The states after a series that found them as ``state``.

    Args:
        log_pole: complex, (..., pairs).
        gain: complex, (..., pairs), what an input adds to each state.
        u: real series, (..., time).
        state: complex, (..., pairs).

    Returns:
        Complex, (..., pairs).
    """
    time = u.shape[-1]
    coarse, fine = _powers(log_pole, time)
    ages = F.pad(u.flip(-1), (0, coarse.shape[-2] * fine.shape[-1] - time))
    blocks = torch.unflatten(ages, -1, (-1, fine.shape[-1]))
    with torch.autocast(u.device.type, enabled=False):  # no complex number has bfloat16's parts
        inner = torch.complex(*(blocks @ part.transpose(-1, -2) for part in (fine.real, fine.imag)))
    return gain * (inner * coarse).sum(-2) + (log_pole * time).exp() * state


def fft_convolve(u: Tensor, kernel: Tensor) -> Tensor:
    """Causal convolution: y_t = sum_j kernel_j u_{t-j}, zero before the start.

    Args:
        u: real series, (..., time), float32 or float64.
        kernel: (..., taps), broadcast against them; those beyond ``time`` go unused.

    Returns:
        Like ``u``.
    """
    time = u.shape[-1]
    kernel = kernel[..., :time]
    n = fft_length(time + kernel.shape[-1] - 1)
    spectrum = torch.fft.rfft(u, n) * torch.fft.rfft(kernel, n)
    return torch.fft.irfft(spectrum, n)[..., :time]  # type: ignore[no-any-return]


def _powers(log_pole: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """exp(log_pole t) in two factors: multiples of a stride, and positions within one.

    Returns:
        Complex (..., multiples, pairs) and (..., pairs, stride), with multiples x stride >= length.
    """
    stride = math.isqrt(length - 1) + 1
    within = torch.arange(stride, dtype=log_pole.real.dtype, device=log_pole.device)
    multiples = torch.arange(-(-length // stride), dtype=within.dtype, device=log_pole.device)
    coarse = torch.exp(log_pole[..., None, :] * (stride * multiples)[:, None])
    return coarse, torch.exp(log_pole[..., None] * within)
