"""The real proxy as a process of its own, and what it takes: greenlets, descriptors, memory, tables."""

from __future__ import annotations

import json
import os
import re
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
from gevent import socket, subprocess

START_SECONDS = 20.0
STOP_SECONDS = 15.0
ANSWER_SECONDS = 30.0
LOOK_EVERY = 0.1  # seconds between two looks at what only the other process can know
MEMORY_SPARE = 0.2  # the part by which memory may have grown in the end
# What is remembered of addresses on purpose, within its own bounds, long after these have left
_REMEMBERED = {"addresses", "bans", "past_bans"}


@dataclass(frozen=True, slots=True)
class Measure:
    """What the proxy holds at one time; ``resident`` is in bytes."""

    greenlets: int
    descriptors: int
    resident: int
    tables: dict[str, int]
    status: dict[str, Any]

    def growth(self, before: Measure, spare: dict[str, int]) -> list[str]:
        """What there is more of than before, in words; `spare` says by name how many more may be."""
        then = before.counts
        found = [f"{size} {name} after {then.get(name, 0)}" for name, size in self.counts.items()
                 if name not in _REMEMBERED and size > then.get(name, 0) + spare.get(name, 0)]
        if self.resident > before.resident * (1 + MEMORY_SPARE):
            found.append(f"{self.resident / 1e6:.1f} MB after {before.resident / 1e6:.1f} MB")
        return found

    @property
    def counts(self) -> dict[str, int]:
        """Greenlets, descriptors, and the sizes of the tables."""
        return {"greenlets": self.greenlets, "descriptors": self.descriptors} | self.tables

    def __str__(self) -> str:
        tables = ", ".join(f"{name} {size}" for name, size in self.tables.items() if size)
        return (f"{self.greenlets} greenlets, {self.descriptors} descriptors, {self.resident / 1e6:.1f} MB, "
                f"{tables or 'no tables'}")


class ProxyProcess:
    """`karoo run` with a configuration in a folder, which gets its log and its ledger too.

    ``ports`` are where miners connect, on 127.0.0.1: of each listener by its name, in their order; ``port`` is the
    first. Raises RuntimeError, with the log's end, when it does not start.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.log_path = folder / "karoo.log"
        configuration = folder / "karoo.yaml"
        configuration.write_text(json.dumps(settings))  # JSON is YAML
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "karoo", "run", "-c", str(configuration)],
                                             stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.http_port = int(self._await_line(rb"status page on http://127\.0\.0\.1:(\d+)"))
            names = [listener["name"] for listener in settings.get("listeners", ())] or [""]
            line = rb"miners may connect to 127\.0\.0\.1:(\d+)"
            found = [int(self._await_line(line, number)) for number in range(len(names))]
            self.ports = dict(zip(names, found, strict=True))
            self.port = found[0]
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid  # type: ignore[no-any-return]

    def _await_line(self, pattern: bytes, number: int = 0) -> bytes:
        """What the pattern's group holds in the log, in the line with that number among those that match."""
        give_up_at = monotonic() + START_SECONDS
        while len(found := re.findall(pattern, self.log_path.read_bytes())) <= number:
            if self._process.poll() is not None or monotonic() > give_up_at:
                raise RuntimeError(f"the proxy does not start:\n{self.log_path.read_text()[-2000:]}")
            gevent.sleep(LOOK_EVERY)
        return bytes(found[number])

    def stop(self) -> int:
        """End it, gently and then for good; its exit code."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return self._process.returncode  # type: ignore[no-any-return]

    # ------------------------------------------------------------------ looking at it

    def get(self, path: str) -> bytes:
        """The body of a page. Raises OSError, also when it is not there within ANSWER_SECONDS."""
        with gevent.Timeout(ANSWER_SECONDS, TimeoutError(f"no {path} within {ANSWER_SECONDS:g} s")):
            sock = socket.create_connection(("127.0.0.1", self.http_port))
            try:
                sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                parts = []
                while data := sock.recv(1 << 16):
                    parts.append(data)
            finally:
                sock.close()
        head, _, body = b"".join(parts).partition(b"\r\n\r\n")
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise OSError(f"{path}: {head[:200]!r}")
        return body

    def status(self) -> dict[str, Any]:
        """/status, at most a second old (its workers ten)."""
        found: dict[str, Any] = json.loads(self.get("/status"))
        return found

    def measure(self) -> Measure:
        """What it holds now."""
        status = self.status()
        greenlets = int(self.get("/debug/greenlets").split(maxsplit=1)[0])
        return Measure(greenlets, len(os.listdir(f"/proc/{self.pid}/fd")), self.resident, status.get("tables", {}),
                       status)

    @property
    def resident(self) -> int:
        """Bytes of memory that are its own now."""
        with open(f"/proc/{self.pid}/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()

    def log_text(self) -> str:
        """All of its log so far."""
        return self.log_path.read_text(errors="replace")

    def count_logged(self, text: str) -> int:
        """How many lines of its log hold a text; the log of a long run may be large."""
        with self.log_path.open(errors="replace") as lines:
            return sum(text in line for line in lines)
