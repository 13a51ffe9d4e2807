"""Who may ask the HTTP server for what: tokens, proxies in front of it, origins, headers."""

import base64
import logging

import pytest
from flask import Flask, jsonify, redirect, request
from hypothesis import given
from hypothesis import strategies as st

from karoo import config
from karoo.web import access
from karoo.web.access import FAILURES, FORGIVEN_SECONDS, MAX_ADDRESSES, exposure, install

READ, COMMAND = "read-read-read-read", "command-command-command"
UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket"}


def http(**options):
    return config.from_dict({"upstream": {"host": "p", "user": "u"}, "http": options}).http


def client(**options):
    """A client of an application under these options of the section http."""
    app = Flask("test", static_folder=None)
    install(app, http(**options))
    app.config["PROPAGATE_EXCEPTIONS"] = False
    for path in ("/healthz", "/readyz", "/status", "/static/<path:name>"):
        app.add_url_rule(path, path, lambda **names: "shown")
    app.add_url_rule("/who", "who", lambda: jsonify([request.remote_addr, request.url, request.host]))
    app.add_url_rule("/away", "away", lambda: redirect("status"))
    app.add_url_rule("/bug", "bug", lambda: 1 / 0)
    app.add_url_rule("/api/v1/commands/kick", "kick", lambda: "kicked", methods=["POST"])
    app.add_url_rule("/live", "live", lambda: "live", websocket=True)
    return app.test_client()


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def basic(password, user="anybody"):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


# Reading

def test_without_a_read_token_everybody_may_read():
    asker = client(token=COMMAND)
    assert asker.get("/status").status_code == 200
    assert asker.get("/live", headers=UPGRADE).status_code == 200


@pytest.mark.parametrize("path", ["/status", "/static/app.js", "/nothing", "/bug", "/api/v1/commands/kick"])
def test_with_a_read_token_nothing_is_told_without_it(path):
    asker = client(read_token=READ, token=COMMAND)
    for headers in ({}, bearer("x" * 19), basic("x" * 19), basic("", READ), bearer(COMMAND), {"Authorization": READ},
                    {"Authorization": "Basic !!!"}, {"Authorization": "Basic"}, {"Authorization": "Bearer"},
                    {"Authorization": f"Digest {READ}"}, bearer(READ + "\u00e9")):
        answer = asker.get(path, headers=headers, environ_overrides={"REMOTE_ADDR": str(headers)})
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="Karoo"'
        assert answer.json["error"]["code"] == "unauthorized"
    assert asker.open(path, method="HEAD").status_code == asker.open(path, method="OPTIONS").status_code == 401


@pytest.mark.parametrize("headers", [bearer(READ), basic(READ), basic(READ, ""), basic(READ, "ü"),
                                     {"Authorization": f"bearer {READ}"}])
def test_the_read_token_opens_in_both_ways(headers):
    asker = client(read_token=READ)
    assert asker.get("/status", headers=headers).status_code == 200
    assert asker.get("/nothing", headers=headers).status_code == 404
    assert asker.get("/live", headers=headers | UPGRADE).status_code == 200


def test_who_watches_the_process_needs_no_token():
    asker = client(read_token=READ)
    assert asker.get("/healthz").status_code == asker.get("/readyz").status_code == 200
    assert asker.get("/healthz/").status_code == asker.get("//healthz").status_code == 401


# Commands

@pytest.mark.parametrize("headers", [{}, bearer(COMMAND), bearer(""), bearer(READ)])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_without_a_token_there_are_no_commands(method, headers):
    for asker in (client(), client(read_token=READ)):
        answer = asker.open("/api/v1/commands/kick", method=method, headers=headers)
        assert (answer.status_code, answer.json["error"]["code"]) == (404, "not_found")


def test_a_command_needs_its_own_token_as_a_bearer():
    asker = client(token=COMMAND, read_token=READ)
    for headers in ({}, bearer(READ), basic(COMMAND), basic(READ), bearer(COMMAND[:-1])):
        answer = asker.post("/api/v1/commands/kick", headers=headers)
        assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == 'Bearer realm="Karoo"'
    assert asker.post("/api/v1/commands/kick", headers=bearer(COMMAND)).data == b"kicked"


def test_other_methods_are_told_to_readers_only():
    assert client(token=COMMAND).post("/status").status_code == 405
    assert client(read_token=READ).post("/status").status_code == 401
    assert client(read_token=READ).post("/status", headers=bearer(READ)).status_code == 405


# Guessing

def test_whoever_guesses_has_to_wait_and_nobody_else(caplog, monkeypatch):
    now = [1000.0]
    failures = access._Failures
    monkeypatch.setattr(access, "_Failures", lambda: failures(lambda: now[0]))
    asker = client(read_token=READ)

    def ask(token, address="192.0.2.1"):
        return asker.get("/status", headers=bearer(token), environ_overrides={"REMOTE_ADDR": address}).status_code

    with caplog.at_level(logging.WARNING, "karoo.web"):
        assert [ask("wrong-wrong-wrong-wrong") for _ in range(FAILURES + 5)] == [401] * FAILURES + [429] * 5
    assert len(caplog.records) == FAILURES
    assert "192.0.2.1 came with a wrong token" in caplog.text and "wrong-wrong" not in caplog.text
    assert ask(READ) == 429, "else guessing would go on"
    assert ask(READ, "192.0.2.2") == 200
    assert asker.get("/status").status_code == 401, "a browser that has not asked for a password yet"
    now[0] += FORGIVEN_SECONDS
    assert ask(READ) == 200
    assert [ask("wrong-wrong-wrong-wrong"), ask("wrong-wrong-wrong-wrong")] == [401, 429]


def test_addresses_of_one_network_of_ipv6_count_as_one_and_the_table_is_bounded():
    failures = access._Failures(lambda: 0.0)
    for number in range(FAILURES):
        failures.add(f"2001:db8:1:2::{number}")
    assert failures.too_many("2001:db8:1:2:ffff::") and not failures.too_many("2001:db8:1:3::")
    for number in range(MAX_ADDRESSES * 2):
        failures.add(f"10.0.{number // 256}.{number % 256}")
    assert len(failures._forgiven_at) == MAX_ADDRESSES and not failures.too_many("2001:db8:1:2::")


@given(st.text())
def test_any_secret_can_be_compared(text):
    assert access._equal(text, READ) == (text == READ)


# Proxies

PROXIED = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "karoo.example.org",
           "X-Forwarded-Prefix": "/mine/karoo"}


def who(headers, peer="127.0.0.1", trusted=("127.0.0.1", "10.0.0.0/8", "2001:db8::/32")):
    return client(trusted_proxies=list(trusted)).get("/who", headers=headers,
                                                     environ_overrides={"REMOTE_ADDR": peer}).json


def test_a_trusted_proxy_tells_who_asks_and_for_what():
    for peer in ("127.0.0.1", "::ffff:127.0.0.1", "10.9.8.7"):
        assert who(PROXIED, peer) == ["203.0.113.7", "https://karoo.example.org/mine/karoo/who", "karoo.example.org"]


@pytest.mark.parametrize("peer", ["192.0.2.1", "127.0.0.2", "::1", "", "nonsense"])
def test_what_others_say_of_themselves_does_not_count(peer):
    assert who(PROXIED, peer) == [peer, "http://localhost/who", "localhost"]
    assert who(PROXIED, "127.0.0.1", ())[0] == "127.0.0.1"
    asker = client()
    asker.application.add_url_rule("/heard", "heard", lambda: jsonify([name for name, _ in request.headers]))
    assert not [name for name in asker.get("/heard", headers=PROXIED).json if name.startswith("X-")]


@pytest.mark.parametrize(("chain", "address"), [
    ("203.0.113.7", "203.0.113.7"),
    ("6.6.6.6, 203.0.113.7", "203.0.113.7"),
    ("6.6.6.6, 203.0.113.7, 10.0.0.1, 10.0.0.2", "203.0.113.7"),
    ("6.6.6.6,203.0.113.7:4711", "203.0.113.7"),
    ("[2001:db9::7]:4711", "2001:db9::7"),
    ("2001:db9::7, 2001:db8::1", "2001:db9::7"),
    ("10.0.0.1, 10.0.0.2", "10.0.0.1"),
    ("6.6.6.6, unknown, 10.0.0.2", "10.0.0.2"),
    ("6.6.6.6, ", "127.0.0.1"),
    ("unknown", "127.0.0.1"),
    ("<script>", "127.0.0.1"),
])
def test_the_client_is_the_last_address_that_is_no_proxy(chain, address):
    assert who({"X-Forwarded-For": chain})[0] == address


@pytest.mark.parametrize("prefix", ["karoo", "//evil.example.org", "/a/../b", "/..", "/.", "/a//b", "/a?b", "/a#b",
                                    "/a b", "/%2e%2e", "/<x>", "http://x/", "/" + "/a" * 30])
def test_a_prefix_that_is_no_plain_path_is_ignored(prefix):
    assert who({"X-Forwarded-Prefix": prefix})[1] == "http://localhost/who"


def test_the_nearest_proxys_words_count():
    assert who({"X-Forwarded-Proto": "http, https", "X-Forwarded-Host": "evil.example, good.example:8443",
                "X-Forwarded-Prefix": "/evil, /good/"})[1] == "https://good.example:8443/good/who"
    assert who({"X-Forwarded-Proto": "javascript", "X-Forwarded-Host": "a/b"})[1] == "http://localhost/who"


def test_failures_are_counted_for_the_client_behind_the_proxy():
    asker = client(read_token=READ, trusted_proxies=["127.0.0.1"])
    guess = {"X-Forwarded-For": "203.0.113.7", **bearer("wrong-wrong-wrong-wrong")}
    assert [asker.get("/status", headers=guess).status_code for _ in range(FAILURES + 1)][-1] == 429
    assert asker.get("/status", headers={"X-Forwarded-For": "203.0.113.8", **bearer(READ)}).status_code == 200


# Browsers

@pytest.mark.parametrize("path", ["/", "/status", "/away", "/nothing", "/bug", "/api/v1/commands/kick"])
def test_every_answer_is_hardened(path):
    for asker in (client(), client(read_token=READ)):
        headers = asker.get(path).headers
        assert headers["Content-Security-Policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' "
            "ws://localhost wss://localhost; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
        assert {name: headers[name] for name in access._HEADERS} == access._HEADERS
        assert len(access._HEADERS) == 6


def test_a_host_that_is_none_gets_into_no_header():
    policy = client().get("/status", headers={"Host": "x; script-src *"}).headers["Content-Security-Policy"]
    assert "connect-src 'self';" in policy and "*" not in policy


@pytest.mark.parametrize(("host", "origin", "status"), [
    ("karoo.local:8080", None, 200),
    ("karoo.local:8080", "http://karoo.local:8080", 200),
    ("karoo.local", "https://karoo.local", 200),
    ("Karoo.local", "https://kAROO.LOCAL", 200),
    ("[::1]:8080", "http://[::1]:8080", 200),
    ("karoo.local:8080", "http://karoo.local", 403),
    ("karoo.local:8080", "http://evil.example", 403),
    ("karoo.local:8080", "http://evil.example/karoo.local:8080", 403),
    ("karoo.local:8080", "http://karoo.local:8080@evil.example", 403),
    ("karoo.local:8080", "null", 403),
    ("karoo.local:8080", "", 403),
    ("karoo.local:8080", "http://[", 403),
])
def test_a_page_from_elsewhere_may_open_no_websocket(host, origin, status):
    headers = {**UPGRADE, "Host": host} | ({} if origin is None else {"Origin": origin})
    assert client().get("/live", headers=headers).status_code == status
    proxied = {**UPGRADE, "Host": "inside", "X-Forwarded-Host": host} | ({} if origin is None else {"Origin": origin})
    assert client(trusted_proxies=["127.0.0.1"]).get("/live", headers=proxied).status_code == status


# The warning

@pytest.mark.parametrize(("options", "warns"), [
    ({}, False), ({"listen": "localhost:80"}, False), ({"listen": "[::1]:80"}, False),
    ({"listen": "127.8.8.8:80"}, False), ({"listen": ":8080"}, True), ({"listen": "192.168.1.5:80"}, True),
    ({"listen": "[::]:80"}, True), ({"listen": "miner.local:80"}, True), ({"listen": ":8080", "token": COMMAND}, True),
    ({"listen": ":8080", "read_token": READ}, False),
])
def test_a_status_page_open_to_the_network_is_warned_of(options, warns):
    settings = http(**options)
    sentence = exposure(settings, config.parse_address(settings.listen).host)
    assert (sentence is not None) == warns
    assert sentence is None or ("http.read_token" in sentence and options["listen"] in sentence)


def test_ipv4_through_a_socket_of_both_kinds_is_one_address_each():
    asker = client(read_token=READ)
    guess = bearer("a-wrong-token-of-sixteen")
    for _ in range(FAILURES):
        asker.get("/status", headers=guess, environ_overrides={"REMOTE_ADDR": "::ffff:127.0.0.2"})
    right = bearer(READ)
    statuses = [asker.get("/status", headers=right, environ_overrides={"REMOTE_ADDR": address}).status_code
                for address in ("::ffff:127.0.0.2", "::ffff:127.0.0.3", "::1")]
    assert statuses == [429, 200, 200]


def test_the_page_s_own_files_are_kept_and_asked_for_anew():
    answer = client().get("/static/app.js")
    assert answer.headers["Cache-Control"] == "no-cache"
    assert client().get("/status").headers["Cache-Control"] == "no-store"


def test_a_page_is_told_at_once_that_its_token_is_wrong():
    asker = client(read_token=READ)
    for headers, scheme in (({"Accept": "text/html,*/*"}, "Basic"), ({"Accept": "application/json"}, "Bearer"),
                            (UPGRADE, "Bearer")):
        assert asker.get("/status", headers=headers).headers["WWW-Authenticate"] == f'{scheme} realm="Karoo"'
