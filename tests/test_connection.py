"""A connection that is served: lines come by call from the loop itself, through whatever layers lie between."""

import gc
import json
import socket as stdlib_socket
import ssl
import struct
from typing import ClassVar

import gevent
import pytest
import trustme
from gevent import get_hub, getcurrent, socket
from gevent import ssl as gevent_ssl
from gevent.event import Event

from karoo.net.connection import Connection, LineTooLong
from karoo.net.layers import Stacked
from karoo.net.tls import Tls
from karoo.net.wsframes import unmask
from karoo.net.wslayer import WebSocketLines
from karoo.proxy import entrance
from karoo.proxy import proxy as proxy_module
from karoo.web.debug import debug_text
from tests.fuzz import living_greenlets

PATIENCE = 10.0
LOGIN = (b'{"id":1,"method":"mining.subscribe","params":["life/1"]}\n'
         b'{"id":2,"method":"mining.authorize","params":["a.b","x"]}\n')


class Served:
    """What came over a connection, and the end of it."""

    made: ClassVar = {}  # by socket: to be closed before that

    def __init__(self, sock, **options):
        self.conn = self.made[sock] = connection(sock, **options)
        self.lines, self.fault, self.over, self.callers, self.calls = [], None, Event(), set(), 0
        self.news = Event()
        self.hold_at = None
        self.conn.serve(self.work)

    def work(self):
        self.calls += 1
        self.callers.add(getcurrent())
        try:
            if not self.conn.receive():
                self._end()
            while (line := self.conn.next_line()) is not None:
                if line == self.hold_at:
                    self.conn.put_back(line)
                    self.conn.hold()
                    break
                self.lines.append(line)
                self.conn.push_soon(line + b"!\n")
        except LineTooLong as fault:
            self.fault = fault
            self._end()
        self.news.set()

    def _end(self):
        self.conn.hold()
        self.conn.close()
        self.over.set()

    def wait(self, done):
        with gevent.Timeout(PATIENCE):
            while not done():
                self.news.wait(PATIENCE)
                self.news.clear()


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


class WebSocketPeer:
    """A client's end of a WebSocket over a socket, read and written as if there were none. The end of a message is that
    of a line: half lines are kept back."""

    def __init__(self, sock):
        self.sock, self.payload, self.rest = sock, b"", b""
        self.close, self.setsockopt, self.shutdown = sock.close, sock.setsockopt, sock.shutdown

    def sendall(self, data):
        data = self.rest + data
        end = data.rfind(b"\n") + 1
        if len(data) - end < 100:
            data, self.rest = data[:end], data[end:]
        for start in range(0, len(data), 1000):
            self.sock.sendall(masked(data[start:start + 1000], start == 0, start + 1000 >= len(data)))

    def recv(self, size):
        while not self.payload:
            head = self.exactly(2)
            if len(head) < 2 or head[0] == 0x88:
                return b""
            length = head[1] if head[1] < 126 else int.from_bytes(self.exactly(2), "big")
            self.payload = self.exactly(length)
        data, self.payload = self.payload[:size], self.payload[size:]
        return data

    def exactly(self, size):
        data = b""
        while len(data) < size and (more := self.sock.recv(size - len(data))):
            data += more
        return data


def masked(payload, first=True, last=True):
    """A client's text frame, or a piece of one."""
    head = bytes([(1 if first else 0) | (0x80 if last else 0)])
    size = len(payload)
    head += bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + struct.pack("!H", size)
    return head + b"\x01\x02\x03\x04" + unmask(payload, b"\x01\x02\x03\x04")


@pytest.fixture(params=["plain", "TLS", "WebSocket", "WebSocket over TLS"])
def ends(request, authority):
    """Both ends of a connection over loopback: the one to be served, and the peer's."""
    with stdlib_socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.socket()
        ours.connect(listener.getsockname())
        raw = theirs = socket.socket(fileno=listener.accept()[0].detach())
    layer = None
    if "TLS" in request.param:
        server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), gevent_ssl.create_default_context()
        authority.issue_cert("localhost").configure_cert(server)
        authority.configure_trust(client)
        shaken = gevent.spawn(client.wrap_socket, theirs, server_hostname="localhost")
        layer = Tls(server)
        layer.shake_hands(ours)
        theirs = shaken.get(timeout=PATIENCE)
    theirs.settimeout(PATIENCE)
    if "WebSocket" in request.param:
        theirs = WebSocketPeer(theirs)
        lines = WebSocketLines(1 << 16)
        layer = lines if layer is None else Stacked(layer, lines)
    layers[ours] = layer
    yield ours, theirs
    layers.clear()
    if made := Served.made.pop(ours, None):
        made.close()
    for end in (ours, theirs, raw):
        end.close()


layers = {}  # by socket: what lies on it


def connection(sock, **options):
    return Connection(sock, layer=layers[sock], **options)


def read(sock, size):
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more, data
        data += more
    return data


def test_lines_come_whole_and_in_order_and_the_answers_to_a_packet_go_out_together(ends):
    ours, theirs = ends
    served = Served(ours)
    theirs.sendall(b"one\n\r\n\ntw")
    served.wait(lambda: served.lines == [b"one"])
    theirs.sendall(b"o\r\nthree\nfour")
    served.wait(lambda: len(served.lines) == 3)
    assert read(theirs, 18) == b"one!\ntwo\r!\nthree!\n"
    assert served.lines == [b"one", b"two\r", b"three"]
    theirs.close()
    assert served.over.wait(PATIENCE)
    assert served.fault is None and served.lines[-1] == b"three", "half a line is none"
    calls = served.calls
    gevent.idle()
    assert served.calls == calls, "nobody is called after the end"


def test_nothing_takes_a_greenlet(ends):
    ours, theirs = ends
    served = Served(ours)
    theirs.sendall(b"one\n")
    served.wait(lambda: served.lines)
    assert served.callers == {get_hub()}


def test_a_line_that_is_too_long(ends):
    ours, theirs = ends
    served = Served(ours, max_line=100)
    theirs.sendall(b"one\n")
    served.wait(lambda: served.lines)
    theirs.sendall(b"x" * 101)
    assert served.over.wait(PATIENCE) and "100 bytes" in str(served.fault)


def test_of_many_empty_lines_one_is_handed_out(ends):
    ours, theirs = ends
    served = Served(ours)
    for _ in range(8):
        theirs.sendall(b"\n\r\n" * 4)
    served.wait(lambda: served.lines)
    assert served.lines == [b""]


def test_what_is_held_is_handed_out_when_somebody_serves_again(ends):
    ours, theirs = ends
    served = Served(ours)
    served.hold_at = b"two"
    theirs.sendall(b"one\ntwo\nthree\n")
    served.wait(lambda: served.lines == [b"one"])
    theirs.sendall(b"four\n")
    with gevent.Timeout(PATIENCE):
        while served.conn._readable.active:  # the loop stops to look at it
            gevent.idle()
    assert served.lines == [b"one"]
    served.hold_at = None
    served.work()
    served.conn.serve(served.work)
    served.wait(lambda: len(served.lines) == 4)
    assert served.lines == [b"one", b"two", b"three", b"four"]


def test_a_reader_whose_own_words_meet_a_dead_socket_comes_to_its_end(ends):
    """Nobody could wake it any more: it must not begin to wait."""
    ours, theirs = ends
    conn = connection(ours)
    lines = []

    def read():
        while (line := conn.read_line()) is not None:
            lines.append(line)
            conn.push_soon(b"answer\n" * 1000)
    reader = gevent.spawn(read)
    theirs.sendall(b"hello\n")
    theirs.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()  # a reset, which is there before the reader runs
    reader.join(PATIENCE)
    assert reader.dead


def test_what_came_in_one_packet_before_a_half_close_is_answered_once_the_pool_is_there(site):
    """Also where the first line had to wait for it."""
    proxy = site.proxy(site.pool(difficulty=1e-9))
    with socket.create_connection(("127.0.0.1", proxy.listener.port), PATIENCE) as sock, sock.makefile("rb") as lines:
        sock.sendall(b'{"id":0,"method":"mining.configure","params":[["version-rolling"],{}]}\n' + LOGIN
                     + b'{"id":9,"method":"mining.ping","params":[]}\n')
        sock.shutdown(stdlib_socket.SHUT_WR)
        said = [json.loads(line) for line in lines]
    assert [one["id"] for one in said if one["id"] is not None] == [0, 1, 2, 9]
    site.wait(lambda: not proxy.sessions)


def test_the_end_of_the_proxy_is_that_of_sessions_that_wait_for_a_pool(site):
    pool = site.pool()
    pool.stop()
    proxy = site.proxy(pool, upstream={"hold_ms": 600_000})
    clients = [socket.create_connection(("127.0.0.1", proxy.listener.port), PATIENCE) for _ in range(3)]
    for client in clients:
        client.sendall(LOGIN)
    site.wait(lambda: sum(session.waits for session in proxy.sessions.values()) == 3)
    proxy.stop()
    site.wait(lambda: not proxy.sessions, PATIENCE, "the end of the sessions")
    for client in clients:
        client.close()


def test_a_close_on_this_side_is_told_once(ends):
    ours, _ = ends
    served = Served(ours)
    served.conn.close("for a reason")
    assert served.over.wait(PATIENCE) and served.conn.cut_reason == "for a reason"
    calls = served.calls
    gevent.idle()
    assert served.calls == calls


def test_who_serves_a_closed_connection_is_told_at_once(ends):
    ours, _ = ends
    ours_closed = connection(ours)
    ours_closed.close()
    called = Event()

    def work():
        assert not ours_closed.receive()
        ours_closed.hold()
        called.set()
    ours_closed.serve(work)
    assert called.wait(PATIENCE)


def test_miners_at_work_take_no_greenlets(site):
    pool = site.pool()
    proxy = site.proxy(pool)
    site.miner(proxy)  # dials the pool
    clients = [socket.create_connection(("127.0.0.1", proxy.listener.port), PATIENCE) for _ in range(20)]
    before = living_greenlets()
    for client in clients:
        client.sendall(b'{"id":1,"method":"mining.subscribe","params":[]}\n'
                       b'{"id":2,"method":"mining.authorize","params":["a.b","x"]}\n')
    for client in clients:
        data = b""
        while b"mining.notify\",\"params" not in data:
            data += client.recv(4096)
    assert living_greenlets() == before
    for client in clients:
        client.close()
    site.wait(lambda: len(proxy.sessions) == 1)


def test_a_bug_met_while_a_miner_connects_costs_that_connection_only(site, monkeypatch):
    proxy = site.proxy(site.pool())

    def fail(*_):
        raise RuntimeError("made up for the test")
    with monkeypatch.context() as patch:
        patch.setattr(entrance, "Session", fail)
        with socket.create_connection(("127.0.0.1", proxy.listener.port), PATIENCE) as client:
            assert client.recv(1) == b""
    assert proxy.metrics.exceptions == 1 and not proxy.sessions
    assert proxy.door._gate._live == {}, "the address does not have it any more"
    proxy.metrics.exceptions = 0  # it was ours
    miner = site.miner(proxy)
    assert miner.submit(miner.find_share()) is True


@pytest.mark.parametrize("last_words", [b"", b"no JSON\n"], ids=["leaves", "is cut"])
def test_a_bug_met_while_a_session_ends_leaves_no_session_behind(site, monkeypatch, last_words):
    proxy = site.proxy(site.pool(difficulty=1e-9))
    site.miner(proxy)

    def fail(*_):
        raise RuntimeError("made up for the test")
    with monkeypatch.context() as patch:
        patch.setattr(proxy.accounts, "leave", fail)
        life(proxy, last_words)
        site.wait(lambda: len(proxy.sessions) == 1, PATIENCE, "the end of the session")
    assert proxy.metrics.exceptions == 1
    assert site.logged("a bug ended this session")
    proxy.metrics.exceptions = 0  # it was ours
    life(proxy)


# ---------------------------------------------------------------- what is left for the garbage collector

def life(proxy, last_words=b""):
    """A miner's, from its first byte to its last: a login, three shares, and what it says at the end."""
    with socket.create_connection(("127.0.0.1", proxy.listener.port), PATIENCE) as sock, sock.makefile("rb") as lines:
        sock.sendall(LOGIN)
        said = []
        while not said or said[-1].get("method") != "mining.notify":
            said.append(json.loads(lines.readline()))
        job, size = said[-1]["params"], said[0]["result"][2]
        for nonce in range(3):
            share = ["a.b", job[0], "00" * size, job[7], f"{nonce:08x}"]
            sock.sendall(json.dumps({"id": 3, "method": "mining.submit", "params": share}).encode() + b"\n")
            assert lines.readline()
        if last_words:
            sock.sendall(last_words)
            sock.shutdown(stdlib_socket.SHUT_WR)
            while lines.readline():
                pass


@pytest.mark.parametrize("last_words", [b"", b"GET / HTTP/1.0\r\n\r\n", b"x" * 20_000, b"{}\n" * 30],
                         ids=["leaves", "no JSON", "too long", "junk"])
def test_a_session_is_gone_when_it_ends_and_waits_for_no_garbage_collector(site, last_words):
    pool = site.pool(difficulty=1e-9)
    proxy = site.proxy(pool)
    site.miner(proxy)
    kinds = ("Session", "Connection", "Conduct", "Tuner", "PendingShare", "Share", "Submit")
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            life(proxy, last_words)
        pool.new_job()
        site.wait(lambda: len(proxy.sessions) == 1)
        gevent.idle()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [type(one).__name__ for one in gc.garbage if type(one).__name__ in kinds]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []


def test_what_many_miners_hold_is_kept_out_of_the_collectors_sight(site, monkeypatch):
    monkeypatch.setattr(proxy_module, "SWEEP_EVERY", 0.01)
    monkeypatch.setattr(proxy_module, "FREEZE_AT", 3)
    monkeypatch.setattr(proxy_module, "FREEZE_AGAIN", 0.05)
    calls, freeze = [], gc.freeze
    monkeypatch.setattr(proxy_module.gc, "freeze", lambda: calls.append(len(proxy.sessions)) or freeze())
    proxy = site.proxy(site.pool())
    try:
        for _ in range(3):
            site.miner(proxy)
        site.wait(lambda: calls == [3, 3], PATIENCE, "one for the miners, one for their shares")
        assert gc.get_freeze_count() > 0
        assert "Session" not in {type(one).__name__ for one in gc.get_objects()}
        assert "_sweep_for_ever" in debug_text(), "the page for bug reports shows all the same"
        miner = site.miner(proxy)
        assert miner.submit(miner.find_share()) is True
    finally:
        gc.unfreeze()
