"""What a request asks for: its parameters read and checked, and answers in the shapes that the API promises."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import ujson
from flask import Response, request

from karoo.readers import paced

MOST = 100  # things on a page
ITEMS_AT_ONCE = 25  # of them that are written as JSON in a slice: 0.1 ms
LARGEST = 1_000_000_000
MAX_TEXT = 200
LONGEST_NAME = 400  # characters of a worker's name: more may be too long for a request line, at 12 bytes each
LONGEST_BAN = 31_536_000  # seconds


class BadRequest(Exception):
    """What was asked makes no sense; the text says what is wrong. ``status`` is the HTTP status, ``code`` its name."""

    status, code = 400, "bad_request"


class NotThere(BadRequest):
    status, code = 404, "not_found"


class Impossible(BadRequest):
    status, code = 409, "conflict"


class Unavailable(BadRequest):
    status, code = 503, "unavailable"


@dataclass(slots=True, frozen=True)
class Page:
    """Which part of a list, in which order."""

    limit: int
    offset: int
    sort: str = ""
    descending: bool = False


def answer(value: Any, status: int = 200) -> Response:
    """A value as JSON."""
    return Response(dumps(value), status, mimetype="application/json")


def dumps(value: Any) -> str:
    """JSON in one line. Names may hold anything: what a page would take for markup is written as \\u003c."""
    return _dumps(value) + "\n"


def _dumps(value: Any) -> str:
    return ujson.dumps(value, escape_forward_slashes=False, encode_html_chars=True, allow_nan=False)


def failed(failure: BadRequest) -> Response:
    """The answer to a request that cannot be served."""
    return answer({"error": {"code": failure.code, "message": str(failure)}}, failure.status)


def only(*names: str) -> None:
    """Refuse parameters that have no meaning here, or stand twice: a misspelt one would be passed over silently."""
    for name in request.args:
        if name not in names:
            raise BadRequest(f"there is no parameter {name[:50]!r} here{_instead(names)}")
        if len(request.args.getlist(name)) > 1:
            raise BadRequest(f"{name} is given twice")


def _instead(names: Collection[str]) -> str:
    return f"; there are: {', '.join(names)}" if names else ""


def number(name: str, default: int, low: int, high: int) -> int:
    """A whole number from the query."""
    text = request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 12 and low <= int(text) <= high):
        raise BadRequest(f"{name} must be a whole number from {low} to {high}")
    return int(text)


def choice(name: str, default: str, allowed: Collection[str]) -> str:
    """One of some words from the query."""
    text = request.args.get(name)
    if text is None:
        return default
    if text not in allowed:
        raise BadRequest(f"{name} must be one of: {', '.join(allowed)}")
    return text


def choices(name: str, allowed: Collection[str]) -> list[str]:
    """Several of some words from the query, with commas between; empty where it is not given."""
    given = request.args.get(name)
    found = given.split(",") if given is not None else []
    if any(one not in allowed for one in found):
        raise BadRequest(f"{name} must be one or several, with commas between, of: {', '.join(allowed)}")
    return found


def text(name: str, most: int = MAX_TEXT) -> str:
    """A text from the query; empty where it is not given."""
    found = request.args.get(name, "")
    if len(found) > most:
        raise BadRequest(f"{name} may have {most} characters")
    return found


def page(sorts: Collection[str] = (), default: str = "", descending: bool = False) -> Page:
    """Which part of a list is wanted; with `sorts`, by which of them (`default` where it does not say)."""
    limit, offset = number("limit", MOST, 1, MOST), number("offset", 0, 0, LARGEST)
    if not sorts:
        return Page(limit, offset)
    order = choice("order", "desc" if descending else "asc", ("asc", "desc"))
    return Page(limit, offset, choice("sort", default, sorts), order == "desc")


def listed(part: Page, total: int, items: list[dict[str, Any]]) -> Response:
    """A page of a list, written in slices: a hundred workers with their trends are 70 kB."""
    head = _dumps({"total": total, "limit": part.limit, "offset": part.offset})[:-1]
    texts = ",".join([_dumps(item) for item in paced(items, ITEMS_AT_ONCE)])
    return Response(f'{head},"items":[{texts}]}}\n', mimetype="application/json")


def cut(part: Page, everything: list[dict[str, Any]]) -> Response:
    """A page of a list that is there as a whole."""
    return listed(part, len(everything), everything[part.offset:part.offset + part.limit])


def body(*required: str, **kinds: Callable[[Any], bool]) -> dict[str, Any]:
    """The JSON object that was posted; `kinds` tells which members it may have, and whether a value fits."""
    if request.mimetype not in ("application/json", ""):
        raise BadRequest("the body must be JSON (Content-Type: application/json)")
    raw = request.get_data()
    try:
        value = ujson.loads(raw) if raw.strip() else {}
    except ValueError:
        raise BadRequest("the body is no JSON") from None
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    for name, member in value.items():
        if name not in kinds:
            raise BadRequest(f"there is no member {name[:50]!r} here{_instead(kinds)}")
        if not kinds[name](member):
            raise BadRequest(f"{name} has a value that it cannot have")
    for name in required:
        if name not in value:
            raise BadRequest(f"{name} is missing")
    return value


def attempt(do: Callable[..., Any], **members: Any) -> Any:
    """Do what a command wants; what it raises becomes a BadRequest of the fitting kind."""
    try:
        return do(**members)
    except LookupError as missing:
        raise NotThere(str(missing)) from None
    except ValueError as wrong:
        raise BadRequest(str(wrong)) from None
    except RuntimeError as refused:
        raise Impossible(str(refused)) from None


def is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT


def is_name(value: Any) -> bool:
    """Of a worker."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def is_ban(value: Any) -> bool:
    """The seconds of one."""
    return type(value) in (int, float) and 1 <= value <= LONGEST_BAN
