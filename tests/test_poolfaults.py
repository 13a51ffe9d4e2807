"""Every fault of tests/poolfaults.py, over real sockets: a miner behind the proxy goes on, whatever its pool does."""

import json
from pathlib import Path

import gevent
import pytest
from gevent.server import StreamServer

from tests import poolfaults
from tests.poolfaults import BACKUP, CLOSE, FAULTS, SILENCE

DOCUMENT = Path(__file__).parent.parent / "docs" / "pool-faults.md"


class FaultyPool:
    """Says what a fault's data tell it to. Takes every share."""

    def __init__(self, fault):
        self.fault = fault
        self.shares = 0
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.port = self._server.server_port

    def _serve(self, sock, _address):
        try:
            if self.fault.at_once and not self._say(sock, self.fault.at_once):
                return
            for line in sock.makefile("rb"):
                if not self._answer(sock, json.loads(line)):
                    return
        except OSError:
            pass  # the proxy left
        finally:
            sock.close()

    def _answer(self, sock, request):
        """False when that was its last word."""
        method = request["method"]
        self.shares += method == "mining.submit"
        reply = {**poolfaults.REPLIES, **self.fault.replies}.get(method)
        if reply is None or reply == SILENCE:
            return True
        if not self._say(sock, reply.replace("$", str(request["id"]))):
            return False
        more = (*self.fault.first, *self.fault.after) if method == "mining.authorize" else ()
        return all(self._say(sock, line) for line in more)

    def _say(self, sock, line):
        if line == CLOSE:
            return False
        half = line.endswith("\\")
        sock.sendall(line[:-1].encode("latin-1") if half else line.encode("latin-1") + b"\n")
        return True

    def close(self):
        self._server.stop()


@pytest.fixture
def faulty():
    pools = []

    def start(fault):
        pools.append(FaultyPool(fault))
        return pools[-1]
    yield start
    for pool in pools:
        pool.close()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name[:60])
def test_a_miner_goes_on_whatever_is_wrong_with_the_pool(site, faulty, fault):
    pool, backup = faulty(fault), site.pool()
    proxy = site.proxy(pool, backup, upstream={"handshake_ms": 400, "backoff_min_ms": 60_000,
                                               "backoff_max_ms": 60_000})
    miner = site.miner(proxy, extranonce=True)
    site.wait_logged(fault.reason, 10)
    for _ in range(len(fault.after)):  # what came after the first job is read in the order in which it came
        gevent.sleep(0)
    if fault.leads_to == BACKUP:
        site.wait(lambda: backup.connections and proxy.routes.routes[0].is_up)
        ours = proxy.routes.routes[0].extranonce.extranonce1
        miner.wait(lambda: miner.extranonce1.startswith(ours) and miner.jobs)
        assert miner.submit(miner.find_share()) is True
        assert (backup.books.accepted, pool.shares) == (1, 0)
        losses = " ".join(proxy.snapshot()["upstream_losses"])
        assert fault.reason in losses, "the reason is on the status page too"
    else:
        assert miner.submit(miner.find_share()) is True
        assert (backup.books.accepted, pool.shares) == (0, 1)
        assert not miner.closed and backup.books.connects == 0


def test_a_pool_that_flaps_every_second_is_left_for_its_backup(site):
    primary, backup = site.pool(), site.pool()
    proxy = site.proxy(primary, backup, upstream={"failback_after_seconds": 30})
    miner = site.miner(proxy, extranonce=True)

    def flap():
        while True:
            primary.kick_all()
            gevent.sleep(0.2)

    flapping = gevent.spawn(flap)
    try:
        site.wait(lambda: backup.connections, 10)
        miner.wait(lambda: len(miner.jobs) >= 2)
        for _ in range(5):
            assert miner.submit(miner.find_share()) is True
    finally:
        flapping.kill()
    assert not miner.closed and backup.books.accepted == 5


def test_the_table_in_the_documentation_is_the_generated_one():
    assert DOCUMENT.read_text("utf-8") == poolfaults.table()
    assert len(FAULTS) == len({fault.name for fault in FAULTS}) > 30
