"""What may be asked for and done over the control socket. Shapes and names are those of /api/v1."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from karoo import __version__
from karoo.ctl.stacks import stacks
from karoo.timeline import WARNING
from karoo.web.asked import LARGEST, BadRequest, NotThere, attempt, is_ban, is_count, is_name, is_text
from karoo.web.cached import Cached

if TYPE_CHECKING:
    from karoo.proxy.proxy import Proxy

log = logging.getLogger("karoo.ctl")

SUMMARY_FRESH = 0.9  # seconds
LIMIT = 100  # things in a list where it is not said how many
LEVELS = ("debug", "info", "warning", "error")
DEFAULT = "default"  # the level of a logger that has none of its own

Kind = Callable[[Any], bool]
Reload = Callable[[str], dict[str, Any]]
SetLevel = Callable[[str, str], None]


@dataclass(slots=True)
class Listing:
    """A part of a list; ``items`` are made as they are asked for, and whoever asks may wait."""

    total: int
    limit: int
    offset: int
    items: Iterator[dict[str, Any]]


@dataclass(slots=True, frozen=True)
class Command:
    """``kinds`` tells which members it may have and whether a value fits; ``changes``: it is an operator's act, and
    `call` is told who asked as `by`."""

    call: Callable[..., dict[str, Any] | Listing]
    kinds: dict[str, Kind] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    changes: bool = False


def is_empty_or_text(value: Any) -> bool:
    return value == "" or is_text(value)


def is_limit(value: Any) -> bool:
    return is_count(value) and value > 0


def is_some(value: Any) -> bool:
    """Several texts."""
    return isinstance(value, list) and len(value) <= 100 and all(map(is_text, value))


PAGED: dict[str, Kind] = {"limit": is_limit, "offset": is_count}
SORTED: dict[str, Kind] = {**PAGED, "sort": is_text, "order": lambda value: value in ("asc", "desc"),
                           "q": is_empty_or_text}


class Commands:
    """The commands over a proxy. `reload` reads the configuration again, told who asked; `set_level` changes the level
    of a logger ("" for all, `default` for that of all)."""

    def __init__(self, proxy: Proxy, reload: Reload, set_level: SetLevel | None = None) -> None:
        self._proxy, self._reload, self._set_level = proxy, reload, set_level or set_log_level
        self._summary = Cached(proxy.view.summary, SUMMARY_FRESH)
        self._table = {
            "ping": Command(self._ping), "version": Command(self._ping),
            "status": Command(self._summary.get), "summary": Command(self._summary.get),
            "workers": Command(self._workers, {**SORTED, "state": is_text}),
            "worker": Command(self._worker, {"name": is_name}, ("name",)),
            "sessions": Command(self._sessions, {**SORTED, "worker": is_name}),
            "session": Command(self._session, {"id": is_count}, ("id",)),
            "pools": Command(self._pools, PAGED),
            "bans": Command(self._bans, SORTED),
            "events": Command(self._events, {**PAGED, "after": is_count, "kind": is_some, "q": is_empty_or_text}),
            "stacks": Command(self._stacks),
            "kick": Command(self._kick, {"session": is_count, "worker": is_name, "address": is_text}, changes=True),
            "ban": Command(self._ban, {"address": is_text, "seconds": is_ban, "reason": is_text}, ("address",), True),
            "unban": Command(self._unban, {"address": is_text}, ("address",), True),
            "switch-pool": Command(self._switch, {"pool": lambda value: is_text(value) or is_count(value)}, ("pool",),
                                   True),
            "reload": Command(self._read_again, changes=True),
            "log-level": Command(self._levels, {"logger": is_text}),
            "set-log-level": Command(self._change_level, {"level": is_text, "logger": is_text}, ("level",), True),
        }

    def find(self, name: Any, members: Any) -> Command:
        """The command of this name, if it may have these members. Raises BadRequest."""
        command = self._table.get(name) if isinstance(name, str) else None
        if command is None:
            raise BadRequest(f"there is no command {str(name)[:50]!r}; there are: {', '.join(self._table)}")
        if not isinstance(members, dict):
            raise BadRequest("members must be a JSON object")
        for key, value in members.items():
            if key not in command.kinds:
                raise BadRequest(f"{name} has no member {key[:50]!r}" + (
                    f"; there are: {', '.join(command.kinds)}" if command.kinds else ""))
            if not command.kinds[key](value):
                raise BadRequest(f"{key} has a value that it cannot have")
        for key in command.required:
            if key not in members:
                raise BadRequest(f"{key} is missing")
        return command

    # ------------------------------------------------------------------ what it tells

    def _ping(self) -> dict[str, Any]:
        proxy = self._proxy
        return {"version": __version__, "pid": os.getpid(), "uptime_seconds": round(monotonic() - proxy.started_at, 1),
                "not_ready": proxy.view.not_ready()}

    def _workers(self, sort: str = "hashrate_1h", order: str = "desc", q: str = "", state: str = "",
                 limit: int = LIMIT, offset: int = 0) -> Listing:
        view = self._proxy.view
        _choice("sort", sort, view.worker_sorts)
        _choice("state", state, ("", *view.worker_states))
        total, rows = view.workers.pick(sort, order == "desc", q, state, offset, limit)
        return Listing(total, limit, offset, rows)

    def _worker(self, name: str) -> dict[str, Any]:
        found = self._proxy.view.workers.one(name)
        if found is None:
            raise NotThere(f"There is no worker {name}.")
        return found

    def _sessions(self, sort: str = "id", order: str = "asc", q: str = "", worker: str = "", limit: int = LIMIT,
                  offset: int = 0) -> Listing:
        _choice("sort", sort, self._proxy.view.session_sorts)
        total, rows = self._proxy.view.pick_sessions(sort, order == "desc", q, worker, offset, limit)
        return Listing(total, limit, offset, rows)

    def _session(self, id: int) -> dict[str, Any]:
        found = self._proxy.view.session(id)
        if found is None:
            raise NotThere(f"There is no session {id}.")
        return found

    def _pools(self, limit: int = LIMIT, offset: int = 0) -> Listing:
        return _cut(self._proxy.view.pools(), limit, offset)

    def _bans(self, sort: str = "since", order: str = "desc", q: str = "", limit: int = LIMIT,
              offset: int = 0) -> Listing:
        _choice("sort", sort, self._proxy.view.ban_sorts)
        total, found = self._proxy.view.bans(sort, order == "desc", q, offset, limit)
        return Listing(total, limit, offset, iter(found))

    def _events(self, after: int = 0, kind: Collection[str] = (), q: str = "", limit: int = LIMIT,
                offset: int = 0) -> Listing:
        for one in kind:
            _choice("kind", one, self._proxy.view.kinds)
        return _cut(self._proxy.view.events(after, kind, q), limit, offset)

    def _stacks(self) -> Listing:
        found = stacks()
        return Listing(len(found), LARGEST, 0, iter(found))

    # ------------------------------------------------------------------ what it does

    def _kick(self, by: str, session: int | None = None, worker: str | None = None,
              address: str | None = None) -> dict[str, Any]:
        if sum(one is not None for one in (session, worker, address)) != 1:
            raise BadRequest("name a session by its id, a worker or an address, and only one of them")
        return _done(self._proxy.control.kick, session=session, worker=worker, address=address, by=by)

    def _ban(self, by: str, **members: Any) -> dict[str, Any]:
        return _done(self._proxy.control.ban, **members, by=by)

    def _unban(self, by: str, address: str) -> dict[str, Any]:
        return _done(self._proxy.control.unban, address=address, by=by)

    def _switch(self, by: str, pool: int | str) -> dict[str, Any]:
        return _done(self._proxy.control.switch_pool, pool=pool, by=by)

    def _read_again(self, by: str) -> dict[str, Any]:
        return dict(attempt(self._reload, by=by))

    def _levels(self, logger: str = "") -> dict[str, Any]:
        if logger:
            _known_logger(logger)
        loggers = {name: one.level for name, one in sorted(logging.Logger.manager.loggerDict.items())
                   if isinstance(one, logging.Logger) and one.level and _is_ours(name)}
        if logger:
            loggers[logger] = logging.getLogger(logger).getEffectiveLevel()
        return {"level": _name_of(logging.getLogger().level),
                "loggers": {name: _name_of(level) for name, level in loggers.items() if logger in ("", name)}}

    def _change_level(self, by: str, level: str, logger: str = "") -> dict[str, Any]:
        _choice("level", level, (*LEVELS, DEFAULT) if logger else LEVELS)
        if logger:
            _known_logger(logger)
        self._set_level(level, logger)
        what = f"The log level of {logger}" if logger else "The log level"
        text = f"{what} is that of the others again" if level == DEFAULT else f"{what} is {level} until the next change"
        self._note("reload", text, by)
        return {"done": text}

    def _note(self, kind: str, text: str, by: str) -> None:
        log.warning("%s: %s", by, text)
        self._proxy.metrics.timeline.note(kind, text, WARNING, by=by)


# ---------------------------------------------------------------- helpers

def _done(do: Callable[..., str], **members: Any) -> dict[str, Any]:
    return {"done": attempt(do, **members)}


def _choice(name: str, value: str, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise BadRequest(f"{name} must be one of: {', '.join(filter(None, allowed))}")


def _cut(everything: list[dict[str, Any]], limit: int, offset: int) -> Listing:
    return Listing(len(everything), limit, offset, iter(everything[offset:offset + limit]))


def _is_ours(name: str) -> bool:
    return name == "karoo" or name.startswith("karoo.")


def _known_logger(name: str) -> None:
    """Raises NotThere."""
    there = sorted(one for one in logging.Logger.manager.loggerDict if _is_ours(one))
    if name not in there:
        near = difflib.get_close_matches(name, there, 1)
        raise NotThere(f"There is no logger {name}; " + (
            f"did you mean {near[0]}?" if near else f"there are: {', '.join(there)}"))


def _name_of(level: int) -> str:
    return logging.getLevelName(level).lower()


def set_log_level(level: str, logger: str = "") -> None:
    """Change the level of a logger, or ("") of all that have none of their own."""
    logging.getLogger(logger or None).setLevel(logging.NOTSET if level == DEFAULT else level.upper())
