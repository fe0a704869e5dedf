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
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from models.compiler import require_compiler
from models.config import ConfigError, ModelConfig
from models.decoder import Decoder
from models.generation import generate
from retbench.config import plugins, requirements
from retbench.config import values as value
from retbench.data.batches import RandomWindows
from retbench.data.dataset import Dataset, require_windows
from retbench.data.vocabulary import Tokenizer, line_end
from retbench.distributed.process_group import ALONE, Ranks
from retbench.errors import Interrupted, UserError
from retbench.machine import provenance
from retbench.machine.interrupts import Interrupts
from retbench.machine.memory import enough_memory
from retbench.store import documents
from retbench.store.results import new_folder, only_unfinished
from retbench.training import model_folder
from retbench.training.checkpointing import Checkpoints
from retbench.training.evaluation import mean_loss
from retbench.training.loop import Record, Training, TrainingConfig, train
from retbench.training.settings import TrainSettings, settled
from retbench.training.step import autocast

ESTIMATE_TOKENS = 2**15
"""Tokens of the dev split that an estimate on the way is made on."""

FINAL_TOKENS = 10**5
"""Tokens of the dev split, at most, that the last figures are made on."""

SAMPLE_TOKENS = 250
SAMPLE_TEMPERATURE = 0.8

ENDED = ("finished", "diverged")
"""States of a training that is not continued."""


class Watcher(Protocol):
    """Is told how a training goes; the command line draws it."""

    def data(self, doing: str, share: float | None) -> None:
        """The text is being read or encoded; ``share`` of it, where that is known, is done."""

    def started(
        self, config: TrainingConfig, dataset: Dataset, model: Decoder, ranks: Ranks
    ) -> None:
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
    """What came of a training.

    Attributes:
        folder: see :mod:`retbench.training.model_folder`.
        training: the loss curves and how they ended.
        results: ``train_loss`` and ``dev_loss`` in nat/token, ``bits_per_byte`` of the same
            tokens, ``tokens_per_s`` of all processes, ``processes``, ``train_s``; empty where the
            training diverged.
        sample: text from the model; rank 0's alone.
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
        given: fields of :class:`retbench.training.settings.TrainSettings`, by their names or
            flags; None for the default.

    Raises:
        UserError: a value, a combination of them or the folder cannot be used.
    """
    asked = TrainSettings.parse({key: raw for key, raw in given.items() if raw is not None})
    if resume:
        folder = value.folder(out) if out else only_unfinished(
            "training", model_folder.RECORD, model_folder.read_record, ENDED
        )  # fmt: skip
        job = _continued(folder, asked)
    else:
        settings = settled(asked)
        folder = value.folder(out) if out else new_folder("train", settings.model, settings.preset)
        job = TrainJob(settings, folder, resume=False)
        model_folder.require_empty(job.out)
    if job.settings.compile:
        try:
            require_compiler()
        except ConfigError as problem:
            raise UserError(f"compile: {problem}", "unset it, or train without --compile") from None
    job.settings.model_config(vocab_size=1)  # whatever is wrong with it is known before the data
    return job


def carry_out(job: TrainJob, watcher: Watcher | None = None, ranks: Ranks = ALONE) -> Trained:
    """Train; the folder then holds the model.

    Args:
        job: what to train; the same on all ranks.
        watcher: is told how it goes; rank 0's alone.
        ranks: the processes that train it together; rank 0 alone reads and writes the folder.

    Raises:
        UserError: the data or the disk do not allow it, or ``job.out`` was begun with others.
        Interrupted: the user stopped it; it can be continued.
    """
    settings = job.settings
    ranks.require_shares(settings.batch_size, settings.accumulate)
    device = ranks.device(settings.device)
    torch.set_num_threads(settings.threads)
    settings.forget()
    dataset = settings.dataset(watcher.data if watcher else None)
    require_windows(dataset, settings.seq_len)
    model = settings.model_config(dataset.tokenizer.vocab_size)
    torch.set_num_threads(settings.threads)  # whatever a plugin has set that was loaded meanwhile
    work = _Work(job, model, dataset, device, ranks)
    ranks.require_same(work.identity, "text, tokenizer or version of the program")
    with ExitStack() as held:

        def begun() -> dict[str, Any]:
            held.enter_context(model_folder.locked(job.out))
            return _begun(work)

        record = ranks.broadcast(begun)
        with enough_memory(
            f"this training, and {job.out} is kept as it is",
            "begin a new one with a smaller --batch, --accumulate or --checkpoint-activations",
        ):
            return _train(work, record, watcher)


@dataclass(frozen=True)
class _Work:
    """A training whose parts are all at hand."""

    job: TrainJob
    model_config: ModelConfig
    dataset: Dataset
    device: str
    ranks: Ranks

    @cached_property
    def identity(self) -> str:
        """Names all that decides on the loss curve."""
        decides = {
            "model": self.model_config.to_dict(),
            "training": self.job.settings.training().to_json(),
            "data": self.dataset.sha256,
            "tokenizer": self.dataset.tokenizer.to_json(),
            "device": self.job.settings.device,
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def build(self) -> Any:
        """The model before its first step."""
        return self.model_config.build(device=self.device, seed=self.job.settings.seed)

    def dev_loss(self, model: Decoder, at_most: int) -> float:
        """In nat/token on so many tokens of the dev split."""
        window = self.job.settings.seq_len
        tokens = self.dataset.dev.tokens
        return mean_loss(model, tokens, window=window, at_most=at_most, ranks=self.ranks)


def _begun(work: _Work) -> dict[str, Any]:
    """The record of a training that begins or goes on, which is written; the folder of the former.

    The caller holds the folder's lock: what is in the folder is looked at once more, for another
    command may have held it since the job was prepared.

    Raises:
        UserError: the folder is not what the job takes it for, or cannot be written.
    """
    job, settings, dataset = work.job, work.job.settings, work.dataset
    here = provenance.provenance(
        settings.device, settings.threads, sys.orig_argv, seed=settings.seed
    ) | {"parallel": work.ranks.kind, "processes": work.ranks.size}
    place = plugins.published(settings.plugins, job.out)
    if job.resume:
        record = model_folder.unfinished(job.out)
        if record["data"].get("sha256") != dataset.sha256:
            raise UserError(
                f"the data or their tokens are not those that {job.out} was begun with",
                "name the same --data, or begin a new training with another --out",
            )
        record |= {"resumed": [*record.get("resumed", []), here], "plugins": place}
        model_folder.write_record(job.out, record)  # a session that is killed has trained too
        return record
    model_folder.require_empty(job.out, but=model_folder.LOCK)
    record = {
        "tokenizer": documents.digest(dataset.tokenizer.to_json()),
        "state": "running",
        # Where the plugins are is recorded apart: a folder is published without this machine's.
        "settings": settings.to_json() | {"plugins": []},
        "plugins": place,
        "data": dataset.to_json(),
        "provenance": here,
        "resumed": [],
    }
    model_folder.begin(job.out, work.model_config, dataset.tokenizer, record)
    return record


def _train(work: _Work, record: dict[str, Any], watcher: Watcher | None) -> Trained:
    """Train the model, and write it with what became of it."""
    job, dataset, ranks = work.job, work.dataset, work.ranks
    config = job.settings.training()
    model = work.build()
    if watcher:
        watcher.started(config, dataset, model, ranks)
    training = _steps(work, model, config, watcher)
    record["records"] = [point.to_json() for point in training.records]
    if training.cause:
        if ranks.first:
            ending = {"state": "diverged", "cause": training.cause}
            model_folder.write_record(job.out, record | ending)
        return Trained(job.out, training, {}, "")
    results = _results(work, model, training, config)
    whole: Any = ranks.unshard(model, work.build)
    if not ranks.first:
        return Trained(job.out, training, results, "")
    sample = _sample(whole, dataset.tokenizer, work.device)
    record |= {"state": "finished", "results": results, "sample": sample}
    model_folder.finish(job.out, whole, record)
    flags = plugins.flags(job.settings.plugins, job.out)
    return Trained(job.out, training, results, sample, flags)


def _steps(
    work: _Work, model: Decoder, config: TrainingConfig, watcher: Watcher | None
) -> Training:
    """Train until the end, or until the user stops one of the processes; then all stop."""
    out, ranks = work.job.out, work.ranks
    source = RandomWindows(
        work.dataset.train.tokens, batch_size=config.batch_size, seq_len=config.seq_len,
        seed=config.seed,
    )  # fmt: skip
    with Interrupts() as interrupts:

        def stopping() -> bool:
            return ranks.all_reduce_max(interrupts.requested) > 0

        def observe(point: Record) -> None:
            if watcher:
                watcher.record(point)
            if point.step < config.steps and stopping():
                raise KeyboardInterrupt

        def due(point: Record) -> bool:
            return point.dev_loss is not None or stopping()

        checkpoints = Checkpoints(out / model_folder.CHECKPOINTS, work.identity, due, ranks)
        try:
            return train(
                model, source, config, observe=observe, checkpoint=checkpoints, ranks=ranks,
                dev=lambda: work.dev_loss(model, ESTIMATE_TOKENS),
                # Several must stop at the same step, and agree on it at the next record.
                stopping=(lambda: interrupts.requested) if ranks.size == 1 else None,
            )  # fmt: skip
        except KeyboardInterrupt:
            flags = plugins.flags(work.job.settings.plugins, out)
            raise Interrupted(
                f"interrupted; the training in {out} is kept as of its last checkpoint",
                f"continue it with `retbench train --resume --out {out}{flags}`",
            ) from None


def _results(
    work: _Work, model: Decoder, training: Training, config: TrainingConfig
) -> dict[str, float]:
    with autocast(torch.device(work.device), config):
        dev_loss = work.dev_loss(model, FINAL_TOKENS)
    scored = work.dataset.dev.tokens[1 : FINAL_TOKENS + 1]
    size = len(work.dataset.tokenizer.decode_bytes(scored))
    return {
        "train_loss": training.records[-1].train_loss,
        "dev_loss": dev_loss,
        "bits_per_byte": dev_loss * scored.size / size / math.log(2),
        "tokens_per_s": training.tokens_per_s,
        "processes": work.ranks.size,
        "train_s": training.seconds,
    }


def _sample(model: Decoder, tokenizer: Tokenizer, device: str) -> str:
    """Some text that follows a line's end."""
    prompt = line_end(tokenizer)
    tokens = torch.tensor([prompt], device=device)
    count = min(SAMPLE_TOKENS, model.config.max_len - len(prompt))
    made = generate(model, tokens, count, temperature=SAMPLE_TEMPERATURE)
    return tokenizer.decode([int(token) for token in made])


def _continued(out: Path, asked: dict[str, Any]) -> TrainJob:
    record = model_folder.unfinished(out)
    try:
        settings = TrainSettings.from_json(record["settings"])
    except UserError as error:
        raise UserError(f"{out / model_folder.RECORD}: damaged settings: {error}") from None
    # Where things are may differ: the content's hash tells whether they are the same.
    if differing := settings.contradictions(asked, but=("data", "plugins", "threads")):
        raise UserError(
            f"{out} was begun with other settings: {', '.join(differing)}",
            "continue it unchanged, or begin a new training with another --out",
        )
    sources = asked.get("plugins") or plugins.located(record["plugins"], out)
    processes = requirements.processes_here()
    threads = asked.get("threads") or min(settings.threads, requirements.most_threads(processes))
    requirements.check_threads(threads, here=True, processes=processes)
    data = asked.get("data", settings.data)
    settings = replace(settings, plugins=tuple(sources), data=data, threads=threads)
    return TrainJob(settings, out, resume=True)
