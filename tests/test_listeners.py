"""The ways in: several listeners, each with its own TLS, addresses and difficulties; junk there; new certificates."""

import hashlib
import os
import shutil
import ssl
import struct
import subprocess
import time
from datetime import datetime, timedelta, timezone

import gevent
import pytest
import trustme
from gevent import socket
from gevent.event import Event

from karoo import cert, config
from karoo.net.tls import ClientFiles, ServerFiles, Tls, TlsError, client_context, server_context
from karoo.proxy import entrance, waysin
from karoo.reload import NoReload, Reloader
from karoo.sim.via import Via
from karoo.stratum import messages

PATIENCE = 10.0
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None and not os.environ.get("CI"),
                                   reason="openssl is missing: .ci/debian openssl openssl")


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def files(authority, tmp_path):
    """A folder with ca.pem, cert.pem and key.pem; the certificate is for localhost and 127.0.0.1."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issue(authority, tmp_path)
    return tmp_path


def issue(authority, folder, *names, **more):
    """Another certificate in the place of the one that is there."""
    made = authority.issue_cert(*(names or ("localhost", "127.0.0.1", "::1")), **more)
    made.private_key_pem.write_to_path(folder / "key.pem")
    with open(folder / "cert.pem", "wb") as file:
        file.write(b"".join(part.bytes() for part in made.cert_chain_pems))
    return cert.fingerprint((folder / "cert.pem").read_bytes())


def tls(folder, **more):
    return {"enabled": True, "cert_file": str(folder / "cert.pem"), "key_file": str(folder / "key.pem"), **more}


def over_tls(folder, **more):
    return Via(tls=True, files=ClientFiles(ca_file=str(folder / "ca.pem")), **more)


def shakes_hands(port, *words):
    """Whether `openssl s_client` gets through its handshake."""
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *words], input=b"",
                          capture_output=True, timeout=PATIENCE, check=False)
    return done.returncode == 0


def turned_away(proxy, kind):
    return proxy.metrics.turned_away[kind]


# ---------------------------------------------------------------- several at once

def test_one_port_for_small_miners_and_one_for_racks(site, files):
    pool = site.pool(difficulty=1.0)
    proxy = site.proxy(pool, vardiff={"start_diff": 0.5, "max_diff": 1000}, listeners=[
        {"name": "small", "profile": {"start_diff": 0.0001, "min_diff": 0.00001, "max_diff": 0.001}},
        {"name": "racks", "tls": tls(files)}])
    small, rack = site.miner(proxy, "u.esp"), site.miner(proxy, "u.rack", listener=1, via=over_tls(files))
    assert (small.difficulty, rack.difficulty) == (0.0001, 0.5)
    small.suggest_difficulty(0.1)
    small.wait(lambda: small.difficulty == 0.001, what="the profile's highest difficulty")
    assert small.extranonce1 != rack.extranonce1 and small.extranonce1[:4] == rack.extranonce1[:4]
    state = proxy.snapshot()["listeners"]
    assert [(one["name"], one["scheme"], one["sessions"]) for one in state] == [
        ("small", "stratum+tcp", 1), ("racks", "stratum+ssl", 1)]
    assert [session["listener"] for session in proxy.session_snapshots()] == ["small", "racks"]
    small.close()
    site.wait(lambda: proxy.snapshot()["listeners"][0]["sessions"] == 0)


def test_without_listeners_the_section_proxy_has_its_own_tls(site, files):
    proxy = site.proxy(site.pool(), proxy={"tls": tls(files)})
    miner = site.miner(proxy, via=over_tls(files))
    assert miner.submit(miner.find_share()) is True
    assert proxy.view.summary()["stratum"]["addresses"] == [f"stratum+ssl://127.0.0.1:{proxy.listener.port}"]


def test_the_page_names_the_listeners_that_miners_reach(site, files):
    proxy = site.proxy(site.pool(), listeners=[
        {"name": "small"}, {"name": "web", "protocol": "websocket", "tls": tls(files)},
        {"name": "balanced", "proxy_protocol": ["10.0.0.1"]}])
    small, web, _ = (listener.port for listener in proxy.listeners)
    assert proxy.view.summary()["stratum"]["listeners"] == [
        {"name": "small", "addresses": [f"stratum+tcp://127.0.0.1:{small}"]},
        {"name": "web", "addresses": [f"wss://127.0.0.1:{web}"]}]


def test_the_speed_of_a_listeners_miners_is_aimed_at_its_own_target(site):
    pool = site.pool()
    proxy = site.proxy(pool, listeners=[{"profile": {"target_seconds": 3}}, {}])
    targets = [one.house.difficulty.target for one in proxy.entrances]
    assert targets == [3, 15]


def test_a_listener_has_room_for_so_many_and_says_so(site):
    proxy = site.proxy(site.pool(), listeners=[{"name": "few", "profile": {"max_clients": 1}}, {}])
    first = site.miner(proxy)
    second = site.connect(proxy)
    second.wait_closed()
    assert b"The proxy is full" in second.lines[0]
    assert turned_away(proxy, "max_clients") == 1
    assert site.miner(proxy, listener=1) and not first.closed
    first.close()
    site.wait(lambda: len(proxy.sessions) == 1)
    site.miner(proxy)


def test_a_listeners_limits_are_those_of_its_miners(site):
    proxy = site.proxy(site.pool(), ratelimit={"enabled": True, "max_submits_per_second": 50}, listeners=[
        {"profile": {"max_submits_per_second": 7, "max_misbehaviour": 20}}, {}])
    strict, usual = (one.house.rules for one in proxy.entrances)
    assert (strict.max_submits_per_second, usual.max_submits_per_second) == (7, 50)
    assert (strict.threshold, usual.threshold) == (20, 200)
    junk = [site.miner(proxy, f"u.{n}", listener=n) for n in range(2)]
    for miner in junk:
        for _ in range(25):
            miner.send('{"id": 5, "method": "mining.submit", "params": {}}')
        miner.send_bytes(b'{"id":9,"method":"mining.ping","params":[]}\n')
    junk[0].wait_closed()
    junk[1].wait(lambda: any(b'"id":9' in line for line in junk[1].lines))
    assert not junk[1].closed


def test_nothing_listens_where_one_address_cannot_be_had(site):
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    with pytest.raises(Exception, match=r"cannot listen on 127\.0\.0\.1:"):
        site.proxy(site.pool(), listeners=[{"address": f"127.0.0.1:{free}"},
                                           {"address": f"127.0.0.1:{taken.getsockname()[1]}"}])
    with socket.socket() as again:
        again.bind(("127.0.0.1", free))
    taken.close()


# ---------------------------------------------------------------- IPv6

def test_ipv6_and_a_socket_for_both(site):
    proxy = site.proxy(site.pool(), listeners=[{"address": "[::1]:0"}, {"address": "[::]:0"},
                                               {"address": "[::]:0", "dual_stack": False}])
    for listener, host, shown in ((0, "::1", "[::1]:"), (1, "::1", "[::1]:"), (1, "127.0.0.1", "127.0.0.1:"),
                                  (2, "::1", "[::1]:")):
        miner = site.miner(proxy, listener=listener, host=host)
        assert miner.submit(miner.find_share()) is True
        assert [one["ip"] for one in proxy.session_snapshots()][-1].startswith(shown)
    with pytest.raises(ConnectionRefusedError):
        site.connect(proxy, listener=2, host="127.0.0.1")


def test_limits_see_an_ipv4_miner_of_a_socket_for_both_as_what_it_is(site):
    proxy = site.proxy(site.pool(), ratelimit={"deny": ["127.0.0.0/8"]}, listeners=[{"address": "[::]:0"}])
    site.connect(proxy).wait_closed()
    assert turned_away(proxy, "denied") == 1 and site.logged("127.0.0.1 is denied")
    site.miner(proxy, host="::1")


# ---------------------------------------------------------------- TLS, by openssl

@needs_openssl
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_real_client_checks_the_certificate_and_speaks_stratum(site, files, version):
    proxy = site.proxy(site.pool(), listeners=[{"tls": tls(files)}])
    process = subprocess.Popen(["openssl", "s_client", "-connect", f"127.0.0.1:{proxy.listener.port}", version,
                                "-quiet", "-CAfile", files / "ca.pem", "-verify_return_error",
                                "-verify_hostname", "localhost"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        process.stdin.write(b'{"id":1,"method":"mining.subscribe","params":[]}\n')
        process.stdin.flush()
        with gevent.Timeout(PATIENCE):
            answer = process.stdout.readline()
        assert answer.startswith(b'{"id":1,"result":[[')
        session, = proxy.sessions.values()
        session.end("made up for the test")
        assert process.wait(PATIENCE) == 0, "closed in order, with a close_notify"
    finally:
        process.kill()
        process.communicate()


@needs_openssl
def test_versions_below_the_oldest_are_refused_and_counted(site, files):
    proxy = site.proxy(site.pool(), listeners=[{"tls": tls(files, min_version="1.3")}, {"tls": tls(files)}])
    ports = [listener.port for listener in proxy.listeners]
    assert not shakes_hands(ports[0], "-tls1_2") and shakes_hands(ports[0], "-tls1_3")
    assert shakes_hands(ports[1], "-tls1_2") and not shakes_hands(ports[1], "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    site.wait(lambda: turned_away(proxy, "TLS handshake") == 2)
    assert len(site.logged("it speaks no version or cipher of TLS that is spoken here")) == 2


@needs_openssl
def test_client_certificates(site, files, authority, tmp_path_factory):
    ours = tmp_path_factory.mktemp("ours")
    issue(authority, ours, "rig1@farm.example")
    foreign = tmp_path_factory.mktemp("foreign")
    issue(trustme.CA(), foreign, "rig1@farm.example")
    proxy = site.proxy(site.pool(), listeners=[{"tls": tls(files, client_ca_file=str(files / "ca.pem"))}])

    def answer(*words):
        """What comes of a subscribe: with TLS 1.3 a client learns only afterwards that it is refused."""
        said = b'{"id":1,"method":"mining.subscribe","params":[]}\n'
        process = subprocess.Popen(["openssl", "s_client", "-connect", f"127.0.0.1:{proxy.listener.port}", "-quiet",
                                    *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL)
        try:
            process.stdin.write(said)
            process.stdin.flush()
            with gevent.Timeout(PATIENCE):
                return process.stdout.readline()
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()

    assert answer("-cert", ours / "cert.pem", "-key", ours / "key.pem").startswith(b'{"id":1,"result"')
    assert answer() == b""
    site.wait_logged("it shows no certificate, and tls.client_ca_file asks for one")
    assert answer("-cert", foreign / "cert.pem", "-key", foreign / "key.pem") == b""
    site.wait_logged("its certificate is refused: ")
    assert turned_away(proxy, "TLS handshake") == 2


def test_a_miner_that_does_not_trust_the_certificate_is_named(site, files):
    proxy = site.proxy(site.pool(), listeners=[{"tls": tls(files)}])
    trustme.CA().cert_pem.write_to_path(files / "other.pem")
    with pytest.raises(ssl.SSLCertVerificationError):
        site.connect(proxy, via=Via(tls=True, files=ClientFiles(ca_file=str(files / "other.pem"))))
    site.wait_logged("it does not trust the certificate that it is shown")
    with pytest.raises(ssl.SSLCertVerificationError):
        site.connect(proxy, via=over_tls(files, server_name="pool.example.org"))
    assert site.connect(proxy, via=over_tls(files))


# ---------------------------------------------------------------- junk

JUNK = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b'{"id":1,"method":"mining.subscribe","params":[]}\n', b"\0" * 100,
        b"\x16\x03\x01\x40\x01" + b"x" * 5000, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        b"\x15\x03\x03\0\x02\x02\x28", os.urandom(500)]


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
@pytest.mark.parametrize("protocol", ["stratum", "websocket"])
def test_junk_costs_a_counted_line_and_no_traceback(site, files, junk, protocol):
    proxy = site.proxy(site.pool(), listeners=[{"tls": tls(files), "protocol": protocol}])
    honest = site.miner(proxy, via=over_tls(files, websocket=protocol == "websocket"))
    with socket.create_connection(("127.0.0.1", proxy.listener.port), PATIENCE) as sock:
        sock.sendall(junk)
        sock.shutdown(socket.SHUT_WR)
        site.wait(lambda: sum(proxy.metrics.turned_away.values()) == 1)
    lines = [one for one in site.records if one.name == "karoo.entrance"]
    assert len(lines) <= 1 and not any(one.exc_info for one in site.records)
    assert set(proxy.metrics.turned_away) <= {"TLS handshake", "left before its first line"}
    assert honest.submit(honest.find_share()) is True
    site.wait(lambda: proxy.snapshot()["tables"]["on_their_way_in"] == 0)


def test_a_handshake_has_a_deadline(site, files):
    proxy = site.proxy(site.pool(), proxy={"handshake_ms": 100}, listeners=[
        {"tls": tls(files)}, {"protocol": "websocket"}, {"proxy_protocol": ["127.0.0.1"]}])
    for listener, step in enumerate(("TLS handshake", "WebSocket handshake", "PROXY header")):
        with socket.create_connection(("127.0.0.1", proxy.listeners[listener].port), PATIENCE) as sock:
            assert sock.recv(1) == b""
        assert turned_away(proxy, step) == 1
        assert site.logged(f"{step}: not done within 0.1 s")
    assert proxy.door.tables()["addresses"] <= 1


def test_what_follows_the_handshake_counts_from_its_end(site, files):
    """The deadline of the handshake is not that of the session."""
    proxy = site.proxy(site.pool(), proxy={"handshake_ms": 300}, listeners=[{"tls": tls(files)}])
    miner = site.connect(proxy, via=over_tls(files))
    began = time.monotonic()
    site.wait(lambda: time.monotonic() - began > 0.5)
    assert not miner.closed and len(proxy.sessions) == 1


def test_of_a_crowd_in_its_handshakes_the_oldest_make_room(site, files, monkeypatch):
    monkeypatch.setattr(entrance, "MAX_ENTERING", 5)
    monkeypatch.setattr(entrance, "PATIENCE", 0.2)
    proxy = site.proxy(site.pool(), listeners=[{"tls": tls(files)}])
    stuck = [socket.create_connection(("127.0.0.1", proxy.listener.port), PATIENCE) for _ in range(5)]
    site.wait(lambda: proxy.entrances[0].on_their_way == 5)
    late = socket.create_connection(("127.0.0.1", proxy.listener.port), PATIENCE)
    assert late.recv(1) == b"", "they are all new: the newcomer has to go"
    oldest = min(visit.began for visit in proxy.entrances[0]._entering)
    site.wait(lambda: time.monotonic() - oldest > 0.25)
    site.miner(proxy, via=over_tls(files))
    assert stuck[0].recv(1) == b""
    assert proxy.entrances[0].on_their_way == 4
    assert turned_away(proxy, "too many on their way in") == 2
    for sock in (*stuck, late):
        sock.close()
    site.wait(lambda: proxy.entrances[0].on_their_way == 0)
    assert turned_away(proxy, "left before its first line") == 4


def test_those_on_their_way_count_for_the_limits_of_their_address(site, files):
    proxy = site.proxy(site.pool(), ratelimit={"enabled": True, "max_connections_per_ip": 2}, listeners=[
        {"tls": tls(files)}])
    stuck = [socket.create_connection(("127.0.0.1", proxy.listener.port), PATIENCE) for _ in range(2)]
    site.wait(lambda: proxy.entrances[0].on_their_way == 2)
    with socket.create_connection(("127.0.0.1", proxy.listener.port), PATIENCE) as third:
        assert third.recv(1) == b""
    assert turned_away(proxy, "too many connections") == 1
    for sock in stuck:
        sock.close()
    site.wait(lambda: proxy.entrances[0].on_their_way == 0)
    site.miner(proxy, via=over_tls(files))


def test_the_end_of_the_proxy_is_that_of_those_on_their_way(site, files):
    proxy = site.proxy(site.pool(), listeners=[{"tls": tls(files)}])
    with socket.create_connection(("127.0.0.1", proxy.listener.port), PATIENCE) as stuck:
        site.wait(lambda: proxy.entrances[0].on_their_way == 1)
        proxy.stop()
        assert stuck.recv(1) == b""
    site.wait(lambda: proxy.entrances[0].on_their_way == 0)


def test_a_bug_on_the_way_in_costs_one_connection(site, files, monkeypatch):
    proxy = site.proxy(site.pool(), listeners=[{"tls": tls(files)}])

    def fail(*_):
        raise RuntimeError("made up for the test")
    with monkeypatch.context() as patch:
        patch.setattr(entrance, "Tls", fail)
        with socket.create_connection(("127.0.0.1", proxy.listener.port), PATIENCE) as sock:
            sock.sendall(b"\x16")
            assert sock.recv(1) == b""
    assert proxy.metrics.exceptions == 1 and proxy.door._gate._live == {}
    proxy.metrics.exceptions = 0  # it was ours
    site.miner(proxy, via=over_tls(files))


def test_what_is_meant_for_another_port_is_called_so(site):
    proxy = site.proxy(site.pool(), proxy={"subscribe_ms": 300})
    for data, words in ((b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", "a PROXY header that is not taken"),
                        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\1\2\3\n", "a PROXY header that is not taken"),
                        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"x" * 200, "it speaks TLS, and this port")):
        with socket.create_connection(("127.0.0.1", proxy.listener.port), PATIENCE) as sock:
            sock.sendall(data)
            while sock.recv(4096):
                pass
        site.wait_logged(words)
    assert proxy.metrics.turned_away == {}


# ---------------------------------------------------------------- certificates that change

def shown(proxy, listener=0):
    """The fingerprint of what a listener shows now."""
    with socket.create_connection(("127.0.0.1", proxy.listeners[listener].port), PATIENCE) as sock:
        layer = Tls(client_context(ClientFiles(verify=False)), "localhost", server_side=False)
        layer.shake_hands(sock)
        return hashlib.sha256(layer.certificate).hexdigest()


def started(site, pool, files, file):
    file.write_text(f"""
upstream: {{host: 127.0.0.1, port: {pool.port}, user: wallet}}
listeners: [{{address: "127.0.0.1:0", tls: {{enabled: true, cert_file: cert.pem, key_file: key.pem}}}}]
accounting: {{database: ""}}
""")
    proxy = site.proxy(pool, listeners=[{"tls": tls(files)}])
    proxy.settings = config.load(file)
    return proxy


def test_another_certificate_is_shown_from_a_reload_on_and_no_miner_is_dropped(site, files, authority):
    proxy = started(site, site.pool(), files, files / "karoo.yaml")
    reload = Reloader(proxy, str(files / "karoo.yaml"))
    miner = site.miner(proxy, via=over_tls(files))
    before = shown(proxy)
    second = issue(authority, files)
    assert shown(proxy) == before != second
    reload("me")
    assert shown(proxy) == second
    assert miner.submit(miner.find_share()) is True and miner.closed is False
    site.miner(proxy, "u.new", via=over_tls(files))


def test_a_certificate_that_cannot_be_used_changes_nothing(site, files):
    proxy = started(site, site.pool(), files, files / "karoo.yaml")
    reload = Reloader(proxy, str(files / "karoo.yaml"))
    before = shown(proxy)
    (files / "cert.pem").write_text("no certificate")
    with pytest.raises(NoReload, match=r"cert\.pem"):
        reload("me")
    assert shown(proxy) == before
    assert site.logged("a certificate cannot be used")


def test_a_certificate_that_runs_out_soon_is_warned_of(site, files, authority):
    issue(authority, files, not_after=datetime.now(timezone.utc) + timedelta(days=5, hours=1))
    proxy = site.proxy(site.pool(), listeners=[{"tls": tls(files)}])
    assert site.logged(f"the certificate in {files / 'cert.pem'} runs out in 5 d")
    expires = proxy.snapshot()["listeners"][0]["certificate_expires_unix"]
    assert abs(expires - time.time() - 5 * 86400 - 3600) < 60
    issue(authority, files, not_before=datetime.now(timezone.utc) - timedelta(days=5),
          not_after=datetime.now(timezone.utc) - timedelta(days=1))
    waysin.securities(proxy.settings)
    assert site.logged("has run out: renew it")


# ---------------------------------------------------------------- files that are no certificates

@pytest.mark.parametrize(("change", "words"), [
    (lambda folder: (folder / "cert.pem").unlink(), r"cert\.pem: No such file"),
    (lambda folder: (folder / "key.pem").unlink(), r"key\.pem: No such file"),
    (lambda folder: (folder / "cert.pem").write_text("x"), r"cert\.pem: there is no certificate in PEM in it"),
    (lambda folder: issue(trustme.CA(), folder.parent / "other"), None),
    (lambda folder: shutil.copy(folder / "other.pem", folder / "key.pem"), r"key\.pem is not the key of the"),
    (lambda folder: (folder / "ca.pem").write_text("x"), r"ca\.pem: no certificates of authorities"),
])
def test_what_is_wrong_with_the_files_is_said(files, authority, change, words):
    other = files.parent / "other"
    other.mkdir(exist_ok=True)
    issue(authority, other)
    shutil.copy(other / "key.pem", files / "other.pem")
    change(files)
    wanted = ServerFiles(str(files / "cert.pem"), str(files / "key.pem"), str(files / "ca.pem"))
    if words is None:
        assert server_context(wanted)
        return
    with pytest.raises(TlsError, match=words):
        server_context(wanted)


@needs_openssl
def test_an_encrypted_key_is_refused_and_asks_nobody(files):
    subprocess.run(["openssl", "pkey", "-in", files / "key.pem", "-aes256", "-passout", "pass:secret", "-out",
                    files / "locked.pem"], check=True)
    with pytest.raises(TlsError, match=r"locked\.pem: the key is encrypted.*openssl pkey -in"):
        server_context(ServerFiles(str(files / "cert.pem"), str(files / "locked.pem")))


# ---------------------------------------------------------------- many at once

def test_a_farm_that_comes_back_over_tls_keeps_nobody_waiting(site, files):
    """Handshakes take turns with everything else: shares are answered while two hundred are under way."""
    pool = site.pool(difficulty=1e-9)
    proxy = site.proxy(pool, vardiff={"start_diff": 1e-9, "min_diff": 1e-9}, listeners=[{}, {"tls": tls(files)}])
    honest, over, answers = site.miner(proxy), Event(), 0
    farm = [gevent.spawn(site.miner, proxy, f"u.{n}", listener=1, via=over_tls(files), timeout=30) for n in range(200)]
    gevent.spawn(lambda: (gevent.joinall(farm), over.set()))
    while not over.is_set():
        assert honest.submit(honest.find_share(), timeout=5) is True
        answers += 1
    assert all(one.successful() for one in farm)
    assert answers > 20 and len(proxy.sessions) == 201


# ---------------------------------------------------------------- crowds, and how the room is counted

def test_room_is_counted_over_all_listeners_and_all_steps(site, files):
    proxy = site.proxy(site.pool(), proxy={"max_clients": 4}, listeners=[
        {"name": "a", "tls": tls(files), "profile": {"max_clients": 2}}, {"name": "b", "protocol": "websocket"}])
    stuck = [socket.create_connection(("127.0.0.1", proxy.listeners[n].port), PATIENCE) for n in (0, 0, 1, 1)]
    site.wait(lambda: proxy.on_their_way == 4)
    for number in (0, 1):
        with socket.create_connection(("127.0.0.1", proxy.listeners[number].port), PATIENCE) as late:
            assert late.recv(1) == b""
    assert turned_away(proxy, "max_clients") == 2
    stuck.pop().close()
    site.wait(lambda: proxy.on_their_way == 3)
    with socket.create_connection(("127.0.0.1", proxy.listeners[0].port), PATIENCE) as late:
        assert late.recv(1) == b"", "the listener has its two, though there is room for one more"
    assert site.miner(proxy, listener=1, via=Via(websocket=True))
    for sock in stuck:
        sock.close()


def test_of_a_crowd_the_address_that_has_most_makes_room_at_once(site, files, monkeypatch):
    monkeypatch.setattr(entrance, "MAX_ENTERING", 5)
    proxy = site.proxy(site.pool(), listeners=[{"tls": tls(files)}])
    place = ("127.0.0.1", proxy.listener.port)
    stuck = [socket.create_connection(place, PATIENCE, source_address=("127.0.0.9", 0)) for _ in range(4)]
    other = socket.create_connection(place, PATIENCE, source_address=("127.0.0.8", 0))
    site.wait(lambda: proxy.entrances[0].on_their_way == 5)
    site.miner(proxy, via=over_tls(files))
    assert stuck[0].recv(1) == b"" and turned_away(proxy, "too many on their way in") == 1
    for sock in (*stuck, other):
        sock.close()
    site.wait(lambda: proxy.entrances[0].on_their_way == 0)
    assert not proxy.entrances[0]._hosts


def test_slow_handshakes_do_not_keep_others_waiting(site, files):
    """A turn for each byte that drips in would leave none to the rest."""
    proxy = site.proxy(site.pool(), listeners=[{"tls": tls(files)}])
    hello = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\0" * 200
    dripping, over = [], Event()
    place = ("127.0.0.1", proxy.listener.port)

    def drip():
        while not over.wait(0.01):
            for sock, sent in dripping:
                sock.send(hello[sent[0]:sent[0] + 1])
                sent[0] += 1
    for number in range(150):
        dripping.append((socket.create_connection(place, PATIENCE, source_address=(f"127.0.1.{number % 9}", 0)), [0]))
    dripper = gevent.spawn(drip)
    began = time.monotonic()
    site.miner(proxy, via=over_tls(files))
    took = time.monotonic() - began
    over.set()
    dripper.get(timeout=PATIENCE)
    for sock, _ in dripping:
        sock.close()
    assert took < 2, f"{took:.1f} s"


# ---------------------------------------------------------------- what ends together with what was said

def subscribe_over(files, proxy, what):
    """The bytes of a TLS client's last flight of the handshake, with a login and a farewell right behind it."""
    sock = socket.create_connection(("127.0.0.1", proxy.listener.port), PATIENCE)
    context = client_context(ClientFiles(ca_file=str(files / "ca.pem")))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            if outgoing.pending:
                sock.sendall(outgoing.read())
            incoming.write(sock.recv(16384))
    client.write(what)
    with pytest.raises(ssl.SSLWantReadError):
        client.unwrap()
    sock.sendall(outgoing.read())
    return sock


def test_a_session_ends_that_took_its_leave_with_the_handshakes_last_bytes(site, files):
    proxy = site.proxy(site.pool(), listeners=[{"tls": tls(files)}])
    site.miner(proxy, via=over_tls(files))  # so that nobody waits for the pool
    sock = subscribe_over(files, proxy, b'{"id":1,"method":"mining.subscribe","params":[]}\n'
                                        b'{"id":2,"method":"mining.authorize","params":["u.gone","x"]}\n')
    site.wait_logged("authorized as gone")
    site.wait(lambda: len(proxy.sessions) == 1, what="the end of the session")
    while sock.recv(4096):
        pass
    sock.close()


def shares_of(miner, count):
    """So many submits, as lines."""
    found = []
    for number in range(count):
        share = miner.find_share()
        found.append(messages.request(100 + number, "mining.submit", share.params(miner.user)))
    return found


WAYS = {"ws": {"websocket": True}, "wss": {"websocket": True, "tls": True}}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ["ping", "close"])
def test_shares_count_whose_sender_is_gone_before_it_could_be_answered(site, files, way, what):
    """What the layer has to say to it must not stand in the way of what it said."""
    proxy = site.proxy(site.pool(), vardiff={"start_diff": 1e-8, "min_diff": 1e-8}, listeners=[
        {"protocol": "websocket", "tls": tls(files) if way == "wss" else {}}])
    via = Via(websocket=True, tls=way == "wss", files=ClientFiles(ca_file=str(files / "ca.pem")))
    miner = site.miner(proxy, via=via)
    lines = b"".join(miner.layer.encode(line) for line in shares_of(miner, 5))
    odd = client_frame(0x89 if what == "ping" else 0x88, b"x" if what == "ping" else b"\x03\xe8")
    if way == "wss":
        odd = miner.layer._outer.encode(odd)
    sock = miner._connection._sock
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.sendall(lines + odd if what == "close" or way == "wss" else odd + lines)
    miner._connection.close()
    site.wait(lambda: not proxy.sessions)
    assert site.booked(proxy).accepted == 5


@pytest.mark.parametrize("way", WAYS)
def test_shares_before_a_close_are_answered_before_it(site, files, way):
    proxy = site.proxy(site.pool(), vardiff={"start_diff": 1e-8, "min_diff": 1e-8}, listeners=[
        {"protocol": "websocket", "tls": tls(files) if way == "wss" else {}}])
    via = Via(websocket=True, tls=way == "wss", files=ClientFiles(ca_file=str(files / "ca.pem")))
    miner = site.miner(proxy, via=via)
    lines = b"".join(shares_of(miner, 5))
    inner = miner.layer._inner if way == "wss" else miner.layer
    said = inner.encode(lines) + client_frame(0x88, b"\x0b\xb8")
    miner._connection._sock.sendall(miner.layer._outer.encode(said) if way == "wss" else said)
    miner.wait_closed()
    answers = [one.id for one in miner.messages if isinstance(one, messages.Response) and (one.id or 0) >= 100]
    assert answers == [100, 101, 102, 103, 104]
    assert inner.close_code == 3000


def client_frame(first, payload):
    return bytes([first, 0x80 | len(payload), 0, 0, 0, 0]) + payload
