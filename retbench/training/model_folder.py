"""The folder of a trained model: what made it, and all that is needed to use it.

::

    RUN/
      config.json, model.safetensors   the model, as models.checkpoint reads it
      tokenizer.json                   how its text becomes tokens
      training.json                    settings, data, loss curves, results, provenance, state
      checkpoints/                     while the training is not finished
      lock                             while a command writes there
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from models import checkpoint
from models.config import ModelConfig
from models.decoder import Decoder
from retbench.config import plugins
from retbench.data.vocabulary import Tokenizer, tokenizer_from_json, tokenizer_named
from retbench.errors import UserError
from retbench.store import documents
from retbench.store.files import CommitLog, cannot_write, replace_file
from retbench.training.checkpointing import latest, write_tensors

TOKENIZER = "tokenizer.json"
RECORD = "training.json"
CHECKPOINTS = "checkpoints"
LOCK = "lock"
SCHEMA_VERSION = 1

_RESTORE = "restore it from a copy, or train anew"


def begin(
    folder: Path, config: ModelConfig, tokenizer: Tokenizer, record: Mapping[str, Any]
) -> None:
    """Write what there is of a model that is about to be trained into its folder.

    Raises:
        UserError: it cannot be written.
    """
    _write_json(folder / checkpoint.CONFIG, config.to_dict())
    _write_json(folder / TOKENIZER, documents.sealed(tokenizer.to_json()))
    write_record(folder, record)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other commands from writing to a folder, which is made where there is none.

    Raises:
        UserError: it cannot be made, or another process is writing to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cannot_write(folder, error)
    lock = CommitLog(folder / LOCK, create=True)
    try:
        yield
    finally:
        lock.close()
        (folder / LOCK).unlink(missing_ok=True)


def require_empty(folder: Path, *, but: str | None = None) -> None:
    """Raise the user's error where a new training would mix with something else.

    Args:
        folder: the folder of the training; need not be there.
        but: the name of a file that may be in it.
    """
    try:
        taken = any(name != but for name in os.listdir(folder))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        taken = os.path.lexists(folder)  # it, or a folder above it, is a file
    except OSError as error:
        cannot_write(folder, error)
    if taken:
        raise UserError(
            f"--out {folder} is there already and not an empty folder",
            "name another, or continue a training in it with --resume",
        )


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``training.json`` as a whole; :class:`UserError` where the disk does not take it."""
    _write_json(folder / RECORD, documents.sealed({"schema_version": SCHEMA_VERSION, **record}))


def read_record(folder: Path) -> dict[str, Any]:
    """What ``training.json`` says.

    Raises:
        UserError: it is missing or damaged.
    """
    file = folder / RECORD
    if not os.path.isfile(file):
        raise UserError(f"{folder} holds no training: {RECORD} is missing", "name one by --out")
    record = documents.read(file, _RESTORE)
    if record.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{file} is not of schema version {SCHEMA_VERSION}", _RESTORE)
    for key, kind in (("state", str), ("settings", dict), ("data", dict), ("plugins", list)):
        if not isinstance(record.get(key), kind):
            raise UserError(f"{file}: damaged: no {key!r} in it", _RESTORE)
    return documents.unsealed(file, record, _RESTORE)


def unfinished(folder: Path) -> dict[str, Any]:
    """The record of a training that can be continued.

    Raises:
        UserError: there is none, or it has ended.
    """
    record = read_record(folder)
    if record["state"] != "running":
        raise UserError(
            f"the training in {folder} has {record['state']}: there is nothing to continue",
            "begin a new one with another --out",
        )
    return record


def finish(folder: Path, model: nn.Module, record: Mapping[str, Any]) -> None:
    """Write the trained weights, then the record, and delete the checkpoints.

    Raises:
        UserError: the disk does not take them; checkpoints are as they were.
    """
    path, new = folder / checkpoint.WEIGHTS, folder / f"{checkpoint.WEIGHTS}.new"
    try:
        tensors, config = model.state_dict(), documents.read(folder / checkpoint.CONFIG, _RESTORE)
        write_tensors(new, tensors, checkpoint.seal(config, tensors))
        os.replace(new, path)
    except OSError as error:
        new.unlink(missing_ok=True)
        cannot_write(path, error)
    write_record(folder, record)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def load(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    tokenizer: str | None = None,
    plugin_sources: Sequence[str] = (),
) -> tuple[Decoder, Tokenizer]:
    """A model and its tokenizer, from a finished training, an unfinished one, or weights alone.

    Args:
        folder: the folder of a training, or one that :func:`models.checkpoint.save` wrote.
        device: where to put the model.
        tokenizer: the name of the tokenizer where the folder has none.
        plugin_sources: files and modules that register the model's family; where the training
            recorded its own, they need not be given.

    Raises:
        UserError: no model is there, a file is damaged, its family is unknown, the tokenizer is
            not known or does not fit.
    """
    if not os.path.isdir(folder):
        raise UserError(f"there is no folder {folder}", "name one that `retbench train` made")
    if not plugin_sources and os.path.isfile(folder / RECORD):
        plugin_sources = plugins.located(read_record(folder)["plugins"], folder)
    plugins.load(plugin_sources)
    place = folder if os.path.isfile(folder / checkpoint.WEIGHTS) else latest(folder / CHECKPOINTS)
    if place is None:
        raise UserError(
            f"{folder} holds no weights: {checkpoint.WEIGHTS} is missing",
            "name a folder that `retbench train` made and that has a checkpoint at least",
        )
    try:
        model = checkpoint.load(place, device=device)
    except checkpoint.CheckpointError as error:
        hint = "name its plugin with --plugin" if "unknown model" in str(error) else _RESTORE
        raise UserError(str(error), hint) from error
    encoder = _tokenizer(folder, tokenizer)
    if encoder.vocab_size != model.config.vocab_size:
        raise UserError(
            f"{folder}: the model knows {model.config.vocab_size} tokens, the tokenizer "
            f"{encoder.name} has {encoder.vocab_size}",
            "use the tokenizer that the model was trained with",
        )
    return model, encoder


def _tokenizer(folder: Path, name: str | None) -> Tokenizer:
    file = folder / TOKENIZER
    if not os.path.isfile(file):
        if name is None:
            raise UserError(
                f"{folder} has no {TOKENIZER}", "say with --tokenizer which, such as gpt2"
            )
        return tokenizer_named(name, lambda: _no_text(folder, name))
    try:
        content = documents.unsealed(file, documents.read(file, _RESTORE), _RESTORE)
        if os.path.isfile(folder / RECORD):
            made_with = read_record(folder).get("tokenizer")
            if made_with not in (None, documents.digest(content)):
                raise UserError(f"{file} is of another training than {RECORD}", _RESTORE)
        stored = tokenizer_from_json(content)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{file}: damaged: {reason}", _RESTORE) from error
    if name not in (None, stored.name):
        raise UserError(f"{folder} has its own tokenizer, {stored.name}", "leave out --tokenizer")
    return stored


def _no_text(folder: Path, name: str) -> NoReturn:
    raise UserError(
        f"the tokenizer {name} is made from the training's text, which {folder} does not hold",
        f"use a folder with its {TOKENIZER}",
    )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    data = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    replace_file(path, path.with_name(f"{path.name}.new"), data.encode())
