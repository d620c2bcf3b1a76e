"""Pass 2 as a tail: the same bits as a whole second pass, for every kind of memory, and where it cannot be one.

Both run in the same micro-batches, so nothing but what is computed twice differs. K/V cache in F32, flash attention off
(``EXACT``) but for the real model, which runs as a user has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import tolerances
from metadeploy import Cancelled, MetaLlama
from metadeploy.sidecar import write_sidecar
from metadeploy.sidecar.spec import InjectFrom
from support.parity import EXACT
from support.random_wrapper import random_wrapper
from support.tiny_archs import ARCHS, GEMMA4_FIRST_SHARED, NUM_LAYERS, WIDTH, write_tiny_arch
from support.tiny_models import TinyModel

CONVERTED = ["llama", "qwen3", "qwen3_5", "gemma3"]
#: their memory is, or holds, a state that moves on with each token
STATEFUL = ("qwen3_5", "mamba", "rwkv7")
#: the last is longer than the cells of a sliding window
LENGTHS = (1, 16, 40, 400)
SMALL_BATCHES = {"n_batch": 48, "n_ubatch": 16}


@dataclass(frozen=True)
class Case:
    """A base in the runtime twice: with tail passes, and without."""

    kind: str
    num_layers: int
    hidden_dim: int
    tail: MetaLlama
    full: MetaLlama

    def attach(self, folder: Path, layers: Sequence[int], *, inject_from: InjectFrom = "prompt", seed: int = 0) -> None:
        """The same random wrapper on both, which also reads layers above and below those it injects into."""
        n = self.num_layers
        config, tensors = random_wrapper(
            "selective",
            hidden_dim=self.hidden_dim,
            target_layers=[n - 1, 0, n // 2],
            cross_attn_layers=sorted(set(layers)),
            inject_from=inject_from,
            seed=seed,
        )
        path = folder / "sidecar.gguf"
        write_sidecar(path, config, {name: tensor.numpy() for name, tensor in tensors.items()}, force=True)
        self.tail.attach(path)
        self.full.attach(path)

    def prompt(self, length: int) -> list[int]:
        high = min(250, self.tail.n_vocab)
        return np.random.default_rng(length).integers(20, high, size=length).tolist()


@pytest.fixture(scope="module", params=[*CONVERTED, *ARCHS])
def case(
    request: pytest.FixtureRequest, tiny: Callable[[str], TinyModel], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    kind = request.param
    if kind in ARCHS:
        path, num_layers, width = tmp_path_factory.mktemp("archs") / f"{kind}.gguf", NUM_LAYERS, WIDTH
        write_tiny_arch(path, kind)
    else:
        model = tiny(kind)
        path, num_layers, width = model.path_gguf, model.num_layers, model.hidden_dim
    options = {"n_ctx": 512, **SMALL_BATCHES, **EXACT}
    with MetaLlama(path, **options) as tail, MetaLlama(path, hidden_cache_mib=0, **options) as full:
        yield Case(kind, num_layers, width, tail, full)


def kind_of_pass(case: Case, lowest: int, length: int) -> str:
    """What pass 2 can be."""
    last = lowest == case.num_layers - 1
    if case.kind == "rwkv7" and not last:  # upper blocks take the first one's values, made of a state that has moved on
        return "full"
    # upper blocks read keys and values of the last blocks that have their own, whose window has moved on
    if case.kind == "gemma4" and length > 256 and lowest >= GEMMA4_FIRST_SHARED - 2 and not last:
        return "full"
    return "tail"


@pytest.mark.parametrize("lowest", ["first", "second", "middle", "last"])
def test_logits_are_those_of_a_whole_pass(lowest: str, case: Case, tmp_path: Path) -> None:
    n = case.num_layers
    layer = {"first": 0, "second": 1, "middle": n // 2, "last": n - 1}[lowest]
    case.attach(tmp_path, [layer, n - 1])
    for length in LENGTHS:
        ids = case.prompt(length)
        np.testing.assert_array_equal(case.tail.logits(ids), case.full.logits(ids))
        found = case.tail.generate(ids, max_tokens=12, logprobs=2)
        expected = case.full.generate(ids, max_tokens=12, logprobs=2)
        assert (found.token_ids, found.logprobs, found.doubt) == (expected.token_ids, expected.logprobs, expected.doubt)
        assert (found.timings.pass2, expected.timings.pass2) == (kind_of_pass(case, layer, length), "full")
        assert expected.timings.hidden_bytes == 0
        if found.timings.pass2 == "tail":
            assert found.timings.hidden_bytes == 4 * length * case.hidden_dim


def test_from_the_last_token_on(case: Case, tmp_path: Path) -> None:
    """A tail of one token, which a memory with a state does not have: its state has seen that token."""
    n = case.num_layers
    case.attach(tmp_path, [n // 2, n - 1], inject_from="last_prompt_token")
    for length in LENGTHS:
        ids = case.prompt(length)
        np.testing.assert_array_equal(case.tail.logits(ids), case.full.logits(ids))
        found = case.tail.generate(ids, max_tokens=12)
        expected = case.full.generate(ids, max_tokens=12)
        assert found.token_ids == expected.token_ids
        assert found.doubt == pytest.approx(expected.doubt, abs=tolerances.TINY_DOUBT_MAX_ABS)
        kind = "full" if case.kind in STATEFUL else kind_of_pass(case, n // 2, length)
        assert found.timings.pass2 == kind


def test_looking_inside_leaves_it_as_it_was(case: Case, tmp_path: Path) -> None:
    """Activations, attention and outputs of blocks are computed in whole passes."""
    n = case.num_layers
    case.attach(tmp_path, [n // 2, n - 1])
    ids = case.prompt(40)
    expected = case.full.generate(ids, max_tokens=4, logprobs=0)
    for look in (
        lambda llm: llm.layer_outputs(ids, list(range(n))),
        lambda llm: llm.cognitive_attention(ids),
        lambda llm: llm.activations(ids[:9]),
    ):
        np.testing.assert_array_equal(look(case.tail), look(case.full))
        assert case.tail.generate(ids, max_tokens=4, logprobs=0).logprobs == expected.logprobs


def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    """A MiB holds 4096 rows of this width."""
    path = tmp_path / "gemma2.gguf"
    write_tiny_arch(path, "gemma2")
    options = {"n_ctx": 4608, **EXACT}
    with MetaLlama(path, hidden_cache_mib=1, **options) as tail, MetaLlama(path, hidden_cache_mib=0, **options) as full:
        case = Case("gemma2", NUM_LAYERS, WIDTH, tail, full)
        case.attach(tmp_path, [3])
        for length, kind, n_bytes in ((4096, "tail", 1 << 20), (4097, "full", 0)):
            found, expected = (llm.generate(case.prompt(length), max_tokens=2, logprobs=1) for llm in (tail, full))
            assert (found.token_ids, found.logprobs) == (expected.token_ids, expected.logprobs)
            assert (found.timings.pass2, found.timings.hidden_bytes) == (kind, n_bytes)


def test_a_pass_that_is_cancelled_leaves_nothing_behind(case: Case, tmp_path: Path) -> None:
    n = case.num_layers
    case.attach(tmp_path, [n // 2])
    ids = case.prompt(400)
    expected = case.full.generate(ids, max_tokens=4, logprobs=0)
    n_cancelled = 0
    for patience in range(6):
        asked: list[None] = []

        def enough(patience: int = patience, asked: list[None] = asked) -> bool:
            asked.append(None)
            return len(asked) > patience

        try:
            case.tail.generate(ids, cancel=enough, max_tokens=0)
        except Cancelled:
            n_cancelled += 1
        found = case.tail.generate(ids, max_tokens=4, logprobs=0)
        assert found.logprobs == expected.logprobs
        assert found.timings.pass2 == kind_of_pass(case, n // 2, len(ids))
    assert n_cancelled > 0


def test_another_sidecar_enters_elsewhere(case: Case, tmp_path: Path) -> None:
    n = case.num_layers
    ids = case.prompt(40)
    for layer, seed in ((n // 2, 0), (0, 1), (n - 1, 2)):
        case.attach(tmp_path, [layer, n - 1], seed=seed)
        for gain in (1.0, 0.5, -1.0, 0.0):
            found, expected = (llm.generate(ids, max_tokens=4, logprobs=0, gain=gain) for llm in (case.tail, case.full))
            assert found.logprobs == expected.logprobs
            assert (found.timings.pass2 == "none") is (gain == 0.0)


@pytest.mark.parametrize("flash_attn", [True, False])
def test_smollm2(flash_attn: bool, base_gguf: Path, trained_sidecar: Path) -> None:
    """The real base as it is shipped (Q4_1), with an F16 cache, the trained Doubter and long prompts."""
    options = {"n_ctx": 1024, "n_ubatch": 128, "n_threads": 2, "flash_attn": flash_attn}
    with (
        MetaLlama(base_gguf, trained_sidecar, **options) as tail,
        MetaLlama(base_gguf, trained_sidecar, hidden_cache_mib=0, **options) as full,
    ):
        for question in ("What is the plural of wolf?", "Summarise: " + "the wolf and the seven young goats, " * 40):
            ids = tail.tokenize(tail.apply_chat_template([{"role": "user", "content": question}]))
            np.testing.assert_array_equal(tail.logits(ids), full.logits(ids))
            found, expected = (llm.generate(question, max_tokens=16, logprobs=1) for llm in (tail, full))
            assert (found.logprobs, found.doubt) == (expected.logprobs, expected.doubt)
            assert (found.timings.pass2, expected.timings.pass2) == ("tail", "full")
            assert found.timings.hidden_bytes == 4 * 576 * found.timings.n_prompt
