"""A worker that measures nothing: it speaks the runner's protocol and fails on demand.

What it does stands in the environment: FAKE_WORKER is JSON, ``{"LABEL": {"POINT": action}}``. An
action befalls a cell while it is prepared; ``"POINT slice 1"`` names a moment of its own: the slice
of round 1, or ``finish``. POINT may also be ``start``, and LABEL ``ceilings``. FAKE_WORKER_S is how
long a cell takes at least, and FAKE_WORKER_LOG a file that gets a line for every request when it
comes and, but for starts, another when it is done. It imports no third-party package, so that a
test can afford dozens of them.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import time
from functools import partial

PARENT = socket.socket(fileno=os.dup(0)).makefile("rw")
ACTIONS = json.loads(os.environ.get("FAKE_WORKER", "{}"))
HANG_S = 600  # longer than any test waits
MODEL = {
    "family": "fake", "preset": "tiny", "config": {}, "parameters": 1, "parameters_embedding": 0
}  # fmt: skip
CELL_S = float(os.environ.get("FAKE_WORKER_S", "0"))

# The shape of what retbench.machine.ceilings.measure gives.
CEILINGS = {
    "device": "cpu", "threads": 1, "elapsed_s": 0.0, "matmul_flop_per_s": {"float32": 1e11},
    "bandwidth": [
        {"working_set_bytes": 2**30, "read_bytes_per_s": 1e10, "copy_bytes_per_s": 1e10}
    ],
}  # fmt: skip

SENSELESS = {
    "no model": {"model": None},
    "half a model": {"model": {"family": "fake"}},
    "a text for seconds": {"import_s": "x"},
}
"""Of what a worker says when it is ready."""

RAW = {
    "garbage": "hello",
    "nested": "[" * 100_000,
    "half a death": '{"event": "died"}',
    "half a character": '{"event": "cell", "status": "error", "cause": "\\udcff"}',
    "an endless number": '{"event": "cell", "status": ' + "9" * 5000 + "}",
}
"""Lines that no worker says."""


def reply(**message):
    PARENT.write(json.dumps(message) + "\n")
    PARENT.flush()


def note(**request):
    if "FAKE_WORKER_LOG" in os.environ:
        line = json.dumps({"pid": os.getpid(), **request}) + "\n"
        descriptor = os.open(os.environ["FAKE_WORKER_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode())
        os.close(descriptor)


def misbehave(action):
    if action == "crash":
        print("Traceback (most recent call last):\nRuntimeError: in /some/folder/kernel.py")
        sys.exit(3)
    if action == "memory":
        sys.exit("MemoryError: 8 GiB")
    if action == "no thread":
        sys.exit("libgomp: Thread creation failed: Resource temporarily unavailable")
    if action == "hang":
        note(do="hang")
        time.sleep(HANG_S)
    if action == "hang with a child":
        note(do="spawn", child=os.spawnvp(os.P_NOWAIT, "sleep", ["sleep", str(HANG_S)]))
        note(do="hang")
        time.sleep(HANG_S)
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action in ("kill the job", "interrupt the job"):
        os.kill(os.getppid(), signal.SIGINT if action.startswith("int") else signal.SIGKILL)
    if action == "kill the job once":
        with contextlib.suppress(FileExistsError):
            os.close(os.open(os.environ["FAKE_WORKER_LOG"] + ".once", os.O_CREAT | os.O_EXCL))
            os.kill(os.getppid(), signal.SIGKILL)
    if action == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if action in RAW:
        PARENT.write(RAW[action] + "\n")
        PARENT.flush()
    if action == "talk without end":
        while True:
            PARENT.write("x" * 65536)
    if action == "tell phases without end":
        note(do="hang")
        while True:
            reply(event="phase", phase="warm-up")
    if action == "refuse":
        reply(event="failed", status="error", cause="decoding does not reproduce the forward")


class Cell:
    """A cell from its preparation on, its samples as they come."""

    def __init__(self, start, point, companions):
        self.start, self.point, self.companions = start, point, companions
        self.rows = []

    def do(self, what, answer, moment=None, **about):
        """What a request asks for, or what is to go wrong in its place."""
        about = {"model": self.start["contender"]["label"], "block": self.start["block"], **about}
        note(do=what, cell=self.point, companions=self.companions, **about)
        named = f"context={self.point['seq_len']},batch={self.point['batch_size']}"
        key = named if moment is None else f"{named} {moment}"
        time.sleep(CELL_S / 8)  # of a cell's five requests
        failing = self.failure(ACTIONS.get(about["model"], {}).get(key), about["model"])
        note(do=f"{what} done", **about)
        reply(**(failing or answer()))

    def failure(self, action, label):
        """The reply in which an action ends the cell; None where it does not."""
        row = self.sample(trial=0)
        bad = {
            "oom": {"rows": [], "status": "oom", "cause": "asked for 8 GiB"},
            "oom beside others": {"rows": [], "status": "oom", "cause": "asked for 8 GiB"},
            "path": {"rows": [], "status": "error", "cause": "no /home/ada/secret/file.py"},
            "foreign rows": {"rows": [row | {"block": 99}], "status": "ok", "cause": None},
            "no rows": {"rows": 5, "status": "ok", "cause": None},
            "no flags": {"rows": [], "status": "ok", "cause": None, "flags": 5},
            "a far index": {"rows": [row | {"index": 10**18 * 30}], "status": "ok", "cause": None},
            "nan": {"rows": [row | {"value": float("nan")}], "status": "ok", "cause": None},
            "no phases": {"event": "prepared"},
        }
        if action in bad and not (action.endswith("others") and self.companions == 0):
            return {"event": "cell", "flags": [], **bad[action]}
        misbehave(action)
        return None

    def prepared(self):
        reply(event="phase", phase="warm-up")
        return {"event": "prepared", "phases": ["decode"]}

    def sliced(self, trial):
        self.rows.append(self.sample(trial=trial))
        return {"event": "slice"}

    def finished(self):
        return {
            "event": "cell", "rows": self.rows, "status": "ok", "cause": None, "flags": ["noisy"],
        }  # fmt: skip

    def sample(self, **own):
        start, point, configuration = self.start, self.point, self.start["configuration"]
        return {
            "suite": configuration["suite"],
            "point": f"context={point['seq_len']},batch={point['batch_size']}",
            "model": start["contender"]["label"],
            "preset": configuration["preset"],
            "implementation": "fake",
            "mode": configuration["mode"],
            "phase": "decode",
            "metric": "tpot_s",
            "unit": "s",
            "seq_len": point["seq_len"],
            "batch_size": point["batch_size"],
            "dtype": configuration["dtype"],
            "device": configuration["device"],
            "block": start["block"],
            "process": start["process"],
            "trial": None,
            "index": None,
            "value": 0.001,
            "status": "ok",
            "cause": None,
            "flags": [],
        } | own


def begin(start):
    label = start["contender"]["label"]
    threads, ceilings = os.environ["OMP_NUM_THREADS"], start["ceilings"]
    about = {"threads": threads, "ceilings": ceilings, "verify": start["verify"]}
    note(do="start", model=label, block=start["block"], **about)
    misbehave(ACTIONS.get(label, {}).get("start"))
    ready = {"model": MODEL, "import_s": 0.5, "build_s": 0.25, "gate_s": 0.1}
    reply(event="ready", **(ready | SENSELESS.get(ACTIONS.get(label, {}).get("start"), {})))


def main():
    start = cell = None
    for line in PARENT:
        message = json.loads(line)
        do = message["do"]
        if do == "start":
            start = message
            begin(start)
        elif do == "prepare":
            cell = Cell(start, message["point"], message["companions"])
            cell.do("prepare", cell.prepared, verify=message["verify"])
        elif do == "slice":
            number = message["round"]
            sliced = partial(cell.sliced, number)
            cell.do("slice", sliced, f"slice {number}", phase=message["phase"], round=number)
        elif do == "finish":
            cell.do("finish", cell.finished, "finish")
        elif do == "ceilings":
            note(do=do)
            misbehave(ACTIONS.get("ceilings"))
            reply(event="ceilings", ceilings=CEILINGS)
        elif do == "stop":
            return


main()
