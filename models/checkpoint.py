"""Models on disk: ``model.safetensors`` with ``config.json`` beside it.

The header of the weights holds a SHA-256 of both: a model that has changed since it was saved is
refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.config import ConfigError, ModelConfig
from models.decoder import Decoder
from models.family.decoder import DecoderConfig
from models.registry import config_from_dict

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


class CheckpointError(Exception):
    """A checkpoint that cannot be read: the message names the file and says why."""


def save(model: Decoder, folder: str | Path) -> None:
    """Write a model's weights and configuration; an earlier checkpoint stays whole until then.

    Args:
        model: weights in any dtype, on any device.
        folder: made if need be.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    new_weights, new_config = path / f"{WEIGHTS}.new", path / f"{CONFIG}.new"
    values = model.config.to_dict()
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, new_weights, metadata=seal(values, tensors))
    new_config.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(new_weights, path / WEIGHTS)
    os.replace(new_config, path / CONFIG)


def seal(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """What the header of the weights is to hold: the SHA-256 of them and their configuration.

    Args:
        config: as :meth:`models.config.ModelConfig.to_dict` gives it.
        tensors: in any dtype, on any device.
    """
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return {"sha256": digest.hexdigest()}


def load(
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Decoder:
    """Read a model that :func:`save` wrote.

    Args:
        folder: where it was saved.
        device: where to put it.
        dtype: the type of its weights; the saved one where None.

    Raises:
        CheckpointError: if a file is missing, damaged or changed, weights and configuration
            differ, or a weight is infinite or no number.
    """
    path = Path(folder)
    values = _read_values(path / CONFIG)
    config = _config(path / CONFIG, values)
    weights, header = _read_weights(path / WEIGHTS)
    if not all(tensor.is_floating_point() for tensor in weights.values()):
        raise CheckpointError(f"{path / WEIGHTS} is damaged: a weight is of integers")
    # Before it is built: a damaged size could ask for all memory there is.
    if config.num_parameters(embeddings=True) > 2 * sum(map(torch.numel, weights.values())):
        raise CheckpointError(f"{path / WEIGHTS} does not fit {CONFIG}, which asks for more")
    embedding = weights.get("embedding.weight")
    saved_dtype = None if embedding is None else embedding.dtype
    if not isinstance(config, DecoderConfig):
        raise CheckpointError(f"{path / CONFIG}: {config.family} is no decoder of this project")
    model = Decoder(config, device=device, dtype=dtype or saved_dtype)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        last = shorten(str(error).strip().splitlines()[-1], 160)
        raise CheckpointError(f"{path / WEIGHTS} does not fit {CONFIG}: {last}") from None
    if header != seal(values, weights):
        both = f"{path / WEIGHTS} or {path / CONFIG}"
        raise CheckpointError(f"{both} has changed since the model was saved")
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path / WEIGHTS}: not all values of {name} are finite")
    return model


def _read_values(file: Path) -> dict[str, Any]:
    if os.path.exists(file) and not os.path.isfile(file):  # a pipe would be waited for
        raise CheckpointError(f"{file} cannot be read: not a regular file")
    try:
        values = json.loads(file.read_text())
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested too deeply
        raise CheckpointError(f"{file}: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{file}: not a JSON object")
    return values


def _config(file: Path, values: Mapping[str, Any]) -> ModelConfig:
    try:
        return config_from_dict(dict(values))
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from None


def _read_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, in the host's memory, and what the header says besides."""
    if not os.path.isfile(file):
        raise CheckpointError(f"{file} is missing")
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return tensors, opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from None
