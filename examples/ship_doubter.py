"""Copy a trained Doubter to the folder that `metadeploy demo` reads.

    python examples/ship_doubter.py runs/seed-0

The script copies its checkpoint, the public keys of its run.json, and 300 random test questions to
metadeploy/demo/data/smollm2_doubter.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from metadeploy._files import refuse_overwriting, write_atomically, write_json
from metadeploy.checkpoint.run_dir import RunDir
from metadeploy.demo import assets
from metadeploy.training.records import Collected

N_QUESTIONS = 300
#: The public name of the base, instead of the name of its file.
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
#: Keys of run.json that export and the demo read, and keys that describe the training.
KEYS = (
    *("model_name", "dtype", "quantization", "hidden_dim", "num_layers", "prompt_format", "answer_suffix"),
    *("chat_template_kwargs", "dataset", "train_size", "val_size", "test_size", "encoder_type", "target_layers"),
    *("cross_attn_layers", "inject_from", "refusal_text", "refusal_token_ids", "refusal_bias", "train"),
)


def main() -> None:
    """Copy the files and draw the questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--to", type=Path, default=assets.CHECKPOINT.parent, help="folder (default: the package's)")
    arguments = parser.parse_args()
    run = RunDir(arguments.run_dir)
    run.require("refusal_bias", made_by="train")
    records = Collected.read(run.collect, "test").records
    indices = sorted(random.Random(0).sample(range(len(records)), min(N_QUESTIONS, len(records))))
    lines = []
    for index in indices:
        record = records[index]
        question = {
            "question": record.question.question,
            "answers": record.question.answers,
            "category": record.question.category,
        }
        lines.append(json.dumps(question, ensure_ascii=False) + "\n")
    arguments.to.mkdir(parents=True, exist_ok=True)
    refuse_overwriting(arguments.to / "run.json", run.run_json)
    write_atomically(arguments.to / "doubter_checkpoint.pt", run.checkpoint.read_bytes())
    manifest = {key: run.manifest[key] for key in KEYS if key in run.manifest} | {"model_name": BASE}
    write_json(arguments.to / "run.json", manifest)
    write_atomically(arguments.to / "questions.jsonl", "".join(lines))


if __name__ == "__main__":
    main()
