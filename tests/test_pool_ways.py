"""The ways to a pool, through the whole proxy: TLS that is checked or pinned, a URL, a SOCKS5 server."""

import json
import os
import shutil
import ssl
import subprocess

import pytest
import trustme
from gevent import socket

from karoo import cert, config
from karoo.doctor.examine import examine_pools
from tests.programs import configuration

needs_microsocks = pytest.mark.skipif(shutil.which("microsocks") is None and not os.environ.get("CI"),
                                      reason="microsocks is missing: .ci/debian microsocks microsocks")


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def context_of(authority, *names, client_ca=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made = authority.issue_cert(*names)
    made.configure_cert(context)
    if client_ca is not None:
        client_ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context, cert.fingerprint(made.cert_chain_pems[0].bytes())


@pytest.fixture
def ca_file(authority, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return str(tmp_path / "ca.pem")


def works(site, proxy):
    """A share goes the whole way."""
    miner = site.miner(proxy)
    paid = miner.find_share(difficulty=site.pools[0].difficulty)
    assert miner.submit(paid) is True
    assert site.pools[0].books.accepted == 1


def test_a_pool_is_checked_against_a_file_of_authorities_and_by_name(site, authority, ca_file):
    context, _ = context_of(authority, "pool.example.org")
    pool = site.pool(tls=context)
    works(site, site.proxy(pool, upstream={"tls": True, "ca_file": ca_file, "server_name": "pool.example.org"}))


def test_a_pool_is_pinned_by_its_fingerprint_alone(site, authority):
    context, fingerprint = context_of(authority, "whatever.example.org")
    pool = site.pool(tls=context)
    colons = ":".join(fingerprint[n:n + 2] for n in range(0, 64, 2)).upper()
    works(site, site.proxy(pool, upstream={"tls": True, "fingerprint": colons}))


def test_a_pool_that_changed_its_certificate_is_not_mined_for(site, authority):
    context, fingerprint = context_of(authority, "whatever.example.org")
    pool = site.pool(tls=context)
    proxy = site.proxy(pool, upstream={"tls": True, "fingerprint": "ab" * 32, "hold_ms": 100})
    miner = site.connect(proxy)
    miner.request_async("mining.subscribe", [])
    site.wait_logged("certificate refused: its fingerprint is another one")
    assert site.logged(f"set fingerprint: {fingerprint}")
    assert not pool.lines, "the pool was told nothing"


@pytest.mark.parametrize(("names", "options", "words"), [
    (["pool.example.org"], {}, "certificate refused: of an unknown authority"),
    (["pool.example.org"], {"ca_file": True}, "certificate refused: for another name"),
    (["127.0.0.1"], {"ca_file": True}, None),
    (["other.example.org"], {"ca_file": True, "server_name": "pool.example.org"}, "certificate refused: for another"),
    (["pool.example.org"], {"insecure_skip_verify": True}, None),
])
def test_a_bad_certificate_is_refused_unless_told_otherwise(site, authority, ca_file, names, options, words):
    context, _ = context_of(authority, *names)
    pool = site.pool(tls=context)
    options = {name: ca_file if name == "ca_file" else value for name, value in options.items()}
    proxy = site.proxy(pool, upstream={"tls": True, "hold_ms": 100, **options})
    if words is None:
        works(site, proxy)
        return
    site.connect(proxy).request_async("mining.subscribe", [])
    site.wait_logged(words)
    assert not pool.lines
    assert any(words in reason for reason in proxy.metrics.upstream_losses)


def test_a_pool_that_asks_who_this_is(site, authority, ca_file, tmp_path):
    context, _ = context_of(authority, "127.0.0.1", client_ca=authority)
    pool = site.pool(tls=context)
    ours = authority.issue_cert("farm@example.org")
    ours.private_key_and_cert_chain_pem.write_to_path(tmp_path / "ours.pem")
    proxy = site.proxy(pool, upstream={"tls": True, "ca_file": ca_file, "cert_file": str(tmp_path / "ours.pem")})
    works(site, proxy)
    nobody = site.proxy(pool, upstream={"tls": True, "ca_file": ca_file, "hold_ms": 100})
    site.connect(nobody).request_async("mining.subscribe", [])
    site.wait_logged("cert_file")


def test_a_url_in_the_place_of_host_port_and_tls(site, authority, ca_file):
    context, _ = context_of(authority, "127.0.0.1")
    pool = site.pool(tls=context)
    settings = config.from_dict({"upstream": {"url": f"stratum+ssl://127.0.0.1:{pool.port}", "user": "w",
                                              "ca_file": ca_file}})
    report = examine_pools("x", settings)
    assert report.exit_code() == 0 and report.sections[0].title == f"127.0.0.1:{pool.port} as w over TLS"
    plain = site.pool()
    settings = config.from_dict({"upstream": {"url": f"stratum+tcp://127.0.0.1:{plain.port}", "user": "w"}})
    assert examine_pools("x", settings).exit_code() == 0


def test_a_plain_pool_that_is_taken_for_one_with_tls(site):
    proxy = site.proxy(site.pool(), upstream={"tls": True, "hold_ms": 100})
    site.connect(proxy).request_async("mining.subscribe", [])
    site.wait_logged("set tls: false")


def test_files_that_are_missing_are_named_by_check(karoo, site, tmp_path):
    pool = site.pool()
    path = configuration(tmp_path, upstream={"host": "127.0.0.1", "port": pool.port, "user": "w", "tls": True,
                                             "ca_file": "nowhere.pem"})
    program = karoo("check", "-c", path)
    assert program.end() == 78
    assert f"{tmp_path}/nowhere.pem: No such file or directory" in program.text
    values = json.loads(path.read_text())
    values["upstream"] = {"host": "127.0.0.1", "port": pool.port, "user": "w"}
    values["proxy"]["tls"] = {"enabled": True, "cert_file": "c.pem", "key_file": "k.pem"}
    path.write_text(json.dumps(values))
    for command in ("check", "run"):
        program = karoo(command, "-c", path)
        assert program.end() == 78
        assert f"{tmp_path}/c.pem: No such file or directory" in program.text


def test_a_certificate_that_is_not_checked_is_warned_of_at_each_start(karoo, tmp_path):
    program = karoo("run", "-c", configuration(tmp_path, upstream={
        "host": "127.0.0.1", "port": 1, "user": "w", "tls": True, "insecure_skip_verify": True}))
    program.wait_for("insecure_skip_verify: any certificate is taken for 127.0.0.1:1's")


# ---------------------------------------------------------------- SOCKS5

@pytest.fixture
def microsocks():
    """Starts a SOCKS5 server with some words; its port."""
    running = []

    def start(*words):
        for _ in range(5):  # the port is free now, and may be taken by others until it is bound
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            process = subprocess.Popen(["microsocks", "-i", "127.0.0.1", "-p", str(port), *words],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            running.append(process)
            while process.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port), 5).close()
                    return port
                except ConnectionRefusedError:
                    continue
        raise AssertionError("microsocks does not start")
    yield start
    for process in running:
        process.kill()
        process.wait()


@needs_microsocks
def test_shares_go_through_a_socks_server_and_tls_through_it(site, authority, ca_file, microsocks):
    context, _ = context_of(authority, "localhost")
    pool = site.pool(tls=context)
    port = microsocks("-u", "farm", "-P", "secret")
    socks = {"enabled": True, "host": "127.0.0.1", "port": port, "username": "farm", "password": "secret"}
    works(site, site.proxy(pool, upstream={"host": "localhost", "tls": True, "ca_file": ca_file, "socks_proxy": socks}))
    assert [one["socks"] for one in site.proxies[0].view.pools()] == [True]


@needs_microsocks
def test_a_socks_server_that_refuses_the_password(site, microsocks):
    port = microsocks("-u", "farm", "-P", "secret")
    socks = {"enabled": True, "host": "127.0.0.1", "port": port, "username": "farm", "password": "wrong-one"}
    proxy = site.proxy(site.pool(), upstream={"socks_proxy": socks, "hold_ms": 100})
    site.connect(proxy).request_async("mining.subscribe", [])
    site.wait_logged("SOCKS5")
    assert not site.logged("wrong-one"), "no password in the log"
