"""The checks of options refuse values of types that could be mistaken for others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metadeploy import Decay, InjectionSchedule, Refresh
from metadeploy._checks import (
    Rule,
    check,
    check_all,
    choice,
    faults,
    flag,
    function,
    instance,
    layers,
    names,
    number,
    path,
    text,
    texts,
    visible_text,
    whole_number,
)
from metadeploy.errors import Error, RunDirError
from metadeploy.evaluation.ladder import LadderSettings
from metadeploy.evaluation.settings import EvalSettings
from metadeploy.runtime import MetaLlama
from metadeploy.runtime.options import (
    CHAT_DEFAULTS,
    COMPLETION_DEFAULTS,
    DEFAULTS,
    GENERATION,
    ChatCompletionOptions,
    CompletionOptions,
    GenerationOptions,
)
from metadeploy.training.settings import CollectSettings, FitSettings, OperatingPoint, TrainSettings

NAN = math.nan


@pytest.mark.parametrize(
    ("rule", "good", "wrong_type", "out_of_range"),
    [
        (whole_number(1, 9), [1, 9, np.int64(3), np.uint8(3)], [True, 1.0, "1", None, np.array([1])], [0, 10, 2**70]),
        (number(0, 1), [0, 1, 0.5, np.float32(0.5), Fraction(1, 2)], [True, "0.5", None, 1j], [NAN, math.inf, -0.1, 2]),
        (number(above=0), [1e-300], ["1"], [0, -1, NAN, math.inf, 10**400]),
        (flag(), [True, False, np.bool_(True)], [1, 0, "yes", None], []),
        (text(), ["", "a", "首都"], [b"a", 1, None, ["a"]], ["\ud800"]),
        (visible_text(), ["a"], [b"a"], ["", " \n"]),
        (texts(), ["a", ["a", "b"], (), "\n"], [b"a", bytearray(b"a"), 1, ["a", 1], {"a": 1}], [["a", ""], ["\ud800"]]),
        (names(), [(), ("a", "b"), ["a"]], ["a", b"a", [1]], [["a", " "]]),
        (layers(), ["late", [1, 2], (np.int64(1),)], [b"12", 3, [1.0], [True], None], []),
        (choice("f32", "f16"), ["f32"], [32, None], ["f31", "F32"]),
        (choice(True, "auto"), [True, "auto"], [1], ["on", False]),
        (path(), ["a", Path("a")], [b"a", None, 1], ["", "a\0b"]),
        (function(), [print], ["print", None], []),
        (instance(Decay), [Decay()], ["decay", None, Decay], []),
    ],
    ids=lambda value: value.kind if isinstance(value, Rule) else "",
)
def test_rules(rule: Rule, good: list[Any], wrong_type: list[Any], out_of_range: list[Any]) -> None:
    for value in good:
        assert rule.fault("it", value) is None, value
        assert type(check("it", value, rule)).__module__ != "numpy"
    for kind, values in ((TypeError, wrong_type), (ValueError, out_of_range)):
        for value in values:
            with pytest.raises(kind, match=r"^the_option is .*, expected "):
                check("the_option", value, rule)
    assert check("it", None, rule.or_none()) is None
    assert check("it", good[0], rule.or_none()) == check("it", good[0], rule)


def test_messages_of_failed_checks() -> None:
    rules = {"top_p": number(0, 1), "n": whole_number(0).or_none(), "stop": texts()}
    assert faults(rules, {"top_p": 2, "n": -1, "stop": 5}) == [
        "top_p is 2, expected 0 to 1",
        "n is -1, expected 0 or more, or None",
        "stop is 5, expected a text or a list of texts, texts of whole characters, none of them empty",
    ]
    assert faults(rules, {"top_p": np.zeros((2, 3)), "n": 2**40, "stop": "x"}) == [
        "top_p is an array of float64 with shape [2, 3], expected a number, 0 to 1",
        "n is 1099511627776, expected at most 2147483647, or None",
    ]
    assert check_all(rules, {"top_p": 1, "n": None, "stop": "x"}) == {"top_p": 1.0, "n": None, "stop": ["x"]}
    (long,) = faults({"path": flag()}, {"path": "x" * 1000})
    assert len(long) < 120


# --- settings --------------------------------------------------------------------------------------------------------

COLLECT, TRAIN, FIT = CollectSettings(base="b"), TrainSettings(), FitSettings()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(FIT, lr=NAN), "train: --lr is nan, expected a number above 0"),
        (lambda: replace(FIT, lr="1e-3"), "--lr is '1e-3', expected a number"),
        (lambda: replace(FIT, weight_decay=NAN), "--weight-decay is nan"),
        (lambda: replace(FIT, dropout=NAN), "--dropout is nan, expected 0 to 0.99"),
        (lambda: replace(FIT, warmup=NAN, refusal_share=2), "train: 2 faults"),
        (lambda: replace(FIT, epochs=True), "--epochs is True, expected a whole number, 1 or more"),
        (lambda: replace(FIT, epochs=2.5), "--epochs is 2.5"),
        (lambda: replace(FIT, seed=-1), "--seed is -1"),
        (lambda: replace(FIT, clip=math.inf), "--clip is inf"),
        (lambda: replace(TRAIN, leave_out="geography"), "--leave-out is 'geography', expected a list of texts"),
        (lambda: replace(TRAIN, target_layers=b"12"), "--target-layers is b'12'"),
        (lambda: replace(TRAIN, target_layers=[1.0, 2.0]), r"--target-layers is \[1.0, 2.0\]"),
        (
            lambda: replace(TRAIN, inject_from="last-token"),
            "--inject-from is 'last-token', expected one of prompt",
        ),
        (lambda: replace(TRAIN, encoder_type="Selective"), "--encoder-type is 'Selective'"),
        (lambda: replace(TRAIN, refusal_text=" "), "--refusal-text is ' ', expected a text that is not empty"),
        (lambda: replace(TRAIN, self_correction=NAN), "--self-correction is nan"),
        (lambda: replace(TRAIN, fit={"lr": 1}), "--fit is {'lr': 1}, expected an object of class FitSettings"),
        (lambda: replace(COLLECT, limit="500"), "collect: --limit is '500', expected a whole number"),
        (lambda: replace(COLLECT, dtype="fp16"), "--dtype is 'fp16', expected one of auto, float32, bfloat16, float16"),
        (lambda: replace(COLLECT, answer_suffix=5), "--answer-suffix is 5"),
        (lambda: replace(COLLECT, chat_template_kwargs='{"a": 1}'), "--chat-template-kwargs is"),
        (
            lambda: replace(COLLECT, chat_template_kwargs={"tokenize": True, "thinking": False}),
            "--chat-template-kwargs has tokenize, expected variables of the chat template",
        ),
        (lambda: OperatingPoint(max_over_refusal=None, target_coverage=True), "--target-coverage is True"),
        (lambda: OperatingPoint(max_over_refusal=NAN), "operating point: --max-over-refusal is nan, expected 0 to 1"),
    ],
)
def test_settings_of_training(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(RunDirError, match=message):
        make()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"limit": True}, "eval: --limit is True, expected a whole number"),
        ({"threshold": "0.5"}, "--threshold is '0.5', expected a number"),
        ({"threshold": NAN}, "--threshold is nan, expected 0 to 1"),
        ({"baselines": "no"}, "--baselines is 'no', expected True or False"),
        ({"engine": "pytorch"}, "--engine is 'pytorch', expected one of torch, runtime"),
        ({"split": "dev"}, "--split is 'dev'"),
        ({"base": b"base.gguf"}, "--base is b'base.gguf'"),
    ],
)
def test_settings_of_eval(values: Mapping[str, Any], message: str) -> None:
    with pytest.raises(Error, match=message):
        EvalSettings(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"types": "Q8_0"}, "ladder: --types is 'Q8_0', expected a list of texts"),
        ({"limit": 2.0}, "--limit is 2.0"),
        ({"cache_type": "F16"}, "--cache-type is 'F16'"),
    ],
)
def test_settings_of_ladder(values: Mapping[str, Any], message: str) -> None:
    with pytest.raises(Error, match=message):
        LadderSettings(base=Path("base.gguf"), **values)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Decay(floor="0.3"), "Decay: floor is '0.3', expected a number, 0 to 1"),
        (lambda: Decay(tau=True), "Decay: tau is True"),
        (lambda: Refresh(min_interval=3.0), "Refresh: min_interval is 3.0, expected a whole number"),
        (lambda: InjectionSchedule(window=2.0), "window is 2.0"),
        (
            lambda: InjectionSchedule(decay=(0.3, 16)),
            r"decay is \(0.3, 16\), expected an object of class Decay",
        ),
        (lambda: InjectionSchedule(refresh=Decay()), "refresh is Decay"),
    ],
)
def test_schedules_of_wrong_types(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def test_every_option_of_an_answer_has_a_rule() -> None:
    from inspect import signature

    options = set(signature(MetaLlama.stream).parameters) - {"self", "prompt", "raw", "cancel"}
    assert options - {"cognitive_tokens"} == set(GENERATION)


def test_defaults_and_types_of_options_have_the_same_names() -> None:
    from inspect import signature

    for types, defaults, method in (
        (GenerationOptions, DEFAULTS, MetaLlama.generate),
        (ChatCompletionOptions, CHAT_DEFAULTS, MetaLlama.create_chat_completion),
        (CompletionOptions, COMPLETION_DEFAULTS, MetaLlama.create_completion),
    ):
        assert set(types.__annotations__) == set(defaults) < set(signature(method).parameters)


@pytest.mark.parametrize(
    "call", ["generate", "stream", "generate_batch", "create_chat_completion", "create_completion"]
)
def test_an_unknown_option_is_an_error(call: str) -> None:
    llm = object.__new__(MetaLlama)
    llm._model = "base.gguf"
    with pytest.raises(TypeError, match=rf"{call}\(\) got an unexpected keyword argument 'max_token'"):
        getattr(llm, call)("Hello", max_token=1)
