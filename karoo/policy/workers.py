"""Miner user name -> worker name -> user name at the pool. No I/O."""

from __future__ import annotations

import re

# Control characters, line separators, half surrogates, and what turns the direction of text around
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\u202a-\u202e\u2066-\u2069]+")
SINGLE, PASSTHROUGH = "single", "passthrough"  # and suffix, which is what is left


def worker_name(user: str) -> str:
    """What follows the first dot of a miner's user name; the whole of it where there is no dot.

    Control characters and the like are taken out: the name goes to logs and pages.
    """
    clean = _CONTROL.sub("", user).strip()
    return clean.partition(".")[2].strip() or clean.strip(".") or "worker"


class WorkerNames:
    """How a pool knows the workers.

    `mode` is suffix (miner `anything.rig7` is `<user>.rig7`), single (all are `user`) or
    passthrough (the miner's own user name). `user` may hold `{worker}` where the name goes.
    """

    def __init__(self, mode: str, user: str) -> None:
        self.mode = mode
        self._template = user

    @property
    def default_user(self) -> str:
        """The user that the connection itself is authorized as."""
        return self._template.replace(".{worker}", "").replace("{worker}", "")

    def account(self, user: str) -> str:
        """The name that a miner's shares are booked under here."""
        return _CONTROL.sub("", user).strip() or "worker" if self.mode == PASSTHROUGH else worker_name(user)

    def upstream_user(self, user: str) -> str:
        """The name that a miner's shares are credited to at the pool."""
        if self.mode == PASSTHROUGH:
            return user
        if self.mode == SINGLE:
            return self.default_user
        if "{worker}" in self._template:
            return self._template.replace("{worker}", worker_name(user))
        return f"{self._template}.{worker_name(user)}"
