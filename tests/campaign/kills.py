"""Runs that are killed again and again, and resumed: is a cell lost, doubled, or another one?

    python tests/campaign/kills.py SUITE [KILLS]

SUITE is inference, training, perplexity or train. Each chain begins a small run, kills its whole
process group (SIGKILL) at a random moment, resumes it, kills that, five times, and lets it end. All
cells must be there once. Of the trainings the losses must be those of one that nobody disturbed, to
the last bit.
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

ROOT = Path(__file__).parents[2]
EACH = 5  # kills of a chain
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


def main(suite: str, kills: int) -> None:
    """Kill, resume, compare; one line of figures, and status 1 where something was wrong."""
    rng = random.Random(suite)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        began = time.monotonic()
        command(suite, whole).wait()
        took_s = time.monotonic() - began
        expected, wrong, done, chains = record(suite, whole), 0, 0, 0
        while done < kills:
            out = Path(folder) / f"chain-{chains}"
            for _ in range(EACH):
                process = command(suite, out)
                time.sleep(rng.uniform(0.2, 1.0) * took_s / 2)
                if process.poll() is not None:  # it was done sooner
                    break
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                done += 1
            else:
                process = command(suite, out)
            process.wait()  # which may be told that all was done already
            wrong += record(suite, out) != expected
            chains += 1
    print(f"{suite}: {done} kills in {chains} chains, {wrong} chains wrong")
    sys.exit(wrong > 0)


def command(suite: str, out: Path, stderr: int | None = None) -> subprocess.Popen[bytes]:
    """The run begun, or continued where there is one, in a process group of its own."""
    known = (out / "run.json").exists() or (out / "training.json").exists()
    words = RUNS[suite] if not known else [RUNS[suite][0]]
    line = [sys.executable, str(ROOT / "tests" / "brief.py"), *words, "--out", str(out)]
    line += ["--resume"] if known else ["--device", "cpu", "--threads", "1"]
    return subprocess.Popen(
        line, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
        stderr=stderr, start_new_session=True,
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
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 50)
