"""What a neighbour costs threads that spin: a step by wait policy, alone and beside a busy process.

    python tests/benchmarks/spinning.py results/spinning.csv [REPEATS]

Each policy is a fresh process, for an OpenMP runtime reads its environment when it is loaded; the
policies take turns, three times by default. Columns: neighbours (busy cores), threads, policy,
metric (``decode``: a step of a RetNet ``10m``; ``train``: of ``1m``, 8 x 256 tokens), repeat,
seconds (median).
"""

import csv
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
POLICIES = (
    (2, "default", {}),
    (2, "GOMP_SPINCOUNT=10000", {"GOMP_SPINCOUNT": "10000"}),
    (2, "OMP_WAIT_POLICY=passive", {"OMP_WAIT_POLICY": "passive"}),
    (1, "one thread", {}),
)


def main(out: Path, repeats: int) -> None:
    """Measure every policy, first alone and then beside a neighbour, and write the table."""
    rows = []
    for neighbours in (0, 1):
        busy = [
            subprocess.Popen([sys.executable, str(HERE / "neighbour.py"), "1"])
            for _ in range(neighbours)
        ]
        try:
            for repeat in range(repeats):
                for threads, name, variables in POLICIES:
                    for metric, seconds in _measured(threads, variables).items():
                        rows.append((neighbours, threads, name, metric, repeat, seconds))
        finally:
            for process in busy:
                process.kill()
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("neighbours", "threads", "policy", "metric", "repeat", "seconds"))
        writer.writerows(rows)


def _measured(threads: int, variables: dict[str, str]) -> dict[str, float]:
    """Median seconds by metric, in a process of its own."""
    command = [sys.executable, __file__, "--worker", str(threads)]
    done = subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, check=True
    )
    decode, train = map(float, done.stdout.split())
    return {"decode": decode, "train": train}


def work(threads: int) -> None:
    """Print the seconds of a decode step and of a training step."""
    import torch

    from models.registry import config_for

    torch.set_num_threads(threads)
    model = config_for("retnet", "10m").build(seed=0)
    token = torch.zeros(1, dtype=torch.int64)
    with torch.inference_mode():
        state = model.init_state(1, 256)
        decode = _median_s(lambda: model.step(token, state), 3, 25)
    small = config_for("retnet", "1m", vocab_size=67).build(seed=0)
    optimizer = torch.optim.AdamW(small.parameters())
    tokens = torch.randint(67, (8, 256))

    def step() -> None:
        logits = small(tokens).flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, tokens.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    print(decode, _median_s(step, 1, 4))


def _median_s(call, warm_up: int, calls: int) -> float:
    times = []
    for number in range(warm_up + calls):
        start = time.perf_counter()
        call()
        if number >= warm_up:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    if sys.argv[1] == "--worker":
        work(int(sys.argv[2]))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3)
