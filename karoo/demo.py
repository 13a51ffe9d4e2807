"""`karoo demo`: a simulated pool, the proxy, and miners of different strength, all on this machine."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
from time import monotonic

import gevent

from karoo import config, service
from karoo import log as logs
from karoo.net.listener import ListenError
from karoo.sim.options import PoolOptions
from karoo.sim.pool import SimulatedPool

log = logging.getLogger("karoo.demo")

POOL_DIFFICULTY = 0.0006  # the three miners together reach it every 5 s or so
START_DIFFICULTY = 0.00004
TARGET_SECONDS = 2.0  # short, so that one can watch the difficulties converge
JOB_EVERY = 20.0
# name, agent, hashes a second, rolls version bits
MINERS = (("esp32", "NerdMinerV2", 4_000, False), ("bitaxe", "bitaxe/demo", 40_000, True),
          ("rack", "cgminer/demo", 400_000, False))


def run(stratum_port: int, http_port: int, pool_port: int, seconds: float | None) -> int:
    """Run until SIGINT, SIGTERM or for so many seconds; the exit code. Raises ListenError."""
    logs.setup()
    pool = SimulatedPool(PoolOptions(port=pool_port, difficulty=POOL_DIFFICULTY, job_every=JOB_EVERY))
    try:
        pool.start()
    except OSError as failure:
        raise ListenError(f"cannot listen on 127.0.0.1:{pool_port}: {failure.strerror or failure}") from failure
    miners: list[subprocess.Popen[bytes]] = []
    folder = tempfile.TemporaryDirectory(prefix="karoo-demo-")
    try:
        database = os.path.join(folder.name, "karoo.db")
        parts = service.Service(_settings(stratum_port, http_port, pool.port, database))
        ended = service.on_end_signals()
        parts.start()
        assert parts.web is not None
        miners = [_start_miner(parts.proxy.listener.port, *miner) for miner in MINERS]
        _greet(pool.port, parts.proxy.listener.port, parts.web.port, database)
        ended.wait(seconds)
        _end(miners)
        parts.stop()
        parts.proxy.report()
        log.info("the pool's own books: %s", pool.books.total)
    finally:
        _end(miners)
        pool.stop()
        folder.cleanup()
    return 0


def _settings(stratum_port: int, http_port: int, pool_port: int, database: str) -> config.Config:
    return config.from_dict({
        "proxy": {"listen": f"127.0.0.1:{stratum_port}"},
        "upstream": {"name": "demo pool", "host": "127.0.0.1", "port": pool_port, "user": "demo"},
        "http": {"listen": f"127.0.0.1:{http_port}", "pprof": True},
        "vardiff": {"start_diff": START_DIFFICULTY, "min_diff": 1e-8, "target_seconds": TARGET_SECONDS},
        "accounting": {"database": database, "flush_seconds": 5},
        "log": {"report_every_seconds": 30}})


def _start_miner(port: int, name: str, agent: str, hashrate: int, rolling: bool) -> subprocess.Popen[bytes]:
    """A process of its own, so that its hashing takes no time from the proxy's."""
    words = [sys.executable, "-m", "karoo", "simulate-miner", f"stratum+tcp://127.0.0.1:{port}",
             "--parent", str(os.getpid()), "--user", f"demo.{name}", "--hashrate", str(hashrate), "--agent", agent]
    return subprocess.Popen(words + (["--version-rolling"] if rolling else []), stdin=subprocess.DEVNULL)


def _greet(pool_port: int, stratum_port: int, http_port: int, database: str) -> None:
    log.info("pool: stratum+tcp://127.0.0.1:%d, proxy: stratum+tcp://127.0.0.1:%d", pool_port, stratum_port)
    log.info("%d miners start; see http://127.0.0.1:%d/, end with Ctrl-C", len(MINERS), http_port)
    log.info("what each did: karoo report --database %s", database)


def _end(miners: list[subprocess.Popen[bytes]]) -> None:
    """End the miners that still run, gently, then for good."""
    for miner in miners:
        if miner.poll() is None:
            miner.terminate()
    give_up_at = monotonic() + 3
    for miner in miners:
        try:
            miner.wait(max(0.1, give_up_at - monotonic()))
        except subprocess.TimeoutExpired:
            miner.kill()
            miner.wait()


def end_with_parent(parent: int) -> None:
    """End this process when the one that started it (by its process id) is gone, however that came."""
    def watch() -> None:
        while os.getppid() == parent:
            gevent.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    gevent.spawn(watch)
