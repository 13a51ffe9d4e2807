"""/live: what changes, about once a second, to every page that is open, over WebSockets."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
import ujson
from flask import Response

from karoo.net.websocket import WebSocket
from karoo.net.wsframes import Limits, encode
from karoo.web.upgrade import upgrade

log = logging.getLogger("karoo.web")

MAX_CLIENTS = 32
TICK_SECONDS = 1.0
MAX_EVENTS = 100  # in a message; whoever needs older ones asks /api/v1/events
LIMITS = Limits(max_frame=1024, max_message=1024, max_fragments=4, binary=False)  # a page says nothing

_ABSENT = object()


def diff(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any] | None:
    """What makes `new` of `old` when it is merged in, dict by dict; None where nothing does, as a key is gone."""
    if not old.keys() <= new.keys():
        return None
    changed: dict[str, Any] = {}
    for key, value in new.items():
        before = old.get(key, _ABSENT)
        if isinstance(value, dict) and isinstance(before, dict):
            part = diff(before, value)
            if part is None:
                return None
            if part:
                changed[key] = part
        elif value != before or type(value) is not type(before):
            changed[key] = value
    return changed


class _Client:
    """A page that is open. `behind`: it has to be told everything before it can be told what changes."""

    __slots__ = ("behind", "websocket")

    def __init__(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self.behind = True


class Live:
    """Tells all open pages the summary, then what changes in it and which events are new.

    `summary()` gives a dict that is not changed afterwards, with the `last_event_id`; `events_after(id)` the newer
    events, oldest first. Both are called once a second, for all pages together, and only while one is open.
    """

    def __init__(self, summary: Callable[[], dict[str, Any]],
                 events_after: Callable[[int], list[dict[str, Any]]]) -> None:
        self._summary, self._events_after = summary, events_after
        self._clients: set[_Client] = set()
        self._ticker: gevent.Greenlet | None = None
        self._told: dict[str, Any] | None = None  # what those who are not behind know
        self._full: bytes | None = None  # the same as a frame, made when somebody needs it
        self._stopped = False

    @property
    def clients(self) -> int:
        """Pages that are open."""
        return len(self._clients)

    def answer(self) -> Response:
        """The answer to a request for a WebSocket, from a Flask view."""
        return upgrade(self.serve, LIMITS)

    def serve(self, websocket: WebSocket) -> None:
        """Have this one told until it ends, for which the running greenlet waits."""
        if self._stopped:
            websocket.close(1001, "the proxy stops")
        elif len(self._clients) >= MAX_CLIENTS:
            websocket.close(1013, f"{MAX_CLIENTS} pages are open already")
        else:
            client = _Client(websocket)
            self._clients.add(client)
            try:
                self._begin(client)
                if websocket.receive() is not None:
                    websocket.close(1008, "nothing is asked for here")
            finally:
                self._clients.discard(client)

    def restart(self) -> None:
        """Close all, so that they come again."""
        self._close_all(1012, "the configuration has changed")

    def stop(self) -> None:
        """Close all, without waiting for it; whoever comes later is closed at once."""
        self._stopped = True
        if self._ticker is not None:
            self._ticker.kill(block=False)
        self._close_all(1001, "the proxy stops")

    def _begin(self, client: _Client) -> None:
        if self._ticker is None:
            self._ticker = gevent.spawn(self._run)
        elif self._told is not None:
            self._tell_all(client)

    def _run(self) -> None:
        """Lives while a page is open."""
        at = monotonic()
        try:
            while self._clients:
                self._tick()
                at = max(at + TICK_SECONDS, monotonic())
                gevent.sleep(at - monotonic())
        except Exception:
            log.exception("a bug ended the updates of open pages")
            self._close_all(1011, "internal error")
        finally:
            self._ticker = self._told = self._full = None

    def _tick(self) -> None:
        new = self._summary()
        changes, last = None, 0
        if self._told is not None:
            changes, last = diff(self._told, new), self._told["last_event_id"]
        delta = b""
        if changes is not None:
            # One that came since the summary was made is left for the next message, so that no page misses it.
            events = [event for event in self._events_after(last) if last < event["id"] <= new["last_event_id"]]
            delta = _encoded({"type": "delta", "summary": changes, "events": events[-MAX_EVENTS:]})
        self._told, self._full = new, None
        for client in tuple(self._clients):
            if client.websocket.backlog_bytes:
                client.behind = True  # until it has read that, or its deadline is over
            elif client.behind or not delta:
                self._tell_all(client)
            else:
                client.websocket.push(delta)

    def _tell_all(self, client: _Client) -> None:
        if self._full is None:
            self._full = _encoded({"type": "full", "summary": self._told})
        client.behind = False
        client.websocket.push(self._full)

    def _close_all(self, code: int, reason: str) -> None:
        for client in tuple(self._clients):
            client.websocket.close(code, reason)


def _encoded(message: dict[str, Any]) -> bytes:
    return encode(ujson.dumps(message, escape_forward_slashes=False, allow_nan=False))
