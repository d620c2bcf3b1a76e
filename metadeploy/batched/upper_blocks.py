"""Run only the upper blocks of a model, which the injection can change, on cached hidden states.

Below the lowest cross-attention layer nothing depends on the wrapper, so the outputs of those blocks are computed once
and cached. The model's own forward still runs (masks, rotary embeddings, final norm, scaling of logits), but it skips
the lower blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from metadeploy.errors import ModelMismatchError, faults_message
from metadeploy.reference.base import FrozenBase
from metadeploy.reference.decoder import text_config

__all__ = ["UpperBlocks", "UpperInputs", "cut_faults", "selected_rows"]


def cut_faults(base: FrozenBase) -> list[str]:
    """Return faults if the upper blocks of a base cannot run alone, because they need more than hidden states."""
    config = text_config(base.model.config)
    faults = []
    if width := getattr(config, "hidden_size_per_layer_input", 0):
        faults.append(
            f"each block has token embeddings of its own (hidden_size_per_layer_input is {width}), expected blocks "
            "that take hidden states alone"
        )
    if shared := getattr(config, "num_kv_shared_layers", 0):
        faults.append(
            f"the last {shared} blocks use the keys and values of blocks below (num_kv_shared_layers), expected blocks "
            "that compute their own"
        )
    return faults


class UpperInputs(Protocol):
    """The inputs of the upper blocks for a batch."""

    @property
    def hidden(self) -> Tensor:
        """Output of block ``first - 1``, [B, T, D]."""

    @property
    def position_ids(self) -> Tensor:
        """Positions, [B, T]."""

    @property
    def attention_mask(self) -> Tensor:
        """Attention mask, [B, n_past + T]."""

    @property
    def cache(self) -> Any:
        """Keys and values of the n_past positions before; None if there are none."""


class UpperBlocks:
    """A base that runs only its blocks from ``first`` on.

    Attributes:
        base: the frozen base.
        first: the lowest block that is run; at least 1.
    """

    def __init__(self, base: FrozenBase, first: int) -> None:
        """Prepare to cut ``base`` below block ``first``; the cut takes effect inside ``active``.

        Raises:
            ModelMismatchError: the upper blocks of this model need more than hidden states from below.
        """
        if faults := cut_faults(base):
            name = type(base.model).__name__
            raise ModelMismatchError(
                f"{faults_message(f'base model {name}', faults)}\n"
                "(hint: metadeploy train runs the upper blocks alone, which this model does not allow: take another)"
            )
        self.base = base
        self.first = first
        self._hidden: Tensor | None = None
        self._n_beside = _outputs_beside_hidden(base)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Skip the base's lower blocks while the context is active; afterward the base is unchanged."""
        blocks = self.base.stack.blocks
        lower = list(blocks[: self.first])
        try:
            for index, block in enumerate(lower):
                blocks[index] = _SkippedBlock(block, self._output)
            yield
        finally:
            for index, block in enumerate(lower):
                blocks[index] = block

    def forward(self, hidden: Tensor, **options: Any) -> Any:
        """Run the upper blocks, only inside ``active``.

        Args:
            hidden: [B, T, D] output of block ``first - 1``.
            options: attention mask, position ids and cache for the transformers model.

        Returns:
            The model's output.
        """
        self._hidden = hidden
        try:
            return self.base.model(inputs_embeds=hidden, **options)
        finally:
            self._hidden = None

    def logits(self, batch: UpperInputs, rows: Tensor, positions: Tensor) -> Tensor:
        """Return the logits [n, V] at some positions of a batch, only inside ``active``.

        The batch's cache can be used only once.

        Args:
            batch: examples with their cached states.
            rows: [n] indices into the batch.
            positions: [n] positions in its hidden states.
        """
        with selected_rows(self.base.model, rows, positions):
            output = self.forward(
                batch.hidden,
                position_ids=batch.position_ids,
                attention_mask=batch.attention_mask,
                past_key_values=batch.cache,
                use_cache=batch.cache is not None,
            )
        logits: Tensor = output.logits[0]
        return logits

    def _output(self) -> Any:
        """Return the output of every lower block in the form that the model expects."""
        assert self._hidden is not None
        return (self._hidden, *[None] * self._n_beside) if self._n_beside is not None else self._hidden


class _SkippedBlock(nn.Module):
    """Replaces a lower block, and returns the cached hidden states for any input.

    It does not return its input, because some models scale their embeddings or add positions to them.
    """

    def __init__(self, block: nn.Module, output: Callable[[], Any]) -> None:
        super().__init__()
        self._block = [block]  # in a list, so that it does not become a submodule
        self._output = output

    def __getattr__(self, name: str) -> Any:
        # some models read attributes of a block, such as its kind of attention, before they call it
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_block"][0], name)

    def forward(self, *_inputs: Any, **_options: Any) -> Any:
        return self._output()


def _outputs_beside_hidden(base: FrozenBase) -> int | None:
    """Return the number of other values in the output tuples of blocks; None if blocks return no tuples."""
    outputs: list[Any] = []
    handle = base.stack.blocks[0].register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        base.forward([0], injection=None, last_only=True)
    finally:
        handle.remove()
    return len(outputs[0]) - 1 if isinstance(outputs[0], tuple) else None


@contextmanager
def selected_rows(model: Any, rows: Tensor, positions: Tensor) -> Iterator[None]:
    """Let a model compute only the logits of some positions: [1, n, V], in the given order.

    Args:
        model: a transformers model.
        rows: [n] indices into the batch.
        positions: [n] positions in the sequences.
    """

    def select(_module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        hidden = inputs[0]
        # the gradient of index_select is many times cheaper than that of indexing with two tensors
        return (hidden.flatten(0, 1).index_select(0, rows * hidden.shape[1] + positions)[None], *inputs[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
