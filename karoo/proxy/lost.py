"""Why a pool connection ended, or never came about."""

from __future__ import annotations


class UpstreamError(Exception):
    """The connection ended or never came about; the text says why.

    ``sick``: the pool answers, but is of no use: another one is to be tried first, and this one not soon again.
    """

    sick = False


class Sick(UpstreamError):
    """The pool sends no new jobs, or refuses too many shares."""

    sick = True


class SessionRefused(UpstreamError):
    """The pool did not like the id of the session that was to be resumed: try again without."""


class Redirected(UpstreamError):
    """The pool asked us to come back at another address."""

    def __init__(self, host: str, port: int, wait: float) -> None:
        super().__init__(f"the pool asks to reconnect to {host}:{port} in {wait:g} s")
        self.host, self.port, self.wait = host, port, wait
