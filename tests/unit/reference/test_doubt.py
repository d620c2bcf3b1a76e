"""Doubt in the PyTorch reference, on a tiny random model."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from metadeploy.errors import Error, ModelMismatchError
from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline
from metadeploy.reference.doubt import read_doubt, refusal_token
from support.random_wrapper import random_wrapper
from support.tiny_models import BYTE_VOCAB_SIZE, byte_tokenizer, tiny_causal_lm

PROMPTS = [[72, 101, 108, 108, 111], [32], [119, 111, 114, 108, 100, 63, 72, 101], list(range(60, 90))]
TOKEN = 17


def pipeline(**changes: Any) -> MetaSpiderPipeline:
    pipe = MetaSpiderPipeline.from_pretrained(
        MetaSpiderConfig(model_name="tiny", device="cpu"), model=tiny_causal_lm("llama"), tokenizer=byte_tokenizer()
    )
    config, tensors = random_wrapper(
        "selective", hidden_dim=pipe.hidden_dim, target_layers=(2, 4, 5), cross_attn_layers=(3, 5)
    )
    pipe.attach(Doubter.from_tensors(replace(config, **{"refusal_token_ids": (TOKEN, 5)} | changes), tensors))
    return pipe


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def first_token(pipe: MetaSpiderPipeline, prompt: list[int], **options: Any) -> int:
    return pipe.generate_ids(prompt, 1, stop_ids=(), **options)[0]


def test_a_reading_by_hand() -> None:
    logits = torch.tensor([-1.0, 2.0, 3.5, 3.0])
    reading = read_doubt(logits, 1, bias=0.5)
    assert (reading.refusal, reading.best_other) == (1, 2)
    assert reading.value == pytest.approx(sigmoid(2.0 - 3.5 + 0.5), abs=1e-15)
    assert read_doubt(logits, 2).value == pytest.approx(sigmoid(0.5), abs=1e-15)
    assert logits.tolist() == [-1.0, 2.0, 3.5, 3.0]
    assert read_doubt(logits.double(), 2).best_other == 3
    for threshold, token in ((0.0, 1), (reading.value, 1), (math.nextafter(reading.value, 1), 2), (1.0, 2)):
        assert reading.greedy_token(threshold) == token
    # threshold 1 never declines, even if doubt rounds to 1
    certain = read_doubt(torch.tensor([0.0, 500.0]), 1)
    assert (certain.value, certain.greedy_token(1.0)) == (1.0, 0)


@pytest.mark.parametrize("gain", [None, 0.5, 0.0])
def test_doubt_is_of_the_injected_logits_before_the_answer(gain: float | None) -> None:
    pipe = pipeline(refusal_bias=1.25)
    for prompt in PROMPTS:
        logits = pipe.logits(prompt, gain=gain)[-1].double()
        others = torch.cat([logits[:TOKEN], logits[TOKEN + 1 :]]).max()
        assert pipe.doubt(prompt, gain=gain) == pytest.approx(sigmoid(float(logits[TOKEN] - others) + 1.25), rel=1e-4)


@pytest.mark.parametrize("bias", [0.0, 3.0])
def test_the_threshold_decides(bias: float) -> None:
    pipe = pipeline(refusal_bias=bias)
    declined = 0
    for prompt in PROMPTS:
        doubt = pipe.doubt(prompt)
        best = pipe.logits(prompt)[-1]
        best[TOKEN] = -torch.inf
        for threshold in (0.0, 1e-3, 0.05, 0.2, 0.5, doubt - 1e-5, doubt + 1e-5, 1.0):
            token = first_token(pipe, prompt, doubt_threshold=threshold)
            assert token == (TOKEN if doubt >= threshold else int(best.argmax()))
            declined += token == TOKEN
    assert 8 < declined < 24


def test_a_bias_is_a_threshold() -> None:
    biased, plain = pipeline(refusal_bias=2.0), pipeline()
    for prompt in PROMPTS:
        expected = biased.generate_ids(prompt, 8, stop_ids=())
        assert plain.generate_ids(prompt, 8, stop_ids=(), doubt_threshold=sigmoid(-2.0)) == expected


def test_only_the_first_token_is_decided_so() -> None:
    answer = pipeline(refusal_bias=100.0).generate_ids(PROMPTS[0], 8, stop_ids=())
    assert answer[0] == TOKEN
    follow = pipeline().logits([*PROMPTS[0], *answer], n_prompt=len(PROMPTS[0]))[len(PROMPTS[0]) : -1].argmax(dim=-1)
    assert answer[1:] == follow.tolist()


def test_gain_0_is_the_base_exactly() -> None:
    pipe = pipeline(refusal_bias=100.0)
    base = pipe.generate_ids(PROMPTS[0], 8, inject=False)
    assert pipe.generate_ids(PROMPTS[0], 8, gain=0.0, doubt_threshold=0.0) == base
    assert pipe.doubt(PROMPTS[0], gain=0.0) > 0.99


def test_text() -> None:
    pipe = pipeline(refusal_token_ids=None, refusal_text="No.")
    assert pipe.generate("Hi", max_new_tokens=1, doubt_threshold=0.0) == "N"
    assert pipe.generate("Hi", max_new_tokens=1, doubt_threshold=1.0) != "N"


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan])
def test_thresholds_out_of_range(threshold: float) -> None:
    with pytest.raises(ValueError, match="expected 0 to 1"):
        pipeline().generate_ids(PROMPTS[0], 1, doubt_threshold=threshold)


def test_the_base_alone_does_not_doubt() -> None:
    pipe = pipeline()
    with pytest.raises(Error, match=r"the base answers alone \(inject=False\)"):
        pipe.generate_ids(PROMPTS[0], 1, inject=False, doubt_threshold=0.3)
    pipe.detach()
    with pytest.raises(Error, match="no Doubter is attached"):
        pipe.doubt(PROMPTS[0])


def test_tokens_of_another_vocabulary() -> None:
    with pytest.raises(ModelMismatchError, match=rf"has refusal token {BYTE_VOCAB_SIZE}, the base has a vocabulary of"):
        pipeline(refusal_token_ids=(0, BYTE_VOCAB_SIZE))


class Merging:
    """A tokenizer of words that merges a space with the next word."""

    words = ("\n", " No", "No", " ", ".")

    def decode(self, ids: list[int]) -> str:
        return "".join(self.words[i] for i in ids)

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        ids = []
        while text:
            ids.append(next((i for i, word in enumerate(self.words) if text.startswith(word)), -1))
            text = text[len(self.words[ids[-1]]) :] if ids[-1] >= 0 else text[1:]
        return {"input_ids": ids}


def test_the_first_token_of_a_refusal() -> None:
    config, _ = random_wrapper("selective", hidden_dim=8, target_layers=(0,), cross_attn_layers=(0,))
    for refusal, last, expected in (("No.", 0, 2), (" No.", 0, 1), ("No.", 3, 2), ("No.", 4, 2)):
        assert refusal_token(Merging(), replace(config, refusal_text=refusal), last_prompt_token=last) == expected
    stored = replace(config, refusal_text="No.", refusal_token_ids=(7, 8))
    assert refusal_token(Merging(), stored, last_prompt_token=0) == 7
    with pytest.raises(Error, match="returns no token for the refusal ''"):
        refusal_token(Merging(), replace(config, refusal_text=""), last_prompt_token=0)
