"""Modes over time in the PyTorch reference on tiny random models, each against a plain loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from metadeploy import Decay, InjectionSchedule, Refresh
from metadeploy.errors import Error, ModelMismatchError
from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline
from metadeploy.reference.injection import Injection
from metadeploy.reference.refresh import Refresher, mean_cosine
from support.random_wrapper import random_wrapper
from support.tiny_models import KINDS, byte_tokenizer, tiny_causal_lm

PROMPT = [72, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100, 63]
GOAL = [66, 101, 32, 115, 104, 111, 114, 116]
N = 16
INJECT_FROM = ["prompt", "last_prompt_token"]


def pipeline(model: str | nn.Module = "llama", **wrapper: Any) -> MetaSpiderPipeline:
    pipe = MetaSpiderPipeline.from_pretrained(
        MetaSpiderConfig(model_name="tiny", device="cpu"),
        model=tiny_causal_lm(model) if isinstance(model, str) else model,
        tokenizer=byte_tokenizer(),
    )
    options: dict[str, Any] = {"target_layers": (2, 4, 5), "cross_attn_layers": (3, 5), "gate": 1.0, **wrapper}
    pipe.attach(Doubter.from_tensors(*random_wrapper("selective", hidden_dim=pipe.hidden_dim, **options)))
    return pipe


def answer(pipe: MetaSpiderPipeline, **options: Any) -> list[int]:
    return pipe.generate_ids(PROMPT, N, stop_ids=(), **options)


def answer_by_hand(
    pipe: MetaSpiderPipeline, gain_at: Callable[[int], float], tokens_at: Callable[[list[int]], Tensor]
) -> list[int]:
    """Return a greedy answer of the base with its own hooks: gain by time, cognitive tokens by the answer so far."""
    model: Any = pipe.model
    doubter = pipe.doubter
    assert doubter is not None
    from_last = doubter.config.inject_from == "last_prompt_token"
    answer_ids: list[int] = []
    cache = None

    def hook(layer: int) -> Callable[[Any, Any, Any], Any]:
        def inject(_module: Any, _inputs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            injected = doubter.cross_attention(layer)(hidden, tokens, gain=gain_at(len(answer_ids)))
            if from_last:
                injected[:, :-1] = hidden[:, :-1]
            return (injected, *output[1:]) if isinstance(output, tuple) else injected

        return inject

    for _ in range(N):
        tokens = tokens_at(answer_ids)
        hooks = [model.model.layers[i].register_forward_hook(hook(i)) for i in doubter.config.cross_attn_layers]
        with torch.no_grad():
            output = model(torch.tensor([answer_ids[-1:] or PROMPT]), past_key_values=cache, use_cache=True)
        for handle in hooks:
            handle.remove()
        cache = output.past_key_values
        answer_ids.append(int(output.logits[0, -1].argmax()))
    return answer_ids


def of_prompt(pipe: MetaSpiderPipeline) -> Callable[[list[int]], Tensor]:
    tokens = pipe.cognitive_tokens(PROMPT)
    return lambda answer_ids: tokens


@pytest.mark.parametrize("inject_from", INJECT_FROM)
def test_decay_is_a_gain_for_each_token(inject_from: str) -> None:
    pipe = pipeline(inject_from=inject_from)
    faded = answer(pipe, gain=1.5, schedule=InjectionSchedule(decay=Decay(floor=0.2, tau=3.0)))
    assert faded == answer_by_hand(pipe, lambda t: 1.5 * (0.2 + 0.8 * math.exp(-t / 3.0)), of_prompt(pipe))
    assert faded != answer(pipe, gain=1.5)
    assert answer(pipe, schedule=InjectionSchedule(decay=Decay(floor=1.0))) == answer(pipe)


@pytest.mark.parametrize("inject_from", INJECT_FROM)
@pytest.mark.parametrize("window", [0, 1, 5])
def test_window_ends_the_injection(window: int, inject_from: str) -> None:
    pipe = pipeline(inject_from=inject_from)
    ids = answer(pipe, schedule=InjectionSchedule(window=window))
    assert ids == answer_by_hand(pipe, lambda t: 1.0 if t <= window else 0.0, of_prompt(pipe))
    static = answer(pipe)
    assert ids[: window + 1] == static[: window + 1]
    assert ids != static
    if inject_from == "prompt":  # the injection stays in the cache, so the rest is not the base's answer
        assert ids[1:] != pipe.generate_ids([*PROMPT, ids[0]], N - 1, inject=False, stop_ids=())
    assert answer(pipe, schedule=InjectionSchedule(window=N)) == static


@pytest.mark.parametrize("inject_from", INJECT_FROM)
@pytest.mark.parametrize("every", [1, 4])
def test_refresh_encodes_the_newest_token_before_it_is_injected(every: int, inject_from: str) -> None:
    pipe = pipeline(inject_from=inject_from)

    def tokens_at(answer_ids: list[int]) -> Tensor:
        return pipe.cognitive_tokens(
            [*PROMPT, *answer_ids[: len(answer_ids) // every * every]]
        )  # a clean pass over everything

    always = Refresh(threshold=1.1, min_interval=every)
    overdue = Refresh(threshold=-1.1, min_interval=1, max_interval=every)
    expected = answer_by_hand(pipe, lambda t: 1.0, tokens_at)
    assert answer(pipe, schedule=InjectionSchedule(refresh=always)) == expected
    assert answer(pipe, schedule=InjectionSchedule(refresh=overdue)) == expected
    assert expected != answer(pipe)
    never = Refresh(threshold=-1.1, max_interval=N)
    assert answer(pipe, schedule=InjectionSchedule(refresh=never)) == answer(pipe)


SCHEDULES = {
    "decay and window": InjectionSchedule(decay=Decay(floor=0.1, tau=5.0), window=9),
    "refresh": InjectionSchedule(refresh=Refresh(threshold=1.1, min_interval=2, max_interval=7)),
    "all": InjectionSchedule(decay=Decay(), window=11, refresh=Refresh(threshold=0.9, min_interval=2, max_interval=5)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inject_from", INJECT_FROM)
def test_one_pass_over_everything_gives_the_same_tokens(kind: str, inject_from: str) -> None:
    pipe = pipeline(kind, inject_from=inject_from)
    everywhere = [*PROMPT, *answer(pipe)]
    static = pipe.logits(everywhere, n_prompt=len(PROMPT))
    for schedule in SCHEDULES.values():
        logits = pipe.logits(everywhere, n_prompt=len(PROMPT), schedule=schedule)
        changed = (logits - static).abs().amax(dim=-1) > 0.01  # large enough that the assertions below can fail
        first = len(PROMPT) if schedule.decay else len(PROMPT) + 1  # at t = 1, or as soon as tokens are renewed
        assert changed.tolist().index(True) == first
        ids = answer(pipe, schedule=schedule)
        logits = pipe.logits([*PROMPT, *ids], n_prompt=len(PROMPT), schedule=schedule)[len(PROMPT) - 1 : -1]
        assert logits.argmax(dim=-1).tolist() == ids


def test_without_a_cache_earlier_tokens_are_injected_as_they_were() -> None:
    model = tiny_causal_lm("llama")
    expected = [answer(pipeline(model), schedule=schedule) for schedule in SCHEDULES.values()]
    forward = model.forward

    def uncached(*args: Any, use_cache: bool = False, **kwargs: Any) -> Any:
        return forward(*args, use_cache=False, **kwargs)

    model.forward = uncached  # type: ignore[method-assign]
    assert [answer(pipeline(model), schedule=schedule) for schedule in SCHEDULES.values()] == expected


def test_gain_zero_is_the_base_whatever_the_schedule() -> None:
    pipe = pipeline()
    base = answer(pipe, inject=False)
    assert [answer(pipe, gain=0.0, schedule=schedule) for schedule in SCHEDULES.values()] == [base] * len(SCHEDULES)


def test_doubt_is_read_before_anything_changes() -> None:
    pipe = pipeline()
    first = answer(pipe)[0]
    assert [answer(pipe, schedule=schedule)[0] for schedule in SCHEDULES.values()] == [first] * len(SCHEDULES)
    declined = answer(pipe, doubt_threshold=0.0)
    assert answer(pipe, doubt_threshold=0.0, schedule=SCHEDULES["all"])[0] == declined[0] != first


# --- when tokens are renewed ---


class Thoughts:
    """Replaces a clean context: each position has a thought, and different thoughts are orthogonal."""

    def __init__(self, thoughts: Sequence[int]) -> None:
        self.thoughts = thoughts
        self.seen: list[int] = []
        self.asked: list[int] = []

    def feed(self, token_ids: Sequence[int]) -> Tensor:
        self.seen += token_ids
        self.asked.append(len(self.seen))
        return self.at(len(self.seen))

    def at(self, t: int) -> Tensor:
        return nn.functional.one_hot(torch.tensor([self.thoughts[t]]), 3).float()


def follow(
    refresh: Refresh, thoughts: Sequence[int], schedule: InjectionSchedule | None = None, gain: float = 1.0
) -> tuple[list[int], list[int]]:
    """Return the times of comparisons or encodings, and of encodings; thoughts[t] is the thought at time t."""
    clean: Any = Thoughts(thoughts)
    doubter: Any = SimpleNamespace(config=SimpleNamespace(inject_from="prompt"), encode=lambda activations: activations)
    injection = Injection(
        doubter=doubter,
        cognitive_tokens={0: clean.at(0)},
        gain=gain,
        n_prompt=10,
        schedule=schedule or InjectionSchedule(refresh=refresh),
    )
    refresher = Refresher(refresh, injection, clean=clean, encoded=clean.at(0))
    for t in range(1, len(thoughts)):
        injection = refresher.step(100 + t)
        assert all(position <= 10 + t - 1 for position in injection.cognitive_tokens)
    times = [position - 10 + 1 for position in injection.cognitive_tokens if position]
    for t in times:
        assert torch.equal(injection.cognitive_tokens[10 + t - 1], clean.at(t))
    assert clean.seen == [100 + t for t in range(1, len(clean.seen) + 1)]  # every token, once, in order
    return clean.asked, times


def test_times_of_the_defaults() -> None:
    still, moving = [0] * 65, [0] * 11 + [1] * 54
    assert follow(Refresh(), still) == ([3, 9, 18, 20, 23, 29, 38, 40, 43, 49, 58, 60, 63], [20, 40, 60])
    # noticed at 18, and compared with the new one from then on
    assert follow(Refresh(), moving) == ([3, 9, 18, 21, 27, 36, 38, 41, 47, 56, 58, 61], [18, 38, 58])
    assert follow(Refresh(threshold=1.1), still)[1] == list(range(3, 65, 3))
    assert follow(Refresh(threshold=-1.1), moving)[1] == [20, 40, 60]
    assert follow(Refresh(), moving, InjectionSchedule(window=18)) == ([3, 9, 18], [18])
    assert follow(Refresh(), moving, gain=0.0) == ([], [])


@given(
    thoughts=st.lists(st.integers(0, 2), min_size=2, max_size=60),
    least=st.integers(1, 7),
    more=st.integers(0, 20),
)
def test_times_match_the_definition(thoughts: list[int], least: int, more: int) -> None:
    most = least + more
    compared, encoded, start = [], [], 0
    while start < len(thoughts):
        # 1, 1 + 2, 1 + 2 + 3, … times the least interval after an encoding
        comparisons = [start + least * k * (k + 1) // 2 for k in range(1, len(thoughts) + 1)]
        comparisons = [t for t in comparisons if t < min(start + most, len(thoughts))]
        changed = [t for t in comparisons if thoughts[t] != thoughts[start]]
        end = changed[0] if changed else start + most
        compared += [t for t in comparisons if t < end]
        compared += [end] if end < len(thoughts) else []
        encoded += [end] if end < len(thoughts) else []
        start = end
    assert follow(Refresh(min_interval=least, max_interval=most), thoughts) == (compared, encoded)


def test_mean_cosine() -> None:
    one = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    other = torch.tensor([[4.0, 3.0], [-2.0, 0.0]])
    assert mean_cosine(one, other) == pytest.approx((24 / 25 - 1) / 2, abs=1e-12)
    assert mean_cosine(one, one) == pytest.approx(1.0, abs=1e-12)


# --- tokens that are given ---


@pytest.mark.parametrize("inject_from", INJECT_FROM)
def test_given_tokens_are_held(inject_from: str) -> None:
    pipe = pipeline(inject_from=inject_from)
    goal = pipe.encode(GOAL)
    assert torch.equal(goal, pipe.cognitive_tokens(GOAL))
    held = answer(pipe, cognitive_tokens=goal)
    assert held == answer_by_hand(pipe, lambda t: 1.0, lambda answer_ids: goal)
    assert held != answer(pipe)
    assert answer(pipe, cognitive_tokens=pipe.encode(PROMPT)) == answer(pipe)
    fading = InjectionSchedule(decay=Decay(tau=2.0))
    by_hand = answer_by_hand(pipe, lambda t: 0.7 * (0.3 + 0.7 * math.exp(-t / 2)), lambda answer_ids: goal)
    assert answer(pipe, cognitive_tokens=goal, gain=0.7, schedule=fading) == by_hand
    logits = pipe.logits([*PROMPT, *held], n_prompt=len(PROMPT), cognitive_tokens=goal)
    assert logits[len(PROMPT) - 1 : -1].argmax(dim=-1).tolist() == held
    assert pipe.doubt(PROMPT, cognitive_tokens=goal) != pipe.doubt(PROMPT)


def test_given_tokens_need_no_clean_pass() -> None:
    pipe = pipeline()
    goal = pipe.encode(GOAL)
    lengths: list[int] = []
    handle = pipe.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    answer(pipe, cognitive_tokens=goal)
    handle.remove()
    assert lengths == [len(PROMPT)] + [1] * (N - 1)


def test_texts_messages_and_ids_are_encoded_as_generate_takes_them() -> None:
    pipe = pipeline()
    text = "Be short"
    messages = [{"role": "user", "content": text}]
    wrapped = pipe.tokenize(pipe.apply_chat_template(text))
    assert torch.equal(pipe.encode(text), pipe.cognitive_tokens(wrapped))
    assert torch.equal(pipe.encode(messages), pipe.cognitive_tokens(wrapped))
    assert torch.equal(pipe.encode(text, raw=True), pipe.cognitive_tokens(pipe.tokenize(text, add_special=True)))
    answer_text = pipe.generate(text, max_new_tokens=5)
    assert pipe.generate(wrapped, max_new_tokens=5) == pipe.generate(messages, max_new_tokens=5) == answer_text
    with pytest.raises(Error, match="expected a str with raw=True"):
        pipe.encode(messages, raw=True)
    with pytest.raises(Error, match="is not a conversation"):
        pipe.encode([])


def test_contradictory_options_are_refused() -> None:
    pipe = pipeline()
    goal = pipe.encode(GOAL)
    refreshing = InjectionSchedule(refresh=Refresh())
    for call in (lambda **options: answer(pipe, **options), lambda **options: pipe.logits(PROMPT, **options)):
        with pytest.raises(Error, match="are given and stay as they are, but the schedule refreshes them"):
            call(cognitive_tokens=goal, schedule=refreshing)
        with pytest.raises(Error, match="are given and a schedule is given, but the base answers alone"):
            call(cognitive_tokens=goal, schedule=refreshing, inject=False)
        with pytest.raises(ModelMismatchError, match=r"have shape \[3, 63\], expected \[3, 64\] \(encoded by another"):
            call(cognitive_tokens=goal[:, 1:])
        with pytest.raises(ModelMismatchError, match="not finite"):
            call(cognitive_tokens=goal / 0)
    pipe.detach()
    with pytest.raises(Error, match="a schedule is given, but the base answers alone"):
        pipe.generate("Hi", schedule=refreshing)
