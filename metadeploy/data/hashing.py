"""Draws that depend on nothing but a seed and what is drawn."""

from __future__ import annotations

import hashlib

__all__ = ["draw"]


def draw(seed: int, *what: str) -> float:
    """A number in 0 ≤ x < 1 that depends on the seed and the texts alone: no generator's state, no order of calls."""
    digest = hashlib.blake2b("\0".join((str(seed), *what)).encode(), digest_size=8).digest()
    # 53 bits: what a float holds, so that the quotient stays below 1
    return (int.from_bytes(digest, "big") >> 11) / 2**53
