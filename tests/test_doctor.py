"""`karoo doctor`: what it finds at pools, on this machine and in files, and that it disturbs nobody."""

import datetime
import json
import os
import pty
import shutil
import signal
import socket as stdlib_socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gevent
import pytest
import trustme
from gevent import socket

from karoo import config
from karoo.accounting.deltas import Deltas
from karoo.accounting.ledger import Ledger
from karoo.doctor import clock, disk, machine, names, poolwords, ports, running, words
from karoo.doctor.examine import Wishes, examine
from karoo.doctor.findings import Report, Section
from karoo.net.addresses import Address
from karoo.sim.work import WorkMaker
from tests.dialpeers import BlackHole, Microsocks, Scripted, needs_microsocks
from tests.programs import ROOT, configuration, get

needs_root = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None,
                                reason="only root can be another user")
DAY = datetime.timedelta(days=1)


@pytest.fixture
def unused():
    """Ports of 127.0.0.1 that are free."""
    def find():
        with stdlib_socket.create_server(("127.0.0.1", 0)) as one:
            return one.getsockname()[1]
    return find


def at(pool, **more):
    return {"host": "127.0.0.1", "port": getattr(pool, "port", pool), "user": "w", "handshake_ms": 2000, **more}


def look(folder, seconds=20.0, offline=False, **sections):
    return examine(str(configuration(folder, **sections)), Wishes(offline, seconds))


def found(report, check, label=None):
    """The findings of that name, each as (level, text, data)."""
    return [(one.level, one.text, one.data) for one in report.findings()
            if one.check == check and label in (None, one.label)]


def only(report, check, label=None):
    (one,) = found(report, check, label)
    return one


def worse(report):
    return {one.check: one.level for one in report.findings() if one.level in ("warning", "failed")}


# ---------------------------------------------------------------- the command

def test_all_is_well(karoo, tmp_path, site):
    pool = site.pool()
    path = configuration(tmp_path, upstream=at(pool), backups=[at(site.pool())])
    program = karoo("doctor", "-c", path)
    assert program.end() == 0, program.text
    for text in ("configuration\n", "is right: 1 listener, 2 pools", f"127.0.0.1:{pool.port} as w\n",
                 "mining.subscribe", " ms  (3 tries: ", "mask 1fffe000", "coinbase of 161 bytes",
                 "room for 4294967296 on a connection",
                 "w.doctor is taken beside w", "miners can work there", "is an address: no DNS is needed",
                 "verdict: all is well\n"):
        assert text in program.text
    assert "\x1b" not in program.text and not program.text.count("FAILED")
    assert pool.books.connects == 3 and not pool.connections


def test_programs_get_json_with_stable_names(karoo, tmp_path, site):
    path = configuration(tmp_path, upstream=at(site.pool(extranonce2_size=3)), backups=[at(1, name="spare")])
    program = karoo("doctor", "--json", "--strict", "-c", path)
    assert program.end() == 3
    said = json.loads(program.text)
    assert said.keys() == {"karoo", "config", "verdict", "exit_code", "counts", "sections"}
    assert (said["verdict"], said["exit_code"], said["config"]) == ("warnings", 3, str(path))
    by_key = {(section["section"], section["subject"]): section for section in said["sections"]}
    assert {"config", "files", "ports", "limits", "disk", "programs", "dns", "clock"} <= {key for key, _ in by_key}
    room = next(one for one in by_key["pool", "upstream"]["findings"] if one["check"] == "pool.room")
    assert room["level"] == "warning" and room["mend"]
    assert room["data"] == {"size": 3, "prefix_bytes": 1, "miner_bytes": 2, "miners_a_connection": 256, "miners": 2048,
                            "max_connections": 8, "max_clients": 10000}
    dead = by_key["pool", "backups[0]"]["findings"][-1]
    assert (dead["check"], dead["level"]) == ("pool.job", "warning") and "Connection refused" in dead["text"]
    assert said["counts"]["failed"] == 0 and dead["mend"]


def test_warnings_count_where_they_are_to(karoo, tmp_path, site):
    path = configuration(tmp_path, upstream=at(site.pool(coinbase_bytes=256)))
    program = karoo("doctor", "-c", path)
    assert program.end() == 0 and "mining works, but see the warnings (1 warning)" in program.text
    assert karoo("doctor", "--strict", "-c", path).end() == 3
    assert karoo("doctor", "--strict", "--offline", "-c", path).end() == 0


def test_a_faulty_configuration_is_told_line_by_line(karoo, tmp_path):
    path = tmp_path / "karoo.yaml"
    path.write_text("upstream:\n  host: a\n  user: w\n  port: 99999\nvardif: {}\n")
    program = karoo("doctor", "-c", path)
    assert program.end() == 78
    assert "line 4: upstream.port" in program.text and "line 5: vardif" in program.text and "FAILED" in program.text
    assert "verdict: the configuration is faulty (2 failed)" in program.text and "Traceback" not in program.text
    program = karoo("doctor", "--json", "-c", tmp_path / "none.yaml")
    assert program.end() == 78 and json.loads(program.text)["verdict"] == "faulty"


def test_colours_are_for_terminals(tmp_path):
    path = configuration(tmp_path, upstream=at(1))

    def said(**environment):
        ours, theirs = pty.openpty()
        process = subprocess.Popen([sys.executable, "-m", "karoo", "doctor", "--offline", "-c", path], cwd=ROOT,
                                   stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
                                   env={**os.environ, "TERM": "xterm", **environment})
        os.close(theirs)
        text = b""
        with gevent.Timeout(20):
            while True:
                gevent.socket.wait_read(ours)
                try:
                    text += os.read(ours, 4096)
                except OSError:  # it is over
                    break
        os.close(ours)
        process.wait()
        return text.decode()
    assert "\x1b[32m  ok       \x1b[0m" in said()
    assert "\x1b" not in said(NO_COLOR="1") and "\x1b" not in said(TERM="dumb")


def test_check_connect_says_the_same_of_pools(karoo, tmp_path, site):
    path = configuration(tmp_path, upstream=at(site.pool(), name="mine"), backups=[at(1)])
    program = karoo("check", "--connect", "-c", path)
    assert program.end() == 0
    assert "the configuration is right" in program.text and "miners can work there" in program.text
    assert "warning  result" in program.text
    assert "Connection refused" in program.text and "ports" not in program.text
    program = karoo("check", "--connect", "-c", configuration(tmp_path, upstream=at(1)))
    assert program.end() == 69 and "FAILED   result" in program.text


def test_text_fits_its_width_and_tells_all():
    report = Report("k.yaml")
    section = report.section("a", "title")
    section.warn("a.b", "label", "word " * 60, "mend " * 60)
    section.fail("a.c", "evil", "line\nsecond \x1b[31m", "m")
    lines = words.text(report, 80).splitlines()
    assert max(map(len, lines)) <= 80 and "\x1b" not in "".join(lines)
    assert sum(line.count("word") for line in lines) == sum(line.count("mend") for line in lines) == 60
    assert "line; second \\x1b[31m" in "".join(lines)
    section.ok("a.d", "l", "t", issuer="CN=\x9b31m\x7f\u202e")
    assert words.as_json(report).replace("\n", "").isprintable()
    assert json.loads(words.as_json(report))["sections"][0]["findings"][2]["data"] == section.findings[2].data
    assert lines[-1] == "verdict: something that mining needs is not to be had (1 failed, 1 warning)"


# ---------------------------------------------------------------- beside a running proxy

def test_a_running_proxy_is_seen_and_left_in_peace(karoo, tmp_path, site, unused):
    pool = site.pool(difficulty=1e-6)
    stratum, page = unused(), unused()
    path = configuration(tmp_path, upstream=at(pool), proxy={"listen": f"127.0.0.1:{stratum}"},
                         http={"listen": f"127.0.0.1:{page}"})
    proxy = karoo("run", "-c", path)
    proxy.wait_for("miners may connect")
    miner = karoo("simulate-miner", f"127.0.0.1:{stratum}", "--user", "a.rig")
    pool.wait(lambda: pool.books.accepted, 20)
    with gevent.Timeout(10, AssertionError("the accounts were not begun")):
        while not (tmp_path / "karoo.db.lock").exists():
            gevent.sleep(0.02)
    program = karoo("doctor", "--json", "-c", path)
    assert program.end() == 0, program.text
    findings = [one for section in json.loads(program.text)["sections"] for one in section["findings"]]
    bound = [one for one in findings if one["check"] == "ports.bind"]
    assert len(bound) == 2 and all(one["level"] == "ok" and one["data"]["running"] for one in bound)
    assert f"process {proxy.process.pid}" in bound[0]["text"]
    (accounts,) = (one for one in findings if one["check"] == "disk.accounts")
    assert accounts["level"] == "ok" and accounts["data"]["held_by"] == proxy.process.pid
    (limit,) = (one for one in findings if one["check"] == "limits.descriptors")
    assert f"running proxy, process {proxy.process.pid}" in limit["text"]
    before = pool.books.accepted
    pool.wait(lambda: pool.books.accepted > before, 20)
    assert get(f"http://127.0.0.1:{page}/healthz") == "ok\n" and len(pool.connections) == 1
    assert "ACCOUNTS ARE NOT KEPT" not in proxy.text and proxy.text.count("authorized as rig") == 1

    other = tmp_path / "other"
    other.mkdir()
    program = karoo("doctor", "--offline", "-c", configuration(
        other, proxy={"listen": f"127.0.0.1:{stratum}"}, accounting={"database": str(tmp_path / "karoo.db")},
        control={"socket": ""}))
    assert program.end() == 69 and "give each proxy a file of its own" in program.text
    program = karoo("doctor", "--offline", "-c", configuration(other, proxy={"listen": f"127.0.0.1:{stratum}"}))
    assert program.end() == 69
    assert f"in use by process {proxy.process.pid} (karoo) with {path}" in " ".join(program.text.split())
    miner.end(signal.SIGINT)
    assert proxy.end(signal.SIGTERM) == 0


def test_a_control_socket_that_the_running_proxy_has_lost(karoo, tmp_path):
    path = configuration(tmp_path)
    proxy = karoo("run", "-c", path)
    proxy.wait_for("miners may connect")

    def told(path):
        return only(examine(str(path), Wishes(offline=True)), "disk.control")[:2]
    assert told(path) == ("ok", f"{tmp_path}/karoo.sock is answered by the running proxy")
    level, text = told(configuration(tmp_path, control={"socket": "new.sock"}))
    assert level == "note" and f"process {proxy.process.pid} (karoo), listens at {tmp_path}/karoo.sock; " in text
    configuration(tmp_path)
    (tmp_path / "karoo.sock").unlink()
    level, text = told(path)
    assert level == "warning" and f"process {proxy.process.pid} (karoo), has lost {tmp_path}/karoo.sock" in text
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "karoo.sock"))
        assert told(path)[0] == "warning"
    (tmp_path / "karoo.sock").unlink()
    assert proxy.end(signal.SIGTERM) == 0
    level, text = told(path)
    assert level == "ok" and "will be made" in text

    proxy = karoo("run", "-c", configuration(tmp_path, control={"socket": ""}))
    proxy.wait_for("miners may connect")
    level, text = told(configuration(tmp_path))
    assert level == "warning" and "nobody answers" in text and "its log" not in text


def test_nothing_is_written(tmp_path):
    ledger = Ledger(str(tmp_path / "karoo.db"))
    ledger.write(60, {"rig": Deltas()})
    ledger.close()
    path = configuration(tmp_path, log={"file": "karoo.log"}, upstream=at(1))
    before = {one.name: one.stat().st_mtime_ns for one in tmp_path.iterdir()}
    report = examine(str(path), Wishes(seconds=5))
    assert only(report, "disk.accounts")[0] == "ok" and only(report, "disk.log")[0] == "ok"
    assert {one.name: one.stat().st_mtime_ns for one in tmp_path.iterdir()} == before


# ---------------------------------------------------------------- ports

def test_ports_that_cannot_be_had(tmp_path):
    with stdlib_socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        report = look(tmp_path, offline=True, http={"listen": address}, listeners=[{"address": "192.0.2.1:3333"}],
                      proxy={})
        level, text, data = only(report, "ports.bind", address)
        assert level == "failed" and f"process {os.getpid()}" in text and data["pids"] == [os.getpid()]
        level, text, data = only(report, "ports.bind", "192.0.2.1:3333")
        assert level == "failed" and data["errno"] == "EADDRNOTAVAIL" and report.exit_code() == 69
        with socket.create_connection(taken.getsockname(), timeout=5):
            pass  # it listens as before


def test_a_port_that_is_bound_for_a_look_can_be_had_meanwhile(unused):
    way = ports.Way("proxy.listen", f"127.0.0.1:{unused()}")
    assert ports.bind_failure(way) is None and ports.bind_failure(way) is None
    assert ports.bind_failure(ports.Way("x", "nothing.invalid:1")) is not None


def test_ports_of_whom_this_user_cannot_see(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "owners", lambda inodes: set())
    with stdlib_socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        level, text, _ = only(look(tmp_path, offline=True, proxy={"listen": address}), "ports.bind", address)
        assert level == "failed" and "a program of another user" in text
        monkeypatch.setattr(running, "answers", lambda path: 0)
        level, text, data = only(look(tmp_path, offline=True, proxy={"listen": address}), "ports.bind", address)
        assert level == "ok" and "as it seems" in text and data["running"]
    monkeypatch.undo()
    with stdlib_socket.socket() as connection:  # as the own end of one that was made has it
        connection.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{connection.getsockname()[1]}"
        level, text, _ = only(look(tmp_path, offline=True, proxy={"listen": address}), "ports.bind", address)
        assert level == "failed" and "nobody listens there" in text


@needs_root
def test_what_another_user_may():
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c"]
    if subprocess.run([*nobody, "import karoo"], cwd=ROOT, check=False, capture_output=True).returncode:
        pytest.skip("other users cannot read this checkout")
    with (tempfile.TemporaryDirectory() as name, stdlib_socket.socket(stdlib_socket.AF_UNIX) as control,
          stdlib_socket.create_server(("127.0.0.1", 0)) as taken):
        folder = Path(name)
        folder.chmod(0o755)
        Ledger(str(folder / "karoo.db")).close()
        control.bind(str(folder / "karoo.sock"))
        control.listen()
        (folder / "karoo.sock").chmod(0o600)
        path = configuration(folder, log={"file": "karoo.log"},
                             proxy={"listen": f"127.0.0.1:{taken.getsockname()[1]}"})
        program = "from gevent import monkey; monkey.patch_all(); from karoo.cli import main; main()"
        told = subprocess.run([*nobody, program, "doctor", "--offline", "--json", "-c", path], cwd=ROOT, check=False,
                              capture_output=True, text=True, timeout=30)
    findings = {one["check"]: one for section in json.loads(told.stdout)["sections"] for one in section["findings"]}
    assert findings["disk.accounts"]["level"] == "failed" and "may not be written" in findings["disk.accounts"]["text"]
    assert findings["disk.log"]["level"] == "failed"
    assert findings["disk.control"]["level"] == "ok" and "machine.root" not in findings


@pytest.mark.parametrize("one, other, clash", [
    ("0.0.0.0:1", "127.0.0.1:1", True), ("127.0.0.1:1", ":1", True), ("[::]:1", "0.0.0.0:1", True),
    ("[::]:1", "[::1]:1", True), ("[::]:1", "10.0.0.1:1", True), ("10.0.0.1:1", "[::]:1", True),
    ("127.0.0.1:1", "127.0.0.2:1", False), ("0.0.0.0:1", "[::1]:1", False), ("0.0.0.0:1", "0.0.0.0:2", False),
    (":0", ":0", False), ("systemd:a", "systemd:b", False)])
def test_addresses_that_exclude_each_other(one, other, clash):
    assert bool(list(ports.clashes([ports.Way("a", one), ports.Way("b", other)]))) is clash


def test_the_page_on_the_port_of_the_miners_is_the_configurations_fault(tmp_path, unused):
    port = unused()
    report = look(tmp_path, offline=True, proxy={"listen": f"0.0.0.0:{port}"}, http={"listen": f"127.0.0.1:{port}"})
    assert worse(report)["ports.clash"] == "failed" and report.exit_code() == 78


def test_sockets_of_systemd_are_noted(tmp_path):
    report = look(tmp_path, offline=True, proxy={"listen": "systemd:miners"})
    assert only(report, "ports.passed")[0] == "note" and report.exit_code() == 0


# ---------------------------------------------------------------- limits

def test_a_low_limit_of_open_files(karoo, tmp_path):
    path = configuration(tmp_path)
    line = f"ulimit -n 328; exec {sys.executable} -m karoo doctor --offline --strict -c {path}"
    told = subprocess.run(["sh", "-c", line], check=False, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert told.returncode == 3, told
    assert "328 (of this shell; a service may have another): room for 200 miners, not the 10000" in (
        " ".join(told.stdout.split()))
    assert "ulimit -n 10128" in " ".join(told.stdout.split())


def test_memory_and_kernel_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "available", lambda: 200 << 20)
    assert only(look(tmp_path, offline=True), "limits.memory")[0] == "ok"
    authority = trustme.CA()
    files = listener_files(authority, tmp_path)
    report = look(tmp_path, offline=True, proxy={"listen": "127.0.0.1:0", "tls": {"enabled": True, **files}})
    assert only(report, "limits.memory")[0] == "warning"
    values = {"/proc/sys/net/core/somaxconn": 128, "/proc/sys/net/netfilter/nf_conntrack_max": 15_000}
    monkeypatch.setattr(machine, "_number", values.get)
    monkeypatch.setattr(machine, "available", lambda: None)
    report = look(tmp_path, offline=True)
    assert only(report, "limits.queue")[:2] == (
        "warning", "128: when a farm comes back at once, more than so many miners have to try again")
    assert only(report, "limits.conntrack")[0] == "warning" and only(report, "limits.memory")[0] == "note"
    assert "limits.queue" not in worse(look(tmp_path, offline=True, proxy={"listen": ":0", "max_clients": 100}))


def test_the_twin_of_the_extension_is_noted(tmp_path, monkeypatch):
    monkeypatch.setenv("KAROO_PURE_PYTHON", "1")
    level, text, _ = only(look(tmp_path, offline=True), "programs.speed")
    assert level == "note" and "KAROO_PURE_PYTHON" in text


# ---------------------------------------------------------------- files

def listener_files(authority, folder, mode=0o600, **more):
    made = authority.issue_cert("localhost", **more)
    made.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    made.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "key.pem").chmod(mode)
    return {"cert_file": "cert.pem", "key_file": "key.pem"}


@pytest.mark.parametrize("mode, days, key, certificate, code", [
    (0o600, 100, "ok", "ok", 0), (0o640, 100, "note", "ok", 0), (0o644, 10, "warning", "warning", 0),
    (0o600, -1, "ok", "failed", 69)])
def test_certificates_and_keys_of_listeners(tmp_path, mode, days, key, certificate, code):
    now = datetime.datetime.now(datetime.timezone.utc)
    files = listener_files(trustme.CA(), tmp_path, mode, not_before=now - 9 * DAY, not_after=now + days * DAY)
    report = look(tmp_path, offline=True, proxy={"listen": "127.0.0.1:0", "tls": {"enabled": True, **files}})
    assert only(report, "files.key_mode", "proxy.tls.key_file")[0] == key
    level, _, data = only(report, "files.certificate", "proxy.tls.cert_file")
    assert level == certificate and abs(data["days_left"] - days) < 0.2 and report.exit_code() == code


def test_files_that_are_no_good_are_the_configurations_fault(tmp_path):
    files = listener_files(trustme.CA(), tmp_path)
    (tmp_path / "key.pem").write_text("nothing")
    report = look(tmp_path, offline=True, listeners=[{"address": ":0", "tls": {"enabled": True, **files}}], proxy={},
                  upstream=at(1, tls=True, ca_file="none.pem"))
    assert [label for level, label in ((one.level, one.label) for one in report.findings() if one.check == "files.tls")
            if level == "failed"] == ["listeners[0].tls", "upstream"]
    assert report.exit_code() == 78


def test_secrets_that_everybody_can_read(tmp_path, monkeypatch):
    sections = {"http": {"listen": "127.0.0.1:0", "token": "0123456789abcdef"}, "upstream": at(1, **{"pass": "x"})}
    path = configuration(tmp_path, **sections)
    path.chmod(0o644)
    report = examine(str(path), Wishes(offline=True))
    assert only(report, "files.secrets")[2]["options"] == ["http.token"]
    path.chmod(0o640)
    assert not found(examine(str(path), Wishes(offline=True)), "files.secrets")
    monkeypatch.setenv("THE_TOKEN", "0123456789abcdef")
    path = configuration(tmp_path, http={"listen": "127.0.0.1:0", "token": "${THE_TOKEN}"})
    path.chmod(0o644)
    assert not found(examine(str(path), Wishes(offline=True)), "files.secrets")


# ---------------------------------------------------------------- what is odd about a configuration

LONG = "0123456789abcdef"


@pytest.mark.parametrize("sections, check, level", [
    ({"http": {"listen": "0.0.0.0:0"}}, "config.page_open", "warning"),
    ({"http": {"listen": "0.0.0.0:0", "read_token": LONG}}, "config.page_plain", "note"),
    ({"http": {"listen": "systemd:page"}}, "config.page_passed", "note"),
    ({"ratelimit": {"allow": ["10.0.0.0/8"], "deny": ["10.1.0.0/16"]}}, "config.allow_deny", "warning"),
    ({"ratelimit": {"deny": ["0.0.0.0/0"]}}, "config.deny_all", "failed"),
    ({"ratelimit": {"enabled": True, "allow": ["0.0.0.0/0"]}}, "config.allow_all", "warning"),
    ({"proxy": {"listen": "8.8.8.8:0"}}, "config.no_limits", "warning"),
    ({"http": {"listen": "127.0.0.1:0", "trusted_proxies": ["::/0"]}}, "config.trust_all", "warning"),
    ({"http": {"listen": "127.0.0.1:0", "pprof": True}}, "config.pprof", "note"),
    ({"control": {"mode": "666"}}, "config.control_open", "warning"),
    ({"control": {"socket": ""}}, "config.no_control", "note"),
    ({"proxy": {"listen": "127.0.0.1:0", "quiet_ms": 120_000}}, "config.quiet", "warning"),
    ({"proxy": {"listen": "127.0.0.1:0", "drain_seconds": 300}}, "config.drain", "warning"),
    ({"proxy": {"listen": "127.0.0.1:0", "drain_seconds": 0}}, "config.drain", "note"),
    ({"proxy": {"listen": "127.0.0.1:0", "authorized_idle_ms": 60_000}}, "config.idle", "warning"),
    ({"proxy": {"listen": "127.0.0.1:0", "write_buf": 8192}}, "config.no_effect", "note"),
    ({"upstream": at(1, silence_ms=10_000)}, "config.silence", "warning"),
    ({"upstream": at(1, stale_job_ms=30_000)}, "config.stale_job", "warning"),
    ({"upstream": at(1, hold_ms=0)}, "config.hold", "note"),
    ({"upstream": at(1, user="wallet.worker")}, "config.sample", "warning"),
    ({"upstream": at(1, tls=True, insecure_skip_verify=True)}, "config.insecure", "warning"),
    ({"backups": [at(1)]}, "config.same_pool", "warning"),
    ({}, "config.no_backup", "note"),
    ({"accounting": {"database": ""}}, "config.no_accounts", "note"),
    ({"log": {"level": "debug"}}, "config.debug", "note")])
def test_what_is_odd_is_said(tmp_path, sections, check, level):
    report = look(tmp_path, offline=True, **sections)
    assert [one[0] for one in found(report, check)] == [level]


def test_the_example_and_the_defaults_are_not_odd(tmp_path):
    report = look(tmp_path, offline=True, backups=[at(2)])
    assert not worse(report) and report.exit_code() == 0


# ---------------------------------------------------------------- DNS

def test_names_are_resolved(tmp_path, monkeypatch):
    def resolve(host, port):
        if host == "slow.example":
            gevent.sleep(0.2)
        if host == "none.example":
            raise stdlib_socket.gaierror(stdlib_socket.EAI_NONAME, "Name or service not known")
        return [Address(stdlib_socket.AF_INET, 1, 6, ("192.0.2.7", 0)),
                Address(stdlib_socket.AF_INET6, 1, 6, ("2001:db8::7", 0, 0, 0))]
    monkeypatch.setattr(names, "resolve", resolve)
    monkeypatch.setattr(names, "SLOW", 0.1)
    settings = config.from_dict({
        "upstream": at(1, host="good.example"),
        "backups": [at(2, host="none.example"), at(3, host="slow.example"),
                    at(4, host="hidden.example", socks_proxy={"enabled": True, "host": "127.0.0.1"})]})
    known = names.names_of(settings)
    for name in known:
        names.look(name, 5)
    section = Section("dns", "DNS")
    names.tell(section, known)
    assert [(one.level, one.label) for one in section.findings] == [
        ("ok", "good.example"), ("failed", "none.example"), ("warning", "slow.example"), ("ok", "127.0.0.1")]
    assert section.findings[0].data["ipv6"] == 1 and "2001:db8::7" in section.findings[0].text
    assert "backups[0].host" in section.findings[1].mend


def test_a_dns_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(names, "resolve", lambda host, port: gevent.sleep(60))
    name = names.Name("silent.example", ["upstream.host"])
    names.look(name, 0.05)
    assert "no answer" in name.failure


def test_a_pool_that_is_the_proxy_itself_is_not_dialled(tmp_path, unused):
    port = unused()
    with stdlib_socket.create_server(("127.0.0.1", port)) as listener:
        listener.setblocking(False)
        report = look(tmp_path, proxy={"listen": f"0.0.0.0:{port}"}, upstream=at(port, host="127.0.0.1"))
        assert only(report, "dns.leads_back")[2]["option"] == "proxy.listen" and report.exit_code() == 78
        with pytest.raises(BlockingIOError):
            listener._accept()
    assert not found(look(tmp_path, proxy={"listen": f"127.0.0.2:{port}"}, upstream=at(port)), "dns.leads_back")


# ---------------------------------------------------------------- pools

@pytest.mark.parametrize("options, check, level, text", [
    ({"extranonce2_size": 2}, "pool.room", "warning", "with 8 connections that is 8 miners"),
    ({"extranonce2_size": 4}, "pool.miner_bytes", "note", "NiceHash as a miner wants 4"),
    ({"extranonce2_size": 1}, "pool.miner_bytes", "warning", "NerdMiner takes 2, 4 or 8"),
    ({"coinbase_bytes": 255}, "pool.job_size", "ok", "a coinbase of 255 bytes"),
    ({"coinbase_bytes": 256}, "pool.job_size", "warning", "NerdMiner (a coinbase"),
    ({"coinbase_bytes": 751}, "pool.job_size", "warning", "and some Antminers"),
    ({"branches": 33}, "pool.job_size", "warning", "ESP-Miner"),
    ({"version_mask": 0}, "pool.version_mask", "note", "none"),
    ({"configure": "error"}, "pool.version_mask", "note", "none"),
    ({"second_authorize": "refuse"}, "pool.worker_names", "warning", 'refused beside w ("Unauthorized worker"): all'),
    ({"extranonce_subscribe": "error"}, "pool.refused", "note", "a new extranonce1 without reconnecting"),
    ({"e2_as_text": True, "first_member": "null"}, "pool.job", "ok", "miners can work there"),
    ({"notify_after": "subscribe"}, "pool.job", "ok", "miners can work there")])
def test_what_a_pool_gives(tmp_path, site, options, check, level, text):
    report = look(tmp_path, upstream=at(site.pool(**options)))
    told = only(report, check)
    assert told[0] == level and text in told[1]
    assert report.exit_code() == 0


@pytest.mark.parametrize(("size", "options", "room", "own"), [
    (1, {}, "max_connections of this pool (up to 256), or take another port", "another port of this pool"),
    (1, {"max_connections": 256}, "take another port of this pool", "another port of this pool"),
    (2, {}, "max_connections of this pool (up to 256), or take another port", None),
    (2, {"prefix_bytes": 1}, "take another port", "a smaller prefix_bytes"), (3, {}, "take another port", None),
    (5, {}, "(up to 256), or raise prefix_bytes, or lower proxy.max_clients", None)])
def test_advice_for_small_extranonces_can_be_followed(tmp_path, site, size, options, room, own):
    report = look(tmp_path, upstream=at(site.pool(extranonce2_size=size), **options))
    mends = {one.check: one.mend for one in report.findings()}
    assert room in mends["pool.room"] and ("raise prefix_bytes" in mends["pool.room"]) == (size == 5)
    if own is not None:
        assert own in mends["pool.miner_bytes"] and ("prefix_bytes" in mends["pool.miner_bytes"]) == bool(
            options.get("prefix_bytes"))


def test_a_pool_that_ignores_a_second_user(tmp_path, site, monkeypatch):
    monkeypatch.setattr("karoo.doctor.pools.NAME_SECONDS", 0.2)
    pool = site.pool(second_authorize="ignore")
    level, text, _ = only(look(tmp_path, upstream=at(pool)), "pool.worker_names")
    assert level == "warning" and "w.doctor is ignored beside w" in text
    for mode in ("single", "passthrough"):
        pool.lines.clear()
        assert not found(look(tmp_path, upstream=at(pool, worker_names=mode)), "pool.worker_names")
        assert not any(b"doctor" in line for line in pool.lines)


def test_a_pool_that_refuses_the_user(tmp_path, site):
    report = look(tmp_path, upstream=at(site.pool(allowed=lambda user: False)))
    level, text, _ = only(report, "pool.job")
    assert level == "failed" and "mining.authorize refused for w" in text and report.exit_code() == 69
    assert [one.mend for one in report.findings() if one.check == "pool.job"] == [
        "check user and pass: does the pool know them?"]


@pytest.mark.parametrize(("host", "title"), [("::1", "[::1]:3333 as w"), ("127.0.0.1", "127.0.0.1:3333 as w")])
def test_a_pool_without_a_name_is_called_by_its_place(host, title):
    assert poolwords.title(config.from_dict({"upstream": {"host": host, "user": "w"}}).upstream, "w") == title


def test_a_slow_pool(tmp_path, site):
    report = look(tmp_path, upstream=at(site.pool(reply_delay=0.6)))
    assert only(report, "pool.step", "mining.subscribe")[0] == "note" and only(report, "pool.job")[0] == "ok"


def test_what_a_pool_says_steers_no_terminal(tmp_path):
    peer = Scripted(b'{"id":1,"result":null,"error":[20,"\\u001b[31mgo away\\n",null]}\n'
                    b'{"id":2,"result":null,"error":[20,"\\u001b[31mgo away\\n",null]}\n')
    try:
        report = look(tmp_path, upstream=at(peer))
    finally:
        peer.close()
    assert only(report, "pool.job")[0] == "failed" and "go away" in only(report, "pool.job")[1]
    assert "\x1b" not in words.text(report) and "\\u001b" not in words.as_json(report)


def test_pools_are_tried_all_at_once_and_for_a_limited_time(tmp_path, site):
    silent, hole, good = Scripted(), BlackHole(), site.pool()
    try:
        started = time.monotonic()
        report = look(tmp_path, seconds=1.5, upstream=at(silent, handshake_ms=60_000),
                      backups=[at(hole, handshake_ms=60_000), at(silent, user="b", handshake_ms=60_000), at(good)])
        assert time.monotonic() - started < 6
    finally:
        silent.close()
        hole.close()
    levels = [(one[0], one[1][:22]) for one in found(report, "pool.job")]
    assert levels == [("warning", "it took more than 1.5 ")] * 3 + [("ok", "miners can work there")]
    assert "the last step that was done: dial" in found(report, "pool.job")[0][1]


def test_one_pool_that_is_well_is_enough(tmp_path, site, unused, monkeypatch):
    real = names.resolve

    def resolve(host, port):
        if host == "none.example":
            raise stdlib_socket.gaierror(stdlib_socket.EAI_NONAME, "Name or service not known")
        return real(host, port)
    monkeypatch.setattr(names, "resolve", resolve)
    monkeypatch.setattr("karoo.net.dialer.resolve", resolve)
    good, dead, unknown = at(site.pool(), name="good"), at(unused()), at(3, host="none.example")
    for upstream, backups, told in (
            (good, [dead, unknown], [("ok", "miners can work there"), ("warning", "could not take over"),
                                     ("warning", "could not take over")]),
            (dead, [unknown, good], [("warning", "meanwhile miners work at the backup good"),
                                     ("warning", "could not take over"), ("ok", "miners can work there")])):
        report = look(tmp_path, upstream=upstream, backups=backups)
        jobs = found(report, "pool.job")
        assert [level for level, _, _ in jobs] == [level for level, _ in told]
        assert all(text in said for (_, said, _), (_, text) in zip(jobs, told, strict=True)), jobs
        assert only(report, "dns.resolve", "none.example")[0] == "warning"
        assert (report.verdict(), report.exit_code(), report.exit_code(True)) == ("warnings", 0, 3)
    report = look(tmp_path, upstream=dead, backups=[unknown])
    assert [level for level, _, _ in found(report, "pool.job")] == ["failed"] * 2
    assert only(report, "dns.resolve", "none.example")[0] == "failed" and report.exit_code() == 69
    assert [section.key for section in report.sections][-4:] == ["dns", "pool", "pool", "clock"]


@needs_microsocks
def test_a_pool_behind_a_socks_proxy(tmp_path, site):
    proxy = Microsocks()
    try:
        report = look(tmp_path, upstream=at(site.pool(), host="localhost", socks_proxy={
            "enabled": True, "host": "127.0.0.1", "port": proxy.port}))
    finally:
        proxy.close()
    assert report.exit_code() == 0 and only(report, "pool.job")[0] == "ok"
    assert only(report, "dns.address")[2]["options"] == ["upstream.socks_proxy.host"]
    report = look(tmp_path, upstream=at(1, socks_proxy={"enabled": True, "host": "127.0.0.1", "port": proxy.port}))
    assert "SOCKS5 proxy" in only(report, "pool.job")[1]


def context_of(authority, *hosts, **more):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made = authority.issue_cert(*hosts, **more)
    made.configure_cert(context)
    return context


def test_a_pool_over_tls(tmp_path, site):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    now = datetime.datetime.now(datetime.timezone.utc)
    pool = site.pool(tls=context_of(authority, "127.0.0.1", not_after=now + 100 * DAY))
    report = look(tmp_path, upstream=at(pool, tls=True, ca_file="ca.pem"))
    level, text, data = only(report, "pool.tls")
    assert level == "ok" and data["version"] == "TLSv1.3" and "trustme" in data["issuer"]
    assert only(report, "pool.certificate")[0] == "ok" and report.exit_code() == 0
    assert [section.title for section in report.sections if section.key == "pool"] == [
        f"127.0.0.1:{pool.port} as w over TLS"]
    # What is not accepted is shown, and can be pinned.
    report = look(tmp_path, upstream=at(pool, tls=True))
    assert only(report, "pool.job")[0] == "failed" and "unknown authority" in only(report, "pool.job")[1]
    level, text, data = only(report, "pool.fingerprint")
    assert "it is not accepted" in text
    report = look(tmp_path, upstream=at(pool, tls=True, fingerprint=data["fingerprint"]))
    assert report.exit_code() == 0 and "not accepted" not in only(report, "pool.fingerprint")[1]


@pytest.mark.parametrize("days, pinned, level", [(5, False, "warning"), (5, True, "warning"), (-1, True, "note")])
def test_a_pools_certificate_that_runs_out(tmp_path, site, days, pinned, level):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    now = datetime.datetime.now(datetime.timezone.utc)
    pool = site.pool(tls=context_of(authority, "127.0.0.1", not_before=now - 9 * DAY, not_after=now + days * DAY))
    report = look(tmp_path, upstream=at(pool, tls=True, insecure_skip_verify=True))
    fingerprint = only(report, "pool.fingerprint")[2]["fingerprint"]
    how = {"fingerprint": fingerprint} if pinned else {"ca_file": "ca.pem"}
    report = look(tmp_path, upstream=at(pool, tls=True, **how))
    assert only(report, "pool.certificate")[0] == level and only(report, "pool.job")[0] == "ok"


@pytest.fixture
def peer():
    """Something that listens, says what it is given, and may leave then."""
    started = []

    def start(*says, leaves=False):
        started.append(Scripted(*says, leaves=leaves))
        return started[-1]
    yield start
    for one in started:
        one.close()


TLS_TOO = "is this its port for miners? If it wants TLS, set tls: true"


def test_advice_is_given_once_and_does_not_contradict_the_failure(tmp_path, site, peer):
    over_tls = site.pool(tls=context_of(trustme.CA(), "127.0.0.1"))
    for pool, tls, failure, mend in (
            (site.pool(), True, "set tls: false", ""), (peer(b"", leaves=True), True, "set tls: false", ""),
            (peer(), True, "set tls: false", ""), (over_tls, True, "set fingerprint", ""),
            (over_tls, False, "set tls: true", ""), (peer(b"", leaves=True), False, "set tls: true", ""),
            (peer(b"SSH-2.0-x\r\n"), False, "does not speak Stratum", TLS_TOO),
            (peer(b"\x15\x03\x01\x00\x02\x02\x46", leaves=True), False, "closed the connection", TLS_TOO),
            (peer(), False, "for an answer to mining.subscribe", TLS_TOO)):
        report = look(tmp_path, upstream=at(pool, tls=tls, handshake_ms=1000))
        (told,) = (one for one in report.findings() if one.check == "pool.job")
        assert told.level == "failed" and failure in told.text and told.mend == mend, (failure, told)
        assert report.exit_code() == 69


# ---------------------------------------------------------------- the clock

@pytest.mark.parametrize("offset, level, code", [(60, "ok", 0), (300, "warning", 0), (-300, "warning", 0),
                                                 (7000, "failed", 69), (-7000, "failed", 69)])
def test_the_clock_against_a_pool(tmp_path, site, offset, level, code):
    report = look(tmp_path, upstream=at(site.pool(ntime_offset=offset)))
    told = only(report, "clock.ntime")
    assert told[0] == level and abs(told[2]["seconds"] - offset) < 10 and report.exit_code() == code


def test_one_pool_that_agrees_shows_that_the_other_is_wrong(tmp_path, site):
    report = look(tmp_path, upstream=at(site.pool(ntime_offset=7000)), backups=[at(site.pool())])
    assert [one[0] for one in found(report, "clock.ntime")] == ["warning", "ok"]
    assert "another pool agrees" in found(report, "clock.ntime")[0][1] and report.exit_code() == 0


def test_a_clock_that_is_set_meanwhile(monkeypatch):
    watch, section, real = clock.Watch(), Section("clock", "clock"), time.time
    monkeypatch.setattr(clock.time, "time", lambda: real() - 30)
    watch.tell(section)
    (stepped,) = (one for one in section.findings if one.check == "clock.stepped")
    assert stepped.level == "warning" and abs(stepped.data["seconds"] + 30) < 0.5


# ---------------------------------------------------------------- disk

def damaged(folder):
    ledger = Ledger(str(folder / "karoo.db"))
    ledger.write(60, {f"rig{number}": Deltas(answered_here=1) for number in range(3000)})
    ledger.close()
    with open(folder / "karoo.db", "r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xff" * 8192)


def foreign(folder):
    with sqlite3.connect(folder / "karoo.db") as db:
        db.execute("CREATE TABLE other (n)")
    db.close()


@pytest.mark.parametrize("prepare, sections, check, level, text", [
    (lambda folder: None, {}, "disk.accounts", "ok", "will be made"),
    (lambda folder: (folder / "karoo.db").mkdir(), {}, "disk.accounts", "failed", "is a directory"),
    (lambda folder: None, {"accounting": {"database": "no/karoo.db"}}, "disk.accounts", "failed", "does not exist"),
    (lambda folder: (folder / "karoo.db").write_text("no database, but a text of some length " * 9), {},
     "disk.accounts", "failed", "no database of Karoo's"),
    (damaged, {}, "disk.accounts", "failed", "damaged"),
    (foreign, {}, "disk.accounts", "failed", "another program"),
    (lambda folder: None, {"log": {"file": "karoo.log"}}, "disk.rotation", "note", "logrotate"),
    (lambda folder: None, {"log": {"file": "no/karoo.log"}}, "disk.log", "failed", "does not exist"),
    (lambda folder: None, {"log": {"file": "."}}, "disk.log", "failed", "is a folder"),
    (lambda folder: None, {"control": {"socket": "/tmp/" + "a" * 103}}, "disk.control", "failed", "108 bytes"),
    (lambda folder: None, {"control": {"socket": "no/karoo.sock"}}, "disk.control", "failed", "does not exist"),
    (lambda folder: (folder / "karoo.sock").write_text(""), {}, "disk.control", "failed", "no socket")])
def test_what_is_to_be_written(tmp_path, prepare, sections, check, level, text):
    prepare(tmp_path)
    report = look(tmp_path, offline=True, **sections)
    told = only(report, check)
    assert told[0] == level and text in told[1]
    assert (report.exit_code() in (69, 78)) == (level == "failed")


@pytest.mark.parametrize("prepare", [damaged, foreign, lambda folder: (folder / "karoo.db").write_text("garbage")])
def test_accounts_that_are_no_good_show_no_traceback(karoo, tmp_path, prepare):
    prepare(tmp_path)
    program = karoo("doctor", "--offline", "-c", configuration(tmp_path))
    assert program.end() == 69 and "Traceback" not in program.text and "failed with" not in program.text
    assert "FAILED   accounting.database" in program.text


def test_control_sockets_that_are_there(tmp_path):
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "karoo.sock"))
        assert "left over" in only(look(tmp_path, offline=True), "disk.control")[1]
        listener.listen()
        level, text, _ = only(look(tmp_path, offline=True), "disk.control")
        assert level == "ok" and "answered by the running proxy" in text


def test_a_disk_that_is_nearly_full(tmp_path, monkeypatch):
    real = os.statvfs(tmp_path)

    class Full:
        f_frsize, f_files, f_favail = real.f_frsize, 100, 0
        f_bavail = (50 << 20) // real.f_frsize
    monkeypatch.setattr(disk.os, "statvfs", lambda path: Full)
    report = look(tmp_path, offline=True)
    assert only(report, "disk.space")[0] == "warning" and only(report, "disk.inodes")[0] == "failed"
    Full.f_bavail = 1
    assert only(look(tmp_path, offline=True), "disk.space")[0] == "failed"


def test_large_accounts_are_not_looked_through(tmp_path, monkeypatch):
    Ledger(str(tmp_path / "karoo.db")).close()
    monkeypatch.setattr(disk, "QUICK_CHECK_UP_TO", 1)
    assert "too large" in only(look(tmp_path, offline=True), "disk.integrity")[1]


# ---------------------------------------------------------------- the simulated pool's part in it

@pytest.mark.parametrize("size", [170, 256, 361, 362, 751, 5000])
def test_a_simulated_coinbase_has_the_size_that_was_asked_for(size):
    maker, plain = (WorkMaker(1, 12, 1, 0x20000000, 0x17034219, wanted) for wanted in (size, 0))
    job = maker.next(True, 1)
    assert len(job.coinb1) + 12 + len(job.coinb2) == size
    assert job.branches == plain.next(True, 1).branches
    with pytest.raises(ValueError):
        WorkMaker(1, 12, 1, 0x20000000, 0x17034219, 165)
