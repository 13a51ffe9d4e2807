"""What can be wrong with a peer's line. No I/O."""

from __future__ import annotations


class StratumError(Exception):
    """A request that is answered with an error; the session goes on.

    ``code`` and ``message`` go on the wire as ``[code, "message", null]``.
    """

    code = 20

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class Malformed(StratumError):
    """A parameter of the wrong type, shape or range."""


class JobNotFound(StratumError):
    """A share for a job that is unknown, or was replaced by a clean one."""

    code = 21


class DuplicateShare(StratumError):
    code = 22


class LowDifficulty(StratumError):
    """A share whose hash misses the target it was judged by."""

    code = 23

    def __init__(self, found: float, needed: float) -> None:
        super().__init__(f"Low difficulty share ({found:.6g} of {needed:.6g})")
        self.found = found
        self.needed = needed


class Unauthorized(StratumError):
    code = 24


class NotSubscribed(StratumError):
    code = 25


class ProtocolError(Exception):
    """The peer does not speak Stratum (no JSON, no object, a line without end): it is cut."""
