"""Miners over WebSockets: the layer byte by byte, a real client library, and a page that mines in a real browser."""

import hashlib
import json
import re
import ssl
import struct
import threading
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme
import yaml
from gevent import socket
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from karoo.config import loads
from karoo.net import connection
from karoo.net.layers import Stacked
from karoo.net.wsframes import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_payload
from karoo.net.wshandshake import HandshakeError, answer, refusal
from karoo.net.wslayer import WebSocketLines
from karoo.proxy import proxy as proxy_module
from karoo.proxy.control import Control
from karoo.sim import grind
from karoo.sim.via import ClientLines, Via
from karoo.stratum import difficulty as dif
from karoo.stratum import methods
from karoo.stratum.methods import Notify
from karoo.stratum.share import ALGORITHMS
from tests.browser import Browser, needs_browser
from tests.site import EASY, POOL_DIFFICULTY
from tests.test_websocket import frame

PAGE = Path(__file__).parent.parent / "examples" / "browser-miner"
MAX_MESSAGE = 16384
SHA256D = ALGORITHMS["sha256d"]
PATIENCE = 10.0
FARM = "https://farm.example.org"


# ---------------------------------------------------------------- the layer: what is heard

TEXTS = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=20)
MESSAGES = st.lists(st.tuples(st.lists(TEXTS, max_size=4), st.booleans()), max_size=6)
BYTES = st.binary(max_size=12)
FRAMES = st.builds(frame, st.sampled_from([0, 1, 1, 1, 2, 3, 8, 9, 10]), BYTES, st.booleans(),
                   st.sampled_from([0, 0, 0, 0, 0, 64]), st.sampled_from([b"abcd", b"abcd", b"abcd", b""]),
                   st.sampled_from([None, None, None, 200, 1 << 40]))


class Xor:
    """A layer for tests, instead of TLS: all bytes are flipped; it counts what it is asked."""

    probes = False
    ended, fault = False, ""

    def decode(self, data):
        return bytes(byte ^ 255 for byte in data)

    encode = decode

    def replies(self):
        return b"R"

    def probe(self):
        return b""

    def farewell(self, code, reason):
        return b"F"


def fed(layer, chunks):
    """What comes of these bytes: lines, what is owed, and how it ended; as `Connection` asks for it."""
    said, owed = b"", b""
    for chunk in chunks:
        if layer.ended:
            break
        said += layer.decode(chunk)
        owed += layer.replies()
    return [line for line in said.split(b"\n") if line], owed, layer.ended, layer.fault


def cut(data, rng, pieces=6):
    """In pieces, of which some may be empty."""
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(pieces)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(MESSAGES, st.randoms(use_true_random=False))
def test_lines_are_the_same_however_messages_and_frames_are_cut(messages, rng):
    wire, expected, pings = b"", [], []
    for lines, ends in messages:
        text = "\n".join(lines) + ("\n" if ends else "")
        expected += [line.encode() for line in lines if line]
        fragments = cut(text.encode(), rng)
        for at, fragment in enumerate(fragments):
            if rng.random() < 0.3:
                pings.append(rng.randbytes(3))
                wire += frame(PING, pings[-1])
            wire += frame(CONTINUATION if at else TEXT, fragment, fin=at == len(fragments) - 1, mask=rng.randbytes(4))
    said, owed, ended, fault = fed(WebSocketLines(MAX_MESSAGE), cut(wire, rng, 40))
    assert said == expected
    assert owed == b"".join(bytes([0x8A, 3]) + ping for ping in pings)
    assert (ended, fault) == (False, "")


@given(st.lists(FRAMES | BYTES, max_size=8).map(b"".join), st.randoms(use_true_random=False))
@example(frame(TEXT, b"one") + frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"two"), None)
@example(frame(TEXT, b"one") + frame(BINARY, b"two") + frame(PING), None)
def test_whatever_comes_means_the_same_in_any_pieces(wire, rng):
    whole = fed(WebSocketLines(100), [wire])
    pieces = [wire[at:at + 1] for at in range(len(wire))] if rng is None else cut(wire, rng, 40)
    assert fed(WebSocketLines(100), pieces) == whole
    _, owed, ended, fault = whole
    assert ended or not fault
    if ended:  # a close frame is its last word
        heard = ClientLines()
        heard.decode(owed)
        assert heard.ended


@given(st.lists(FRAMES, max_size=6).map(b"".join), st.randoms(use_true_random=False))
def test_a_layer_that_is_carried_by_another_one_hears_and_says_the_same(wire, rng):
    alone, carrier = WebSocketLines(100), Xor()
    carried = Stacked(carrier, WebSocketLines(100))
    for chunk in cut(wire, rng, 20):
        assert carried.decode(carrier.decode(chunk)) == alone.decode(chunk)
        assert carried.replies() == b"R" + carrier.encode(alone.replies())
        assert (carried.ended, carried.fault, carried.probes) == (alone.ended, alone.fault, True)
        if alone.ended:
            break
    assert carried.encode(b"a\nb\n") == carrier.encode(alone.encode(b"a\nb\n"))
    assert carried.probe() == carrier.encode(alone.probe())
    assert carried.farewell(1001, "why") == carrier.encode(alone.farewell(1001, "why")) + b"F"
    assert carried.encode(b"a\n") == b""


def test_the_end_of_the_carrying_layer_is_the_end():
    carrier = Xor()
    carried = Stacked(carrier, WebSocketLines(100))
    assert not carried.ended
    carrier.ended, carrier.fault = True, "TLS: broken"
    assert carried.ended and carried.fault == "TLS: broken"


@pytest.mark.parametrize(("code", "wire"), [
    (1002, frame(TEXT, b"x", mask=b"")),
    (1002, frame(TEXT, b"x", rsv=0x40)),
    (1002, frame(CONTINUATION, b"x")),
    (1002, frame(11)),
    (1002, frame(CLOSE, struct.pack("!H", 1005))),
    (1003, frame(BINARY, b"x")),
    (1003, frame(BINARY, b"x", fin=False)),
    (1007, frame(TEXT, b"\xff")),
    (1007, frame(TEXT, b"caf\xc3")),
    (1009, frame(TEXT, b"x" * 101)),
    (1009, frame(TEXT, announced=1 << 62)),
    (1009, frame(TEXT, b"x" * 60, fin=False) + frame(CONTINUATION, b"x" * 60, fin=False)),
    (1009, frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 63),
])
def test_each_fault_owes_the_peer_its_code_and_nothing_after_that(code, wire):
    layer = WebSocketLines(100)
    assert layer.decode(frame(TEXT, b"before") + wire) == b"before\n"
    assert layer.ended and layer.fault.startswith("WebSocket: ")
    heard = ClientLines()
    heard.decode(layer.replies())
    assert heard.close_code == code
    assert [layer.replies(), layer.encode(b"x\n"), layer.probe(), layer.farewell(1000, "")] == [b""] * 4


@pytest.mark.parametrize("payload", [b"", struct.pack("!H", 1000), struct.pack("!H", 4999) + b"enough"])
def test_a_close_is_answered_once(payload):
    layer = WebSocketLines(100)
    assert layer.decode(frame(CLOSE, payload) + frame(TEXT, b"late") + frame(CLOSE, payload)) == b""
    assert (layer.ended, layer.fault) == (True, "")
    assert layer.replies() == bytes([0x88, len(payload[:2])]) + payload[:2]
    assert layer.farewell(1001, "") == b""


def test_pings_and_pongs_count_as_empty_lines():
    layer = WebSocketLines(100)
    assert layer.decode(frame(PING, b"x") * 3 + frame(PONG)) == b"\n" * 4
    assert layer.replies() == (b"\x8a\x01x") * 3
    layer.farewell(1000, "")
    assert layer.decode(frame(PING, b"x")) == b"\n" and layer.replies() == b"", "nothing follows a close"


# ---------------------------------------------------------------- the layer: what is said

@given(st.lists(TEXTS.filter(bool), max_size=5))
def test_each_message_holds_one_line(lines):
    heard = ClientLines()
    heard.decode(WebSocketLines(100).encode("".join(f"{line}\n" for line in lines).encode()))
    assert heard.messages == [f"{line}\n".encode() for line in lines]


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_whatever_a_pool_says_is_utf8_for_a_browser(lines):
    data = b"".join(line + b"\n" for line in lines)
    heard = ClientLines()
    heard.decode(WebSocketLines(100).encode(data))
    assert "".join(message.decode() for message in heard.messages) == re.sub(
        "\n+", "\n", data.decode(errors="replace")).removeprefix("\n")


@pytest.mark.parametrize("size", [124, 125, 65534, 65535, 70000])
def test_a_line_may_be_as_long_as_it_is(size):
    heard = ClientLines()
    heard.decode(WebSocketLines(100).encode(b"x" * size + b"\n"))
    assert heard.messages == [b"x" * size + b"\n"]


def test_nothing_follows_a_farewell():
    layer = WebSocketLines(100)
    assert layer.farewell(1001, "the proxy stops") == b"\x88\x11" + close_payload(1001, "the proxy stops")
    assert [layer.encode(b"x\n"), layer.probe(), layer.farewell(1000, "")] == [b""] * 3
    assert layer.decode(frame(TEXT, b"still heard")) == b"still heard\n"


# ---------------------------------------------------------------- the handshake

GOOD = {"Host": "proxy", "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}


def head(*more, line="GET /any/path?x=y HTTP/1.1", **changed):
    headers = {**GOOD, **{name.replace("_", "-"): value for name, value in changed.items()}}
    lines = [line, *(f"{name}: {value}" for name, value in headers.items() if value is not None), *more, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def status(data, origins=()):
    """Of the answer, refusals included; all that is answered is a whole head of HTTP."""
    try:
        said = answer(data, origins)
    except HandshakeError as fault:
        said = refusal(fault)
        top, _, body = said.partition(b"\r\n\r\n")
        assert f"\r\nContent-Length: {len(body)}\r\n".encode() in top and said.isascii() and body.count(b"\n") == 1
    else:
        assert said.endswith(b"\r\n\r\n") and b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in said
    return int(said.split()[1])


@pytest.mark.parametrize(("data", "expected"), [
    (head(), 101),
    (head(line="GET / HTTP/1.0", Host=None), 101),
    (head("X-Anything: \xe4\xf6\xfc"), 101),
    (head(Host=None), 400),
    (head("Host: another"), 400),
    (head(line="POST / HTTP/1.1"), 400),
    (head(line="GET / HTTP/2"), 400),
    (head(line="GET /\xe9 HTTP/1.1"), 400),
    (head(line="GET  / HTTP/1.1"), 400),
    (head("no header at all"), 400),
    (head("X: a\0b"), 400),
    (head("Content-Length: 5", "Content-Length: 6"), 400),
    (head("Content-Length: 5", "Transfer-Encoding: chunked"), 400),
    (head(*[f"X-{n}: y" for n in range(60)]), 431),
    (head(*[f"X-{n}: y" for n in range(200)]), 431),
    (head("X: " + "y" * 70000), 431),
    (head(Upgrade="h2c"), 426),
    (head(Connection="close"), 426),
    (head(Sec_WebSocket_Version="8"), 426),
    (head(Sec_WebSocket_Key="short"), 400),
    (head(Sec_WebSocket_Key="\xe9" * 24), 400),
    (b"\r\n\r\n", 400),
    (b'{"id":1,"method":"mining.subscribe","params":[]}\r\n\r\n', 400),
])
def test_a_request_is_answered_or_refused(data, expected):
    assert status(data) == expected


@given(st.lists(st.sampled_from([*head().split(b"\r\n"), b"Origin: null", b" folded", b"\xff: \xff", b"a:\rb", b":",
                                 b"Transfer-Encoding: chunked"]) | BYTES, max_size=15))
def test_no_request_is_a_surprise(lines):
    assert status(b"\r\n".join(lines) + b"\r\n\r\n") in (101, 400, 403, 413, 426, 431, 501)


@pytest.mark.parametrize(("origin", "origins", "expected"), [
    (None, (), 101), (None, (FARM,), 101),
    (FARM, (FARM,), 101), ("HTTPS://Farm.Example.org", (FARM,), 101), (FARM, ("*",), 101), ("null", ("*",), 101),
    (FARM, ("http://other", FARM), 101),
    (FARM, (), 403), ("http://farm.example.org", (FARM,), 403), (FARM + ":8443", (FARM,), 403),
    (FARM + ".evil.example", (FARM,), 403), ("null", (FARM,), 403), ("", (FARM,), 403), ("*", (FARM,), 403),
    ("\xe9" * 5000, (FARM,), 403),
])
def test_pages_come_from_somewhere(origin, origins, expected):
    assert status(head(Origin=origin), origins) == expected


@pytest.mark.parametrize(("offered", "chosen"), [
    (["stratum"], True), (["mqtt, stratum"], True), (["mqtt", "stratum"], True), (["mqtt"], False),
    (["Stratum"], False), ([], False)])
def test_a_subprotocol_is_chosen_where_it_is_offered(offered, chosen):
    said = answer(head(*[f"Sec-WebSocket-Protocol: {names}" for names in offered]), ())
    assert (b"\r\nSec-WebSocket-Protocol: stratum\r\n" in said) is chosen


# ---------------------------------------------------------------- a real client

class Miner:
    """A miner over the `websockets` library, driven by hand; its state is what the proxy told it."""

    def __init__(self, proxy, listener=0, scheme="ws", **options):
        port = proxy.listeners[listener].port
        self.socket = connect(f"{scheme}://127.0.0.1:{port}/any/path", **{"proxy": None, "open_timeout": PATIENCE,
                                                                           "compression": None, **options})
        self.messages = []
        self.difficulty = self.job = None
        self.extranonce1, self.extranonce2_size = b"", 0

    def receive(self):
        """The next message, which is one line."""
        text = self.socket.recv(PATIENCE)
        assert isinstance(text, str) and text.endswith("\n") and text.count("\n") == 1, text
        message = json.loads(text)
        self.messages.append(message)
        params = message.get("params")
        if message.get("method") == "mining.set_difficulty":
            self.difficulty = params[0]
        elif message.get("method") == "mining.notify":
            self.job = grind.job_of(Notify.parse(params), self.extranonce1, self.difficulty, SHA256D.diff1)
        elif message.get("id") == "subscribe":
            self.extranonce1, self.extranonce2_size = bytes.fromhex(message["result"][1]), message["result"][2]
        return message

    def wait(self, wanted):
        """The next message that is wanted."""
        while not wanted(message := self.receive()):
            pass
        return message

    def answer(self, request_id):
        return self.wait(lambda message: message.get("id") == request_id)

    def log_in(self, user="user.rig"):
        self.socket.send(request("subscribe", "mining.subscribe", "browser/1.0"))
        self.answer("subscribe")
        self.socket.send(request("authorize", "mining.authorize", user, "x"))
        assert self.answer("authorize")["result"] is True
        self.wait_job()
        return self

    def wait_job(self):
        self.wait(lambda message: message.get("method") == "mining.notify")

    def share(self, number=1, user="user.rig"):
        """A line that submits a share of the job."""
        extranonce2, ntime = number.to_bytes(self.extranonce2_size, "big"), self.job.notify.ntime
        start = grind.header_start(self.job, extranonce2, ntime, self.job.notify.version)
        target = dif.target_of(self.difficulty, SHA256D.diff1)
        nonce, _ = next(grind.hits(start, target, 0, 10_000_000, SHA256D))
        return request(f"share {number}", "mining.submit", *methods.submit_params(
            user, self.job.notify.job_id, extranonce2, ntime, nonce, None))

    def mine(self, number=1):
        self.socket.send(self.share(number))
        return self.answer(f"share {number}")["result"] is True

    def closed(self):
        """Code and reason of the close that comes, whatever is said before it."""
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                self.receive()
        return closed.value.rcvd.code, closed.value.rcvd.reason


def request(request_id, method, *params):
    return json.dumps({"id": request_id, "method": method, "params": list(params)}) + "\n"


@pytest.fixture
def web(site):
    """A proxy at a pool with a listener for WebSockets, and miners there."""
    with ExitStack() as stack:
        def start(pool=None, **sections):
            sections = {"listeners": [{"protocol": "websocket", "origins": [FARM]}], **sections}
            proxy = site.proxy(pool or site.pool(), vardiff={"start_diff": EASY, "min_diff": 1e-12}, **sections)

            def miner(**options):
                miner = Miner(proxy, **options)
                stack.callback(miner.socket.close)
                return miner
            return proxy, miner
        yield start


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_share_over_a_websocket_reaches_the_pool(site, web, compression):
    pool = site.pool(difficulty=EASY)
    proxy, miner = web(pool)
    one = miner(compression=compression).log_in("user.rig7")
    assert one.socket.protocol.extensions == [], "compression is offered in vain"
    one.socket.send(one.share(user="user.rig7"))
    assert one.answer("share 1")["result"] is True
    account, = pool.books.users.values()
    assert account.accepted == 1
    assert site.booked(proxy, "rig7").accepted == 1


def test_lines_and_messages_need_not_go_together(web):
    _, miner = web()
    one = miner()
    one.socket.send(request("subscribe", "mining.subscribe") + "\n\r\n" + request("a", "mining.authorize", "u.r", "x"))
    one.answer("subscribe")
    assert one.answer("a")["result"] is True
    one.wait_job()
    one.socket.send(one.share(1, "u.r").rstrip("\n"))
    assert one.answer("share 1")["result"] is True
    line = one.share(2, "u.r")
    one.socket.send([line[:10], "", line[10:11], line[11:]])
    assert one.answer("share 2")["result"] is True
    one.socket.send(one.share(3, "u.r") + one.share(4, "u.r").rstrip("\n"))
    assert [one.answer(f"share {n}")["result"] for n in (3, 4)] == [True, True]
    one.socket.send("")
    one.socket.send("\n")
    assert one.mine(5) is False and "not" in str(one.messages[-1]["error"]).lower(), "of a user that is not authorized"


def test_a_line_is_not_continued_in_the_next_message(web):
    _, miner = web()
    one = miner()
    line = request("subscribe", "mining.subscribe")
    one.socket.send(line[:20])
    one.socket.send(line[20:])
    assert one.receive()["error"]
    assert one.closed()[0] == 1008


def test_a_client_may_ping(web):
    _, miner = web()
    one = miner()
    assert one.socket.ping(b"there?").wait(PATIENCE)
    one.log_in()
    assert one.socket.ping(b"still?").wait(PATIENCE)
    assert one.mine()


def test_pings_without_end_are_misbehaviour(web):
    _, miner = web(proxy={"max_misbehaviour": 20})
    one = miner()
    with pytest.raises(ConnectionClosed) as closed:
        for _ in range(1000):
            one.socket.ping().wait(PATIENCE)
    assert closed.value.rcvd.code == 1008


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(connection, "PROBE_AFTER", 0.2)
    monkeypatch.setattr(proxy_module, "SWEEP_EVERY", 0.05)


def test_a_silent_client_is_pinged_and_stays_when_it_answers(site, web, impatient):
    proxy, miner = web()
    one = miner(ping_interval=None).log_in()
    conn, = (session.conn for session in proxy.sessions.values())
    heard = conn.last_heard
    for _ in range(3):
        alive = conn._alive_at
        site.wait(lambda alive=alive: conn._alive_at > alive, what="the answer to a ping")
    assert conn.last_heard == heard, "a program that is idle answers pings too: it has said nothing"
    assert one.mine() and conn.last_heard > heard


def test_a_client_that_only_answers_pings_is_idle(site, impatient):
    proxy = site.proxy(site.pool(), proxy={"client_idle_ms": 300, "first_byte_ms": 0, "subscribe_ms": 0},
                       listeners=[{"protocol": "websocket"}])
    with connect(f"ws://127.0.0.1:{proxy.listener.port}", ping_interval=0.05) as client:
        with pytest.raises(ConnectionClosed):
            client.recv(PATIENCE)
        assert (client.close_code, client.close_reason) == (1001, "silent for too long")


def test_what_comes_with_the_request_is_answered_at_once(site, web):
    proxy, _ = web()
    for early, wanted in ((b"\x89\x81\0\0\0\0x", b"\x8a\x01x"), (b"\x82\x81\0\0\0\0x", b"\x88"),
                          (b"\x88\x82\0\0\0\0\x03\xe8", b"\x88\x02\x03\xe8")):
        with socket.create_connection(("127.0.0.1", proxy.listener.port), PATIENCE) as sock:
            sock.sendall(head() + early)
            data = b""
            while wanted not in data.partition(b"\r\n\r\n")[2]:
                part = sock.recv(4096)
                assert part, data
                data += part


def test_a_silent_client_that_answers_no_ping_is_dropped(site, web, impatient):
    proxy, _ = web()
    with socket.create_connection(("127.0.0.1", proxy.listener.port), PATIENCE) as sock:
        sock.sendall(head())
        data = b""
        while part := sock.recv(4096):
            data += part
    _, _, said = data.partition(b"\r\n\r\n")
    reason = "it does not answer a ping"
    assert said == b"\x89\0" + bytes([0x88, 2 + len(reason)]) + close_payload(1001, reason)
    site.wait(lambda: proxy.metrics.ended[reason] == 1)


# Closing, as the client sees it

def test_the_proxy_stops(web):
    proxy, miner = web()
    new, busy = miner(), miner().log_in()
    proxy.stop()
    assert new.closed() == busy.closed() == (1001, "the proxy stops")


def test_no_json(site, web):
    _, miner = web()
    one = miner().log_in()
    one.socket.send("what?\n")
    assert one.closed() == (1008, "misbehaviour")
    assert one.messages[-2]["error"] and one.messages[-1]["method"] == "client.show_message"
    site.wait_logged("misbehaviour")


def test_points_of_misbehaviour(web):
    _, miner = web(proxy={"max_misbehaviour": 20})
    one = miner().log_in()
    for _ in range(25):
        one.socket.send('{"id": 5, "method": "mining.submit", "params": {}}\n')
    assert one.closed() == (1008, "misbehaviour")


@pytest.mark.parametrize(("message", "text", "code"), [
    ("x" * 16385, None, 1009),
    (["x" * 9000, "y" * 9000], None, 1009),
    ([request(number, "mining.ping") for number in range(65)], None, 1009),
    (b'{"id":1,"method":"mining.subscribe","params":[]}\n', None, 1003),
    (b'{"id":1,"method":"mining.subscribe","params":["\xff"]}\n', True, 1007),
])
def test_what_cannot_be_read(site, web, message, text, code):
    proxy, miner = web()
    one = miner().log_in()
    one.socket.send(message, text=text)
    assert one.closed()[0] == code
    site.wait_logged("cut: WebSocket: ")
    site.wait(lambda: not proxy.sessions)


def test_a_message_may_be_as_long_as_a_line(web):
    _, miner = web()
    one = miner().log_in()
    one.socket.send(request(1, "mining.ping", "x").rstrip("\n").ljust(MAX_MESSAGE))
    assert "error" in one.answer(1)


def test_the_time_to_subscribe_is_over(web, impatient):
    _, miner = web(proxy={"first_byte_ms": 100})
    code, reason = miner(ping_interval=None).closed()
    assert code == 1008 and reason


def test_the_dismissed_may_come_back_at_once(site, web):
    pool = site.pool()
    proxy, miner = web(pool)
    one, other = miner().log_in(), miner()
    Control(proxy).kick(session=1)
    assert one.closed()[0] == 1013
    other.log_in()
    pool.set_extranonce()
    code, reason = other.closed()
    assert code == 1013 and "extranonce1" in reason
    assert miner().log_in().mine()


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
def test_a_client_that_closes_is_answered(site, web, code):
    proxy, miner = web()
    one = miner().log_in()
    one.socket.close(code, "enough")
    assert one.socket.protocol.close_rcvd.code == code
    site.wait(lambda: not proxy.sessions)
    assert site.logged("the miner closed the connection")


def test_shares_before_a_close_count(site, web):
    proxy, miner = web()
    one = miner().log_in()
    one.socket.send(one.share(1) + one.share(2))
    one.socket.close()
    site.wait(lambda: not proxy.sessions and site.booked(proxy, "rig").accepted == 2)


# Who is let in, and where

def test_pages_are_let_in_by_their_origin(site, web):
    proxy, miner = web(listeners=[{"protocol": "websocket", "origins": [FARM, "http://10.0.0.7:8080"]},
                                  {"protocol": "websocket", "origins": ["*"]}, {"protocol": "websocket"}])
    for listener, origin in ((0, FARM), (0, "http://10.0.0.7:8080"), (0, None), (1, "https://anything"), (2, None)):
        assert miner(listener=listener, origin=origin).log_in().mine()
    for listener, origin in ((0, "https://evil.example"), (0, "http://10.0.0.7"), (2, FARM)):
        with pytest.raises(InvalidStatus) as refused:
            miner(listener=listener, origin=origin)
        assert refused.value.response.status_code == 403
        assert f"Pages of {origin} are not let in".encode() in refused.value.response.body
    site.wait(lambda: proxy.metrics.turned_away["WebSocket handshake"] == 3)
    assert site.logged("Pages of https://evil.example are not let in: it is not among the origins")


def test_the_subprotocol_is_stratum(web):
    _, miner = web()
    assert miner(subprotocols=["mqtt", "stratum"]).socket.subprotocol == "stratum"
    assert miner(subprotocols=["mqtt"]).socket.subprotocol is None
    assert miner().socket.subprotocol is None


def test_over_tls(site, web, tmp_path):
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    proxy, miner = web(listeners=[{"name": "wss", "protocol": "websocket", "tls": {
        "enabled": True, "cert_file": str(tmp_path / "cert.pem"), "key_file": str(tmp_path / "key.pem")}}])
    with pytest.raises(ssl.SSLCertVerificationError):
        miner(scheme="wss")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    one = miner(scheme="wss", ssl=context).log_in()
    assert one.mine()
    line = one.share(2)
    one.socket.send([line[:10], line[10:]])
    assert one.answer("share 2")["result"] is True
    assert one.socket.ping().wait(PATIENCE)
    assert proxy.snapshot()["listeners"][0]["scheme"] == "wss"
    proxy.stop()
    assert one.closed() == (1001, "the proxy stops")
    assert site.logged("it does not trust the certificate")


def test_several_listeners_share_a_pool_and_no_work(site, web):
    pool = site.pool(difficulty=1e-6)
    proxy, miner = web(pool, listeners=[
        {"name": "browsers", "protocol": "websocket", "profile": {"start_diff": 1e-7, "min_diff": 1e-8}},
        {"name": "rigs", "profile": {"start_diff": 5e-7}},
        {"name": "more browsers", "protocol": "websocket"}])
    browser, plain, third = miner().log_in("u.web"), site.miner(proxy, "u.rig", listener=1), miner(listener=2).log_in()
    assert (browser.difficulty, plain.difficulty) == (1e-7, 5e-7)
    assert [one["listener"] for one in proxy.session_snapshots()] == ["browsers", "rigs", "more browsers"]
    assert [(one["name"], one["scheme"], one["sessions"]) for one in proxy.snapshot()["listeners"]] == [
        ("browsers", "ws", 1), ("rigs", "stratum+tcp", 1), ("more browsers", "ws", 1)]
    nonces = {browser.extranonce1, plain.extranonce1, third.extranonce1}
    assert len(nonces) == 3 and len({one[:4] for one in nonces}) == 1 == len(pool.connections)
    assert plain.submit(plain.find_share()) is True
    pool.new_job()
    browser.wait_job()
    plain.wait_job()
    assert browser.job.notify.job_id == plain.job.notify.job_id


def test_simulated_miners_and_the_library_are_told_the_same(site, web):
    proxy, miner = web()
    ours = site.miner(proxy, via=Via(websocket=True, origin=FARM))
    theirs = miner(origin=FARM).log_in()
    assert ours.submit(ours.find_share()) is True and theirs.mine()
    assert all(message.endswith(b"\n") and message.count(b"\n") == 1 for message in ours.layer.messages)
    assert ours.job.notify.job_id == theirs.job.notify.job_id


# ---------------------------------------------------------------- a page that mines, in a real browser

class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture
def served():
    """The folder of the page, on a server of static files; its origin."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=PAGE))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(PATIENCE)


@pytest.fixture
def browser(site, served):  # which ends after the browser
    browser = Browser(site)
    try:
        yield browser
    finally:
        browser.close()


@pytest.fixture
def page(site, served, browser):
    """Opens the page and starts it at a proxy in front of a pool."""
    def start(pool, origins=(served,), difficulty=POOL_DIFFICULTY, threads=1):
        proxy = site.proxy(pool, vardiff={"min_diff": 1e-7}, listeners=[
            {"name": "browsers", "protocol": "websocket", "origins": list(origins)}])
        browser.driver.get(f"{served}/")
        fill(browser, url=f"ws://127.0.0.1:{proxy.listener.port}", user="user.browser", difficulty=difficulty,
             threads=threads)
        browser.click("button")
        return proxy
    return start


def fill(browser, **values):
    for name, value in values.items():
        browser.script("document.forms[0].elements[arguments[0]].value = arguments[1]", name, str(value))


def shown(browser, name):
    return browser.text(f"[data-field={name}]")


@needs_browser
def test_a_page_mines(site, served, browser, page):
    pool = site.pool(difficulty=POOL_DIFFICULTY)
    proxy = page(pool, threads=2)
    browser.wait(lambda: int(shown(browser, "accepted")) >= 3, "three accepted shares")
    assert (shown(browser, "state"), shown(browser, "rejected"), browser.text("#news")) == ("mining", "0", "")
    browser.wait(lambda: shown(browser, "hashrate").endswith(" MH/s"), "the hashrate")
    session, = proxy.session_snapshots()
    assert (session["worker"], session["listener"]) == ("browser", "browsers")
    browser.click("button")
    site.wait(lambda: not proxy.sessions)
    assert shown(browser, "state") == "stopped"
    assert list(pool.books.users) == ["wallet.browser"]
    assert pool.books.users["wallet.browser"].accepted >= 3 and pool.books.total.refusals == 0
    site.wait(lambda: site.booked(proxy, "browser").accepted == pool.books.total.accepted)  # some were on their way
    assert browser.complaints() == []
    assert browser.hosts() == {served.removeprefix("http://"), f"127.0.0.1:{proxy.listener.port}"}


@needs_browser
def test_a_page_follows_jobs_and_extranonces_and_comes_back(site, browser, page):
    pool = site.pool(difficulty=POOL_DIFFICULTY)
    proxy = page(pool)
    browser.wait(lambda: int(shown(browser, "accepted")) >= 1, "a share")

    def earns(what):
        """Shares of the job that the pool gives now, for the extranonce1 that it gives now."""
        job, (connected,) = pool.jobs.current.notify.job_id, pool.connections
        pool.wait(lambda: any(share.accepted and share.job_id == job
                              and share.extranonce1 == connected.session.extranonce1 for share in pool.shares),
                  PATIENCE)
        browser.wait(lambda: shown(browser, "job") == job, what)

    pool.new_job(clean=True)
    earns("a clean job")
    pool.new_job(clean=False)
    earns("another job")
    before = shown(browser, "extranonce1")
    pool.set_extranonce()
    earns("another extranonce1")
    browser.wait(lambda: shown(browser, "extranonce1") != before, "another extranonce1")
    before = shown(browser, "extranonce1")
    pool.forget()  # cuts the connection, and gives another extranonce1 to the next one
    site.wait(lambda: len(pool.connections) == 1 and pool.connections[0].gets_jobs)
    earns("the pool's next connection")
    browser.wait(lambda: shown(browser, "extranonce1") != before, "that one's extranonce1")
    assert list(proxy.sessions) == [1], "all over one WebSocket"
    stale = ("Job not found", "the pool gave other work after a lost connection",  # while the news are on their way
             "connection to the pool lost before it answered")
    assert [line for line in browser.texts("#news li") if not line.endswith(stale)] == []
    Control(proxy).kick(session=1)
    browser.wait(lambda: "The connection was closed: 1013" in browser.text("#news"), "the words of the close")
    site.wait(lambda: list(proxy.sessions) == [2], PATIENCE, "the miner again")
    earns("its return")


@needs_browser
def test_a_page_from_elsewhere_is_refused_and_says_so(site, served, browser, page):
    proxy = page(site.pool(), origins=[FARM])
    browser.wait(lambda: f"{served} is not among the origins" in browser.text("#news"), "the words of the page")
    assert shown(browser, "state") in ("waiting", "connecting") and not proxy.sessions
    site.wait_logged(f"Pages of {served} are not let in: it is not among the origins")
    assert proxy.metrics.turned_away["WebSocket handshake"] >= 1


@needs_browser
def test_a_page_takes_what_it_is_given(site, browser, page):
    """Messages of all sorts, an address that is none."""
    pool = site.pool()
    proxy = page(pool)
    browser.wait(lambda: shown(browser, "state") == "mining", "a job")
    pool.show_message("<b>sold out</b>")
    browser.wait(lambda: "The proxy says: <b>sold out</b>" in browser.text("#news"), "the message, as text")
    pool.send_to_all(b'{"id":null,"method":"client.show_message","params":["caf\xc3\xa9"]}\n')
    browser.wait(lambda: "caf\xe9" in browser.text("#news"), "a message that is no ASCII")
    assert list(proxy.sessions) == [1]
    browser.click("button")
    fill(browser, url="ftp://proxy")
    browser.click("button")
    browser.wait(lambda: shown(browser, "state") == "stopped" and "ftp" in browser.text("#news"), "a wrong URL")


@needs_browser
def test_the_pages_arithmetic(served, browser):
    browser.driver.get(f"{served}/")
    texts = ["x" * size for size in range(200)]
    hashes = browser.driver.execute_async_script("""
        const [texts, done] = arguments;
        const hex = (bytes) => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
        import("./sha256.js").then(({ sha256 }) =>
            done(texts.map((text) => hex(sha256(new TextEncoder().encode(text))))));""", texts)
    assert hashes == [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    difficulties = [1e-12, 1e-9, EASY, POOL_DIFFICULTY, 0.001, 0.5, 1, 3, 1024, 1e6 / 7, 1e12]
    targets = browser.driver.execute_async_script("""
        const [difficulties, done] = arguments;
        import("./miner.js").then(({ targetOf }) => done(difficulties.map((one) => [...targetOf(one)])));""",
        difficulties)
    for difficulty, words in zip(difficulties, targets, strict=True):
        target = int.from_bytes(struct.pack("!8I", *words), "big")
        right = dif.target_of(difficulty, SHA256D.diff1)
        assert target <= right and target >= right * (1 - 1e-7), difficulty


def test_the_pages_instructions_are_a_configuration():
    block, = re.findall(r"```yaml\n(.*?)```", (PAGE / "README.md").read_text(), re.DOTALL)
    assert "websocket" in [one["protocol"] for one in yaml.safe_load(block)["listeners"] if "protocol" in one]
    loads(block + "\nupstream: {host: pool.example.org, user: wallet}\n", {})
