"""What the folder of a training says of how it was made, and who may write there."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retbench.config import plugins
from retbench.errors import UserError
from retbench.machine import provenance
from retbench.store.files import CommitLog
from retbench.training import model_folder

if TYPE_CHECKING:
    from models.config import ModelConfig
    from retbench.data.dataset import Dataset
    from retbench.distributed.process_group import Ranks
    from retbench.training.job import TrainJob
    from retbench.training.settings import TrainSettings

LOCK = "lock"


def begun(job: TrainJob, model: ModelConfig, dataset: Dataset, ranks: Ranks) -> dict[str, Any]:
    """The record of a training that begins or goes on, which is written; the folder of the former.

    The caller holds the folder's lock: what is in the folder is looked at once more, for another
    command may have held it since the job was prepared.

    Raises:
        UserError: the folder is not what the job takes it for, or cannot be written.
    """
    if job.resume:
        record = _continued_record(job, dataset, ranks)
        model_folder.write_record(job.out, record)  # a session that is killed has trained too
        return record
    model_folder.require_empty(job.out, but=LOCK)
    record = _record(job, dataset, ranks)
    model_folder.begin(job.out, model, dataset.tokenizer, record)
    return record


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other commands from writing to a folder, which is made where there is none.

    Raises:
        UserError: it cannot be made, or another process is writing to it.
    """
    model_folder.make_folder(folder)
    lock = CommitLog(folder / LOCK, create=True)
    try:
        yield
    finally:
        lock.close()
        (folder / LOCK).unlink(missing_ok=True)


def unfinished(folder: Path) -> dict[str, Any]:
    """The record of a training that can be continued.

    Raises:
        UserError: there is none, or it has ended.
    """
    record = model_folder.read_record(folder)
    if record["state"] != "running":
        raise UserError(
            f"the training in {folder} has {record['state']}: there is nothing to continue",
            "begin a new one with another --out",
        )
    return record


def _record(job: TrainJob, dataset: Dataset, ranks: Ranks) -> dict[str, Any]:
    settings = job.settings
    return {
        "state": "running",
        # Where the plugins are is recorded apart: a folder is published without this machine's.
        "settings": settings.to_json() | {"plugins": []},
        "plugins": plugins.published(settings.plugins, job.out),
        "data": dataset.to_json(),
        "provenance": _provenance(settings, ranks),
        "resumed": [],
    }


def _continued_record(job: TrainJob, dataset: Dataset, ranks: Ranks) -> dict[str, Any]:
    """The record of a training that goes on, with where and when it does."""
    record = unfinished(job.out)
    if record["data"].get("sha256") != dataset.sha256:
        raise UserError(
            f"the data or their tokens are not those that {job.out} was begun with",
            "name the same --data, or begin a new training with another --out",
        )
    resumed = [*record.get("resumed", []), _provenance(job.settings, ranks)]
    place = plugins.published(job.settings.plugins, job.out)
    return record | {"resumed": resumed, "plugins": place}


def _provenance(settings: TrainSettings, ranks: Ranks) -> dict[str, Any]:
    """This process's machine, and how many work together."""
    record = provenance.provenance(
        settings.device, settings.threads, sys.orig_argv, seed=settings.seed
    )
    return record | {"parallel": ranks.kind, "processes": ranks.size}


def identity(settings: TrainSettings, model: Mapping[str, Any], dataset: Dataset) -> str:
    """Names all that decides on the loss curve."""
    decides = {
        "model": model, "training": settings.training().to_json(), "data": dataset.sha256,
        "tokenizer": dataset.tokenizer.to_json(), "device": settings.device,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
