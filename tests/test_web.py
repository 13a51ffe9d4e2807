"""The status page's server, beside miners at work."""

import http.client
import json
import socket
from contextlib import closing, suppress
from time import monotonic

import pytest

from karoo.net.listener import ListenError, listening_socket
from karoo.web import server as web_server


def ask(server, path):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    with closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return f"HTTP/1.1 {answer.status} {answer.reason}\r\n{answer.headers}", answer.read().decode()


def test_status_is_one_json_object_with_every_miner(site, page):
    proxy = site.proxy(site.pool())
    miners = [site.miner(proxy, user=f"a.rig{n}") for n in range(3)]
    assert miners[0].submit(miners[0].find_share()) is True
    head, body = ask(page(proxy), "/status")
    assert head.startswith("HTTP/1.1 200") and "application/json" in head and "nosniff" in head
    status = json.loads(body)
    assert [client["worker"] for client in status["clients"]] == ["rig0", "rig1", "rig2"]
    assert [client["ok"] for client in status["clients"]] == [1, 0, 0]
    assert (status["shares_ok"], status["upstream"], status["ratelimit"]["total_active"]) == (1, True, 3)
    assert status["routes"][0]["sessions"] == 3
    assert [(one["worker"], one["accepted"]) for one in status["workers"]] == [("rig0", 1), ("rig1", 0), ("rig2", 0)]


def test_unknown_pages_are_not_found_and_the_debug_page_only_where_it_is_asked_for(site, page):
    plain, debug = page(site.proxy(site.pool())), page(site.proxy(site.pool(), http={"pprof": True}))
    assert ask(plain, "/nothing")[0].startswith("HTTP/1.1 404")
    assert ask(plain, "/debug/greenlets")[0].startswith("HTTP/1.1 404")
    head, body = ask(debug, "/debug/greenlets")
    assert head.startswith("HTTP/1.1 200") and "greenlets at" in body and "_sweep_for_ever" in body


def test_a_peer_that_says_nothing_is_let_go_without_a_traceback(site, page, monkeypatch):
    monkeypatch.setattr(web_server, "REQUEST_SECONDS", 0.2)
    server = page(site.proxy(site.pool()))
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as silent:
        silent.sendall(b"GET /healthz HT")
        silent.settimeout(5)
        while silent.recv(1000):  # whatever it is told, the end comes before our own timeout
            pass
    assert ask(server, "/healthz")[1] == "ok\n"
    assert not [record for record in site.records if record.levelname == "ERROR"]


def test_a_request_that_comes_byte_by_byte_holds_no_place_for_long(site, page, monkeypatch):
    monkeypatch.setattr(web_server, "REQUEST_SECONDS", 0.3)
    server = page(site.proxy(site.pool()))
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        slow.settimeout(0.05)
        began, answer = monotonic(), None
        while answer is None and monotonic() - began < 5:
            slow.sendall(b"x")
            with suppress(TimeoutError):
                answer = slow.recv(1000)
        assert answer.startswith(b"HTTP/1.1 408") and monotonic() - began < 2
    assert ask(server, "/healthz")[1] == "ok\n"
    assert not site.logged("Traceback")


def test_an_address_in_use_is_a_clear_error():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=f"127.0.0.1:{port}.*in use"):
            listening_socket("127.0.0.1", port)
