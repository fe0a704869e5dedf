"""Models on disk: ``model.safetensors`` with ``config.json`` beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.config import ConfigError, ModelConfig
from models.decoder import Decoder, DecoderConfig
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
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, new_weights)
    new_config.write_text(json.dumps(model.config.to_dict(), indent=2) + "\n")
    os.replace(new_weights, path / WEIGHTS)
    os.replace(new_config, path / CONFIG)


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
        CheckpointError: if a file is missing or damaged, or weights and configuration differ.
    """
    path = Path(folder)
    config = _read_config(path / CONFIG)
    weights = _read_weights(path / WEIGHTS, torch.device(device))
    embedding = weights.get("embedding.weight")
    saved_dtype = None if embedding is None else embedding.dtype
    if not isinstance(config, DecoderConfig):
        raise CheckpointError(f"{path / CONFIG}: {config.family} is no decoder of this project")
    model = Decoder(config, device=device, dtype=dtype or saved_dtype)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        last = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(f"{path / WEIGHTS} does not fit {CONFIG}: {last}") from None
    return model


def _read_config(file: Path) -> ModelConfig:
    try:
        values = json.loads(file.read_text())
        if not isinstance(values, dict):
            raise ConfigError("not a JSON object")
        return config_from_dict(values)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, not JSON, or a ConfigError
        raise CheckpointError(f"{file}: {error}") from None


def _read_weights(file: Path, device: torch.device) -> dict[str, Tensor]:
    if not file.is_file():
        raise CheckpointError(f"{file} is missing")
    try:
        return load_file(file, device=str(device))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from None
