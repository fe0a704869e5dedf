#!/usr/bin/env bash
# What only a GPU can tell, in under 20 minutes on one H100 (80 GB): the kernels against float64,
# then runs of the suites kernels, training and inference, ready to be looked at and committed.
#
#     results/gpu.sh [OUT]          OUT is results/gpu where it is not given
#     REHEARSE=1 results/gpu.sh /tmp/rehearsal     the same on a CPU, with tiny models, in minutes
#
# Needs torch for CUDA, triton and the packages of pyproject.toml; the checkout need not be
# installed. fla is used where it is installed (`pip install flash-linear-attention`); elsewhere its
# cells are `unsupported`. Every step has a time limit; one that fails or runs out of time leaves
# what it has finished, and the next begins. Expected under OUT:
#
#     tests.log                     pytest -m gpu: all passed
#     kernels/                      retention and attention at d_k 256, bfloat16, 2k to 64k tokens
#     training-350m/                steps of 32,768 tokens at contexts of 2k to 32k, and batches
#     training-1.3b/                compiled steps at 8k tokens: MFU
#     decode-1.3b/                  TTFT, TPOT and achieved bandwidth at 2k to 64k tokens
#
# and in each of the four: run.json, samples.jsonl, tables/ (ratios.md first), plots/, report.html,
# numbers.json, numbers.tex.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=$(realpath -m "${1:-results/gpu}")
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$out"
failed=0

# step NAME SECONDS COMMAND...: its output goes to NAME.log, its outcome to the terminal.
step() {
    local name=$1 limit=$2 started=$SECONDS
    shift 2
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
    if [[ -e $out/$name/samples.jsonl && ! -e $out/$name/report.html ]]; then
        "$python" -m retbench table "$out/$name" >>"$out/$name.log" 2>&1
        "$python" -m retbench plot "$out/$name" >>"$out/$name.log" 2>&1
    fi
    if [[ -e $out/$name/tables/ratios.md ]]; then
        sed -n '/^|/p' "$out/$name/tables/ratios.md" | head -n 12
    fi
}

if [[ -n ${REHEARSE:-} ]]; then
    common=(--device cpu --threads 1 --profile smoke)
    large=(--preset tiny) larger=(--preset tiny)
    lengths=64,256 length=64 tokens=256 wide=16 mode=eager
else
    common=(--device cuda --profile quick)
    large=(--preset 350m) larger=(--preset 1.3b)
    lengths=2048,8192,32768 length=8192 tokens=32768 wide=256 mode=compile
fi

step tests 200 "$python" -m pytest -q -m gpu tests
measure kernels 300 --suite kernels --head-dims $wide --context $lengths \
    --operations retention-triton,retention-chunkwise,fla-chunk,sdpa-flash,sdpa-cudnn
measure training-350m 300 --suite training "${large[@]}" --context $lengths \
    --tokens-per-step $tokens --batch 1,4 --batch-context $length --modes eager \
    --activations kept --models retnet,transformer --variants torch,math
measure training-1.3b 150 --suite training "${larger[@]}" --context $length \
    --tokens-per-step $((tokens / 2 > length ? tokens / 2 : length)) --batch 1 \
    --batch-context $length --modes $mode --activations kept --models retnet,transformer \
    --variants torch
measure decode-1.3b 240 --suite inference "${larger[@]}" --context $lengths --batch 1,16 \
    --batch-context $length --models retnet,transformer,transformer-gqa
printf 'all in %s after %d s\n' "$out" "$SECONDS"
exit $failed
