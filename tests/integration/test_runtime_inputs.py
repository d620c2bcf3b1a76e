"""Inputs that MetaLlama could misread: options, prompts, messages, token ids and templates."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from metadeploy import InjectionSchedule, MetaLlama, Request
from metadeploy.errors import Error, ModelLoadError
from support.gguf_tools import write_tiny_gguf
from support.program import TinyCase

PROMPT = "What is it?"
NAN = math.nan


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"n_ctx": True}, TypeError),
        ({"n_ctx": 256.0}, TypeError),
        ({"n_ctx": "256"}, TypeError),
        ({"n_ctx": None}, TypeError),
        ({"n_ctx": 2**40}, ValueError),
        ({"n_threads": 0.5}, TypeError),
        ({"n_gpu_layers": -2}, ValueError),
        ({"n_gpu_layers": "all"}, TypeError),
        ({"type_k": None}, TypeError),
        ({"type_v": "F16"}, ValueError),
        ({"flash_attn": 1}, TypeError),
        ({"flash_attn": None}, TypeError),
        ({"verbose": 1}, TypeError),
        ({"verbose": "no"}, TypeError),
        ({"gain": "1"}, TypeError),
        ({"gain": True}, TypeError),
        ({"gain": None}, TypeError),
        ({"hidden_cache_mib": 1.5}, TypeError),
        ({"chat_template": b"chatml"}, TypeError),
        ({"chat_template": ""}, ValueError),
        ({"model": None}, TypeError),
        ({"model": b"base.gguf"}, TypeError),
        ({"model": ""}, ValueError),
        ({"sidecar": 5}, TypeError),
    ],
    ids=str,
)
def test_options_of_the_model(options: dict[str, Any], kind: type[Exception], tiny_case: TinyCase) -> None:
    (name,) = options
    with pytest.raises(kind, match=rf"^{name}\b.* is .*expected "):
        MetaLlama(**{"model": tiny_case.base, **options})


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"max_tokens": True}, TypeError),
        ({"max_tokens": 4.0}, TypeError),
        ({"max_tokens": "4"}, TypeError),
        ({"max_tokens": 2**40}, ValueError),
        ({"temperature": None}, TypeError),
        ({"temperature": "0.5"}, TypeError),
        ({"temperature": True}, TypeError),
        ({"temperature": NAN}, ValueError),
        ({"temperature": -0.1}, ValueError),
        ({"temperature": 1e39}, ValueError),
        ({"top_k": 1.5}, TypeError),
        ({"top_k": -2}, ValueError),
        ({"top_k": 2**31}, ValueError),
        ({"top_p": 1.01}, ValueError),
        ({"top_p": NAN}, ValueError),
        ({"min_p": 1.01}, ValueError),
        ({"min_p": -1}, ValueError),
        ({"repeat_penalty": "1"}, TypeError),
        ({"seed": 1.5}, TypeError),
        ({"seed": "x"}, TypeError),
        ({"seed": True}, TypeError),
        ({"seed": 1.0}, TypeError),
        ({"stop": b"x"}, TypeError),
        ({"stop": 5}, TypeError),
        ({"stop": ["x", 5]}, TypeError),
        ({"stop": ["x", ""]}, ValueError),
        ({"stop": "\ud800"}, ValueError),
        ({"gain": "1"}, TypeError),
        ({"gain": True}, TypeError),
        ({"inject": 1}, TypeError),
        ({"inject": None}, TypeError),
        ({"schedule": None}, TypeError),
        ({"schedule": (0.3, 16)}, TypeError),
        ({"cognitive_tokens": "abc"}, TypeError),
        ({"cognitive_tokens": [[True, False]]}, TypeError),
        ({"cognitive_tokens": [[1j]]}, TypeError),
        ({"doubt_threshold": "0.5"}, TypeError),
        ({"doubt_threshold": None}, TypeError),
        ({"raw": 1}, TypeError),
        ({"raw": "yes"}, TypeError),
        ({"logprobs": True}, TypeError),
        ({"logprobs": -1}, ValueError),
        ({"logprobs": 2**40}, ValueError),
        ({"cancel": True}, TypeError),
    ],
    ids=str,
)
def test_options_of_an_answer(options: dict[str, Any], kind: type[Exception], llm: MetaLlama) -> None:
    (name,) = options
    for call in (llm.generate, llm.stream, lambda prompt, **more: llm.generate_batch([prompt], **more)):
        with pytest.raises(kind, match=rf"^{name} is .*expected "):
            call(PROMPT, **options)  # type: ignore[operator]
    assert llm.generate(PROMPT, max_tokens=1).token_ids


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-45, 1e-4, 1001.0, math.inf, NAN])
def test_penalties_that_make_infinities(value: float, llm: MetaLlama) -> None:
    with pytest.raises(
        Error, match=r"the repeat penalty \(repeat_penalty, --repeat-penalty\) is .*, expected 0.001 to 1000"
    ):
        llm.generate(PROMPT, repeat_penalty=value)


def test_numbers_of_other_kinds_are_numbers(llm: MetaLlama) -> None:
    expected = llm.generate(PROMPT, max_tokens=8, temperature=0.5, top_k=5, seed=3, gain=0.5)
    result = llm.generate(
        PROMPT,
        max_tokens=np.int64(8),  # type: ignore[arg-type]
        temperature=np.float32(0.5),  # type: ignore[arg-type]
        top_k=np.uint8(5),  # type: ignore[arg-type]
        seed=np.int32(3),  # type: ignore[arg-type]
        gain=Fraction(1, 2),  # type: ignore[arg-type]
    )
    assert (result.token_ids, result.gain) == (expected.token_ids, 0.5)
    whole = llm.generate(PROMPT, max_tokens=8, temperature=1, top_k=-1, top_p=1, min_p=0, seed=1)
    assert (
        whole.token_ids
        == llm.generate(PROMPT, max_tokens=8, temperature=1, top_k=0, top_p=1, min_p=0, seed=1).token_ids
    )


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-30, 1e-7])
def test_tiny_temperatures_are_greedy(temperature: float, llm: MetaLlama) -> None:
    """The logits, divided by it, would be infinite, and every token would be the vocabulary's last one."""
    greedy = llm.generate(PROMPT, max_tokens=12)
    result = llm.generate(PROMPT, max_tokens=12, temperature=temperature, seed=1)
    assert result.token_ids == greedy.token_ids


def test_the_gain_of_the_instance(llm: MetaLlama) -> None:
    for wrong in ("1", True, None):
        with pytest.raises(TypeError, match=r"^gain is "):
            llm.gain = wrong  # type: ignore[assignment]
    assert llm.gain == 1.0


def test_options_of_one_request(llm: MetaLlama) -> None:
    for request, message in (
        (Request(prompt=PROMPT, gain="1"), "gain is '1'"),  # type: ignore[arg-type]
        (Request(prompt=PROMPT, cancel=True), "cancel is True"),  # type: ignore[arg-type]
        (Request(prompt=PROMPT, schedule=3), "schedule is 3"),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match=message):
            list(llm.generate_batch([request]))
    for prompts in (b"one", {"prompt": "one"}):
        with pytest.raises(TypeError, match=r"prompts is of type .*, expected several prompts"):
            llm.generate_batch(prompts)


# --- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "kind", "message"),
    [
        (b"hello", TypeError, "the prompt is of type bytes, expected str, messages or token ids"),
        (bytearray(b"hello"), TypeError, "of type bytearray"),
        pytest.param(memoryview(b"hello"), TypeError, "of type memoryview", id="memoryview"),
        (5, TypeError, "of type int"),
        (None, TypeError, "of type NoneType"),
        ({"role": "user", "content": "x"}, TypeError, "of type dict"),
        ({1, 2}, TypeError, "of type set"),
        ([1.0, 2.0], Error, r"token 0 of the prompt is 1.0, expected a whole number"),
        ([1, 2.5], Error, r"token 1 of the prompt is 2.5"),
        ([True, False], Error, r"token 0 of the prompt is True"),
        ([1, "2"], Error, r"token 1 of the prompt is '2'"),
        ([1, None], Error, r"token 1 of the prompt is None"),
        (["hello"], Error, "a list of texts, expected one text"),
        ([2**40], Error, "prompt token 1099511627776 is not in the vocabulary"),
        (np.array([1.5, 2.5]), Error, r"an array of float64 with shape \[2\], expected token ids"),
        (np.array([True]), Error, "an array of bool"),
        (np.array([[1, 2]]), Error, r"shape \[1, 2\]"),
        ("  \n", Error, "the last message of the user is empty"),
        ("\ud83d", Error, "half a surrogate pair"),
    ],
    ids=repr,
)
def test_invalid_prompts(prompt: Any, kind: type[Exception], message: str, llm: MetaLlama) -> None:
    for call in (llm.generate, llm.activations, llm.doubt):
        with pytest.raises(kind, match=message):
            call(prompt)


def test_token_ids_of_every_kind(llm: MetaLlama) -> None:
    ids = llm.tokenize(PROMPT)
    expected = llm.generate(ids, max_tokens=4).token_ids
    for same in (tuple(ids), np.array(ids), np.array(ids, dtype=np.uint16), [np.int64(i) for i in ids]):
        assert llm.generate(same, max_tokens=4).token_ids == expected  # type: ignore[arg-type]
    assert llm.generate(range(3, 9), max_tokens=2).timings.n_prompt == 6


def test_calls_that_take_texts_and_ids(llm: MetaLlama) -> None:
    for wrong in (b"x", 5, None):
        with pytest.raises(TypeError, match="text is "):
            llm.tokenize(wrong)  # type: ignore[arg-type]
    for call in (llm.detokenize, llm.logits, lambda ids: llm.layer_outputs(ids, [0])):
        with pytest.raises(Error, match=r"token 0 of the prompt is 1.5"):
            call([1.5])  # type: ignore[operator]
        with pytest.raises(TypeError, match="the prompt is of type bytes"):
            call(b"x")  # type: ignore[operator]
    with pytest.raises(TypeError, match=r"a layer is 0.5"):
        llm.layer_outputs([1], [0.5])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="inject is 1"):
        llm.logits([1], inject=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="gain is '1'"):
        llm.logits([1], gain="1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (
            [{"role": "user", "content": None}],
            "message 0 of the conversation: expected the strings .* got the content None",
        ),
        ([{"role": "user", "content": ["x"]}], r"has the part 'x', expected parts of type 'text'"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "expected parts of type 'text'"),
        ([{"role": "user", "content": []}], r"got the content \[\]"),
        ([{"role": "user", "content": b"x"}], "got the content b'x'"),
        ([{"role": "usr", "content": "x"}], "has the role 'usr', which the chat template does not know"),
        (
            [{"role": "user", "content": "x", "tool_calls": [{"id": 1}]}],
            "has 'tool_calls', expected 'role' and 'content'",
        ),
        ([{"role": "user", "content": "x", "temperature": 0.5}], "has 'temperature'"),
        ([{"role": "user", "content": "x"}, "y"], "message 1 of the conversation: .* got 'y'"),
        (
            [{"role": "assistant", "content": "x"}, {"role": "user", "content": ""}],
            "the last message of the user is empty",
        ),
    ],
    ids=repr,
)
def test_invalid_messages(messages: Any, message: str, llm: MetaLlama) -> None:
    for call in (llm.generate, llm.apply_chat_template, llm.tokenize_chat):
        with pytest.raises(Error, match=message):
            call(messages)


def test_messages_as_openai_has_them(llm: MetaLlama) -> None:
    messages: Any = [
        {"role": "developer", "content": "a", "name": None},
        {"role": "assistant", "content": "b", "refusal": None, "annotations": [], "tool_calls": None},
        {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]},
    ]
    assert llm.apply_chat_template(messages) == "abc\nd"
    for wrong in ("x", b"x", {"role": "user", "content": "x"}, 5):
        with pytest.raises(TypeError, match="expected a list of messages"):
            llm.apply_chat_template(wrong)  # type: ignore[arg-type]


# --- templates and files ---------------------------------------------------------------------------------------------


def test_chat_templates_by_name_by_text_and_by_path(tiny_case: TinyCase, tmp_path: Path) -> None:
    messages: Any = [{"role": "user", "content": "What is the plural of wolf?"}]
    with tiny_case.load(chat_template="gemma") as llm:
        assert llm.apply_chat_template(messages) == (
            "<start_of_turn>user\nWhat is the plural of wolf?<end_of_turn>\n<start_of_turn>model\n"
        )
        assert llm.generate(messages, max_tokens=1).timings.n_prompt == len(llm.tokenize_chat(messages))
    file = tmp_path / "template.jinja"
    file.write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}", encoding="utf-8-sig")
    with tiny_case.load(chat_template=file) as llm:
        assert llm.apply_chat_template(messages) == "[What is the plural of wolf?]"
    with pytest.raises(Error, match=r"is the path of a file, expected its content or a name"):
        tiny_case.load(chat_template=str(file))
    for name in ("chatlm", "Chat ML", "template.jinja", "{question}"):
        with pytest.raises(
            Error, match=rf"chat template '{name}': has neither .* expected Jinja text or one of: .*chatml"
        ):
            tiny_case.load(chat_template=name)
    with pytest.raises(Error, match="cannot be read"):
        tiny_case.load(chat_template=tmp_path / "absent.jinja")
    file.write_bytes("{{ messages }}".encode("utf-16"))
    with pytest.raises(Error, match="is not UTF-8"):
        tiny_case.load(chat_template=file)


def test_files_in_place_of_others(tiny_case: TinyCase, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"'meta-spider' \(a sidecar, expected the base that it runs beside\)"):
        MetaLlama(tiny_case.sidecar)
    with pytest.raises(ModelLoadError, match="is a directory, expected a GGUF"):
        MetaLlama(tmp_path)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (gguf.GGMLQuantizationType.F32, (4, 0, 2**62, 4)),  # the 0 hides that the others overflow
        (gguf.GGMLQuantizationType.I8, (7, (2**63 - 1) // 7)),  # exactly INT64_MAX
    ],
)
def test_a_base_whose_shape_overflows(kind: gguf.GGMLQuantizationType, shape: tuple[int, ...], tmp_path: Path) -> None:
    """In another process, because an unpatched ggml fails an assertion and ends it."""
    path = tmp_path / "base.gguf"
    write_tiny_gguf(path)
    data, last = path.read_bytes(), gguf.GGUFReader(path).tensors[-1]
    begin = data.index(last.name.encode()) + len(last.name)
    end = begin + 4 + 8 * len(last.shape) + 4
    path.write_bytes(data[:begin] + struct.pack(f"<I{len(shape)}QI", len(shape), *shape, kind) + data[end:])
    code = f"from metadeploy import MetaLlama; MetaLlama({str(path)!r})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    assert f"ModelLoadError: model '{path}': llama.cpp cannot load it: incorrect shape" in ended.stderr


def test_a_schedule_for_one_answer_only(llm: MetaLlama) -> None:
    """The correct objects still work, also with numbers of NumPy."""
    schedule = InjectionSchedule(window=np.int64(2))  # type: ignore[arg-type]
    assert llm.generate(PROMPT, max_tokens=4, schedule=schedule).token_ids
