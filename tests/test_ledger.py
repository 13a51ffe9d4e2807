"""The ledger: adds up, survives a kill at any point, tells what is wrong with its file."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import gevent
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from karoo.accounting import ledger as ledgers
from karoo.accounting import schema
from karoo.accounting.deltas import SUMS, Deltas
from karoo.accounting.faults import LedgerError
from karoo.accounting.ledger import Ledger, kept_since, open_reader, set_aside, storable

ROOT = Path(__file__).parent.parent
MINUTE = 1_700_000_040  # the start of one, in the last hour and a half of a day
HOUR, DAY = 3600, 86_400
SPANS = ("minute", "hour", "day")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "karoo.db")


@pytest.fixture
def ledger(path):
    with closing(Ledger(path)) as one:
        yield one


def share(work=4.0, **more):
    """One share, answered here."""
    return Deltas(**{"answered_here": 1, "here_work": work, **more})


def summed(parts):
    """{worker: the sum of its deltas}, of (worker, deltas)."""
    found = {}
    for worker, deltas in parts:
        found.setdefault(worker, Deltas()).add(deltas)
    return found


def every(reader, span):
    return [(worker, deltas) for _, worker, deltas in reader.rows(span, 0, 1e12)]


def agree(reader):
    """The totals, after it was seen that the sums of every span are the same."""
    totals = reader.totals()
    for span in SPANS:
        assert summed(every(reader, span)) == totals, span
        assert reader.sums(span, 0, 1e12) == totals, span
    return totals


# ---------------------------------------------------------------- adding up

counts = st.integers(0, 2**40)
amounts = st.integers(0, 2**40).map(lambda whole: whole / 4)  # sums of these are exact
moments = st.none() | st.integers(0, 2**33).map(lambda whole: whole / 4)
reasons = st.dictionaries(st.sampled_from(["stale", "duplicate", "pool: 23 Low difficulty", "pool: \ud800 \0"]),
                          st.integers(1, 10**6))
deltas_of_any_kind = st.builds(Deltas, refused=reasons, first_share=moments, last_share=moments, **{
    name: amounts if Deltas.__annotations__[name] == "float" else counts for name in SUMS})
batches = st.dictionaries(st.sampled_from(["rig1", "rig2", "(other)", "Größe 2", "a\0b", "\udc80"]), deltas_of_any_kind)
writes = st.lists(st.tuples(st.integers(-200, 3000), batches), max_size=8)


@given(writes)
@example([(0, {"\ud800": share(), "\\ud800": share()})])  # stored alike
@settings(max_examples=60)
def test_any_batches_add_up_to_the_same_in_every_span(written):
    with tempfile.TemporaryDirectory() as folder, closing(Ledger(f"{folder}/karoo.db")) as ledger:
        expected = {step: {} for step in (60, HOUR, DAY)}
        for offset, batch in written:
            minute = MINUTE + offset * 60
            ledger.write(minute, batch)
            for step, rows in expected.items():
                for worker, deltas in batch.items():
                    clean = Deltas()
                    clean.add(deltas)
                    clean.refused = {storable(reason): count for reason, count in deltas.refused.items()}
                    key = minute // step * step, storable(worker)
                    rows.setdefault(key, Deltas()).add(clean)
        for span, step in zip(SPANS, expected, strict=True):
            found = list(ledger.rows(span, 0, 1e12))
            assert [start for start, _, _ in found] == sorted(start for start, _ in expected[step])
            assert {(start, worker): deltas for start, worker, deltas in found} == expected[step]
        totals = agree(ledger)
        assert totals == summed((worker, deltas) for (_, worker), deltas in expected[60].items())
        seen = {worker: [start for start, name in expected[60] if name == worker] for worker in totals}
        assert ledger.seen() == {worker: (min(starts), max(starts)) for worker, starts in seen.items()}


def test_what_is_derived():
    both = Deltas(gaps=2, gap_sum=20.0, gap_squares=200.0, refused={"stale": 2, "pool: 21 Job not found": 3, "low": 1})
    assert (both.cadence, both.latency) == ((10.0, 0.0), None)
    both.add(Deltas(gaps=2, gap_sum=40.0, gap_squares=800.0, latency_count=4, latency_sum=1.0, first_share=7.0))
    assert (both.cadence, both.latency) == ((15.0, 5.0), 0.25)
    assert (both.stale, both.refused_total, both.first_share, both.last_share) == (5, 6, 7.0, None)
    assert Deltas().cadence is None
    assert Deltas(gaps=3, gap_sum=0.3, gap_squares=0.03 - 1e-9).cadence[1] == 0.0, "no root of a rounding error"


def test_everything_comes_back_after_a_restart(path):
    whole = Deltas(**{name: number + 0.25 if Deltas.__annotations__[name] == "float" else number
                      for number, name in enumerate(SUMS)}, first_share=1.25, last_share=2.5, refused={"stale": 1})
    for _ in range(2):
        with closing(Ledger(path)) as ledger:
            ledger.write(MINUTE, {"rig1": whole})
    with closing(open_reader(path)) as reader:
        found = agree(reader)["rig1"]
        assert [getattr(found, name) for name in SUMS] == [2 * getattr(whole, name) for name in SUMS]
        assert (found.first_share, found.last_share, found.refused) == (1.25, 2.5, {"stale": 2})
        assert reader.work("minute", MINUTE, MINUTE + 1) == [("rig1", found.checked_work, found.pool_work)]
        assert reader.work("minute", MINUTE + 60, 1e12) == []


def test_reading_by_time_and_worker(ledger):
    for number in range(5):
        ledger.write(MINUTE + 60 * number, {"rig1": share(number), "rig2": share(refused={"stale": number + 1})})
    rows = ledger.rows("minute", MINUTE + 60, MINUTE + 180, "rig1")
    assert [(start, name, one.here_work) for start, name, one in rows] == [
        (MINUTE + 60, "rig1", 1.0), (MINUTE + 120, "rig1", 2.0)]
    assert ledger.sums("minute", MINUTE + 60, MINUTE + 180)["rig2"].refused == {"stale": 5}
    assert ledger.sums("minute", MINUTE, MINUTE + 120, "rig1") == {"rig1": Deltas(answered_here=2, here_work=1.0)}
    assert ledger.sums("day", 0, 1e12, "rig3") == {}


def test_a_batch_belongs_to_a_minute(ledger):
    with pytest.raises(ValueError, match="is not the start of a minute"):
        ledger.write(MINUTE + 1, {"rig1": share()})
    ledger.write(MINUTE, {})
    assert ledger.totals() == {}


def test_the_memory_for_names_is_bounded(ledger, monkeypatch):
    monkeypatch.setattr(ledgers, "MAX_CACHED", 10)
    for number in range(30):
        ledger.write(MINUTE, {f"rig{number}": share(), "rig0": share()})
        assert len(ledger._ids) <= 10
    totals = agree(ledger)
    assert totals["rig0"].accepted == 30 and len(totals) == 30


def test_ten_thousand_workers_take_far_less_than_a_second(ledger):
    batch = {f"rig{number}": share(first_share=1.5, last_share=2.5, refused={"stale": 1} if number % 20 == 0 else {})
             for number in range(10_000)}
    for _ in range(2):
        before = time.perf_counter()
        ledger.write(MINUTE, batch)
        assert time.perf_counter() - before < 1.0
    assert len(ledger.totals()) == 10_000


def test_it_is_used_from_the_thread_pool(path):
    pool = gevent.get_hub().threadpool
    ledger = pool.apply(Ledger, (path,))
    for number in range(20):
        gevent.joinall([pool.spawn(ledger.write, MINUTE, {f"rig{number % 3}": share()})])
    assert sum(one.accepted for one in pool.apply(agree, (ledger,)).values()) == 20
    pool.apply(ledger.prune, (time.time(),))
    ledger.close()


# ---------------------------------------------------------------- kill -9

WRITER = """
import os, sys
from karoo.accounting.deltas import Deltas
from karoo.accounting.ledger import Ledger
path, quiet, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ledger = Ledger(path)
number = 0
while True:
    if quiet == number and steps:  # die so many of SQLite's own steps later
        ledger._db.set_progress_handler(lambda: os.kill(os.getpid(), 9), steps)
    one = Deltas(answered_here=1, here_work=0.5, last_share=float(number), refused={"stale": 2})
    os.write(1, b"<")
    ledger.write(1_700_000_040 + number * 1800, {f"rig{n}": one for n in range(400)})
    os.write(1, b">")
    number += 1
"""


def write_until_killed(path, batches_first, steps=0):
    """How many batches were begun and how many done when the writer was killed."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path, str(batches_first), str(steps)], cwd=ROOT,
                              stdout=subprocess.PIPE, bufsize=0)
    said = b""
    while steps == 0 and said.count(b"<") <= batches_first:
        said += writer.stdout.read(1)
    if steps == 0:
        for _ in range(random.randrange(100_000)):  # 0 to some 5 ms, as long as a batch takes
            pass
        writer.kill()
    while rest := writer.stdout.read(100):
        said += rest
    assert writer.wait(20) == -signal.SIGKILL
    writer.stdout.close()
    return said.count(b"<"), said.count(b">")


def test_a_kill_loses_a_batch_or_nothing(path):
    """At random moments, and after a random number of the steps in which SQLite carries out one batch."""
    begun = done = inside = 0
    for number in range(10):
        steps = 0 if number % 2 else random.randrange(1000, 300_000)  # a batch takes some 300,000
        first, last = write_until_killed(path, random.randrange(4), steps)
        begun, done, inside = begun + first, done + last, inside + first - last
        with closing(open_reader(path)) as reader:
            totals = agree(reader)
        written = {(one.accepted, one.answered_here, one.here_work * 2, one.refused.get("stale", 0) / 2)
                   for one in totals.values()}
        whole = next(iter(written))[0] if written else 0
        assert written <= {(whole,) * 4}, "every worker has the same whole batches"
        assert done <= whole <= begun
        assert len(totals) in (0, 400)
        begun = done = whole
    assert inside >= 5, "the kills came in the middle"


# ---------------------------------------------------------------- versions

def older(statement):
    """A statement of the schema as if there had been a time before `blocks`."""
    return statement.replace(" blocks INTEGER NOT NULL,", "")


BEFORE = {name: 5 for name in SUMS if name != "blocks"}
OLDER = tuple(map(older, schema.MIGRATIONS[0]))
TO_THE_PRESENT = (*(f"ALTER TABLE {table} ADD COLUMN blocks INTEGER NOT NULL DEFAULT 7" for table in schema.TABLES),
                  *schema.MIGRATIONS[1])


def version_of(path):
    with closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


@pytest.fixture
def older_file(path, monkeypatch):
    monkeypatch.setattr(schema, "MIGRATIONS", (OLDER,))
    with closing(Ledger(path)) as ledger:
        ledger._db.execute("INSERT INTO workers VALUES (1, 'rig1', 0, 0)")
        for table in schema.TABLES:
            ledger._db.execute(f"INSERT INTO {table} VALUES (0, 1{', 5' * (len(SUMS) - 1)}, NULL, 9)")
    return path


def test_an_older_file_is_brought_up_to_date(older_file, monkeypatch):
    assert version_of(older_file) == 1
    monkeypatch.setattr(schema, "MIGRATIONS", (OLDER, TO_THE_PRESENT))
    with pytest.raises(LedgerError, match="is of version 1, and 2 is read here; start the proxy once"):
        open_reader(older_file)
    for _ in range(2):
        with closing(Ledger(older_file)) as ledger:
            assert agree(ledger)["rig1"] == Deltas(**BEFORE, blocks=7, last_share=9)
        assert version_of(older_file) == 2
    with closing(Ledger(older_file)) as ledger:
        ledger.write(0, {"rig1": Deltas(blocks=3, first_share=4.0)})
        assert agree(ledger)["rig1"] == Deltas(**BEFORE, blocks=10, first_share=4.0, last_share=9)


def test_a_migration_that_fails_changes_nothing(older_file, monkeypatch):
    monkeypatch.setattr(schema, "MIGRATIONS", (OLDER, (*TO_THE_PRESENT, "DROP TABLE no_such")))
    with pytest.raises(LedgerError, match="no such table: no_such"):
        Ledger(older_file)
    assert version_of(older_file) == 1
    monkeypatch.setattr(schema, "MIGRATIONS", (OLDER, TO_THE_PRESENT))
    with closing(Ledger(older_file)) as ledger:
        assert agree(ledger)["rig1"].blocks == 7


@pytest.mark.parametrize("opened", [Ledger, open_reader])
def test_a_file_of_a_newer_version_is_refused(ledger, opened, path):
    ledger._db.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match=r"written by a newer Karoo \(schema 99, known here is 2\); install") as told:
        opened(path)
    assert not told.value.damaged


# ---------------------------------------------------------------- faulty files

@pytest.mark.parametrize("opened", [Ledger, open_reader])
def test_a_foreign_database_is_left_alone(opened, path):
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (a)")
    before = Path(path).read_bytes()
    with pytest.raises(LedgerError, match="is the database of another program; name another file") as told:
        opened(path)
    assert not told.value.damaged
    assert Path(path).read_bytes() == before
    assert os.listdir(os.path.dirname(path)) == ["karoo.db"]


@pytest.mark.parametrize("opened", [Ledger, open_reader])
@pytest.mark.parametrize("content", [b"no database at all" * 100, b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 999])
def test_a_file_that_was_never_ours_is_not_said_to_be_damaged(opened, content, path):
    Path(path).write_bytes(content)
    with pytest.raises(LedgerError, match=r"karoo\.db: is no database of Karoo's; name another file") as told:
        opened(path)
    assert not told.value.damaged
    assert Path(path).read_bytes() == content


def test_a_damaged_file_is_said_to_be_damaged(path):
    Ledger(path).close()
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[:100] + b"\xff" * (len(content) - 100))
    with pytest.raises(LedgerError, match=r"karoo\.db: is damaged.*and a new one is begun") as told:
        Ledger(path)
    assert told.value.damaged


def test_damage_inside_is_found_when_it_is_met_and_the_file_set_aside(path):
    batch = {f"rig{number}": share() for number in range(2000)}
    with closing(Ledger(path)) as ledger:
        ledger.write(MINUTE, batch)
    content = bytearray(Path(path).read_bytes())
    content[40_960:-4096] = os.urandom(len(content) - 45_056)
    Path(path).write_bytes(content)
    ledger = Ledger(path)
    with pytest.raises(LedgerError, match="is damaged") as told:
        ledger.write(MINUTE, batch)
    assert told.value.damaged
    ledger.close()
    Path(path + "-wal").write_bytes(b"of the old one")
    there = set_aside(path)
    assert there.startswith(f"{path}.damaged-1") and Path(there).read_bytes()[:9000] == content[:9000]
    assert Path(there + "-wal").read_bytes() == b"of the old one"
    with closing(Ledger(path)) as ledger:
        ledger.write(MINUTE, batch)
        assert agree(ledger) == batch


def test_what_was_set_aside_is_not_overwritten(path):
    for number in range(3):
        Path(path).write_text(f"no database {number}")
        set_aside(path)
    kept = sorted(each.read_text() for each in Path(path).parent.iterdir())
    assert kept == [f"no database {number}" for number in range(3)]
    with pytest.raises(LedgerError, match=r"cannot be moved to .*No such file"):
        set_aside(path)


def test_an_empty_file_is_a_new_one(path):
    Path(path).touch()
    with pytest.raises(LedgerError, match=r"is of version 0.*start the proxy once"):
        open_reader(path)
    with closing(Ledger(path)) as ledger:
        assert ledger.totals() == {}


def test_places_where_no_file_can_be(tmp_path):
    for opened in (Ledger, open_reader):
        with pytest.raises(LedgerError, match=r"the directory .*/nowhere does not exist; make it"):
            opened(str(tmp_path / "nowhere" / "karoo.db"))
        with pytest.raises(LedgerError, match="is a directory; name a file in it"):
            opened(str(tmp_path))
    with pytest.raises(LedgerError, match="there is no such file; the proxy makes it when it starts"):
        open_reader(str(tmp_path / "karoo.db"))
    assert list(tmp_path.iterdir()) == []


POWERLESS = """
import os, sys
from karoo.accounting.deltas import Deltas
from karoo.accounting.ledger import Ledger, LedgerError, open_reader
if os.geteuid() == 0:  # whom no permission binds
    os.setgid(65534), os.setuid(65534)
for opened, name in ((Ledger, "new"), (Ledger, "there"), (open_reader, "there"), (open_reader, "secret")):
    try:
        with_it = opened(f"{sys.argv[1]}/{name}")
        if opened is Ledger:
            with_it.write(0, {"rig1": Deltas(answered_here=1)})
        print(name, with_it.totals())
    except LedgerError as error:
        print(name, error)
"""


def test_a_directory_that_may_not_be_written():
    with tempfile.TemporaryDirectory() as folder:
        for name in ("there", "secret"):
            with closing(Ledger(f"{folder}/{name}")) as ledger:
                ledger.write(MINUTE, {"rig1": share()})
        os.chmod(f"{folder}/secret", 0)
        os.chmod(f"{folder}/there", 0o444)
        os.chmod(folder, 0o555)
        told = subprocess.run([sys.executable, "-c", POWERLESS, folder], cwd=ROOT, text=True, check=True,
                              stdout=subprocess.PIPE).stdout.splitlines()
        os.chmod(folder, 0o755)
    assert told[0] == f"new {folder}/new: the directory {folder} may not be written; " \
                      "give it to the user that Karoo runs as"
    assert told[1].startswith(f"there {folder}/there: ") and "give it and its directory to the user" in told[1]
    assert told[2].startswith("there {'rig1': Deltas(answered_here=1"), "what may be read is read"
    assert told[3] == f"secret {folder}/secret: may not be read; give it to the user that Karoo runs as"


def test_a_full_disk_loses_no_count_and_counts_none_twice(ledger, path):
    ledger.write(MINUTE, {"rig1": share()})
    (pages,) = ledger._db.execute("PRAGMA page_count").fetchone()
    ledger._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    batch = {f"rig{number}": share(refused={"stale": 1}) for number in range(2000)}
    for _ in range(3):
        with pytest.raises(LedgerError, match=r"karoo\.db: the disk is full; make room on it") as told:
            ledger.write(MINUTE, batch)
        assert not told.value.damaged
        assert agree(ledger) == {"rig1": share()}
    ledger.write(MINUTE, {"rig1": share()})  # there is room for little
    ledger._db.execute("PRAGMA max_page_count = 1000000")
    ledger.write(MINUTE, batch)
    batch["rig1"].answered_here, batch["rig1"].here_work = 3, 12.0
    with closing(open_reader(path)) as reader:
        assert agree(reader) == batch


def test_a_file_that_is_locked(path, ledger, monkeypatch):
    monkeypatch.setattr(ledgers, "BUSY", 0.01)
    with closing(Ledger(path)) as other:
        ledger._db.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="another program has kept it locked"):
            other.write(MINUTE, {"rig1": share()})
        ledger._db.execute("COMMIT")
        other.write(MINUTE, {"rig1": share()})
    ledger.write(MINUTE, {"rig1": share()})
    assert agree(ledger)["rig1"].accepted == 2


def test_a_closed_ledger_says_so(path):
    ledger = Ledger(path)
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match="closed"):
        ledger.write(MINUTE, {"rig1": share()})


# ---------------------------------------------------------------- reading beside the writer

def test_a_slow_reader_hinders_no_writer(ledger, path):
    batch = {f"rig{number}": share() for number in range(50)}
    for number in range(3):
        ledger.write(MINUTE + 60 * number, batch)
    with closing(open_reader(path)) as reader:
        walk = reader.rows("minute", MINUTE, 1e12)
        assert next(walk)[0] == MINUTE
        ledger.write(MINUTE + 180, batch)
        ledger.prune(MINUTE + 3 * DAY)
        (busy, _, _) = ledger._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not busy, "the half-done walk holds nothing"
        assert [start for start, _, _ in walk] == [MINUTE] * 49, "and ends where the rows are gone"
        assert reader.totals()["rig1"].accepted == 4
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader._db.execute("DELETE FROM life")


def test_a_batch_that_comes_while_one_reads_is_seen_whole_or_not_at_all(ledger, path):
    ledger.write(MINUTE, {"rig1": share(refused={"stale": 1})})

    def write(statement):
        if "life_refused" in statement:  # the second of the reader's two
            ledger.write(MINUTE, {"rig1": share(refused={"stale": 1})})

    with closing(open_reader(path)) as reader:
        reader._db.set_trace_callback(write)
        for number in (1, 2, 3):
            assert reader.totals() == {"rig1": share(4.0 * number, refused={"stale": number}, answered_here=number)}


def test_a_reader_sees_whole_batches_of_a_writer_at_work(path):
    Ledger(path).close()
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path, "0", "0"], cwd=ROOT,
                              stdout=subprocess.PIPE, bufsize=0)
    try:
        counts = set()
        with closing(open_reader(path)) as reader:
            while len(counts) < 8:
                writer.stdout.read(100)
                totals = reader.totals()
                states = {(one.accepted, one.refused["stale"]) for one in totals.values()}
                assert len(states) <= 1 and all(stale == 2 * accepted for accepted, stale in states)
                counts |= states
    finally:
        writer.kill()
        writer.wait(20)
        writer.stdout.close()


# ---------------------------------------------------------------- pruning

def test_old_minutes_and_hours_go_and_days_stay(ledger):
    now = MINUTE + 400 * DAY
    ages = {"a minute": 60, "47 h": 47 * HOUR, "48 h": 48 * HOUR, "49 h": 49 * HOUR, "a year": 365 * DAY,
            "13 months": 395 * DAY}
    for age in ages.values():
        ledger.write((now - age) // 60 * 60, {"rig1": share(refused={"stale": 1})})
    totals = ledger.totals()
    assert ledger.prune(now) == 2 * (3 + 1)
    left = {span: [start for start, _, _ in ledger.rows(span, 0, 1e12)] for span in SPANS}
    assert left["minute"] == [(now - ages[age]) // 60 * 60 for age in ("48 h", "47 h", "a minute")]
    assert len(left["hour"]) == 5 and min(left["hour"]) == (now - 365 * DAY) // HOUR * HOUR
    assert len(left["day"]) == len({(now - age) // DAY for age in ages.values()})
    assert min(left["minute"]) >= kept_since("minute", now) and min(left["hour"]) >= kept_since("hour", now)
    assert summed(every(ledger, "day")) == ledger.totals() == totals
    assert ledger.prune(now) == 0
    (rows,) = ledger._db.execute("SELECT COUNT(*) FROM minute_refused").fetchone()
    assert rows == 3


def test_one_call_prunes_no_more_than_its_bound(ledger, monkeypatch):
    monkeypatch.setattr(ledgers, "PRUNED_AT_ONCE", 30)
    for number in range(2):
        ledger.write(MINUTE + 60 * number, {f"rig{each}": share() for each in range(50)})
    assert [ledger.prune(MINUTE + 3 * DAY) for _ in range(5)] == [30, 30, 30, 10, 0]
    assert list(ledger.rows("minute", 0, 1e12)) == []
    assert len(ledger.totals()) == 50
