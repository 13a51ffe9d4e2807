"""A mining site for the tests: simulated pools, a proxy and scripted miners, over real sockets on loopback."""

import logging

import gevent
from gevent.event import Event

from karoo import config
from karoo.accounting.account import summed
from karoo.proxy.proxy import Proxy
from karoo.sim.pool import SimulatedPool
from karoo.sim.scripted import ScriptedMiner

POOL_DIFFICULTY = 1e-5  # 43,000 hashes
EASY = 1e-7  # 430 hashes


class Site:
    """Makes its parts on demand, takes them down in the end, and looks for bugs in the log."""

    def __init__(self):
        self.pools = []
        self.proxies = []
        self.miners = []
        self.records = []
        self._news = Event()
        self._handler = _Collect(self)
        logging.getLogger("karoo").addHandler(self._handler)
        logging.getLogger("karoo").setLevel(logging.INFO)

    # ------------------------------------------------------------------ parts

    def pool(self, **options):
        """A running pool."""
        pool = SimulatedPool(**{"difficulty": POOL_DIFFICULTY, **options})
        pool.start()
        self.pools.append(pool)
        return pool

    def proxy(self, *pools, upstream=None, backup=None, **sections):
        """A running proxy in front of the pools, the first the upstream; sections as in the configuration. Each of its
        `listeners`, where there are such, is on a free port of 127.0.0.1 unless it says otherwise."""
        def settings(pool, more):
            return {"host": "127.0.0.1", "port": pool.port, "user": "wallet", "backoff_min_ms": 20,
                    "backoff_max_ms": 100, "handshake_ms": 2000, **(more or {})}
        values = {"proxy": {"listen": "127.0.0.1:0"}, "upstream": settings(pools[0], upstream),
                  "backups": [settings(pool, backup) for pool in pools[1:]]}
        listeners = sections.pop("listeners", None)
        if listeners is not None:
            del values["proxy"]
            values["listeners"] = [{"address": "127.0.0.1:0", **one} for one in listeners]
        for name, section in sections.items():
            values[name] = {**values.get(name, {}), **section}
        values["accounting"] = {"database": "", **values.get("accounting", {})}
        values["log"] = {"report_every_seconds": 0, **values.get("log", {})}
        return self.start(Proxy(config.from_dict(values)))

    def start(self, proxy):
        """Have a proxy run until the end of the test."""
        proxy.start()
        self.proxies.append(proxy)
        return proxy

    @staticmethod
    def booked(proxy, worker=None):
        """All that a worker did, or all of them."""
        books = proxy.accounts
        return summed(books.everything()) if worker is None else books.workers[worker].sum()

    def connect(self, proxy, agent="scripted/1.0", listener=0, host="127.0.0.1", **options):
        """A miner that has said nothing yet; options as of `StratumClient.connect`."""
        miner = ScriptedMiner(agent)
        miner.connect(host, proxy.listeners[listener].port, **options)
        self.miners.append(miner)
        return miner

    def miner(self, proxy, user="user.rig", mask=None, extranonce=False, **options):
        """A miner that has a job; options as of `connect`."""
        miner = self.connect(proxy, **options)
        miner.user = user
        if mask is not None:
            miner.configure(mask)
        miner.subscribe()
        assert miner.authorize(user) is True
        if extranonce:
            assert miner.extranonce_subscribe() is True
        miner.wait_job()
        return miner

    # ------------------------------------------------------------------ what happened

    def logged(self, text):
        """The log lines that hold a text."""
        return [line for line in (record.getMessage() for record in self.records) if text in line]

    def wait_logged(self, text, timeout=5):
        """Wait until the log holds a text."""
        self.wait(lambda: self.logged(text), timeout, f"{text!r} in the log")

    def wait(self, predicate, timeout=5, what="the condition"):
        """Wait until something holds that a log line or a short look can tell."""
        with gevent.Timeout(timeout, AssertionError(f"waited {timeout} s for {what}; the log ends with:\n"
                                                    + "\n".join(one.getMessage() for one in self.records[-20:]))):
            while not predicate():
                self._news.clear()
                self._news.wait(0.01)

    def check(self):
        """No bug ended anything."""
        for proxy in self.proxies:
            assert proxy.metrics.exceptions == 0, self.logged("bug")

    def close(self):
        for miner in self.miners:
            miner.close()
        for proxy in self.proxies:
            proxy.stop()
        for pool in self.pools:
            pool.stop()
        logging.getLogger("karoo").removeHandler(self._handler)
        logging.getLogger("karoo").setLevel(logging.INFO)


class _Collect(logging.Handler):
    def __init__(self, site):
        super().__init__()
        self._site = site

    def emit(self, record):
        self._site.records.append(record)
        self._site._news.set()
