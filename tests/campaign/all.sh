#!/usr/bin/env bash
# The whole campaign, some seven hours on one core: one line of figures for each part, as
# docs/reliability.md has them. A part that found something ends it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-python}

RETBENCH_CAMPAIGN=1000 "$python" -m pytest -q -s tests/campaign/test_mutations.py
RETBENCH_CAMPAIGN=50 "$python" -m pytest -q tests/retbench/report/test_any_run.py
RETBENCH_FUZZ_MINUTES=10 "$python" -m pytest -q -s tests/campaign/test_readers.py
for what in inference training perplexity train; do
    "$python" tests/campaign/kills.py "$what" 50
done
for what in inference training perplexity train; do
    "$python" tests/campaign/kills.py "$what" 10 SIGINT
done
for what in inference training perplexity train; do
    "$python" tests/campaign/full_disk.py "$what" 8 # mounts a tmpfs: needs the right to
done
