"""The parameters of mining.* methods <-> dataclasses, both directions. No I/O.

Everything that comes from a peer is checked here, type by type: whoever holds one of
these dataclasses need not check it again. A fault raises Malformed, which names it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any

from karoo.stratum.difficulty import target_of_nbits
from karoo.stratum.errors import Malformed

MAX_NAME = 512  # characters of a user name, a password or an agent
MAX_EXTRANONCE1 = 16  # bytes; pools give 4 to 8
MAX_EXTRANONCE2 = 16
EXTRANONCE_SUBSCRIBE = "subscribe-extranonce"
MINIMUM_DIFFICULTY = "minimum-difficulty"
VERSION_ROLLING = "version-rolling"

_LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")  # of a host name, or an IPv4 address


# ---------------------------------------------------------------- single values

def members(params: Any, at_least: int, method: str) -> list[Any]:
    """params as a list of at least so many members."""
    if type(params) is not list or len(params) < at_least:
        raise Malformed(f"{method} wants a list of at least {at_least} parameters")
    return params


def text(value: Any, name: str, longest: int = MAX_NAME) -> str:
    """A text that can be encoded as UTF-8 (JSON lets half surrogates pass)."""
    if type(value) is not str or len(value) > longest:
        raise Malformed(f"{name} must be a text of at most {longest} characters")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Malformed(f"{name} is not valid Unicode") from None
    return value


def hex_bytes(value: Any, name: str, length: int | None = None) -> bytes:
    """Bytes from hex digits without blanks or signs; of an exact length in bytes when one is given."""
    try:
        data = bytes.fromhex(value)
    except (TypeError, ValueError):
        raise Malformed(f"{name} must be hex digits") from None
    if len(data) * 2 != len(value) or (length is not None and len(data) != length):
        raise Malformed(f"{name} must be {length if length is not None else 'whole'} bytes in hex digits")
    return data


def u32(value: Any, name: str) -> int:
    """A 32-bit number from 1 to 8 hex digits, big-endian; shorter ones are padded on the left."""
    try:
        digits = bytes.fromhex(value.rjust(8, "0"))
    except (TypeError, ValueError, AttributeError):
        digits = b""
    if len(digits) != 4 or not 0 < len(value) <= 8:
        raise Malformed(f"{name} must be 8 hex digits")
    return int.from_bytes(digits, "big")


def positive(value: Any, name: str) -> float:
    """A finite number above zero (a difficulty); numbers too large for a float are refused."""
    if type(value) in (int, float):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if 0 < number < math.inf:
            return number
    raise Malformed(f"{name} must be a number above 0")


# ---------------------------------------------------------------- from miners

@dataclass(slots=True, frozen=True)
class Configure:
    """mining.configure (BIP 310): what the miner asks for.

    ``version_mask`` is None when version rolling was not asked for, ``minimum_difficulty``
    likewise; ``unknown`` lists the extensions that are answered with false.
    """

    version_mask: int | None
    minimum_difficulty: float | None
    subscribe_extranonce: bool
    unknown: tuple[str, ...]

    @classmethod
    def parse(cls, params: Any) -> Configure:
        extensions = members(params, 1, "mining.configure")[0]
        options = params[1] if len(params) > 1 and params[1] is not None else {}
        if type(extensions) is not list or type(options) is not dict or len(extensions) > 32:
            raise Malformed("mining.configure wants a list of extensions and an object of options")
        names = [text(name, "an extension", 64) for name in extensions]
        mask = minimum = None
        known = [VERSION_ROLLING, EXTRANONCE_SUBSCRIBE]
        if VERSION_ROLLING in names:
            mask = u32(options.get("version-rolling.mask", "ffffffff"), "version-rolling.mask")
        if MINIMUM_DIFFICULTY in names and "minimum-difficulty.value" in options:
            known.append(MINIMUM_DIFFICULTY)
            minimum = positive(options["minimum-difficulty.value"], "minimum-difficulty.value")
        return cls(mask, minimum, EXTRANONCE_SUBSCRIBE in names, tuple(n for n in names if n not in known))


@dataclass(slots=True, frozen=True)
class Subscribe:
    """mining.subscribe: the miner's program, and the id of the session it would like to resume."""

    agent: str
    session_id: str | None

    @classmethod
    def parse(cls, params: Any) -> Subscribe:
        params = [] if params is None else members(params, 0, "mining.subscribe")
        agent = text(params[0], "the agent") if params and params[0] is not None else ""
        session_id = params[1] if len(params) > 1 else None
        return cls(agent, session_id if type(session_id) is str and len(session_id) <= 64 else None)


@dataclass(slots=True, frozen=True)
class Authorize:
    user: str
    password: str = field(repr=False)

    @classmethod
    def parse(cls, params: Any) -> Authorize:
        params = members(params, 1, "mining.authorize")
        password = params[1] if len(params) > 1 and params[1] is not None else ""
        user = text(params[0], "the user")
        if not user.strip():
            raise Malformed("the user must not be empty")
        return cls(user, text(password, "the password"))


@dataclass(slots=True)
class Submit:
    """mining.submit. Numbers are what the hex digits say, big-endian."""

    user: str
    job_id: str
    extranonce2: bytes
    ntime: int
    nonce: int
    version_bits: int | None

    @classmethod
    def parse(cls, params: Any) -> Submit:
        """5 parameters, or 6 with version rolling; the length of extranonce2 is the caller's to check."""
        if type(params) is not list or len(params) < 5:
            raise Malformed("mining.submit wants user, job, extranonce2, ntime, nonce and perhaps version bits")
        user, job_id = params[0], params[1]
        if type(user) is not str or type(job_id) is not str:
            raise Malformed("user and job must be texts")
        bits = params[5] if len(params) > 5 else None
        return cls(user, job_id, hex_bytes(params[2], "extranonce2"), u32(params[3], "ntime"),
                   u32(params[4], "nonce"), None if bits is None else u32(bits, "version bits"))


def submit_params(user: str, job_id: str, extranonce2: bytes, ntime: int, nonce: int,
                  version_bits: int | None) -> list[str]:
    """The parameters of mining.submit as a pool wants them: every number as 8 hex digits."""
    params = [user, job_id, extranonce2.hex(), f"{ntime:08x}", f"{nonce:08x}"]
    if version_bits is not None:
        params.append(f"{version_bits:08x}")
    return params


# ---------------------------------------------------------------- from pools

@dataclass(slots=True, frozen=True)
class Notify:
    """mining.notify. Hex strings are kept as bytes, in the order of the wire.

    ``network_target`` is the highest hash value that makes a block, from nbits.
    """

    job_id: str
    prevhash: bytes
    coinb1: bytes
    coinb2: bytes
    branches: tuple[bytes, ...]
    version: int
    nbits: int
    ntime: int
    clean: bool
    network_target: int

    @classmethod
    def parse(cls, params: Any) -> Notify:
        job_id, prevhash, coinb1, coinb2, branches, version, nbits, ntime, clean = (
            members(params, 9, "mining.notify")[:9])
        if type(branches) is not list or type(clean) is not bool:
            raise Malformed("mining.notify wants a list of branches, and true or false for clean_jobs")
        try:
            network_target = target_of_nbits(bits := u32(nbits, "nbits"))
        except ValueError as failure:
            raise Malformed(str(failure)) from None
        return cls(text(job_id, "the job id", 128), hex_bytes(prevhash, "prevhash", 32),
                   hex_bytes(coinb1, "coinb1"), hex_bytes(coinb2, "coinb2"),
                   tuple([hex_bytes(branch, "a merkle branch", 32) for branch in branches]),
                   u32(version, "version"), bits, u32(ntime, "ntime"), clean, network_target)

    def params(self, job_id: str, clean: bool) -> list[Any]:
        """The parameters of mining.notify under another job id and clean_jobs flag."""
        return [job_id, self.prevhash.hex(), self.coinb1.hex(), self.coinb2.hex(),
                [branch.hex() for branch in self.branches],
                f"{self.version:08x}", f"{self.nbits:08x}", f"{self.ntime:08x}", clean]


@dataclass(slots=True, frozen=True)
class Extranonce:
    """What a pool gives in its subscribe result, or in mining.set_extranonce."""

    extranonce1: bytes
    extranonce2_size: int

    @classmethod
    def parse(cls, extranonce1: Any, extranonce2_size: Any) -> Extranonce:
        """The size may come as a text."""
        first = hex_bytes(extranonce1, "extranonce1")
        if len(first) > MAX_EXTRANONCE1:
            raise Malformed(f"extranonce1 is longer than {MAX_EXTRANONCE1} bytes")
        size = extranonce2_size
        if type(size) is str and size.isascii() and size.isdigit() and len(size) < 4:
            size = int(size)
        if type(size) is not int or not 1 <= size <= MAX_EXTRANONCE2:
            raise Malformed(f"extranonce2_size must be 1 to {MAX_EXTRANONCE2}, not {str(extranonce2_size)[:40]!r}")
        return cls(first, size)


@dataclass(slots=True, frozen=True)
class Reconnect:
    """client.reconnect: where to, and after how many seconds (a minute at most)."""

    host: str
    port: int
    wait: float

    @classmethod
    def parse(cls, params: Any, host: str, port: int) -> Reconnect:
        """What is missing or empty stays as it is; the port may come as a text."""
        params = [*(params if type(params) is list else []), None, None, None]
        to_host = _host(params[0]) if params[0] else host
        to_port = params[1] or port
        if type(to_port) is str and to_port.isascii() and to_port.isdigit() and len(to_port) < 6:
            to_port = int(to_port)
        if type(to_port) is not int or not 0 < to_port < 65536:
            raise Malformed("client.reconnect to something that is no port")
        wait = positive(params[2], "the wait") if params[2] else 0.0
        return cls(to_host, to_port, min(wait, 60.0))


def _host(value: Any) -> str:
    """A host name or an IP address, and nothing that the system's resolver could read as another one."""
    name = text(value, "the host", 253)
    if not _HOST_NAME.fullmatch(name):
        try:
            IPv6Address(name)
        except ValueError:
            raise Malformed("client.reconnect to something that is no host") from None
    return name


def subscribe_result(result: Any) -> tuple[str | None, Extranonce]:
    """The session id (None where the pool gave none) and the extranonce of a subscribe result.

    Its first member is a list of [method, id] pairs, one such pair, a text or null.
    """
    subscriptions, extranonce1, size = members(result, 3, "the result of mining.subscribe")[:3]
    return _session_id(subscriptions), Extranonce.parse(extranonce1, size)


def _session_id(subscriptions: Any) -> str | None:
    if type(subscriptions) is str:
        return subscriptions or None
    if type(subscriptions) is not list:
        return None
    if len(subscriptions) == 2 and type(subscriptions[0]) is str and type(subscriptions[1]) is str:
        return subscriptions[1]
    pairs = {pair[0]: pair[1] for pair in subscriptions
             if type(pair) is list and len(pair) == 2 and type(pair[0]) is str and type(pair[1]) is str}
    return pairs.get("mining.notify") or next(iter(pairs.values()), None)


def configure_mask(result: Any) -> int:
    """The version-rolling mask that a pool grants in its configure result; 0 when it refuses."""
    if type(result) is not dict or result.get(VERSION_ROLLING) is not True:
        return 0
    return u32(result.get("version-rolling.mask"), "version-rolling.mask")


def error_words(error: Any, reject_reason: Any = None) -> tuple[int, str]:
    """Code and text of a pool's error, which may be a list, an object, a text or (refused shares) nothing."""
    code, message = 20, error
    if type(error) is list:
        code = error[0] if error and type(error[0]) is int else 20
        message = error[1] if len(error) > 1 else None
    elif type(error) is dict:
        code = error["code"] if type(error.get("code")) is int else 20
        message = error.get("message")
    if type(message) is not str or not message:
        message = reject_reason if type(reject_reason) is str and reject_reason else "refused by the pool"
    return code, message[:200]
