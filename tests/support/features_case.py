"""A tiny base in the runtime and in PyTorch, with the same wrapper, and what a verdict reads of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import tolerances
from metadeploy import MetaLlama
from metadeploy.export import export
from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline
from metadeploy.reference.answer_features import answer_features
from metadeploy.runtime.types import AnswerFeatures, GenerationResult
from support.parity import EXACT, nmse
from support.random_wrapper import random_wrapper, save_checkpoint
from support.tiny_models import TinyModel


def prompt_ids(model: TinyModel, seed: int, length: int = 40) -> list[int]:
    return np.random.default_rng(seed).integers(20, model.vocab_size, size=length).tolist()


class FeaturesCase:
    """A tiny base on both sides, with the same random wrapper."""

    def __init__(self, model: TinyModel, folder: Path) -> None:
        n = model.num_layers
        self.model = model
        self.prompt_layers = [n - 1, 0]
        self.answer_layers = [1, n - 1]  # after an injection
        config, tensors = random_wrapper(
            "selective",
            hidden_dim=model.hidden_dim,
            target_layers=[n - 1, 0],
            cross_attn_layers=[1, n - 1],
            num_layers=n,
        )
        checkpoint = save_checkpoint(folder, config, tensors)
        self.sidecar = export(checkpoint, force=True).path
        options = MetaSpiderConfig(model_name=str(model.path_hf), device="cpu", dtype="float32")
        self.pipeline = MetaSpiderPipeline.from_pretrained(options)
        self.pipeline.attach(Doubter.from_checkpoint(checkpoint))

    def load(self, n_parallel: int = 1, *, taps: bool = True) -> MetaLlama:
        """Load the runtime; taps: gather the features, which a verdict head needs no request for."""
        llm = MetaLlama(self.model.path_gguf, self.sidecar, n_ctx=512, n_parallel=n_parallel, **EXACT)
        if taps:
            llm.tap_answers(self.prompt_layers, self.answer_layers)
        return llm

    def expected(self, ids: Sequence[int], result: GenerationResult, gain: float = 1.0) -> AnswerFeatures:
        assert result.logprobs is not None
        return answer_features(
            self.pipeline,
            ids,
            result.token_ids,
            [token.raw or b"" for token in result.logprobs],
            prompt_layers=self.prompt_layers,
            answer_layers=self.answer_layers,
            inject=gain != 0.0,
            gain=gain,
            ended=result.finish_reason == "stop",
        )

    def check(self, result: GenerationResult, expected: AnswerFeatures) -> None:
        limits = tolerances.TINY[self.model.kind]
        features = result.features
        assert features is not None and features.prompt is not None and expected.prompt is not None
        assert nmse(features.prompt, expected.prompt) < limits["activations"]
        pairs = zip((*features.sentences, features.answer), (*expected.sentences, expected.answer), strict=True)
        for actual, wanted in pairs:
            assert (actual.first_token, actual.n_tokens) == (wanted.first_token, wanted.n_tokens)
            assert (actual.start, actual.end) == (wanted.start, wanted.end)
            assert nmse(actual.means, wanted.means) < limits["hidden states"]
            one_token = tolerances.ONE_TOKEN_NMSE.get(self.model.kind, limits["hidden states"])
            assert nmse(actual.last, wanted.last) < one_token
            np.testing.assert_allclose(actual.figures, wanted.figures, atol=tolerances.FIGURES_MAX_ABS[self.model.kind])
