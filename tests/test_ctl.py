"""`karoo ctl`: the socket with its rights, every command and what it does, text and JSON, clients that misbehave."""

import http.client
import json
import logging
import os
import pwd
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import gevent
import pytest
from gevent import monkey

from karoo import __version__, config, readers
from karoo.ctl import client, server, socketfile, words
from karoo.ctl import main as ctl
from karoo.ctl.server import ControlServer
from karoo.ctl.socketfile import ControlError, SocketFile
from karoo.reload import NoReload, Reloader
from tests.programs import ROOT, configuration
from tests.site import EASY, POOL_DIFFICULTY

ME = pwd.getpwuid(os.getuid()).pw_name


class Control:
    """A control server over a proxy, and ways to ask it."""

    def __init__(self, path, proxy, reload=None):
        self.path, self.proxy = str(path), proxy
        self.server = ControlServer(self.path, "600", proxy, reload or Reloader(proxy, None))
        self.server.start()

    def ask(self, command, **members):
        return client.ask(self.path, command, members, 10)

    def refused(self, command, **members):
        with pytest.raises(client.Failed) as failure:
            self.ask(command, **members)
        return failure.value.code, str(failure.value)

    def connect(self, said=b""):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(10)
        sock.connect(self.path)
        if said:
            sock.sendall(said)
        return sock

    def raw(self, said):
        """What it answers to some bytes, up to its end."""
        with closing(self.connect(said)) as sock:
            return all_of(sock)


def all_of(sock):
    data = b""
    while True:
        try:
            more = sock.recv(65536)
        except ConnectionError:
            return data
        if not more:
            return data
        data += more


@pytest.fixture
def control(site, tmp_path):
    """A running proxy with a control server."""
    started = []

    def start(pools=1, reload=None, **sections):
        proxy = site.proxy(*[site.pool(difficulty=POOL_DIFFICULTY) for _ in range(pools)],
                           vardiff={"start_diff": EASY, "min_diff": 1e-12}, **sections)
        started.append(Control(tmp_path / "karoo.sock", proxy, reload))
        return started[-1]
    yield start
    for one in started:
        one.server.stop()


@pytest.fixture
def levels():
    """Levels of loggers are put back after the test."""
    names = [None, *(name for name in logging.Logger.manager.loggerDict if name.startswith("karoo"))]
    before = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


# ---------------------------------------------------------------- the file

@pytest.mark.parametrize("mode", ["600", "660", "666"])
@pytest.mark.parametrize("umask", [0o000, 0o027, 0o077])
def test_the_rights_are_there_with_the_file_whatever_the_umask_is(tmp_path, monkeypatch, mode, umask):
    seen = []

    class Watched(socket.socket):
        def bind(self, path):
            super().bind(path)
            seen.append(stat.S_IMODE(os.lstat(path).st_mode))
    monkeypatch.setattr(socketfile.socket, "socket", Watched)
    former = os.umask(umask)
    try:
        file = SocketFile(str(tmp_path / "s"), mode)
        file.sock.close()
        assert os.umask(umask) == umask  # as it was
    finally:
        os.umask(former)
    assert seen == [int(mode, 8)] == [stat.S_IMODE(os.lstat(tmp_path / "s").st_mode)]


BIND = ("import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(%d); "
        "print(1, flush=True); time.sleep(60)")


@pytest.fixture
def listens(tmp_path):
    """Another process that listens at a path."""
    running = []

    def start(path, backlog=5):
        process = subprocess.Popen([sys.executable, "-c", BIND % backlog, str(path)], stdout=subprocess.PIPE)
        running.append(process)
        assert process.stdout.readline()
        return process
    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def test_what_a_killed_process_left_is_replaced(tmp_path, listens):
    path = tmp_path / "s"
    process = listens(path)
    process.kill()
    process.wait()
    assert path.is_socket()
    with pytest.raises(client.NoProxy, match="has ended"):
        client.ask(str(path), "ping")
    file = SocketFile(str(path), "600")
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.connect(str(path))
    file.remove()
    file.sock.close()
    assert not path.exists()


@pytest.mark.parametrize("backlog", [5, 0])
def test_the_socket_of_a_living_process_is_left_alone_and_it_is_named(tmp_path, listens, backlog):
    path = tmp_path / "s"
    process = listens(path, backlog)
    with closing(socket.socket(socket.AF_UNIX)) as first, closing(socket.socket(socket.AF_UNIX)) as second:
        if not backlog:  # its queue is full: a further connect() would wait
            for sock in (first, second):
                sock._sock.setblocking(False)
                sock._sock.connect_ex(str(path))
        with pytest.raises(ControlError, match=r"s belongs to another proxy that runs" + (
                rf" \(process {process.pid}\)" if backlog else "")):
            SocketFile(str(path), "600")
    assert path.is_socket() and process.poll() is None


def test_where_no_socket_can_be_it_is_said_why(tmp_path):
    there = tmp_path / "karoo.yaml"
    there.write_text("precious")
    with pytest.raises(ControlError, match=r"karoo\.yaml is there and is no socket"):
        SocketFile(str(there), "600")
    assert there.read_text() == "precious"
    with pytest.raises(ControlError, match="No such file or directory"):
        SocketFile(str(tmp_path / "nowhere" / "s"), "600")
    long = str(tmp_path / ("é" * 60))
    with pytest.raises(ControlError, match=rf"has {len(os.fsencode(long))} bytes, and .* may have 107"):
        SocketFile(long, "600")
    with pytest.raises(client.NoProxy, match="may have 107"):
        client.ask(long, "ping")
    with pytest.raises(ControlError, match="zero byte"):
        SocketFile("a\0b", "600")


def test_the_longest_path_that_is_allowed_works(tmp_path):
    path = str(tmp_path / "x")
    path += "x" * (107 - len(path))
    file = SocketFile(path, "600")
    with closing(client.connect(path)):
        pass
    file.remove()
    file.sock.close()
    assert not os.path.exists(path)


def test_only_its_own_file_is_removed_at_the_end(control):
    one = control()
    os.unlink(one.path)
    with closing(socket.socket(socket.AF_UNIX)) as other:
        other.bind(one.path)
        one.server.stop()
        assert os.path.exists(one.path)
    os.unlink(one.path)
    one.server.stop()  # once more does no harm


def test_a_file_that_is_gone_is_no_trouble_at_the_end(control):
    one = control()
    os.unlink(one.path)
    one.server.stop()


RACE = """
import gevent.monkey; gevent.monkey.patch_all()
import sys
from karoo.ctl.socketfile import ControlError, SocketFile
sys.stdin.readline()
try:
    file = SocketFile(sys.argv[1], "600")
    print("won", flush=True)
except ControlError as failure:
    print(failure, flush=True)
sys.stdin.readline()
"""


def test_of_proxies_that_start_at_once_over_a_stale_file_one_has_it(tmp_path, listens):
    for attempt in range(3):
        path = tmp_path / f"s{attempt}"
        process = listens(path)
        process.kill()
        process.wait()
        racers = [subprocess.Popen([sys.executable, "-c", RACE, str(path)], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)]
        try:
            for racer in racers:
                racer.stdin.write("\n")
                racer.stdin.flush()
            said = sorted(racer.stdout.readline() for racer in racers)
            assert said[-1] == "won\n" and all("another proxy" in line for line in said[:-1]), said
            with closing(socket.socket(socket.AF_UNIX)) as sock:
                sock.connect(str(path))  # it is the winner's, and listens
        finally:
            for racer in racers:
                racer.kill()
                racer.wait()
                racer.stdin.close()
                racer.stdout.close()


# ---------------------------------------------------------------- what it tells

def of_api(server, path):
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.request("GET", f"/api/v1/{path}")
        return json.loads(connection.getresponse().read())


CHANGING = {"now_unix", "uptime_seconds", "seconds_since_job", "connected_seconds", "silent_seconds", "up_seconds",
            "seconds_since_share", "last_seen_unix", "limit", "per_second", "hashrate", "hashrate_paid", "since_unix",
            "seconds_left", "until_unix", "started_unix"}


def steady(value):
    """Without what the time changes."""
    if isinstance(value, dict):
        return {name: steady(part) for name, part in value.items() if name not in CHANGING}
    return [steady(part) for part in value] if isinstance(value, list) else value


def test_it_tells_what_the_api_tells(site, control, page):
    one = control(pools=2)
    miners = [site.miner(one.proxy, user=f"a.rig{number}") for number in range(3)]
    for miner in miners[:2]:
        assert miner.submit(miner.find_share()) is True
    one.ask("ban", address="203.0.113.7", seconds=60)
    web = page(one.proxy)
    for command, members, path in (
            ("summary", {}, "summary"), ("status", {}, "summary"), ("pools", {}, "pools"), ("bans", {}, "bans"),
            ("events", {}, "events"), ("workers", {"sort": "name", "order": "asc"}, "workers?sort=name&order=asc"),
            ("sessions", {}, "sessions"), ("workers", {"q": "RIG1"}, "workers?q=RIG1"),
            ("sessions", {"worker": "rig2"}, "sessions?worker=rig2"), ("worker", {"name": "rig0"}, "workers/rig0"),
            ("sessions", {"limit": 1, "offset": 1}, "sessions?limit=1&offset=1"),
            ("session", {"id": 2}, "sessions/2"), ("events", {"kind": ["ban"]}, "events?kind=ban"),
            ("workers", {"state": "online", "limit": 2, "sort": "accepted"},
             "workers?state=online&limit=2&sort=accepted")):
        told, expected = one.ask(command, **members), of_api(web, path)
        assert told.keys() == expected.keys(), path
        assert steady(told) == steady(expected), path


def test_long_lists_come_whole_and_in_order(site, control):
    one = control()
    miners = [site.miner(one.proxy, user=f"a.rig{number:02d}") for number in range(45)]
    found = one.ask("sessions", limit=ctl.ALL)
    assert [row["worker"] for row in found["items"]] == [f"rig{number:02d}" for number in range(45)]
    assert found["total"] == 45 and len(one.ask("sessions", limit=44)["items"]) == 44
    names = [row["name"] for row in one.ask("workers", sort="name", order="asc", limit=ctl.ALL)["items"]]
    assert names[:45] == sorted(names)[:45] and len(set(names)) == len(names)
    assert miners


def test_ping_tells_who_it_is(control):
    found = control().ask("ping")
    assert (found["version"], found["pid"], found["not_ready"]) == (__version__, os.getpid(), "")


def test_stacks_show_greenlets_and_threads(control):
    one = control()
    asleep = gevent.spawn(gevent.sleep, 60)
    release = monkey.get_original("threading", "Event")()
    thread = monkey.get_original("threading", "Thread")(target=release.wait)
    assert threading  # the patched one would make a greenlet
    thread.start()
    try:
        gevent.sleep(0)
        found = one.ask("stacks")["items"]
    finally:
        release.set()
        asleep.kill()
    text = {kind: "\n".join(row["stack"] for row in found if row["kind"] == kind) for kind in ("greenlet", "thread")}
    assert "_sweep_for_ever" in text["greenlet"] and "in sleep" in text["greenlet"]
    assert "in stacks" in text["greenlet"]  # the one that asks
    assert "in wait" in text["thread"] and "_sweep_for_ever" not in text["thread"]


def test_what_makes_no_sense_is_refused_with_a_reason(control):
    one = control()
    for command, members, code, why in (
            ("frobnicate", {}, "bad_request", "there is no command 'frobnicate'"),
            ("workers", {"sort": "beauty"}, "bad_request", "sort must be one of: name"),
            ("workers", {"state": "happy"}, "bad_request", "state must be one of: online"),
            ("sessions", {"sort": "beauty"}, "bad_request", "sort must be one of: id"),
            ("bans", {"sort": "beauty"}, "bad_request", "sort must be one of"),
            ("events", {"kind": ["beauty"]}, "bad_request", "kind must be one of"),
            ("sessions", {"limit": 0}, "bad_request", "limit has a value"),
            ("sessions", {"limit": True}, "bad_request", "limit has a value"),
            ("sessions", {"order": "up"}, "bad_request", "order has a value"),
            ("sessions", {"fast": 1}, "bad_request", "sessions has no member 'fast'"),
            ("ping", {"fast": 1}, "bad_request", "ping has no member 'fast'"),
            ("worker", {}, "bad_request", "name is missing"),
            ("worker", {"name": "nobody"}, "not_found", "There is no worker nobody"),
            ("session", {"id": 7}, "not_found", "There is no session 7"),
            ("kick", {}, "bad_request", "only one of them"),
            ("kick", {"session": 1, "worker": "rig"}, "bad_request", "only one of them"),
            ("kick", {"session": 1}, "not_found", "Session 1 is not connected"),
            ("kick", {"address": "10.0.0.7"}, "not_found", "10.0.0.7 is not connected"),
            ("ban", {"address": "nonsense"}, "bad_request", "is no IP address"),
            ("ban", {"address": "10.0.0.7", "seconds": 0}, "bad_request", "seconds has a value"),
            ("unban", {"address": "10.0.0.7"}, "not_found", "is not banned"),
            ("switch-pool", {"pool": 7}, "not_found", "there is no pool 7"),
            ("switch-pool", {"pool": 1.5}, "bad_request", "pool has a value"),
            ("log-level", {"logger": "karoo.sesion"}, "not_found", "did you mean karoo.session?"),
            ("log-level", {"logger": "urllib3"}, "not_found", "There is no logger urllib3"),
            ("set-log-level", {"level": "loud"}, "bad_request", "level must be one of: debug"),
            ("set-log-level", {"level": "default"}, "bad_request", "level must be one of: debug"),
            ("reload", {}, "conflict", "without a configuration file")):
        found, text = one.refused(command, **members)
        assert (found, why in text) == (code, True), (command, members, text)


# ---------------------------------------------------------------- what it does

def test_miners_are_kicked_by_session_worker_and_address(site, control):
    one = control()
    first, second, third, fourth = (site.miner(one.proxy, user=f"a.{name}") for name in ("a", "b", "b", "c"))
    ids = {row["worker"]: row["id"] for row in one.ask("sessions")["items"]}
    assert one.ask("kick", session=ids["a"]) == {"done": f"Session {ids['a']} was disconnected"}
    first.wait_closed()
    assert one.ask("kick", worker="b") == {"done": "Worker b was disconnected: 2 sessions"}
    second.wait_closed()
    third.wait_closed()
    assert not fourth.closed
    assert one.ask("kick", address="127.0.0.1") == {"done": "127.0.0.1 was disconnected: 1 session"}
    fourth.wait_closed()
    assert one.proxy.metrics.ended["kicked by the operator"] == 4
    events = one.ask("events", kind=["kick"])["items"]
    assert len(events) == 3
    assert all(event["details"]["by"] == f"{ME} by karoo ctl (process {os.getpid()})" for event in events)
    assert site.logged(f"{ME} by karoo ctl (process {os.getpid()}): 127.0.0.1 was disconnected")


def test_an_address_with_its_port_means_one_session(site, control):
    one = control()
    first, second = site.miner(one.proxy), site.miner(one.proxy)
    peer = one.ask("sessions")["items"][1]["address"]
    assert one.ask("kick", address=peer) == {"done": f"{peer} was disconnected: 1 session"}
    second.wait_closed()
    assert not first.closed


def test_addresses_are_banned_and_forgiven(site, control):
    one = control()
    miner = site.miner(one.proxy)
    assert one.ask("ban", address="127.0.0.1", seconds=90, reason="tests") == {
        "done": "127.0.0.1 is banned for 90 seconds; 1 session ended"}
    miner.wait_closed()
    (ban,) = one.ask("bans")["items"]
    assert (ban["address"], ban["why"], ban["times"]) == ("127.0.0.1", "tests", 1)
    site.connect(one.proxy).wait_closed()
    assert one.ask("unban", address="127.0.0.1") == {"done": "127.0.0.1 is no longer banned"}
    site.miner(one.proxy)
    events = {event["kind"]: event["details"]["by"] for event in one.ask("events")["items"]
              if "by" in event["details"]}
    assert ME in events["ban"] and ME in events["unban"]


def test_the_miners_are_taken_to_another_pool(site, control):
    one = control(pools=2)
    miner = site.miner(one.proxy, extranonce=True)
    name = one.ask("pools")["items"][1]["name"]
    assert "is preferred" in one.ask("switch-pool", pool=name)["done"]
    site.wait(lambda: one.ask("pools")["items"][1]["state"] == "active", timeout=10)
    assert "is preferred" in one.ask("switch-pool", pool=0)["done"]
    site.wait(lambda: one.ask("pools")["items"][0]["state"] == "active", timeout=10)
    assert not miner.closed
    assert ME in one.ask("events", kind=["switch"])["items"][0]["details"]["by"]


def test_a_reload_tells_what_changed_or_why_nothing_did(control):
    asked = []

    def reload(by):
        asked.append(by)
        if len(asked) > 1:
            raise NoReload("karoo.yaml: 1 fault\n  line 3: upstream.port: no number")
        return {"changed": ["log.level"], "needs_restart": []}
    one = control(reload=reload)
    assert one.ask("reload") == {"changed": ["log.level"], "needs_restart": []}
    assert one.refused("reload") == ("conflict", "karoo.yaml: 1 fault\n  line 3: upstream.port: no number")
    assert asked[0] == f"{ME} by karoo ctl (process {os.getpid()})"


def test_levels_of_logs_change_and_are_told(control, levels):
    one = control()
    logging.getLogger().setLevel(logging.INFO)
    logging.getLogger("karoo").setLevel(logging.NOTSET)
    assert one.ask("log-level") == {"level": "info", "loggers": {}}
    assert one.ask("log-level", logger="karoo.session") == {"level": "info", "loggers": {"karoo.session": "info"}}
    assert one.ask("set-log-level", level="debug", logger="karoo.session") == {
        "done": "The log level of karoo.session is debug until the next change"}
    assert one.ask("log-level") == {"level": "info", "loggers": {"karoo.session": "debug"}}
    assert logging.getLogger("karoo.session").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("karoo.proxy").isEnabledFor(logging.DEBUG)
    one.ask("set-log-level", level="default", logger="karoo.session")
    assert not logging.getLogger("karoo.session").isEnabledFor(logging.DEBUG)
    one.ask("set-log-level", level="warning")
    assert one.ask("log-level") == {"level": "warning", "loggers": {}}
    assert not logging.getLogger("karoo.session").isEnabledFor(logging.INFO)
    assert "The log level is warning" in one.ask("events")["items"][0]["text"]


# ---------------------------------------------------------------- clients that misbehave

def test_garbage_is_answered_with_an_error_and_is_no_bug(control):
    one = control()
    for said in (b"\n", b"hello\n", b"[]\n", b"{}\n", b'"x"\n', b"\xff\xfe\n", b'{"command": 5}\n',
                 b'{"command": "ping", "members": []}\n', b'{"command": "ping", "extra": 1}\n', b"\0" * 100 + b"\n",
                 b"[" * 5000 + b"\n", b'{"command": "sessions", "members": {"limit": 1e999}}\n', b"GET / HTTP/1.1\r\n",
                 b'{"command": "\\ud800"}\n', b'{"command":"ban","members":{"address":"a","seconds":NaN}}\n'):
        answer = json.loads(one.raw(said))
        assert answer["error"]["code"] == "bad_request", said
    assert json.loads(one.raw(b'{"command": "ping"}\nand more'))["answer"]["version"] == __version__
    assert one.proxy.metrics.exceptions == 0


def test_a_line_without_end_is_cut_off(control):
    one = control()
    with closing(one.connect()) as sock:
        with pytest.raises(OSError):
            for _ in range(1000):
                sock.sendall(b"x" * 65536)
        assert b"one line of JSON, of 8192 bytes at most" in all_of(sock)
    assert one.ask("ping")


def test_a_client_that_says_nothing_is_let_go(control, monkeypatch):
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.1)
    one = control()
    with closing(one.connect()) as sock:
        assert all_of(sock) == b""
    with closing(one.connect(b'{"comm')) as sock:
        assert all_of(sock) == b""
    assert one.ask("ping")


def test_a_crowd_does_not_keep_the_operator_out(site, control):
    one = control()
    miner = site.miner(one.proxy)
    crowd = []
    try:
        for number in range(200):
            crowd.append(one.connect((b"", b"garbage\n", b'{"command": "stat', b'{"command": "status"}\n')[number % 4]))
            if number % 50 == 0:
                assert one.ask("ping")
        assert one.ask("sessions")["total"] == 1
        assert miner.submit(miner.find_share()) is True
        assert len(one.server._server.pool) <= server.MAX_CLIENTS
    finally:
        for sock in crowd:
            sock.close()
    assert one.ask("status")["sessions"] == 1


def test_readers_that_never_read_are_let_go_and_others_are_served(site, control, monkeypatch):
    one = control()
    miner = site.miner(one.proxy)
    for number in range(3000):  # a list that no socket's buffer holds
        one.proxy.metrics.timeline.note("start", f"{number} " + "x" * 400)
    said = b'{"command": "events", "members": {"limit": 1000}}\n'
    stuck = []
    try:
        for _ in range(server.MAX_CLIENTS + 8):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(10)
            sock.connect(one.path)
            sock.sendall(said)
            stuck.append(sock)
        site.wait(lambda: len(one.server._server.waiting) >= server.MAX_CLIENTS - 1, what="clients that do not read")
        assert one.ask("ping") and len(one.ask("events", limit=1000)["items"]) == 1000
        assert miner.submit(miner.find_share()) is True
        monkeypatch.setattr(server, "STALL_SECONDS", 0.05)
        with closing(one.connect(said)):
            site.wait(lambda: len(one.server._server.waiting) < server.MAX_CLIENTS)
    finally:
        for sock in stuck:
            sock.close()
    site.wait(lambda: not one.server._server.waiting)


def test_one_that_does_not_read_is_let_go_in_time(site, control, monkeypatch):
    monkeypatch.setattr(server, "STALL_SECONDS", 0.1)
    one = control()
    for number in range(1000):
        one.proxy.metrics.timeline.note("start", f"{number} " + "x" * 400)
    with closing(one.connect(b'{"command": "events", "members": {"limit": 1000}}\n')) as sock:
        site.wait(lambda: one.server._server.waiting, what="a client that does not read")
        site.wait(lambda: not len(one.server._server.pool), what="its end")
        assert b'"end"' not in all_of(sock)


def test_a_bug_ends_one_request_and_is_counted(site, control, monkeypatch):
    one = control()
    monkeypatch.setattr(type(one.proxy.view), "pools", lambda self: 1 / 0)
    code, text = one.refused("pools")
    assert code == "internal_error" and "ZeroDivisionError" in text
    assert one.ask("ping") and one.proxy.metrics.exceptions == 1
    assert site.logged("a bug met pools")
    one.proxy.metrics.exceptions = 0


def test_reading_goes_in_slices_in_the_line_of_all_readers(site, control, monkeypatch):
    one = control()
    for _ in range(45):
        site.miner(one.proxy)
    turns = []
    turn = readers.turn
    monkeypatch.setattr(readers, "turn", lambda: (turns.append(1), turn())[1])
    one.ask("sessions")
    assert len(turns) >= 3 + 45 // 20


def test_the_end_of_the_proxy_ends_what_is_open(control):
    one = control()
    sock = one.connect(b'{"comm')
    site_done = gevent.spawn(all_of, sock)
    gevent.sleep(0)
    with gevent.Timeout(5):
        one.server.stop()
        site_done.join()
    sock.close()
    assert not os.path.exists(one.path)
    with pytest.raises(client.NoProxy, match="no such socket"):
        one.ask("ping")


# ---------------------------------------------------------------- the client

class Scripted:
    """Something at a path that answers each connection with some bytes."""

    def __init__(self, path, said, hold=False):
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.bind(str(path))
        self._sock.listen(5)
        self._said, self._hold = said, hold
        self._greenlet = gevent.spawn(self._run)

    def _run(self):
        while True:
            peer, _ = self._sock.accept()
            with closing(peer):
                peer.recv(100)
                peer.sendall(self._said)
                if self._hold:
                    gevent.sleep(60)

    def close(self):
        self._greenlet.kill()
        self._sock.close()


@pytest.mark.parametrize(("said", "code"), [
    (b"", "lost"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "garbled"), (b"{}\n", "garbled"), (b"[]\n", "garbled"),
    (b'{"list": {"total": 2}}\n{"items": [1]}\n', "lost"), (b'{"answer"', "lost"), (b'{"error": 5}\n', "garbled"),
    (b'{"list": {"total": 2}}\n{"items": [1]}\n{"error": {"code": "internal_error", "message": "m"}}\n',
     "internal_error")])
def test_answers_that_break_off_or_make_no_sense_are_failures(tmp_path, said, code):
    with closing(Scripted(tmp_path / "s", said)), pytest.raises(client.Failed) as failure:
        client.ask(str(tmp_path / "s"), "ping", seconds=5)
    assert failure.value.code == code


def test_a_proxy_that_does_not_answer_is_given_up(tmp_path):
    with closing(Scripted(tmp_path / "s", b"", hold=True)), pytest.raises(client.Failed, match=r"within 0\.2 seconds"):
        client.ask(str(tmp_path / "s"), "ping", seconds=0.2)


def test_the_socket_is_found_by_the_configuration_even_a_faulty_one(tmp_path, monkeypatch):
    path = tmp_path / "karoo.yaml"
    for text, found in (
            ("upstream: {host: h, port: 1, user: u}\n", "karoo.sock"),
            ("upstream: {host: h, port: none}\ncontrol: {socket: run/mine.sock}\nfrob: 1\n", "run/mine.sock"),
            ("upstream: {host: h, port: 1, user: '${NOT_SET}'}\ncontrol: {socket: '${RUN}/s'}\n", "elsewhere/s"),
            ("upstream: {host: h, port: none}\ncontrol: {mode: 7}\nlog: {level: loud}\n", "karoo.sock")):
        path.write_text(text)
        assert client.socket_path(str(path), None, {"RUN": str(tmp_path / "elsewhere")}) == str(tmp_path / found)
    for text, why in (("control: {socket: ''}\n", "is empty"), ("control: {socket: [1]}\n", r"control\.socket"),
                      ("control: {socket: '${NOT_SET}'}\n", "NOT_SET is not set"), ("upstream: [\n", "not valid YAML"),
                      ("control:\nsocket: mine.sock\n", "line 2: socket"), ("- 1\n", "found a list"),
                      ("contrl: {socket: mine.sock}\n", "did you mean control"), ("a: 1\n  b: 2\n", "not valid YAML"),
                      ("log:\n  level: info\n  control: {socket: mine.sock}\n", "line 3: log.control"),
                      ("control: {socket: a}\ncontrol: {socket: b}\n", "given twice")):
        path.write_text(text)
        with pytest.raises(client.NoProxy, match=why) as refusal:
            client.socket_path(str(path), None, {})
        assert why == "is empty" or "--socket PATH needs no configuration" in str(refusal.value)
    with pytest.raises(client.NoProxy, match="there is no such file"):
        client.socket_path(str(tmp_path / "nothing.yaml"), None, {})
    assert client.socket_path(None, "x", {}) == "x"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client, "USUAL", ("karoo.sock", str(tmp_path / "run.sock")))
    with pytest.raises(client.NoProxy, match=r"there is no karoo\.sock and no .*run\.sock"):
        client.socket_path(None, None, {})
    (tmp_path / "run.sock").touch()
    assert client.socket_path(None, None, {}) == str(tmp_path / "run.sock")


# ---------------------------------------------------------------- the command line

@pytest.fixture
def karoo_ctl(karoo):
    def do(path, *words, code=0):
        program = karoo("ctl", "--socket", path, *words)
        assert program.end() == code, program.text
        assert "Traceback" not in program.text
        return program.text
    return do


def test_every_command_as_a_person_types_it(site, control, karoo_ctl, tmp_path, levels):
    reloads = [{"changed": ["ratelimit.deny", "log.level"], "needs_restart": ["proxy.listen"]},
               {"changed": [], "needs_restart": []}]

    def reload(by):
        if not reloads:
            raise NoReload("karoo.yaml: 2 faults\n  line 3: upstream.port: no number\n  line 4: what is this?")
        return reloads.pop(0)
    one = control(pools=2, reload=reload)
    miners = [site.miner(one.proxy, user=f"a.{name}") for name in ("鉱山の機械", "rig", "e\u0301vil")]
    assert miners[1].submit(miners[1].find_share()) is True
    site.wait(lambda: one.ask("worker", name="rig")["accepted"] == 1)

    text = karoo_ctl(one.path, "status")
    assert "1 accepted" in text and "3 online" in text and "up: 127.0.0.1" in text
    assert "stratum+tcp://127.0.0.1:" in text
    text = karoo_ctl(one.path, "workers", "--sort", "name", "--order", "asc")
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["WORKER", "STATE"] and len(lines) == 4
    place = words.width(lines[0][:lines[0].index("STATE")])
    for line in lines[1:]:
        assert words.width(line[:line.index("online")]) == place, text
    assert "鉱山の機械" in text and "scripted/1.0" in text
    text = karoo_ctl(one.path, "workers", "--limit", 1)
    assert "1 of 3 workers (--limit 0 shows all)" in text
    assert len(karoo_ctl(one.path, "workers", "--limit", 0).splitlines()) == 4
    assert karoo_ctl(one.path, "workers", "--state", "gone") == "no workers\n"
    text = karoo_ctl(one.path, "worker", "rig")
    assert "accepted" in text and "LISTENER" in text
    assert len(karoo_ctl(one.path, "sessions", "--search", "rig").splitlines()) == 2
    assert "upstream_user" in karoo_ctl(one.path, "session", 1)
    text = karoo_ctl(one.path, "pools")
    assert "active" in text and "standby" in text
    assert karoo_ctl(one.path, "bans") == "no bans\n"
    assert karoo_ctl(one.path, "ban", "203.0.113.7", "1.5", "--reason", "no\x1b[31m\u202e reason") == (
        "203.0.113.7 is banned for 90 seconds; 0 sessions ended\n")
    assert "no\\x1b[31m\\x202e reason" in karoo_ctl(one.path, "bans")
    assert "no longer banned" in karoo_ctl(one.path, "unban", "203.0.113.7")
    assert karoo_ctl(one.path, "kick", 1) == "Session 1 was disconnected\n"
    assert karoo_ctl(one.path, "kick", "rig") == "Worker rig was disconnected: 1 session\n"
    assert "was disconnected: 1 session" in karoo_ctl(one.path, "kick", "127.0.0.1")
    assert "is preferred" in karoo_ctl(one.path, "switch", "1")
    assert "is preferred" in karoo_ctl(one.path, "switch-pool", one.ask("pools")["items"][0]["name"])
    assert karoo_ctl(one.path, "kick", "--worker", "7", code=1) == "karoo: Worker 7 is not connected\n"
    assert karoo_ctl(one.path, "reload") == ("changed, and in force now:\n  ratelimit.deny\n  log.level\n"
                                             "changed, and in force after a restart:\n  proxy.listen\n")
    assert karoo_ctl(one.path, "reload") == "nothing has changed\n"
    assert karoo_ctl(one.path, "reload", code=1) == (
        "karoo: karoo.yaml: 2 faults\n  line 3: upstream.port: no number\n  line 4: what is this?\n")
    assert "all  " in karoo_ctl(one.path, "log-level")
    assert "karoo.session is debug" in karoo_ctl(one.path, "log-level", "debug", "--logger", "karoo.session")
    assert "_sweep_for_ever" in karoo_ctl(one.path, "stacks")
    assert karoo_ctl(one.path, "ping").startswith(f"karoo {__version__}, process {os.getpid()}, up ")
    text = karoo_ctl(one.path, "events", "--kind", "reload", "--kind", "kick")
    assert "BY" in text and ME in text and "karoo.session is debug" in text.splitlines()[-1]
    assert "2 of " in karoo_ctl(one.path, "events", "--limit", 2)


def test_json_is_for_programs(site, control, karoo_ctl):
    one = control()
    site.miner(one.proxy, user="a.鉱山")
    for words_ in (("--json", "workers"), ("workers", "--json")):
        found = json.loads(karoo_ctl(one.path, *words_))
        assert (found["total"], found["items"][0]["name"]) == (1, "鉱山")
    assert json.loads(karoo_ctl(one.path, "--json", "status"))["sessions"] == 1
    done = json.loads(karoo_ctl(one.path, "--json", "kick", "鉱山"))
    assert done == {"done": "Worker 鉱山 was disconnected: 1 session"}
    one.ask("ban", address="203.0.113.7", reason="no\x7f\x9b31m\u202e鉱山")
    text = karoo_ctl(one.path, "--json", "bans")
    assert json.loads(text)["items"][0]["why"] == "no\x7f\x9b31m\u202e鉱山"
    assert text.replace("\n", "").isprintable() and "鉱山" in text
    text = karoo_ctl(one.path, "--json", "kick", "鉱山", code=1)
    assert '"error": {"code": "not_found"' in text


@pytest.mark.parametrize(("given", "code", "why"), [
    (["frobnicate"], 2, "invalid choice"), ([], 2, "COMMAND"), (["kick"], 2, "required"),
    (["kick", "1", "--worker", "x"], 2, "not allowed"), (["ban"], 2, "ADDRESS"),
    (["ban", "10.0.0.1", "-5"], 2, ""), (["ban", "10.0.0.1", "soon"], 2, "above 0"), (["session", "x"], 2, "whole"),
    (["workers", "--limit", "-1"], 2, ""), (["workers", "--sort", "beauty"], 2, "sort must be one of"),
    (["ban", "nonsense"], 2, "no IP address"), (["log-level", "loud"], 2, "level must be one of"),
    (["switch", "nowhere"], 1, "there is no pool nowhere"), (["worker", "nobody"], 1, "no worker nobody")])
def test_exit_codes_of_wrong_words_and_refusals(control, karoo_ctl, given, code, why):
    assert why in karoo_ctl(control().path, *given, code=code)


def test_without_a_proxy_it_is_said_where_and_why(karoo, tmp_path, listens):
    for words_, why in ((("--socket", tmp_path / "s"), f"{tmp_path}/s: there is no such socket"),
                        (("-c", configuration(tmp_path)), f"{tmp_path}/karoo.sock: there is no such socket"),
                        (("-c", tmp_path / "nothing.yaml"), "no such file"),
                        (("--socket", tmp_path / "karoo.yaml"), "karoo.yaml: this is no socket"),
                        (("--socket", tmp_path), f"{tmp_path}: this is no socket"),
                        (("--socket", "x" * 200), "may have 107")):
        program = karoo("ctl", *words_, "status")
        assert program.end() == 69 and why in program.text, program.text


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_who_may_not_open_it_is_told_so(control, tmp_path):
    one = control()
    os.chmod(tmp_path, 0o755)
    for folder in (tmp_path.parent, tmp_path.parent.parent):
        os.chmod(folder, 0o755)
    script = ("from karoo.ctl import client\n"
              f"try: client.ask({one.path!r}, 'ping')\nexcept client.NoProxy as why: print(why)")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, user=65534, capture_output=True, text=True,
                          check=False)
    assert "you may not open it: control.mode decides" in done.stdout, done.stderr
    os.chmod(one.path, 0o666)
    script = f"from karoo.ctl import client; print(client.ask({one.path!r}, 'ban', {{'address': '203.0.113.9'}}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, user=65534, capture_output=True, text=True,
                          check=False)
    assert "is banned" in done.stdout, done.stderr
    by = one.ask("events", kind=["ban"])["items"][0]["details"]["by"]
    assert by.startswith(f"{pwd.getpwuid(65534).pw_name} by karoo ctl (process ")


def test_a_user_without_a_name_is_told_by_number(control, monkeypatch):
    one = control()
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    one.ask("ban", address="203.0.113.9")
    assert one.ask("events", kind=["ban"])["items"][0]["details"]["by"].startswith(f"user {os.getuid()} by karoo ctl")


def test_head_may_leave_early(site, control):
    one = control()
    for number in range(900):
        one.proxy.metrics.timeline.note("start", f"{number} " + "x" * 400)
    process = subprocess.Popen([sys.executable, "-m", "karoo", "ctl", "--socket", one.path, "events", "--limit", "0"],
                               cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    line = process.stdout.readline()
    process.stdout.close()
    assert b"WHAT" in line and process.stderr.read() == b"" and process.wait(20) == 0
    process.stderr.close()


# ---------------------------------------------------------------- words

@pytest.mark.parametrize(("text", "columns"), [
    ("rig", 3), ("鉱山", 4), ("e\u0301", 1), ("한글", 4), ("\u1112\u1161\u11ab", 2), ("ﾊﾝｶｸ", 4), ("👍", 2),
    ("Ünïcode", 7),
    ("क्षि", 3), ("", 0)])
def test_widths_are_those_of_a_terminal(text, columns):
    assert words.width(text) == columns


def test_texts_are_cut_and_padded_by_columns():
    assert words.cut("鉱山の機械", 5) == "鉱山…" and words.cut("鉱山の機械", 6) == "鉱山…"
    assert words.cut("abc", 3) == "abc" and words.cut("abcd", 3) == "ab…" and words.cut("abc", 0) == ""
    assert words.pad("鉱山", 6) == "鉱山  " and words.pad("7", 3, right=True) == "  7"
    for columns in range(1, 12):
        assert words.width(words.pad("a鉱e\u0301山の👍機械", columns)) == columns


def test_hostile_names_steer_no_terminal():
    shown = words.plain("a\x1b]0;x\x07\r\n\tb\x9b31m\u200f\U000e0041\ud800\u2028")
    assert shown.isprintable() and "\x1b" not in shown and "\u200f" not in shown
    assert len(words.plain("z" + "\u0301" * 500)) == 1 + words.MOST_MARKS
    assert words.plain("नमस्\u200dते") == "नमस्\u200dते"


def test_json_of_hostile_names_steers_no_terminal_and_is_equal():
    value = {"\x9b": ["鉱山", "é", "\x1b[31m\x7f\x80\x9b\u200d\u202e\u2028\ufeff\ud800\U000e0041", "\"\\\n\t/", 1.5]}
    for indent in (1, None):
        text = words.as_json(value, indent)
        assert json.loads(text) == value and text.replace("\n", "").isprintable() and "鉱山" in text and "é" in text
    assert "\\u007f" in text and "\\udb40\\udc41" in text


def test_a_table_fits_its_terminal_and_keeps_numbers_whole():
    rows = [{"index": 1, "name": "p" * 90, "state": "active", "since_unix": None, "sessions": 7, "connections": [],
             "user": "u" * 50, "tls": True, "reason": "r" * 200}]
    (title, line) = words.table(words.POOLS, rows, 100, False)
    assert words.width(line) <= 100 and "…" in line and " 7 " in line and title.startswith("N  POOL")
    assert "r" * 200 in words.table(words.POOLS, rows, None, False)[1]
    assert "\x1b[32mactive\x1b[0m" in words.table(words.POOLS, rows, None, True)[1]


@pytest.mark.parametrize(("number", "offset", "total", "told"), [
    (3, 0, 3, ""), (2, 0, 3, "2 of 3 bans (--limit 0 shows all)"), (2, 1, 3, "2 of 3 bans (after the first 1)"),
    (1, 1, 3, "1 of 3 bans (after the first 1; --limit 0 shows all)"),
    (0, 3, 3, "no bans after the first 3; there are 3"), (0, 0, 0, "no bans")])
def test_it_is_told_how_much_of_a_list_is_shown(number, offset, total, told):
    row = {"address": "192.0.2.1", "since_unix": 0, "seconds_left": 1, "times": 1, "why": "w"}
    lines = words.listed(words.BANS, {"items": [row] * number, "total": total, "offset": offset}, "bans", None, False)
    assert lines[-1] == told if told else len(lines) == 4


def test_a_reload_of_other_shape_is_told_as_well():
    assert words.changes({"changed": ["a"], "needs_restart": [], "pools_replaced": ["x\x1b"], "odd": 3}) == [
        "changed, and in force now:", "  a", "odd:", "  3", "pools replaced:", "  x\\x1b"]


# ---------------------------------------------------------------- the daemon

@pytest.fixture
def daemon(karoo, site, tmp_path):
    """`karoo run` with its control socket beside the configuration."""
    def start(**sections):
        pool = site.pool(difficulty=1e-6)
        path = configuration(tmp_path, upstream={"host": "127.0.0.1", "port": pool.port, "user": "w"},
                             accounting={"database": ""}, **sections)
        program = karoo("run", "-c", path)
        program.wait_for("miners may connect")
        return program, path
    return start


def do(karoo, path, *words_, code=0):
    program = karoo("ctl", "-c", path, *words_)
    assert program.end() == code, program.text
    return program.text


def test_a_daemon_is_commanded_and_takes_its_socket_away(daemon, karoo):
    program, path = daemon(control={"mode": "660"})
    sock = path.parent / "karoo.sock"
    assert stat.S_IMODE(sock.stat().st_mode) == 0o660
    assert f"process {program.process.pid}," in do(karoo, path, "ping")
    assert do(karoo, path, "log-level", "debug") == "The log level is debug until the next change\n"
    program.wait_for("The log level is debug")
    path.write_text(path.read_text().replace('"upstream"', '"ratelimit": {"max_connections_per_ip": 7}, "upstream"', 1))
    assert "  ratelimit.max_connections_per_ip" in do(karoo, path, "reload")
    program.wait_for(rf"{ME} by karoo ctl \(process \d+\): The configuration was read again")
    path.write_text(path.read_text().replace('"ratelimit": {', '"ratelimit": {"max": 1, '))
    text = do(karoo, path, "reload", code=1)
    assert "ratelimit.max" in text and "Traceback" not in text
    path.write_text("{")
    assert "not valid" in do(karoo, path, "reload", code=1)
    assert program.end(signal.SIGTERM) == 0 and not sock.exists() and "Traceback" not in program.text


def test_a_fault_in_one_configuration_commands_no_other_proxy(karoo, site, tmp_path):
    pool = site.pool(difficulty=1e-6)
    proxies = []
    for name, control in (("a.yaml", ""), ("b.yaml", "control: {socket: b.sock}\n")):
        (tmp_path / name).write_text(
            f"upstream:\n  host: 127.0.0.1\n  port: {pool.port}\n  user: w\nhttp: {{listen: ''}}\n"
            f"proxy: {{listen: '127.0.0.1:0'}}\naccounting: {{database: ''}}\n{control}")
        proxies.append(karoo("run", "-c", tmp_path / name))
    for program in proxies:
        program.wait_for("commands of karoo ctl come by")
    path = tmp_path / "b.yaml"
    faulty = path.read_text().replace("  port", "   port")
    path.write_text(faulty)
    # It is found by the file that it was started with.
    assert f"process {proxies[1].process.pid}," in do(karoo, path, "ping")
    assert "line 3: not valid YAML" in do(karoo, path, "reload", code=1)
    assert proxies[1].end(signal.SIGTERM) == 0
    for words_ in (("reload",), ("ban", "203.0.113.7"), ("ping",)):
        text = do(karoo, path, *words_, code=69)
        assert "line 3: not valid YAML" in text and "--socket PATH needs no configuration" in text
    assert "asks for" not in proxies[0].text and "read again" not in proxies[0].text
    assert f"process {proxies[0].process.pid}," in do(karoo, tmp_path / "a.yaml", "ping")


def test_a_killed_daemon_is_replaced_and_a_second_one_goes_on_without(daemon, karoo, tmp_path):
    program, path = daemon()
    program.process.kill()
    program.process.wait()
    assert "has ended" in do(karoo, path, "ping", code=69)
    again = karoo("run", "-c", path)
    again.wait_for("miners may connect")
    second = karoo("run", "-c", path)
    second.wait_for("miners may connect")
    second.wait_for(rf"belongs to another proxy that runs \(process {again.process.pid}\)")
    assert f"process {again.process.pid}," in do(karoo, path, "ping")
    assert second.end(signal.SIGTERM) == 0
    assert f"process {again.process.pid}," in do(karoo, path, "ping")


def test_no_socket_where_none_is_wanted(daemon, karoo, tmp_path):
    _, path = daemon(control={"socket": ""})
    assert "control.socket is empty" in do(karoo, path, "ping", code=69)
    assert not list(Path(tmp_path).glob("*.sock"))


def test_the_option_and_the_rights_fit():
    settings = config.from_dict({"upstream": {"host": "h", "port": 1, "user": "u"}})
    assert (settings.control.socket, settings.control.mode) == ("karoo.sock", "600")
    assert struct.calcsize("3i") == 12
