"""The same prompt in other batches of a quantized base gives the same answer, up to differences between kernels.

If the processor has AMX, its tiles multiply several rows of activations, but not a single row. The two paths round
differently. On processors without AMX, the answers are bit-identical.
"""

from __future__ import annotations

from typing import Final

import pytest

import tolerances
from metadeploy import GenerationResult
from metadeploy.doctor.processor import find_processor

#: The number of top tokens to request. They must include a token that changed places with the chosen one.
N_TOP: Final = 5
#: Whether the number of rows decides which instructions multiply quantized weights.
ROWS_MATTER: Final = "AMX_INT8" in find_processor().features


def check_answer(
    actual: GenerationResult | None, expected: GenerationResult | None, *, doubt_max_abs: float = 0.0
) -> None:
    """Assert that two answers agree; both have ``N_TOP`` log-probabilities for each token.

    Without AMX: the same tokens, and the same bits of doubt and log-probabilities. With AMX: within
    ``tolerances.QUANT_SPLIT_*``. Two tokens that are almost equally likely may then change places; later tokens are
    not compared.

    Args:
        doubt_max_abs: how far doubt may be off without AMX. Above 0, log-probabilities are not compared.
    """
    assert actual is not None
    assert expected is not None
    if not ROWS_MATTER:
        assert actual.token_ids == expected.token_ids
        assert (actual.doubt is None) == (expected.doubt is None)  # None if the base answers alone
        assert actual.doubt is None or abs(actual.doubt - (expected.doubt or 0.0)) <= doubt_max_abs
        assert doubt_max_abs or actual.logprobs == expected.logprobs
        return
    limit = tolerances.QUANT_SPLIT_LOGPROB_MAX_ABS
    assert actual.doubt == pytest.approx(expected.doubt, abs=tolerances.QUANT_SPLIT_DOUBT_MAX_ABS)
    assert actual.logprobs is not None
    assert expected.logprobs is not None
    for ours, theirs in zip(actual.logprobs, expected.logprobs, strict=False):
        likely = {token: logprob for token, _, logprob in ours.top}
        assert likely[theirs.token_id] == pytest.approx(theirs.logprob, abs=limit)
        if ours.token_id != theirs.token_id:
            assert ours.logprob - likely[theirs.token_id] < 2 * limit
            return
    assert (len(actual.token_ids), actual.finish_reason) == (len(expected.token_ids), expected.finish_reason)
