"""What an HTTP client sends, read under a bound and a deadline, and refused with the status that fits."""

from __future__ import annotations

import re
from email.message import Message
from time import monotonic
from typing import Any

MAX_BODY = 65536  # bytes
MAX_HEADERS = 64
READ_SIZE = 4096

_REQUEST_LINE = re.compile(r"[A-Z]{1,20} [!-~]+ HTTP/1\.[01]")
_LENGTH = re.compile(r"[0-9]{1,18}")


class Refusal(ValueError):
    """A request that is not taken; `status` is the HTTP status line's, such as `400 Bad Request`."""

    def __init__(self, status: str, why: str) -> None:
        super().__init__(why)
        self.status = status


class Incoming:
    """The bytes of a client, in the place of the file that pywsgi would read.

    All of them may be read once: `allow` says how many more, and until when. Beyond that Refusal is raised, or
    TimeoutError. A plain file could not be read on after a timeout, and would not give back what it read too early.
    """

    closed = False  # asked for by pywsgi

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._buffer = b""
        self._left = 0
        self._deadline = 0.0
        self._beyond = ""

    def allow(self, count: int, seconds: float, beyond: str) -> None:
        """From now on `count` bytes may be read, for so long; a client that sends more gets the status `beyond`."""
        self._left, self._deadline, self._beyond = count, monotonic() + seconds, beyond

    def wait(self) -> bool:
        """Wait for a first byte; False at the end of the stream. Raises TimeoutError."""
        return bool(self._buffer) or self._fill()

    def read(self, count: int) -> bytes:
        """So many bytes; fewer at the end of the stream only. Raises Refusal, TimeoutError."""
        while len(self._buffer) < count and self._fill():
            pass
        return self._hand_out(count)

    def readline(self, limit: int) -> bytes:
        """Bytes up to a line feed, `limit` at most; fewer at the end of the stream. Raises Refusal, TimeoutError."""
        looked = 0
        while (end := self._buffer.find(b"\n", looked, limit)) < 0 and len(self._buffer) < limit:
            looked = len(self._buffer)
            if not self._fill():
                break
        return self._hand_out(end + 1 if end >= 0 else limit)

    def take(self) -> bytes:
        """All that was received and not read, which is forgotten here."""
        rest, self._buffer = self._buffer, b""
        return rest

    def _hand_out(self, count: int) -> bytes:
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        self._left -= len(data)
        self._check(0)
        return data

    def _fill(self) -> bool:
        self._check(len(self._buffer))
        self._sock.settimeout(max(self._deadline - monotonic(), 1e-3))
        data = self._sock.recv(READ_SIZE)
        self._buffer += data
        return bool(data)

    def _check(self, waiting: int) -> None:
        if waiting > self._left:
            raise Refusal(self._beyond, "more bytes than a request may have")


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
