"""The accounts outlive the process: restarts, kills, full disks, damaged files; and all books agree."""

import json
import re
import signal
import time
from contextlib import closing
from pathlib import Path

import gevent
import pytest

from karoo.accounting import bookkeeper, faults
from karoo.accounting.deltas import Deltas
from karoo.accounting.ledger import Ledger, open_reader
from karoo.sim.miner import MinerOptions, SimulatedMiner
from tests.programs import configuration, get
from tests.site import EASY

FAST = 0.5  # seconds between two flushes
CHECKED = {"start_diff": EASY, "min_diff": 1e-9}


@pytest.fixture
def database(tmp_path):
    return str(tmp_path / "karoo.db")


def kept(database):
    """{worker: what it did}, in the file."""
    with closing(open_reader(database)) as reader:
        return reader.totals()


def mine(miner, count):
    for _ in range(count):
        assert miner.submit(miner.find_share()) is True


def keeping(site, pool, database):
    return site.proxy(pool, vardiff=CHECKED, accounting={"database": database, "flush_seconds": FAST})


def wait_kept(site, database, count):
    """Until the file holds so many accepted shares."""
    def written():
        try:
            return sum(one.accepted for one in kept(database).values()) == count
        except faults.LedgerError:
            return False  # not there yet, or damaged
    site.wait(written, what=f"{count} shares in the file")


# ---------------------------------------------------------------- restarts

def test_accounts_go_on_after_a_restart(site, database):
    pool = site.pool()
    proxy = keeping(site, pool, database)
    mine(site.miner(proxy, user="w.rig1"), 6)
    mine(site.miner(proxy, user="w.rig2"), 3)
    proxy.stop()
    booked = {name: site.booked(proxy, name) for name in ("rig1", "rig2")}
    assert [one.accepted for one in booked.values()] == [6, 3]
    assert kept(database) == booked, "what was done since the last flush is written at the end"
    again = keeping(site, pool, database)
    site.wait(lambda: len(again.accounts.workers) == 2)
    assert site.booked(again).accepted == 9
    mine(site.miner(again, user="w.rig1"), 4)
    state = again.snapshot()
    assert (state["accounts"]["accepted"], state["accounts"]["workers"]) == (13, 2)
    assert state["ledger"]["database"] == database and state["ledger"]["fault"] is None
    again.stop()
    assert {name: one.accepted for name, one in kept(database).items()} == {"rig1": 10, "rig2": 3}
    assert site.booked(again, "rig1").accepted == 10


def test_hashrates_go_on_after_a_restart(site, database):
    now = time.time()
    with closing(Ledger(database)) as ledger:
        for hours in range(24):
            ledger.write(int(now - hours * 3600 - 1800) // 60 * 60,
                         {"rig1": Deltas(answered_here=1, here_work=3600.0, pool_work=1800.0)})
    proxy = keeping(site, site.pool(), database)
    site.wait(lambda: "rig1" in proxy.accounts.workers and proxy.accounts.workers["rig1"].rates)
    site.wait(lambda: proxy.snapshot()["accounts"]["hashrate"]["24h"] > 0.9 * 2**32)
    told = proxy.snapshot()["accounts"]
    assert told["hashrate_paid"]["24h"] == pytest.approx(told["hashrate"]["24h"] / 2)
    assert told["hashrate"]["1h"] == pytest.approx(2**32, rel=0.1)


def test_without_a_database_the_accounts_are_kept_in_memory(site):
    proxy = site.proxy(site.pool())
    mine(site.miner(proxy), 2)
    assert site.booked(proxy).accepted == 2
    assert proxy.snapshot()["ledger"] == {
        "database": None, "fault": None, "restored": True, "seconds_since_write": None}
    proxy.stop()
    assert not proxy.books._unwritten


# ---------------------------------------------------------------- when the file cannot be written

def test_a_full_disk_is_a_loud_warning_and_nothing_is_lost(site, database):
    proxy = keeping(site, site.pool(), database)
    miner = site.miner(proxy, user="w.rig1")
    mine(miner, 2)
    wait_kept(site, database, 2)
    proxy.books._ledger._db.execute("PRAGMA max_page_count = 1")  # never less than it has: no page more
    crowd = [site.miner(proxy, user=f"w.{'long' * 40}{number}") for number in range(40)]
    for one in crowd:
        mine(one, 1)
    site.wait_logged("THE ACCOUNTS ARE NOT KEPT")
    assert "the disk is full; make room on it" in proxy.snapshot()["ledger"]["fault"]
    mine(miner, 3)
    assert site.booked(proxy).accepted == 45
    proxy.books._ledger._db.execute("PRAGMA max_page_count = 100000")
    site.wait_logged("written again")
    wait_kept(site, database, 45)
    assert len(site.logged("NOT KEPT")) == 1, "not at every try"
    site.wait(lambda: proxy.snapshot()["ledger"]["fault"] is None)
    assert kept(database)["rig1"] == site.booked(proxy, "rig1")


def damage(database):
    """A ledger of ours whose tables are nonsense."""
    with closing(Ledger(database)) as ledger:
        ledger.write(0, {"rig1": Deltas(answered_here=7)})
    content = Path(database).read_bytes()
    Path(database).write_bytes(content[:100] + b"\xff" * (len(content) - 100))


def test_a_damaged_file_is_set_aside_at_the_start(site, database):
    damage(database)
    content = Path(database).read_bytes()
    proxy = keeping(site, site.pool(), database)
    mine(site.miner(proxy, user="w.rig1"), 2)
    wait_kept(site, database, 2)
    assert site.logged("THE ACCOUNTS ARE NOT KEPT") and site.logged("the accounts go on in a new file")
    (aside,) = Path(database).parent.glob("karoo.db.damaged-*[0-9]")
    assert aside.read_bytes() == content
    site.wait(lambda: proxy.snapshot()["ledger"]["fault"] is None)


@pytest.mark.parametrize("content", [b"the operator's own notes", b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_not_ours_is_left_alone(site, database, content):
    Path(database).write_bytes(content)
    proxy = keeping(site, site.pool(), database)
    mine(site.miner(proxy), 2)
    site.wait_logged("is no database of Karoo's; name another file")
    proxy.stop()
    assert Path(database).read_bytes() == content
    assert site.logged("2 accepted shares of 1 workers could not be written and ARE LOST")


def test_what_was_is_known_before_anything_is_written(site, database, monkeypatch):
    """The first reading fails for a moment: it is tried again, and nothing is forgotten."""
    with closing(Ledger(database)) as ledger:
        ledger.write(0, {"rig1": Deltas(answered_here=100)})
    totals, tries = Ledger.totals, []

    def fails_once(ledger):
        tries.append(1)
        if len(tries) == 1:
            raise faults.LedgerError(database, "the disk failed")
        return totals(ledger)

    monkeypatch.setattr(bookkeeper, "RETRY_EVERY", 0.0)
    monkeypatch.setattr(Ledger, "totals", fails_once)
    proxy = keeping(site, site.pool(), database)
    mine(site.miner(proxy, user="w.rig1"), 2)
    site.wait(lambda: site.booked(proxy).accepted == 102)
    wait_kept(site, database, 102)


def test_a_second_proxy_may_not_write_the_same_file(site, database):
    first = keeping(site, site.pool(), database)
    mine(site.miner(first), 1)
    wait_kept(site, database, 1)
    second = keeping(site, site.pool(), database)
    site.wait_logged("is kept by another proxy that runs")
    assert second.snapshot()["ledger"]["fault"] and first.snapshot()["ledger"]["fault"] is None


def test_a_file_that_is_removed_meanwhile_is_missed(site, database):
    proxy = keeping(site, site.pool(), database)
    miner = site.miner(proxy)
    mine(miner, 1)
    wait_kept(site, database, 1)
    Path(database).unlink()
    mine(miner, 2)
    site.wait_logged("was removed or replaced while it was in use")
    wait_kept(site, database, 2)
    assert site.booked(proxy).accepted == 3


def test_a_clock_that_is_set_back_stops_no_writing(site, database, monkeypatch):
    proxy = keeping(site, site.pool(), database)
    miner = site.miner(proxy)
    mine(miner, 1)
    wait_kept(site, database, 1)
    monkeypatch.setattr(bookkeeper, "time", lambda: time.time() - 3600)
    mine(miner, 2)
    wait_kept(site, database, 3)
    assert site.booked(proxy).accepted == 3


def test_a_file_that_is_damaged_later_is_set_aside_and_the_totals_stay(site, database, monkeypatch):
    proxy = keeping(site, site.pool(), database)
    miner = site.miner(proxy, user="w.rig1")
    mine(miner, 2)
    wait_kept(site, database, 2)
    write = Ledger.write

    def fails_once(ledger, minute, batch):
        monkeypatch.setattr(Ledger, "write", write)
        raise faults.LedgerError(database, "is damaged", damaged=True)

    monkeypatch.setattr(Ledger, "write", fails_once)
    mine(miner, 3)
    wait_kept(site, database, 3)
    assert site.booked(proxy).accepted == 5
    (aside,) = Path(database).parent.glob("karoo.db.damaged-*[0-9]")
    assert sum(one.accepted for one in kept(str(aside)).values()) == 2


def test_a_directory_that_is_missing_is_waited_for(site, tmp_path, monkeypatch):
    monkeypatch.setattr(bookkeeper, "RETRY_EVERY", 0.0)
    database = tmp_path / "not yet" / "karoo.db"
    proxy = keeping(site, site.pool(), str(database))
    mine(site.miner(proxy), 2)
    site.wait_logged("does not exist; make it")
    database.parent.mkdir()
    wait_kept(site, str(database), 2)
    site.wait_logged("written again")


def test_a_disk_that_hangs_stops_neither_the_miners_nor_the_end(site, database, monkeypatch):
    monkeypatch.setattr(bookkeeper, "PATIENCE", 0.2)
    proxy = keeping(site, site.pool(), database)
    miner = site.miner(proxy)
    mine(miner, 1)
    wait_kept(site, database, 1)
    with closing(Ledger(database)) as other:
        other._db.execute("BEGIN IMMEDIATE")  # SQLite waits, in its thread, for faults.BUSY seconds
        mine(miner, 5)
        before = time.monotonic()
        proxy.stop()
        assert time.monotonic() - before < faults.BUSY / 2
        assert site.logged("did not take the last accounts")
        other._db.execute("ROLLBACK")


def test_minutes_that_cannot_be_written_are_kept_apart_and_few(site, database, monkeypatch):
    monkeypatch.setattr(bookkeeper, "MOST_MINUTES", 3)
    books = bookkeeper.Bookkeeper(site.proxy(site.pool()).accounts, database, FAST)
    for minute in range(0, 600, 60):
        books._keep(minute, "rig1", Deltas(answered_here=1))
    assert list(books._unwritten) == [0, 60, 120]
    assert [one["rig1"].answered_here for one in books._unwritten.values()] == [1, 1, 8]


# ---------------------------------------------------------------- all books agree

COUNTS = ("accepted", "answered_here", "forwarded", "pool_accepted", "refused_total")
AS_TOLD = ("accepted", "below_pool", "forwarded", "pool_accepted", "rejected")
LOST = "connection to the pool lost before it answered"


class Town:
    """A pool and miners here, the proxy as a process that is killed and started again."""

    def __init__(self, site, karoo, folder):
        self.site, self.karoo = site, karoo
        self.pool = site.pool(difficulty=4 * EASY, job_every=1.0)
        self.database = str(folder / "karoo.db")
        self.folder = folder
        self.proxy = self.start("127.0.0.1:0")
        self.stratum = int(self.proxy.wait_for(r"miners may connect to 127.0.0.1:(\d+)")[1])
        self.miners = [SimulatedMiner(MinerOptions("127.0.0.1", self.stratum, f"w.rig{n}", hashrate=2000 * (n + 1),
                                                   backoff_min=0.05, backoff_max=0.2)) for n in range(3)]
        self.running = [gevent.spawn(miner.run) for miner in self.miners]

    def start(self, listen):
        config = configuration(
            self.folder, proxy={"listen": listen},
            upstream={"host": "127.0.0.1", "port": self.pool.port, "user": "wallet", "backoff_min_ms": 20,
                      "backoff_max_ms": 100},
            vardiff={"start_diff": EASY, "min_diff": EASY, "max_diff": EASY},
            accounting={"database": "karoo.db", "flush_seconds": FAST},
            log={"report_every_seconds": 1, "format": "json"})
        return self.karoo("run", "-c", config)

    def more(self, count):
        """Until the pool took so many shares more."""
        wanted = self.pool.books.accepted + count
        self.pool.wait(lambda: self.pool.books.accepted >= wanted, 30)

    def kill(self):
        self.proxy.end(signal.SIGKILL)
        self.proxy = self.start(f"127.0.0.1:{self.stratum}")

    def rest(self):
        """Let the miners end, and wait until every book tells the same twice: {what tells: counts}."""
        for miner in self.miners:
            miner.stop()
        gevent.joinall(self.running, timeout=5)
        page = self.proxy.wait_for(r"status page on (http://[^\"]+)")[1]
        told = {}

        def agree():
            reports = re.findall(r'\{[^\n]*"message": "report: all workers[^\n]*\}', self.proxy.text)
            told["report"] = [json.loads(reports[-1])["report"][key] for key in AS_TOLD] if reports else []
            told["status"] = [json.loads(get(f"{page}status"))["accounts"][key] for key in AS_TOLD]
            whole = Deltas()
            for one in kept(self.database).values():
                whole.add(one)
            told["file"] = [getattr(whole, key) for key in COUNTS]
            self.lost = whole.refused.get(LOST, 0)
            return told["report"] == told["status"] == told["file"]

        try:
            self.site.wait(agree, 10)
        except AssertionError:
            raise AssertionError(f"the books differ: {told}") from None
        return dict(zip(COUNTS, told["file"], strict=True))


def test_reconnects_and_a_pool_restart_leave_all_books_agreeing(site, karoo, tmp_path):
    town = Town(site, karoo, tmp_path)
    town.more(20)
    for miner in town.miners:
        miner.close()  # they reconnect
    town.more(20)
    town.pool.kick_all()
    town.more(20)
    town.pool.stop()
    town.pool.start()
    town.more(20)
    counts = town.rest()
    assert counts["pool_accepted"] <= town.pool.books.accepted <= counts["pool_accepted"] + town.lost
    assert counts["answered_here"] > 100, "three of four are below the pool's difficulty"
    totals = kept(town.database)
    for number in range(3):
        paid = town.pool.books.user(f"wallet.rig{number}").accepted
        assert totals[f"rig{number}"].pool_accepted <= paid
        assert paid <= totals[f"rig{number}"].pool_accepted + totals[f"rig{number}"].refused.get(LOST, 0)
        assert totals[f"rig{number}"].pool_work == pytest.approx(
            totals[f"rig{number}"].pool_accepted * town.pool.difficulty)
    assert town.proxy.end(signal.SIGTERM) == 0
    assert {name: one.accepted for name, one in kept(town.database).items()} == {
        name: one.accepted for name, one in totals.items()}


def test_a_kill_loses_at_most_what_came_since_the_last_flush(site, karoo, tmp_path):
    """What the pool took in the last flush interval before a kill, by the pool's own books, is the most that may be
    missing; and never is anything counted twice."""
    town = Town(site, karoo, tmp_path)
    may_miss = 0
    for _ in range(3):
        town.more(30)
        started = len(town.pool.shares)
        gevent.sleep(2 * FAST)  # a flush interval, with room for the write itself: what the kill may take
        town.kill()
        may_miss += len(town.pool.shares) - started
    town.more(30)
    counts = town.rest()
    missing = town.pool.books.accepted - counts["pool_accepted"]
    assert 0 <= missing <= may_miss + town.lost
    assert counts["pool_accepted"] >= 90
    assert town.proxy.end(signal.SIGTERM) == 0
