"""The benchmark's other processes: each takes commands as JSON lines on stdin, and answers on stdout; and what all of
them ask of the kernel."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import gevent
from gevent import subprocess

STOP_SECONDS = 5.0

Command = Callable[..., Any]


class BenchError(Exception):
    """The benchmark cannot go on; the text says why."""


class Helper:
    """A module of ours that runs as a process of its own; it ends when its stdin does. Raises BenchError."""

    def __init__(self, module: str, *words: object) -> None:
        self.name = module.rpartition(".")[2]
        self._process = subprocess.Popen([sys.executable, "-m", module, *map(str, words)], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, start_new_session=True)  # Ctrl-C is ours

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.stop()

    def call(self, command: str, *arguments: object, seconds: float = 60.0) -> Any:
        """What a command gives."""
        self.begin(command, *arguments)
        return self.take(seconds)

    def begin(self, command: str, *arguments: object) -> None:
        """Start a command, and do not wait for what it gives."""
        try:
            self._process.stdin.write(json.dumps([command, *arguments]).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise BenchError(f"{self.name} ended with code {self._process.poll()}") from None

    def take(self, seconds: float = 60.0) -> Any:
        """The next thing that a command tells or gives."""
        with gevent.Timeout(seconds, BenchError(f"{self.name} says nothing for {seconds:g} s")):
            line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"{self.name} ended with code {self._process.wait(STOP_SECONDS)}")
        answer = json.loads(line)
        if "fault" in answer:
            raise BenchError(answer["fault"])
        return answer["gives"]

    @property
    def pid(self) -> int:
        return self._process.pid  # type: ignore[no-any-return]

    def stop(self) -> None:
        """End it."""
        try:
            self._process.stdin.close()
        except OSError:  # it ended before it read all
            pass
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


# ---------------------------------------------------------------- in the other process

def tell(value: Any) -> None:
    """Give something to who waits in `take`."""
    sys.stdout.write(json.dumps({"gives": value}) + "\n")
    sys.stdout.flush()


def obey(commands: Mapping[str, Command], line: bytes | str) -> None:
    """Do what a line says, and tell what that gives."""
    name, *arguments = json.loads(line)
    try:
        tell(commands[name](*arguments))
    except BenchError as fault:
        sys.stdout.write(json.dumps({"fault": str(fault)}) + "\n")
        sys.stdout.flush()


# ---------------------------------------------------------------- the kernel

def cpu_seconds(pid: int) -> float:
    """Processor time that a process has taken with all its threads, to the nanosecond. Its clock has the number that
    clock_getcpuclockid(3) would give."""
    return time.clock_gettime(~pid << 3 | 2)


def keep_to(pid: int, processors: set[int]) -> None:
    """Let a process, with all its threads, run on these processors only."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            os.sched_setaffinity(int(thread), processors)
        except ProcessLookupError:  # it just ended
            pass


class Awake:
    """Keeps idle processors from sleeping deeply, where that is allowed (root, mostly): to wake a virtual one takes
    milliseconds, which would drown every answer time. ``granted`` says whether it is."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def __enter__(self) -> Awake:
        try:
            self._descriptor = os.open("/dev/cpu_dma_latency", os.O_WRONLY)
            os.write(self._descriptor, bytes(4))  # the microseconds that waking may take, while the file is open
        except OSError:
            self._close()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def granted(self) -> bool:
        return self._descriptor is not None
