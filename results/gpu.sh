#!/usr/bin/env bash
# What only a GPU can tell, in 42 minutes on one H100 (80 GB) or H200: runs of the suites inference,
# kernels and training in the order of the paper's claims that they settle, and the kernels' tests.
#
#     results/gpu.sh [OUT [STEP...]]    OUT is results/gpu where it is not given; all steps
#     REHEARSE=1 results/gpu.sh /tmp/rehearsal     the same on a CPU, with tiny models, in minutes
#
# Where a machine is lent for ten minutes at a time, in five calls, the last two when there is time:
#
#     results/gpu.sh OUT decode-6.7b
#     results/gpu.sh OUT tests kernels decode-1.3b
#     results/gpu.sh OUT training-1.3b training-350m
#     results/gpu.sh OUT long-6.7b
#     results/gpu.sh OUT batch-6.7b paper-6.7b
#
# Needs torch for CUDA, triton and the packages of pyproject.toml; the checkout need not be
# installed. fla is used where it is installed (`pip install flash-linear-attention`); elsewhere its
# cells are `unsupported`. A copy without its .git is told its commit by RETBENCH_COMMIT. Every step
# has a time limit; one that fails or runs out of time leaves what it has finished, and the next
# begins. Expected under OUT, by step:
#
#     decode-6.7b/      TTFT, TPOT, mean TPOT and memory at 1k to 8k tokens, at 8k of batch 8 too
#     tests.log         the kernels' tests: all passed
#     kernels/          retention and attention at d_k 256, bfloat16, 2k to 64k tokens
#     decode-1.3b/      TTFT, TPOT and achieved bandwidth at 8k and 64k tokens
#     training-1.3b/    steps of 8,192 tokens at 8k, activations recomputed, attention fused or not
#     training-350m/    steps of 16,384 tokens at contexts of 2k to 16k
#     long-6.7b/        TPOT and mean TPOT over the length, 1k to 8k tokens at batch 8
#     batch-6.7b/       TPOT over the batch size, 1 to 8 at 8k tokens
#     paper-6.7b/       TPOT beside the paper's own Transformer, whose cache is copied at each step
#
# and in each run's folder: run.json, samples.jsonl, tables/ (ratios.md first), plots/, report.html,
# numbers.json, numbers.tex. Verdicts use a margin of 1% unless `retbench audit` ran before.
# docs/gpu.md says what to expect and what to look at first.
#
# The limits, from estimates of an H100: a run's ceilings take 12 s and its report 15 s; a worker
# starts in 12 s, and compiles Triton's kernels for 10 s more in the first block. A profile of
# `quick` makes three blocks, in each of which a contender's phase takes 1 s, or four calls where
# those are longer, after half as much of warm-up.
#
#     decode-6.7b     a prefill takes 0.03, 0.06, 0.11, 0.23 s, and 1.9 s at batch 8; each cell has
#                     three of them before the clock, and three phases: 4 points x 3 models x 5 s,
#                     and 3 x 16 s. The latter alone on 80 GB (3 x 13 GB of weights, 45 GB of
#                     state), in workers of their own: 3 x 12 s. (12 + 60 + 84) x 3 + 27    = 500 s
#     tests           about 100 kernels, 1 s each to compile, in 8 processes                =  60 s
#     kernels         5 operations x 3 contexts x 2 passes x 2.1 s: (12 + 63) x 3           = 225 s
#     decode-1.3b     3 x 5 s at 8k; at 64k a prefill takes up to 1.2 s: 3 x 9 s.
#                     (12 + 15 + 27) x 3 + 27                                               = 190 s
#     training-1.3b   3 contenders, alone (40 GB each): 12 s, 10 s of gate in float64, and steps of
#                     0.3 s, or 0.8 s with attention's scores in memory: 11 s. 33 x 3 x 3   = 300 s
#     training-350m   3 contenders x 4 points x 3 s: (20 + 36) x 3                          = 170 s
#
#     long-6.7b       batch 8: seven prefills of 0.2, 0.5, 0.9, 1.9 s and three phases at each of
#                     four points: (22 + 2 x 45) x 3 + 27                                   = 365 s
#     batch-6.7b      seven prefills of 0.2, 0.5, 0.9, 1.9 s and two phases at each of four points:
#                     (22 + 2 x 37) x 3 + 27                                                = 315 s
#     paper-6.7b      a prefill at 8k with the scores in memory takes 1.2 s, at batch 8 they would
#                     not fit: (22 + 6 + 22) x 3 + 27                                       = 180 s
#
# That is 2,305 s; the limits come to 2,560 s. The first three calls take 1,610 s at most, which
# leaves 190 s of half an hour for the machine to start.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=$(realpath -m "${1:-results/gpu}")
only=" ${*:2} "
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$out"
failed=0

# wanted NAME: whether the command line names this step, or none.
wanted() {
    [[ $only == "  " || $only == *" $1 "* ]]
}

# step NAME SECONDS COMMAND...: its output goes to NAME.log, its outcome to the terminal.
step() {
    local name=$1 limit=$2 started=$SECONDS
    shift 2
    wanted "$name" || return
    timeout -s INT -k 20 "$limit" "$@" >"$out/$name.log" 2>&1
    local status=$?
    printf '%-14s exit %3d  %4d s of %d\n' "$name" "$status" $((SECONDS - started)) "$limit"
    if ((status)); then
        failed=1
        tail -n 3 "$out/$name.log"
    fi
}

# measure NAME SECONDS FLAGS...: a run, and the tables and plots of what it finished in time.
measure() {
    local name=$1 limit=$2
    shift 2
    step "$name" "$limit" "$python" -m retbench run --out "$out/$name" "${common[@]}" "$@"
    wanted "$name" || return
    if [[ -e $out/$name/samples.jsonl && ! -e $out/$name/report.html ]]; then
        "$python" -m retbench table "$out/$name" >>"$out/$name.log" 2>&1
        "$python" -m retbench plot "$out/$name" >>"$out/$name.log" 2>&1
    fi
    if [[ -e $out/$name/tables/ratios.md ]]; then
        sed -n '/^|/p' "$out/$name/tables/ratios.md" | head -n 12
    fi
}

# Side by side, where pytest-xdist is installed.
tests=(tests/models/kernels tests/retbench/suites/test_inference.py
    tests/retbench/suites/test_execution.py)
"$python" -c "import xdist" 2>/dev/null && tests+=(-n 8)

if [[ -n ${REHEARSE:-} ]]; then
    common=(--device cpu --threads 1 --minutes 0 --profile smoke)
    small=tiny large=tiny largest=tiny
    grown=64,128 batches=1,2 sizes=1,2,4 near=64
    far=128,256 trained=64,128 shortest=64 long=128 tokens=128
    lengths=64,256 wide=16 wide_batch=2
else
    common=(--device cuda --minutes 0 --profile quick)
    small=350m large=1.3b largest=6.7b
    grown=1024,2048,4096,8192 batches=1,8 sizes=1,2,4,8 near=1024
    far=8192,65536 trained=2048,8192,16384 shortest=2048 long=8192 tokens=16384
    lengths=2048,8192,65536 wide=256 wide_batch=8
fi

measure decode-6.7b 550 --suite inference --preset $largest --context $grown \
    --batch $batches --batch-context $long --models retnet,transformer,transformer-gqa
step tests 110 "$python" -m pytest -q -m gpu "${tests[@]}"
measure kernels 240 --suite kernels --head-dims $wide --context $lengths \
    --operations retention-triton,retention-chunkwise,fla-chunk,sdpa-flash,sdpa-cudnn
measure decode-1.3b 200 --suite inference --preset $large --context $far \
    --batch 1 --batch-context $long --models retnet,transformer,transformer-gqa
# Kept, the scores of 24 layers would not fit.
measure training-1.3b 320 --suite training --preset $large --context $long \
    --tokens-per-step $long --batch 1 --batch-context $long --modes eager \
    --activations recomputed --models retnet,transformer --variants math
measure training-350m 190 --suite training --preset $small --context $trained \
    --tokens-per-step $tokens --batch 1 --batch-context $shortest --modes eager \
    --activations kept --models retnet,transformer --variants torch
measure long-6.7b 400 --suite inference --preset $largest --context $grown \
    --batch $wide_batch --batch-context $long --models retnet,transformer
measure batch-6.7b 340 --suite inference --preset $largest --context $long \
    --batch $sizes --batch-context $long --models retnet,transformer
measure paper-6.7b 210 --suite inference --preset $largest --context $near,$long \
    --batch 1 --batch-context $long --models retnet,transformer-paper --compare-unfused
printf 'all in %s after %d s\n' "$out" "$SECONDS"
exit $failed
