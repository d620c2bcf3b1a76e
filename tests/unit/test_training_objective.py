"""The objective, by hand and against PyTorch's cross-entropy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from metadeploy.training.examples import Batch
from metadeploy.training.objective import doubt_margin, losses

REFUSAL = 2


def batch(targets: list[list[int]], doubt: list[float], own_first: list[int]) -> Batch:
    """What the objective looks at; positions and hidden states do not matter to it."""
    none = torch.zeros(0)
    return Batch(
        hidden=none,
        position_ids=none,
        attention_mask=none,
        cache=None,
        injected=none,
        rows=torch.tensor([row for row, each in enumerate(targets) for _ in each]),
        positions=none,
        targets=torch.tensor([token for each in targets for token in each]),
        is_first=torch.tensor([place == 0 for each in targets for place in range(len(each))]),
        doubt=torch.tensor(doubt),
        own_first=torch.tensor(own_first),
    )


def drawn(*shape: int) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_by_hand() -> None:
    # p = (1/8, 1/8, 1/2, 1/4) at the first token, (1/2, 1/4, 1/8, 1/8) at the second
    logits = torch.tensor([[1 / 8, 1 / 8, 1 / 2, 1 / 4], [1 / 2, 1 / 4, 1 / 8, 1 / 8]]).log() + 5
    found = losses(logits, batch([[3, 1]], [0.25], [3]), REFUSAL)
    assert float(found.decision) == pytest.approx(-0.25 * math.log(1 / 2) - 0.75 * math.log(1 / 2), abs=1e-6)
    assert float(found.opening) == pytest.approx(-math.log((1 / 4) / (1 / 2)), abs=1e-6)
    assert float(found.wording) == pytest.approx(-math.log(1 / 4), abs=1e-6)
    assert found.margin.tolist() == pytest.approx([math.log((1 / 2) / (1 / 4))], abs=1e-6)
    total = 4 * math.log(2) + math.log(2) + math.log(4)
    assert float(found.total(4.0)) == pytest.approx(total, abs=1e-5)


def test_answering_is_cross_entropy() -> None:
    """With doubt 0, decision and opening together are the first token's cross-entropy."""
    logits = drawn(5, 11)
    own = [0, 3, 4, 10, 7]
    found = losses(logits, batch([[token] for token in own], [0.0] * 5, own), REFUSAL)
    torch.testing.assert_close(found.decision + found.opening, cross_entropy(logits, torch.tensor(own)))


def test_refusing_is_cross_entropy() -> None:
    """With doubt 1, the decision alone is the cross-entropy of the refusal."""
    logits = drawn(5, 11)
    found = losses(logits, batch([[REFUSAL]] * 5, [1.0] * 5, [-1] * 5), REFUSAL)
    torch.testing.assert_close(found.decision, cross_entropy(logits, torch.full((5,), REFUSAL)))
    assert float(found.opening) == 0


def test_the_declined_can_stand_for_more() -> None:
    """With weight 3, one question to be declined decides as much as three of it."""
    logits = drawn(2, 11)
    once = batch([[4], [REFUSAL]], [0.0, 0.5], [4, 7])
    thrice = batch([[4], *[[REFUSAL]] * 3], [0.0, *[0.5] * 3], [4, *[7] * 3])
    weighted = losses(logits, once, REFUSAL, declined_weight=3.0)
    repeated = losses(logits[[0, 1, 1, 1]], thrice, REFUSAL)
    torch.testing.assert_close(weighted.decision, repeated.decision)
    torch.testing.assert_close(weighted.opening, losses(logits, once, REFUSAL).opening)


def test_later_tokens_are_cross_entropy() -> None:
    logits = drawn(6, 11)
    found = losses(logits, batch([[1, 5, 6], [REFUSAL, 8, 9]], [0.0, 1.0], [1, 4]), REFUSAL)
    later = [1, 2, 4, 5]
    torch.testing.assert_close(found.wording, cross_entropy(logits[later], torch.tensor([5, 6, 8, 9])))
    assert float(losses(logits[:2], batch([[1], [1]], [0.0, 0.0], [1, 1]), REFUSAL).wording) == 0


def test_an_opening_that_is_unknown_or_the_refusal_does_not_count() -> None:
    logits = drawn(3, 11)
    one = losses(logits, batch([[5], [REFUSAL], [REFUSAL]], [0.0, 1.0, 1.0], [5, -1, REFUSAL]), REFUSAL)
    others = logits[0].index_fill(0, torch.tensor(REFUSAL), -torch.inf)
    torch.testing.assert_close(one.opening, cross_entropy(others[None], torch.tensor([5])) / 3)


def test_certainty_costs_nothing_and_stays_finite() -> None:
    for logit, doubt in ((60.0, 1.0), (-60.0, 0.0)):
        logits = torch.zeros(1, 4)
        logits[0, REFUSAL] = logit
        logits.requires_grad_()
        found = losses(logits, batch([[0]], [doubt], [0]), REFUSAL)
        assert 0 <= float(found.decision.detach()) < 1e-6
        found.total(1.0).backward()
        assert logits.grad is not None
        assert bool(logits.grad.isfinite().all())


@pytest.mark.parametrize(("doubt", "sign"), [(1.0, -1), (0.0, 1)])
def test_a_step_moves_the_margin_as_taught(doubt: float, sign: int) -> None:
    logits = drawn(1, 11).requires_grad_()
    losses(logits, batch([[0]], [doubt], [-1]), REFUSAL).decision.backward()
    assert logits.grad is not None
    assert math.copysign(1, float(logits.grad[0, REFUSAL])) == sign


def test_margins_do_not_move_with_all_logits() -> None:
    logits = drawn(4, 11)
    expected = [row[REFUSAL] - max(row[:REFUSAL] + row[REFUSAL + 1 :]) for row in logits.tolist()]
    for shifted in (logits, logits + 7, logits.bfloat16().float()):
        assert doubt_margin(shifted, REFUSAL).tolist() == pytest.approx(expected, abs=0.1)
    assert doubt_margin(logits, REFUSAL).tolist() == pytest.approx(expected, abs=1e-6)
