#!/usr/bin/env bash
# What only a GPU can tell, in under 20 minutes on one H100 (80 GB): the kernels against float64,
# then runs of the suites kernels, training and inference, ready to be looked at and committed.
#
#     results/gpu.sh [OUT [STEP...]]    OUT is results/gpu where it is not given; all steps
#     REHEARSE=1 results/gpu.sh /tmp/rehearsal     the same on a CPU, with tiny models, in minutes
#
# Needs torch for CUDA, triton and the packages of pyproject.toml; the checkout need not be
# installed. fla is used where it is installed (`pip install flash-linear-attention`); elsewhere its
# cells are `unsupported`. A copy without its .git is told its commit by RETBENCH_COMMIT. Every step
# has a time limit; one that fails or runs out of time leaves what it has finished, and the next
# begins. Expected under OUT, by step:
#
#     tests.log                     the kernels' tests and the GPU's of the suites: all passed
#     kernels/                      retention and attention at d_k 256, bfloat16, 2k to 64k tokens
#     training-350m/                steps of 16,384 tokens at contexts of 2k to 16k, and batches
#     training-1.3b/                compiled steps of 16,384 tokens at 8k, once: MFU
#     decode-1.3b/                  TTFT, TPOT and achieved bandwidth at 2k to 64k tokens
#
# and in each of the four: run.json, samples.jsonl, tables/ (ratios.md first), plots/, report.html,
# numbers.json, numbers.tex. Verdicts use a margin of 1% unless `retbench audit` ran before.
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

# The tests compile some hundred kernels: side by side, where pytest-xdist is installed.
tests=(tests/models/kernels tests/retbench/suites/test_inference.py)
"$python" -c "import xdist" 2>/dev/null && tests+=(-n 8)

if [[ -n ${REHEARSE:-} ]]; then
    common=(--device cpu --threads 1 --minutes 0)
    large=(--preset tiny) larger=(--preset tiny)
    lengths=64,256 trained=64,128 short=64 long=128 tokens=256 wide=16 mode=eager blocks=smoke
else
    common=(--device cuda --minutes 0)
    large=(--preset 350m) larger=(--preset 1.3b)
    lengths=2048,8192,65536 trained=2048,8192,16384 short=2048 long=8192 tokens=16384 wide=256
    mode=compile blocks=quick
fi

step tests 270 "$python" -m pytest -q -m gpu "${tests[@]}"
measure kernels 240 --suite kernels --profile $blocks --head-dims $wide --context $lengths \
    --operations retention-triton,retention-chunkwise,fla-chunk,sdpa-flash,sdpa-cudnn
# Attention that keeps its scores fits at short contexts alone.
measure training-350m 240 --suite training --profile $blocks "${large[@]}" --context $trained \
    --tokens-per-step $tokens --batch 1,4 --batch-context $short --modes eager \
    --activations kept --models retnet,transformer --variants torch,math
# One block, for each compiles anew; one point, for each does.
measure training-1.3b 240 --suite training --profile smoke "${larger[@]}" --context $long \
    --tokens-per-step $tokens --batch $((tokens / long)) --batch-context $long --modes $mode \
    --activations kept --models retnet,transformer --variants ""
measure decode-1.3b 200 --suite inference --profile $blocks "${larger[@]}" --context $lengths \
    --batch 1 --batch-context $long --models retnet,transformer,transformer-gqa
printf 'all in %s after %d s\n' "$out" "$SECONDS"
exit $failed
