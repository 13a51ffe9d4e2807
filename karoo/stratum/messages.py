"""A JSON line <-> Request, Notification or Response. No I/O.

Python's own JSON scanner is used and not a faster parser: it takes 0.8 us for a
submit (ujson: 0.65 us), and refuses `01`, `1.` and raw control characters, which
ujson lets pass.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from karoo.stratum.errors import Malformed, ProtocolError, StratumError

Id = int | str | float | None


@dataclass(slots=True)
class Request:
    """A method call that wants an answer. ``id`` is never None."""

    id: Id
    method: str
    params: Any


@dataclass(slots=True)
class Notification:
    """A method call that must not be answered (its id is null or missing)."""

    method: str
    params: Any


@dataclass(slots=True)
class Response:
    """An answer. ``error`` is None, or whatever the peer sent: list, object or text."""

    id: Id
    result: Any
    error: Any
    reject_reason: Any = None


Message = Request | Notification | Response


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0.0:
        raise ValueError(f"{text} is beyond all numbers")
    return value


ID = rb'"id": ?(0|[1-9]\d{0,17})'  # the pattern of a whole number's, in a line
_RESULT, _ERROR = rb'"result": ?true', rb'"error": ?null'
_TAKEN = re.compile(rb"\{(?:%b|%b|%b)\}\r?" % tuple(
    b", ?".join(form) for form in ((ID, _RESULT, _ERROR), (_RESULT, _ERROR, ID), (_ERROR, ID, _RESULT))))
# scan_once reads one value where it is told to, without the copies of decode().
_scan = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite).scan_once  # type: ignore[attr-defined]
# Lists, or objects, in one line: a job has two. Of more the lists and objects are read as null, so that nothing that
# leaves this module is too deep to be written again.
MAX_NESTED = 64


def parse(line: bytes) -> Message:
    """The message on a line (with or without its line ending).

    Raises ProtocolError when it is no JSON-RPC message at all, Malformed when it is one
    with an id or a method of a wrong type.
    """
    try:
        text = line.decode().strip()
        value, end = _scan(text, 0)
    except (ValueError, StopIteration, RecursionError):
        raise ProtocolError("not JSON") from None
    if end != len(text) or type(value) is not dict:
        raise ProtocolError("not one JSON object")
    if text.count("[") > MAX_NESTED or text.count("{") > MAX_NESTED:
        value = {key: None if type(member) in (list, dict) else member for key, member in value.items()}
    get = value.get
    message_id = get("id")
    if not (message_id is None or type(message_id) in (int, str, float)):
        raise Malformed("id must be a number, a text or null")
    method = get("method")
    if method is not None:
        if type(method) is not str:
            raise Malformed("method must be a text")
        params = get("params")
        if message_id is None:
            return Notification(method, params)
        return Request(message_id, method, params)
    if "result" in value or "error" in value:
        return Response(message_id, get("result"), get("error"), get("reject-reason"))
    raise ProtocolError("neither a method nor a result")


def taken_id(line: bytes) -> int | None:
    """The id of a response that says true, in a form that pools write; None for any other line, which `parse` is for.

    Of all that comes from a pool this is by far the most; `parse` takes five times as long.
    """
    found = _TAKEN.fullmatch(line)
    return None if found is None else int(found[found.lastindex or 0])


def encode_id(message_id: Id) -> bytes:
    """The id as it stands on the wire."""
    if type(message_id) is int:
        return b"%d" % message_id
    try:
        return json.dumps(message_id, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate, which JSON can say and UTF-8 cannot
        return json.dumps(message_id).encode()


def request(message_id: Id, method: str, params: Any) -> bytes:
    return b'{"id":%s,"method":%s,"params":%s}\n' % (encode_id(message_id), _dump(method), _dump(params))


def notification(method: str, params: Any) -> bytes:
    """A notification carries `"id":null`."""
    return b'{"id":null,"method":%s,"params":%s}\n' % (_dump(method), _dump(params))


def set_difficulty(difficulty: float) -> bytes:
    """A whole number without a point: the oldest firmware reads nothing else."""
    number = b"%d" % int(difficulty) if difficulty.is_integer() else repr(difficulty).encode()
    return b'{"id":null,"method":"mining.set_difficulty","params":[%s]}\n' % number


def result(message_id: Id, value: Any) -> bytes:
    return b'{"id":%s,"result":%s,"error":null}\n' % (encode_id(message_id), _dump(value))


def result_true(message_id: Id) -> bytes:
    return b'{"id":%s,"result":true,"error":null}\n' % encode_id(message_id)


def error(message_id: Id, failure: StratumError) -> bytes:
    """The answer to a request that failed: result null, error [code, message, null]."""
    return error_verbatim(message_id, [failure.code, failure.message, None])


def error_verbatim(message_id: Id, value: Any) -> bytes:
    """The answer to a request that a pool refused, in the pool's own words."""
    return b'{"id":%s,"result":null,"error":%s}\n' % (encode_id(message_id), _dump(value))


_encode = json.JSONEncoder(separators=(",", ":")).encode


def _dump(value: Any) -> bytes:
    return _encode(value).encode()
