"""The machine that a benchmark runs on: what it is, and how fast it is just now."""

from __future__ import annotations

import os
import platform
import re
import socket
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import Any

import gevent

import karoo
from karoo import speed
from karoo.sim.benchfigures import percentile

TURNS, TURN_SECONDS = 5, 0.05


def facts(awake: bool) -> dict[str, Any]:
    """In words; `awake`: idle processors are kept from sleeping."""
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {"taken": datetime.now(timezone.utc).isoformat(timespec="seconds"), "karoo": karoo.__version__,
            "shares hashed": speed.load().kind, "CPU": found.group(1) if found else platform.machine(),
            "processors": len(os.sched_getaffinity(0)), "Linux": platform.release(),
            "Python": platform.python_version(), "gevent": gevent.__version__,
            "idle processors": "kept awake" if awake else "may sleep"}


class Stolen:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self._before = self._times()

    @staticmethod
    def _times() -> list[int]:
        with open("/proc/stat") as stat:
            return [int(ticks) for ticks in stat.readline().split()[1:9]]  # the eighth is what was stolen

    @property
    def part(self) -> float:
        """Of the processors' time, what a hypervisor gave to others."""
        passed = [now - before for now, before in zip(self._times(), self._before, strict=True)]
        return passed[7] / max(1, sum(passed))


def loopback_us() -> float:
    """Microseconds of a message over loopback and back, both ends in this process: the median of some turns."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        far, _ = server.accept()
        with far:
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return percentile(sorted(_turn(near, far) for _ in range(TURNS)), 50)


def _turn(near: socket.socket, far: socket.socket) -> float:
    count, began = 0, perf_counter()
    while (took := perf_counter() - began) < TURN_SECONDS:
        for one, other in ((near, far), (far, near)):
            one.send(b"x" * 100)
            other.recv(200)
        count += 1
    return took / count * 1e6
