#!/usr/bin/env bash
# The whole campaign, some seven hours on one core, or so many percent of it: one line of figures for
# each part, as docs/reliability.md has them. A part that found something ends it.
#
#     tests/campaign/all.sh [PERCENT]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-python}
percent=${1:-100}

# part WHOLE: as many as that share of them, one at least.
part() {
    echo $((($1 * percent + 99) / 100))
}

RETBENCH_CAMPAIGN=$(part 1000) "$python" -m pytest -q -s tests/campaign/test_mutations.py
RETBENCH_CAMPAIGN=$(part 50) "$python" -m pytest -q tests/retbench/report/test_any_run.py
RETBENCH_FUZZ_MINUTES=$((percent / 10)).$((percent % 10)) \
    "$python" -m pytest -q -s tests/campaign/test_readers.py
for what in inference training perplexity train; do
    "$python" tests/campaign/kills.py "$what" "$(part 50)"
done
for what in inference training perplexity train; do
    "$python" tests/campaign/kills.py "$what" "$(part 10)" SIGINT
done
for what in inference training perplexity train; do
    "$python" tests/campaign/full_disk.py "$what" "$(part 8)" # mounts a tmpfs: needs the right to
done
