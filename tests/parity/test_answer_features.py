"""What a verdict reads of an answer: gathered by the runtime while it decodes, and computed by PyTorch in one pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from metadeploy.runtime import Request
from support.features_case import FeaturesCase, prompt_ids
from support.tiny_models import TinyModel

KINDS = ["llama", "qwen3", "qwen3_5", "gemma3"]


@pytest.fixture(scope="module", params=KINDS)
def case(
    request: pytest.FixtureRequest, tiny: Callable[[str], TinyModel], tmp_path_factory: pytest.TempPathFactory
) -> FeaturesCase:
    return FeaturesCase(tiny(request.param), tmp_path_factory.mktemp("features"))


@pytest.mark.parametrize("gain", [1.0, 0.5, 0.0])
def test_features(gain: float, case: FeaturesCase) -> None:
    with case.load() as llm:
        for seed in range(3):
            ids = prompt_ids(case.model, seed)
            result = llm.generate(ids, max_tokens=20, logprobs=0, gain=gain)
            case.check(result, case.expected(ids, result, gain))


def test_without_a_sidecar(case: FeaturesCase) -> None:
    with case.load() as llm:
        llm.detach()
        ids = prompt_ids(case.model, 1)
        result = llm.generate(ids, max_tokens=20, logprobs=0)
        case.check(result, case.expected(ids, result, 0.0))
        llm.tap_answers()
        assert llm.generate(ids, max_tokens=4).features is None


def test_many_at_once_and_prompts_from_the_cache(case: FeaturesCase) -> None:
    """Prompts with a common beginning, and the same prompt again, whose pass 1 is skipped."""
    long = prompt_ids(case.model, 5, 60)
    prompts = [long, prompt_ids(case.model, 6, 9), long[:40] + prompt_ids(case.model, 7, 9), long, long]
    with case.load(n_parallel=3) as llm:
        gains = [1.0, 0.0, 0.5, 1.0, 0.0]
        requests = [Request(prompt=ids, gain=gain) for ids, gain in zip(prompts, gains, strict=True)]
        for answer in llm.generate_batch(requests, max_tokens=12, logprobs=0):
            assert answer.result is not None
            expected = case.expected(prompts[answer.index], answer.result, gains[answer.index])
            case.check(answer.result, expected)


def test_layers_that_the_model_does_not_have(case: FeaturesCase) -> None:
    with case.load() as llm:
        with pytest.raises(Exception, match=f"layers 0 to {case.model.num_layers - 1}"):
            llm.tap_answers([case.model.num_layers], [])
        with pytest.raises(Exception, match="twice"):
            llm.tap_answers([1, 1], [])
        assert llm.generate(prompt_ids(case.model, 1), max_tokens=2).features is not None  # those before stay
