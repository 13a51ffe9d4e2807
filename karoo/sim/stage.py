"""A whole site for heavy tests: simulated pools, the real proxy as a process, honest miners, attacks, measures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

import gevent

from karoo.sim import abuse
from karoo.sim.farm import Farm
from karoo.sim.offender import Record, Target, addresses
from karoo.sim.pool import SimulatedPool
from karoo.sim.proxyprocess import LOOK_EVERY, Measure, ProxyProcess
from karoo.sim.via import PLAIN, Via

USER = "wallet"  # at the pools


class Stage:
    """Pools in the order of their worth, a proxy before them, and `miners` honest ones of `hashrate` hashes a second at
    `difficulty`, `plain` ones among them (see `Farm`). `sections` of the proxy's configuration replace what is said
    here. With `listeners` (their options by name; the address need not be said) the proxy has these, and the honest
    miners take turns at those that `ways` has: by name, what is spoken there.

    Everything is up once it is entered: each honest miner has had a share accepted. On leaving all of it ends.
    """

    def __init__(self, folder: Path, pools: Sequence[SimulatedPool], *, miners: int, hashrate: float,
                 difficulty: float, version_rolling: bool = False, plain: int = 0,
                 listeners: dict[str, dict[str, Any]] | None = None, ways: dict[str, Via] | None = None,
                 **sections: dict[str, Any]) -> None:
        self.pools = pools
        self._folder, self._sections, self._difficulty = folder, sections, difficulty
        self._miners, self._hashrate, self._version_rolling, self._plain = miners, hashrate, version_rolling, plain
        self._listeners, self._ways = listeners or {}, ways or {}
        self._attacks = 0

    def __enter__(self) -> Stage:
        try:
            for pool in self.pools:
                pool.start()
            self.proxy = ProxyProcess(self._folder, self._settings())
            self.farm = Farm(self.proxy.port, self._miners, self._hashrate, version_rolling=self._version_rolling,
                             plain=self._plain,
                             ways=[(self.proxy.ports[name], via) for name, via in self._ways.items()])
            self.farm.start()
            self.farm.await_shares(60.0)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """End everything that was started."""
        for part in (getattr(self, "farm", None), getattr(self, "proxy", None), *self.pools):
            if part is not None:
                part.stop()

    def _settings(self) -> dict[str, Any]:
        places = [{"host": "127.0.0.1", "port": pool.port, "user": USER, "backoff_min_ms": 50, "backoff_max_ms": 1000,
                   "handshake_ms": 3000} for pool in self.pools]
        settings: dict[str, Any] = {
            "proxy": {"listen": "127.0.0.1:0"}, "http": {"listen": "127.0.0.1:0", "pprof": True},
            "upstream": places[0], "backups": places[1:],
            # switched off it would give everybody the pool's difficulty; so it has no choice
            "vardiff": dict.fromkeys(("start_diff", "min_diff", "max_diff"), self._difficulty),
            "accounting": {"flush_seconds": 1}, "log": {"report_every_seconds": 0}}
        for name, section in self._sections.items():
            if name == "upstream":
                for place in places:
                    place.update(section)
            else:
                settings[name] = settings.get(name, {}) | section
        if self._listeners:
            del settings["proxy"]["listen"]
            settings["listeners"] = [{"name": name, "address": "127.0.0.1:0", **options}
                                     for name, options in self._listeners.items()]
        return settings

    # ------------------------------------------------------------------ attacks

    def attack(self, name: str, scale: float = 1.0, seconds: float = 20.0, listener: str = "",
               via: Via = PLAIN) -> Record:
        """One attack of the tables, each from addresses that had no part in a former one. It goes to the first
        listener, or the one that is named, where `via` is spoken."""
        sources = addresses(self._attacks, abuse.find(name).addresses)
        self._attacks += 1
        port = self.proxy.ports[listener] if listener else self.proxy.port
        return abuse.run(name, Target("127.0.0.1", port, sources, via), scale, seconds)

    # ------------------------------------------------------------------ measures

    def measure(self) -> Measure:
        """What the proxy holds now."""
        return self.proxy.measure()

    def await_calm(self, seconds: float, sessions: int | None = None) -> Measure:
        """Wait until the proxy serves the honest miners only (or so many) and owes no answers to attackers.
        Raises TimeoutError."""
        wanted = len(self.farm.miners) if sessions is None else sessions
        until = monotonic() + seconds
        while (now := self.proxy.status())["sessions"] != wanted:
            if monotonic() > until:
                raise TimeoutError(f"{now['sessions']} sessions, not {wanted}, after {seconds:g} s")
            gevent.sleep(LOOK_EVERY)
        return self.measure()

    def await_back(self, before: Measure, seconds: float, **spare: int) -> Measure:
        """Wait until the proxy holds no more than before (`spare` says by name how many more may be). Raises
        TimeoutError, which says what there is more of."""
        until = monotonic() + seconds
        while growth := (now := self.measure()).growth(before, spare):
            if monotonic() > until:
                raise TimeoutError(f"{'; '.join(growth)}, still after {seconds:g} s")
            gevent.sleep(LOOK_EVERY)
        return now
