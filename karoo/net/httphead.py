"""The head of an HTTP request: which ones are taken, and the status that the others are refused with. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, parse_headers
from io import BytesIO

MAX_BODY = 65536  # bytes
MAX_HEADERS = 64

_REQUEST_LINE = re.compile(r"[A-Z]{1,20} [!-~]+ HTTP/1\.[01]")
_LENGTH = re.compile(r"[0-9]{1,18}")


class Refusal(ValueError):
    """A request that is not taken; `status` is the HTTP status line's, such as `400 Bad Request`."""

    def __init__(self, status: str, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """Method and headers of a request."""

    method: str
    headers: Message


def parse_head(data: bytes) -> Head:
    """A whole head, its empty line included. Raises Refusal."""
    line, _, rest = data.partition(b"\n")
    text = line.decode("latin-1")
    check_request_line(text)
    method, _, version = text.split()
    try:
        headers = parse_headers(BytesIO(rest))
    except HTTPException as failure:
        raise Refusal("431 Request Header Fields Too Large", str(failure)) from None
    check_headers(headers, version)
    return Head(method, headers)


def check_request_line(line: str) -> None:
    """Raises Refusal for anything but `METHOD target HTTP/1.0` or 1.1, of visible ASCII."""
    if not _REQUEST_LINE.fullmatch(line.rstrip("\r\n")):
        raise Refusal("400 Bad Request", "no request line of HTTP/1.0 or 1.1")


def check_headers(headers: Message, version: str) -> None:
    """Raises Refusal for headers that are too many, or that this server and a proxy before it could read in two ways,
    as those that try to smuggle a request in another's body do."""
    values = headers.values()
    if len(values) > MAX_HEADERS:
        raise Refusal("431 Request Header Fields Too Large", f"more than {MAX_HEADERS} headers")
    if headers.defects or any(char in value for value in values for char in "\r\n\0"):
        raise Refusal("400 Bad Request", "a line that is no header")
    hosts = headers.get_all("Host", [])
    if len(hosts) > 1 or (not hosts and version == "HTTP/1.1"):
        raise Refusal("400 Bad Request", f"{len(hosts)} Host headers")
    lengths, codings = headers.get_all("Content-Length", []), headers.get_all("Transfer-Encoding", [])
    if codings:
        if lengths or version != "HTTP/1.1":
            raise Refusal("400 Bad Request", "a Transfer-Encoding that does not belong there")
        if [coding.strip().lower() for coding in codings] != ["chunked"]:
            raise Refusal("501 Not Implemented", "a Transfer-Encoding other than chunked")
    if lengths:
        if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0].strip()):
            raise Refusal("400 Bad Request", "no single Content-Length in digits")
        if int(lengths[0]) > MAX_BODY:
            raise Refusal("413 Content Too Large", f"a body of {int(lengths[0])} bytes")
