"""The benchmark's reader, as a process of its own: it fetches all that the proxy shows over HTTP, one page after the
other on each of a few connections, without a pause between, and keeps a WebSocket open as a page in a browser does."""

from __future__ import annotations

import base64
import itertools
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

from karoo.sim.benchhelper import BenchError, obey

CONNECTIONS = 2
PATIENCE = 30.0  # seconds for an answer
STATIC = Path(__file__).parent.parent / "web" / "static"
PLAIN = ("/", "/healthz", "/readyz", "/status", "/status?clients=0", "/metrics", "/api/v1/openapi.json",
         "/api/v1/summary", "/api/v1/pools", "/api/v1/bans", "/api/v1/bans?sort=address&q=10.", "/api/v1/events",
         "/api/v1/events?kind=pool+up,block", "/api/v1/events?q=pool")
WORKERS = ("", "sort=name", "sort=name&order=desc&offset=5000", "sort=state", "sort=hashrate_1m&order=desc",
           "sort=accepted&order=desc&offset=9900", "sort=reject_ratio", "sort=difficulty", "sort=device&limit=25",
           "sort=last_share&order=desc", "q=m77", "q=nobody+has+this", "state=online&sort=hashrate_24h")
SESSIONS = ("", "sort=worker&offset=5000", "sort=address&order=desc", "sort=accepted&order=desc&limit=25",
            "sort=silent_seconds&offset=9900", "q=m77")
METRICS, RANGES = ("hashrate", "hashrate_paid", "accepted", "rejected", "latency"), ("1h", "24h", "7d", "30d", "1y")
LIVE = "/live"

_PING, _PONG = 9, 10


def pages(worker: str, session: int) -> list[str]:
    """The paths that are fetched; a worker and a session that there are."""
    name = quote(worker, safe="")
    return [
        *PLAIN, *(f"/static/{path.relative_to(STATIC)}" for path in sorted(STATIC.rglob("*")) if path.is_file()),
        *(f"/api/v1/workers?{query}" for query in WORKERS), f"/api/v1/workers/{name}",
        f"/api/v1/worker?name={name}",
        *(f"/api/v1/sessions?{query}" for query in SESSIONS), f"/api/v1/sessions?worker={name}",
        f"/api/v1/sessions/{session}",
        *(f"/api/v1/history?metric={metric}&range={extent}" for metric in METRICS for extent in RANGES),
        f"/api/v1/history?worker={name}", f"/api/v1/history?worker={name}&range=30d"]


class Reader:
    """Of the proxy whose status page is at this port of 127.0.0.1. ``begin``, ``end`` and ``unread`` are commands."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ending = threading.Event()
        self._began = 0.0
        self._ready: list[threading.Event] = []
        self._threads: list[threading.Thread] = []
        self._websocket: socket.socket | None = None
        self._paths: list[str] = []
        self._turn: Iterator[str] = iter(())
        self._unread: set[str] = set()
        self._read: Counter[str] = Counter()  # in this round, as the two below
        self._messages = 0
        self._faults: Counter[str] = Counter()

    def begin(self) -> None:
        """Read from now on, where the last round ended; returns when each connection has got something."""
        if not self._paths:
            self._look_around()
        self._ending.clear()
        self._read, self._messages, self._faults = Counter(), 0, Counter()
        self._began = time.monotonic()
        self._ready = [threading.Event() for _ in range(CONNECTIONS + 1)]
        self._threads = [threading.Thread(target=work, args=(ready,), daemon=True) for work, ready in
                         zip([self._fetch_all] * CONNECTIONS + [self._listen], self._ready, strict=True)]
        for thread in self._threads:
            thread.start()
        if not all(ready.wait(PATIENCE) for ready in self._ready):
            raise BenchError(f"the status page does not answer within {PATIENCE:g} s: {self._told()}")

    def end(self) -> dict[str, Any]:
        """Read no more: how many pages were read in how many seconds, how many messages came over the WebSocket, and
        what was no right answer."""
        self._ending.set()
        done = {"pages": sum(self._read.values()), "seconds": time.monotonic() - self._began}
        if self._websocket is not None:
            try:
                self._websocket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it ended by itself, which is among the faults
        for thread in self._threads:
            thread.join(PATIENCE)
        return {**done, "messages": self._messages, "faults": self._told()}

    def unread(self) -> int:
        """How many pages have not been fetched yet in any round."""
        return len(self._unread)

    def _told(self) -> list[str]:
        return [f"{text} ({count} times)" if count > 1 else text for text, count in self._faults.items()]

    def _look_around(self) -> None:
        """Find out whose page can be read."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            connection.request("GET", "/api/v1/sessions?limit=1")  # the first one is there all the time
            items = json.loads(connection.getresponse().read())["items"]
            self._paths = pages(items[0]["worker"], items[0]["id"])
        except (OSError, HTTPException, ValueError, LookupError) as failure:
            raise BenchError(f"the status page shows no session: {failure!r}") from None
        finally:
            connection.close()
        self._turn = itertools.cycle(self._paths)
        self._unread = set(self._paths)

    # ------------------------------------------------------------------ a thread each

    def _fetch_all(self, ready: threading.Event) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        while not self._ending.is_set():
            path = next(self._turn)
            try:
                self._fetch(connection, path)
            except (OSError, HTTPException) as failure:
                self._faults[f"GET {path}: {type(failure).__name__}: {failure}"] += 1
                connection.close()  # and dialled again for the next one
            ready.set()
        connection.close()

    def _fetch(self, connection: HTTPConnection, path: str) -> None:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            self._faults[f"GET {path} was answered {response.status}: {body[:200].decode('utf-8', 'replace')}"] += 1
        self._read[path] += 1
        self._unread.discard(path)

    def _listen(self, ready: threading.Event) -> None:
        try:
            with socket.create_connection(("127.0.0.1", self._port), PATIENCE) as sock:
                self._websocket = sock
                with sock.makefile("rb") as stream:
                    _upgrade(sock, stream)
                    while not self._ending.is_set():
                        self._take(sock, stream)
                        ready.set()
        except (OSError, BenchError) as failure:
            if not self._ending.is_set():
                self._faults[f"{LIVE}: {failure}"] += 1
                ready.set()

    def _take(self, sock: socket.socket, stream: Any) -> None:
        """The next frame; a server's are not masked. Raises BenchError where it is no message."""
        kind, size = _exactly(stream, 2)
        if size >= 126:
            size = int.from_bytes(_exactly(stream, 2 if size == 126 else 8), "big")
        payload = _exactly(stream, size)
        if kind & 15 == _PING:
            sock.sendall(bytes((0x80 | _PONG, 0x80 | size, 0, 0, 0, 0)) + payload)  # masked, with zeros
        elif kind & 15 != 1 or "type" not in json.loads(payload):
            raise BenchError(f"no message, but {payload[:100]!r}")
        else:
            self._messages += 1


def _upgrade(sock: socket.socket, stream: Any) -> None:
    """Ask for the WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(f"GET {LIVE} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                 f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
    first = stream.readline()
    if b" 101 " not in first:
        raise BenchError(f"answered {first[:100].decode('latin-1').strip()!r}")
    while stream.readline().strip():
        pass


def _exactly(stream: Any, size: int) -> bytes:
    data: bytes = stream.read(size)
    if len(data) < size:
        raise BenchError("the proxy ended the WebSocket")
    return data


def main() -> None:
    """The process: its argument is the port of the status page."""
    os.nice(19)  # it is to take time from the proxy, and not from the pool and the miners beside it
    reader = Reader(int(sys.argv[1]))
    commands = {name: getattr(reader, name) for name in ("begin", "end", "unread")}
    for line in sys.stdin:
        obey(commands, line)


if __name__ == "__main__":
    main()
