"""Responses in OpenAI's shapes from known chunks, without a model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from numpy.typing import ArrayLike

from metadeploy.runtime.openai import chat_completion, text_completion
from metadeploy.runtime.options import OnDoubt
from metadeploy.runtime.types import (
    CancelCallback,
    FinishReason,
    GenerationChunk,
    GenerationResult,
    Message,
    Prompt,
    Timings,
    TokenLogprob,
)
from metadeploy.schedule import STATIC, InjectionSchedule

TIMES = Timings(
    pass1_ms=1.0,
    encode_ms=2.0,
    pass2_ms=3.0,
    decode_ms=4.0,
    pass2="tail",
    hidden_bytes=5,
    n_prompt=7,
    n_reused=2,
    n_generated=3,
    n_refreshed=1,
)
DOUBT = 0.25
PIECES = ("Par", "is", "!")


class Scripted:
    """Answers "Paris!" in three chunks to every prompt."""

    def __init__(self, finish_reason: FinishReason = "stop", abstained: bool = False) -> None:
        self.finish_reason: FinishReason = finish_reason
        self.abstained = abstained
        self.asked: dict[str, Any] = {}

    def create_chat_completion(self, messages: Any, *, stream: bool | None = False, **options: Any) -> Any:
        return chat_completion(self.stream, messages, "base.gguf", stream=stream, options=options)

    def create_completion(self, prompt: Any, *, stream: bool | None = False, **options: Any) -> Any:
        return text_completion(self.stream, prompt, "base.gguf", stream=stream, options=options)

    __call__ = create_completion

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = 512,
        temperature: float = 0.0,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        gain: float | None = None,
        inject: bool = True,
        schedule: InjectionSchedule = STATIC,
        cognitive_tokens: ArrayLike | None = None,
        doubt_threshold: float = 0.5,
        max_error: float | None = None,
        max_p_wrong: float | None = None,
        on_doubt: OnDoubt = "withhold",
        raw: bool = False,
        logprobs: int | None = None,
        cancel: CancelCallback | None = None,
    ) -> Iterator[GenerationChunk]:
        self.asked = {key: value for key, value in locals().items() if key != "self"}
        every = tuple(
            TokenLogprob(i, piece, -0.5 * i, ((i, piece, -0.5 * i), (9, "x", -3.0))) for i, piece in enumerate(PIECES)
        )
        for i, piece in enumerate(PIECES):
            yield GenerationChunk(piece, (i,), every[i : i + 1] if logprobs is not None else None, DOUBT, None)
        result = GenerationResult(
            text="".join(PIECES),
            token_ids=(0, 1, 2),
            abstained=self.abstained,
            doubt=DOUBT,
            finish_reason=self.finish_reason,
            logprobs=every if logprobs is not None else None,
            timings=TIMES,
            gain=1.0,
        )
        yield GenerationChunk("", (), () if logprobs is not None else None, DOUBT, result)


MESSAGES: list[Message] = [{"role": "user", "content": "Capital of France?"}]


def test_chat_completion() -> None:
    completion = Scripted(abstained=True).create_chat_completion(MESSAGES)
    assert completion["object"] == "chat.completion"
    assert completion["id"].startswith("chatcmpl-")
    assert isinstance(completion["created"], int)
    assert completion["model"] == "base.gguf"
    assert completion["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Paris!"},
            "logprobs": None,
            "finish_reason": "stop",
            "abstained": True,
            "doubt": DOUBT,
        }
    ]
    assert completion["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert completion["timings"]["pass2_ms"] == 3.0
    json.dumps(completion)


def test_chat_completion_logprobs() -> None:
    completion = Scripted().create_chat_completion(MESSAGES, logprobs=True, top_logprobs=2, model="mine")
    assert completion["model"] == "mine"
    entries = completion["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in entries] == list(PIECES)
    assert entries[1] == {
        "token": "is",
        "bytes": [105, 115],
        "logprob": -0.5,
        "top_logprobs": [
            {"token": "is", "bytes": [105, 115], "logprob": -0.5},
            {"token": "x", "bytes": [120], "logprob": -3.0},
        ],
    }


def test_chat_completion_chunks() -> None:
    chunks = list(Scripted("length").create_chat_completion(MESSAGES, stream=True))
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant"},
        {"content": "Par"},
        {"content": "is"},
        {"content": "!"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 4 + ["length"]
    assert chunks[-1]["choices"][0]["abstained"] is False
    assert [chunk["choices"][0].get("doubt") for chunk in chunks] == [None] + [DOUBT] * 4
    assert chunks[-1]["usage"]["total_tokens"] == 10
    assert "usage" not in chunks[0]
    json.dumps(chunks)


def test_completion() -> None:
    scripted = Scripted()
    completion = scripted.create_completion("Q: capital? A: ", echo=True, logprobs=2)
    assert completion["object"] == "text_completion"
    assert completion["id"].startswith("cmpl-")
    choice = completion["choices"][0]
    assert choice["doubt"] == DOUBT
    assert choice["text"] == "Q: capital? A: Paris!"
    assert choice["logprobs"]["tokens"] == list(PIECES)
    assert choice["logprobs"]["token_logprobs"] == [0.0, -0.5, -1.0]
    assert choice["logprobs"]["top_logprobs"][1] == {"is": -0.5, "x": -3.0}
    offsets = choice["logprobs"]["text_offset"]
    assert [choice["text"][at:].startswith(piece) for at, piece in zip(offsets, PIECES, strict=True)] == [True] * 3
    assert scripted.asked["raw"] is True
    assert scripted.asked["max_tokens"] == 16  # OpenAI's default
    assert Scripted()("Q", max_tokens=None)["choices"][0]["text"] == "Paris!"


def test_completion_chunks() -> None:
    chunks = list(Scripted().create_completion("Q", stream=True, echo=True, logprobs=0))
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Q", "Par", "is", "!", ""]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert [chunk["choices"][0].get("doubt") for chunk in chunks] == [None] + [DOUBT] * 4
    assert chunks[-1]["usage"]["completion_tokens"] == 3
    # offsets count from the beginning of the text, not of the chunk
    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks[1:4]] == [[1], [4], [6]]


def test_every_option_arrives() -> None:
    options: dict[str, Any] = {
        "max_tokens": 5,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.4,
        "min_p": 0.1,
        "repeat_penalty": 1.2,
        "seed": 11,
        "stop": ["a"],
        "gain": 0.7,
        "inject": False,
        "schedule": InjectionSchedule(window=3),
        "cognitive_tokens": [[1.0, 2.0]],
        "doubt_threshold": 0.3,
        "max_error": 0.2,
        "max_p_wrong": 0.4,
        "on_doubt": "flag",
    }
    for call in (Scripted.create_chat_completion, Scripted.create_completion):
        scripted = Scripted()
        call(scripted, MESSAGES, **options)  # type: ignore[operator]
        assert {key: scripted.asked[key] for key in options} == options


def test_logprobs_only_if_requested() -> None:
    scripted = Scripted()
    with pytest.raises(ValueError, match="top_logprobs is 3, expected logprobs=True with it"):
        scripted.create_chat_completion(MESSAGES, top_logprobs=3)
    scripted.create_chat_completion(MESSAGES, top_logprobs=None)
    assert scripted.asked["logprobs"] is None
    scripted.create_chat_completion(MESSAGES, logprobs=True)
    assert scripted.asked["logprobs"] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_ids_differ_between_answers(stream: bool) -> None:
    def one() -> str:
        completion = Scripted().create_chat_completion(MESSAGES, stream=stream)
        return str(next(iter(completion))["id"] if stream else completion["id"])

    assert one() != one()


def test_none_is_the_default() -> None:
    names = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed", "stop", "gain", "inject", "schedule")
    options: dict[str, Any] = dict.fromkeys((*names, "cognitive_tokens", "doubt_threshold", "model", "stream"))
    for call, more in (
        (Scripted.create_chat_completion, {"logprobs": None, "top_logprobs": None}),
        (Scripted.create_completion, {"logprobs": None, "echo": None}),
    ):
        plain, asked = Scripted(), Scripted()
        prompt: Any = MESSAGES if call is Scripted.create_chat_completion else "Q"
        call(plain, prompt)  # type: ignore[operator]
        result = call(asked, prompt, **options, **more)  # type: ignore[operator]
        assert asked.asked == plain.asked
        assert result["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "options",
    [
        {"logprobs": 2},
        {"logprobs": "yes"},
        {"logprobs": True, "top_logprobs": True},
        {"logprobs": True, "top_logprobs": -1},
        {"logprobs": True, "top_logprobs": 2.5},
        {"stream": 1},
        {"model": 5},
    ],
    ids=str,
)
def test_options_of_a_chat(options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=r"(logprobs|top_logprobs|stream|model) is .*, expected"):
        Scripted().create_chat_completion(MESSAGES, **options)


def test_prompts_that_are_neither_chat_nor_text() -> None:
    for wrong in ("hello", b"hello", {"role": "user", "content": "x"}, None):
        with pytest.raises(TypeError, match=r"messages is .*, expected a list of messages"):
            Scripted().create_chat_completion(wrong)
    with pytest.raises(TypeError, match=r"echo is True and the prompt \[1, 2\], expected a text"):
        Scripted().create_completion([1, 2], echo=True)
    with pytest.raises(TypeError, match="echo is 1"):
        Scripted().create_completion("Q", echo=1)


# --- characters of several tokens ------------------------------------------------------------------------------------

#: "Hi 😀首!" in tokens that end inside characters, as with byte-level tokenizers.
CUT = (b"Hi ", b"\xf0\x9f", b"\x98\x80\xe9", b"\xa6\x96", b"!")
WHOLE = b"".join(CUT).decode()


def _cut() -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(
            i,
            raw.decode("utf-8", "replace"),
            -1.0 * i,
            (
                (i, raw.decode("utf-8", "replace"), -1.0 * i),
                (90, "\ufffd", -5.0),
                (91, "\ufffd", -6.0),
                (92, "<|end|>", -7.0),
            ),
            raw,
            (raw, b"\xf0", b"\xe2\x82", b""),
        )
        for i, raw in enumerate(CUT)
    )


class Cut(Scripted):
    """Answers ``WHOLE``, token by token."""

    def stream(self, prompt: Prompt, **options: Any) -> Iterator[GenerationChunk]:  # type: ignore[override]
        for text, item in zip(("Hi ", "", "😀", "首", "!"), _cut(), strict=True):
            yield GenerationChunk(text, (item.token_id,), (item,), DOUBT, None)
        result = GenerationResult(WHOLE, (0, 1, 2, 3, 4), False, "stop", _cut(), TIMES, 1.0, DOUBT)
        yield GenerationChunk("", (), (), DOUBT, result)


def test_bytes_of_characters_that_span_tokens() -> None:
    entries = Cut().create_chat_completion(MESSAGES, logprobs=True)["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == WHOLE
    assert [entry["token"] for entry in entries] == ["Hi ", "\ufffd", "\ufffd\ufffd\ufffd", "\ufffd\ufffd", "!"]
    tops = entries[1]["top_logprobs"]
    assert [top["bytes"] for top in tops] == [[0xF0, 0x9F], [0xF0], [0xE2, 0x82], None]
    assert tops[3]["token"] == "<|end|>"
    streamed = [
        entry
        for chunk in Cut().create_chat_completion(MESSAGES, logprobs=True, stream=True)
        for entry in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert streamed == entries


@pytest.mark.parametrize("echo", ["", "Größe 😀: "])
def test_offsets_of_characters_that_span_tokens(echo: str) -> None:
    logprobs = Cut().create_completion(echo or "Q", echo=bool(echo), logprobs=4)["choices"][0]["logprobs"]
    start = len(echo)
    # a token that continues a character has that character's offset
    assert logprobs["text_offset"] == [start, start + 3, start + 3, start + 4, start + 5]
    assert (echo + WHOLE)[logprobs["text_offset"][-1] :] == "!"
    streamed = [
        offset
        for chunk in Cut().create_completion(echo or "Q", echo=bool(echo), logprobs=4, stream=True)
        for offset in (chunk["choices"][0]["logprobs"] or {"text_offset": []})["text_offset"]
    ]
    assert streamed == logprobs["text_offset"]


def test_tokens_of_the_same_text_are_all_there() -> None:
    """With their text as the key, tokens with different parts of characters would replace one another."""
    top = Cut().create_completion("Q", logprobs=4)["choices"][0]["logprobs"]["top_logprobs"][1]
    assert top == {"\ufffd": -1.0, "bytes:\\xf0": -5.0, "bytes:\\xe2\\x82": -6.0, "<|end|>": -7.0}
    assert list(top) == ["\ufffd", "bytes:\\xf0", "bytes:\\xe2\\x82", "<|end|>"]
