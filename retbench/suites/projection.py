"""What arithmetic says of decoding, prefill and training on devices that are not here: bounds.

A decode step must read every weight and the state once (a recurrent state is also written), and
compute its FLOPs: it takes at least the longer of bytes over bandwidth and FLOPs over the matmul
rate (Williams et al. 2009, "Roofline"). The same holds of a prefill, which must read the weights
and leave the state, and of an optimizer step, whose AdamW reads and writes every weight and moment.
Bytes and FLOPs are the models' own analytic figures, exact; bandwidth, rate and memory are the
makers' (:mod:`retbench.machine.devices`). No time here was measured, and none can be: real kernels
take longer, by as much as a measured run says (*x bound*). Importing this module does not import
torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.config import ModelConfig
from retbench.config import values as value
from retbench.config.file import parse_toml
from retbench.config.plan import Contender, Plan
from retbench.config.run import DTYPE_BYTES, SWEEP, WHERE, ModelsConfig
from retbench.config.settings import changed, setting
from retbench.errors import UserError
from retbench.machine.devices import DataSheet, data_sheets, read_sheets
from retbench.metrics import Sample
from retbench.store.journal import STATUS_METRIC, STATUS_PHASE
from retbench.store.samples import NO_PROCESS, new_sample
from retbench.suites.base import swept

Floats = NDArray[np.float64]

HERE = "here"
USABLE = 0.95
"""Share of a device's memory that weights and state may take; the rest is the runtime's."""

_POSITIONS = 64  # at which a generation's mean is taken, each the middle of as many tokens


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig(ModelsConfig):
    """Lower bounds of memory and time on devices that are not here."""

    suite = "projection"
    models: tuple[str, ...] = changed(
        ModelsConfig, "models",
        default=(
            "retnet", "transformer", "transformer-gqa", "transformer-gqa-8bit-cache",
            "retnet-16bit-state",
        ),
    )  # fmt: skip
    preset: str = changed(ModelsConfig, "preset", default="6.7b")
    dtype: str = changed(ModelsConfig, "dtype", default="bfloat16")
    device: str = changed(ModelsConfig, "device", default="cuda")
    timeout_s: float = changed(ModelsConfig, "timeout_s", default=1.0)
    context: tuple[int, ...] = changed(ModelsConfig, "context", default=value.powers(512, 65536))
    batch: tuple[int, ...] = changed(ModelsConfig, "batch", default=(1, 8, 64))
    batch_context: int = setting(
        value.positive, "Context of the figures over the batch size.", metavar="LENGTH",
        group=SWEEP, default=8192,
    )  # fmt: skip
    hardware: tuple[str, ...] = setting(
        value.distinct_names,
        "Devices by name, commas between; a TOML file of data sheets; or here, to be measured.",
        metavar="NAMES", group=WHERE, default=("a100-80gb", "h100-sxm"),
        choices=lambda: (HERE, *(sheet.key for sheet in data_sheets())),
    )  # fmt: skip

    def sheets(self, here: Callable[[], DataSheet]) -> dict[str, DataSheet]:
        """The data sheet of each device, in the order asked for.

        Args:
            here: measures that of this machine.

        Raises:
            UserError: an unknown device, a file that is no list of data sheets, or a key that
                another device has.
        """
        known = {sheet.key: sheet for sheet in data_sheets()}
        found: dict[str, DataSheet] = {}
        for name in self.hardware:
            if name == HERE:
                found[name] = here()
            elif name.endswith(".toml"):
                own = {sheet.key: sheet for sheet in _read(Path(name))}
                if taken := own.keys() & {HERE, *known, *found}:
                    raise UserError(
                        f"{name}: another device is called {min(taken)!r}", "give it another key"
                    )
                found |= own
            elif name in known:
                found[name] = known[name]
            else:
                raise UserError(f"hardware: unknown device {name!r}", value.nearest(name, known))
        for key, sheet in found.items():
            if self.dtype not in sheet.flop_per_s:
                raise UserError(
                    f"hardware: no {self.dtype} rate of {key} is known", "name another --dtype"
                )
        return found


_LIKE = "write it as retbench/machine/devices.toml"


def _read(file: Path) -> tuple[DataSheet, ...]:
    try:
        sheets = read_sheets(parse_toml(file.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise UserError(f"hardware: cannot read {file}: {error.strerror}") from None
    except ValueError as problem:
        raise UserError(f"{file}: {problem}", _LIKE) from None
    if not sheets:
        raise UserError(f"{file} holds no [[device]]", _LIKE)
    return sheets


@cache
def step_needs(model: ModelConfig, dtype_bytes: int, batch: int, context: int) -> Floats:
    """Bytes and FLOPs of a decode step on any device, shape (2,)."""
    flops = batch * model.flops_per_token(context, "decode")
    return np.array([model.decode_bytes(batch, context, dtype_bytes), flops], dtype=np.float64)


@cache
def generation_needs(model: ModelConfig, dtype_bytes: int, batch: int, context: int) -> Floats:
    """Those of steps at positions spread evenly from nothing to a context, (positions, 2)."""
    middles = (np.arange(_POSITIONS) + 0.5) * context / _POSITIONS
    steps = [step_needs(model, dtype_bytes, batch, max(1, round(at))) for at in middles]
    return np.array(steps)


@dataclass(frozen=True)
class Bounds:
    """The bounds of one model on one device.

    Attributes:
        model: its configuration.
        sheet: of the device.
        dtype: of weights, cache and activations; of what training multiplies.
    """

    model: ModelConfig
    sheet: DataSheet
    dtype: str

    @property
    def _bytes(self) -> int:
        return DTYPE_BYTES[self.dtype]

    def _least_s(self, needs: ArrayLike) -> Floats:
        """Seconds in which bytes can move and, meanwhile, FLOPs be computed, shape (..., 2)."""
        rates = self.sheet.bandwidth_bytes_per_s, self.sheet.flop_per_s[self.dtype]
        return np.max(np.divide(needs, rates), axis=-1)  # type: ignore[no-any-return]

    def step_s(self, batch: int, context: int) -> float:
        """Least seconds of a decode step of ``batch`` sequences at a context, in tokens."""
        return float(self._least_s(step_needs(self.model, self._bytes, batch, context)))

    def generation_s(self, batch: int, context: int) -> float:
        """Least seconds a step, on average over a generation from nothing to a context."""
        needs = generation_needs(self.model, self._bytes, batch, context)
        return float(np.mean(self._least_s(needs)))

    def largest_batch(self, context: int) -> int:
        """The most sequences of a context whose state fits beside the weights; 0 where none."""
        room = USABLE * self.sheet.memory_bytes - self.model.weight_bytes(self._bytes)
        return max(0, int(room // self.model.state_bytes(1, context, self._bytes)))

    def figures(self, batch: int, context: int) -> dict[str, float]:
        """Every figure of one cell, by metric, in the metrics' units.

        Of decode steps and the memory that they need, then of whole sequences: a prefill, and an
        optimizer step on as many tokens.
        """
        model, size, tokens = self.model, self._bytes, batch * context
        weights, state = model.weight_bytes(size), model.state_bytes(batch, context, size)
        decode = step_needs(model, size, batch, context)
        prefill_flops = tokens * model.flops_per_token(context, "prefill")
        prefill = model.prefill_bytes(batch, context, size), prefill_flops
        step = model.step_bytes(size), tokens * model.flops_per_token(context, "train")
        most = self.largest_batch(context)
        return {
            "weights_bytes": weights,
            "state_bytes": state,
            "held_bytes": weights + state,
            "decode_bytes": decode[0],
            "decode_flops": decode[1],
            "tpot_bound_s": self.step_s(batch, context),
            "mean_tpot_bound_s": self.generation_s(batch, context),
            "largest_batch": most,
            "largest_batch_tokens_per_s": most / self.step_s(most, context) if most else 0.0,
            "prefill_bytes": prefill[0],
            "prefill_flops": prefill[1],
            "prefill_working_bytes": model.prefill_working_bytes(batch, context, size),
            "ttft_bound_s": float(self._least_s(prefill)),
            "training_bytes": model.training_bytes(batch, context, size),
            "step_bytes": step[0],
            "step_flops": step[1],
            "step_bound_s": float(self._least_s(step)),
        }


def plan(config: ProjectionConfig, hardware: Mapping[str, DataSheet]) -> Plan:
    """Every context and batch size on every device."""
    contenders = tuple(Contender(name, name, config.overrides_for(name)) for name in config.models)
    sizes = product(sorted({*config.context, config.batch_context}), config.batch)
    on_each = swept(sizes, lambda context, _: context in config.context, config.batch_context)
    points = tuple(
        replace(point, settings=(("hardware", key),)) for key in hardware for point in on_each
    )
    return Plan(config.suite, contenders, points, 1, config.seed)


def cells(
    config: ProjectionConfig, planned: Plan, models: Mapping[str, ModelConfig],
    sheets: Mapping[str, DataSheet],
) -> Iterator[list[Sample]]:  # fmt: skip
    """The samples of every cell; the last of each is its status row, which says ``bound``."""
    for contender in planned.contenders:
        for point in planned.points:
            sheet = sheets[str(point.setting("hardware"))]
            bounds = Bounds(models[contender.family], sheet, config.dtype)
            made = partial(new_sample, config, contender, point)
            found = bounds.figures(point.batch_size, point.seq_len)
            rows = [made("analytic", metric, float(figure)) for metric, figure in found.items()]
            rows.append(made(STATUS_PHASE, STATUS_METRIC, None))
            for row in rows:
                row |= {"status": "bound", "process": NO_PROCESS}
            yield rows


def describe(config: ProjectionConfig, models: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What ``run.json`` keeps of each model."""
    return {
        label: {
            "family": label,
            "preset": config.preset,
            "config": model.to_dict(),
            "parameters": model.num_parameters(),
            "parameters_embedding": model.num_parameters(embeddings=True) - model.num_parameters(),
        }
        for label, model in models.items()
    }
