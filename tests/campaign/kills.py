"""Runs that are stopped again and again, and resumed: is a cell lost, doubled, or another one?

    python tests/campaign/kills.py SUITE [STOPS [SIGKILL or SIGINT]]

SUITE is inference, training, perplexity or train. Each chain begins a small run, sends the signal
to its whole process group at a random moment, resumes it, stops that, five times, and lets it end.
All cells must be there once. Of the trainings the losses must be those of one that nobody
disturbed, to the last bit. A Ctrl-C (SIGINT) strikes the command as users call it, from its first
imports to its last plot, and must end it in one line and status 130; how long the slowest end took
is printed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from retbench.errors import EXIT_INTERRUPTED

ROOT = Path(__file__).parents[2]
EACH = 5  # stops of a chain
PROGRAMS = {"SIGKILL": [str(ROOT / "tests" / "brief.py")], "SIGINT": ["-m", "retbench"]}
MODELS = ["--models", "retnet,transformer", "--preset", "tiny", "--profile", "smoke"]
TEXT = ["--context", "32", "--batch", "2", "--steps", "40", "--lr", "1e-3,4e-3"]
RUNS: dict[str, list[str]] = {
    "inference": ["run", "inference", *MODELS, "--context", "32,64", "--batch", "1,2",
                  "--batch-context", "32", "--new-tokens", "4"],
    "training": ["run", "training", *MODELS, "--context", "32,64", "--batch", "1"],
    "perplexity": ["run", "perplexity", *MODELS, *TEXT],
    "train": ["train", "--preset", "tiny", "--steps", "1000", "--eval-every", "50", "--batch", "2",
              "--context", "64", "--tokenizer", "char"],
}  # fmt: skip


def main(suite: str, stops: int, name: str) -> None:
    """Stop, resume, compare; one line of figures, and status 1 where something was wrong."""
    rng, number = random.Random(suite), signal.Signals[name]
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        began = time.monotonic()
        command(suite, whole, name).wait()
        took_s = time.monotonic() - began
        expected, wrong, done, chains, slowest_s = record(suite, whole), 0, 0, 0, 0.0
        while done < stops:
            out = Path(folder) / f"chain-{chains}"
            faults = []
            for _ in range(EACH):
                process = command(suite, out, name, stderr=subprocess.PIPE)
                time.sleep(rng.uniform(0.1, 1.0) * took_s / 2)
                if process.poll() is not None:  # it was done sooner
                    break
                os.killpg(process.pid, number)
                stopped = time.monotonic()
                said = process.communicate()[1].decode()
                if process.returncode == 0:  # all was done when the signal came
                    break
                slowest_s = max(slowest_s, time.monotonic() - stopped)
                if number == signal.SIGINT and not _ended_well(process.returncode, said):
                    faults.append(f"status {process.returncode}: {said[-300:]!r}")
                done += 1
            else:
                process = command(suite, out, name)
            process.wait()  # which may be told that all was done already
            if record(suite, out) != expected:
                faults.append("another one after it")
            wrong += bool(faults)
            chains += 1
            print(f"chain {chains}: {faults or 'as undisturbed'}", flush=True)
    print(f"{suite}: {done} {name} in {chains} chains, {wrong} wrong, ends in {slowest_s:.1f} s")
    sys.exit(wrong > 0)


def _ended_well(status: int, said: str) -> bool:
    """Whether a Ctrl-C ended in one line and its status."""
    lines = [line for line in said.splitlines() if line.startswith("retbench: error:")]
    # Where it struck code that was given to exec(), Python ends itself by the signal: shells call
    # that 130, too.
    known = status in (EXIT_INTERRUPTED, -signal.SIGINT)
    return known and len(lines) == 1 and "Traceback" not in said


def command(
    suite: str, out: Path, name: str = "SIGKILL", stderr: int | None = None
) -> subprocess.Popen[bytes]:
    """The run begun, or continued where there is one, in a process group of its own."""
    known = (out / "run.json").exists() or (out / "training.json").exists()
    words = RUNS[suite] if not known else [RUNS[suite][0]]
    line = [sys.executable, *PROGRAMS[name], *words, "--out", str(out)]
    line += ["--resume"] if known else ["--device", "cpu", "--threads", "1"]
    return subprocess.Popen(
        line, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
        stderr=stderr, start_new_session=True,
        # What a shell starts in the background ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def record(suite: str, out: Path) -> object:
    """What must be equal: a run's cells, and of trainings their losses."""
    if suite == "train":
        told = json.loads((out / "training.json").read_text())
        losses = [(row["step"], row["train_loss"], row["dev_loss"]) for row in told["records"]]
        weights = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
        return told["state"], losses, weights
    from retbench import open_run

    run = open_run(out)
    if run.meta["state"] != "finished":
        return None
    frame = run.frame()
    ended = frame[frame["phase"] == "cell"]
    cells = sorted(zip(ended["block"], ended["model"], ended["point"], strict=True))
    losses = frame[frame["metric"].astype(str).str.endswith("_loss")]
    kept = losses[["block", "model", "point", "metric", "index", "value"]].astype(str)
    return cells, sorted(kept.itertuples(index=False, name=None))


if __name__ == "__main__":
    given = sys.argv[2:]
    main(sys.argv[1], int(given[0]) if given else 50, given[1] if len(given) > 1 else "SIGKILL")
