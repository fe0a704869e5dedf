"""The real worker process, over its pipes: answers, failures, and its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models import operations, registry
from retbench import suites
from retbench.config.plan import Point
from retbench.config.run import ModelsConfig, RunConfig
from retbench.engine.resolve import resolve
from retbench.engine.runner import WORKER_COMMAND
from retbench.machine.interrupts import Interrupts
from retbench.machine.threads import cpu_threads
from retbench.suites.quality import final_point
from retbench.workers.process import PARENT, Message, Worker
from retbench.workers.worker import prepare_process

TIMEOUT_S = 120.0
Bare = tuple[subprocess.Popen[bytes], socket.socket]
linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ends orphaned workers")


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def configuration(**given: Any) -> RunConfig:
    small = {"preset": "tiny", "context": "64", "batch": "1", "batch_context": 64, "threads": 1}
    return resolve("inference", **({"profile": "smoke", "new_tokens": 2} | small | given))


PLUGINS = {
    "wrong_kernel": """
from contextlib import nullcontext
from models import operations
def mix(q, k, v):
    scores = (q @ k.mT / q.shape[3] ** 0.5).masked_fill(
        q.new_ones(q.shape[2], q.shape[2]).triu(1).bool(), float("-inf"))
    return scores.softmax(-1) @ v / (q.shape[2] <= 256)
operations.register(operations.Operation(
    "wrong-kernel", "attention", lambda case: None, lambda case: nullcontext(mix)))
""",
    "wrong_length": """
from dataclasses import dataclass
from models import register
from models.family.transformer import TransformerConfig
from models.mixers.multihead import Attention
@register("wrong-length")
@dataclass(frozen=True)
class WrongLengthConfig(TransformerConfig):
    def mixer(self):
        return WrongLength(self)
class WrongLength(Attention):
    def forward(self, x, shared):
        return super().forward(x, shared) / (x.shape[1] != 128)
""",
}
"""Plugins that are right where they are verified, and infinite or NaN at some length."""


def start(
    config: RunConfig, family: str = "retnet", *, block: int = 1, verify: bool = True
) -> Message:
    options = config.overrides_for(family) if isinstance(config, ModelsConfig) else {}
    return {
        "do": "start",
        "configuration": config.to_json(),
        "contender": {"label": "A", "family": family, "options": options},
        "block": block,
        "process": 7,
        "data": suites.get(config.suite).data(config),
        "ceilings": None,
        "verify": verify,
    }


def prepare(seq_len: int, batch_size: int, *, verify: bool = True) -> Message:
    point = Point(seq_len, batch_size).to_json()
    return {"do": "prepare", "point": point, "brief": {}, "companions": 0, "verify": verify}


def timed(phase: str, number: int) -> Message:
    return {"do": "slice", "phase": phase, "round": number}


def test_a_library_that_the_memory_limit_keeps_out_is_out_of_memory(worker: Worker) -> None:
    reply = answer(worker, start(configuration(memory_limit_gib=0.001)))
    assert (reply["event"], reply["status"]) == ("failed", "oom"), reply


@linux
def test_a_worker_whose_parent_ended_before_it_began_does_nothing() -> None:
    variables = environment() | {PARENT: str(os.getpid() + 1)}
    ended = subprocess.run(
        WORKER_COMMAND, env=variables, input=b'{"do": "ceilings"}\n', capture_output=True,
        timeout=TIMEOUT_S,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


@pytest.fixture
def worker() -> Iterator[Worker]:
    yield from running_worker()


@pytest.fixture(scope="module")
def lasting() -> Iterator[Worker]:
    """A worker that does for several tests: each starts it anew."""
    yield from running_worker()


def running_worker() -> Iterator[Worker]:
    with Interrupts() as interrupts, Worker(WORKER_COMMAND, environment(), interrupts) as running:
        yield running


def answer(worker: Worker, message: Message) -> Message:
    reply = worker.ask(message, TIMEOUT_S)
    while reply["event"] == "phase":
        reply = worker.receive()
    return reply


def test_a_plugin_that_sets_threads_leaves_a_worker_its_own(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import torch\ntorch.set_num_threads(1)\n")
    config = replace(configuration(), threads=2, plugins=(str(tmp_path / "slow.py"),))
    with cpu_threads(3):
        prepare_process(config)
        assert torch.get_num_threads() == 2


def test_a_worker_builds_verifies_and_measures_slice_by_slice(lasting: Worker) -> None:
    ready = answer(lasting, start(configuration()))
    assert ready["event"] == "ready"
    assert ready["model"]["family"] == "retnet"
    assert 0 <= ready["gate_error"] < 1e-4
    prepared = answer(lasting, prepare(64, 1))
    assert prepared == {"event": "prepared", "phases": ["prefill", "decode", "generation"]}
    for phase, number in (("prefill", 0), ("prefill", 1), ("decode", 0)):
        assert answer(lasting, timed(phase, number)) == {"event": "slice"}
    reply = answer(lasting, {"do": "finish"})
    assert (reply["event"], reply["status"]) == ("cell", "ok")
    coordinates = {(row["model"], row["block"], row["process"]) for row in reply["rows"]}
    assert coordinates == {("A", 1, 7)}
    rounds = [(row["metric"], row["trial"]) for row in reply["rows"] if row["trial"] is not None]
    assert rounds == [("ttft_s", 0), ("ttft_s", 1), ("tpot_s", 0)]


def test_a_later_process_is_timed_alone(lasting: Worker) -> None:
    """What others have verified, and whose memory they have read, is neither in a third block."""
    for block, verify in ((1, True), (2, False)):
        ready = answer(lasting, start(configuration(), block=block, verify=verify))
        assert (ready["gate_error"] is not None) is verify
        answer(lasting, prepare(64, 1, verify=verify))
        answer(lasting, timed("prefill", 0))
        rows = answer(lasting, {"do": "finish"})["rows"]
        found = {row["metric"] for row in rows}
        assert ("step_error" in found) is verify
        assert ("decode_peak_bytes" in found) is (block < 2)
        assert {"state_bytes", "ttft_s"} <= found


def test_a_worker_that_is_asked_out_of_turn_says_so_and_lives(lasting: Worker) -> None:
    answer(lasting, start(configuration()))
    for message in (timed("decode", 0), {"do": "finish"}):
        reply = answer(lasting, message)
        assert (reply["event"], reply["status"]) == ("cell", "error")
        assert "before a cell was prepared" in reply["cause"]
    assert answer(lasting, prepare(64, 1))["event"] == "prepared"


def test_a_cell_beyond_the_memory_limit_is_out_of_memory_and_the_worker_lives(
    worker: Worker,
) -> None:
    answer(worker, start(configuration(memory_limit_gib=0.25), "transformer"))
    reply = answer(worker, prepare(64, 16384))
    assert (reply["event"], reply["status"]) == ("cell", "oom"), reply
    assert "memory" in reply["cause"]
    assert answer(worker, prepare(64, 1))["event"] == "prepared"


def test_a_model_that_cannot_be_built_is_reported_with_its_cause(lasting: Worker) -> None:
    message = start(configuration())
    message["contender"]["options"] = {"n_heads": 7}
    reply = answer(lasting, message)
    assert (reply["event"], reply["status"]) == ("failed", "unsupported")
    assert reply["cause"].startswith("n_heads = 7 does not divide")


def test_a_kernel_that_cannot_run_here_is_unsupported_not_an_error(lasting: Worker) -> None:
    message = start(configuration(dtype="float64"))
    message["contender"]["options"] = {"implementation": "triton"}
    reply = answer(lasting, message)
    assert (reply["event"], reply["status"]) == ("failed", "unsupported")
    assert reply["cause"].startswith("implementation triton: ")


def test_ceilings_are_measured_in_a_worker(lasting: Worker) -> None:
    reply = answer(lasting, {"do": "ceilings", "configuration": configuration().to_json()})
    assert reply["ceilings"]["matmul_flop_per_s"]["float32"] > 1e8
    assert reply["ceilings"]["bandwidth"]


@pytest.fixture
def plugin(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    operations.names(), registry.families()  # which are found but once
    for module, known in ((operations, "_OPERATIONS"), (registry, "_FAMILIES")):
        monkeypatch.setattr(module, known, dict(getattr(module, known)))
    file = tmp_path / f"{request.param}.py"
    file.write_text(PLUGINS[request.param])
    return str(file)


@pytest.mark.parametrize("plugin", ["wrong_kernel"], indirect=True)
def test_an_error_that_is_no_number_fails_its_cell_by_name(worker: Worker, plugin: str) -> None:
    config = resolve(
        "kernels", operations="wrong-kernel", plugins=[plugin], context=512, batch=1, head_dims=16,
        directions="forward", profile="smoke", threads=1, device="cpu",
    )  # fmt: skip
    point = suites.get("kernels").plan(config).points[0].to_json()
    assert answer(worker, start(config, "wrong-kernel"))["event"] == "ready"
    reply = answer(worker, prepare(512, 1) | {"point": point})
    assert (reply["event"], reply["status"]) == ("cell", "error")
    assert reply["cause"].startswith(("relative error nan against", "relative error inf against"))
    (row,) = [row for row in reply["rows"] if row["metric"] == "kernel_error"]
    assert (row["value"], row["status"], row["flags"]) == (None, "error", ["not_finite"])
    assert row["cause"].removeprefix("kernel_error is ") in ("nan", "inf")


@pytest.mark.parametrize("plugin", ["wrong_length"], indirect=True)
def test_a_test_that_is_no_number_leaves_the_training_its_others(
    worker: Worker, plugin: str
) -> None:
    config = resolve(
        "perplexity", models="wrong-length", plugins=[plugin], context=32, batch=2, steps=2,
        lr="1e-3", preset="tiny", profile="smoke", threads=1, device="cpu",
    )  # fmt: skip
    ready = answer(worker, start(config, "wrong-length"))
    assert ready["event"] == "ready", ready
    asked = prepare(32, 2) | {"brief": {"steps": 2, "learning_rate": 1e-3}}
    answer(worker, asked | {"point": final_point(config, ()).to_json()})
    reply = answer(worker, {"do": "finish"})
    assert (reply["status"], reply["flags"]) == ("ok", ["not_finite"])
    tests = [row for row in reply["rows"] if row["metric"] == "test_nats"]
    assert {row["seq_len"] for row in tests if row["value"] is None} == {128}
    assert {row["seq_len"] for row in tests if row["value"] is not None} == {16, 32, 64, 256}


@pytest.fixture
def bare() -> Iterator[Bare]:
    """A worker process without the runner's side of it, and the socket to it."""
    ours, theirs = socket.socketpair()
    with ours, subprocess.Popen(WORKER_COMMAND, stdin=theirs, env=environment()) as process:
        theirs.close()
        yield process, ours
        process.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def is_set_up(pid: int) -> bool:
    """Whether a worker has arranged how it ends: it volunteers for the OOM killer last."""
    return Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"


@linux
def test_a_worker_leaves_ctrl_c_to_its_parent(
    bare: Bare,
) -> None:
    process, _ = bare
    wait_until(lambda: is_set_up(process.pid))
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)


def test_a_worker_ends_when_its_socket_closes(
    bare: Bare,
) -> None:
    process, ours = bare
    ours.close()
    assert process.wait(TIMEOUT_S) == 0


@linux
def test_a_worker_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    # The worker shares its parent's stdin, whose other end stays open here: nothing but the
    # parent's death can end it.
    program = (
        "import subprocess, time\n"
        f"worker = subprocess.Popen({WORKER_COMMAND})\n"
        f"open({str(note)!r}, 'w').write(f'{{worker.pid}}\\n')\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program]
    ours, theirs = socket.socketpair()
    with ours, theirs, subprocess.Popen(command, stdin=theirs, env=environment()) as parent:
        wait_until(lambda: note.exists() and note.read_text().endswith("\n"))
        worker = int(note.read_text())
        wait_until(lambda: is_set_up(worker))
        parent.kill()
        wait_until(lambda: not Path(f"/proc/{worker}").exists() or is_zombie(worker))


def is_zombie(pid: int) -> bool:
    """Whether a process has ended and waits for somebody to reap it, as an orphan may."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
