"""MetaLlama with a tiny random base: answers, shapes and errors. No test here needs a download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metadeploy import Error, GenerationResult, MetaLlama, SidecarError
from metadeploy.errors import ContextOverflowError, ModelLoadError, ModelMismatchError
from support.program import TinyCase

PROMPT = "What is the capital of France?"


# --- answers ---------------------------------------------------------------------------------------------------------


def test_result(llm: MetaLlama) -> None:
    result = llm.generate(PROMPT, max_tokens=12)
    assert isinstance(result, GenerationResult)
    assert len(result.token_ids) == result.timings.n_generated == 12
    assert result.text == llm.detokenize(result.token_ids)
    assert result.finish_reason == "length"
    assert result.abstained is False
    assert result.logprobs is None
    assert result.gain == 1.0
    times = result.timings
    assert times.n_prompt == len(PROMPT)
    assert min(times.pass1_ms, times.encode_ms, times.pass2_ms, times.decode_ms) > 0
    assert times.tokens_per_second == pytest.approx(12e3 / times.decode_ms)


def test_base_alone(llm: MetaLlama) -> None:
    base = llm.generate(PROMPT, max_tokens=12, inject=False)
    assert (base.gain, base.timings.encode_ms, base.timings.pass2_ms) == (0.0, 0.0, 0.0)
    assert base.token_ids != llm.generate(PROMPT, max_tokens=12).token_ids
    llm.detach()
    assert llm.generate(PROMPT, max_tokens=12).token_ids == base.token_ids
    assert llm.generate(PROMPT, max_tokens=12).gain == 0.0


def test_stream_is_generate_in_pieces(llm: MetaLlama) -> None:
    chunks = list(llm.stream(PROMPT, max_tokens=20, logprobs=1))
    result = llm.generate(PROMPT, max_tokens=20, logprobs=1)
    streamed = chunks[-1].result
    assert streamed is not None
    assert [chunk.result for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert (streamed.text, streamed.token_ids, streamed.logprobs) == (result.text, result.token_ids, result.logprobs)
    assert "".join(chunk.text for chunk in chunks) == result.text
    assert tuple(token for chunk in chunks for token in chunk.token_ids) == result.token_ids
    assert tuple(item for chunk in chunks for item in chunk.logprobs or ()) == result.logprobs
    assert "\ufffd" not in "".join(chunk.text for chunk in chunks[:-1]) or "\ufffd" in result.text


def test_prompts_of_every_form_are_the_same(llm: MetaLlama) -> None:
    expected = llm.generate(PROMPT, max_tokens=8).token_ids
    assert llm.generate([{"role": "user", "content": PROMPT}], max_tokens=8).token_ids == expected
    assert llm.generate(llm.tokenize(PROMPT), max_tokens=8).token_ids == expected
    assert llm.generate(PROMPT, raw=True, max_tokens=8).token_ids == expected  # this template adds nothing
    assert llm.apply_chat_template([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]) == "ab"


def test_chat_template_of_the_caller(tiny_case: TinyCase) -> None:
    with tiny_case.load(chat_template="chatml") as llm:
        assert llm.apply_chat_template([{"role": "user", "content": "x"}]) == (
            "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
        )


def test_invalid_templates(tiny_case: TinyCase) -> None:
    with pytest.raises(Error, match=r"chat template: not valid Jinja \(give another"):
        tiny_case.load(chat_template="{{")


def test_max_tokens(llm: MetaLlama) -> None:
    nothing = llm.generate(PROMPT, max_tokens=0, logprobs=0)
    assert (nothing.text, nothing.token_ids, nothing.finish_reason, nothing.logprobs) == ("", (), "length", ())
    assert nothing.timings.pass2_ms > 0
    with pytest.raises(ValueError, match="max_tokens is -1, expected 0 or more, or None"):
        llm.generate(PROMPT, max_tokens=-1)


def test_until_the_context_is_full(llm: MetaLlama) -> None:
    result = llm.generate("x" * 250, max_tokens=None)
    assert result.finish_reason == "length"
    assert result.timings.n_prompt + result.timings.n_generated == llm.n_ctx + 1  # the last one need not fit


def test_stop_strings(llm: MetaLlama) -> None:
    whole = llm.generate(PROMPT, max_tokens=40)
    # a random model's text is full of U+FFFD, which replaces bytes that no stop string can contain
    at = next(i for i in range(8, len(whole.text)) if whole.text[i : i + 2].isascii())
    stop = whole.text[at : at + 2]
    at = whole.text.index(stop)
    for form in (stop, [stop], ["never there", stop]):
        result = llm.generate(PROMPT, max_tokens=40, stop=form)
        assert result.text == whole.text[:at]
        assert result.finish_reason == "stop"
        assert len(result.token_ids) < len(whole.token_ids)
    assert "".join(chunk.text for chunk in llm.stream(PROMPT, max_tokens=40, stop=stop)) == whole.text[:at]
    assert llm.generate(PROMPT, max_tokens=40, stop="").text == whole.text


def test_sampling(llm: MetaLlama) -> None:
    def tokens(**options: object) -> tuple[int, ...]:
        return llm.generate(PROMPT, max_tokens=20, **options).token_ids  # type: ignore[arg-type]

    greedy = tokens()
    assert tokens(seed=1) == tokens(seed=2) == greedy
    assert tokens(temperature=2.0, seed=1) == tokens(temperature=2.0, seed=1)
    assert tokens(temperature=2.0, seed=1) != tokens(temperature=2.0, seed=2)
    assert tokens(temperature=2.0, seed=1, top_k=1) == greedy
    assert tokens(temperature=2.0, seed=-1) == tokens(temperature=2.0, seed=-1)
    assert tokens(repeat_penalty=5.0) != greedy
    with pytest.raises(Error, match="repeat penalty"):
        tokens(repeat_penalty=0.0)


# --- log-probabilities -----------------------------------------------------------------------------------------------


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def test_logprobs_are_a_distribution(llm: MetaLlama) -> None:
    result = llm.generate(PROMPT, max_tokens=3, logprobs=llm.n_vocab + 5)
    assert result.logprobs is not None
    for item, token in zip(result.logprobs, result.token_ids, strict=True):
        assert item.token_id == token
        values = [logprob for _, _, logprob in item.top]
        assert len(values) == llm.n_vocab
        assert values == sorted(values, reverse=True)
        assert np.exp(values).sum() == pytest.approx(1.0, abs=1e-4)
        assert item.logprob == values[0]  # greedy
        assert item.top[0][:2] == (item.token_id, item.text)
    few = llm.generate(PROMPT, max_tokens=3, logprobs=2).logprobs
    assert few is not None
    assert [item.top for item in few] == [item.top[:2] for item in result.logprobs]


def test_logprobs_match_the_logits(llm: MetaLlama) -> None:
    ids = llm.tokenize(PROMPT)
    for inject in (False, True):
        result = llm.generate(PROMPT, max_tokens=10, logprobs=0, inject=inject)
        assert result.logprobs is not None
        # with injection, the cognitive tokens depend on the prompt only
        n = 10 if not inject else 1
        logits = llm.logits([*ids, *result.token_ids][: len(ids) + n - 1], inject=inject)[len(ids) - 1 :]
        expected = log_softmax(logits)[range(n), result.token_ids[:n]]
        np.testing.assert_allclose([item.logprob for item in result.logprobs[:n]], expected, atol=1e-4)
        assert (logits.argmax(axis=-1) == result.token_ids[:n]).all()


# --- text and tokens -------------------------------------------------------------------------------------------------


def test_tokens_round_trip(llm: MetaLlama) -> None:
    for text in ("hello", "Größe, 首都, 😀", " a\n\tb ", ""):
        assert llm.detokenize(llm.tokenize(text)) == text
    special = llm.tokenize("<eos>")
    assert len(special) == 1
    assert llm.detokenize(special) == ""
    assert llm.detokenize(special, special=True) == "<eos>"
    assert len(llm.tokenize("<eos>", parse_special=False)) == 5
    with pytest.raises(Error, match=r"token 100000 is not in the vocabulary of 259"):
        llm.detokenize([100000])
    with pytest.raises(Error, match=r"token -1 is not in the vocabulary"):
        llm.detokenize([-1])


# --- activations, logits and layer outputs ---------------------------------------------------------------------------


def test_shapes_of_results(llm: MetaLlama) -> None:
    ids = llm.tokenize(PROMPT)
    n = len(ids)
    for array, shape in (
        (llm.activations(PROMPT), (3, 32)),
        (llm.cognitive_tokens(PROMPT), (3, 32)),
        (llm.logits(ids), (n, 259)),
        (llm.layer_outputs(ids, [2, 0]), (2, n, 32)),
        (llm.cognitive_attention(PROMPT), (2, n, 4, 3)),
    ):
        assert (array.shape, array.dtype) == (shape, np.float32)
        assert np.isfinite(array).all()
    np.testing.assert_allclose(llm.cognitive_attention(PROMPT).sum(axis=-1), 1.0, atol=1e-5)
    assert (llm.n_embd, llm.n_layer, llm.n_vocab, llm.n_ctx) == (32, 3, 259, llm.n_ctx)
    assert (llm.target_layers, llm.cross_attn_layers) == ((0, 1, 2), (1, 2))
    assert sorted(llm.gates) == [1, 2]
    assert all(-1 < gate < 1 for gate in llm.gates.values())


def test_activations_are_the_outputs_of_the_layers(llm: MetaLlama) -> None:
    ids = llm.tokenize(PROMPT)
    clean = llm.layer_outputs(ids, [0, 1, 2], inject=False)
    np.testing.assert_allclose(llm.activations(ids), clean[:, -1], atol=1e-4)
    injected = llm.layer_outputs(ids, [0, 1, 2])
    np.testing.assert_array_equal(injected[0], clean[0])  # below the first layer of the injection
    assert np.abs(injected[1] - clean[1]).max() > 1e-2


def test_one_layer_at_a_time(llm: MetaLlama) -> None:
    """llama.cpp reuses the previous call's graph. A graph that captures other layers must not be taken for it."""
    ids = llm.tokenize(PROMPT)
    for options in ({"inject": False}, {"gain": 0.0}, {}):
        by_layer = [llm.layer_outputs(ids, [il], **options) for il in range(llm.n_layer)]  # type: ignore[arg-type]
        together = llm.layer_outputs(ids, list(range(llm.n_layer)), **options)  # type: ignore[arg-type]
        np.testing.assert_array_equal(np.concatenate(by_layer), together)


def test_without_a_sidecar_there_is_nothing_to_show(llm: MetaLlama) -> None:
    llm.detach()
    assert (llm.gates, llm.target_layers, llm.cross_attn_layers) == ({}, (), ())
    assert llm.refusal_text.startswith("I'm not confident")
    for call in (llm.activations, llm.cognitive_tokens, llm.cognitive_attention):
        with pytest.raises(Error, match="need a sidecar, none is attached"):
            call(PROMPT)
    assert llm.layer_outputs(llm.tokenize("ab"), [0]).shape == (1, 2, 32)


# --- errors ----------------------------------------------------------------------------------------------------------


def test_bad_prompts(llm: MetaLlama) -> None:
    for empty in ("", [], ()):
        with pytest.raises(Error, match="the prompt is empty"):
            llm.generate(empty)
    with pytest.raises(Error, match="prompt token 259 is not in the vocabulary of 259"):
        llm.generate([1, 259])
    with pytest.raises(Error, match="raw needs a text, got messages"):
        llm.generate([{"role": "user", "content": "x"}], raw=True)
    for bad in (
        [{"role": "user"}],
        [{"content": "x"}],
        [{"role": "user", "content": None}],
        [{"role": 1, "content": "x"}],
    ):
        with pytest.raises(Error, match="message 0 of the conversation: expected the strings 'role' and 'content'"):
            llm.generate(bad)  # type: ignore[arg-type]
    assert llm.generate(PROMPT, max_tokens=1).token_ids


def test_a_prompt_longer_than_the_context(llm: MetaLlama) -> None:
    n = llm.n_ctx
    assert llm.generate("x" * n, max_tokens=1).timings.n_prompt == n
    for call in (llm.generate, llm.activations, llm.cognitive_tokens, llm.cognitive_attention):
        with pytest.raises(ContextOverflowError, match=rf"the prompt has {n + 1} tokens, the context {n}"):
            call("x" * (n + 1))
    with pytest.raises(ContextOverflowError):
        llm.logits([1] * (n + 1))
    with pytest.raises(ContextOverflowError):
        llm.layer_outputs([1] * (n + 1), [0])
    with pytest.raises(Error, match="layer 3 does not exist, the model has layers 0 to 2"):
        llm.layer_outputs([1, 2], [3])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"n_ctx": -1}, "n_ctx is -1"),
        ({"n_batch": 0}, "n_batch is 0"),
        ({"n_ubatch": 0}, "n_ubatch is 0"),
        ({"n_threads": 0}, "n_threads is 0"),
        ({"hidden_cache_mib": -1}, "hidden_cache_mib is -1, expected 0 or more"),
        ({"prefix_cache_mib": -1}, "prefix_cache_mib is -1, expected 0 or more"),
        ({"type_k": "f31"}, "cache type is 'f31', expected f32, f16"),
        ({"flash_attn": "maybe"}, "flash_attn is 'maybe', expected auto, on or off"),
    ],
)
def test_bad_options(options: dict[str, object], expected: str, tiny_case: TinyCase) -> None:
    with pytest.raises(ValueError, match=expected):
        MetaLlama(tiny_case.base, **options)  # type: ignore[arg-type]


def test_files_that_cannot_be_loaded(tiny_case: TinyCase, tmp_path: Path) -> None:
    text = tmp_path / "text.gguf"
    text.write_text("this is not a GGUF", encoding="utf-8")
    with pytest.raises(ModelLoadError, match=r"model '.*absent\.gguf': no such file"):
        MetaLlama(tmp_path / "absent.gguf")
    with pytest.raises(ModelLoadError, match=r"model '.*text\.gguf': llama\.cpp cannot load it: invalid magic"):
        MetaLlama(text)
    with pytest.raises(ModelLoadError, match="unknown model architecture: 'meta-spider'"):
        MetaLlama(tiny_case.sidecar)
    with pytest.raises(SidecarError, match="does not exist"):
        MetaLlama(tiny_case.base, tmp_path / "absent.gguf")
    with pytest.raises(SidecarError, match="a base model, not a sidecar"):
        MetaLlama(tiny_case.base, tiny_case.base)
    with pytest.raises(ModelMismatchError, match=r"width 48, the model has 32 \(wrong base model\?\)"):
        MetaLlama(tiny_case.base, tiny_case.for_another_base)
