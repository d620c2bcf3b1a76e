"""If weights, gains or bases overflow, only that request fails, and it does not affect the next one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tolerances
from metadeploy import Cancelled, InjectionSchedule, MetaLlama, Refresh, Request
from metadeploy.errors import DecodeError
from metadeploy.sidecar import read_sidecar, write_sidecar
from support.parity import EXACT
from support.program import Program, TinyCase
from support.random_wrapper import random_wrapper
from support.tiny_archs import F32, NUM_LAYERS, WIDTH, write_tiny_arch

PROMPT = "What is the capital of France?"
END_OF_TURN = 258
#: one thread: on a busy machine, several would wait for one another
ONE_THREAD = {**EXACT, "n_threads": 1}

# --- tables ----------------------------------------------------------------------------------------------------------


def scaled(tiny_case: TinyCase, path: Path, **factors: float) -> Path:
    """The tiny sidecar with some cross-attention weights multiplied: they are finite but too large."""
    source = read_sidecar(tiny_case.sidecar)
    tensors = {
        name: (np.asarray(tensor) * np.float32(factors.get(name.split(".")[-2], 1.0))).astype(np.float32)
        for name, tensor in source.tensors.items()
    }
    write_sidecar(path, source.config, tensors)
    return path


def test_weights_whose_product_overflows(llm: MetaLlama, tiny_case: TinyCase, tmp_path: Path) -> None:
    expected, base = (llm.generate(PROMPT, max_tokens=15, inject=inject).token_ids for inject in (True, False))
    llm.attach(scaled(tiny_case, tmp_path / "huge.gguf", v_proj=1e25, up_proj=1e25))
    for _ in range(2):
        with pytest.raises(DecodeError, match=r"huge\.gguf': what it makes of a prompt is not finite"):
            llm.generate(PROMPT)
    assert llm.generate(PROMPT, max_tokens=15, inject=False).token_ids == base
    llm.attach(tiny_case.sidecar)
    assert llm.generate(PROMPT, max_tokens=15).token_ids == expected


def test_overflowing_tables_affect_no_other_answer(tiny_case: TinyCase, tmp_path: Path) -> None:
    """The base alone, in the sequence with unusable tables, shares batches with a sequence that gets injections."""
    fragile = scaled(tiny_case, tmp_path / "fragile.gguf", v_proj=1e34, up_proj=1e-34)
    with tiny_case.load(n_parallel=2) as llm, tiny_case.load() as alone:
        llm.attach(fragile)
        alone.attach(fragile)
        with pytest.raises(DecodeError, match="is not finite"):
            llm.generate(PROMPT, cognitive_tokens=np.full((3, 32), 9e5))
        requests = [Request(prompt=PROMPT, inject=False), Request(prompt=PROMPT)]
        for answer in llm.generate_batch(requests, max_tokens=15):
            assert answer.result is not None
            expected = alone.generate(PROMPT, max_tokens=15, inject=requests[answer.index].inject is not False)
            assert answer.result.token_ids == expected.token_ids


SOUND = 1e6


def attach_fragile(tiny_case: TinyCase, path: Path, limit: float, *bases: MetaLlama) -> None:
    """The tiny sidecar, but its tables overflow if the first element of a cognitive token exceeds a limit in magnitude.

    One row of the value projection is that element alone, and its result is multiplied by 0. The element is about 10,
    far below the limit ``SOUND``.
    """
    source = read_sidecar(tiny_case.sidecar)
    tensors = {name: np.array(tensor) for name, tensor in source.tensors.items()}
    for name in ("weight", "bias"):
        tensors[f"enc.output_norm.{name}"][0] *= 10
    for layer in source.config.cross_attn_layers:
        tensors[f"ca.{layer}.v_proj.weight"][0] = 0
        tensors[f"ca.{layer}.v_proj.weight"][0, 0] = np.finfo(np.float32).max / limit
        tensors[f"ca.{layer}.up_proj.weight"][:, 0] = 0
    write_sidecar(path, source.config, tensors, force=True)
    for base in bases:
        base.attach(path)


def first_element(llm: MetaLlama, prompt: list[int]) -> float:
    return float(np.abs(llm.encode(prompt)[:, 0]).max())


def test_one_that_overflows_after_its_clean_pass(tiny_case: TinyCase, tmp_path: Path) -> None:
    """Only this request fails: running and later requests are answered as they are alone."""
    with tiny_case.load(n_parallel=3) as llm, tiny_case.load() as alone:
        fragile = tmp_path / "fragile.gguf"
        attach_fragile(tiny_case, fragile, SOUND, alone)
        prompts = [llm.tokenize(f"{n} prompts, of which one breaks") for n in range(20)]
        *good, last, bad = sorted(prompts, key=lambda prompt: first_element(alone, prompt))
        limit = (first_element(alone, last) + first_element(alone, bad)) / 2
        attach_fragile(tiny_case, fragile, limit, llm, alone)
        batch = [last, bad, *good[:3]]
        answers = list(llm.generate_batch(batch, max_tokens=15))
        broken = answers.pop(batch.index(bad))
        batch.remove(bad)
        assert broken.result is None
        assert type(broken.error) is DecodeError
        assert "what it makes of a prompt is not finite" in str(broken.error)
        for answer, prompt in zip(answers, batch, strict=True):
            assert answer.result is not None
            assert answer.result.token_ids == alone.generate(prompt, max_tokens=15).token_ids


def test_one_that_overflows_while_its_answer_grows(tiny_case: TinyCase, tmp_path: Path) -> None:
    """It breaks at a refresh: the caller has the text so far, and other requests get both of its sequences."""
    every = InjectionSchedule(refresh=Refresh(threshold=1.1, min_interval=1))
    with tiny_case.load(n_parallel=4) as llm, tiny_case.load() as alone:
        fragile = tmp_path / "fragile.gguf"
        attach_fragile(tiny_case, fragile, SOUND, llm, alone)
        prompts = [llm.tokenize(f"{n} prompts, of which one breaks") for n in range(5)]
        ids = llm.generate(prompts[0], max_tokens=15, schedule=every).token_ids
        sizes = [first_element(alone, [*prompts[0], *ids[:t]]) for t in range(len(ids))]
        limit = 1.05 * max(*sizes[:3], *(first_element(alone, prompt) for prompt in prompts))
        n_said = next(t for t, size in enumerate(sizes) if size > limit)
        attach_fragile(tiny_case, fragile, limit, llm, alone)
        batch = [Request(prompt=prompts[0], schedule=every), *prompts[1:]]
        received: dict[int, list[int]] = {i: [] for i in range(len(batch))}
        for answer, chunk in llm.stream_batch(batch, max_tokens=15):
            if chunk is not None:
                received[answer.index] += chunk.token_ids
            else:
                assert answer.index == 0
                assert type(answer.error) is DecodeError
                assert "what it makes of a prompt is not finite" in str(answer.error)
                assert 0 < len(received[1]) < 15  # the others are still running
        assert received.pop(0) == list(ids[:n_said])
        assert 3 <= n_said < 15
        for i, tokens in received.items():
            assert tuple(tokens) == alone.generate(prompts[i], max_tokens=15).token_ids
        again = llm.generate(prompts[0], max_tokens=n_said, schedule=every)
        assert again.token_ids == ids[:n_said]


# --- injections that overflow the base -------------------------------------------------------------------------------


CALLS: dict[str, Callable[[MetaLlama], object]] = {
    "generate": lambda llm: llm.generate(PROMPT, gain=1e5),
    "held": lambda llm: llm.generate(PROMPT, gain=-1e5, cognitive_tokens=llm.encode("another")),
    "doubt": lambda llm: llm.doubt(PROMPT, gain=1e5),
    "logits": lambda llm: llm.logits(llm.tokenize(PROMPT), gain=1e5),
    "layer_outputs": lambda llm: llm.layer_outputs(llm.tokenize(PROMPT), [0, 2], gain=1e5),
    "cognitive_attention": lambda llm: llm.cognitive_attention(PROMPT, gain=1e5),
    "many": lambda llm: raise_errors(llm, [Request(prompt=PROMPT, gain=1e5), Request(prompt="hi", gain=0.0)]),
}


def raise_errors(llm: MetaLlama, requests: list[Request]) -> None:
    for answer in llm.generate_batch(requests, max_tokens=3):
        if answer.error is not None:
            raise answer.error


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("n_parallel", [1, 2])
def test_an_injection_that_makes_every_base_overflow(
    n_parallel: int, name: str, tiny_case: TinyCase, tmp_path: Path
) -> None:
    """The weights and the gain are finite, but their product makes the base overflow."""
    with tiny_case.load(n_parallel=n_parallel) as llm:
        ids = llm.tokenize(PROMPT)
        base, expected = llm.logits(ids, inject=False), llm.generate(PROMPT, max_tokens=9).token_ids
        # the refusal tokens do not matter here
        llm.attach(scaled(tiny_case, tmp_path / "huge.gguf", up_proj=1e36))
        for _ in range(2):
            with pytest.raises(DecodeError, match=r"huge\.gguf': what it injects at gain -?1e\+05 is up to .*e\+4"):
                CALLS[name](llm)
            np.testing.assert_array_equal(llm.logits(ids, inject=False), base)
            assert llm.generate(PROMPT, max_tokens=9, inject=False).doubt is None
        llm.attach(tiny_case.sidecar)
        assert llm.generate(PROMPT, max_tokens=9).token_ids == expected


def test_a_refresh_that_makes_every_base_overflow(tiny_case: TinyCase, tmp_path: Path) -> None:
    """Refreshed cognitive tokens are checked like those of the prompt."""
    every = InjectionSchedule(refresh=Refresh(threshold=1.1, min_interval=1))
    with tiny_case.load(n_parallel=2) as llm:
        base = llm.generate(PROMPT, max_tokens=9, inject=False).token_ids
        llm.attach(scaled(tiny_case, tmp_path / "huge.gguf", up_proj=1e36))
        with pytest.raises(DecodeError, match="what it injects at gain 1 is up to"):
            llm.generate(PROMPT, schedule=every)
        assert llm.generate(PROMPT, max_tokens=9, inject=False).token_ids == base


def test_the_program_says_so(tiny: Program, tiny_case: TinyCase, tmp_path: Path) -> None:
    run = tiny("--meta", scaled(tiny_case, tmp_path / "huge.gguf", up_proj=1e36), "--meta-gain", "1e5", "-p", PROMPT)
    assert (run.returncode, run.stdout) == (1, "")
    assert "huge.gguf': what it injects at gain 1e+05 is up to" in run.stderr


# --- bases that overflow sooner --------------------------------------------------------------------------------------


class Fragile:
    """A Gemma 4 that overflows if 1e5 is injected, and a wrapper for it.

    Its blocks multiply hidden states, without a norm before, by values that depend on the token.

    Args:
        folder: where both are written.
        token: only an injection into this token makes it overflow; None: an injection into any token.
    """

    def __init__(self, folder: Path, token: int | None = None) -> None:
        self.base, self.sidecar = folder / "base.gguf", folder / "sidecar.gguf"

        def edit(name: str, tensor: F32) -> None:
            if name.endswith("inp_gate.weight"):
                tensor *= np.float32(1e34 if token is None else 1e17)
            if name == "per_layer_token_embd.weight" and token is not None:
                tensor[token] *= np.float32(1e17)

        write_tiny_arch(self.base, "gemma4", edit=edit)
        config, tensors = random_wrapper(
            "selective", hidden_dim=WIDTH, target_layers=[0, 2], cross_attn_layers=[0, 3], num_layers=NUM_LAYERS
        )
        write_sidecar(self.sidecar, config, {name: tensor.numpy() for name, tensor in tensors.items()}, force=True)

    def load(self, **options: Any) -> MetaLlama:
        return MetaLlama(self.base, self.sidecar, **{"n_ctx": 256, **ONE_THREAD, **options})


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Fragile:
    return Fragile(tmp_path_factory.mktemp("fragile"))


OVERFLOWS = r"sidecar\.gguf': at gain -?1e\+05 the base overflows: its logits are not finite"


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("n_parallel", [1, 2])
def test_a_prompt_that_makes_this_base_overflow(n_parallel: int, name: str, fragile: Fragile) -> None:
    """NaN spreads even from masked cells. The next prompt is shorter, so old cells stay next to its own."""
    with fragile.load(n_parallel=n_parallel) as llm:
        ids = llm.tokenize("hi")
        base, expected = llm.logits(ids, inject=False), llm.generate("hi", max_tokens=9)
        for _ in range(2):
            with pytest.raises(DecodeError, match=OVERFLOWS):
                CALLS[name](llm)
            np.testing.assert_array_equal(llm.logits(ids, inject=False), base)
            assert llm.generate("hi", max_tokens=9).token_ids == expected.token_ids


@pytest.mark.parametrize("n_parallel", [1, 2])
def test_an_answer_that_makes_this_base_overflow(n_parallel: int, tmp_path: Path) -> None:
    """The caller has received all text before the error."""
    with Fragile(tmp_path, token=END_OF_TURN).load() as llm:
        prompt, token_ids, at = next(
            (prompt, token_ids, i)
            for prompt in (f"question {n}" for n in range(50))
            for token_ids in [llm.generate(prompt, max_tokens=9, gain=-1e5).token_ids]
            for i in range(2, len(token_ids))
            if token_ids[i] not in (*token_ids[:i], *llm.tokenize(prompt))
        )
    with Fragile(tmp_path, token=token_ids[at]).load(n_parallel=n_parallel) as llm:
        ids = llm.tokenize("hi")
        base = llm.logits(ids, inject=False)
        received: list[int] = []
        with pytest.raises(DecodeError, match=OVERFLOWS):
            for chunk in llm.stream(prompt, max_tokens=9, gain=-1e5):
                received += chunk.token_ids
        assert received == list(token_ids[: at + 1])
        np.testing.assert_array_equal(llm.logits(ids, inject=False), base)


def test_requests_in_progress(fragile: Fragile) -> None:
    """The memory of other requests stays, at every stage of theirs."""
    with fragile.load() as alone, fragile.load(n_parallel=3, n_ubatch=16) as llm:
        good = [Request(prompt=[20 + (i * n) % 200 for i in range(n)], gain=1.0) for n in (90, 7, 120, 33)]
        bad = [Request(prompt=[40 + i for i in range(n)], gain=1e5) for n in (5, 40)]
        for order in permutations(range(4), 2):
            batch = list(good)
            for at, request in zip(order, bad, strict=True):
                batch.insert(at, request)
            for answer in llm.generate_batch(batch, max_tokens=20, logprobs=5):
                request = batch[answer.index]
                if request in bad:
                    assert type(answer.error) is DecodeError
                    continue
                assert answer.result is not None
                expected = alone.generate(request.prompt, max_tokens=20, gain=1.0, logprobs=5)
                for entry, other in zip(answer.result.logprobs or (), expected.logprobs or (), strict=True):
                    values = ([logprob for _, _, logprob in side.top] for side in (entry, other))
                    np.testing.assert_allclose(*values, rtol=0, atol=tolerances.BATCH_MAX_ABS["gemma"])


@pytest.mark.parametrize("n_steps", [1, 3, 5, 7, 9])
@pytest.mark.parametrize("n_parallel", [1, 2])
def test_a_request_that_is_canceled_before_its_logits(n_parallel: int, n_steps: int, fragile: Fragile) -> None:
    """No check has shown yet whether the first half of the prompt is finite after the injection."""
    with fragile.load(n_parallel=n_parallel, n_ubatch=16) as llm:
        ids = llm.tokenize("hi")
        base = llm.logits(ids, inject=False)
        left = [n_steps]

        def cancel() -> bool:
            left[0] -= 1
            return left[0] < 0

        request = Request(prompt=[20 + i for i in range(100)], gain=1e5, cancel=cancel)
        (answer,) = llm.generate_batch([request])
        assert type(answer.error) is (Cancelled if left[0] < 0 else DecodeError)
        np.testing.assert_array_equal(llm.logits(ids, inject=False), base)


# --- a base that is not finite by itself -----------------------------------------------------------------------------

BROKEN_TOKEN = 99


@pytest.mark.parametrize("kind", ["small_llama", "small_gemma3", "small_qwen35", "mamba", "rwkv7"])
@pytest.mark.parametrize("n_parallel", [1, 2])
def test_a_token_whose_embedding_is_nan(n_parallel: int, kind: str, tmp_path: Path) -> None:
    """The file is damaged: only prompts with that token fail, with a wrapper and without."""

    def edit(name: str, tensor: F32) -> None:
        if name == "token_embd.weight":
            tensor[BROKEN_TOKEN] = np.nan

    write_tiny_arch(tmp_path / "base.gguf", kind, tied=False, edit=edit)
    config, tensors = random_wrapper("selective", hidden_dim=WIDTH, target_layers=[0, 4], cross_attn_layers=[3])
    write_sidecar(tmp_path / "sidecar.gguf", config, {name: tensor.numpy() for name, tensor in tensors.items()})
    options = {"n_ctx": 256, "n_parallel": n_parallel, **ONE_THREAD}
    broken = [*range(20, 60), BROKEN_TOKEN, *range(60, 80)]
    with MetaLlama(tmp_path / "base.gguf", tmp_path / "sidecar.gguf", **options) as llm:
        ids = list(range(30, 60))
        expected = {inject: llm.logits(ids, inject=inject) for inject in (False, True)}
        for inject, fault in ((False, "without any injection"), (True, "what it makes of a prompt is not finite")):
            for call in (
                lambda: llm.generate(broken, inject=inject),  # noqa: B023
                lambda: llm.logits(broken, inject=inject),  # noqa: B023
                lambda: llm.layer_outputs(broken, [0], inject=inject),  # noqa: B023
                lambda: list(llm.stream([*broken[:-1], 20], inject=inject)),  # noqa: B023
            ):
                with pytest.raises(DecodeError, match=fault):
                    call()
                for alone, logits in expected.items():
                    np.testing.assert_array_equal(llm.logits(ids, inject=alone), logits)
