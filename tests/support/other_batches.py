"""The same prompt through a quantised base in other batches: the same answer, within what kernels differ by.

One row and several rows of activations go through other instructions on some processors, and round in other places.
"""

from __future__ import annotations

from typing import Final

import pytest

import tolerances
from metadeploy import GenerationResult

#: How many of the likeliest tokens to ask for, so that one that changed places with the chosen one is among them.
N_TOP: Final = 5


def check_answer(found: GenerationResult | None, expected: GenerationResult | None) -> None:
    """Doubt, tokens and log-probabilities within ``tolerances.QUANT_SPLIT_*``; both were asked for ``N_TOP`` of these.

    Two tokens that are as good as equally likely may change places, and then the rest is another.
    """
    assert found is not None
    assert expected is not None
    limit = tolerances.QUANT_SPLIT_LOGPROB_MAX_ABS
    assert found.doubt == pytest.approx(expected.doubt, abs=tolerances.QUANT_SPLIT_DOUBT_MAX_ABS)
    assert found.logprobs is not None
    assert expected.logprobs is not None
    for ours, theirs in zip(found.logprobs, expected.logprobs, strict=False):
        likely = {token: logprob for token, _, logprob in ours.top}
        assert likely[theirs.token_id] == pytest.approx(theirs.logprob, abs=limit)
        if ours.token_id != theirs.token_id:
            assert ours.logprob - likely[theirs.token_id] < 2 * limit
            return
    assert (len(found.token_ids), found.finish_reason) == (len(expected.token_ids), expected.finish_reason)
