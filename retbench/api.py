"""One call from a configuration to a finished run with its tables and plots.

The command line and the Python API are both thin over this module::

    run = retbench.run("inference", models=["retnet", "transformer"], preset="tiny")
    run.frame()
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retbench.config import plugins
from retbench.config.run import RunConfig, contradictions
from retbench.engine.resolve import check, explicit, resolve
from retbench.errors import Interrupted, UserError
from retbench.machine import threads

if TYPE_CHECKING:
    from retbench.engine.observer import Observer
    from retbench.engine.runner import Launcher
    from retbench.report.content import Content
    from retbench.store import Run
    from retbench.workers.crew import Crew

RESULTS = Path("results")


@dataclass(frozen=True)
class Job:
    """A run to be made or continued: what, into which folder, and by whom.

    Attributes:
        config: what.
        out: the run directory.
        resume: whether it is to be continued.
        launcher: has the blocks measured elsewhere; None to measure them here.
        note: what a reader must know of how it was begun, a sentence; None where there is nothing.
    """

    config: RunConfig
    out: Path
    resume: bool
    launcher: Launcher | None = None
    note: str | None = None


def run(
    suite: str | None = "inference",
    *,
    observer: Observer | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    config_file: Path | str | None = None,
    launcher: str = "local",
    slurm: Mapping[str, Any] | Sequence[str] = (),
    **given: Any,
) -> Run:
    """Measure a suite, write its tables and plots, and return the run.

    Args:
        suite: name of the suite; None for the configuration file's.
        observer: told of the progress; nothing is printed without one.
        out: the run directory; by default ``results/SUITE-PRESET-DEVICE-TIME``.
        resume: continue the run in ``out``, or the only unfinished one in ``results/``.
        config_file: a TOML file with the same keys as the flags.
        launcher: ``local`` to measure here, ``slurm`` for jobs of a cluster, one a block.
        slurm: what to ask Slurm for, see :data:`retbench.engine.slurm.OPTIONS`.
        given: fields of :class:`retbench.config.run.RunConfig`.

    Returns:
        The run; its :meth:`~retbench.store.Run.frame` holds all samples.

    Raises:
        UserError: for anything the configuration, the machine or the disk does not allow.
        Interrupted: the user stopped it; what was finished is kept.
    """
    job = prepare(
        suite, out=out, resume=resume, config_file=config_file, launcher=launcher, slurm=slurm,
        **given,
    )  # fmt: skip
    return carry_out(job, observer)[0]


def prepare(
    suite: str | None = None,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    config_file: Path | str | None = None,
    launcher: str = "local",
    slurm: Mapping[str, Any] | Sequence[str] = (),
    **given: Any,
) -> Job:
    """Settle what to run and where; writes nothing. Arguments and errors as :func:`run`."""
    from retbench.engine.slurm import launcher as launcher_named

    chosen = launcher_named(launcher, slurm)
    if resume:
        asked = explicit(suite, out=out, config_file=config_file, **given)
        config, folder = _continued(asked, here=chosen is None)
    else:
        config = resolve(suite, out=out, config_file=config_file, here=chosen is None, **given)
        folder = Path(config.out) if config.out else _new_folder(config)
    if chosen is not None:
        chosen.check(config)
        # Its blocks are jobs that are submitted together: their number is settled before.
        config = replace(config, minutes=0.0)
    elif not resume and explicit(config_file=config_file, **given).get("threads") is None:
        cores, config = config.threads, beside_others(config)
        return Job(config, folder, resume, note=threads.shortage(config.threads, cores))
    return Job(config, folder, resume, chosen)


def beside_others(config: RunConfig) -> RunConfig:
    """The configuration with a thread less for each core that other programs keep busy."""
    return replace(config, threads=threads.beside_others(config.threads))


def carry_out(
    job: Job, observer: Observer | None = None, crew: Crew | None = None
) -> tuple[Run, list[Path]]:
    """Measure, then write all derived files; returns the run and those. Errors as :func:`run`."""
    from retbench.engine import audit, runner

    # A job looks for the audit of the machine that it finds itself on.
    found = audit.of_this_machine(job.config) if job.launcher is None else None
    run = runner.execute(
        job.config, out=job.out, resume=job.resume, observer=observer, audit=found,
        launcher=job.launcher, crew=crew, note=job.note,
    )  # fmt: skip
    return run, write_derived(run)


def write_derived(run: Run) -> list[Path]:
    """Write every table, plot and report of a run anew; torch is not needed.

    Raises:
        UserError: they cannot be written.
    """
    from retbench import report

    with _written_or_explained(run):
        return list(report.write_all(run))


def write_tables(run: Run, content: Content) -> list[Path]:
    """Write the tables alone; see :func:`write_derived`."""
    from retbench import report

    with _written_or_explained(run):
        return list(report.write_tables(run, content))


def write_plots(run: Run) -> list[Path]:
    """Write the plots and the HTML report alone; see :func:`write_derived`."""
    from retbench import report

    with _written_or_explained(run):
        return list(report.write_plots(run))


def open_run(path: Path) -> Run:
    """Open a run to report on it; see :func:`retbench.store.open_run`."""
    from retbench import store

    return store.open_run(path)


def unfinished(results: Path = RESULTS) -> list[Path]:
    """The runs in a folder that have not finished, the newest first."""
    from retbench import store

    found = []
    for file in results.glob(f"*/{store.RUN_FILE}"):
        try:
            meta = store.read_meta(file.parent)
        except UserError:
            continue  # not a run of ours, or one that nothing can be said about
        if meta["state"] != "finished":
            found.append((meta["started"], file.parent))
    return [path for _, path in sorted(found, reverse=True)]


def _continued(asked: dict[str, Any], *, here: bool) -> tuple[RunConfig, Path]:
    from retbench import store

    out = Path(asked["out"]) if asked.get("out") else _only_unfinished()
    stored = store.read_meta(out)["configuration"]
    config = RunConfig.from_json(stored)
    given = asked.pop("plugins", None)
    differing = contradictions(stored, asked)
    if given is not None and plugins.names(given) != plugins.names(config.plugins):
        differing.append(f"plugins was {list(config.plugins)!r}, not {list(given)!r}")
    if differing:
        raise UserError(
            f"{out} was begun with another configuration: {', '.join(differing)}",
            "continue it unchanged, or begin a new run with another --out",
        )
    config = replace(config, plugins=given or plugins.located(config.plugins, out))
    check(config, here=here)
    return config, out


def _only_unfinished() -> Path:
    found = unfinished()
    if not found:
        raise UserError(f"{RESULTS}/ holds no unfinished run", "name one with --out")
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise UserError(
            f"{RESULTS}/ holds {len(found)} unfinished runs: {names}", "name one with --out"
        )
    return found[0]


def _new_folder(config: RunConfig) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    parts = (config.suite, config.preset, config.device, stamp)
    return RESULTS / "-".join(part for part in parts if part)


@contextmanager
def _written_or_explained(run: Run) -> Iterator[None]:
    """Turn a disk that is full or read-only, and Ctrl-C, into the user's error."""
    remedy = f"the samples are kept; `retbench plot {run.path}` and `table` make the rest from them"
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted while tables and plots were written", remedy) from None
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or run.path}: {error.strerror or error}", remedy
        ) from error
