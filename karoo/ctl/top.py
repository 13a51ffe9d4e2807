"""`karoo top`: the summary of a running proxy, its last events and its workers, live in a terminal."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event
from gevent.socket import wait_read

from karoo.ctl import client, frame, main, words
from karoo.ctl.frame import SORTS, Seen
from karoo.ctl.screen import Screen, strings_of
from karoo.log import colored

ANSWER_SECONDS = 10.0
RETRY_SECONDS = 1.0
MOST_WORKERS, MOST_EVENTS = 200, 20  # that are asked for
NARROW = 80  # columns, where there is no terminal


def run(args: argparse.Namespace) -> int:
    """Show it until `q` or a signal; the exit code."""
    key = next(key for key, one in SORTS.items() if one.word == args.sort)
    try:
        path = client.socket_path(args.config, args.socket)
        seen = look(path, key)
    except client.NoProxy as failure:
        return main.fail(str(failure), main.EX_UNAVAILABLE)
    except client.Failed as failure:
        return main.fail(str(failure), main.EX_FAILED)
    strings = None
    if not args.once and sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty():
        strings = strings_of(os.environ.get("TERM", ""), sys.stdout.fileno(), colored("auto", sys.stdout))
    if strings is None:
        columns = shutil.get_terminal_size((NARROW, 24)).columns
        lines = ("".join(text for text, _ in line).rstrip() for line in frame.picture(seen, key, columns, None))
        print("\n".join(words.cut(line, columns) if sys.stdout.isatty() else line for line in lines))
        return main.EX_OK
    screen = Screen(strings, sys.stdin.fileno(), sys.stdout.fileno(), sys.stdout.encoding or "utf-8")
    return Top(path, args.interval, key, seen, screen).run()


def look(path: str, key: str) -> Seen:
    """Ask for all that is shown. Raises NoProxy, Failed."""
    summary = client.ask(path, "status", seconds=ANSWER_SECONDS)
    events = client.ask(path, "events", {"limit": MOST_EVENTS}, ANSWER_SECONDS)["items"]
    workers, total = list[dict[str, Any]](), 0
    for state in SORTS[key].states:
        members = {"sort": SORTS[key].sort, "order": SORTS[key].order, "limit": max(1, MOST_WORKERS - len(workers))}
        found = client.ask(path, "workers", members | ({"state": state} if state else {}), ANSWER_SECONDS)
        workers += found["items"]
        total += found["total"]
    return Seen(summary, workers, total, events, monotonic())


class Top:
    """One greenlet asks the proxy, one reads keys, the main one draws: a proxy that does not answer stops nothing."""

    def __init__(self, path: str, interval: float, key: str, seen: Seen, screen: Screen) -> None:
        self._path, self._interval, self._key = path, interval, key
        self._seen, self._screen = seen, screen
        self._wake, self._ask = Event(), Event()  # something is to be drawn, something is to be asked for
        self._code: int | None = None
        self._broken: Exception | None = None  # a bug in one of the greenlets
        self._suspended = self._resized = False

    def run(self) -> int:
        """Until its end; the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            gevent.signal_handler(number, self._end, 128 + number)
        gevent.signal_handler(signal.SIGWINCH, self._resize)
        gevent.signal_handler(signal.SIGTSTP, self._suspend)
        greenlets = [gevent.spawn(self._guarded, work) for work in (self._ask_for_ever, self._read_keys)]
        try:
            with self._screen:
                while self._code is None and self._broken is None:
                    self._wake.clear()
                    self._show()
                    self._wake.wait(1.0)  # what is told in seconds goes on meanwhile
        except OSError:
            return 128 + signal.SIGHUP  # the terminal is gone
        finally:
            gevent.killall(greenlets, block=False)
        if self._broken is not None:
            raise self._broken
        return self._code or 0

    def _show(self) -> None:
        if self._suspended:
            self._suspended = False
            self._screen.leave()
            os.kill(os.getpid(), signal.SIGSTOP)  # and here it goes on after SIGCONT
            while not self._screen.in_front and self._code is None:
                gevent.sleep(0.2)
            self._screen.enter()
        if self._resized:
            self._resized = False
            self._screen.forget()
        self._screen.draw(frame.picture(self._seen, self._key, *self._screen.size))

    # ------------------------------------------------------------------ what wakes it

    def _end(self, code: int) -> None:
        self._code = code
        self._wake.set()

    def _resize(self) -> None:
        self._resized = True
        self._wake.set()

    def _suspend(self) -> None:
        self._suspended = True
        self._wake.set()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as bug:
            self._broken = bug
            self._wake.set()

    def _ask_for_ever(self) -> None:
        while True:
            self._ask.wait(RETRY_SECONDS if self._seen.fault else self._interval)
            self._ask.clear()
            try:
                self._seen = look(self._path, self._key).after(self._seen)
            except (client.NoProxy, client.Failed) as failure:
                self._seen = self._seen.failed(str(failure), monotonic())
            self._wake.set()

    def _read_keys(self) -> None:
        while self._code is None:
            wait_read(sys.stdin.fileno())
            try:
                data = os.read(sys.stdin.fileno(), 64)
            except OSError:
                data = b""
            if not data:
                self._end(128 + signal.SIGHUP)
            elif not data.startswith(b"\x1b"):  # what the arrows and their like send
                for key in data.decode("ascii", "replace").lower():
                    self._press(key)

    def _press(self, key: str) -> None:
        if key == "q":
            self._end(0)
        elif key in SORTS:
            self._key = key
            self._ask.set()
        else:
            self._resize()
        self._wake.set()
