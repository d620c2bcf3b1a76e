"""Prompts that begin like an earlier one: the answers equal those of prompts that are computed as a whole.

Reuse only changes how a prompt is cut into batches. F32 products of few and of many rows differ in their
last digits. K/V cache in F32, flash attention off (``EXACT``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import tolerances
from metadeploy import Cancelled, GenerationResult, MetaLlama
from metadeploy.sidecar.spec import InjectFrom
from support.other_batches import N_TOP as N_LIKELY
from support.other_batches import check_answer
from support.runtime_pair import PAIR_KINDS, STATEFUL, WINDOWED, RuntimePair, pass2_kind, reusable, runtime_pair
from support.tiny_models import TinyModel

WITHOUT = {"prefix_cache_mib": 0}
N_TOP = 20


@pytest.fixture(scope="module", params=PAIR_KINDS)
def pair(
    request: pytest.FixtureRequest, tiny: Callable[[str], TinyModel], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RuntimePair]:
    folder = tmp_path_factory.mktemp("archs")
    with runtime_pair(request.param, folder, tiny, tested={}, plain=WITHOUT, n_ubatch=32) as two:
        yield two


@pytest.fixture
def attached(pair: RuntimePair, tmp_path: Path) -> RuntimePair:
    """Attach a wrapper that injects into the upper half of the blocks."""
    pair.attach(tmp_path, [pair.num_layers // 2, pair.num_layers - 1])
    return pair


def ask(
    pair: RuntimePair, ids: list[int], *, n_reused: int, pass2: str | None = None, **options: object
) -> GenerationResult:
    """Return an answer, checked against the plain base; pass 2 is ``pass2``, or else the best possible kind."""
    actual, expected = (
        llm.generate(ids, max_tokens=8, logprobs=N_TOP, **options)  # type: ignore[arg-type]
        for llm in (pair.tested, pair.plain)
    )
    assert actual.token_ids == expected.token_ids
    np.testing.assert_allclose(top_logprobs(actual), top_logprobs(expected), rtol=0, atol=limit(pair))
    assert (actual.timings.n_reused, expected.timings.n_reused) == (n_reused, 0)
    alone = options.get("inject") is False or options.get("gain") == 0.0
    assert actual.timings.pass2 == ("none" if alone else pass2 or pass2_kind(pair, len(ids)))
    return actual


def top_logprobs(result: GenerationResult) -> list[list[float]]:
    """Return the highest log-probabilities at each position, [n_tokens, N_TOP]."""
    assert result.logprobs is not None
    return [[logprob for _, _, logprob in item.top] for item in result.logprobs]


def limit(pair: RuntimePair) -> float:
    """Return the tolerance for a log-probability."""
    return tolerances.BATCH_SPLIT_MAX_ABS["gemma" if pair.kind.startswith("gemma") else "others"]


class Remembered:
    """A model of the prompt cache, by the rules of docs/usage.md.

    Args:
        pair: the two instances of the base.
        before_last: whether only the last token is injected into. States are then stored before it.
    """

    def __init__(self, pair: RuntimePair, *, before_last: bool = False) -> None:
        self._pair = pair
        self._before_last = before_last and pair.kind in STATEFUL
        tokens = (pair.tested.tokenize(text, add_special=False) for text in ("<eos>", "<|im_end|>"))
        (self.end_of_turn,) = next(ids for ids in tokens if len(ids) == 1)
        self._ids: list[int] = []
        self._marks: list[int] = []

    def of(self, ids: list[int]) -> int:
        """Return how many tokens of this prompt are reused, and add it to the cache."""
        both = zip(self._ids, ids, strict=False)
        alike = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], both))
        shared = alike - (alike == len(ids))  # the last token is computed again for its logits
        reused = reusable(self._pair, len(self._ids), shared, self._marks) if self._ids else 0
        ends = [n + 1 for n, token in enumerate(ids[:-1]) if token == self.end_of_turn]
        parts = [alike] if alike < min(len(self._ids), len(ids)) else []
        self._marks = [*(mark for mark in self._marks if mark <= reused), *parts, *ends[-2:]]
        self._ids = ids[:-1] if self._before_last else ids
        return reused


@pytest.mark.parametrize("inject_from", ["prompt", "last_prompt_token"])
@pytest.mark.parametrize("length", [7, 60])
def test_a_chat_costs_its_new_tokens(length: int, inject_from: InjectFrom, pair: RuntimePair, tmp_path: Path) -> None:
    pair.attach(tmp_path, [pair.num_layers // 2, pair.num_layers - 1], inject_from=inject_from)
    ids, before = pair.prompt(length), 0
    for turn in range(4):
        # if only the last token is injected into, a state is stored before it
        n_cached = before - (pair.kind in STATEFUL and inject_from == "last_prompt_token")
        n_reused = reusable(pair, n_cached, n_cached) if turn else 0
        result = ask(pair, ids, n_reused=n_reused, pass2=pass2_kind(pair, len(ids), inject_from=inject_from))
        before = len(ids)
        ids = [*ids, *result.token_ids, *pair.prompt(3, seed=turn)]


def test_common_prefix_with_the_last_prompt(attached: RuntimePair) -> None:
    """A long common prefix with other endings, a prefix of the last prompt, and a prompt that shares little."""
    common = attached.prompt(12)
    remembered = Remembered(attached)
    for rest in ([21, 22], [23, 24, 25], [23], [], [26, 27], [28]):
        ids = [*common, *rest]
        ask(attached, ids, n_reused=remembered.of(ids))
    ids = [*common[:5], 30]
    ask(attached, ids, n_reused=remembered.of(ids))


def test_a_prompt_that_shares_few_tokens(pair: RuntimePair, tmp_path: Path) -> None:
    """Restoring a long prompt's state costs more than computing the few shared tokens."""
    pair.attach(tmp_path, [pair.num_layers - 1])
    ids = pair.prompt(100)
    for shared in (4, 3):
        ask(pair, ids, n_reused=0)
        ask(pair, [*ids[:shared], 30], n_reused=reusable(pair, 100, shared))
        ask(pair, [31], n_reused=0)


def test_a_prefix_that_many_prompts_share(attached: RuntimePair) -> None:
    """For example a system prompt. A memory that cannot rewind finds a stored state from the third prompt on."""
    common = attached.prompt(14)
    remembered = Remembered(attached)
    reused = []
    for rest in ([21], [22, 22], [23], [24] * 3):
        reused.append(remembered.of([*common, *rest]))
        ask(attached, [*common, *rest], n_reused=reused[-1])
    if attached.kind not in WINDOWED:
        assert reused == [0, 0 if attached.kind in STATEFUL else 14, 14, 14]


@pytest.mark.parametrize("inject_from", ["prompt", "last_prompt_token"])
@pytest.mark.parametrize("suffix", ["", " In one word."])
def test_a_chat_whose_history_is_rendered_differently(
    suffix: str, inject_from: InjectFrom, pair: RuntimePair, tmp_path: Path
) -> None:
    """An empty thought or a suffix at the end of the prompt is missing from the history one turn later.

    Qwen3.5's template does that with thinking off. The turns before the last two are not computed again.
    """
    pair.attach(tmp_path, [pair.num_layers // 2, pair.num_layers - 1], inject_from=inject_from)
    remembered = Remembered(pair, before_last=inject_from == "last_prompt_token")
    end = remembered.end_of_turn
    thought = pair.prompt(4, seed=9)
    history: list[int] = []
    for turn in range(5):
        question, answer = pair.prompt(10, seed=turn), pair.prompt(5, seed=50 + turn)
        ids = [*history, *question, *map(ord, suffix), end, *thought]
        reused = remembered.of(ids)
        ask(pair, ids, n_reused=reused, pass2=pass2_kind(pair, len(ids), inject_from=inject_from))
        if turn > 1 and pair.kind not in WINDOWED:
            assert reused >= len(history) - len(question) - len(answer) - 2
        history = [*history, *question, end, *answer, end]


def test_only_clean_tokens_are_reused(attached: RuntimePair) -> None:
    """The same prompt with other gains: pass 1 is reused, and everything else is computed for the gain."""
    ids = attached.prompt(14)
    first = ask(attached, ids, n_reused=0)
    for gain in (-1.0, 0.5, 2.0, 1.0):
        result = ask(attached, ids, n_reused=14, gain=gain)
        assert (result.logprobs == first.logprobs) is (gain == 1.0)
    # the base's own logits need the last token again
    again = reusable(attached, 14, 13)
    ask(attached, ids, n_reused=again, inject=False)
    ask(attached, ids, n_reused=again, gain=0.0)
    # the wrapper's pass 1 can reuse the base's cache
    ask(attached, ids, n_reused=14)


@pytest.mark.parametrize("inject_from", ["prompt", "last_prompt_token"])
def test_given_cognitive_tokens_are_not_reused(inject_from: InjectFrom, pair: RuntimePair, tmp_path: Path) -> None:
    """The same prompt with given cognitive tokens, alternating with its own tokens, and with other gains.

    If only the last token is injected into, the tokens before it are clean and reused. Otherwise, a held goal has no
    clean pass and does not change the cache of an earlier one.
    """
    pair.attach(tmp_path, [pair.num_layers // 2, pair.num_layers - 1], inject_from=inject_from)
    ids = pair.prompt(14)
    goals = {"own": None, "A": pair.plain.encode(pair.prompt(5)), "B": pair.plain.encode(pair.prompt(9))}
    from_last = inject_from == "last_prompt_token"
    answers: dict[tuple[str, float], list[float]] = {}
    for name, gain in (
        *(("own", 1.0), ("A", 1.0), ("B", 1.0), ("A", 1.0), ("B", -0.5), ("A", -0.5)),
        *(("own", 1.0), ("B", 1.0), ("own", 0.5), ("A", 1.0), ("A", -0.5), ("own", 1.0)),
    ):
        held = name != "own"
        n_reused = 0 if not answers or (held and not from_last) else 13 if from_last else 14
        # a tail needs hidden states of all tokens, and tokens restored for a held goal have none
        whole = held or (from_last and answers)
        pass2 = "full" if whole else pass2_kind(pair, len(ids), inject_from=inject_from)
        result = ask(pair, ids, n_reused=n_reused, pass2=pass2, cognitive_tokens=goals[name], gain=gain)
        answers[name, gain] = top_logprobs(result)[0]
    # the answers are far enough apart to show a mix-up
    for one, other in combinations(answers.values(), 2):
        assert np.abs(np.subtract(one, other)).max() > 5 * limit(pair)


def test_restored_cells_keep_their_positions(attached: RuntimePair) -> None:
    """Restored cells are bit-identical, whatever was in memory before: a tail reuses cells that it does not write."""
    lengths = (14,) if attached.kind in WINDOWED else (14, 100)
    for length in lengths:
        ids = attached.prompt(length)
        for before in (attached.prompt(300), attached.prompt(5)):
            attached.tested.generate(before, max_tokens=20)
            first = attached.tested.generate(ids, max_tokens=20, logprobs=0)
            again = attached.tested.generate(ids, max_tokens=20, logprobs=0)
            assert (first.timings.n_reused, again.timings.n_reused) == (0, length)
            assert (again.logprobs, again.doubt) == (first.logprobs, first.doubt)
            assert again.timings.pass2 == first.timings.pass2


def test_other_cognitive_tokens(attached: RuntimePair) -> None:
    """Prompts with the same prefix have different activations at their end."""
    common = attached.prompt(14)
    for token in (40, 41, 42):
        actual, expected = (llm.cognitive_tokens([*common, token]) for llm in (attached.tested, attached.plain))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=limit(attached))
        ask(attached, [*common, token], n_reused=15)


def test_another_sidecar_clears_the_cache(pair: RuntimePair, tmp_path: Path) -> None:
    ids = pair.prompt(14)
    for layer, seed in ((1, 0), (pair.num_layers - 1, 1), (0, 2)):
        pair.attach(tmp_path, [layer], seed=seed)
        ask(pair, ids, n_reused=0)
        ask(pair, ids, n_reused=14)
    pair.tested.detach()
    pair.plain.detach()
    ask(pair, ids, n_reused=0)
    ask(pair, ids, n_reused=reusable(pair, 14, 13))


def test_inspection_clears_the_cache(attached: RuntimePair) -> None:
    ids = attached.prompt(14)
    for look in (
        lambda llm: llm.logits(attached.prompt(9)),
        lambda llm: llm.layer_outputs(ids, [0]),
        lambda llm: llm.cognitive_attention(ids),
    ):
        ask(attached, ids, n_reused=ask(attached, ids, n_reused=0).timings.n_prompt)
        look(attached.tested)
    assert attached.tested.activations(ids).shape[0] == 3
    ask(attached, ids, n_reused=14)  # those are of a clean pass


def test_a_canceled_pass_is_not_reused(attached: RuntimePair) -> None:
    common = attached.prompt(14)
    ask(attached, common, n_reused=0)
    with pytest.raises(Cancelled):
        attached.tested.generate([*common, *attached.prompt(100)], cancel=lambda: True)
    ask(attached, common, n_reused=0)
    ask(attached, common, n_reused=14)


def test_cache_size_is_bounded(tiny: Callable[[str], TinyModel], tmp_path: Path) -> None:
    """1 MiB holds some 680 tokens: 6 layers, keys and values of 32 in F32."""
    with runtime_pair("llama", tmp_path, tiny, tested={"prefix_cache_mib": 1}, plain=WITHOUT, n_ctx=2048) as pair:
        pair.attach(tmp_path, [3])
        for length, n_reused in ((500, 500), (800, 0)):
            ids = pair.prompt(length)
            ask(pair, ids, n_reused=0)
            ask(pair, ids, n_reused=n_reused)


def test_a_prompt_longer_than_the_cached_hidden_states(tiny: Callable[[str], TinyModel], tmp_path: Path) -> None:
    """Its clean pass is reused and its pass 2 is a whole one, also for a shorter prompt whose rows are missing."""
    options = {"tested": {"hidden_cache_mib": 1}, "plain": WITHOUT}
    with runtime_pair("llama", tmp_path, tiny, **options, n_ctx=4608, n_ubatch=512) as pair:
        pair.attach(tmp_path, [3])
        ids = pair.prompt(4100)
        for length, n_reused, kind in ((4097, 0, "full"), (4100, 4097, "full"), (4090, 4089, "full"), (14, 0, "tail")):
            ask(pair, ids[:length], n_reused=n_reused, pass2=kind)


def test_smollm2_chat(base_gguf: Path, trained_sidecar: Path) -> None:
    """The real base with its chat template and default settings: the turns of a conversation."""
    options = {"n_ctx": 1024, "n_threads": 2, "flash_attn": False}
    with (
        MetaLlama(base_gguf, trained_sidecar, **options) as llm,
        MetaLlama(base_gguf, trained_sidecar, **WITHOUT, **options) as plain,
    ):
        messages = [{"role": "user", "content": "What is the plural of wolf?"}]
        before = 0
        for follow_up in ("And of goose?", "And of mouse?", "And of house?"):
            actual, expected = (one.generate(messages, max_tokens=24, logprobs=N_LIKELY) for one in (llm, plain))
            check_answer(actual, expected, doubt_max_abs=tolerances.SMOLLM2_DOUBT_MAX_ABS)
            assert actual.timings.n_reused == before
            assert actual.timings.pass2 == "tail"
            before = actual.timings.n_prompt
            answer = {"role": "assistant", "content": actual.text}
            messages = [*messages, answer, {"role": "user", "content": follow_up}]
