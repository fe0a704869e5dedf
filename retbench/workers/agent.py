"""The processes of one contender, where it has several, under PyTorch's elastic agent.

The runner starts this program where it would start a worker. The agent, which is torchrun's, starts
a worker for each rank of this machine; those of other machines are started there, by commands that
:func:`serve`. Rank 0 inherits the socket to the parent. When a worker dies, the agent ends the
others, and the parent is told which was the first and why.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retbench.config.requirements import check_threads
from retbench.config.run import RunConfig
from retbench.errors import UserError
from retbench.machine.interrupts import Interrupts
from retbench.machine.memory import oom_kills
from retbench.workers import START, WORKER_COMMAND, variables
from retbench.workers.process import (
    DIED,
    PARENT,
    RankFailure,
    Worker,
    WorkerFailure,
    die_with_parent,
    failure_of,
)

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

MEETING_S = 300
"""How long the agents of all machines may take to meet, in seconds."""

OLD_AGENT_S = 15
"""How long the agents of a group that has failed may take to end: their workers have 5 seconds."""

_MONITOR_S = 0.1
_SHUTDOWN_S = "2"  # that workers have to end before they are killed; the parent waits for longer


@dataclass(frozen=True)
class Nodes:
    """The machines whose processes measure together.

    Attributes:
        count: how many.
        rank: which of them this is, from 0; the first plans and writes.
        rendezvous: ``HOST:PORT`` of the first; not needed by one machine that is alone.
    """

    count: int = 1
    rank: int = 0
    rendezvous: str = ""

    def check(self, config: RunConfig) -> None:
        """Raise the user's error where these machines cannot share a run, or this is too small.

        Raises:
            UserError: one of those.
        """
        if not 0 <= self.rank < self.count or (self.count > 1) != bool(self.rendezvous):
            raise UserError(
                f"nodes: {self.count} with --node-rank {self.rank} and --rendezvous "
                f"{self.rendezvous or 'missing'} are no group",
                "give each of N machines --nodes N, a --node-rank from 0 to N - 1, and the "
                "--rendezvous HOST:PORT of the first",
            )
        if config.world_size % self.count:
            raise UserError(
                f"processes: {config.world_size} cannot be shared equally by {self.count} machines",
                f"use a multiple of {self.count}",
            )
        processes = config.world_size // self.count
        check_threads(config.threads, here=True, processes=processes)
        if config.device != "cuda" or config.parallel == "none":
            return
        import torch

        count = torch.cuda.device_count()
        if processes > count:
            raise UserError(
                f"device cuda: {processes} processes on a machine with {count} "
                f"GPU{'s' * (count != 1)}",
                f"use at most {count} --processes on each, or --device cpu",
            )


ONE_NODE = Nodes()


def command(config: RunConfig, nodes: Nodes, worker: Sequence[str]) -> tuple[str, ...]:
    """The program that measures a contender of a run: ``worker``, or an agent for several of it."""
    if config.parallel == "none":
        return tuple(worker)
    group = (json.dumps(asdict(nodes)), str(config.world_size // nodes.count))
    # The runner gives up before a process that waits for another does.
    shared = (config.parallel, str(2 * config.timeout_s))
    return (*START, __name__, *group, *worker, *shared)


def serve(config: RunConfig, nodes: Nodes, tell: Callable[[str], None]) -> None:
    """Run this machine's part of group after group, until the first machine has no more.

    Args:
        config: of the run; the number of processes, how they share it and their threads count.
        nodes: of which this is not the first.
        tell: is told why a group has ended before its time.

    Raises:
        UserError: the first machine is not there.
        KeyboardInterrupt: the user asked to stop.
    """
    program = command(config, nodes, WORKER_COMMAND)
    with Interrupts() as interrupts:
        while True:
            begun = time.monotonic()
            with Worker(program, variables(config.threads), interrupts) as group:
                try:
                    if group.receive()["event"] == "end":
                        return
                    continue
                except RankFailure as failure:
                    tell(failure.cause)
                except WorkerFailure as failure:
                    # It may have met the last group's agent in its last moments.
                    if time.monotonic() - begun >= MEETING_S:
                        problem = f"nobody at {nodes.rendezvous} within {MEETING_S} s"
                        raise UserError(f"{problem}: {failure.cause}") from None
            _wait_for_old_agent(nodes.rendezvous, interrupts)


def _wait_for_old_agent(rendezvous: str, interrupts: Interrupts) -> None:
    """Wait until the failed group's agent on the first machine no longer listens, or for a while.

    The next group's agent would else meet that one, and be counted by the first machine's next one
    before it comes anew: then both wait for each other.
    """
    host, _, port = rendezvous.rpartition(":")
    deadline = time.monotonic() + OLD_AGENT_S
    while time.monotonic() < deadline:
        interrupts.check()
        try:
            socket.create_connection((host, int(port)), timeout=1.0).close()
        except OSError:
            return
        time.sleep(_MONITOR_S)


def release(config: RunConfig, nodes: Nodes) -> None:
    """Let the commands end that serve the run on other machines, as far as they can be reached."""
    if nodes.count == 1:
        return
    program = command(config, nodes, WORKER_COMMAND)
    with (
        Interrupts() as interrupts,
        suppress(WorkerFailure),
        Worker(program, variables(config.threads), interrupts) as group,
    ):
        group.ask({"do": "end"}, MEETING_S)


def main(group: str, processes: str, program: str, *arguments: str) -> None:
    """Run a program in so many processes of this machine, to the end of all."""
    die_with_parent()
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ[PARENT] = str(os.getpid())
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = _SHUTDOWN_S
    nodes, kills = Nodes(**json.loads(group)), oom_kills()
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=nodes.count,
            max_nodes=nodes.count,
            nproc_per_node=int(processes),
            run_id="retbench",
            rdzv_backend="static" if nodes.rendezvous else "c10d",
            rdzv_endpoint=nodes.rendezvous or "localhost:0",
            local_addr=None if nodes.rendezvous else "localhost",
            rdzv_configs={"rank": nodes.rank, "timeout": MEETING_S},
            max_restarts=0,
            monitor_interval=_MONITOR_S,
            logs_specs=DefaultLogsSpecs(logs, redirects=Std.ALL),
        )
        try:
            elastic_launch(config, program)(*arguments)
            _tell("stopped")
        except ChildFailedError as error:
            found = _first_failure(error, Path(logs), kills)
            _tell(DIED, status=found.status, cause=found.cause, presumed=found.presumed)


def _tell(event: str, **fields: object) -> None:
    """Write to the parent, over the socket that the workers have inherited."""
    with suppress(OSError):
        os.write(0, json.dumps({"event": event, **fields}).encode() + b"\n")


def _first_failure(error: ChildFailedError, logs: Path, kills: int | None) -> WorkerFailure:
    """Which rank has failed first, and why: by its own word, or else by how it ended."""
    rank, failure = error.get_first_failure()
    told = failure.error_file_data["message"]
    if isinstance(told, dict):
        return WorkerFailure(told["status"], f"rank {rank}: {told['message']}")
    (log,) = logs.glob(f"*/attempt_0/{failure.local_rank}/stderr.log")
    with log.open("rb") as stderr:
        found = failure_of(failure.exitcode, stderr, kills)
    return WorkerFailure(found.status, f"rank {rank}: {found.cause}", presumed=found.presumed)


if __name__ == "__main__":
    main(*sys.argv[1:])
