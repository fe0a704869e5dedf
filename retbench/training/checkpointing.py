"""Checkpoints: the state of a training on disk, from which it continues bit for bit.

A checkpoint is a folder ``step-N`` that is written under another name and renamed once all of it is
on the disk: whatever happens, those that are there are complete, and the earlier one is deleted
only after that. It holds

- ``model.safetensors`` and ``config.json``: the weights, as :mod:`models.checkpoint` reads them;
- ``training.safetensors``: moments of the optimizer, states of torch's random generators;
- ``progress.json``: the step, the loss curves so far, what was trained, and the files' SHA-256.

The next batches need no state: they follow from the step. Where several processes train, rank 0
writes and reads all of it as one process would, so that their number may change in between.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.checkpoint import CONFIG, WEIGHTS, seal
from retbench.distributed.process_group import ALONE, Ranks
from retbench.errors import UserError
from retbench.store import documents
from retbench.store.files import cannot_write, read_file, sha256, sync_folder
from retbench.training.config import Record

MOMENTS = "training.safetensors"
PROGRESS = "progress.json"
SCHEMA_VERSION = 1

_ANEW = "delete it to begin anew, or restore it from a copy"
_NAME = re.compile(r"step-(\d+)")
_OS_ERROR = re.compile(r"os error (\d+)")


class Checkpoints:
    """Keeps the latest checkpoint of one training in a folder.

    Args:
        folder: holds nothing but them; made when the first is due.
        identity: names what is trained: a checkpoint of something else is refused.
        due: whether the state after a record is to be kept; by default after each that has an
            estimate on the dev split.
        ranks: the processes that train it.
    """

    def __init__(
        self,
        folder: Path,
        identity: str,
        due: Callable[[Record], bool] = lambda record: record.dev_loss is not None,
        ranks: Ranks = ALONE,
    ) -> None:
        self._folder, self._identity = folder, identity
        self._due, self._ranks = due, ranks

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Sequence[Record]:
        """Put the latest checkpoint into model and optimizer; its loss curves, or nothing.

        Raises:
            UserError: it is damaged, or one of another training.
        """
        weights_read: dict[str, Tensor] = {}
        moments_read: dict[str, Tensor] = {}
        restored = self._ranks.broadcast(lambda: self._read(weights_read, moments_read))
        if restored is None:
            return ()
        path, records = restored
        of_model, of_optimizer = model.state_dict(), _parameters(optimizer)
        weights = self._ranks.distribute(weights_read, of_model.get)
        moments = self._ranks.distribute(
            moments_read, lambda name: _parameter_of(name, of_optimizer)
        )
        try:
            model.load_state_dict(weights)
            _put_moments(optimizer, moments)
            _put_generators(moments)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise _damaged(path, f"{type(error).__name__}: {error}") from error
        return records

    def _read(
        self, weights: dict[str, Tensor], moments: dict[str, Tensor]
    ) -> tuple[Path, tuple[Record, ...]] | None:
        """Put the tensors of the latest checkpoint into the two; where it is, and its curves."""
        path = latest(self._folder)
        if path is None:
            return None
        content = _read_progress(path)
        if content.get("identity") != self._identity:
            raise UserError(
                f"{path} is a checkpoint of another model, tokenizer, data or configuration",
                "continue what it was made by, or name another --out",
            )
        try:
            records = tuple(Record(**record) for record in content["records"])
            weights |= _read_tensors(path / WEIGHTS, content)
            moments |= _read_tensors(path / MOMENTS, content)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise _damaged(path, f"{type(error).__name__}: {error}") from error
        return path, records

    def keep(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, records: Sequence[Record]
    ) -> None:
        """Write a checkpoint if one is due, and then delete the earlier ones.

        Raises:
            UserError: it cannot be written; the earlier one stays.
        """
        if not self._due(records[-1]):
            return
        weights = self._ranks.full_tensors(model.state_dict())
        moments = self._ranks.full_tensors(_moments(optimizer))
        if not self._ranks.first:
            return
        path = self._folder / f"step-{records[-1].step:08d}"
        unfinished = path.with_suffix(".new")
        config: Any = getattr(model, "config", None)
        values = config.to_dict() if hasattr(config, "to_dict") else {}
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            _write_json(unfinished / CONFIG, values)
            digests = {
                WEIGHTS: write_tensors(unfinished / WEIGHTS, weights, seal(values, weights)),
                MOMENTS: write_tensors(unfinished / MOMENTS, {**moments, **_generators()}),
            }
            content = {
                "schema_version": SCHEMA_VERSION, "identity": self._identity, "files": digests,
                "step": records[-1].step, "seconds": records[-1].seconds,
                "records": [asdict(record) for record in records],
            }  # fmt: skip
            _write_json(unfinished / PROGRESS, documents.sealed(content))
            sync_folder(unfinished)
            os.rename(unfinished, path)
            sync_folder(self._folder)
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            cannot_write(path, error)
        for other in self._folder.iterdir():
            if other != path:
                shutil.rmtree(other, ignore_errors=True)


def latest(folder: Path) -> Path | None:
    """The checkpoint of the most steps in a folder; None where there is none."""
    checkpoints = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return max(checkpoints, key=lambda path: int(path.name.removeprefix("step-")), default=None)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], header: dict[str, str] | None = None
) -> str:
    """Write tensors as safetensors, through to the disk; the file's SHA-256.

    Args:
        path: the file.
        tensors: what to write.
        header: what the file is to say besides; see :func:`models.checkpoint.seal`.

    Raises:
        OSError: the disk does not take them.
    """
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, header)
    except SafetensorError as error:  # tells of the disk in its text alone
        number = _OS_ERROR.search(str(error))
        if number is None:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(path)) from error
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_tensors(path: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    try:
        if sha256(path) != content["files"][path.name]:
            raise _damaged(path, "its content is not what was written")
        # Copies: what lies in a mapped file is not aligned as a kernel may like it.
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise _damaged(path, str(error)) from error


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())


def _read_progress(path: Path) -> dict[str, Any]:
    try:
        content = documents.parse(read_file(path / PROGRESS))
    except (UserError, ValueError) as error:
        raise _damaged(path / PROGRESS, str(error)) from error
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        raise _damaged(path / PROGRESS, f"no progress of schema version {SCHEMA_VERSION}")
    if content.get(documents.SEAL) != documents.digest(content):
        raise _damaged(path / PROGRESS, "its content is not what was written")
    return content


def _damaged(path: Path, why: str) -> UserError:
    reason = " ".join(why.split())
    return UserError(f"{path}: damaged checkpoint: {reason}", _ANEW)


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as ``optimizer.PARAMETER.NAME``."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{name}": value
        for index, values in state.items()
        for name, value in values.items()
    }


def _put_moments(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give each parameter its moments; one that never had a gradient has none yet."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    for number, parameter in enumerate(_parameters(optimizer)):
        for name, moment in state.get(number, {}).items():
            if name != "step" and moment.shape != parameter.shape:
                raise ValueError(
                    f"a moment of shape {moment.shape} for a parameter of {parameter.shape}"
                )
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What it trains, in the order of its moments' numbers."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _parameter_of(key: str, parameters: Sequence[Tensor]) -> Tensor | None:
    """The parameter that a moment is of; None for a count of steps and for what is no moment."""
    kind, _, rest = key.partition(".")
    index, _, name = rest.partition(".")
    if kind != "optimizer" or name == "step" or int(index) >= len(parameters):
        return None
    return parameters[int(index)]


def _generators() -> dict[str, Tensor]:
    """States of torch's random generators: of the host, and of the GPU where one is in use."""
    states = {"generator.cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        states["generator.cuda"] = torch.cuda.get_rng_state()
    return states


def _put_generators(tensors: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(tensors["generator.cpu"].cpu())
    if "generator.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["generator.cuda"].cpu())
