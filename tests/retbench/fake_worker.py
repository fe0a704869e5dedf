"""A worker that measures nothing: it speaks the runner's protocol and fails on demand.

What it does stands in the environment: FAKE_WORKER is JSON, ``{"LABEL": {"POINT": action}}``, where
POINT may also be ``start`` and LABEL ``ceilings``; FAKE_WORKER_S is how long a cell takes, and
FAKE_WORKER_LOG a file that gets a line for every request. It imports no third-party package, so
that a test can afford dozens of them.
"""

import contextlib
import json
import os
import signal
import sys
import time

REPLIES = os.fdopen(int(os.environ["RETBENCH_REPLY_FD"]), "w")
ACTIONS = json.loads(os.environ.get("FAKE_WORKER", "{}"))
CELL_S = float(os.environ.get("FAKE_WORKER_S", "0"))

# The shape of what retbench.measure.ceilings.measure gives.
CEILINGS = {
    "device": "cpu", "threads": 1, "elapsed_s": 0.0, "matmul_flop_per_s": {"float32": 1e11},
    "bandwidth": [
        {"working_set_bytes": 2**30, "read_bytes_per_s": 1e10, "copy_bytes_per_s": 1e10}
    ],
}  # fmt: skip


def reply(**message):
    REPLIES.write(json.dumps(message) + "\n")
    REPLIES.flush()


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
    if action == "hang":
        time.sleep(60)
    if action == "hang with a child":
        note(do="spawn", child=os.spawnvp(os.P_NOWAIT, "sleep", ["sleep", "30"]))
        time.sleep(60)
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
    if action == "garbage":
        REPLIES.write("hello\n")
        REPLIES.flush()
    if action == "refuse":
        reply(event="failed", status="error", cause="decoding does not reproduce the forward")


def sample(start, cell, **own):
    configuration = start["configuration"]
    return {
        "suite": configuration["suite"],
        "point": f"context={cell['seq_len']},batch={cell['batch_size']}",
        "model": start["contender"]["label"],
        "preset": configuration["preset"],
        "implementation": "fake",
        "mode": configuration["mode"],
        "phase": "decode",
        "metric": "tpot_s",
        "unit": "s",
        "seq_len": cell["seq_len"],
        "batch_size": cell["batch_size"],
        "dtype": configuration["dtype"],
        "device": configuration["device"],
        "block": start["block"],
        "process": start["process"],
        "trial": 0,
        "value": 0.001,
        "status": "ok",
        "cause": None,
        "flags": [],
    } | own


def measure(start, cell):
    point = f"context={cell['seq_len']},batch={cell['batch_size']}"
    action = ACTIONS.get(start["contender"]["label"], {}).get(point)
    reply(event="phase", phase="decode")
    time.sleep(CELL_S)
    rows = [sample(start, cell, trial=trial) for trial in range(3)]
    if action == "oom":
        reply(event="cell", rows=[], status="oom", cause="asked for 8 GiB", flags=[])
    elif action == "path":
        reply(event="cell", rows=[], status="error", cause="no /home/ada/secret/file.py", flags=[])
    elif action == "foreign rows":
        reply(event="cell", rows=[rows[0] | {"block": 99}], status="ok", cause=None, flags=[])
    elif action == "nan":
        reply(event="cell", rows=[rows[0] | {"value": float("nan")}], status="ok", cause=None)
    else:
        misbehave(action)
        reply(event="cell", rows=rows, status="ok", cause=None, flags=["noisy"])


def main():
    start = None
    for line in sys.stdin:
        message = json.loads(line)
        do = message["do"]
        if do == "start":
            start = message
            label = start["contender"]["label"]
            threads, ceilings = os.environ["OMP_NUM_THREADS"], start["ceilings"]
            note(do=do, model=label, block=start["block"], threads=threads, ceilings=ceilings)
            misbehave(ACTIONS.get(label, {}).get("start"))
            reply(event="ready", model={"family": "fake"}, import_s=0.5, build_s=0.25, gate_s=0.1)
        elif do == "cell":
            cell = message["point"]
            note(do=do, model=start["contender"]["label"], block=start["block"], cell=cell)
            measure(start, cell)
        elif do == "ceilings":
            note(do=do)
            misbehave(ACTIONS.get("ceilings"))
            reply(event="ceilings", ceilings=CEILINGS)
        elif do == "stop":
            return


main()
