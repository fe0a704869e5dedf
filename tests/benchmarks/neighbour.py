"""A rude neighbour: keeps a share of one core busy, until it is killed.

python tests/benchmarks/neighbour.py 0.5
"""

import sys
import time

PERIOD_S = 0.02


def main(share: float) -> None:
    """Compute for a share of each period, and sleep for the rest of it."""
    while True:
        start = time.perf_counter()
        while time.perf_counter() - start < share * PERIOD_S:
            pass
        time.sleep(max(0.0, PERIOD_S - (time.perf_counter() - start)))


if __name__ == "__main__":
    main(float(sys.argv[1]))
