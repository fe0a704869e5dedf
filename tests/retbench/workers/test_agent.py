"""``retbench run --parallel``: one parent, and a worker for each rank under PyTorch's agent."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from retbench import report, suites, workers
from retbench.cli import app
from retbench.config.run import RunConfig
from retbench.engine.resolve import resolve
from retbench.errors import Misfit, UserError
from retbench.machine import host
from retbench.machine.interrupts import Interrupts
from retbench.store import Run, open_run
from retbench.workers import agent
from retbench.workers.agent import Nodes
from retbench.workers.process import Message, Worker, WorkerFailure

from ...forked_workers import forked_agents

Ended = subprocess.CompletedProcess[str]
LIMIT_S = 400.0
BRIEF = (str(Path(__file__).parents[2] / "brief.py"),)
KINDS = ("ddp", "fsdp")
SMALL, BASE = "context=32,batch=2", "context=32,batch=4"
LOADER, ALONE = f"part=loader,{BASE}", f"processes=1,{BASE}"

# A Transformer whose training goes wrong as the environment says, for a batch and a rank:
# "4@1:kill" kills rank 1 where it has 4 of the sequences.
MORTAL = """
import os
import signal
import sys
from dataclasses import dataclass
from models.registry import register
from models.family.transformer import TransformerConfig
from models.mixers.multihead import Attention

HOW = dict(item.split(":") for item in os.environ.get("DIES", "").split(",") if item)

class Mortal(Attention):
    def forward(self, x, shared):
        how = HOW.get(f"{len(x)}@{os.environ['RANK']}") if self.training else None
        if how == "oom":
            raise MemoryError("asked for 8 GiB")
        if how == "exit":
            sys.stderr.write("RuntimeError: in kernel.py")
            sys.stderr.flush()
            os._exit(3)
        if how:
            os.kill(os.getpid(), getattr(signal, how))
        return super().forward(x, shared)

@register("mortal")
@dataclass(frozen=True)
class MortalConfig(TransformerConfig):
    def mixer(self):
        return Mortal(self)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: with a text, and a model that dies when it is told to."""
    folder = tmp_path_factory.mktemp("agent")
    lines = (f"the {'quick' if n % 3 else 'slow'} fox jumps {n % 7} times\n" for n in range(1000))
    (folder / "input.txt").write_text("".join(lines))
    (folder / "mortal.py").write_text(MORTAL)
    return folder


def words(out: str, batch: str, kind: str = "ddp", *more: str) -> list[str]:
    return [
        "run", "--suite", "training", "--models", "mortal", "--plugin", "mortal.py", "--variants",
        "", "--preset", "tiny", "--context", "32", "--batch", batch, "--batch-context", "32",
        "--tokens-per-step", "128", "--activations", "kept", "--modes", "eager", "--profile",
        "smoke", "--threads", "1", "--device", "cpu", "--data", "input.txt", "--tokenizer",
        "byte", "--parallel", kind, "--processes", "2", "--out", out, *more,
    ]  # fmt: skip


def environment(dies: str = "") -> dict[str, str]:
    path = os.pathsep.join(sys.path)
    return os.environ | {"DIES": dies, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def _imported() -> None:
    """What the forks would each import; torch's compiler is what an optimizer asks for."""
    for name in ("torch._dynamo", "retbench.distributed.torch_group"):
        importlib.import_module(name)


@pytest.fixture
def _forks(_imported: None) -> Iterator[None]:
    with forked_agents():
        yield


def begin(folder: Path, line: list[str], dies: str = "", *program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *(program or BRIEF), *line],
        cwd=folder, env=environment(dies), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def left(folder: Path) -> list[int]:
    """The other processes that are in a folder and have not ended."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink() == folder and process.name != str(os.getpid()):
                found.append(int(process.name))
    return found


def unused_port() -> int:
    """One that nobody listens on, and that the kernel gives to no connection meanwhile."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise AssertionError("every port is taken")


@pytest.fixture(scope="module")
def ended(folder: Path, _imported: None) -> dict[str, Ended]:
    """Runs side by side, in which ranks misbehave: one of one machine, one of two."""
    address = f"127.0.0.1:{unused_port()}"
    machines = [
        ["--nodes", "2", "--node-rank", str(rank), "--rendezvous", address] for rank in range(2)
    ]
    commands = {
        "fsdp": (
            words("fsdp", "2,6,10,12", "fsdp"),
            "3@1:exit,5@1:oom",
            "-m",
            "retbench",
        ),
        "ddp": (words("ddp", "2,6", "ddp", *machines[0]),),
        "second": (words("second", "2,6", "ddp", *machines[1]), "3@1:SIGKILL"),
    }
    found = {}
    with forked_agents(), ExitStack() as stack:
        running = {}
        for name, command in commands.items():
            running[name] = stack.enter_context(begin(folder, *command))
            stack.callback(running[name].kill)
        for name, process in running.items():
            texts = process.communicate(timeout=LIMIT_S)
            found[name] = Ended(process.args, process.returncode, *texts)
    return found


@pytest.fixture(scope="module")
def runs(folder: Path, ended: dict[str, Ended]) -> dict[str, Run]:
    return {name: open_run(folder / name) for name in KINDS}


def endings(run: Run) -> dict[str, tuple[str, str | None]]:
    return {point: (row["status"], row["cause"]) for (_, _, point), row in run.endings.items()}


def value(run: Run, point: str, metric: str) -> float:
    """The median of a metric's samples at a point."""
    frame = run.frame()
    found = frame.loc[(frame["point"] == point) & (frame["metric"] == metric), "value"]
    assert len(found) and (found > 0).all()
    return float(found.median())


SOUND = dict.fromkeys((SMALL, BASE, LOADER, ALONE), ("ok", None))


def test_all_ranks_measure_one_run_and_leave_no_process(
    folder: Path, ended: dict[str, Ended], runs: dict[str, Run]
) -> None:
    assert (ended["fsdp"].returncode, ended["fsdp"].stderr) == (0, "")
    assert (folder / "fsdp" / "tables" / "processes.md").read_text().startswith("## Gain by 2")
    assert runs["fsdp"].meta["configuration"]["world_size"] == 2
    frame = runs["fsdp"].frame()
    assert not frame[frame["metric"] == "step_s"].duplicated(["point", "trial"]).any()
    assert left(folder) == []


def test_a_rank_that_fails_costs_its_cell_and_is_named(runs: dict[str, Run]) -> None:
    assert endings(runs["fsdp"]) == SOUND | {
        "context=32,batch=6": ("error", "rank 1: exit status 3: RuntimeError: in kernel.py"),
        "context=32,batch=10": ("oom", "rank 1: MemoryError: asked for 8 GiB"),
        "context=32,batch=12": ("oom_implied", "out of memory at context=32,batch=10 in block 0"),
    }


def test_another_machine_serves_to_the_end_and_tells_of_its_ranks(
    folder: Path, ended: dict[str, Ended], runs: dict[str, Run]
) -> None:
    first, second = ended["ddp"], ended["second"]
    assert [(each.returncode, each.stderr) for each in (first, second)] == [(0, "")] * 2
    found = endings(runs["ddp"])
    assert found.items() >= SOUND.items()
    status, cause = found["context=32,batch=6"]
    assert status == "error" and "the connection to one has failed" in str(cause)
    killed = "rank 1: killed by signal 9"
    assert second.stdout.startswith(killed)
    assert not (folder / "second").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_of_the_whole_batch_and_its_bytes_are_of_one_process(
    runs: dict[str, Run], kind: str
) -> None:
    run, whole = runs[kind], runs["ddp"]
    assert value(run, BASE, "step_flops") == 2 * value(run, SMALL, "step_flops")
    share = {"ddp": 1.0, "fsdp": 0.5}[kind]
    for metric in ("weights_bytes", "gradients_bytes"):
        expected = share * value(whole, BASE, metric)
        assert value(run, BASE, metric) == pytest.approx(expected, rel=0.05)
    # What is kept for the backward is of the rows of one process, in either kind.
    kept = value(run, BASE, "activations_bytes")
    assert kept == value(whole, BASE, "activations_bytes")
    assert kept == pytest.approx(2 * value(run, SMALL, "activations_bytes"), rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_says_what_the_processes_gain(runs: dict[str, Run], kind: str) -> None:
    run = runs[kind]
    content = report.content_of(run)
    tables = {table.name: table for table in content.tables}
    (row,) = tables["processes"].frame.to_dict("records")
    alone, together = value(run, ALONE, "step_s"), value(run, BASE, "step_s")
    assert row["value"] == pytest.approx(alone / (2 * together), rel=1e-9)
    assert (row["model"], row["point"], row["processes"]) == ("mortal", BASE, 2)
    assert any("2 processes make a step of mortal" in finding for finding in content.findings)
    figures = tables["steps"].frame.set_index(["point", "metric"])["value"]
    rate = 128 / together
    assert figures[BASE, "step_tokens_per_s"] == pytest.approx(rate, rel=1e-9)
    assert figures[BASE, "process_tokens_per_s"] == pytest.approx(rate / 2, rel=1e-9)
    assert not any("processes" in row["point"] for row in tables["steps"].rows or ())
    assert f"2 processes ({kind})" in content.stamp[0]


@pytest.mark.usefixtures("_forks")
def test_a_ctrl_c_ends_all_processes_and_the_run_continues_by_its_folder(folder: Path) -> None:
    with begin(folder, words("stopped", "2,8")) as process:
        wait_until(lambda: len(left(folder)) >= 4)  # the command, the agent and two workers
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130 and left(folder) == []
    assert err.endswith("retbench run --resume --out stopped\n"), out


# One group, as the runner has it.


@pytest.fixture
def configuration(folder: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.chdir(folder)
    return resolve(
        "training", models="mortal", plugins=["mortal.py"], preset="tiny", context="32",
        batch="2", batch_context=32, tokens_per_step=128, threads=1, device="cpu",
        data="input.txt", tokenizer="byte", parallel="ddp", world_size=2, profile="smoke",
    )  # fmt: skip


@pytest.fixture
def group(
    folder: Path, configuration: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Worker]:
    for name, setting in environment("1@1:SIGSTOP").items():
        monkeypatch.setenv(name, setting)
    program = agent.command(configuration, agent.ONE_NODE, workers.WORKER_COMMAND)
    with Interrupts() as interrupts, Worker(program, workers.variables(1), interrupts) as running:
        yield running


def start(config: RunConfig) -> Message:
    contender, *_ = suites.get("training").plan(config).contenders
    return {
        "do": "start", "configuration": config.to_json(), "contender": contender.to_json(),
        "block": 0, "process": 0, "data": suites.get("training").data(config), "ceilings": None,
        "verify": True,
    }  # fmt: skip


def test_a_rank_that_hangs_is_not_waited_for_and_ends(
    folder: Path, group: Worker, configuration: RunConfig
) -> None:
    assert group.ask(start(configuration), LIMIT_S)["event"] == "ready"
    point = next(p for p in suites.get("training").plan(configuration).points if p.id == SMALL)
    prepare = {
        "do": "prepare", "point": point.to_json(), "brief": {}, "companions": 0, "verify": True,
    }  # fmt: skip
    assert group.ask(prepare, LIMIT_S)["event"] == "phase"
    with pytest.raises(WorkerFailure, match="not done within 2 s"):
        group.send({"do": "finish"}, 2.0)
        while True:
            group.receive()
    group.kill()
    assert left(folder) == []


@pytest.mark.usefixtures("_forks")
def test_all_die_with_a_parent_that_is_killed(folder: Path, group: Worker) -> None:
    wait_until(lambda: len(left(folder)) == 3)
    os.kill(group._process.pid, signal.SIGKILL)  # whose children the workers are
    wait_until(lambda: left(folder) == [] or left(folder) == [group._process.pid])


# What is refused.


def refused(**asked: object) -> str:
    with pytest.raises(Misfit) as caught:
        resolve("training", device="cpu", **asked)
    return str(caught.value)


@pytest.mark.parametrize("listens", [True, False])
def test_the_next_group_is_not_begun_while_the_failed_ones_agent_listens(
    monkeypatch: pytest.MonkeyPatch, listens: bool
) -> None:
    slept: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as old, Interrupts() as interrupts:
        rendezvous = f"127.0.0.1:{old.getsockname()[1]}"
        if not listens:
            old.close()

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 3:
                old.close()

        monkeypatch.setattr(agent.time, "sleep", sleep)
        agent._wait_for_old_agent(rendezvous, interrupts)
    assert len(slept) == (3 if listens else 0)


def test_processes_and_how_they_share_go_together() -> None:
    assert refused(parallel="ddp").startswith("processes: 1 with --parallel ddp is no way to share")
    assert refused(world_size=2).startswith("processes: 2 with --parallel none")
    shared = {"parallel": "ddp", "world_size": 2}
    assert refused(**shared, batch="3").startswith(
        "batch: 3 sequences cannot be shared equally by 2 processes; use multiples of 2"
    )


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        (Nodes(2, 2, "host:1"), "nodes: 2 with --node-rank 2"),
        (Nodes(2), "--rendezvous missing"),
        (Nodes(3, 0, "host:1"), "processes: 2 cannot be shared equally by 3 machines"),
    ],
)
def test_machines_that_are_no_group_are_refused(
    configuration: RunConfig, nodes: Nodes, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        nodes.check(configuration)


def test_the_threads_of_all_processes_of_a_machine_are_held_to_its_processors(
    configuration: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "granted_cores", lambda: 2)
    two = replace(configuration, threads=2)
    Nodes(2, 0, "host:1").check(two)
    with pytest.raises(UserError, match="threads: 2 in each of 2 processes are more than the 2"):
        agent.ONE_NODE.check(two)


def test_under_torchrun_it_names_the_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, setting in {
        "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, setting)
    with pytest.raises(SystemExit) as ended:
        app.main(["run", "--suite", "training"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    assert "torchrun has started 2 processes" in said and "with --processes 2" in said


def test_defaults_are_those_that_the_processes_can_share() -> None:
    config = resolve("training", parallel="ddp", world_size=2, device="cpu", threads=1)
    assert (config.world_size, config.batch) == (2, (4,))
    assert config.context == (512, 1024)
    points = [point.id for point in suites.get("training").plan(config).points]
    assert [point for point in points if "processes" in point] == [
        "processes=1,context=512,batch=4"
    ]
