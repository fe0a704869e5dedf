"""A run with fake workers, in one of several processes: ``crewed.py OUT TIMEOUT_S ACTIONS``.

ACTIONS is JSON, by rank what its workers do (see fake_worker.py).
"""

import json
import os
import sys
from pathlib import Path

from retbench.cli import app
from retbench.workers import crew

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import drive


@app.app.command()
def crewed(out: str, timeout_s: float, actions: str) -> None:
    own = json.loads(actions).get(os.environ["RANK"], {})
    os.environ["FAKE_WORKER"] = json.dumps(own)
    with crew.connect("ddp", drive.WORKER) as workers:
        drive.execute(
            out, crew=workers, parallel="ddp", world_size=workers.size, timeout_s=timeout_s
        )


if __name__ == "__main__":
    app.main(["crewed", *sys.argv[1:]])
