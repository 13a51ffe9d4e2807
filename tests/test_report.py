"""`karoo report`: its table, CSV and JSON against numbers worked out by hand, and its refusals."""

import argparse
import csv
import io
import json
import random
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karoo.accounting import report as reports
from karoo.accounting.deltas import Deltas
from karoo.accounting.ledger import Ledger
from karoo.accounting.schema import STEPS

ROOT = Path(__file__).parent.parent


def at(text):
    """The Unix time of, say, `01-31 18:30` in 2026."""
    return int(datetime.fromisoformat(f"2026-{text}").replace(tzinfo=timezone.utc).timestamp())


NOON = at("01-31 12:00")  # the present, unless a test says otherwise
RIG1 = Deltas(
    answered_here=30, here_work=1500.0, forwarded=12, forwarded_work=660.0, pool_accepted=10, taken_work=600.0,
    pool_work=1944.0, latency_count=2, latency_sum=0.05, gaps=5, gap_sum=75.0, gap_squares=1225.0,
    first_share=NOON - 9.5, last_share=NOON - 8.0, refused={"stale": 8, "duplicate": 2})
RIG1_LATER = replace(
    RIG1, forwarded=13, pool_refused=2, pool_refused_work=388.0, first_share=NOON - 7.0, last_share=NOON - 6.5,
    refused={"stale": 6, "pool: 21 Job not found": 1, "pool: 23 Low difficulty\n": 1, "duplicate": 2})
RIG2 = Deltas(forwarded=10, forwarded_work=43200.0, pool_accepted=10, taken_work=43200.0, pool_work=43200.0, blocks=1)


@pytest.fixture
def path(tmp_path):
    """A ledger of one morning, which two workers did something in, one of them twice."""
    path = str(tmp_path / "karoo.db")
    with closing(Ledger(path)) as ledger:
        ledger.write(at("01-31 00:00"), {"rig1": RIG1})
        ledger.write(at("01-31 06:10"), {"rig1": RIG1_LATER})
        ledger.write(at("01-31 11:59"), {"rig2": RIG2})
    return path


@pytest.fixture
def report(path, capsys):
    def run(*words, database=path, now=NOON, algorithm="sha256d"):
        """The exit code, what was printed, and the complaint."""
        parser = argparse.ArgumentParser()
        reports.add_arguments(parser)
        try:
            args = parser.parse_args(["--database", database, *words])
            code = reports.run(args.database, args, algorithm, now)
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()
    return run


# ---------------------------------------------------------------- the forms

TABLE = """\
2026-01-31 00:00 to 2026-02-01 00:00, UTC
hashrates over 12 h 00 min, 2026-01-31 00:00 to 2026-01-31 12:00: from the shares checked here, and from what the pool \
paid
30 shares paid: by chance alone the two may differ by 18 %
worker  accepted  here  to pool  taken  refused    stale  difficulty  diff. paid   hashrate  rate paid  differs  \
interval  latency  refused for
------------------------------------------------------------------------------------------------------------------\
-----------------------------
rig2          10     0       10     10        0   0.00 %       43.2k       43.2k  4.30 GH/s  4.30 GH/s   +0.0 %  \
       -        -
rig1          80    60       25     20       20  15.00 %       4.20k       3.89k   430 MH/s   387 MH/s  -10.0 %  \
    15 s    25 ms  14 stale, 4 duplicate, 1 pool: 21 Job not found, and 1 more
------------------------------------------------------------------------------------------------------------------\
-----------------------------
total         90    60       35     30       20  13.64 %       47.4k       47.1k  4.72 GH/s  4.68 GH/s   -0.9 %  \
    15 s    25 ms  14 stale, 4 duplicate, 1 pool: 21 Job not found, and 1 more
"""


def test_the_table(report):
    assert report() == (0, TABLE, "")
    assert report("--day", "2026-01-31") == (0, TABLE, "")


def test_json(report):
    code, out, _ = report("--json")
    rig2, rig1 = json.loads(out)
    assert code == 0
    assert (rig2["worker"], rig2["blocks"], rig2["cadence_seconds"], rig2["first_share"]) == ("rig2", 1, None, None)
    per_share = 2**256 / (0xFFFF << 208)
    assert {key: rig1.pop(key) for key in ("hashrate_checked", "hashrate_paid", "difference_percent",
                                           "cadence_spread_seconds", "pool_latency_ms")} == pytest.approx(
        {"hashrate_checked": per_share / 10, "hashrate_paid": per_share * 0.09, "difference_percent": -10.0,
         "cadence_spread_seconds": 20**0.5, "pool_latency_ms": 25.0})
    assert rig1 == {
        "from": "2026-01-31T00:00:00Z", "to": "2026-02-01T00:00:00Z", "worker": "rig1", "accepted": 80,
        "answered_here": 60, "forwarded": 25, "pool_accepted": 20, "pool_refused": 2, "refused": 20, "stale": 15,
        "duplicate": 4, "low": 1, "stale_percent": 15.0, "blocks": 0, "difficulty_accepted": 4200.0,
        "difficulty_answered_here": 3000.0, "difficulty_forwarded": 1320.0, "pool_difficulty_accepted": 3888.0,
        "pool_difficulty_refused": 388.0, "cadence_seconds": 15.0,
        "first_share": "2026-01-31T11:59:50Z", "last_share": "2026-01-31T11:59:53Z",
        "refused_by_reason": {"stale": 14, "duplicate": 4, "pool: 21 Job not found": 1, "pool: 23 Low difficulty\n": 1},
    }


def test_csv_holds_what_json_holds(report):
    rows = list(csv.DictReader(io.StringIO(report("--csv")[1])))
    objects = json.loads(report("--json")[1])
    assert [row["worker"] for row in rows] == ["rig2", "rig1"]
    for row, one in zip(rows, objects, strict=True):
        assert json.loads(row.pop("refused_by_reason")) == one.pop("refused_by_reason")
        assert row == {key: "" if value is None else str(value) for key, value in one.items()}
    assert report("--csv", "--day", "2026-01-30")[1].count("\n") == 1, "the header alone"


def test_what_peers_say_steers_no_terminal(path, report):
    with closing(Ledger(path)) as ledger:
        ledger.write(NOON, {"\x1b[2J" + "x" * 60: Deltas(answered_here=1, here_work=1e6,
                                                        refused={"pool: \x1b[31m\nred": 1})})
    out = report()[1]
    assert "\\x1b[2J" + "x" * 32 + "… " in out and "1 pool: \\x1b[31m\\nred\n" in out
    assert "\x1b" not in out


def test_scrypt_takes_fewer_hashes_a_share(report):
    of = {name: json.loads(report("--json", *words, algorithm=algorithm)[1])[0]["hashrate_checked"]
          for name, words, algorithm in (("sha256d", (), "sha256d"), ("none", (), "none"), ("scrypt", (), "scrypt"),
                                         ("told", ("--algorithm", "scrypt"), "sha256d"))}
    assert of["none"] == of["sha256d"] == pytest.approx(of["scrypt"] * 65536) and of["told"] == of["scrypt"]


# ---------------------------------------------------------------- which rows

def taken(report, *words, **more):
    """{worker: accepted}, and from when to when."""
    code, out, err = report(*words, "--json", **more)
    assert (code, err) == (0, "")
    rows = json.loads(out)
    return {row["worker"]: row["accepted"] for row in rows}, *({row["from"][5:16], row["to"][5:16]} for row in rows[:1])


def test_ranges_and_workers(report):
    assert taken(report, "--worker", "rig1") == ({"rig1": 80}, {"01-31T00:00", "02-01T00:00"})
    assert taken(report, "--from", "2026-01-31T06:10") == ({"rig1": 40, "rig2": 10}, {"01-31T06:10", "02-01T00:00"})
    assert taken(report, "--from", "2026-01-31 06:11") == ({"rig2": 10}, {"01-31T06:11", "02-01T00:00"})
    assert taken(report, "--to", "2026-01-31T06:10") == ({"rig1": 40}, {"01-31T00:00", "01-31T06:10"})
    assert taken(report, "--to", "2026-01-31T06:11Z")[0] == {"rig1": 80}
    assert taken(report, "--from", "2026-01-01", "--to", "2026-01-31")[0] == {"rig1": 80, "rig2": 10}
    assert taken(report, "--from", "0001-01-01", "--to", "9999-12-31")[0] == {"rig1": 80, "rig2": 10}
    assert taken(report, "--day", "2026-01-30") == ({},)


def test_the_hashrate_is_over_the_time_in_which_accounts_were_kept(report):
    whole = json.loads(report("--json", "--from", "2026-01-01")[1])
    assert whole[0]["hashrate_checked"] == json.loads(report("--json")[1])[0]["hashrate_checked"]
    (later,) = json.loads(report("--json", "--from", "2026-01-31T11:00", "--to", "2026-01-31T12:00")[1])
    assert later["hashrate_checked"] == pytest.approx(12 * whole[0]["hashrate_checked"])


def test_where_minutes_and_hours_are_gone_the_range_is_widened_and_says_so(path, report):
    words = ("--from", "2026-01-31T06:11", "--to", "2026-01-31T11:59")
    assert taken(report, *words) == ({},)
    for now, fro, to, rows in ((at("02-03 00:00"), "01-31T06:00", "01-31T12:00", {"rig1": 40, "rig2": 10}),
                               (at("02-28 00:00") + 366 * 86_400, "01-31T00:00", "02-01T00:00",
                                {"rig1": 80, "rig2": 10})):
        with closing(Ledger(path)) as ledger:
            ledger.prune(now)
        assert taken(report, *words, now=now) == (rows, {fro, to})
        assert "UTC; widened, as minutes are kept for 48 hours and hours for a year\n" in report(*words, now=now)[1]
    assert "widened" not in report("--day", "2026-01-31", now=now)[1]


def test_half_a_widened_hour_is_not_told_twice(path, report):
    """Minutes are kept since 06:05; both ends lie in that hour."""
    now = at("02-02 06:05")
    assert taken(report, "--from", "2026-01-31T06:06", "--to", "2026-01-31T06:20", now=now) \
        == ({"rig1": 40}, {"01-31T06:06", "01-31T06:20"})
    assert taken(report, "--from", "2026-01-31T06:01", "--to", "2026-01-31T06:05", now=now) \
        == ({"rig1": 40}, {"01-31T06:00", "01-31T07:00"})


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_pieces_cover_a_period_once_and_are_few(start, length):
    start, end = start * 60, (start + length) * 60
    found = list(reports.pieces(start, end))
    assert len(found) <= 5
    place = start
    for span, first, last in found:
        assert first == place and first < last and first % STEPS[span] == last % STEPS[span] == 0
        place = last
    assert place == (end if found else start) and (found or start == end)


def test_any_range_sums_its_minutes(tmp_path, report):
    path, rng = str(tmp_path / "random.db"), random.Random(7)
    minutes = {at("01-30 00:00") + 60 * rng.randrange(2160): rng.randrange(1, 100) for _ in range(150)}
    with closing(Ledger(path)) as ledger:
        for minute, count in minutes.items():
            ledger.write(minute, {"rig1": Deltas(answered_here=count)})
    for _ in range(30):
        start, end = sorted(at("01-30 00:00") + 60 * rng.randrange(2161) for _ in range(2))
        if start == end:
            continue
        words = [word for name, moment in (("--from", start), ("--to", end)) for word in
                 (name, datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%dT%H:%M"))]
        expected = sum(count for minute, count in minutes.items() if start <= minute < end)
        assert taken(report, *words, database=path)[0].get("rig1", 0) == expected


# ---------------------------------------------------------------- refusals

@pytest.mark.parametrize(("words", "code", "complaint"), [
    (["--day", "31.1.2026"], 2, "argument --day: '31.1.2026' is not a day; write it as 2026-01-31"),
    (["--day", "2026-02-30"], 2, "argument --day: '2026-02-30' is not a day; write it as 2026-01-31"),
    (["--from", "yesterday"], 2, "argument --from: 'yesterday' is not a time; write it as 2026-01-31 or "
                                 "2026-01-31T18:30 (UTC)"),
    (["--to", "2026-01-31T25:00"], 2, "argument --to: '2026-01-31T25:00' is not a time; write it as 2026-01-31 or "
                                      "2026-01-31T18:30 (UTC)"),
    (["--day", "2026-01-31", "--to", "2026-01-31"], 2, "give either --day, or --from and --to"),
    (["--from", "2026-01-31T07:00", "--to", "2026-01-31T07:00"], 2,
     "nothing lies between --from 2026-01-31 07:00 and --to 2026-01-31 07:00 (UTC)"),
    (["--from", "2026-02-01"], 2, "2026-02-01 00:00 UTC is still to come"),
    (["--worker", "Rig1"], 2, "no worker 'Rig1' in these accounts; did you mean rig1?"),
    (["--csv", "--json"], 2, "argument --json: not allowed with argument --csv"),
])
def test_refusals(report, words, code, complaint):
    found, out, err = report(*words)
    assert (found, out) == (code, "")
    assert err.splitlines()[-1].partition(": ")[2].removeprefix("error: ") == complaint


def test_databases_that_are_none(report, tmp_path):
    nowhere, other = str(tmp_path / "nowhere.db"), tmp_path / "other.db"
    other.write_text("no database")
    assert report(database=nowhere) == (69, "", f"karoo: {nowhere}: there is no such file; the proxy makes it when it "
                                                "starts: is this the right name?\n")
    assert report(database=str(other))[0::2] == (
        69, f"karoo: {other}: is no database of Karoo's; name another file for the accounts (file is not a database)\n")
    assert report(database="")[0::2] == (78, "karoo: accounting.database is empty in this configuration, so no "
                                             "accounts are kept\n")


def test_a_time_without_accounts(report, tmp_path):
    assert report("--day", "2026-01-30")[:2] == (
        0, "2026-01-30 00:00 to 2026-01-31 00:00, UTC: nothing was accounted\n")
    empty = str(tmp_path / "empty.db")
    Ledger(empty).close()
    assert report(database=empty)[0::2] == (0, "")


# ---------------------------------------------------------------- beside other programs

def test_it_reads_while_the_proxy_writes(path, report):
    with closing(Ledger(path)) as ledger:
        ledger.write(NOON - 60, {"rig2": RIG2})
        ledger._db.execute("BEGIN IMMEDIATE")  # half of a batch
        ledger._db.execute("UPDATE day SET pool_accepted = 0")
        assert taken(report)[0] == {"rig1": 80, "rig2": 20}
        ledger._db.execute("ROLLBACK")


def test_a_reader_that_leaves_early_sees_no_traceback(path):
    with closing(Ledger(path)) as ledger:
        ledger.write(NOON, {f"rig{number}": RIG2 for number in range(5000)})
    running = subprocess.Popen([sys.executable, "-m", "karoo", "report", "--database", path, "--day", "2026-01-31"],
                               cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    running.stdout.close()
    assert (running.wait(20), running.stderr.read()) == (0, b"")
    running.stderr.close()
