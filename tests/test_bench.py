"""The benchmark: its statistics, its file, its table, its pictures; what it counts as lost; a small run as a whole."""

import json
import os
import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import gevent
import pytest
from gevent import socket
from gevent.server import StreamServer

from karoo.sim import bench, benchreader, benchtable
from karoo.sim.benchcases import added, faults_of, worst_wait
from karoo.sim.benchfigures import (
    MEANINGS,
    Figure,
    Result,
    ResultError,
    Run,
    curve,
    median_curve,
    percentile,
    read,
)
from karoo.sim.benchhelper import BenchError, Helper, cpu_seconds
from karoo.web.openapi import document

# ---------------------------------------------------------------- statistics


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (10, 1), (11, 2), (50, 5), (99, 10), (100, 10)])
def test_a_percentile_is_a_value_that_occurred(percent, value):
    assert percentile(range(1, 11), percent) == value
    assert percentile([7.0], percent) == 7.0


def test_a_figure_is_the_median_and_the_range_of_its_rounds():
    assert Figure.of([5.0, 1.0, 3.0]) == Figure(3.0, 1.0, 5.0)
    assert Figure(25.0, 20.0, 50.0).inverse(1e6) == Figure(40_000.0, 20_000.0, 50_000.0)


def test_curves():
    assert curve([3.0, 1.0, 2.0])[::50] == [1.0, 2.0, 3.0]
    assert len(curve([1.0])) == 101
    assert median_curve([[1.0, 9.0], [2.0, 7.0], [3.0, 8.0]]) == [2.0, 8.0]


def test_the_worst_answer_is_of_a_share_under_way_while_the_job_was():
    second = 10**9
    shares = [(0, 5.0), (1 * second, 0.5), (3 * second, 0.7), (6 * second, 9.0)]
    assert worst_wait(shares, 2 * second, 4 * second) == 5.0  # sent before, answered within
    assert worst_wait(shares[1:], 2 * second, 4 * second) == 0.7
    assert worst_wait([shares[1], shares[3]], 2 * second, 4 * second) == 0.5  # none: the nearest


def test_what_pages_add_to_an_answer_is_above_nothing():
    assert added(300.0, 1500.0) == 1200.0
    assert added(1500.0, 300.0) == added(300.0, 300.0) == 1.0


@pytest.mark.parametrize(("room", "sizes"), [
    (None, [100, 1000, 5000, 10_000, 20_000]), (19_872, [100, 1000, 5000, 10_000, 19_800]),
    (20_000, [100, 1000, 5000, 10_000, 20_000]), (896, [100, 800]), (150, [100]), (64, [])])
def test_as_many_miners_as_fit(room, sizes):
    assert bench.growth_sizes(room) == sizes


# ---------------------------------------------------------------- the file

def run_of(miners=1000, factor=1.0, **more):
    figures = {name: Figure(100.0 * factor, 95.0 * factor, 104.0 * factor) for name in MEANINGS}
    curves = {name: [factor * percent for percent in range(101)] for name in ("job", "answer")}
    return Run(miners, 5, figures, curves, **more)


def result_of(*runs, **machine):
    return Result({"CPU": "one", **machine}, 10.0, 0.0, list(runs))


def test_a_file_is_read_as_it_was_written(tmp_path):
    result = result_of(run_of(100), run_of(1000, 2.0, faults=["1 answers lost"]))
    result.write(tmp_path / "a.json")
    assert read(tmp_path / "a.json") == result
    assert read(tmp_path / "a.json").run(1000).faults == ["1 answers lost"]
    assert result.run(7) is None


@pytest.mark.parametrize(("text", "fault"), [
    (None, "cannot be read: No such file"), ("", "holds no JSON"), ("{", "holds no JSON"), ("[]", "is not a result"),
    ('{"name": "x"}', "is not a result"), ('{"karoo_bench": 99}', "format 99"),
    ('{"karoo_bench": 1}', "damaged: KeyError: 'machine'"), ("\xff", "holds no JSON"),
])
def test_an_alien_file_is_refused(tmp_path, text, fault):
    if text is not None:
        (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ResultError, match=re.escape(fault)):
        read(tmp_path / "a.json")


@pytest.mark.parametrize("damage", [
    lambda run: run.update(figures=[]), lambda run: run.update(miners="many"), lambda run: run.update(curves=None),
    lambda run: run["figures"].update(storm=[1, 2]), lambda run: run["figures"].update(storm=[0, 0, 0]),
    lambda run: run["figures"].update(storm=[1.0, "x", 1.0]), lambda run: run["figures"].update(storm=3),
    lambda run: run["figures"].update(storm=[1.0, 2.0, 3.0]), lambda run: run.pop("faults"),
    lambda run: run["curves"].update(job=[True]), lambda run: run["figures"].update(storm=[float("nan")] * 3),
])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "a.json"
    result_of(run_of()).write(path)
    found = json.loads(path.read_text())
    damage(found["runs"][0])
    path.write_text(json.dumps(found))
    with pytest.raises(ResultError, match="damaged"):
        read(path)


# ---------------------------------------------------------------- the table

@pytest.mark.parametrize(("name", "old", "new", "mark"), [
    ("storm", (100, 99, 101), (109, 108, 110), ""), ("storm", (100, 99, 101), (115, 114, 116), "WORSE"),
    ("storm", (100, 99, 101), (80, 79, 81), "better"), ("here_rate", (100, 99, 101), (80, 79, 81), "WORSE"),
    ("here_rate", (100, 99, 101), (115, 114, 116), "better"), ("storm", (100, 80, 120), (115, 110, 130), "WORSE?"),
])
def test_what_differs_is_marked(name, old, new, mark):
    assert benchtable.mark(MEANINGS[name], Figure(*old), Figure(*new)) == mark


def test_two_results_side_by_side():
    now, earlier = run_of(factor=2.0), run_of()
    del earlier.figures["storm"]
    lines = benchtable.compared(now, earlier).splitlines()
    assert len(lines) == len(MEANINGS) + 2
    assert re.search(r"CPU a job and miner +100 us +200 us +2\.00 +WORSE$", "\n".join(lines), re.MULTILINE)
    assert re.search(r"until each has a job +- +200 ms +-$", "\n".join(lines), re.MULTILINE)
    assert lines[0].split() == ["figure", "earlier", "now", "ratio"]


@pytest.mark.parametrize(("value", "text"), [(1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (1234.5, "1,234"),
                                             (28_649.0, "28,600")])
def test_numbers_have_three_digits_or_so(value, text):
    assert benchtable.number(value) == text


def test_the_growth_is_a_table_in_markdown():
    lines = benchtable.growth([run_of(100), replace(run_of(19_800), figures={})]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| 100 | 100 us |") and lines[3].startswith("| 19,800 | - |")


def test_what_else_is_not_the_same_is_told():
    now, earlier = result_of(CPU="two", taken="today"), result_of(taken="yesterday")
    assert benchtable.differences(now, earlier)[:-1] == ["CPU: one earlier, two now"]
    assert "hypervisor" not in benchtable.machine(now)
    assert "gave 7% of" in benchtable.machine(replace(now, stolen=0.07))


# ---------------------------------------------------------------- the pictures

@pytest.mark.parametrize("earlier", [None, run_of(factor=1.5)])
def test_the_picture_of_a_run(tmp_path, earlier):
    picture = pytest.importorskip("karoo.sim.benchpicture")
    picture.run(tmp_path / "a.svg", run_of(), earlier)
    picture.run(tmp_path / "b.svg", run_of(), earlier)
    text = (tmp_path / "a.svg").read_text()
    assert (tmp_path / "b.svg").read_text() == text
    ElementTree.fromstring(text)
    assert "Karoo with 1,000 miners" in text and ("earlier" in text) == (earlier is not None)


def test_the_picture_of_the_growth(tmp_path):
    picture = pytest.importorskip("karoo.sim.benchpicture")
    some = replace(run_of(5000), figures={"job_cpu": Figure(1.0, 1.0, 1.0)})
    picture.growth(tmp_path / "a.svg", result_of(run_of(100), run_of(1000), some))
    text = (tmp_path / "a.svg").read_text()
    ElementTree.fromstring(text)
    assert all(label in text for label in ("CPU a share", "goes to the pool", ">5,000<", "miners"))


# ---------------------------------------------------------------- what is lost

def proxy_that(answer):
    """A server that lets miners in, and answers the share of an id by `answer(id)`: lines."""
    def serve(sock, _address):
        with sock, sock.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                number = message["id"]
                if message["method"] == "mining.subscribe":
                    told = [{"id": number, "result": [[], "00", 4], "error": None}]
                elif message["method"] == "mining.authorize":
                    told = [{"id": number, "result": True, "error": None},
                            {"id": None, "method": "mining.notify", "params": ["a", *[""] * 6, "5f", True]}]
                else:
                    told = answer(number)
                sock.sendall(b"".join(json.dumps(one).encode() + b"\n" for one in told))
    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    return server


def verdict(number, result=True, error=None):
    return {"id": number, "result": result, "error": error}


@pytest.mark.parametrize(("answer", "books"), [
    (lambda number: [verdict(number)], {"accepted": 6}),
    (lambda number: [verdict(number)] * (1 + (number == 4)), {"accepted": 6, "doubled": 2}),
    (lambda number: [verdict(number)] * (number != 4), {"accepted": 4, "lost": 2}),
    (lambda number: [verdict(number, None, [21, "Job not found", None]) if number == 5 else verdict(number)],
     {"accepted": 4, "refused": {"Job not found": 2}}),
    (lambda number: [verdict(number, None, "no")], {"accepted": 0, "refused": {"no": 6}}),
])
def test_every_answer_is_counted(answer, books):
    server = proxy_that(answer)
    with Helper("karoo.sim.benchload", server.server_port, 0.3) as load:
        assert len(load.call("connect", 2)) == 2
        load.call("each", 3)
        # an answer that comes behind the one that was waited for is heard with the next share's
        assert load.call("books") == {"sent": 6, "doubled": 0, "lost": 0, "refused": {}, **books}
    server.stop()


def test_a_proxy_that_hangs_up_ends_it_with_words():
    server = proxy_that(lambda number: [])
    with Helper("karoo.sim.benchload", server.server_port) as load:
        load.call("connect", 1)
        server.stop()
        server = StreamServer(("127.0.0.1", server.server_port), lambda sock, _: sock.close())
        server.start()
        with pytest.raises(BenchError, match=r"bench\.m1 (was disconnected|lost its connection)"):
            load.call("connect", 1)
    server.stop()


def test_the_pool_finds_shares_that_it_would_not_have_taken():
    with Helper("karoo.sim.benchpool", 1e-10) as pool:
        sock = socket.create_connection(("127.0.0.1", pool.take()))
        with sock, sock.makefile("rwb") as lines:
            def ask(number, method, *params):
                lines.write(json.dumps({"id": number, "method": method, "params": params}).encode() + b"\n")
                lines.flush()
                return json.loads(lines.readline())
            assert ask(1, "mining.subscribe", "x")["result"][2] == 8
            assert ask(2, "mining.authorize", "w.m0", "x")["result"] is True
            assert json.loads(lines.readline())["method"] == "mining.set_difficulty"
            job_id, *_, ntime, _ = json.loads(lines.readline())["params"]
            for number, (user, job, extranonce2) in enumerate([
                    ("w.m0", job_id, "00" * 8), ("w.m0", job_id, "00" * 8), ("w.m0", "no", "00" * 8),
                    ("w.m1", job_id, "00" * 8), ("w.m0", job_id, "00" * 4)], 3):
                assert ask(number, "mining.submit", user, job, extranonce2, ntime, "00000000") == verdict(number)
            assert pool.call("check") == [1, {"Duplicate share": 1, "Job not found": 1, "Unauthorized worker": 1,
                                              "Invalid extranonce2 size": 1}]
            assert pool.call("check") == [0, {}]


def test_a_helper_that_dies_is_noticed():
    with Helper("karoo.sim.benchload") as load:  # without a port
        with pytest.raises(BenchError, match="benchload ended with code 1"):
            load.take()
        assert load.pid > 0


@pytest.mark.parametrize(("books", "taken", "wrong", "faults"), [
    ({}, 9, {}, []), ({}, None, {}, []),
    ({"lost": 2}, 9, {}, ["2 answers lost"]), ({"doubled": 1}, None, {}, ["1 answers that nobody waited for"]),
    ({"refused": {"Job not found": 3}}, 9, {}, ["3 shares refused: Job not found"]),
    ({}, 8, {}, ["9 shares told true, and the pool took 8"]),
    ({}, 8, {"Duplicate share": 1}, ["1 shares at the pool that it would not have taken: Duplicate share",
                                     "9 shares told true, and the pool took 8"]),
])
def test_what_should_not_be_is_said_in_words(books, taken, wrong, faults):
    assert faults_of({"lost": 0, "doubled": 0, "accepted": 9, "refused": {}, **books}, taken, wrong) == faults


def test_processor_time_is_what_the_process_itself_would_say():
    before = time.process_time()
    assert before <= cpu_seconds(os.getpid()) <= time.process_time()


# ---------------------------------------------------------------- the reader of pages

WORKER, SESSION = "a rig/1", 7
MESSAGE = b'{"type": "delta"}'
LIVE_AND_WELL = (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", bytes((0x81, len(MESSAGE))) + MESSAGE)


def status_page_that(answer, live=LIVE_AND_WELL, sessions=True):
    """A server whose page of a path is `answer(path)`: a status and a body. A WebSocket gets the bytes of `live`, and
    must have answered what is no bytes before the next ones."""
    first = {"items": [{"worker": WORKER, "id": SESSION}] if sessions else []}

    def serve(sock, _address):
        with sock, sock.makefile("rb") as lines:
            while request := lines.readline():
                path = request.split()[1].decode()
                while lines.readline().strip():
                    pass
                if path == benchreader.LIVE:
                    for part in live:
                        if isinstance(part, int):
                            assert len(lines.read(part)) == part
                        else:
                            sock.sendall(part)
                    if live is LIVE_AND_WELL:
                        lines.read()
                    return
                status, body = (200, json.dumps(first)) if path.endswith("sessions?limit=1") else answer(path)
                sock.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    return server


def read_all(server):
    """What the reader tells after a round in which it fetched everything."""
    with Helper("karoo.sim.benchreader", server.server_port) as reader:
        reader.call("begin")
        with gevent.Timeout(30):
            while reader.call("unread"):
                gevent.sleep(0.01)
        told = reader.call("end")
        server.stop()
        return told


def test_every_page_is_read():
    asked = Counter()
    server = status_page_that(lambda path: (200, asked.update([path]) or "fine"))
    told = read_all(server)
    assert told["faults"] == [] and told["messages"] >= 1 and told["seconds"] > 0
    assert set(asked) == set(benchreader.pages(WORKER, SESSION))
    assert 0 <= sum(asked.values()) - told["pages"] <= benchreader.CONNECTIONS, "but for those under way in the end"
    assert max(asked.values()) - min(asked.values()) <= benchreader.CONNECTIONS, "one after the other"


def test_the_pages_are_all_that_there_are(site):
    """Whoever adds an endpoint adds it to what is read."""
    described = document(site.proxy(site.pool()).view, commands=False)["paths"]
    own = {"name": quote(WORKER, safe=""), "id": str(SESSION)}
    read = {path.partition("?")[0] for path in benchreader.pages(WORKER, SESSION)}
    assert {f"/api/v1{path.format(**own)}" for path in described} <= read
    static = {path.name for path in (Path(benchreader.STATIC)).rglob("*.*")}
    assert {"index.html", "app.js", "base.css"} <= static <= {path.rpartition("/")[2] for path in read}


def test_what_is_no_200_is_named():
    told = read_all(status_page_that(lambda path: (503, "no room") if path == "/metrics" else (200, "fine")))
    assert [text.partition(" (")[0] for text in told["faults"]] == ["GET /metrics was answered 503: no room"]


@pytest.mark.parametrize(("live", "fault"), [
    ((b"HTTP/1.1 400 Bad Request\r\n\r\n",), "/live: answered 'HTTP/1.1 400 Bad Request'"),
    ((*LIVE_AND_WELL,), "/live: the proxy ended the WebSocket"),
    ((LIVE_AND_WELL[0], b"\x88\x02\x03\xf3"), "/live: no message, but b'\\x03\\xf3'"),
    ((LIVE_AND_WELL[0], b"\x89\x02hi", 8, *LIVE_AND_WELL[1:], b"\x88\x00"), "/live: no message, but b''"),
])
def test_a_websocket_that_ends_is_a_fault(live, fault):
    told = read_all(status_page_that(lambda path: (200, "fine"), list(live)))
    assert told["faults"] == [fault]
    assert told["messages"] == live.count(LIVE_AND_WELL[1])


def test_a_status_page_without_miners_cannot_be_read():
    server = status_page_that(lambda path: (200, "fine"), sessions=False)
    fault = pytest.raises(BenchError, match="the status page shows no session")
    with Helper("karoo.sim.benchreader", server.server_port) as reader, fault:
        reader.call("begin")
    server.stop()


# ---------------------------------------------------------------- as a whole

def test_a_small_run_has_all_figures_and_loses_nothing(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    earlier, out, picture = tmp_path / "earlier.json", tmp_path / "out.json", tmp_path / "a.svg"
    result_of(run_of(20)).write(earlier)
    code = bench.main(["--miners", "20", "--seconds", "0.2", "--out", str(out), "--picture", str(picture),
                       "--compare", str(earlier)])
    printed = capsys.readouterr()
    assert code == 0, printed
    assert "Every share was answered once" in printed.out and "ratio" in printed.out
    found = read(out)
    run = found.run(20)
    memory = {"memory_quiet", "memory_busy"}  # of so few miners it may not show
    assert MEANINGS.keys() - memory <= run.figures.keys() and run.faults == []
    assert all(len(points) == 101 for points in run.curves.values()) and run.curves.keys() == {"job", "answer"}
    assert run.shares > 300 and found.machine["processors"] >= 1 and found.loopback_us > 0
    ElementTree.fromstring(picture.read_text())


def test_a_run_that_lost_something_ends_with_1(monkeypatch, capsys):
    lost = result_of(run_of(faults=["1,000 miners, shares to the pool: 2 answers lost"]))
    monkeypatch.setattr(bench, "measure", lambda sizes, seconds, storms: lost)
    assert bench.main([]) == 1
    assert capsys.readouterr().out.endswith("NOT WELL:\n1,000 miners, shares to the pool: 2 answers lost\n")


def test_what_cannot_be_measured_ends_with_1(monkeypatch, capsys):
    def fail(*_):
        raise BenchError("7 of 20 miners had no job in 10 s")
    monkeypatch.setattr(bench, "measure", fail)
    assert bench.main(["--miners", "20"]) == 1
    assert capsys.readouterr().err == "bench: 7 of 20 miners had no job in 10 s\n"


@pytest.mark.parametrize(("words", "fault"), [
    (["--miners", "9"], "from 10 to"), (["--miners", "100000000"], "from 10 to"), (["--seconds", "0"], "--seconds"),
    (["--seconds", "nan"], "--seconds"), (["--picture", "a.gif"], ".svg or .png"),
    (["--growth", "--miners", "50"], "leave --miners out"), (["--compare", "/nowhere.json"], "cannot be read"),
])
def test_wrong_words(words, fault, capsys):
    with pytest.raises(SystemExit) as ended:
        bench.main(words)
    assert ended.value.code == 2
    assert fault in capsys.readouterr().err


def test_an_earlier_result_of_other_miners_is_refused(tmp_path, capsys):
    result_of(run_of(100), run_of(5000)).write(tmp_path / "a.json")
    with pytest.raises(SystemExit):
        bench.main(["--compare", str(tmp_path / "a.json"), "--miners", "1000"])
    assert "was taken with 100, 5,000 miners, and not with 1,000" in capsys.readouterr().err
