"""What miners say of their difficulty in user names and passwords. No I/O."""

from __future__ import annotations

import math
import re

_NUMBER = r"(\d+(?:\.\d+)?(?:[eE][+-]?\d{1,2})?)"
_SUFFIX = re.compile(rf"^(.+)\+{_NUMBER}$", re.DOTALL)
_PARTS = re.compile(rf"(?:^|[,; ])(d|md)={_NUMBER}(?=$|[,; ])")


def split_user(user: str) -> tuple[str, float | None]:
    """`name+0.5` -> (`name`, 0.5): the name that the pool sees, and the difficulty to start at (None: not said)."""
    match = _SUFFIX.match(user)
    if match is None:
        return user, None
    return match.group(1), _positive(match.group(2))


def read_password(password: str) -> tuple[float | None, float | None]:
    """Start (`d=0.5`) and floor (`md=0.1`) from a password such as `d=0.5,md=0.1`; None where not said."""
    parts = {key: _positive(number) for key, number in _PARTS.findall(password)}
    return parts.get("d"), parts.get("md")


def _positive(number: str) -> float | None:
    value = float(number)
    return value if 0 < value < math.inf else None
