"""What an HTTP client sends, read under a bound and a deadline, and refused with the status that fits."""

from __future__ import annotations

from time import monotonic
from typing import Any

from karoo.net.httphead import Refusal

READ_SIZE = 4096


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
