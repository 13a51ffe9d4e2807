"""Difficulty <-> target <-> nbits, and hashrate. No I/O.

A hash, read as a 256-bit little-endian integer, is a share of difficulty d when it is not
above D1 / d. D1, the target of difficulty 1, is 0xffff * 2^208 for double SHA-256, and
0xffff * 2^224 in the convention of Litecoin pools for scrypt
(https://en.bitcoin.it/wiki/Difficulty).
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

DIFF1_SHA256D = 0xFFFF << 208
DIFF1_SCRYPT = 0xFFFF << 224
MAX_TARGET = (1 << 256) - 1


@lru_cache(maxsize=1024)  # miners that log in together start at one
def target_of(difficulty: float, diff1: int = DIFF1_SHA256D) -> int:
    """The highest hash value that is a share of this difficulty (never above 2^256 - 1).

    Exact for every float: a share on the border is judged as integer arithmetic judges it.
    Raises ValueError when the difficulty is not a positive finite number.
    """
    if not (difficulty > 0 and math.isfinite(difficulty)):
        raise ValueError(f"a difficulty must be a positive number, not {difficulty!r}")
    exact = Fraction(difficulty)
    return min(diff1 * exact.denominator // exact.numerator, MAX_TARGET)


def difficulty_of(value: int, diff1: int = DIFF1_SHA256D) -> float:
    """The difficulty that a hash value reaches (infinite for 0)."""
    return diff1 / value if value else math.inf


def target_of_nbits(nbits: int) -> int:
    """The network's target from its compact form (big-endian integer of the 8 hex digits).

    Raises ValueError when the sign bit is set, the value is zero or over 256 bits.
    """
    exponent, mantissa = nbits >> 24, nbits & 0x007FFFFF
    target = mantissa << 8 * (exponent - 3) if exponent >= 3 else mantissa >> 8 * (3 - exponent)
    if nbits & 0x00800000 or not 0 < target <= MAX_TARGET:
        raise ValueError(f"nbits {nbits:08x} is no target")
    return target


def network_difficulty(nbits: int, diff1: int = DIFF1_SHA256D) -> float:
    """The difficulty of a block; raises ValueError as target_of_nbits."""
    return difficulty_of(target_of_nbits(nbits), diff1)


def hashes_per_share(diff1: int = DIFF1_SHA256D) -> float:
    """How many hashes a share of difficulty 1 takes on average (2^32 for double SHA-256)."""
    return (1 << 256) / diff1


def hashrate(work: float, seconds: float, diff1: int = DIFF1_SHA256D) -> float:
    """Hashes a second from accepted difficulty (`work`) over a time."""
    return work * hashes_per_share(diff1) / seconds if seconds > 0 else 0.0
