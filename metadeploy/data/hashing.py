"""Random numbers from a hash, which depend only on a seed and the hashed texts."""

from __future__ import annotations

import hashlib

__all__ = ["hash_uniform"]


def hash_uniform(seed: int, *texts: str) -> float:
    """Return a number in 0 ≤ x < 1 that depends only on the seed and the texts, not on the order of calls."""
    digest = hashlib.blake2b("\0".join((str(seed), *texts)).encode(), digest_size=8).digest()
    # a float holds 53 bits exactly, so that the quotient stays below 1
    return (int.from_bytes(digest, "big") >> 11) / 2**53
