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
    """Logits [T, V] of a pass, and the model's cache where it has one."""

    logits: Tensor
    cache: Any


class FrozenBase:
    """Any Hugging Face causal LM, as the pipeline needs it.

    Every pass puts the model into evaluation mode first, and removes its hooks afterwards.

    Attributes:
        model: the transformers model.
        stack: its decoder blocks.
        last_logits: arguments of ``model`` that leave out the logits of all positions but the last; empty if it has
            none, or if it would leave out hidden states as well.
    """

    def __init__(self, model: nn.Module) -> None:
        """Find the decoder blocks of ``model``.

        Raises:
            ModelMismatchError: there are none.
        """
        self.model: Any = model  # transformers models are callables of many shapes
        self.stack = find_decoder(model)
        self.last_logits: dict[str, Any] = {"logits_to_keep": 1} if self._can_skip_logits() else {}

    def _can_skip_logits(self) -> bool:
        """Whether ``logits_to_keep`` spares logits and nothing else.

        Models whose last blocks share keys and values (Gemma 4) compute only those positions there, so hooks would see
        the last token of a prompt as if it were the first.
        """
        config = text_config(self.model.config)
        takes_it = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        return takes_it and not getattr(config, "num_kv_shared_layers", 0)

    @property
    def num_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.stack.blocks)

    @property
    def device(self) -> torch.device:
        """Where token ids go in."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def wrapper_dtype(self) -> torch.dtype:
        """What a wrapper beside this model is computed in: float32, or float64 where the model is."""
        return torch.promote_types(self.model.dtype, torch.float32)

    @property
    def stop_ids(self) -> set[int]:
        """The tokens that end an answer, by the model's generation config."""
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
        """One pass of the base over a sequence, or over what follows ``n_past`` tokens that are in ``cache``.

        ``hooks`` see the blocks' outputs after the injection. With ``last_only`` the logits of earlier positions may
        be left out.
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
        """[T, D] for each layer, on the block's device in the base's dtype."""
        seen: dict[int, Tensor] = {}
        self.forward(token_ids, injection=injection, hooks=keep_outputs(layers, seen), last_only=True)
        return [seen[layer] for layer in layers]

    def range_faults(self, name: str, layers: Sequence[int]) -> list[str]:
        """A fault for ``name`` where ``layers`` has numbers that the model has not."""
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


def keep_outputs(layers: Sequence[int], seen: dict[int, Tensor], *, last_only: bool = False) -> dict[int, BlockHook]:
    """Hooks that put a copy of each layer's output into ``seen``: [T, D], or [1, D] with ``last_only``."""

    def keep(layer: int) -> BlockHook:
        def hook(hidden: Tensor) -> None:
            # a copy: the next block may work in place
            seen[layer] = (hidden[0, -1:] if last_only else hidden[0]).clone()

        return hook

    return {layer: keep(layer) for layer in layers}


def eos_ids(holder: Any) -> set[int]:
    """``eos_token_id`` of a generation config or tokenizer, which may be absent, one or several."""
    ids = getattr(holder, "eos_token_id", None)
    return set(ids) if isinstance(ids, (list, tuple)) else set() if ids is None else {ids}
