"""Why a pool connection ended, or never came about."""

from __future__ import annotations


class UpstreamError(Exception):
    """The connection ended or never came about; the text says why.

    ``sick``: the pool answers, but is of no use: another one is to be tried first, and this one not soon again.
    ``planned``: it was left, and nothing is wrong with the pool.
    """

    sick = planned = False


class Sick(UpstreamError):
    """The pool refuses too many shares, or (`Stuck`) sends no new jobs."""

    sick = True


class Replaced(UpstreamError):
    """Another connection serves the miners in its place."""

    planned = True


class Stuck(Sick):
    """The pool sends no new jobs; ``block`` is the one that its last job builds on (the previous block's hash)."""

    def __init__(self, text: str, block: bytes) -> None:
        super().__init__(text)
        self.block = block


class SessionRefused(UpstreamError):
    """The pool did not like the id of the session that was to be resumed: try again without."""


class Redirected(UpstreamError):
    """The pool asked us to come back at another address."""

    def __init__(self, host: str, port: int, wait: float) -> None:
        super().__init__(f"the pool asks to reconnect to {host}:{port} in {wait:g} s")
        self.host, self.port, self.wait = host, port, wait
