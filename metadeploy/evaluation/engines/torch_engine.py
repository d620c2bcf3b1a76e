"""The engine in PyTorch: two passes over many questions at once.

Pass 1 computes the activations and the base's own answer. If the wrapper injects from the last prompt token on, pass 2
reuses the keys and values of pass 1, and evaluates only this token again. For other wrappers, and for bases whose cache
has more than keys and values, pass 2 evaluates the whole prompt.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from metadeploy.batched.clean_pass import CleanPass, Prefilled
from metadeploy.batched.doubt import doubt_margin, mask_token
from metadeploy.batched.greedy import AnswerOpening, GreedyAnswer, greedy_answers
from metadeploy.batched.injection import injected
from metadeploy.batched.prefix import SharedPrefix, left_padded, plain_cache
from metadeploy.data.answers import extract_answer, stop_when_complete
from metadeploy.data.checker import uses_full_answer
from metadeploy.data.question import Question
from metadeploy.evaluation.engines import DEFAULT_GAIN, REFUSAL_SLACK, Answered, AnswerLimits, BaseAnswer, Reply
from metadeploy.reference.base import FrozenBase, eos_ids
from metadeploy.reference.doubt import refusal_token
from metadeploy.reference.pipeline import MetaSpiderPipeline
from metadeploy.sidecar.spec import DEFAULT_THRESHOLD

__all__ = ["TorchEngine"]


class TorchEngine:
    """A base in transformers with its Doubter in the reference implementation."""

    def __init__(self, pipeline: MetaSpiderPipeline, *, limits: AnswerLimits, batch_size: int = 128) -> None:
        """Take a pipeline.

        Args:
            pipeline: a pipeline with an attached wrapper.
            limits: limits of the answers.
            batch_size: questions at once.

        Raises:
            ValueError: no wrapper is attached.
        """
        if pipeline.doubter is None:
            raise ValueError("pipeline: no Doubter is attached, expected one")
        self._pipeline = pipeline
        self._doubter = pipeline.doubter
        self._base = FrozenBase(pipeline.model)
        self._stop_ids = {*self._base.stop_ids, *eos_ids(pipeline.tokenizer)}
        self._limits = limits
        self._batch_size = batch_size
        #: The trained refusal.
        self.refusal_text = self._doubter.config.refusal_text
        self._refusal_length = len(pipeline.tokenize(self.refusal_text)) + REFUSAL_SLACK
        pipeline.model.eval()

    def close(self) -> None:
        """Do nothing: Python frees the model."""

    def ask(self, questions: Sequence[Question], *, gains: Sequence[float]) -> Iterator[Answered]:
        """Answer questions as in `Engine.ask`, with questions of similar length in one batch."""
        texts = [self._pipeline.apply_chat_template(question.question) for question in questions]
        prompts = [self._pipeline.tokenize(text) for text in texts]
        if not prompts:
            return
        clean_pass = CleanPass(
            self._base,
            layers=self._doubter.config.target_layers,
            stop_ids=self._stop_ids,
            prefix=SharedPrefix.of(self._base, prompts),
        )
        by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        for start in range(0, len(by_length), self._batch_size):
            batch = by_length[start : start + self._batch_size]
            whole = [uses_full_answer(questions[index], whole=self._limits.whole_answer) for index in batch]
            yield from self._batch(batch, [prompts[index] for index in batch], whole, clean_pass, gains)

    @torch.inference_mode()
    def _batch(
        self,
        indices: Sequence[int],
        prompts: Sequence[Sequence[int]],
        whole: Sequence[bool],
        clean_pass: CleanPass,
        gains: Sequence[float],
    ) -> list[Answered]:
        prefilled = clean_pass.prefill(prompts)
        # the base's answer changes the cache of pass 1, so everything that starts from this cache comes first
        replies = [self._replies(prompts, whole, prefilled, gain) for gain in gains]
        answers = self._answers(prefilled.opening, whole=whole)
        return [
            Answered(index, self._base_answer(answer, whole=whole[row]), tuple(column[row] for column in replies))
            for row, (index, answer) in enumerate(zip(indices, answers, strict=True))
        ]

    def _base_answer(self, answer: GreedyAnswer, *, whole: bool) -> BaseAnswer:
        result = extract_answer(answer.token_ids, self._text, ended=answer.ended, whole=whole)
        return BaseAnswer(result.text, answer.logprobs[: result.n_tokens], result.complete)

    def _replies(
        self, prompts: Sequence[Sequence[int]], whole: Sequence[bool], prefilled: Prefilled, gain: float
    ) -> list[Reply]:
        config = self._doubter.config
        # the template ends every prompt with the same token
        refusal = refusal_token(self._pipeline.tokenizer, config, last_prompt_token=prompts[0][-1])
        tokens = self._cognitive_tokens(prefilled)
        opening = self._injected_opening(prompts, prefilled, tokens, gain)
        doubts = torch.sigmoid(doubt_margin(opening.logits, refusal).double() + config.refusal_bias)
        declined = (doubts >= DEFAULT_THRESHOLD).nonzero()[:, 0]
        refusals: dict[int, str] = {}
        if gain == DEFAULT_GAIN and len(declined):
            texts = self._refusals(opening.rows(declined), tokens[declined], refusal)
            refusals = dict(zip(declined.tolist(), texts, strict=True))
        # at gain 0 the model is the base, which never declines
        logits = opening.logits if gain == 0 else mask_token(opening.logits.float(), refusal)
        answers = self._answers(
            AnswerOpening(logits, opening.cache, opening.attention_mask, opening.positions),
            whole=whole,
            tokens=tokens,
            gain=gain,
        )
        return [
            Reply(gain, doubt, self._base_answer(answer, whole=whole[row]).text, refusals.get(row))
            for row, (doubt, answer) in enumerate(zip(doubts.tolist(), answers, strict=True))
        ]

    def _cognitive_tokens(self, prefilled: Prefilled) -> Tensor:
        like = next(self._doubter.enc.parameters())
        tokens: Tensor = self._doubter.eval()(prefilled.activations.to(like))
        return tokens

    def _injected_opening(
        self, prompts: Sequence[Sequence[int]], prefilled: Prefilled, tokens: Tensor, gain: float
    ) -> AnswerOpening:
        """Evaluate pass 2 over the prompts, with a cache of its own."""
        clean, batch = prefilled.opening, prefilled.batch
        if gain == 0:
            return clean.rows(torch.arange(len(prompts), device=clean.logits.device))
        from_last = self._doubter.config.inject_from == "last_prompt_token"
        if from_last and plain_cache(clean.cache):
            cache = copy.deepcopy(clean.cache)
            cache.crop(-1)
            inputs = {
                "input_ids": batch.token_ids[:, -1:],
                "attention_mask": batch.attention_mask,
                "position_ids": clean.positions,
            }
        else:
            cache, batch = None, left_padded(prompts, None, self._base.device)
            inputs = batch.inputs()
        positions = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
        if from_last:
            positions[:, :-1] = False
        with injected(self._base, self._doubter, tokens, positions, gain=gain):
            output = self._base.model(**inputs, past_key_values=cache, use_cache=True, **self._base.last_logits)
        return AnswerOpening.of(output, batch)

    def _refusals(self, opening: AnswerOpening, tokens: Tensor, refusal: int) -> list[str]:
        """Generate answers that start with the refusal's first token."""
        logits = torch.full_like(opening.logits, -torch.inf)
        logits[:, refusal] = 0
        opening = AnswerOpening(logits, opening.cache, opening.attention_mask, opening.positions)
        answers = self._answers(opening, whole=[True] * len(tokens), tokens=tokens, max_new_tokens=self._refusal_length)
        return [self._text(answer.token_ids).strip() for answer in answers]

    def _answers(
        self,
        opening: AnswerOpening,
        *,
        whole: Sequence[bool],
        tokens: Tensor | None = None,
        gain: float = DEFAULT_GAIN,
        max_new_tokens: int | None = None,
    ) -> list[GreedyAnswer]:
        def around(rows: Tensor) -> AbstractContextManager[None]:
            if tokens is None or gain == 0:
                return nullcontext()
            positions = torch.ones(len(rows), 1, dtype=torch.bool, device=rows.device)
            return injected(self._base, self._doubter, tokens[rows], positions, gain=gain)

        return greedy_answers(
            self._base,
            opening,
            stop_ids=self._stop_ids,
            max_new_tokens=max_new_tokens or self._limits.max_new_tokens,
            is_complete=stop_when_complete(self._text, whole),
            around=around,
        )

    def _text(self, token_ids: Sequence[int]) -> str:
        tokenizer: Any = self._pipeline.tokenizer
        text: str = tokenizer.decode(token_ids, skip_special_tokens=True)
        return text
