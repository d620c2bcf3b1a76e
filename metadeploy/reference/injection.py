"""The injection into the base's decoder blocks, for one prompt."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from metadeploy.reference.decoder import BlockHook
from metadeploy.reference.doubter import Doubter


@dataclass(frozen=True, kw_only=True)
class Injection:
    """What pass 2 and the answer after it add to the base.

    Attributes:
        doubter: the wrapper.
        cognitive_tokens: [C, D], in the wrapper's dtype; the same for the whole answer.
        gain: factor of the injection; with 0 the base's outputs are not touched at all, so they stay bit for bit.
        first_position: where in the sequence it starts. What lies before stays as in a clean pass, K/V included.
        attention: where given, each pass puts the attention over the cognitive tokens into it, [H, T, C] by layer.
    """

    doubter: Doubter
    cognitive_tokens: Tensor
    gain: float
    first_position: int
    attention: dict[int, Tensor] | None = None

    def hooks(self, *, n_past: int) -> dict[int, BlockHook]:
        """Hooks for a pass whose first token stands at position ``n_past`` of the sequence."""
        n_clean = max(0, self.first_position - n_past)
        return {layer: self._hook(layer, n_clean) for layer in self.doubter.config.cross_attn_layers}

    def _hook(self, layer: int, n_clean: int) -> BlockHook:
        cross_attention = self.doubter.cross_attention(layer)

        def inject(hidden: Tensor) -> Tensor | None:
            # raised to the wrapper's dtype and rounded back once, after the addition; a base that is spread over
            # several devices costs a copy besides
            before = hidden.to(self.cognitive_tokens)
            if self.attention is not None:
                self.attention[layer] = cross_attention.attention(before[0], self.cognitive_tokens)
            if self.gain == 0.0:
                return None
            after: Tensor = cross_attention(before, self.cognitive_tokens, gain=self.gain).to(hidden)
            after[:, :n_clean] = hidden[:, :n_clean]
            return after

        return inject
