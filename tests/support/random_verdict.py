"""Random verdict heads, whose verdicts spread over 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metadeploy.sidecar.verdict import (
    FIGURE_NAMES,
    ErrorGuarantee,
    VerdictConfig,
    VerdictHead,
    Window,
    verdict_tensors,
)

GUARANTEES = (ErrorGuarantee(0.25, 0.25, 0.5), ErrorGuarantee(0.5, 0.75, 0.75))


def random_verdict(
    hidden_dim: int,
    *,
    prompt_layers: Sequence[int],
    answer_layers: Sequence[int],
    n_hidden: int = 8,
    window: Window = "first_sentence",
    guarantees: Sequence[ErrorGuarantee] = GUARANTEES,
    seed: int = 0,
) -> VerdictHead:
    """Draw a head for inputs of order 1, and for figures of a vocabulary of some hundred tokens."""
    config = VerdictConfig(
        prompt_layers=tuple(prompt_layers),
        answer_layers=tuple(answer_layers),
        hidden_dim=hidden_dim,
        n_hidden=n_hidden,
        window=window,
        slope=1.5,
        intercept=-0.25,
        guarantees=tuple(guarantees),
        delta=float(np.float32(0.1)) if guarantees else 0.0,
        n_calibration=1234 if guarantees else 0,
        questions="facts",
        base_sha256="ab" * 32,
    )
    rng = np.random.default_rng(seed)
    shapes = verdict_tensors(config)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    tensors["verdict.hidden.weight"] = (tensors["verdict.hidden.weight"] / 8).astype(np.float16).astype(np.float32)
    tensors["verdict.input.scale"] = np.abs(tensors["verdict.input.scale"]) + 0.5
    tensors["verdict.input.scale"][-len(FIGURE_NAMES) :] /= 10
    return VerdictHead(config, tensors)
