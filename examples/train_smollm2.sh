#!/bin/sh
# From an empty folder to a trained, measured and documented Doubter for SmolLM2-135M-Instruct:
#
#     mkdir doubter && cd doubter && sh PATH/TO/examples/train_smollm2.sh [SEED...]
#
# It trains one Doubter for each seed (0 by default) in runs/seed-SEED. All of them share the questions that the first one
# collects. The first one is also evaluated in llama.cpp. After an interruption, the same command resumes. The script needs
# `pip install -c constraints.txt '.[train,eval]'` and the base in the demo's cache; BASE in the environment names another.
set -eu

# The recipe. Variables in the environment win, as in tests/integration/test_cycle.py.
: "${COLLECT:=--questions facts --layers late --max-new-tokens 24}"
: "${TRAIN:=--inject-from last-token --max-over-refusal 0.37}"
: "${EVAL:=--split test --sweep-limit 500}"
: "${EVAL_RUNTIME:=--split test --limit 1000 --gains none}"
: "${CARD:=--license MIT --base-model HuggingFaceTB/SmolLM2-135M-Instruct}"

base=${BASE:-$(python -c 'from metadeploy.demo.assets import cache_dir; print(cache_dir())')/SmolLM2-135M-Instruct.Q4_1.gguf}
if [ ! -f "$base" ]; then
    echo "error: '$base': does not exist, expected the demo's base model (hint: run metadeploy demo once)" >&2
    exit 1
fi

[ $# -gt 0 ] || set -- 0
first=runs/seed-$1
runs=
for seed in "$@"; do
    runs="$runs runs/seed-$seed"
done
means=
if [ $# -gt 1 ]; then
    means="--output $first/eval/results_seeds.json"  # the first one's card then shows them
fi

# shellcheck disable=SC2086  # recipe, runs and means must be split into words
{
    metadeploy collect "$first" --base "$base" $COLLECT
    metadeploy train "$first" --seed "$1" $TRAIN ${means:+--keep-cache}
    for run in ${runs#" $first"}; do
        metadeploy train "$run" --seed "${run#runs/seed-}" $TRAIN --collected "$first"
    done
    rm -f "$first"/train/kept-*.safetensors  # the cache of the base, which only the others needed

    for run in $runs; do
        metadeploy export "$run" --base "$base" --force
    done

    metadeploy eval $runs --engine torch $EVAL $means
    metadeploy eval "$first" --engine runtime --base "$base" $EVAL_RUNTIME

    for run in $runs; do
        metadeploy card "$run" $CARD
    done
}
