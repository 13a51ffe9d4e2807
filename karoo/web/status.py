"""/status: the original Karoo's fields, and what this one knows besides. Built in slices, once a second at most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import ujson

from karoo import config
from karoo.readers import paced
from karoo.web.cached import Cached

FRESH = 1.0  # seconds
WORKERS_FRESH = 10.0  # seconds; their hashrates change about as often
WORKERS_AT_ONCE, CLIENTS_AT_ONCE = 15, 50  # that are looked at in a slice: 30 and 8 us each
AT_ONCE = 100  # workers or clients in a piece of the answer: up to 90 kB, sent in 0.3 ms

Snapshot = Callable[[], dict[str, Any]]
Snapshots = Callable[[], Iterator[dict[str, Any]]]


class Status:
    """The answer, in pieces: 10,000 clients are four megabytes, which nobody has to have in one."""

    def __init__(self, snapshot: Snapshot, sessions: Snapshots, workers: Snapshots,
                 settings: Callable[[], config.Config]) -> None:
        self._snapshot, self._sessions, self._settings = snapshot, sessions, settings
        # Kept as pieces: to free ten thousand texts at once took 3 ms.
        self._workers = Cached(lambda: list(_joined(map(_dumps, paced(workers(), WORKERS_AT_ONCE)))), WORKERS_FRESH)
        self._built = Cached(self._build, FRESH)

    def pieces(self, clients: bool = True, offset: int = 0, limit: int | None = None) -> Iterator[str]:
        """A JSON object; of its clients those from `offset` on, `limit` of them (None: all). Without `clients` it has
        none of them, and no workers."""
        head, texts = self._built.get()
        if not clients:
            yield head + "}\n"
            return
        yield head + ',"workers":['
        yield from paced(self._workers.get(), 1)
        yield '],"clients":['
        yield from paced(_joined(texts[offset:None if limit is None else offset + limit]), 1)
        yield "]}\n"

    def _build(self) -> tuple[str, list[str]]:
        """All but workers and clients, without its closing brace; and each client."""
        texts: list[str] = []
        active, difficulty = 0, 0.0
        addresses: Counter[str] = Counter()
        for client in paced(self._sessions(), CLIENTS_AT_ONCE):
            texts.append(_dumps(client))
            active += client["diff"] > 0
            difficulty += client["diff"]
            addresses[client["ip"].rpartition(":")[0]] += 1
        state = self._snapshot()
        return _dumps(self._original(state) | {
            "vardiff": self._vardiff(len(texts), active, difficulty, state["accounts"]["shares_per_second"]),
            "ratelimit": self._ratelimit(len(texts), len(addresses), state["banned_ips"]), **state})[:-1], texts

    def _original(self, state: dict[str, Any]) -> dict[str, Any]:
        """The fields that the original Karoo's page has, of the first pool connection that is up."""
        route = next((one for one in state["routes"] if one["up"]), state["routes"][0] if state["routes"] else {})
        return {"upstream": bool(route.get("up")), "extranonce1": route.get("extranonce1", ""),
                "extranonce2_size": route.get("extranonce2_size", 0), "last_diff": route.get("difficulty", 0),
                "shares_ok": state["accounts"]["accepted"], "shares_bad": state["accounts"]["rejected"]}

    def _vardiff(self, clients: int, active: int, difficulty: float, shares: float) -> dict[str, Any]:
        settings = self._settings().vardiff
        return {"total_clients": clients, "active_clients": active, "avg_difficulty": difficulty / max(active, 1),
                "avg_shares_per_sec": shares / max(active, 1), "target_seconds": settings.target_seconds,
                "min_difficulty": settings.min_diff, "max_difficulty": settings.max_diff}

    def _ratelimit(self, clients: int, addresses: int, banned: int) -> dict[str, Any]:
        settings = self._settings().ratelimit
        return {"total_ips": addresses, "total_active": clients, "banned_ips": banned,
                "max_per_ip": settings.max_connections_per_ip, "max_per_minute": settings.max_connections_per_minute,
                "ban_duration_sec": settings.ban_duration_seconds}


def _joined(texts: Iterable[str]) -> Iterator[str]:
    """Texts with commas between, in pieces."""
    left, comma = iter(texts), ""
    while some := list(islice(left, AT_ONCE)):
        yield comma + ",".join(some)
        comma = ","


def _dumps(value: Any) -> str:
    return ujson.dumps(value, escape_forward_slashes=False)
