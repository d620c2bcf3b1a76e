"""The verdict head in PyTorch."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metadeploy.runtime.types import AnswerFeatures, SentenceFeatures
from metadeploy.sidecar.verdict import VerdictHead

__all__ = ["MAX_DEVIATION", "VerdictNetwork"]

#: Inputs are clipped to this number of standard deviations: activations have outliers that training never saw.
MAX_DEVIATION: Final = 8.0


class VerdictNetwork(nn.Module):
    """Judges answers: an MLP with one hidden layer, whose output is a logit of being wrong."""

    def __init__(self, head: VerdictHead) -> None:
        """Take the weights of a head."""
        super().__init__()
        self.config = head.config
        tensors = {name: torch.from_numpy(np.array(values)) for name, values in head.tensors.items()}
        self.mean, self.scale = tensors["verdict.input.mean"], tensors["verdict.input.scale"]
        self.hidden_weight, self.hidden_bias = tensors["verdict.hidden.weight"], tensors["verdict.hidden.bias"]
        self.output_weight, self.output_bias = tensors["verdict.output.weight"], tensors["verdict.output.bias"]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits before the calibration.

        Args:
            inputs: float32 [n, n_inputs].

        Returns:
            float32 [n].
        """
        normalized = ((inputs - self.mean) * self.scale).clamp(-MAX_DEVIATION, MAX_DEVIATION)
        hidden = nn.functional.gelu(normalized @ self.hidden_weight.T + self.hidden_bias)
        logits: Tensor = (hidden @ self.output_weight.T + self.output_bias)[:, 0]
        return logits

    @torch.no_grad()
    def p_wrong(self, prompt: NDArray[np.float32], window: SentenceFeatures) -> float | None:
        """Return the probability that a sentence or an answer is wrong.

        Args:
            prompt: float32 [n_prompt_layers, D].
            window: features of the sentence or of the whole answer.

        Returns:
            The probability; None if no block has processed any of its tokens.
        """
        inputs = np.concatenate([prompt.ravel(), window.means.ravel(), window.figures])
        if not np.isfinite(inputs).all():
            return None
        logit = self.config.slope * self(torch.tensor(inputs)[None]).double() + self.config.intercept
        p_wrong = float(logit.sigmoid())
        return None if math.isnan(p_wrong) else p_wrong

    def verdict(self, features: AnswerFeatures) -> float | None:
        """Return the probability that an answer is wrong, by the part of it that the head was trained to judge."""
        windows = (features.answer,) if self.config.window == "answer" else features.sentences
        if features.prompt is None or not windows:
            return None
        return self.p_wrong(features.prompt, windows[0])
