"""One call from a configuration to a finished run with its tables and plots.

The command line and the Python API are both thin over this module::

    run = retbench.run("inference", models=["retnet", "transformer"], preset="tiny")
    run.frame()
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retbench import report, store, suites
from retbench.config import plugins
from retbench.config import values as value
from retbench.config.file import read_config_file
from retbench.config.run import SPARED_CORES, RunConfig, TimedConfig
from retbench.engine.resolve import check, explicit, resolve
from retbench.errors import Interrupted, NotDerived, UserError
from retbench.machine import host, threads
from retbench.store.results import new_folder, only_unfinished
from retbench.workers.agent import ONE_NODE, Nodes

if TYPE_CHECKING:
    from retbench.engine.observer import Observer
    from retbench.engine.slurm import Launcher
    from retbench.report.content import Content


@dataclass(frozen=True)
class Job:
    """A run to be made or continued: what, into which folder, and by whom.

    Attributes:
        config: what.
        out: the run directory.
        resume: whether it is to be continued.
        launcher: has the blocks measured elsewhere; None to measure them here.
        note: what a reader must know of how it was begun, a sentence; None where there is nothing.
        nodes: the machines whose processes measure together.
    """

    config: RunConfig
    out: Path
    resume: bool
    launcher: Launcher | None = None
    note: str | None = None
    nodes: Nodes = ONE_NODE


def run(
    suite: str | None = "inference", *, observer: Observer | None = None, **given: Any
) -> store.Run:
    """Measure a suite, write its tables and plots, and return the run.

    Args:
        suite: name of the suite; None for the configuration file's.
        observer: told of the progress; nothing is printed without one.
        given: further arguments of :func:`prepare`, fields of the configuration among them.

    Returns:
        The run; its :meth:`~retbench.store.Run.frame` holds all samples.

    Raises:
        UserError: for anything the configuration, the machine or the disk does not allow.
        Interrupted: the user stopped it; what was finished is kept.
    """
    made = carry_out(prepare(suite, **given), observer)
    write_derived(made)
    return made


def prepare(
    suite: str | None = None,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    config_file: Path | str | None = None,
    launcher: str = "local",
    slurm: Mapping[str, Any] | Sequence[str] = (),
    nodes: Nodes = ONE_NODE,
    **given: Any,
) -> Job:
    """Settle what to run and where; writes nothing.

    Args:
        suite: name of the suite; None for the configuration file's.
        out: the run directory; by default ``results/SUITE-PRESET-DEVICE-TIME``.
        resume: continue the run in ``out``, or the only unfinished one in ``results/``.
        config_file: a TOML file with the same keys as the flags.
        launcher: ``local`` to measure here, ``slurm`` for jobs of a cluster, one a block.
        slurm: what to ask Slurm for, see :data:`retbench.engine.slurm.OPTIONS`.
        nodes: the machines whose processes measure together; the first prepares and carries out,
            the others prepare and serve (:func:`retbench.workers.agent.serve`).
        given: fields of the suite's configuration, see :class:`retbench.config.run.RunConfig`.

    Raises:
        UserError: for anything the configuration or the machine does not allow.
    """
    from retbench.engine.slurm import launcher as launcher_named

    chosen = launcher_named(launcher, slurm)
    if resume:
        config, folder = _continued(suite, out, config_file, given, here=chosen is None)
    else:
        config = resolve(suite, out=out, config_file=config_file, here=chosen is None, **given)
        parts = (config.suite, config.preset, config.device)
        folder = Path(config.out) if config.out else new_folder(*parts)
    if chosen is not None:
        chosen.check(config)
        if nodes.count > 1:
            raise UserError("nodes: a job has one machine", "leave out --nodes or --launcher")
        # Its blocks are jobs that are submitted together: their number is settled before.
        if isinstance(config, TimedConfig):
            config = replace(config, minutes=0.0)
        return Job(config, folder, resume, chosen)
    nodes.check(config)
    note = None
    if not resume and "threads" not in explicit(suite, config_file=config_file, **given).values:
        usual, config = config.threads, beside_others(config)
        note = threads.shortage(config.threads, usual)
    return Job(config, folder, resume, note=note, nodes=nodes)


def beside_others(config: RunConfig) -> RunConfig:
    """The configuration with a thread less for each core that other programs keep busy."""
    spared = SPARED_CORES if isinstance(config, TimedConfig) else 0
    return replace(config, threads=threads.beside_others(config.threads, spared))


def carry_out(job: Job, observer: Observer | None = None) -> store.Run:
    """Measure, and return the run, of which nothing is derived yet. Errors as :func:`run`."""
    from retbench.engine import audit, runner

    return runner.execute(
        job.config, out=job.out, resume=job.resume, observer=observer,
        # A job looks for the audit of the machine that it finds itself on.
        audits=audit.known if job.launcher is None else None,
        launcher=job.launcher, nodes=job.nodes, note=job.note,
    )  # fmt: skip


def write_derived(run: store.Run) -> tuple[Content, list[Path]]:
    """Write every table, plot and report of a run anew; torch is not needed.

    Returns:
        What its report says, and the files.

    Raises:
        UserError: they cannot be written.
    """
    with explained(run):
        content = report.content_of(run)
        return content, report.write_all(run, content)


@contextmanager
def explained(run: store.Run) -> Iterator[None]:
    """Turn whatever keeps derived files from being written into one line that says how to go on.

    Raises:
        UserError: they could not be written.
        NotDerived: of a bug.
        Interrupted: the user stopped it.
    """
    remedy = f"the samples are kept; `retbench plot {run.path}` and `table` make the rest from them"
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted while tables and plots were written", remedy) from None
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or run.path}: {error.strerror or error}", remedy
        ) from error
    except UserError:
        raise
    except Exception as error:
        what = f"a bug: tables and plots could not be made: {type(error).__name__}: {error}"
        raise NotDerived(what, f"{remedy}; add --debug to see where") from error


def stored_configuration(path: Path, meta: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run, from its ``run.json``.

    Raises:
        UserError: it is damaged.
    """
    try:
        return suites.configuration(meta["configuration"])
    except UserError as problem:
        what = f"{path / store.RUN_FILE}: damaged configuration: {problem.message}"
        raise UserError(what, "restore it from a copy") from None


def open_run(path: Path) -> store.Run:
    """Open a run to report on it: :func:`retbench.store.open_run`, its configuration checked."""
    run = store.open_run(path)
    stored_configuration(path, run.meta)
    return run


def _continued(
    suite: str | None,
    out: Path | str | None,
    config_file: Path | str | None,
    given: Mapping[str, Any],
    *,
    here: bool,
) -> tuple[RunConfig, Path]:
    """The configuration of a run that was begun, and its folder; arguments as :func:`prepare`."""
    if out is None and config_file is not None:
        out = read_config_file(config_file)[0].get("out")
    folder = (
        value.folder(out)
        if out
        else only_unfinished("run", store.RUN_FILE, store.read_meta, ("finished",))
    )
    config = stored_configuration(folder, store.read_meta(folder))
    asked = explicit(suite, config_file=config_file, otherwise=config.suite, **given).values
    timed = isinstance(config, TimedConfig)  # elsewhere threads are where it runs, not what
    if asked.get("suite", config.suite) != config.suite:
        differing = [f"suite was {config.suite!r}, not {asked['suite']!r}"]
    else:
        may_differ = ("suite", "out", "plugins", *(() if timed else ("threads",)))
        differing = config.contradictions(asked, but=may_differ)
    sources = asked.get("plugins")
    if sources is not None and plugins.names(sources) != plugins.names(config.plugins):
        differing.append(f"plugin was {list(config.plugins)!r}, not {list(sources)!r}")
    if differing:
        raise UserError(
            f"{folder} was begun with another configuration: {', '.join(differing)}",
            "continue it unchanged, or begin a new run with another --out",
        )
    config = replace(config, plugins=sources or plugins.located(config.plugins, folder))
    if here and not timed:
        threads_here = asked.get("threads") or min(config.threads, host.granted_cores())
        config = replace(config, threads=threads_here)
    check(config, here=here)
    return config, folder
