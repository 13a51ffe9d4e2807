"""`karoo run` under systemd: it takes the sockets that it is passed, and tells how it is, until it stops."""

import contextlib
import json
import re
import signal
import sys
import urllib.request

import gevent
import pytest
from gevent.select import select

from karoo.sim.scripted import ScriptedMiner
from tests.programs import configuration
from tests.test_systemd import V4, V6, Activated, Ear, needs_systemd

pytestmark = needs_systemd


@pytest.fixture
def daemon(site, tmp_path):
    """Starts the proxy by the first connection to one of its sockets: the program, and systemd's ear."""
    started, pool = [], site.pool()
    ear = Ear(str(tmp_path / "notify"))

    def start(hosts, names, *words, **sections):
        path = configuration(tmp_path, **{
            "upstream": {"host": "127.0.0.1", "port": pool.port, "user": "w"}, "accounting": {"database": ""},
            **sections})
        values = json.loads(path.read_text())
        if "listeners" in values:
            del values["proxy"]
            path.write_text(json.dumps(values))
        started.append(Activated(hosts, [f"--fdname={names}", "-E", f"NOTIFY_SOCKET={ear.name}", *words],
                                 [sys.executable, "-u", "-m", "karoo", "run", "-c", str(path)]))
        return started[-1]
    start.path = tmp_path / "karoo.yaml"
    start.ear = ear
    yield start
    for one in started:
        one.end()
    ear.close()


def told(ear, pattern, timeout=20):
    """Wait until systemd is told something; all that it was told until then."""
    texts = []
    with gevent.Timeout(timeout, AssertionError(f"no {pattern!r} within {timeout} s in {texts}")):
        while not any(re.search(pattern, text) for text in texts):
            select([ear.socket], [], [])
            texts += ear.heard()
    return texts


def test_it_serves_on_the_sockets_that_it_is_passed_and_says_how_it_is(daemon):
    program = daemon([V4, V4, V6], "miners:page:six", listeners=[
        {"name": "four", "address": "systemd:miners"}, {"name": "six", "address": "systemd:six"}],
        http={"listen": "systemd:page"})
    miners = [ScriptedMiner() for _ in range(2)]
    with contextlib.ExitStack() as stack:
        for number, miner in zip((0, 2), miners, strict=True):
            stack.callback(miner.close)
            miner.start(*program.addresses[number], user=f"u.rig{number}")
        host, port = program.addresses[1]
        with urllib.request.urlopen(f"http://{host}:{port}/readyz", timeout=10) as answer:
            assert answer.read() == b"ready\n"
        assert told(daemon.ear, "STATUS=2 miners; ready")[0] == "READY=1"
        program.process.send_signal(signal.SIGHUP)
        heard = told(daemon.ear, "READY=1")
        assert re.match(r"RELOADING=1\nMONOTONIC_USEC=\d+$", next(one for one in heard if "RELOADING" in one))
        program.process.terminate()
        assert "STOPPING=1" in told(daemon.ear, "STATUS=stopping")
        assert program.process.wait(15) == 0
    assert "Traceback" not in program.text



def test_systemd_is_told_that_it_lives(daemon, monkeypatch):
    program = daemon([V4], "miners", "-E", "WATCHDOG_USEC=2000000", listeners=[{"address": "systemd:miners"}])
    with contextlib.closing(program.connect()):
        for _ in range(2):
            told(daemon.ear, "WATCHDOG=1")
    assert program.process.poll() is None


def test_a_socket_that_is_not_there_or_that_nobody_takes(daemon):
    program = daemon([V4, V4], "miners:other", listeners=[{"address": "systemd:miners"}])
    with contextlib.closing(program.connect()):
        program.wait(lambda: "systemd passed a socket named other that no listener takes" in program.text)
    program = daemon([V4], "miners", listeners=[{"address": "systemd:racks"}])
    with contextlib.closing(program.connect()):
        program.wait(lambda: "karoo: systemd passed no socket named racks: it passed miners" in program.text)
    assert program.process.wait(15) == 69


def test_without_systemd_there_are_no_sockets(karoo, tmp_path):
    path = tmp_path / "karoo.yaml"
    path.write_text('{"upstream": {"host": "p", "user": "u"}, "proxy": {"listen": "systemd:miners"}}')
    program = karoo("run", "-c", path)
    assert program.end() == 69
    assert "karoo: there is no socket named miners" in program.text
