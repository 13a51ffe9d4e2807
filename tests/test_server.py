"""The HTTP server against clients that send too much, too slowly, or nonsense, and those that do not read."""

import logging
import select
from contextlib import ExitStack, suppress
from time import monotonic

import gevent
import pytest
from flask import Flask, request
from gevent import socket
from gevent.event import Event
from hypothesis import given, settings
from hypothesis import strategies as st

from karoo.net.httphead import MAX_BODY
from karoo.net.listener import listening_socket
from karoo.web import server as web_server
from karoo.web.server import WebServer


@pytest.fixture(scope="module")
def app():
    app = Flask("test")
    app.add_url_rule("/healthz", "healthz", lambda: "ok\n")
    app.add_url_rule("/echo", "echo", lambda: request.get_data(as_text=False), methods=["POST"])
    app.add_url_rule("/big", "big", lambda: b"x" * 20_000_000)
    app.add_url_rule("/asked", "asked", lambda: request.full_path)
    return app


@pytest.fixture
def start(app, caplog):
    """Starts servers; whatever is logged as a warning or worse fails the test."""
    servers = []

    def begin(app=app):
        servers.append(WebServer(listening_socket("127.0.0.1", 0), app))
        servers[-1].start()
        return servers[-1]
    with caplog.at_level(logging.WARNING):
        yield begin
        for server in servers:
            server.stop()
        assert [record.getMessage() for record in caplog.records] == []


class Client:
    def __init__(self, server, *data):
        self.sock = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        for piece in data:
            self.sock.sendall(piece)

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.sock.close()

    def all(self):
        """Everything up to the end of the connection, however it ends."""
        data = b""
        with suppress(ConnectionResetError):
            while more := self.sock.recv(65536):
                data += more
        return data

    def answer(self):
        """The status and the body of one answer with a Content-Length."""
        data = b""
        while b"\r\n\r\n" not in data:
            more = self.sock.recv(1)
            if not more:
                raise EOFError(data)
            data += more
        length = int(data.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = b""
        while len(body) < length:
            body += self.sock.recv(length - len(body))
        return int(data.split()[1]), body


def said(server, *data):
    with Client(server, *data) as client:
        return client.all()


def status(server, *data):
    answer = said(server, *data)
    assert answer.startswith(b"HTTP/1.1 ") and answer.count(b"HTTP/1.1 ") == 1, answer[:200]
    return int(answer.split()[1])


def get(path="/healthz", *headers, method="GET", host="Host: x", version="HTTP/1.1", end="Connection: close"):
    lines = [f"{method} {path} {version}", host, end, *headers]
    return "\r\n".join(line for line in lines if line).encode("latin-1") + b"\r\n\r\n"


# Heads

def test_plain_requests(start):
    server = start()
    assert status(server, get()) == 200
    assert status(server, get(version="HTTP/1.0", host="")) == 200
    assert status(server, get(method="HEAD")) == 200
    assert status(server, get("/nothing")) == 404
    assert status(server, get(method="DELETE")) == 405
    assert said(server, get("/asked?a=%FF&b")).endswith(b"/asked?a=%FF&b")


@pytest.mark.parametrize(("expected", "head"), [
    (414, get("/" + "x" * 8200)),
    (200, get("/asked?" + "x" * 8000)),
    (431, get("/healthz", "X: " + "x" * 17000)),
    (431, get("/healthz", *["X: x"] * 70)),
    (431, get("/healthz", *["X: x"] * 120)),
    (431, get("/healthz", *["X:"] * 5000)),
    (400, get(host="")),
    (400, get("/healthz", "Host: y")),
    (400, get("/healthz", "no header")),
    (400, get("/healthz", "Name : x")),
    (400, get("/healthz", " folded: x")),
    (400, get("/healthz", "X: a\0b")),
    (400, get(version="HTTP/0.9")),
    (400, get(version="HTTP/2.0")),
    (400, get(version="HTTP/1")),
    (400, get(version="HTTP/x.y")),
    (400, get(version="")),
    (400, get(method="get")),
    (400, get(method="GET\x1b[31m")),
    (400, get("/\xff")),
    (400, get("/a b")),
    (400, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"),
    (400, b"\r\n\r\n"),
    (400, b"GET\r\n\r\n"),
])
def test_each_head_has_its_status(start, expected, head):
    assert status(start(), head) == expected


def test_a_head_without_end_is_refused_before_it_is_all_there(start):
    with Client(start(), b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ", b"x" * 20000) as client:
        assert client.all().startswith(b"HTTP/1.1 431 ")


# Bodies

@pytest.mark.parametrize(("expected", "headers", "body"), [
    (200, ["Content-Length: 5"], b"hello"),
    (200, [f"Content-Length: {MAX_BODY}"], b"x" * MAX_BODY),
    (200, [], b""),
    (200, ["Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n"),
    (200, ["Transfer-Encoding: Chunked"], b"5;x=y\r\nhello\r\n0\r\nTrailer: x\r\n\r\n"),
    (413, [f"Content-Length: {MAX_BODY + 1}"], b""),
    (413, ["Content-Length: 999999999999999999"], b""),
    (400, ["Content-Length: 9999999999999999999"], b""),
    (413, ["Transfer-Encoding: chunked"], b"10000\r\n" + b"x" * 0x10000 + b"\r\n1\r\nx\r\n0\r\n\r\n"),
    (413, ["Transfer-Encoding: chunked"], b"ffffffffff\r\n" + b"x" * 100_000),
    (413, ["Transfer-Encoding: chunked"], (b"1;" + b"y" * 5000 + b"\r\nx\r\n") * 20),
    (400, ["Transfer-Encoding: chunked"], b"0\r\n" + b"X" * 9000),
    (400, ["Transfer-Encoding: chunked"], b"xyz\r\n"),
    (400, ["Transfer-Encoding: chunked"], b"-1\r\n"),
    (400, ["Transfer-Encoding: chunked"], b"11111111111111111\r\n"),
    (400, ["Transfer-Encoding: chunked"], b"1\r\nxy\r\n0\r\n\r\n"),
    (501, ["Transfer-Encoding: gzip, chunked"], b""),
    (501, ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], b""),
    (501, ["Transfer-Encoding: identity"], b""),
    (400, ["Transfer-Encoding: chunked", "Content-Length: 5"], b"0\r\n\r\n"),
    (400, ["Content-Length: 5", "Content-Length: 6"], b"hello"),
    (400, ["Content-Length: 5, 5"], b"hello"),
    (400, ["Content-Length: +5"], b"hello"),
    (400, ["Content-Length: 0x5"], b"hello"),
    (400, ["Content-Length: 1_0"], b"hello"),
    (400, ["Content-Length: -1"], b"hello"),
    (400, ["Content-Length:"], b""),
])
def test_each_body_has_its_status(start, expected, headers, body):
    server = start()
    assert status(server, get("/echo", *headers, method="POST"), body) == expected
    assert status(server, get()) == 200


def test_a_body_comes_back_and_the_next_request_is_found_behind_it(start):
    with Client(start()) as client:
        client.sock.sendall(get("/echo", "Content-Length: 5", method="POST", end="") + b"hello"
                            + get("/echo", "Transfer-Encoding: chunked", method="POST", end="")
                            + b"2\r\nwo\r\n3\r\nrld\r\n0\r\n\r\n" + get("/nothing", "Content-Length: 3", end="")
                            + b"abc" + get())
        assert [client.answer() for _ in range(2)] == [(200, b"hello"), (200, b"world")]
        assert client.answer()[0] == 404
        assert client.answer() == (200, b"ok\n")
        assert client.all() == b""


def test_a_client_that_asks_first_is_told_to_go_on_or_not(start):
    server = start()
    with Client(server, get("/echo", "Content-Length: 2", "Expect: 100-continue", method="POST")) as client:
        assert client.sock.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sock.sendall(b"hi")
        assert client.answer() == (200, b"hi")
    assert status(server, get("/echo", "Content-Length: 99999999", "Expect: 100-continue", method="POST")) == 413


def test_whoever_is_refused_may_send_the_rest_and_reads_why(start):
    with Client(start(), get("/echo", "Content-Length: 900000", method="POST")) as client:
        select.select([client.sock], [], [], 5)  # the answer is there
        for _ in range(9):
            client.sock.sendall(b"x" * 100_000)
            gevent.sleep(0.001)
        assert client.answer() == (413, b"")


# Time

@pytest.mark.parametrize(("head", "expected"), [
    (b"", b""), (b"GET /hea", b"HTTP/1.1 408 "), (get()[:-2], b"HTTP/1.1 408 "),
    (get("/echo", "Content-Length: 5", method="POST") + b"he", b"HTTP/1.1 408 "),
    (get("/echo", "Transfer-Encoding: chunked", method="POST") + b"5\r\nhe", b"HTTP/1.1 408 "),
])
def test_whoever_does_not_go_on_is_let_go(start, monkeypatch, head, expected):
    monkeypatch.setattr(web_server, "REQUEST_SECONDS", 0.1)
    began = monotonic()
    assert said(start(), head).startswith(expected)
    assert 0.1 <= monotonic() - began < 3


@pytest.mark.parametrize("head", [b"GET /", b"GET / HTTP/1.1\r\nX: ",
                                  get("/echo", "Content-Length: 5000", method="POST")])
def test_one_byte_now_and_then_does_not_put_off_the_end(start, monkeypatch, head):
    monkeypatch.setattr(web_server, "REQUEST_SECONDS", 0.3)
    with Client(start(), head) as client:
        client.sock.settimeout(0.05)
        began, answer = monotonic(), None
        while answer is None and monotonic() - began < 5:
            client.sock.sendall(b"x")
            with suppress(TimeoutError):
                answer = client.sock.recv(1000)
        assert answer.startswith(b"HTTP/1.1 408 ") and monotonic() - began < 3


def test_a_connection_is_kept_for_a_while(start, monkeypatch):
    monkeypatch.setattr(web_server, "KEEP_ALIVE_SECONDS", 0.2)
    with Client(start()) as client:
        for _ in range(3):
            client.sock.sendall(get(end=""))
            assert client.answer() == (200, b"ok\n")
        began = monotonic()
        assert client.all() == b"" and 0.1 < monotonic() - began < 3


def test_a_client_that_does_not_read_its_answer_is_let_go(start, monkeypatch):
    monkeypatch.setattr(web_server, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(web_server, "MAX_CONNECTIONS", 1)
    server = start()
    with Client(server, get("/big")):
        began = monotonic()
        assert status(server, get()) == 200  # there is but one place
        assert 0.1 < monotonic() - began < 3


# Places

def test_connections_that_wait_make_room_for_new_ones(start, monkeypatch):
    monkeypatch.setattr(web_server, "MAX_CONNECTIONS", 4)
    server = start()
    with ExitStack() as stack:
        kept = stack.enter_context(Client(server, get(end="")))
        assert kept.answer() == (200, b"ok\n")
        for _ in range(10):
            stack.enter_context(Client(server, b"GET / HT"))
        assert status(server, get()) == 200
        assert kept.all() == b""


def test_a_thousand_requests_at_once_let_others_have_their_turn(start):
    server = start()
    with Client(server) as many:
        sender = gevent.spawn(many.sock.sendall, get(end="") * 1000 + get())
        began = monotonic()
        assert status(server, get()) == 200
        waited = monotonic() - began
        assert many.all().count(b"HTTP/1.1 200") == 1001
        assert waited < (monotonic() - began) / 4
        sender.join()


def test_stopping_does_not_wait_for_those_who_only_keep_a_connection(start):
    server = start()
    with Client(server, get(end="")) as client:
        assert client.answer() == (200, b"ok\n")
        began = monotonic()
        server.stop()
        assert monotonic() - began < 0.5
        assert client.all() == b""


def test_stopping_ends_an_answer_that_takes_too_long(start):
    app, asked = Flask("test"), Event()

    @app.get("/")
    def slow():
        asked.set()
        gevent.sleep(60)

    server = start(app)
    with Client(server, get("/")) as client:
        asked.wait(5)
        server.stop()
        assert b"200" not in client.all()


# Anything

PIECES = [
    b"GET ", b"POST ", b"/healthz", b"/echo", b" HTTP/1.1", b"\r\n", b"\n", b"\r\n\r\n", b"Host: x\r\n", b"5", b": ",
    b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"Connection: upgrade\r\n", b"Upgrade: websocket\r\n",
    b"Expect: 100-continue\r\n", b"Authorization: Basic ", b"\xff", b" ", b"0\r\n\r\n", b"http://[/", b"%", b"*",
    b"//x", b",", b"\0",
]


@settings(max_examples=150)
@given(data=st.binary(max_size=300) | st.lists(st.sampled_from(PIECES), max_size=20).map(b"".join))
def test_whatever_comes_is_answered_or_not_and_never_a_bug(anything, data):
    with Client(anything, data) as client:
        client.sock.shutdown(socket.SHUT_WR)
        answer = client.all()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
        assert b" 500 " not in answer
    assert status(anything, get()) == 200


@pytest.fixture(scope="module")
def anything(app):
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append
    logging.getLogger().addHandler(handler)
    server = WebServer(listening_socket("127.0.0.1", 0), app)
    server.start()
    yield server
    server.stop()
    logging.getLogger().removeHandler(handler)
    assert [record.getMessage() for record in records] == []
