"""How a simulated pool behaves: every habit of real pools that a proxy must live with."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass

from karoo.stratum.share import ALGORITHMS

_CHOICES = {
    "notify_after": ("authorize", "subscribe"),
    "difficulty_after": ("authorize", "subscribe"),
    "second_authorize": ("accept", "ignore", "refuse"),
    "configure": ("accept", "error", "ignore"),
    "extranonce_subscribe": ("accept", "error", "ignore"),
    "error_form": ("array", "object", "string", "reason", "null"),
    "unknown_session": ("accept", "refuse"),
    "first_member": ("pairs", "pair", "null", "string"),
    "version_form": ("bip310", "xor"),
}


@dataclass
class PoolOptions:
    """Options of a SimulatedPool. Most may be changed while it runs, and count from then on.

    host, port: where it listens; port 0 is any free one.
    difficulty: the pool's, for everybody.
    algorithm: sha256d or scrypt.
    extranonce1_bytes, extranonce2_size: in bytes.
    version, version_mask: of the jobs; mask 0 refuses version rolling.
    version_form: bip310 takes the rolled bits as they are; xor as XORed into the job's version (public-pool).
    job_every: seconds between jobs of its own; None: only when told. Each `clean_every`th of them is clean.
    coinbase_bytes: the size of the whole coinbase, extranonces included; 0 for the least, 149 bytes and those.
    ntime_offset: seconds by which the clock is ahead that jobs get their ntime from.
    branches: of the merkle tree. nbits: compact network target. seed: of all that is random in the jobs.
    notify_after: the request after whose reply the first job is sent, and the difficulty, unless
        `difficulty_after` names another one.
    second_authorize: what a further user on the same connection gets (ckpool: ignore).
    allowed: says which users are authorized; None: all. strict_user: a submit's user must be authorized
        on its connection (ckpool), otherwise any name does once one is.
    configure, extranonce_subscribe: accept, error, or ignore (no answer at all).
    resume: a subscribe with the id of a former session gets its extranonce1 again, its jobs still known.
    unknown_session: accept (a new session), or refuse a subscribe with the id of a session that is not known.
    subscribe_first: drops who sends anything but configure before subscribe (ckpool).
    strict_difficulty: a new difficulty counts at once for the jobs sent before (public-pool).
    strict_hex: ntime, nonce and version bits must be 8 digits each.
    reply_delay: seconds by which all that the pool sends is late.
    error_form: of refusals: [code, text, null], an object, a text, `reason` (null, and a reject-reason
        member, ckpool), or null.
    first_member: of the subscribe result. null gives no session id, so there is nothing to resume.
    e2_as_text: the extranonce2 size comes as a text.
    tls: what it speaks TLS with; None for plain TCP.
    """

    host: str = "127.0.0.1"
    port: int = 0
    difficulty: float = 1.0
    algorithm: str = "sha256d"
    extranonce1_bytes: int = 4
    extranonce2_size: int = 8
    version: int = 0x20000000
    version_mask: int = 0x1FFFE000
    version_form: str = "bip310"
    job_every: float | None = None
    clean_every: int = 5
    coinbase_bytes: int = 0
    ntime_offset: float = 0.0
    branches: int = 12
    nbits: int = 0x17034219
    seed: int = 1
    notify_after: str = "authorize"
    difficulty_after: str | None = None
    second_authorize: str = "accept"
    allowed: Callable[[str], bool] | None = None
    strict_user: bool = True
    configure: str = "accept"
    extranonce_subscribe: str = "accept"
    resume: bool = True
    unknown_session: str = "accept"
    subscribe_first: bool = False
    strict_difficulty: bool = False
    strict_hex: bool = True
    reply_delay: float = 0.0
    error_form: str = "array"
    first_member: str = "pairs"
    e2_as_text: bool = False
    tls: ssl.SSLContext | None = None

    def __setattr__(self, name: str, value: object) -> None:
        """A misspelt choice would otherwise silently make another pool than the test meant."""
        if name not in self.__dataclass_fields__:
            raise AttributeError(f"a pool has no option {name!r}")
        choices = _CHOICES.get(name)
        if choices and value not in choices and not (name == "difficulty_after" and value is None):
            raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        if name == "algorithm" and (value not in ALGORITHMS or value == "none"):
            raise ValueError(f"algorithm must be sha256d or scrypt, not {value!r}")
        super().__setattr__(name, value)
