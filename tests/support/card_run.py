"""A run directory made by hand for tests of the model card, with real results files but no model and no torch."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from metadeploy.card import write_card
from metadeploy.checkpoint.run_dir import RunDir
from metadeploy.evaluation.samples import PromptedAnswer, Sample, Samples
from metadeploy.evaluation.scoring import baseline_scores, score_samples
from metadeploy.sidecar.layout import dims_of, expected_tensors
from metadeploy.sidecar.spec import WrapperConfig
from metadeploy.sidecar.writer import write_sidecar

REFUSAL = "I cannot say."
CHECKPOINT = b"a checkpoint"

MANIFEST: dict[str, Any] = {
    "model_name": "owner/Tiny-1B",
    "dtype": "bfloat16",
    "dataset": "facts",
    "train_size": 1200,
    "val_size": 100,
    "test_size": 60,
    "encoder_type": "selective",
    "target_layers": [4, 5, 6],
    "cross_attn_layers": [4, 6],
    "inject_from": "last_prompt_token",
    "refusal_text": REFUSAL,
    "refusal_bias": -0.25,
    "train": {
        "bottleneck_dim": 64,
        "best_epoch": 2,
        "epochs_done": 3,
        "fit": {"lr": 0.001, "batch_size": 32, "dropout": 0.5, "seed": 7},
        "point": {"max_over_refusal": 0.35, "target_coverage": None},
        "val": {"coverage": 0.4, "selective_accuracy": 0.7, "over_refusal": 0.34},
    },
}


def sidecar_of(checkpoint: bytes) -> bytes:
    """Write a sidecar of zeros that names its checkpoint."""
    config = WrapperConfig(
        refusal_text=REFUSAL,
        encoder_type="selective",
        hidden_dim=32,
        encoder_dim=8,
        bottleneck_dim=8,
        num_cognitive_tokens=3,
        ca_num_heads=2,
        enc_num_heads=2,
        target_layers=(4, 5, 6),
        cross_attn_layers=(4, 6),
        checkpoint_sha256=hashlib.sha256(checkpoint).hexdigest(),
    )
    tensors = {name: np.zeros(shape, np.float32) for name, shape in expected_tensors(dims_of(config)).items()}
    with tempfile.TemporaryDirectory() as folder:
        write_sidecar(Path(folder, "x.gguf"), config, tensors)
        return Path(folder, "x.gguf").read_bytes()


SIDECAR = sidecar_of(CHECKPOINT)


def drawn_samples(n: int, *, seed: int = 0, categories: tuple[str, ...] = ("capital", "plural")) -> Samples:
    """Draw samples: the base has about half right, and wrong ones get a little more doubt."""
    rng = np.random.default_rng(seed)
    right = rng.random(n) < 0.5
    doubts = np.clip(rng.random(n) * 0.8 + 0.2 * ~right, 0, 1)
    return Samples(
        tuple(
            Sample(
                fingerprint="f",
                index=index,
                question="?",
                accepted=("x",),
                category=categories[index % len(categories)],
                entity="",
                base_answer="y",
                base_correct=bool(right[index]),
                base_logprob=-float(rng.random()),
                base_first_logprob=-float(rng.random()),
                doubt=float(doubts[index]),
                answer="y",
                answer_correct=bool(right[index]),
                declined_text=REFUSAL if doubts[index] >= 0.5 else None,
                told=PromptedAnswer(answer="y", declined=bool(index % 3), correct=bool(right[index] and not index % 3)),
            )
            for index in range(n)
        )
    )


def results_of(samples: Samples, *, threshold: float = 0.5, **config: Any) -> dict[str, Any]:
    """Return the results of some samples; keywords replace entries that describe the evaluation."""
    tag = f"{config.get('engine', 'torch')}_test"
    scores = baseline_scores(samples, {"linear probe": samples.doubt[::-1].copy()})
    return {
        "schema": 1,
        "config": {
            "run": "made",
            "engine": "torch",
            "base": {"name": "owner/Tiny-1B"},
            "wrapper": {"name": "doubter_checkpoint.pt", "sha256": hashlib.sha256(CHECKPOINT).hexdigest()},
            "dtype": "bfloat16",
            "quantization": None,
            "questions": "facts",
            "split": "test",
            **config,
        },
        "threshold": {"value": threshold, "chosen": "as shipped" if threshold == 0.5 else "by hand"},
        **score_samples(samples, threshold=threshold, refusal_text=REFUSAL, scores=scores, n_bootstrap=20),
        "plots": [f"risk_coverage_{tag}.png", f"gates_{tag}.png"],
    }


#: Entries that differ in results of the compiled runtime.
RUNTIME: dict[str, Any] = {
    "engine": "runtime",
    "base": {"name": "tiny-Q4_K_M.gguf"},
    "wrapper": {"name": "doubter_sidecar.gguf", "sha256": hashlib.sha256(SIDECAR).hexdigest()},
}


def write_run(folder: Path, *evaluations: dict[str, Any], **manifest: Any) -> RunDir:
    """Write a run directory.

    Args:
        folder: where to.
        evaluations: their results, written as ``results_0.json``, ….
        manifest: keys of run.json to replace; None leaves one out.
    """
    (folder / "eval").mkdir(parents=True)
    (folder / "doubter_checkpoint.pt").write_bytes(CHECKPOINT)
    (folder / "doubter_sidecar.gguf").write_bytes(SIDECAR)
    (folder / "eval" / "risk_coverage_torch_test.png").write_bytes(b"a plot")
    for number, results in enumerate(evaluations):
        (folder / "eval" / f"results_{number}.json").write_text(json.dumps(results), encoding="utf-8")
    run = RunDir(folder, create=True)
    run.update({**MANIFEST, **manifest})
    return run


def written(run: RunDir, **options: Any) -> str:
    """Write the card again and return its text."""
    return write_card(run, **options).path.read_text(encoding="utf-8")


def section(card: str, title: str) -> str:
    """Return the text under a heading of the second level."""
    return card.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
