"""Verdicts of the runtime and of PyTorch, on the same answers with the same head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import tolerances
from metadeploy.reference.verdict import VerdictNetwork
from metadeploy.runtime import Request
from metadeploy.runtime.types import GenerationResult
from metadeploy.sidecar.rewriting import write_verdict
from metadeploy.sidecar.verdict import VerdictHead, Window
from support.features_case import FeaturesCase, prompt_ids
from support.random_verdict import random_verdict
from support.tiny_models import TinyModel

KINDS = ["llama", "qwen3_5", "gemma3"]


class VerdictCase(FeaturesCase):
    """A tiny base on both sides, with the same random wrapper and verdict head."""

    def __init__(self, model: TinyModel, folder: Path, window: Window) -> None:
        super().__init__(model, folder)
        self.head: VerdictHead = random_verdict(
            model.hidden_dim, prompt_layers=self.prompt_layers, answer_layers=self.answer_layers, window=window
        )
        self.sidecar = write_verdict(self.sidecar, self.head, folder / "judged.gguf")
        self.network = VerdictNetwork(self.head)

    def check_verdict(self, ids: list[int], result: GenerationResult, gain: float) -> float:
        features = self.expected(ids, result, gain)
        limit = tolerances.P_WRONG_MAX_ABS[self.model.kind]
        assert result.verdict is not None and result.verdict.p_wrong is not None and features.prompt is not None
        expected = self.network.verdict(features)
        assert result.verdict.p_wrong == pytest.approx(expected, abs=limit)
        for actual, sentence in zip(result.verdict.sentences, features.sentences, strict=True):
            assert actual.p_wrong == pytest.approx(self.network.p_wrong(features.prompt, sentence), abs=limit)
        return result.verdict.p_wrong


@pytest.fixture(scope="module", params=KINDS)
def case(
    request: pytest.FixtureRequest, tiny: Callable[[str], TinyModel], tmp_path_factory: pytest.TempPathFactory
) -> VerdictCase:
    return VerdictCase(tiny(request.param), tmp_path_factory.mktemp("verdict"), "first_sentence")


@pytest.mark.parametrize("gain", [1.0, 0.0])
def test_verdicts(gain: float, case: VerdictCase) -> None:
    with case.load(taps=False) as llm:
        verdicts = []
        for seed in range(4):
            ids = prompt_ids(case.model, seed)
            result = llm.generate(ids, max_tokens=20, logprobs=0, gain=gain)
            verdicts.append(case.check_verdict(ids, result, gain))
    assert max(verdicts) - min(verdicts) > 0.01  # a head that says the same of everything would pass as well


def test_verdicts_of_whole_answers(case: VerdictCase, tmp_path: Path) -> None:
    whole = VerdictCase(case.model, tmp_path, "answer")
    with whole.load(taps=False) as llm:
        for seed in range(2):
            ids = prompt_ids(whole.model, seed)
            whole.check_verdict(ids, llm.generate(ids, max_tokens=20, logprobs=0), 1.0)


def test_many_at_once_and_prompts_from_the_cache(case: VerdictCase) -> None:
    long = prompt_ids(case.model, 5, 60)
    prompts = [long, prompt_ids(case.model, 6, 9), long[:40] + prompt_ids(case.model, 7, 9), long, long]
    gains = [1.0, 0.0, 0.5, 1.0, 0.0]
    requests = [Request(prompt=ids, gain=gain) for ids, gain in zip(prompts, gains, strict=True)]
    with case.load(n_parallel=3, taps=False) as llm:
        for answer in llm.generate_batch(requests, max_tokens=12, logprobs=0):
            assert answer.result is not None
            case.check_verdict(prompts[answer.index], answer.result, gains[answer.index])
