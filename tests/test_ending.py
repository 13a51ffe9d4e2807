"""How the proxy ends: shares under way are settled first; a second signal ends that; and what cannot go on ends it."""

import signal
import socket
import sqlite3
from contextlib import suppress
from time import monotonic

import gevent
import pytest
from gevent.event import Event

from karoo.metrics import Metrics
from karoo.proxy import greenlets
from karoo.proxy import proxy as proxy_module
from karoo.proxy.greenlets import Greenlets
from karoo.sim.scripted import ScriptedMiner
from tests.programs import configuration

POOL_DIFFICULTY = 1e-5


@pytest.fixture
def begun(karoo, site, tmp_path):
    """A proxy as a process, and a miner at work there; with options of its sections."""
    miners = []

    def start(pool, **sections):
        program = karoo("run", "-c", configuration(tmp_path, **{
            "upstream": {"host": "127.0.0.1", "port": pool.port, "user": "w"}, **sections}))
        port = int(program.wait_for(r"miners may connect to 127\.0\.0\.1:(\d+)").group(1))
        miner = ScriptedMiner()
        miners.append(miner)
        miner.start("127.0.0.1", port, user="u.rig")
        return program, miner
    yield start
    for miner in miners:
        miner.close()


def test_shares_under_way_are_settled_and_booked_before_the_end(site, begun, tmp_path):
    pool = site.pool(difficulty=POOL_DIFFICULTY)
    program, miner = begun(pool)
    pool.options.reply_delay = 1.0
    share = miner.submit_async(miner.find_share(difficulty=POOL_DIFFICULTY))
    site.wait(lambda: pool.shares)
    program.process.send_signal(signal.SIGTERM)
    assert miner.verdict(share, 10) is True
    miner.wait_closed(10)
    assert program.end() == 0 and "Traceback" not in program.text
    with sqlite3.connect(tmp_path / "karoo.db") as ledger:
        paid, = ledger.execute("SELECT sum(pool_accepted) FROM minute").fetchone()
    ledger.close()
    assert paid == 1


def test_a_share_that_waits_for_its_worker_s_name_is_settled_too(site, begun):
    pool = site.pool(difficulty=POOL_DIFFICULTY)
    program, miner = begun(pool)
    pool.options.reply_delay = 1.0  # for the name, and once more for the share
    share = miner.submit_async(miner.find_share(difficulty=POOL_DIFFICULTY))
    site.wait(lambda: any(len(client.users) == 2 for client in pool.connections))
    program.process.send_signal(signal.SIGTERM)
    assert miner.verdict(share, 10) is True
    assert program.end() == 0


def test_miners_whose_shares_never_cease_get_every_verdict(site, monkeypatch):
    monkeypatch.setattr(proxy_module, "QUIET_WITHIN", 0.2)
    pool = site.pool(difficulty=POOL_DIFFICULTY)
    proxy = site.proxy(pool, proxy={"listen": "127.0.0.1:0", "drain_seconds": 60})
    miner, asked, drained = site.miner(proxy), [], Event()
    pool.options.reply_delay = 0.3

    def mine():
        while not drained.is_set():
            asked.append(miner.submit_async(miner.find_share(difficulty=POOL_DIFFICULTY)))
            gevent.sleep(0.02)
    mining = gevent.spawn(mine)
    site.wait(lambda: pool.shares)
    began = monotonic()
    proxy.drain(Event())
    drained.set()
    mining.join()
    assert monotonic() - began < 30 and not any(route.owes_verdicts for route in proxy.routes.routes)
    proxy.stop()
    miner.wait_closed(10)
    told = []
    for one in asked:
        with suppress(AssertionError):  # those that were sent in vain
            told.append(miner.verdict(one))
    assert pool.books.accepted == told.count(True) == len(told) > 0


@pytest.mark.parametrize(("seconds", "again"), [(0.3, False), (60, True)])
def test_the_wait_for_the_pool_has_an_end(site, begun, seconds, again):
    pool = site.pool(difficulty=POOL_DIFFICULTY)
    program, miner = begun(pool, proxy={"listen": "127.0.0.1:0", "drain_seconds": seconds})
    pool.hold_answers = True
    miner.submit_async(miner.find_share(difficulty=POOL_DIFFICULTY))
    site.wait(lambda: pool.shares)
    began = monotonic()
    program.process.send_signal(signal.SIGTERM)
    program.wait_for("stopping")
    if again:
        program.process.send_signal(signal.SIGTERM)
        program.wait_for("stopping at once")
    assert program.end() == 0
    assert monotonic() - began < 15


def test_nobody_new_is_let_in_while_it_drains(site, begun):
    pool = site.pool(difficulty=POOL_DIFFICULTY)
    program, miner = begun(pool, proxy={"listen": "127.0.0.1:0", "drain_seconds": 60})
    pool.hold_answers = True
    miner.submit_async(miner.find_share(difficulty=POOL_DIFFICULTY))
    site.wait(lambda: pool.shares)
    port = miner._connection._sock.getpeername()[1]
    program.process.send_signal(signal.SIGINT)
    program.wait_for("stopping")

    def is_refused():
        late = ScriptedMiner()
        try:
            late.connect("127.0.0.1", port)
        except ConnectionRefusedError:
            return True
        late.close()
        return False
    site.wait(is_refused)
    assert not miner.closed
    program.process.send_signal(signal.SIGINT)
    assert program.end() == 0


def test_a_pool_is_not_dialled_once_more(site, begun):
    pool = site.pool()
    program, miner = begun(pool)
    miner.close()
    program.wait_for("session ended|closed the connection|is gone")
    program.process.send_signal(signal.SIGTERM)
    assert program.end() == 0
    assert program.text.count("connecting to") == 1


def test_the_log_file_is_opened_again(site, karoo, tmp_path):
    log = tmp_path / "karoo.log"
    program = karoo("run", "-c", configuration(tmp_path, log={"file": "karoo.log"}))
    site.wait(lambda: log.exists() and "miners may connect" in log.read_text(), 20)
    log.rename(tmp_path / "moved.log")
    program.process.send_signal(signal.SIGUSR1)
    site.wait(log.exists)
    program.process.send_signal(signal.SIGTERM)
    assert program.end() == 0
    assert "stopping" in log.read_text() and "stopping" not in (tmp_path / "moved.log").read_text()


def test_signals_to_a_process_that_just_starts_are_obeyed_when_it_has(karoo, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # what is imported is told at once: gevent long before the rest
    program = karoo("run", "-c", configuration(tmp_path, log={"file": "karoo.log"}))
    program.wait_for(r"\| +gevent\._util\n")
    for number in (signal.SIGHUP, signal.SIGUSR1):
        program.process.send_signal(number)
    log = tmp_path / "karoo.log"
    with gevent.Timeout(20, AssertionError(f"the signals were lost:\n{program.text}")):
        while program.process.poll() is None and not (log.exists() and {"SIGHUP: The configuration was read again",
                                                                        "the log file was opened again"} <= told(log)):
            gevent.sleep(0.02)
    assert program.end(signal.SIGTERM) == 0, program.text[-500:]


def told(log):
    """Which of some sentences a log holds."""
    text = log.read_text()
    return {one for one in ("SIGHUP: The configuration was read again", "the log file was opened again") if one in text}


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_other_commands_are_ended_by_these_signals(karoo, number):
    former = signal.signal(number, signal.SIG_DFL)  # whoever has the tests run under nohup passes on that it is ignored
    try:
        program = karoo("simulate-pool", "--port", 0)
    finally:
        signal.signal(number, former)
    program.wait_for("pool on 127")
    assert program.end(number) == -number


def test_nothing_is_read_again_while_it_drains(site, begun, tmp_path, monkeypatch):
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        pool = site.pool(difficulty=POOL_DIFFICULTY)
        program, miner = begun(pool, proxy={"listen": "127.0.0.1:0", "drain_seconds": 60})
        pool.hold_answers = True
        miner.submit_async(miner.find_share(difficulty=POOL_DIFFICULTY))
        site.wait(lambda: pool.shares)
        program.process.send_signal(signal.SIGTERM)
        program.wait_for("stopping")
        program.process.send_signal(signal.SIGHUP)
        program.wait_for("SIGHUP: the configuration is not read again, as the proxy stops")
        assert program.end(signal.SIGTERM) == 0
        systemd.setblocking(False)
        heard = []
        with suppress(BlockingIOError):
            while True:
                heard.append(systemd.recv(10_000).split(b"\n")[0])
    assert b"STOPPING=1" in heard
    assert not any(one.startswith(b"RELOADING") or one == b"READY=1" for one in heard[heard.index(b"STOPPING=1"):])


# ---------------------------------------------------------------- greenlets that cannot be kept alive

@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setattr(greenlets, "RESTART_AFTER", 0.001)
    why, given_up = [], Event()
    one = Greenlets(Metrics(), lambda text: (why.append(text), given_up.set()))
    yield one, why, given_up
    one.end()


def test_a_greenlet_that_dies_is_started_again(kept):
    one, why, _ = kept
    lives, alive = [], Event()

    def work():
        lives.append(1)
        if len(lives) < 3:
            raise RuntimeError("made up for the test")
        alive.set()
        gevent.sleep(60)
    one.keep(work, "a clerk")
    assert alive.wait(5) and len(lives) == 3 and why == [] and one._metrics.exceptions == 2


def test_one_that_dies_again_and_again_ends_the_process(kept):
    one, why, given_up = kept

    def work():
        raise RuntimeError("made up for the test")
    one.keep(work, "a clerk")
    assert given_up.wait(5)
    assert why[0].startswith("bugs ended a clerk 20 times within 0 s")


class Death(BaseException):
    """Nothing that a bug raises."""


def test_one_that_dies_of_no_exception_ends_the_process(kept):
    one, why, given_up = kept

    def work():
        raise Death
    one.keep(work, "a clerk")
    assert given_up.wait(5) and "a clerk has died" in why[0]


@pytest.fixture
def at_work(kept):
    """One that works on and on."""
    working = Event()

    def work():
        working.set()
        gevent.sleep(60)
    kept[0].keep(work, "a clerk")
    assert working.wait(5)
    return kept


def test_one_that_is_killed_ends_the_process(at_work):
    one, why, given_up = at_work
    one._kept[0].kill()
    assert given_up.wait(5) and why == ["a clerk has died: GreenletExit()"]


def test_an_end_that_is_meant_is_no_death(at_work):
    one, why, _ = at_work
    one.end()
    gevent.idle()
    assert one._kept[0].dead and why == []
