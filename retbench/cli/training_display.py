"""What the commands ``train`` and ``generate`` print: progress, results, text as it is made."""

from __future__ import annotations

import codecs
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from retbench.cli.console import Console, rich_console
from retbench.cli.progress import Display
from retbench.errors import UserError
from retbench.report import units

if TYPE_CHECKING:
    from models.decoder import Decoder
    from retbench.data.dataset import Dataset
    from retbench.data.vocabulary import Tokenizer
    from retbench.distributed.process_group import Ranks
    from retbench.training.config import Record, TrainingConfig
    from retbench.training.job import Trained

_PIPED_EVERY_S = 10.0
_RISEN = 0.02  # nat/token; less is the noise of an estimate


class TrainingDisplay(Display):
    """Shows a training: a bar on a terminal, a line now and then elsewhere, nothing when quiet.

    A refresh thread would take the interpreter from the training's steps: the bar is redrawn at the
    records.

    Args:
        quiet: print nothing.
        as_json: stdout is for a document.
        tensorboard: gets every record too.
    """

    def __init__(
        self, *, quiet: bool = False, as_json: bool = False, tensorboard: TensorBoard | None = None
    ) -> None:
        super().__init__(rich_console(as_json=as_json, quiet=quiet))
        self._tensorboard = tensorboard
        self._config: TrainingConfig | None = None
        self._last_line_s = time.monotonic()
        self._first: Record | None = None
        self._dev_loss: float | None = None

    def data(self, doing: str, share: float | None) -> None:
        """Say what is being done with the text, and how much of it is done."""
        line = Text(doing if share is None else f"{doing}: {share:.0%}")
        if self._out.is_terminal:
            self.draw(line)
        elif self._due() and share != 1:
            self._out.print(line)

    def started(
        self, config: TrainingConfig, dataset: Dataset, model: Decoder, ranks: Ranks
    ) -> None:
        """Say what is trained on what."""
        self._config = config
        count = model.num_parameters()
        self._out.print(
            f"{model.config.family}: {count:,} parameters and an embedding of "
            f"{model.config.vocab_size} tokens; {dataset.name}, {dataset.train.tokens.size:,} "
            f"tokens ({dataset.tokenizer.name}) to train on"
        )
        self._out.print(
            f"{config.steps} steps of {config.tokens_per_step:,} tokens "
            f"({config.batch_size} x {config.seq_len})"
            + (f", shared by {ranks.size} processes ({ranks.kind})" if ranks.kind else "")
        )
        self._last_line_s = time.monotonic()

    def record(self, record: Record) -> None:
        """Show the loss curves' last point."""
        assert self._config is not None
        if record.dev_loss is not None:
            self._dev_loss = record.dev_loss
        speed = self._speed(record)
        line = Text(self._line(record, speed))
        if self._out.is_terminal:
            row = Table.grid(padding=(0, 1))
            bar = ProgressBar(total=self._config.steps, completed=record.step, width=20)
            row.add_row(bar, line)
            self.draw(row)
        elif self._due() or record.step == self._config.steps:
            self._out.print(line)
        if self._tensorboard is not None:
            self._tensorboard.record(record)

    def _line(self, record: Record, speed: float | None) -> str:
        assert self._config is not None
        dev = "" if self._dev_loss is None else f", dev {self._dev_loss:.3f}"
        line = f"step {record.step}/{self._config.steps}  loss {record.train_loss:.3f}{dev}"
        if speed:
            left = (self._config.steps - record.step) * self._config.tokens_per_step / speed
            line += f"  {speed:,.0f} tokens/s  {units.duration(left)} left"
        return line

    def _speed(self, record: Record) -> float | None:
        """Tokens per second since the first record of this session, whose steps warmed up."""
        if self._first is None:
            self._first = record
            return record.tokens / record.seconds if record.seconds else None
        seconds = record.seconds - self._first.seconds
        return (record.tokens - self._first.tokens) / seconds if seconds > 0 else None

    def _due(self) -> bool:
        now = time.monotonic()
        if now - self._last_line_s < _PIPED_EVERY_S:
            return False
        self._last_line_s = now
        return True


def show_trained(console: Console, trained: Trained) -> None:
    """Print what came of a training: losses, a sample, where it is and how to go on."""
    found, folder = trained.results, shlex.quote(str(trained.folder))
    command = f'python -m retbench generate {folder} --prompt "..."{trained.flags}'
    table = Table.grid(padding=(0, 2))
    for name, text in (
        ("train loss", f"{found['train_loss']:.4f} nat/token"),
        ("dev loss", f"{found['dev_loss']:.4f} nat/token"),
        ("bits per byte", f"{found['bits_per_byte']:.4f} on the dev split"),
        ("time", f"{units.duration(found['train_s'])} in steps, {_throughput(found)}"),
    ):  # fmt: skip
        table.add_row(name, text)
    if note := _overfitted(trained):
        table.add_row("note", note)
    console.show(
        table, Text("\nSample", style="italic"), Text(trained.sample.strip("\n")),
        Text("\nModel", style="italic"), Text(f"  {trained.folder}", overflow="fold"),
        Text("Generate", style="italic"), Text(f"  {command}", overflow="fold"),
    )  # fmt: skip
    console.emit({
        "folder": str(trained.folder), "status": trained.training.status, **found,
        "sample": trained.sample, "generate": command,
        "records": [record.to_json() for record in trained.training.records],
    })  # fmt: skip


def _throughput(found: Mapping[str, float]) -> str:
    """Tokens per second, in total and of each process where there are several."""
    text, processes = f"{found['tokens_per_s']:,.0f} tokens/s", found["processes"]
    if processes > 1:
        text += f" ({found['tokens_per_s'] / processes:,.0f} in each of {processes} processes)"
    return text


def _overfitted(trained: Trained) -> str | None:
    """Says so where the dev loss has risen again."""
    estimates = [r for r in trained.training.records if r.dev_loss is not None]
    best = min(estimates, key=lambda record: record.dev_loss or 0.0, default=None)
    if best is None or best.dev_loss is None or estimates[-1].dev_loss is None:
        return None
    if estimates[-1].dev_loss < best.dev_loss + _RISEN:
        return None
    return f"the dev loss was lowest, {best.dev_loss:.3f}, at step {best.step}: train for fewer"


def stream_text(tokens: Iterable[int], tokenizer: Tokenizer) -> None:
    """Print tokens as they come; one that ends within a character waits for the rest of it."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        sys.stdout.write(decoder.decode(tokenizer.decode_bytes([token])))
        sys.stdout.flush()
    sys.stdout.write(decoder.decode(b"", final=True) + "\n")
    sys.stdout.flush()


class TensorBoard:
    """Writes the loss curves for TensorBoard; a context manager.

    Args:
        folder: where its event files go.

    Raises:
        UserError: the package is not installed, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "--tensorboard needs the package tensorboard",
                'install it with: python -m pip install "retbench[tensorboard]"',
            ) from None
        try:
            self._writer: Any = SummaryWriter(str(folder))
        except OSError as error:
            raise UserError(f"cannot write {folder}: {error.strerror}", "name another") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def record(self, record: Record) -> None:
        """Write a record's figures at its step."""
        figures = {
            "loss/train": record.train_loss, "loss/dev": record.dev_loss,
            "learning_rate": record.learning_rate,
            "tokens_per_s": record.tokens / record.seconds if record.seconds else None,
        }  # fmt: skip
        for name, figure in figures.items():
            if figure is not None:
                self._writer.add_scalar(name, figure, record.step)
