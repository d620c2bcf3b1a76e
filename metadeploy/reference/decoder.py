"""Find the decoder blocks of any Hugging Face causal LM, and read or change their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from metadeploy.errors import ModelMismatchError

#: Called with a block's output [1, T, D]. Its return value replaces the output; None keeps it.
BlockHook = Callable[[Tensor], "Tensor | None"]


@dataclass(frozen=True, kw_only=True)
class DecoderStack:
    """The decoder blocks of a model, in order.

    Attributes:
        path: the stack's name inside the model, e.g. ``model.layers``.
        blocks: one module per layer.
        hidden_dim: D, width of the blocks' outputs.
        vocab_size: V, number of rows of the token embedding.
    """

    path: str
    blocks: nn.ModuleList
    hidden_dim: int
    vocab_size: int

    @contextmanager
    def hooked(self, hooks: Mapping[int, BlockHook]) -> Iterator[None]:
        """Call ``hooks[i]`` with every output of block i while the context is active.

        ``output_hidden_states`` would not do, because in many models its last entry is after the final norm.
        """
        with ExitStack() as stack:
            for layer, hook in hooks.items():
                handle = self.blocks[layer].register_forward_hook(self._forward_hook(layer, hook))
                stack.callback(handle.remove)
            yield

    def _forward_hook(self, layer: int, hook: BlockHook) -> Callable[[nn.Module, Any, Any], Any]:
        def run(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            # blocks return the hidden states alone or as the first of a tuple, depending on the model
            hidden = output[0] if isinstance(output, tuple) else output
            if not isinstance(hidden, Tensor) or hidden.ndim != 3 or hidden.shape[-1] != self.hidden_dim:
                actual = list(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
                raise ModelMismatchError(
                    f"base model: block {layer} of {self.path!r} outputs {actual}, expected hidden states "
                    f"[1, n_tokens, {self.hidden_dim}] (the reference does not support this architecture)"
                )
            changed = hook(hidden)
            if changed is None:
                return None
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return run


def find_decoder(model: nn.Module) -> DecoderStack:
    """Find the decoder blocks of a causal LM by their structure, not by their name.

    They are the ``nn.ModuleList`` with as many entries as the text config has layers. Lists in a sub-model with another
    config (vision and audio towers) and lists inside another candidate (the experts of a block) do not count. If
    several remain, a list of the text model itself comes first, then the one with the most parameters.

    Args:
        model: a transformers model, which may have text and vision parts.

    Returns:
        The stack.

    Raises:
        ModelMismatchError: the model is an encoder-decoder, or has no such list.
    """
    name = type(model).__name__
    config: Any = getattr(model, "config", None)
    if config is None:
        raise ModelMismatchError(f"base model {name}: has no config, expected a Hugging Face causal LM")
    if getattr(config, "is_encoder_decoder", False):
        raise ModelMismatchError(f"base model {name}: is an encoder-decoder, expected a decoder-only causal LM")
    decoder_config = text_config(config)
    num_layers = getattr(decoder_config, "num_hidden_layers", None)
    hidden_dim = getattr(decoder_config, "hidden_size", None)
    if not isinstance(num_layers, int) or not isinstance(hidden_dim, int):
        raise ModelMismatchError(
            f"base model {name}: config {type(decoder_config).__name__} lacks num_hidden_layers or hidden_size, "
            "expected the config of a decoder-only causal LM"
        )

    text_type = _model_type(decoder_config)  # sub-models hold copies of configs, so identity is no criterion
    candidates: list[tuple[bool, int, str, nn.ModuleList]] = []
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) != num_layers:
            continue
        owner = _owner_config(model, path)
        inside_another = any(path.startswith(f"{other}.") for _, _, other, _ in candidates)
        if inside_another or _model_type(text_config(owner)) != text_type:
            continue
        size = sum(parameter.numel() for parameter in module.parameters())
        candidates.append((_model_type(owner) == text_type, size, path, module))
    if not candidates:
        raise ModelMismatchError(
            f"base model {name}: no stack of decoder blocks found, expected an nn.ModuleList of {num_layers} modules"
        )
    _, _, path, blocks = max(candidates, key=lambda candidate: candidate[:2])
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]  # every transformers model has it
    return DecoderStack(path=path, blocks=blocks, hidden_dim=hidden_dim, vocab_size=embedding.weight.shape[0])


def text_config(config: Any) -> Any:
    """Return the config of the text decoder: a nested config in multimodal models, otherwise the config itself."""
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def _model_type(config: Any) -> str | None:
    return getattr(config, "model_type", None)


def _owner_config(model: nn.Module, path: str) -> Any:
    """Return the config of the innermost sub-model around the module at ``path``."""
    parts = path.split(".")
    for end in range(len(parts), -1, -1):
        module = model.get_submodule(".".join(parts[:end]))
        config = getattr(module, "config", None)
        # layers and attention modules often hold a reference to their model's config, which is the same
        if config is not None:
            return config
    raise AssertionError("the model itself has a config")
