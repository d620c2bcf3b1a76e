"""The target of each question: the base's answer, the refusal or a correction, and the end of the turn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from metadeploy.batched.prefix import SharedPrefix
from metadeploy.data.question import Question
from metadeploy.errors import RunDirError
from metadeploy.reference.prompts import render_chat
from metadeploy.sidecar.spec import WrapperConfig
from metadeploy.training.examples import Batch, CachedStates, Example
from metadeploy.training.losses import losses
from metadeploy.training.plan import end_of_turn
from metadeploy.training.records import Collected, Record
from metadeploy.training.targets import LabeledSplit, build_targets
from support.tiny_models import BYTE_VOCAB_SIZE, byte_tokenizer

TOKENIZER = byte_tokenizer()
END = 257
REFUSAL = tuple(TOKENIZER("No idea.", add_special_tokens=False)["input_ids"])


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def record(number: int, *, correct: bool, complete: bool = True) -> Record:
    answer = f"It is {number}." if complete else f"It is {number}"
    return Record(
        question=Question(f"{number}?", (f"{number} apples", "apples"), "any"),
        answer=answer,
        answer_ids=ids(answer),
        logprobs=(-1.0,) * len(answer),
        complete=complete,
        correct=correct,
    )


#: The base gets every third one right.
RECORDS = [record(number, correct=number % 3 == 0) for number in range(300)]
WRONG = [number for number in range(300) if number % 3]


def lessons(records: list[Record] = RECORDS, **options: Any) -> LabeledSplit:
    collected = Collected(records, torch.zeros(len(records), 2, 4), (0, 1))
    return build_targets(
        collected,
        TOKENIZER,
        target_layers=(1,),
        refusal_ids=REFUSAL,
        end_of_turn=END,
        answer_suffix=" Short!",
        chat_template_kwargs={"enable_thinking": False},
        **options,
    )


def is_correction(example: Example) -> bool:
    return not example.declines and not example.n_own


def corrected(indices: LabeledSplit) -> list[int]:
    return [number for number, example in enumerate(indices.examples) if is_correction(example)]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_each_question_has_one_of_three_targets(share: float) -> None:
    for number, example in enumerate(lessons(self_correction=share).examples):
        answer_record = RECORDS[number]
        prompt = render_chat(
            TOKENIZER, f"{number}?", answer_suffix=" Short!", template_kwargs={"enable_thinking": False}
        )
        assert example.prompt_ids == ids(prompt)
        if answer_record.correct:
            expected: tuple[Any, ...] = (ids(f"It is {number}."), False, 0.0, len(answer_record.answer_ids))
        elif is_correction(example):
            expected = (ids(f"{number} apples."), False, 0.0, 0)  # the first of the accepted answers
        else:
            expected = (REFUSAL, True, 1.0, 0)
        target, *rest = expected
        assert example.target_ids == (*target, END)
        assert (example.declines, example.doubt, example.n_own) == tuple(rest)


def test_no_error_or_every_error_is_corrected() -> None:
    assert corrected(lessons()) == corrected(lessons(self_correction=0.0)) == []
    assert corrected(lessons(self_correction=1.0)) == WRONG


def test_a_proportion_of_the_errors_is_corrected() -> None:
    indices = corrected(lessons(self_correction=0.5, seed=3))
    assert set(indices) < set(WRONG)
    assert 0.4 < len(indices) / len(WRONG) < 0.6
    assert indices == corrected(lessons(self_correction=0.5, seed=3)), "the seed decides which"
    assert indices != corrected(lessons(self_correction=0.5, seed=4))


def batch_of(records: list[Record]) -> tuple[LabeledSplit, Batch]:
    """Return a batch of a training step, without hidden states."""
    taught = lessons(records)
    kept = [CachedStates(torch.zeros(len(e.target_ids), 4), len(e.prompt_ids) - 1, 0, None) for e in taught.examples]
    return taught, Batch.of(taught.examples, kept, first=1, prefix=SharedPrefix.none(), device=torch.device("cpu"))


def test_the_end_of_the_turn_is_learned() -> None:
    """It follows the base's answer and the refusal, and counts as text that the base would not generate."""
    taught, batch = batch_of([record(0, correct=True), record(1, correct=False)])
    logits = torch.randn(len(batch.targets), BYTE_VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    losses(logits, batch, REFUSAL[0]).wording.backward()
    assert logits.grad is not None
    for row, example in enumerate(taught.examples):
        (last,) = (batch.rows == row).nonzero()[-1]
        assert (int(batch.targets[last]), bool(batch.is_own[last])) == (END, False)
        assert int(batch.positions[last]) == len(example.target_ids) - 1, "predicted from the last word"
        assert float(logits.grad[last, END]) < 0, "a step makes it more likely"
    # of the base's answer, only the end of the turn has a target loss
    own = (batch.rows == 0).nonzero()[:, 0]
    assert batch.is_own[own].tolist() == [True] * (len(own) - 1) + [False]
    assert not logits.grad[own[:-1]].any()


def test_a_truncated_answer_has_no_end_of_turn() -> None:
    taught, batch = batch_of([record(0, correct=True, complete=False), record(1, correct=False, complete=False)])
    own, declined = taught.examples
    assert own.target_ids == ids("It is 0")
    assert own.n_own == len(own.target_ids)
    assert declined.target_ids == (*REFUSAL, END), "the refusal is complete, whatever the base answered"
    assert batch.is_own[batch.rows == 0].all()
    (example,) = lessons([record(1, correct=False, complete=False)], self_correction=1.0).examples
    assert example.target_ids == (*ids("1 apples."), END)


CONFIG = WrapperConfig(
    encoder_type="selective",
    hidden_dim=4,
    encoder_dim=4,
    bottleneck_dim=4,
    num_cognitive_tokens=1,
    ca_num_heads=1,
    enc_num_heads=1,
    target_layers=(1,),
    cross_attn_layers=(1,),
)


@pytest.mark.parametrize(
    ("template", "stop_ids", "expected"),
    [
        ("{{ messages[-1].content }}<eos>\n", {END}, END),
        ("{{ messages[-1].content }}\n<eos>", {*ids("!"), END}, END),  # the first that ends generation
        ("{{ messages[-1].content }}!<eos>", {*ids("!"), END}, ids("!")[0]),
        ("{{ messages[-1].content }}", set(), END),  # none in the template: the tokenizer's EOS
    ],
)
def test_end_of_turn_tokens(template: str, stop_ids: set[int], expected: int) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    base: Any = SimpleNamespace(stop_ids=stop_ids)
    assert end_of_turn(base, tokenizer, CONFIG) == expected


def test_a_turn_that_never_ends() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    base: Any = SimpleNamespace(stop_ids={5})
    with pytest.raises(RunDirError, match="ends a turn without a token that ends generation"):
        end_of_turn(base, tokenizer, CONFIG)
