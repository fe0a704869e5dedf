"""The commands ``train`` and ``generate``; see :mod:`retbench.cli`, which registers them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retbench.cli.options import AsJson, Quiet, option, options, path_option, with_options
from retbench.config.run import OUTPUT, WHERE, RunConfig
from retbench.distributed.launch import KINDS
from retbench.errors import UserError
from retbench.training.settings import TrainSettings

if TYPE_CHECKING:
    from models.decoder import Decoder
    from retbench.data.vocabulary import Tokenizer
    from retbench.distributed.process_group import Ranks


class Diverged(UserError):
    """The training's loss was not finite, or stayed above its start."""

    exit_status = 3


@with_options(options(TrainSettings))
def train(
    parallel: Annotated[
        str | None, option("Share the work of one model under torchrun.", "|".join(KINDS), WHERE)
    ] = None,
    out: Annotated[
        str | None, option("The model's folder. [default: a new one in results/]", "PATH", OUTPUT)
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the training in --out.", rich_help_panel=OUTPUT),
    ] = False,
    tensorboard: Annotated[
        Path | None, path_option("Write the loss curves for TensorBoard.", "DIR", OUTPUT)
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Train a model on text. Continues an interrupted training with --resume."""
    from retbench import distributed

    given |= {"out": out, "resume": resume}
    with distributed.connect(parallel) as ranks:
        _train(ranks, given, tensorboard, quiet=quiet, as_json=as_json)


def _train(
    ranks: Ranks, given: Mapping[str, Any], tensorboard: Path | None, *, quiet: bool, as_json: bool
) -> None:
    """Train in one process of several, or alone; rank 0 shows how it goes."""
    from retbench.cli.console import Console
    from retbench.cli.training_display import TensorBoard, TrainingDisplay, show_trained
    from retbench.training.job import carry_out, prepare

    job = ranks.broadcast(lambda: prepare(**given))
    with ExitStack() as stack:
        watcher = None
        if ranks.first:
            also = stack.enter_context(TensorBoard(tensorboard)) if tensorboard else None
            watcher = stack.enter_context(
                TrainingDisplay(quiet=quiet, as_json=as_json, tensorboard=also)
            )
        trained = carry_out(job, watcher, ranks)
    if trained.training.status == "diverged":
        raise Diverged(
            f"the training diverged: {trained.training.cause}",
            f"try a lower --lr; its loss curves are in {trained.folder}",
        )
    if ranks.first:
        show_trained(Console(quiet=quiet, as_json=as_json), trained)


@with_options(options(RunConfig, "plugins", "device", "threads"))
def generate(
    folder: Annotated[Path, typer.Argument(help="A trained model's folder.", metavar="DIR")],
    prompt: Annotated[
        str | None, typer.Option(help="The text to continue.", show_default="a line's end")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="How many tokens to make.")] = 300,
    temperature: Annotated[float, typer.Option(min=0, help="0: the likeliest token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1, help="Choose among so many tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Choose among tokens of this probability together.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the choice.")] = 0,
    tokenizer: Annotated[
        str | None, typer.Option(help="Where the folder has none: byte, gpt2, ...")
    ] = None,
    **given: Any,
) -> None:
    """Make text with a trained model, printed as it is made."""
    import torch

    from retbench.cli.training_display import stream_text
    from retbench.config import requirements
    from retbench.data.vocabulary import line_end
    from retbench.machine.memory import enough_memory
    from retbench.training import model_folder

    if math.isnan(temperature):
        raise UserError("temperature: must be a number from 0 on, not nan")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top-p: must be above 0 and at most 1, not {top_p:g}")
    device, threads = requirements.machine(given.get("device"), given.get("threads"))
    with enough_memory("this model and its state", "ask for fewer --tokens or a shorter --prompt"):
        model, known = model_folder.load(
            folder, device=device, tokenizer=tokenizer, plugin_sources=given.get("plugin", ())
        )
        torch.set_num_threads(threads)  # whatever a plugin has set
        start = line_end(known) if prompt is None else _encoded(prompt, known)
        if len(start) + tokens > model.config.max_len:
            raise UserError(
                f"{len(start)} tokens of prompt and {tokens} new ones are more than the model's "
                f"{model.config.max_len}",
                "ask for fewer --tokens",
            )
        stream_text(_continuation(model, start, tokens, temperature, top_k, top_p, seed), known)


def _encoded(prompt: str, tokenizer: Tokenizer) -> list[int]:
    try:
        found = [int(token) for token in tokenizer.encode(prompt)]
    except UserError as problem:
        raise UserError(f"prompt: {problem.message}", problem.hint) from None
    if not found:
        raise UserError("prompt: needs at least one character")
    return found


def _continuation(
    model: Decoder, prompt: list[int], count: int, temperature: float, top_k: int | None,
    top_p: float | None, seed: int,
) -> Iterator[int]:  # fmt: skip
    """The prompt's tokens, then new ones as they are made."""
    import torch

    from models.generation import generate as made

    yield from prompt
    tokens = torch.tensor([prompt], device=next(model.parameters()).device)
    try:
        for token in made(
            model, tokens, count, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
        ):
            yield int(token)
    except ValueError as problem:  # of values that its weights, though finite, overflow to
        raise UserError(f"the model cannot go on: {problem}") from None
