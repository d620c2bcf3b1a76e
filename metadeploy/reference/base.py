"""A frozen base model: one pass over token ids, with hooks on its decoder blocks."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metadeploy.errors import DecodeError
from metadeploy.reference.decoder import BlockHook, find_decoder, text_config
from metadeploy.reference.injection import Injection


@dataclass(frozen=True)
class Output:
    """Logits [T, V] of a pass, and the model's cache, if it has one."""

    logits: Tensor
    cache: Any


class FrozenBase:
    """Any Hugging Face causal LM.

    Every pass puts the model into evaluation mode first, and removes its hooks afterward.

    Attributes:
        model: the transformers model.
        stack: its decoder blocks.
        last_logits: arguments of ``model`` that skip the logits of all positions except the last; empty if the model
            has no such arguments, or if they would skip hidden states as well.
    """

    def __init__(self, model: nn.Module) -> None:
        """Find the decoder blocks of ``model``.

        Raises:
            ModelMismatchError: no decoder blocks are found.
        """
        self.model: Any = model  # transformers models are callables of many shapes
        self.stack = find_decoder(model)
        self.last_logits: dict[str, Any] = {"logits_to_keep": 1} if self._can_skip_logits() else {}

    def _can_skip_logits(self) -> bool:
        """Return whether ``logits_to_keep`` skips only logits.

        Models whose last blocks share keys and values (Gemma 4) also skip those positions in these blocks, so hooks
        would see the last token of a prompt as if it were the first.
        """
        config = text_config(self.model.config)
        has_option = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        return has_option and not getattr(config, "num_kv_shared_layers", 0)

    @property
    def num_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.stack.blocks)

    @property
    def device(self) -> torch.device:
        """The device of the token embedding."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def wrapper_dtype(self) -> torch.dtype:
        """The dtype of a wrapper on this base: float64 if the base is in float64, otherwise float32."""
        return torch.promote_types(self.model.dtype, torch.float32)

    @property
    def stop_ids(self) -> set[int]:
        """The tokens that end an answer according to the model's generation config."""
        return eos_ids(getattr(self.model, "generation_config", None))

    @torch.no_grad()
    def forward(
        self,
        token_ids: Sequence[int],
        *,
        injection: Injection | None,
        hooks: Mapping[int, BlockHook] | None = None,
        n_past: int = 0,
        cache: Any = None,
        use_cache: bool = False,
        last_only: bool = False,
    ) -> Output:
        """Evaluate a sequence, or the tokens after the ``n_past`` tokens that are in ``cache``.

        ``hooks`` see the blocks' outputs after the injection. With ``last_only``, the logits of earlier positions may
        be missing.
        """
        self._check_ids(token_ids)
        self.model.eval()
        options: dict[str, Any] = {"use_cache": use_cache}
        if cache is not None:
            options["past_key_values"] = cache
        if last_only:
            options |= self.last_logits
        with ExitStack() as stack:
            if injection is not None:
                injection.doubter.eval()
                stack.enter_context(self.stack.hooked(injection.hooks(n_past=n_past)))
            stack.enter_context(self.stack.hooked(hooks or {}))
            output = self.model(input_ids=torch.tensor([list(token_ids)], device=self.device), **options)
        return Output(logits=output.logits[0], cache=getattr(output, "past_key_values", None))

    def layer_outputs(
        self,
        token_ids: Sequence[int],
        layers: Sequence[int],
        *,
        injection: Injection | None,
    ) -> list[Tensor]:
        """Return the output [T, D] of each layer, on the block's device in the base's dtype."""
        outputs: dict[int, Tensor] = {}
        self.forward(token_ids, injection=injection, hooks=keep_outputs(layers, outputs), last_only=True)
        return [outputs[layer] for layer in layers]

    def range_faults(self, name: str, layers: Sequence[int]) -> list[str]:
        """Return a fault for ``name`` if ``layers`` has numbers that the model does not have."""
        outside = [layer for layer in layers if not 0 <= layer < self.num_layers]
        if not outside:
            return []
        return [f"{name} has {outside}, expected 0 to {self.num_layers - 1} (the base has {self.num_layers} blocks)"]

    def _check_ids(self, token_ids: Sequence[int]) -> None:
        if len(token_ids) == 0:
            raise DecodeError("prompt: has no tokens, expected at least one")
        for position, token in enumerate(token_ids):
            if not 0 <= token < self.stack.vocab_size:
                raise DecodeError(
                    f"prompt: token id {token} at position {position}, expected 0 to {self.stack.vocab_size - 1}"
                )


def keep_outputs(layers: Sequence[int], outputs: dict[int, Tensor], *, last_only: bool = False) -> dict[int, BlockHook]:
    """Return hooks that copy each layer's output into ``outputs``: [T, D], or [1, D] with ``last_only``."""

    def capture(layer: int) -> BlockHook:
        def hook(hidden: Tensor) -> None:
            # a copy, because the next block may change it in place
            outputs[layer] = (hidden[0, -1:] if last_only else hidden[0]).clone()

        return hook

    return {layer: capture(layer) for layer in layers}


def eos_ids(holder: Any) -> set[int]:
    """Return the ``eos_token_id`` of a generation config or tokenizer, which may be absent, one or several."""
    ids = getattr(holder, "eos_token_id", None)
    return set(ids) if isinstance(ids, (list, tuple)) else set() if ids is None else {ids}
