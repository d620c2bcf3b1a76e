"""The clean pass over a batch equals the reference pipeline's pass over each prompt alone."""

from __future__ import annotations

import random

import pytest
import torch

from metadeploy.batched.clean_pass import CleanPass
from metadeploy.batched.prefix import SharedPrefix, left_padded
from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline
from metadeploy.reference.base import FrozenBase
from support.random_wrapper import random_wrapper
from support.tiny_models import BYTE_VOCAB_SIZE, KINDS, byte_tokenizer, tiny_causal_lm
from tolerances import F32_LOGITS_MAX_ABS

LAYERS = (1, 2, 5)
HEAD = (60, 117, 115, 101, 114, 62)


def prompts_of(shared: int) -> list[list[int]]:
    draw = random.Random(1)
    lengths = (1, 2, 7, 7, 20, 31)
    prompts = [draw.choices(range(250), k=length) for length in lengths]
    return [[*HEAD[:shared], number, *rest] for number, rest in enumerate(prompts)]


@pytest.mark.parametrize("shared", [0, 6], ids=["no shared prefix", "shared prefix"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_each_alone(kind: str, shared: int) -> None:
    model = tiny_causal_lm(kind)
    pipe = MetaSpiderPipeline.from_pretrained(
        MetaSpiderConfig(model_name="tiny", device="cpu"), model=model, tokenizer=byte_tokenizer()
    )
    pipe.attach(
        Doubter.from_tensors(
            *random_wrapper("selective", hidden_dim=pipe.hidden_dim, target_layers=LAYERS, cross_attn_layers=(3,))
        )
    )
    base, prompts = FrozenBase(model), prompts_of(shared)
    prefix = SharedPrefix.of(base, prompts)
    assert len(prefix) == (shared if kind in ("llama", "qwen3") else 0)
    stop_ids = set(range(0, BYTE_VOCAB_SIZE, 9))
    clean_pass = CleanPass(base, layers=LAYERS, stop_ids=stop_ids, prefix=prefix)
    activations, answers = clean_pass.run(prompts, max_new_tokens=12, is_complete=lambda _, ids: len(ids) >= 10)
    assert activations.shape == (6, 3, pipe.hidden_dim)
    assert 0 < sum(answer.ended for answer in answers) < 6
    for prompt, row, answer in zip(prompts, activations, answers, strict=True):
        torch.testing.assert_close(row, pipe.activations(prompt), rtol=0, atol=F32_LOGITS_MAX_ABS)
        expected = pipe.generate_ids(prompt, 10, inject=False, stop_ids=sorted(stop_ids))
        assert list(answer.token_ids) == expected
        assert answer.ended == (len(expected) < 10)
        logits = pipe.logits([*prompt, *expected], inject=False)[len(prompt) - 1 : -1]
        logprobs = logits.log_softmax(-1).gather(1, torch.tensor(expected, dtype=torch.long)[:, None])[:, 0]
        assert list(answer.logprobs) == pytest.approx(logprobs.tolist(), abs=10 * F32_LOGITS_MAX_ABS)
    assert sum(len(module._forward_hooks) for module in model.modules()) == 0


def test_a_prefix_is_reused() -> None:
    base, prompts = FrozenBase(tiny_causal_lm("llama")), prompts_of(6)
    clean_pass = CleanPass(base, layers=LAYERS, stop_ids=set(), prefix=SharedPrefix.of(base, prompts))
    first = clean_pass.run(prompts[:3], max_new_tokens=4, is_complete=lambda *_: False)
    clean_pass.run(prompts[3:], max_new_tokens=4, is_complete=lambda *_: False)
    again = clean_pass.run(prompts[:3], max_new_tokens=4, is_complete=lambda *_: False)
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]


def test_the_prefix_leaves_a_token_of_each() -> None:
    base = FrozenBase(tiny_causal_lm("llama"))
    assert len(SharedPrefix.of(base, [[1, 2, 3], [1, 2, 3]])) == 2
    assert len(SharedPrefix.of(base, [[1, 2, 3], [1, 2, 3, 4, 5]])) == 2
    assert len(SharedPrefix.of(base, [[1], [1, 2]])) == 0
    assert len(SharedPrefix.of(base, [[1, 2, 3, 9], [1, 2, 4, 9], [1, 2, 3, 8]])) == 2


def test_padding_on_the_left() -> None:
    padded = left_padded([[5, 6, 7], [8]], None)
    assert padded.token_ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert padded.attention_mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert padded.position_ids[0].tolist() == [0, 1, 2]
    assert int(padded.position_ids[1, -1]) == 0
