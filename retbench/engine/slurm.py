"""The blocks of a run as jobs of a cluster, submitted through ``submitit``.

One job a block, all submitted as one array: ratios are paired by block, so its contenders run one
after the other in one job on one node. Where a suite tries things out once, in the first block,
the others wait for it and are told what it found. A job measures into a directory of its own
(:mod:`retbench.store.merge`), on a file system that both machines share; this process merges what
is committed there, needs no GPU, and may be interrupted and continued like any run::

    python -m retbench run --device cuda --launcher slurm --slurm partition=gpu --slurm time=120

A job that ends without having measured its cells is submitted once more and goes on behind the
last of them. If that ends early too, the cells that are left get a status and the cause.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retbench.config import values as value
from retbench.config.run import RunConfig
from retbench.engine.runner import Call
from retbench.engine.slurm_jobs import Jobs, load_submitit
from retbench.errors import UserError

LAUNCHERS = ("local", "slurm")


def _words(raw: Any) -> str:
    """Text; it may look like a whole number, as accounts do."""
    return value.text(str(raw) if type(raw) is int else raw)


OPTIONS: dict[str, tuple[str, value.Reader]] = {
    "account": ("slurm_account", _words),
    "array_parallelism": ("slurm_array_parallelism", value.positive),
    "constraint": ("slurm_constraint", _words),
    "cpus_per_task": ("cpus_per_task", value.positive),
    "exclude": ("slurm_exclude", _words),
    "exclusive": ("slurm_exclusive", value.boolean),
    "gpus_per_node": ("gpus_per_node", value.positive),
    "gres": ("slurm_gres", _words),
    "mem_gb": ("mem_gb", value.positive_float),
    "nodelist": ("slurm_nodelist", _words),
    "partition": ("slurm_partition", _words),
    "qos": ("slurm_qos", _words),
    "setup": ("slurm_setup", lambda raw: [_words(raw)]),
    "time": ("timeout_min", value.positive),
}
"""What ``--slurm`` takes: submitit's name of it, and what reads it. ``time`` is in minutes,
``setup`` a shell command that is run on the node before the job."""


def launcher(name: str, given: Mapping[str, Any] | Sequence[str] = ()) -> Launcher | None:
    """The launcher of that name; None for ``local``, which needs none.

    Args:
        name: one of :data:`LAUNCHERS`.
        given: keys of :data:`OPTIONS` and their values, or ``KEY=VALUE`` words.

    Raises:
        UserError: an unknown name or key, a value that cannot be, or no Slurm to submit to.
    """
    if name not in LAUNCHERS:
        raise UserError(f"unknown launcher {name!r}", value.nearest(name, LAUNCHERS))
    if name == "local":
        if given:
            raise UserError("slurm: nothing is launched through Slurm", "add --launcher slurm")
        return None
    asked = read_options(given)
    load_submitit()
    for program in ("sbatch", "srun"):
        if shutil.which(program) is None:
            problem = f"launcher slurm: there is no Slurm here, `{program}` is not on the PATH"
            raise UserError(problem, "start the run where jobs are submitted from")
    return Launcher(asked)


def read_options(given: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    """Check the values of ``--slurm``; they keep their names.

    Raises:
        UserError: an unknown key, or a value that cannot be.
    """
    asked = value.read("slurm", value.overrides, given)
    found = {}
    for key, raw in asked.items():
        if key not in OPTIONS:
            raise UserError(f"slurm: unknown key {key!r}", value.nearest(key, OPTIONS))
        found[key] = value.read(f"slurm: {key}", OPTIONS[key][1], raw)
    return found


@dataclass(frozen=True)
class Launcher:
    """Has each block measured by a job.

    Attributes:
        options: what to ask for, by the keys of :data:`OPTIONS`.
        cluster: what submitit calls the kind of cluster; ``local`` for processes of this machine.
        poll_s: how often to look after the jobs, in seconds.
    """

    options: Mapping[str, Any]
    cluster: str = "slurm"
    poll_s: float = 2.0

    def check(self, config: RunConfig) -> None:
        """Check that what is asked for suits the run.

        Raises:
            UserError: its workers would have fewer processors than threads.
        """
        needed = config.threads * config.world_size
        processors = self.options.get("cpus_per_task", needed)
        if processors < needed:
            raise UserError(
                f"slurm: cpus_per_task: {processors} are fewer than the run's {needed} threads",
                f"add --threads {processors // config.world_size or 1}, or ask for more",
            )

    def measure(self, call: Call) -> None:
        """Commit every cell of the run that its writer lacks, as jobs measure it.

        Raises:
            UserError: it cannot be measured; what was finished is kept.
            KeyboardInterrupt: the user asked to stop.
        """
        Jobs(self, call).run()

    def parameters(self, config: RunConfig, time_min: int) -> dict[str, Any]:
        """What submitit's executor is asked for.

        Args:
            config: of the run.
            time_min: how long a job may take, in minutes, unless the options say so.
        """
        processors = config.threads * config.world_size
        defaults: dict[str, Any] = {"cpus_per_task": processors, "time": time_min}
        if config.device == "cuda" and "gres" not in self.options:
            defaults["gpus_per_node"] = config.world_size
        asked = {OPTIONS[key][0]: given for key, given in {**defaults, **self.options}.items()}
        # Since Slurm 22.05 srun does not take the processors of a task over from sbatch.
        srun = [f"--cpus-per-task={asked['cpus_per_task']}"]
        fixed = {"name": "retbench", "nodes": 1, "tasks_per_node": 1, "slurm_srun_args": srun}
        return {**fixed, **asked}
