"""Every fault of tests/poolfaults.py, over real sockets: a miner behind the proxy goes on, whatever its pool does."""

import datetime
import gc
import json
import ssl
from pathlib import Path

import gevent
import pytest
import trustme
from gevent import socket
from gevent.event import Event
from gevent.server import StreamServer

from karoo.net.dialer import Destination, DialError, dial
from tests import poolfaults
from tests.poolfaults import (
    BACKUP,
    CLOSE,
    EXPIRED,
    FAULTS,
    ON,
    OTHER_NAME,
    PRIVATE,
    SILENCE,
    SOCKS5,
    TLS,
    TRUSTED,
    Fault,
)

DOCUMENT = Path(__file__).parent.parent / "docs" / "pool-faults.md"


class Certificates:
    """Of an authority that the proxy trusts, in ``store``, and of one that nobody knows."""

    def __init__(self, folder):
        self._known, self._unknown = trustme.CA(), trustme.CA()
        self.store = folder / "store.pem"
        self._known.cert_pem.write_to_path(self.store)

    def context(self, kind):
        """What a pool needs to speak TLS with a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._issue(kind).configure_cert(context)
        return context

    def _issue(self, kind):
        if kind == EXPIRED:
            yesterday = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
            return self._known.issue_cert("localhost", not_after=yesterday)
        authority = self._unknown if kind == PRIVATE else self._known
        return authority.issue_cert("pool.example" if kind == OTHER_NAME else "localhost")


class FaultyPool:
    """Says what a fault's data tell it to. Takes every share."""

    def __init__(self, fault, tls=None):
        self.fault = fault
        self.shares = 0
        self.left = Event()  # a connection ended
        self._tls = tls
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self._server = StreamServer(listener, self._serve)
        if not fault.absent:  # else nobody listens on the port, and nobody else can
            listener.listen()
            self._server.start()

    def way(self):
        """The proxy's settings by which it comes here."""
        socks = {"socks_proxy": {"enabled": True, "port": self.port}} if self.fault.way == SOCKS5 else {}
        return {"host": self.fault.host, "tls": self.fault.way == TLS, **socks}

    def _serve(self, sock, _address):
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            self._talk(sock)
        except OSError:
            pass  # the proxy left
        finally:
            sock.close()
            self.left.set()

    def _talk(self, sock):
        if self.fault.at_once not in ("", SILENCE) and not self._say(sock, self.fault.at_once):
            return
        if self.fault.way and self._tls is None:  # what comes is no Stratum
            while sock.recv(4096):
                pass
            return
        for line in sock.makefile("rb"):
            if not self._answer(sock, json.loads(line)):
                return

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


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def faulty(certificates, monkeypatch):
    pools = []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.store))  # in place of the system's

    def start(fault):
        pools.append(FaultyPool(fault, certificates.context(fault.certificate) if fault.certificate else None))
        return pools[-1]
    yield start
    for pool in pools:
        pool.close()


@pytest.fixture(autouse=True)
def no_such_names(monkeypatch):
    """No name in .invalid resolves, wherever the tests run, and nobody waits to be told so."""
    resolver = gevent.get_hub().resolver
    resolve = resolver.getaddrinfo

    def refuse(host, *more):
        if str(host).endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *more)
    monkeypatch.setattr(resolver, "getaddrinfo", refuse)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name[:60])
def test_a_miner_goes_on_whatever_is_wrong_with_the_pool(site, faulty, fault):
    pool, backup = faulty(fault), site.pool()
    proxy = site.proxy(pool, backup, upstream={"handshake_ms": 400, "backoff_min_ms": 60_000,
                                               "backoff_max_ms": 60_000, **pool.way()})
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


@pytest.mark.parametrize(("certificate", "settings"), [
    (TRUSTED, {}), (PRIVATE, {"insecure_skip_verify": True}), (OTHER_NAME, {"insecure_skip_verify": True}),
    (EXPIRED, {"insecure_skip_verify": True})])
def test_a_pool_whose_certificate_is_accepted_is_used_over_tls(site, faulty, certificate, settings):
    pool = faulty(Fault("none", ON, "is up", host="localhost", way=TLS, certificate=certificate))
    miner = site.miner(site.proxy(pool, upstream={**pool.way(), **settings}))
    assert miner.submit(miner.find_share()) is True
    assert pool.shares == 1


def test_a_tls_handshake_that_is_given_up_leaves_no_connection_open(faulty):
    pool = faulty(Fault("none", BACKUP, "no answer within", way=TLS, at_once=SILENCE))
    gc.disable()
    try:
        with pytest.raises(DialError, match="no answer within"):
            dial(Destination("127.0.0.1", pool.port, tls=True), 0.1)
        with gevent.Timeout(1):
            pool.left.wait()
    finally:
        gc.enable()


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
