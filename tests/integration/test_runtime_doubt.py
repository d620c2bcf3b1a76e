"""Doubt in MetaLlama with a tiny random base: its value, and the decision by a threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from metadeploy import Error, MetaLlama, ModelMismatchError
from metadeploy.sidecar import read_sidecar, write_sidecar
from support.gguf_tools import write_tiny_gguf
from support.program import TinyCase

PROMPTS = ("hello", "What is the capital of France?", "x", "Größe", "1 + 1 =")
#: The tiny base has one token for each byte, so this one begins every refusal that begins with I.
REFUSAL_BYTE = "I"

Variant = Callable[..., Path]


@pytest.fixture
def variant(tiny_case: TinyCase, tmp_path: Path) -> Variant:
    """The tiny sidecar with other settings."""

    def write(**changes: object) -> Path:
        source = read_sidecar(tiny_case.sidecar)
        path = tmp_path / f"variant{len(list(tmp_path.iterdir()))}.gguf"
        write_sidecar(path, replace(source.config, **changes), source.tensors)  # type: ignore[arg-type]
        return path

    return write


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def margin(llm: MetaLlama, prompt: str, token: int, *, gain: float = 1.0) -> float:
    logits = llm.logits(llm.tokenize(prompt), gain=gain)[-1].astype(np.float64)
    return float(logits[token] - np.delete(logits, token).max())


def first_token(llm: MetaLlama, prompt: str | Sequence[int], **options: float) -> int:
    return llm.generate(prompt, max_tokens=1, **options).token_ids[0]  # type: ignore[arg-type]


@pytest.fixture
def refusal(llm: MetaLlama) -> int:
    (token,) = llm.tokenize(REFUSAL_BYTE, add_special=False)
    return token


# --- what it is ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [1.0, 0.5, -1.0, 0.0])
def test_it_is_the_sigmoid_of_the_refusals_margin(gain: float, llm: MetaLlama, refusal: int) -> None:
    for prompt in PROMPTS:
        expected = sigmoid(margin(llm, prompt, refusal, gain=gain))
        assert llm.doubt(prompt, gain=gain) == pytest.approx(expected, rel=1e-5)
        assert llm.generate(prompt, max_tokens=3, gain=gain).doubt == llm.doubt(prompt, gain=gain)


def test_tokens_and_bias_of_the_sidecar(llm: MetaLlama, variant: Variant) -> None:
    token = 17
    llm.attach(variant(refusal_token_ids=(token, 3), refusal_bias=-1.5))
    for prompt in PROMPTS:
        assert llm.doubt(prompt) == pytest.approx(sigmoid(margin(llm, prompt, token) - 1.5), rel=1e-5)


def test_prompts_of_every_form(llm: MetaLlama) -> None:
    expected = llm.doubt("hello")
    assert llm.doubt("hello", raw=True) == expected  # this template adds nothing
    assert llm.doubt([{"role": "user", "content": "hello"}]) == expected
    assert llm.doubt(llm.tokenize("hello")) == expected


def test_streams_know_it_from_the_first_chunk_on(llm: MetaLlama) -> None:
    chunks = list(llm.stream("hello", max_tokens=4))
    assert [chunk.doubt for chunk in chunks] == [llm.doubt("hello")] * len(chunks)
    assert llm.generate("hello", max_tokens=0).doubt == llm.doubt("hello")


def test_the_base_alone_has_none(llm: MetaLlama) -> None:
    assert llm.generate("hello", max_tokens=1, inject=False).doubt is None
    llm.detach()
    assert llm.generate("hello", max_tokens=1).doubt is None
    with pytest.raises(Error, match="readings of doubt need a sidecar, none is attached"):
        llm.doubt("hello")


def test_it_depends_on_neither_threshold_nor_sampling(llm: MetaLlama) -> None:
    expected = llm.doubt("hello")
    for threshold in (0.0, 0.2, 1.0):
        result = llm.generate("hello", max_tokens=2, doubt_threshold=threshold, temperature=3.0, repeat_penalty=1.3)
        assert result.doubt == expected


# --- the threshold ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [0.0, 2.25, -0.75])
def test_the_threshold_decides(bias: float, llm: MetaLlama, variant: Variant, refusal: int) -> None:
    llm.attach(variant(refusal_bias=bias))
    n_declined = 0
    for prompt in PROMPTS:
        doubt = llm.doubt(prompt)
        for threshold in (0.001, 0.01, 0.1, 0.5, 0.9, doubt, math.nextafter(doubt, 1.0), math.nextafter(doubt, 0.0)):
            declined = first_token(llm, prompt, doubt_threshold=threshold) == refusal
            assert declined == (doubt >= threshold), (prompt, doubt, threshold)
            n_declined += declined
    assert 10 < n_declined < 30


def test_always_and_never(llm: MetaLlama, variant: Variant, refusal: int) -> None:
    for bias in (-100.0, 100.0):
        llm.attach(variant(refusal_bias=bias))
        for options in ({}, {"temperature": 2.0, "seed": 7, "repeat_penalty": 1.5, "min_p": 0.0, "top_p": 1.0}):
            for prompt in PROMPTS:
                assert first_token(llm, prompt, doubt_threshold=0.0, **options) == refusal
                assert first_token(llm, prompt, doubt_threshold=1.0, **options) != refusal


def test_never_takes_the_most_likely_of_the_others(llm: MetaLlama, variant: Variant, refusal: int) -> None:
    llm.attach(variant(refusal_bias=100.0))
    assert first_token(llm, "hello") == refusal
    logits = llm.logits(llm.tokenize("hello"))[-1]
    logits[refusal] = -np.inf
    assert first_token(llm, "hello", doubt_threshold=1.0) == logits.argmax()


def test_a_bias_is_a_threshold(llm: MetaLlama, tiny_case: TinyCase, variant: Variant) -> None:
    """A bias b at threshold 0.5 acts like no bias at threshold sigmoid(-b), with greedy decoding and with sampling."""
    for bias in (-2.0, 3.0):
        biased = variant(refusal_bias=bias)
        for prompt in PROMPTS:
            for options in ({}, {"temperature": 1.5, "seed": 3}):
                llm.attach(biased)
                expected = llm.generate(prompt, max_tokens=12, **options).token_ids  # type: ignore[arg-type]
                llm.attach(tiny_case.sidecar)
                threshold = sigmoid(-bias)
                result = llm.generate(prompt, max_tokens=12, doubt_threshold=threshold, **options)  # type: ignore[arg-type]
                assert result.token_ids == expected


def test_sampled_odds_shift_by_the_bias(llm: MetaLlama, refusal: int) -> None:
    """At temperature 1, the proportion of refusals equals the softmax probability with the refusal's logit shifted."""
    logits = llm.logits(llm.tokenize("hello"))[-1].astype(np.float64)
    threshold = 0.01
    logits[refusal] -= math.log(threshold / (1 - threshold))
    expected = float(np.exp(logits[refusal] - logits.max()) / np.exp(logits - logits.max()).sum())
    n = 400
    options = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "doubt_threshold": threshold}
    ids = llm.tokenize("hello")
    answers = [llm.generate(ids, max_tokens=1, **options, seed=seed).token_ids for seed in range(n)]
    share = answers.count((refusal,)) / n  # other answers may be empty, if the model ends at once
    assert 0.1 < expected < 0.9
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_only_the_first_token_is_moved(llm: MetaLlama, refusal: int) -> None:
    """Greedy tokens are the most likely ones by the model's log-probabilities, except the first one."""
    items = llm.generate("hello", max_tokens=30, doubt_threshold=0.0, logprobs=1).logprobs
    assert items is not None
    assert items[0].token_id == refusal != items[0].top[0][0]
    assert [item.token_id for item in items[1:]] == [item.top[0][0] for item in items[1:]]
    assert len({item.token_id for item in items}) > 4  # the text does not repeat itself, which would hide mistakes


def test_gain_0_is_the_base_exactly(llm: MetaLlama, variant: Variant) -> None:
    llm.attach(variant(refusal_bias=100.0))
    for prompt in PROMPTS:
        base = llm.generate(prompt, max_tokens=8, inject=False)
        silent = llm.generate(prompt, max_tokens=8, gain=0.0, doubt_threshold=0.1)
        assert silent.token_ids == base.token_ids
        assert silent.doubt is not None
        assert silent.doubt > 0.99  # still reported, with the bias


def test_logprobs_are_the_models_own(llm: MetaLlama) -> None:
    plain = llm.generate("hello", max_tokens=1, logprobs=300).logprobs
    moved = llm.generate("hello", max_tokens=1, logprobs=300, doubt_threshold=0.0).logprobs
    assert plain is not None and moved is not None
    assert moved[0].top == plain[0].top
    assert moved[0].token_id != plain[0].token_id


@pytest.mark.parametrize("threshold", [-0.01, 1.01, math.nan, math.inf])
def test_thresholds_out_of_range(threshold: float, llm: MetaLlama) -> None:
    with pytest.raises(ValueError, match=r"doubt_threshold is .*, expected 0 to 1"):
        llm.generate("hello", doubt_threshold=threshold)


def test_a_threshold_where_the_base_answers_alone(llm: MetaLlama) -> None:
    with pytest.raises(Error, match="but the base answers alone: the injection is off"):
        llm.generate("hello", inject=False, doubt_threshold=0.3)
    llm.detach()
    with pytest.raises(Error, match="but the base answers alone: no sidecar is attached"):
        llm.generate("hello", doubt_threshold=0.3)


def test_openai_shapes(llm: MetaLlama, refusal: int) -> None:
    expected = llm.doubt("hello")
    messages = [{"role": "user", "content": "hello"}]
    chat = llm.create_chat_completion(messages, max_tokens=1, doubt_threshold=0.0)  # type: ignore[arg-type]
    assert chat["choices"][0]["doubt"] == expected
    assert chat["choices"][0]["message"]["content"] == REFUSAL_BYTE
    assert llm.create_completion("hello", max_tokens=1)["choices"][0]["doubt"] == expected
    assert llm.create_completion("hello", max_tokens=1, inject=False)["choices"][0]["doubt"] is None


# --- what token a refusal begins with --------------------------------------------------------------------------------

WORD, SPACED_WORD, SPACE = 248, 249, 250


def write_sentencepiece(path: Path, source: Path) -> None:
    """Write the tiny base with a SentencePiece vocabulary, which puts a space before every text."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, arch="llama")
    for field in reader.fields.values():
        if field.name.startswith(("GGUF.", "tokenizer.")) or field.name == "general.architecture":
            continue
        writer.add_key_value(field.name, field.contents(), field.types[0])
    types, tokens = gguf.TokenType, ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [types.UNKNOWN, types.CONTROL, types.CONTROL, *[types.BYTE] * 256]
    # these replace bytes that never occur in UTF-8
    for at, token in enumerate(("I", "▁I", "▁", "a", ":"), start=WORD):
        tokens[at], kinds[at] = token, types.NORMAL
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def spaced(tiny_case: TinyCase, tmp_path: Path) -> Iterator[MetaLlama]:
    write_sentencepiece(tmp_path / "spaced.gguf", tiny_case.base)
    with MetaLlama(tmp_path / "spaced.gguf", tiny_case.sidecar, n_threads=1, flash_attn=False) as llm:
        yield llm


def test_the_refusal_is_tokenized_after_the_prompt(spaced: MetaLlama) -> None:
    assert spaced.tokenize("I", add_special=False) == [SPACED_WORD]  # with the space before every text
    assert spaced.tokenize("a:I", add_special=False)[-2:] == [WORD + 4, WORD]
    # without that space after a colon or a line break, with it after a control token
    for prompt, token in (("a:", WORD), ("a\n", WORD), ("a</s>", SPACED_WORD)):
        ids = spaced.tokenize(prompt)
        assert first_token(spaced, ids, doubt_threshold=0.0) == token, prompt


def test_a_refusal_that_grows_together_with_the_prompt(spaced: MetaLlama) -> None:
    """After a space, the two would become one token. The refusal is then tokenized alone."""
    ids = [*spaced.tokenize("a"), SPACE]
    assert first_token(spaced, ids, doubt_threshold=0.0) == SPACED_WORD


def test_tokens_of_another_vocabulary(llm: MetaLlama, variant: Variant) -> None:
    with pytest.raises(ModelMismatchError, match=r"has refusal token 259, the model has a vocabulary of 259 \(wrong"):
        llm.attach(variant(refusal_token_ids=(3, 259)))


def test_a_model_without_vocabulary(tiny_case: TinyCase, variant: Variant, tmp_path: Path) -> None:
    path = tmp_path / "ids-only.gguf"
    write_tiny_gguf(path, seed=3, vocabulary=False)
    with MetaLlama(path, tiny_case.sidecar, n_threads=1, flash_attn=False) as llm:
        with pytest.raises(Error, match="does not say the refusal's tokens"):
            llm.doubt([1, 2, 3])
        for call in (llm.generate, llm.doubt):
            with pytest.raises(Error, match=r"the model has no (vocabulary|chat template)"):
                call("hello")
        with pytest.raises(Error, match="the model has no vocabulary"):
            llm.generate([1, 2, 3])
        llm.attach(variant(refusal_token_ids=(17,)))
        with tiny_case.load() as same:
            same.attach(variant(refusal_token_ids=(17,)))
            assert llm.doubt([1, 2, 3]) == same.doubt([1, 2, 3])
