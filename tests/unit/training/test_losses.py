"""The losses, by hand and against PyTorch's cross-entropy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from metadeploy.batched.doubt import doubt_margin
from metadeploy.training.examples import Batch
from metadeploy.training.losses import SHARPNESS, losses

REFUSAL = 2


def batch(targets: list[list[int]], doubt: list[float], n_own: list[int]) -> Batch:
    """Return a batch with the entries that the losses read; they ignore positions and hidden states."""
    none = torch.zeros(0)
    places = [(row, place) for row, token_ids in enumerate(targets) for place in range(len(token_ids))]
    return Batch(
        hidden=none,
        position_ids=none,
        attention_mask=none,
        cache=None,
        injected=none,
        rows=torch.tensor([row for row, _ in places]),
        positions=none,
        targets=torch.tensor([token for token_ids in targets for token in token_ids]),
        is_first=torch.tensor([place == 0 for _, place in places]),
        is_own=torch.tensor([place < n_own[row] for row, place in places]),
        declines=torch.tensor([value > 0 and not n_own[row] for row, value in enumerate(doubt)]),
        doubt=torch.tensor(doubt),
    )


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_by_hand() -> None:
    # p = (1/8, 1/8, 1/2, 1/4) at the first token, (1/2, 1/4, 1/8, 1/8) at the second, (1/4, ...) at the end of the turn
    spoken = [[1 / 8, 1 / 8, 1 / 2, 1 / 4], [1 / 2, 1 / 4, 1 / 8, 1 / 8], [1 / 4, 1 / 4, 1 / 4, 1 / 4]]
    logits = torch.tensor(spoken).log() + 5
    # the base alone: the same probabilities except for the refusal at the first token, and nearly certain at the second
    base = torch.tensor([[1 / 4, 1 / 4, 1 / 8, 3 / 8], [1 / 2, 1 / 2, 1e-9, 1e-9]]).log() - 1
    result = losses(logits, batch([[3, 1, 0]], [0.25], [2]), REFUSAL, own_logits=base, bias=1.0)
    sigmoid = 1 / (1 + math.exp(-1 / SHARPNESS))  # log-odds of the refusal are log(1/2 : 1/2), and the bias
    assert float(result.decision) == pytest.approx(-0.25 * math.log(sigmoid) - 0.75 * math.log(1 - sigmoid), abs=1e-6)
    first = 2 / 7 * math.log((2 / 7) / (1 / 4)) * 2 + 3 / 7 * math.log((3 / 7) / (1 / 2))
    second = 1 / 2 * math.log((1 / 2) / (1 / 2)) + 1 / 2 * math.log((1 / 2) / (1 / 4))
    assert float(result.keeping) == pytest.approx((first + second) / 2, abs=1e-6)
    assert float(result.wording) == pytest.approx(math.log(4), abs=1e-6)
    assert result.margin.tolist() == pytest.approx([math.log((1 / 2) / (1 / 4))], abs=1e-6)
    total = result.total(decision_weight=4.0, keep_weight=3.0)
    assert float(total) == pytest.approx(float(4 * result.decision + result.wording + 3 * result.keeping), abs=1e-6)


def test_equal_logits_have_no_kl_loss() -> None:
    logits = drawn(4, 11)
    moved = logits.clone()
    moved[0, REFUSAL] += 5  # the refusal's token belongs to the decision, not to the wording
    result = losses(moved, batch([[1, 5], [7, 6]], [0.0, 0.0], [2, 2]), REFUSAL, own_logits=logits)
    assert float(result.keeping) == pytest.approx(0, abs=1e-6)
    assert float(result.wording) == 0
    moved[1, 3] += 5
    assert float(losses(moved, batch([[1, 5], [7, 6]], [0.0, 0.0], [2, 2]), REFUSAL, own_logits=logits).keeping) > 0.01


def test_kl_loss_leaves_out_the_refusal_token() -> None:
    logits, base = drawn(2, 11), drawn(2, 11, seed=1)
    result = losses(logits, batch([[1, 5]], [0.0], [2]), REFUSAL, own_logits=base)
    words = [token for token in range(11) if token != REFUSAL]
    expected = 0.0
    for place, tokens in ((0, words), (1, list(range(11)))):
        meant, injected = base[place][tokens].log_softmax(-1), logits[place][tokens].log_softmax(-1)
        expected += float((meant.exp() * (meant - injected)).sum()) / 2
    assert float(result.keeping) == pytest.approx(expected, abs=1e-5)


def test_other_targets_have_cross_entropy() -> None:
    """This includes refusals after their first token, ends of turns, and corrections."""
    logits = drawn(7, 11)
    result = losses(logits, batch([[1, 5], [REFUSAL, 8, 9], [4, 6]], [0.0, 1.0, 0.0], [1, 0, 0]), REFUSAL)
    log_probs = logits[[1, 3, 4, 5, 6]].clone()
    log_probs[3, REFUSAL] = -torch.inf
    torch.testing.assert_close(result.wording, cross_entropy(log_probs, torch.tensor([5, 8, 9, 4, 6])))
    assert float(losses(logits[:2], batch([[1], [REFUSAL]], [0.0, 1.0], [1, 0]), REFUSAL).wording) == 0


def test_the_bias_moves_the_decision_alone() -> None:
    logits = drawn(3, 11)
    example = batch([[4], [REFUSAL], [5]], [0.0, 1.0, 0.3], [1, 0, 1])
    moved = logits.clone()
    moved[:, REFUSAL] += 2.5
    biased, expected = losses(logits, example, REFUSAL, bias=2.5), losses(moved, example, REFUSAL)
    torch.testing.assert_close(biased.decision, expected.decision)
    torch.testing.assert_close(biased.margin + 2.5, expected.margin)


def test_weight_of_declined_questions() -> None:
    """With weight 3, one question to decline counts as much as three."""
    logits = drawn(2, 11)
    once = batch([[4], [REFUSAL]], [0.0, 0.5], [1, 0])
    thrice = batch([[4], *[[REFUSAL]] * 3], [0.0, *[0.5] * 3], [1, 0, 0, 0])
    weighted = losses(logits, once, REFUSAL, declined_weight=3.0)
    repeated = losses(logits[[0, 1, 1, 1]], thrice, REFUSAL)
    torch.testing.assert_close(weighted.decision, repeated.decision)


def test_certainty_costs_nothing_and_stays_finite() -> None:
    for logit, doubt, n_own in ((90.0, 1.0, 0), (-90.0, 0.0, 1)):
        logits = torch.zeros(1, 4)
        logits[0, REFUSAL] = logit
        base = logits[:n_own] if n_own else None
        logits = logits.clone().requires_grad_()
        result = losses(logits, batch([[0]], [doubt], [n_own]), REFUSAL, own_logits=base)
        assert 0 <= float(result.decision.detach()) < 1e-6
        result.total(decision_weight=1.0, keep_weight=1.0).backward()
        assert logits.grad is not None
        assert bool(logits.grad.isfinite().all())


@pytest.mark.parametrize(("doubt", "sign"), [(1.0, -1), (0.0, 1)])
def test_a_step_moves_the_margin_as_taught(doubt: float, sign: int) -> None:
    logits = drawn(1, 11).requires_grad_()
    losses(logits, batch([[0]], [doubt], [0]), REFUSAL).decision.backward()
    assert logits.grad is not None
    assert math.copysign(1, float(logits.grad[0, REFUSAL])) == sign


def test_margins_do_not_move_with_all_logits() -> None:
    logits = drawn(4, 11)
    expected = [row[REFUSAL] - max(row[:REFUSAL] + row[REFUSAL + 1 :]) for row in logits.tolist()]
    for shifted in (logits, logits + 7, logits.bfloat16().float()):
        assert doubt_margin(shifted, REFUSAL).tolist() == pytest.approx(expected, abs=0.1)
    assert doubt_margin(logits, REFUSAL).tolist() == pytest.approx(expected, abs=1e-6)
