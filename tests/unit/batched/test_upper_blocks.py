"""Training runs only the upper blocks: logits and gradients equal those of the whole model in two passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    MptConfig,
    MptForCausalLM,
    PreTrainedModel,
)

from metadeploy.batched.injection import injected
from metadeploy.batched.prefix import SharedPrefix
from metadeploy.batched.upper_blocks import UpperBlocks, selected_rows
from metadeploy.reference.base import FrozenBase
from metadeploy.reference.doubter import Doubter
from metadeploy.sidecar.spec import InjectFrom
from metadeploy.training.examples import Batch, CachedStates, Example, compute_states
from support.lessons import fresh_doubter, some_activations, some_examples
from support.tiny_models import BYTE_VOCAB_SIZE, KINDS, tiny_causal_lm
from tolerances import CUT_F32_INSIDE, CUT_F64

#: These compute softmax or recurrent states in float32, whatever the model's dtype.
F32_INSIDE = ("qwen3_5", "gemma2", "gemma4", "gpt_neo", "mpt")

_SIZES: dict[str, Any] = {
    "vocab_size": BYTE_VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
}
_MORE: dict[str, Any] = {**_SIZES, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}


def _gemma() -> PreTrainedModel:
    return GemmaForCausalLM(GemmaConfig(**_MORE))  # scales its input embeddings


def _gemma2() -> PreTrainedModel:
    return Gemma2ForCausalLM(Gemma2Config(**_MORE, sliding_window=8, query_pre_attn_scalar=8))  # and caps its logits


def _gemma4() -> PreTrainedModel:
    kinds = ["sliding_attention", "full_attention"] * 3
    own = {
        "hidden_size_per_layer_input": 0,
        "num_kv_shared_layers": 0,
    }  # unlike the small Gemma 4 models, see tests/unit/training/test_probe.py
    return Gemma4ForCausalLM(Gemma4TextConfig(**_MORE, **own, global_head_dim=8, sliding_window=8, layer_types=kinds))


def _gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(**_SIZES, n_positions=128))  # adds positions to its embeddings


def _falcon() -> PreTrainedModel:
    return FalconForCausalLM(FalconConfig(**_SIZES, new_decoder_architecture=False, multi_query=True))  # tuples


def _gpt_neo() -> PreTrainedModel:
    sizes = {**_SIZES, "num_heads": _SIZES["num_attention_heads"], "num_layers": 6, "max_position_embeddings": 128}
    del sizes["num_attention_heads"], sizes["num_hidden_layers"]
    return GPTNeoForCausalLM(GPTNeoConfig(**sizes, attention_types=[[["global"], 6]]))  # both


def _mpt() -> PreTrainedModel:
    sizes = {"vocab_size": BYTE_VOCAB_SIZE, "d_model": 32, "n_layers": 6, "n_heads": 4}
    return MptForCausalLM(MptConfig(**sizes))  # uses distances instead of positions


OTHERS: dict[str, Callable[[], PreTrainedModel]] = {
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma4": _gemma4,
    "gpt2": _gpt2,
    "falcon": _falcon,
    "gpt_neo": _gpt_neo,
    "mpt": _mpt,
}


def base_of(kind: str) -> FrozenBase:
    if kind in KINDS:
        model = tiny_causal_lm(kind)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = OTHERS[kind]()
            for parameter in model.parameters():
                parameter.data *= 3  # far enough from uniform for differences to show
    model.requires_grad_(False)
    return FrozenBase(model.double().eval())


def cut(
    base: FrozenBase,
    doubter: Doubter,
    examples: list[Example],
    kept: list[CachedStates],
    prefix: SharedPrefix,
    activations: Tensor,
    *,
    first_only: bool = False,
) -> tuple[Tensor, Batch]:
    """Return logits [n, V] at the targets, computed as in training, and the batch."""
    upper = UpperBlocks(base, min(doubter.config.cross_attn_layers) + 1)
    batch = Batch.of(examples, kept, first=upper.first, prefix=prefix, device=base.device, first_only=first_only)
    tokens = doubter(activations)
    with (
        upper.active(),
        injected(base, doubter, tokens, batch.injected),
        selected_rows(base.model, batch.rows, batch.positions),
    ):
        output = upper.forward(
            batch.hidden,
            position_ids=batch.position_ids,
            attention_mask=batch.attention_mask,
            past_key_values=batch.cache,
            use_cache=batch.cache is not None,
        )
    return output.logits[0], batch


def whole(base: FrozenBase, doubter: Doubter, examples: list[Example], activations: Tensor) -> Tensor:
    """Return the same logits from the whole model, one example at a time, without cache and padding."""
    rows = []
    for example, activation in zip(examples, activations, strict=True):
        n_prompt, ids = len(example.prompt_ids), [*example.prompt_ids, *example.target_ids[:-1]]
        where = torch.ones(1, len(ids), dtype=torch.bool)
        if doubter.config.inject_from == "last_prompt_token":
            where[:, : n_prompt - 1] = False
        with injected(base, doubter, doubter(activation[None]), where):
            output = base.model(input_ids=torch.tensor([ids]), use_cache=False)
        rows.append(output.logits[0, n_prompt - 1 :])
    return torch.cat(rows)


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Assert equality up to ``tolerance`` times the greatest value."""
    atol = tolerance * float(expected.detach().abs().max())
    torch.testing.assert_close(actual.detach(), expected.detach(), rtol=0, atol=atol)


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def gradients(doubter: Doubter, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    doubter.zero_grad()
    torch.nn.functional.cross_entropy(logits, targets).backward()
    gradient_of = {}
    for name, parameter in doubter.named_parameters():
        assert parameter.grad is not None, name
        gradient_of[name] = parameter.grad.clone()
    return gradient_of


@pytest.mark.parametrize("shared", [0, 5], ids=["no shared prefix", "shared prefix"])
@pytest.mark.parametrize("inject_from", ["prompt", "last_prompt_token"])
@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_logits_and_gradients_match_the_whole_model(kind: str, inject_from: InjectFrom, shared: int) -> None:
    base = base_of(kind)
    doubter = fresh_doubter(base, inject_from=inject_from).double().requires_grad_(True)
    examples = some_examples(7, vocab_size=BYTE_VOCAB_SIZE, shared=shared)
    activations = some_activations(7, doubter).double()

    from_last = inject_from == "last_prompt_token"
    prefix = SharedPrefix.of(base, [example.prompt_ids for example in examples]) if from_last else SharedPrefix.none()
    # caches that hold more than keys and values of all positions, and models that take no positions
    plain = kind not in ("qwen3_5", "gemma3", "gemma2", "gemma4", "mpt")
    assert len(prefix) == (shared if plain and from_last else 0)
    kept = compute_states(base, examples, first=4, inject_from=inject_from, prefix=prefix)
    assert [len(part.hidden) for part in kept] == [
        len(example.target_ids) + (0 if plain and from_last else len(example.prompt_ids) - 1) for example in examples
    ]

    tolerance = CUT_F32_INSIDE if kind in F32_INSIDE else CUT_F64
    expected = whole(base, doubter, examples, activations)
    actual, batch = cut(base, doubter, examples, kept, prefix, activations)
    assert float(expected.detach().std()) > 0.1
    assert_near(actual, expected, tolerance)
    expected_gradients = gradients(doubter, expected, batch.targets)
    found_gradients = gradients(doubter, actual, batch.targets)
    assert all(gradient.any() for gradient in expected_gradients.values())
    assert_near(flat(found_gradients), flat(expected_gradients), tolerance)

    # validation computes only the first target of each example
    with torch.no_grad():
        first, _ = cut(base, doubter, examples, kept, prefix, activations, first_only=True)
    assert_near(first, expected[batch.is_first], tolerance)


def test_the_base_is_as_before_afterwards() -> None:
    base = base_of("llama")
    blocks, before = list(base.stack.blocks), base.model(input_ids=torch.tensor([[1, 2, 3]])).logits
    upper = UpperBlocks(base, 4)
    with pytest.raises(RuntimeError, match="stop"), upper.active():
        assert [block is other for block, other in zip(base.stack.blocks, blocks, strict=True)] == 4 * [False] + 2 * [
            True
        ]
        raise RuntimeError("stop")
    assert all(block is other for block, other in zip(base.stack.blocks, blocks, strict=True))
    assert torch.equal(base.model(input_ids=torch.tensor([[1, 2, 3]])).logits, before)
    assert sum(len(module._forward_hooks) for module in base.model.modules()) == 0


def test_lower_blocks_are_not_run() -> None:
    base = base_of("llama")
    runs: list[int] = []
    for index, block in enumerate(base.stack.blocks):
        block.register_forward_hook(lambda _module, _inputs, _output, index=index: runs.append(index))
    upper = UpperBlocks(base, 4)
    runs.clear()
    with upper.active(), torch.no_grad():
        upper.forward(torch.zeros(1, 2, 64, dtype=torch.float64))
    assert runs == [4, 5]


def test_a_batch_by_itself_and_among_longer_ones() -> None:
    base = base_of("qwen3")
    doubter = fresh_doubter(base, inject_from="last_prompt_token").double()
    examples = some_examples(5, vocab_size=BYTE_VOCAB_SIZE)
    activations = some_activations(5, doubter).double()
    prefix = SharedPrefix.of(base, [example.prompt_ids for example in examples])
    kept = compute_states(base, examples, first=4, inject_from="last_prompt_token", prefix=prefix)
    with torch.no_grad():
        together, batch = cut(base, doubter, examples, kept, prefix, activations)
        for index in range(5):
            row = slice(index, index + 1)
            alone, _ = cut(base, doubter, examples[row], kept[row], prefix, activations[row])
            assert_near(together[batch.rows == index], alone, CUT_F64)


@pytest.mark.parametrize("inject_from", ["prompt", "last_prompt_token"])
def test_injection_after_the_last_block_alone(inject_from: InjectFrom) -> None:
    base = base_of("llama")
    doubter = fresh_doubter(base, inject_from=inject_from, cross_attn_layers=(5,)).double()
    examples = some_examples(4, vocab_size=BYTE_VOCAB_SIZE)
    activations = some_activations(4, doubter).double()
    prompts = [example.prompt_ids for example in examples]
    prefix = SharedPrefix.none() if inject_from == "prompt" else SharedPrefix.of(base, prompts)
    kept = compute_states(base, examples, first=6, inject_from=inject_from, prefix=prefix)
    with torch.no_grad():
        actual, _ = cut(base, doubter, examples, kept, prefix, activations)
        assert_near(actual, whole(base, doubter, examples, activations), CUT_F64)
