"""The command ``train`` without its printing: from settings to a folder with a trained model.

job = prepare(out="runs/first", model="retnet", steps=200)
trained = carry_out(job)
trained.results["dev_loss"]
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from models.generation import generate
from retbench import environment, plugins, trainedmodel, trainsettings
from retbench.checkpointing import Checkpoints
from retbench.errors import Interrupted, UserError
from retbench.evaluation import mean_loss
from retbench.files import CommitLog
from retbench.interrupts import Interrupts
from retbench.training import Record, Training, TrainingConfig, train
from retbench.trainingstep import autocast
from retbench.trainsettings import TrainSettings

if TYPE_CHECKING:
    from models.decoder import Decoder
    from retbench.data.dataset import Dataset
    from retbench.data.vocabulary import Tokenizer

RESULTS = Path("results")
LOCK = "lock"

ESTIMATE_TOKENS = 2**15
"""Tokens of the dev split that an estimate on the way is made on."""

FINAL_TOKENS = 10**5
"""Tokens of the dev split, at most, that the last figures are made on."""

SAMPLE_TOKENS = 250
SAMPLE_TEMPERATURE = 0.8


class Watcher(Protocol):
    """Is told how a training goes; the command line draws it."""

    def data(self, doing: str, share: float) -> None:
        """The text is being read or encoded; ``share`` of it is done."""

    def started(self, config: TrainingConfig, dataset: Dataset, model: Decoder) -> None:
        """The first step is about to be made."""

    def record(self, record: Record) -> None:
        """There is a new point of the loss curves."""


@dataclass(frozen=True)
class TrainJob:
    """What to train and where; ``resume`` where it was begun before."""

    settings: TrainSettings
    out: Path
    resume: bool


@dataclass(frozen=True)
class Trained:
    """What came of it.

    Attributes:
        folder: see :mod:`retbench.trainedmodel`.
        training: the loss curves and how they ended.
        results: ``train_loss`` and ``dev_loss`` in nat/token, ``bits_per_byte`` of the dev split,
            ``tokens_per_s``, ``train_s``; empty where the training diverged.
        sample: text from the model.
        flags: what a command that uses the model must say besides its folder.
    """

    folder: Path
    training: Training
    results: Mapping[str, float]
    sample: str
    flags: str = ""


def prepare(*, out: Path | str | None = None, resume: bool = False, **given: Any) -> TrainJob:
    """Settle what to train and where; writes nothing.

    Args:
        out: the folder; by default ``results/train-MODEL-PRESET-TIME``.
        resume: continue the training in ``out``, or the only unfinished one in ``results/``.
        given: fields of :class:`retbench.trainsettings.TrainSettings`; None for the default.

    Raises:
        UserError: a value, a combination of them or the folder cannot be used.
    """
    asked = trainsettings.checked(given)
    if resume:
        job = _continued(Path(out) if out else _only_unfinished(), asked)
    else:
        settings = trainsettings.settled(asked)
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        default = RESULTS / f"train-{settings.model}-{settings.preset}-{stamp}"
        job = TrainJob(settings, Path(out) if out else default, resume=False)
        trainedmodel.require_empty(job.out)
    job.settings.model_config(vocab_size=1)  # whatever is wrong with it is known before the data
    return job


def carry_out(job: TrainJob, watcher: Watcher | None = None) -> Trained:
    """Train; the folder then holds the model.

    Raises:
        UserError: the data or the disk do not allow it, or ``job.out`` was begun with others.
        Interrupted: the user stopped it; it can be continued.
    """
    from retbench.data.dataset import load_dataset, require_windows

    settings = job.settings
    torch.set_num_threads(settings.threads)
    dataset = load_dataset(
        settings.data, settings.tokenizer, progress=watcher.data if watcher else None
    )
    require_windows(dataset, settings.context)
    config = settings.model_config(dataset.tokenizer.vocab_size)
    record = _continued_record(job, dataset) if job.resume else _record(job, dataset)
    if not job.resume:
        trainedmodel.begin(job.out, config, dataset.tokenizer, record)
    lock = CommitLog(job.out / LOCK, create=True)
    try:
        model: Any = config.build(device=settings.device, seed=settings.seed)
        identity = _identity(settings, config.to_dict(), dataset)
        return _train(job, record, dataset, model, identity, watcher)
    except torch.OutOfMemoryError:
        raise UserError(
            f"the GPU has not enough memory for this training; {job.out} is kept as it is",
            "begin a new one with a smaller --batch, --accumulate or --checkpoint-activations",
        ) from None
    finally:
        lock.close()
        (job.out / LOCK).unlink(missing_ok=True)


def _train(
    job: TrainJob, record: dict[str, Any], dataset: Dataset, model: Decoder, identity: str,
    watcher: Watcher | None,
) -> Trained:  # fmt: skip
    """Train the model, and write it with what became of it."""
    from retbench.data.batches import RandomWindows

    config = job.settings.training()
    source = RandomWindows(
        dataset.train.tokens, batch_size=config.batch_size, seq_len=config.seq_len, seed=config.seed
    )
    if watcher:
        watcher.started(config, dataset, model)
    with Interrupts() as interrupts:

        def observe(found: Record) -> None:
            if watcher:
                watcher.record(found)
            if found.step < config.steps:
                interrupts.check()

        def due(found: Record) -> bool:
            return found.dev_loss is not None or _stopping(interrupts)

        checkpoints = Checkpoints(job.out / trainedmodel.CHECKPOINTS, identity, due)
        try:
            training = train(
                model, source, config, observe=observe, checkpoint=checkpoints,
                dev=lambda: _dev_loss(model, dataset, config, ESTIMATE_TOKENS),
            )  # fmt: skip
        except KeyboardInterrupt:
            flags = plugins.flags(job.settings.plugins, job.out)
            raise Interrupted(
                f"interrupted; the training in {job.out} is kept as of its last checkpoint",
                f"continue it with `retbench train --resume --out {job.out}{flags}`",
            ) from None
    record["records"] = [found.to_json() for found in training.records]
    if training.status == "diverged":
        trainedmodel.write_record(job.out, record | {"state": "diverged", "cause": training.cause})
        return Trained(job.out, training, {}, "")
    results = _results(model, training, config, dataset)
    sample = _sample(model, dataset.tokenizer)
    record |= {"state": "finished", "results": results, "sample": sample}
    trainedmodel.finish(job.out, model, record)
    checkpoints.clear()
    flags = plugins.flags(job.settings.plugins, job.out)
    return Trained(job.out, training, results, sample, flags)


def _results(
    model: Decoder, training: Training, config: TrainingConfig, dataset: Dataset
) -> dict[str, float]:
    with autocast(_device(model), config):
        dev_loss = _dev_loss(model, dataset, config, FINAL_TOKENS)
    tokens_per_byte = dataset.dev.tokens.size / int(dataset.dev.bytes.sum())
    return {
        "train_loss": training.records[-1].train_loss,
        "dev_loss": dev_loss,
        "bits_per_byte": dev_loss * tokens_per_byte / math.log(2),
        "tokens_per_s": training.tokens_per_s,
        "train_s": training.seconds,
    }


def _dev_loss(model: Decoder, dataset: Dataset, config: TrainingConfig, at_most: int) -> float:
    return mean_loss(model, dataset.dev.tokens, window=config.seq_len, at_most=at_most)


def _device(model: Decoder) -> torch.device:
    return next(model.parameters()).device


def _sample(model: Decoder, tokenizer: Tokenizer) -> str:
    """Some text that follows a line's end, or the vocabulary's first token where it has none."""
    try:
        prompt = [int(token) for token in tokenizer.encode("\n")]
    except UserError:
        prompt = [0]
    tokens = torch.tensor([prompt], device=_device(model))
    count = min(SAMPLE_TOKENS, model.config.max_len - len(prompt))
    made = generate(model, tokens, count, temperature=SAMPLE_TEMPERATURE)
    return tokenizer.decode_bytes([int(token) for token in made]).decode(errors="replace")


def _record(job: TrainJob, dataset: Dataset) -> dict[str, Any]:
    settings = job.settings
    return {
        "state": "running",
        "settings": settings.to_json(),
        "plugins": plugins.published(settings.plugins, job.out),
        "training": settings.training().to_json(),
        "data": dataset.to_json(),
        "provenance": _provenance(settings),
        "resumed": [],
    }


def _continued_record(job: TrainJob, dataset: Dataset) -> dict[str, Any]:
    """The record of a training that goes on, with where and when it does."""
    record = trainedmodel.read_record(job.out)
    if record["data"].get("sha256") != dataset.sha256:
        raise UserError(
            f"the data or their tokens are not those that {job.out} was begun with",
            "name the same --data, or begin a new training with another --out",
        )
    resumed = [*record.get("resumed", []), _provenance(job.settings)]
    place = plugins.published(job.settings.plugins, job.out)
    return record | {"resumed": resumed, "plugins": place}


def _provenance(settings: TrainSettings) -> dict[str, Any]:
    return environment.provenance(
        settings.device, settings.threads, sys.orig_argv, seed=settings.seed
    )


def _identity(settings: TrainSettings, model: Mapping[str, Any], dataset: Dataset) -> str:
    """Names all that decides on the loss curve."""
    decides = {
        "model": model, "training": settings.training().to_json(), "data": dataset.sha256,
        "tokenizer": dataset.tokenizer.to_json(), "device": settings.device,
        "threads": settings.threads,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _continued(out: Path, asked: dict[str, Any]) -> TrainJob:
    record = trainedmodel.read_record(out)
    if record["state"] != "running":
        raise UserError(
            f"the training in {out} has {record['state']}: there is nothing to continue",
            "begin a new one with another --out",
        )
    try:
        settings = TrainSettings.from_json(record["settings"], ())
    except TypeError as error:
        raise UserError(f"{out / trainedmodel.RECORD}: damaged settings: {error}") from None
    if differing := settings.contradictions(asked):
        raise UserError(
            f"{out} was begun with other settings: {', '.join(differing)}",
            "continue it unchanged, or begin a new training with another --out",
        )
    sources = asked.get("plugins") or plugins.located(record["plugins"], out)
    data = asked.get("data", settings.data)
    return TrainJob(replace(settings, plugins=tuple(sources), data=data), out, resume=True)


def _only_unfinished() -> Path:
    found = []
    for file in RESULTS.glob(f"*/{trainedmodel.RECORD}"):
        try:
            if trainedmodel.read_record(file.parent)["state"] == "running":
                found.append(file.parent)
        except UserError:
            continue  # nothing can be said about it
    if len(found) == 1:
        return found[0]
    listed = ": " + ", ".join(str(path) for path in sorted(found)) if found else ""
    count = len(found) or "no"
    raise UserError(
        f"{RESULTS}/ holds {count} unfinished training{'s' * bool(found)}{listed}",
        "name one with --out",
    )


def _stopping(interrupts: Interrupts) -> bool:
    try:
        interrupts.check()
    except KeyboardInterrupt:
        return True
    return False
