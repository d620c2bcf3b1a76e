"""PyTorch's activations and cognitive tokens for the questions of a ladder, and their file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metadeploy._tensor_files import save_tensors

__all__ = ["Vectors"]


@dataclass(frozen=True)
class Vectors:
    """PyTorch's intermediate results for n questions.

    Attributes:
        activations: F32 [n, n_target, D], outputs of the target layers at the last prompt token of the clean pass.
        cognitive_tokens: F32 [n, C, D], the encoder's output for these activations.
    """

    activations: NDArray[np.float32]
    cognitive_tokens: NDArray[np.float32]

    def write(self, path: Path, fingerprint: str) -> None:
        """Write the file as a whole or not at all."""
        import torch

        arrays = {"activations": self.activations, "cognitive_tokens": self.cognitive_tokens}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        save_tensors(path, tensors, {"fingerprint": fingerprint})

    @classmethod
    def read(cls, path: Path, fingerprint: str) -> Vectors | None:
        """Read the vectors; None if the file does not exist, is from another ladder, or cannot be read."""
        from safetensors import SafetensorError, safe_open

        if not path.exists():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                if (file.metadata() or {}).get("fingerprint") != fingerprint:
                    return None
                return cls(file.get_tensor("activations"), file.get_tensor("cognitive_tokens"))
        except SafetensorError:
            return None
