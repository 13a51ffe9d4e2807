"""The command line, as processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import gevent
import pytest

from karoo import __version__, configdoc
from tests.programs import ROOT, configuration, get


def children_of(session):
    """Processes of a session that still run."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(name))
    return found


def test_version_and_help(karoo):
    program = karoo("--version")
    assert program.end() == 0 and program.text == f"karoo {__version__}\n"
    program = karoo("--help")
    assert program.end() == 0 and "karoo run -c karoo.yaml" in program.text
    program = karoo("run", "--help")
    assert program.end() == 0 and "example" in program.text


@pytest.mark.parametrize("words", [["frobnicate"], ["run"], ["demo", "--seconds", "-1"], ["demo", "--http-port", "9e9"],
                                   ["simulate-miner", "http://x", "--user", "u"], [],
                                   ["simulate-miner", "x:1", "--user", "u", "--count", "0"]])
def test_wrong_words_are_a_usage_error(karoo, words):
    program = karoo(*words)
    assert program.end() == 2
    assert "karoo" in program.text and "Traceback" not in program.text


def test_the_example_configuration_is_printed_and_right(karoo, tmp_path):
    program = karoo("config")
    assert program.end() == 0 and program.text == configdoc.example()
    path = tmp_path / "example.yaml"
    path.write_text(program.text)
    program = karoo("check", "-c", path)
    assert program.end() == 0 and "is right" in program.text


@pytest.mark.parametrize("words", [["run", "-c"], ["-c"], ["-config"], ["check", "--config"]])
def test_a_faulty_configuration_lists_its_faults_and_is_not_to_be_retried(karoo, tmp_path, words):
    path = configuration(tmp_path, vardif={}, shares={"algorithm": "md5"})
    program = karoo(*words, path)
    assert program.end() == 78
    assert "vardiff" in program.text and "shares.algorithm" in program.text and "Traceback" not in program.text


def test_a_missing_file_is_a_clear_error(karoo, tmp_path):
    program = karoo("run", "-c", tmp_path / "nothing.yaml")
    assert program.end() == 78 and "nothing.yaml" in program.text and "Traceback" not in program.text


@pytest.mark.parametrize("words", ["config", "--help", "check -c {}", "doctor --offline -c {}",
                                   "doctor --offline --json -c {}"])
def test_a_standard_output_that_takes_nothing_is_told_in_one_line(tmp_path, words):
    path = configuration(tmp_path)

    def told(redirected):
        line = f"exec {sys.executable} -m karoo {words.format(path)} {redirected}"
        done = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
        return done.returncode, done.stdout + done.stderr
    assert told(">/dev/full") == (74, "karoo: standard output: No space left on device\n")
    assert told(">&-") == (74, "karoo: standard output is closed\n")
    assert told(">&- 2>&-") == told(">/dev/full 2>&-") == (74, "")


@pytest.mark.parametrize("words", ["config", "--help", "doctor --offline -c {}", "doctor --offline --json -c {}"])
def test_a_reader_may_leave_early(tmp_path, words):
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        done = subprocess.run([sys.executable, "-m", "karoo", *words.format(configuration(tmp_path)).split()], cwd=ROOT,
                              stdout=theirs, stderr=subprocess.PIPE, timeout=30, check=False)
    finally:
        os.close(theirs)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_proxy_itself_needs_no_standard_output(tmp_path):
    line = f"exec {sys.executable} -m karoo run -c {configuration(tmp_path)} >&- 2>{tmp_path}/log"
    with subprocess.Popen(["sh", "-c", line], cwd=ROOT) as process:
        with gevent.Timeout(20, AssertionError("it does not start")):
            while not (tmp_path / "log").exists() or "miners may connect" not in (tmp_path / "log").read_text():
                gevent.sleep(0.02)
        process.terminate()
        assert process.wait(15) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("section", ["proxy", "http"])
def test_a_port_in_use_is_a_clear_error(karoo, tmp_path, section):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = karoo("run", "-c", configuration(tmp_path, **{section: {"listen": f"127.0.0.1:{port}"}}))
        assert program.end() == 69
        assert f"127.0.0.1:{port}" in program.text and "in use" in program.text and "Traceback" not in program.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_serves_miners_and_pages_and_ends_by_a_signal(karoo, tmp_path, site, number):
    pool = site.pool(difficulty=1e-6)
    path = configuration(tmp_path, upstream={"host": "127.0.0.1", "port": pool.port, "user": "w"},
                         proxy={"listen": "127.0.0.1:0", "write_buf": 8192},
                         http={"listen": "127.0.0.1:0", "pprof": True})
    program = karoo("-c", path)
    page = program.wait_for(r"(http://127\.0\.0\.1:\d+)/").group(1)
    port = program.wait_for(r"miners may connect to 127.0.0.1:(\d+)").group(1)
    assert "proxy.write_buf is set, but never has an effect" in program.text
    miner = karoo("simulate-miner", f"stratum+tcp://127.0.0.1:{port}", "--user", "a.rig", "--shares", 3, "--count", 2)
    assert miner.end(timeout=30) == 0 and "accepted 2" in miner.text
    assert pool.books.accepted >= 3
    assert get(f"{page}/healthz") == "ok\n"
    status = json.loads(get(f"{page}/status"))
    assert status["shares_ok"] == pool.books.accepted and status["upstream"] is True
    assert "_sweep_for_ever" in get(f"{page}/debug/greenlets")
    assert program.end(number) == 0
    assert "Traceback" not in program.text


def test_status_has_the_fields_of_the_original(karoo, tmp_path, site):
    pool = site.pool(difficulty=1e-6)
    program = karoo("-c", configuration(tmp_path, upstream={"host": "127.0.0.1", "port": pool.port, "user": "w"}))
    page = program.wait_for(r"(http://127\.0\.0\.1:\d+)/").group(1)
    port = int(program.wait_for(r"miners may connect to 127.0.0.1:(\d+)").group(1))
    empty = json.loads(get(f"{page}/status"))
    assert (empty["upstream"], empty["extranonce1"], empty["clients"]) == (False, "", [])
    with pytest.raises(urllib.error.HTTPError):
        get(f"{page}/debug/greenlets")
    miner = karoo("simulate-miner", f"127.0.0.1:{port}", "--user", "<b>a</b>.rig")
    pool.wait(lambda: pool.books.accepted >= 2, 20)
    program.wait_for("authorized")
    gevent.sleep(1.1)  # the page is cached for a second
    status = json.loads(get(f"{page}/status"))
    assert status["extranonce1"] == pool.connections[0].extranonce1.hex() and status["extranonce2_size"] == 8
    assert status["last_diff"] == 1e-6 and status["shares_bad"] == 0 and status["last_notify_unix"] > 1.6e9
    client = status["clients"][0]
    assert client["worker"] == "rig" and client["upstream_user"] == "w.rig" and client["ip"].startswith("127.0.0.1:")
    assert client["ok"] >= 1 and client["bad"] == 0 and client["diff"] == 1e-6
    assert {"target_seconds", "min_difficulty", "total_clients"} <= status["vardiff"].keys()
    assert {"banned_ips", "max_per_ip", "total_active"} <= status["ratelimit"].keys()
    assert miner.end(signal.SIGINT) == 0


def test_check_connect_reports_what_a_pool_gives(karoo, tmp_path, site):
    pool = site.pool(extranonce_subscribe="error")
    good = {"host": "127.0.0.1", "port": pool.port, "user": "w", "handshake_ms": 2000}
    program = karoo("check", "--connect", "-c", configuration(tmp_path, upstream=good))
    assert program.end() == 0, program.text
    for text in ("mining.subscribe", " ms", "8 bytes", "mask 1fffe000", "1e-05", "refused", "12 merkle",
                 "miners can work there"):
        assert text in program.text
    refusing = site.pool(allowed=lambda user: False)
    program = karoo("check", "--connect", "-c", configuration(
        tmp_path, upstream=good, backups=[{**good, "port": refusing.port}, {**good, "port": 1}]))
    assert program.end() == 0
    assert "miners can work there" in program.text and "mining.authorize refused" in program.text
    assert "Connection refused" in program.text
    program = karoo("check", "--connect", "-c", configuration(tmp_path, upstream={**good, "port": 1}))
    assert program.end() == 69


def test_demo_shows_accepted_shares_and_leaves_nothing_behind(karoo):
    program = karoo("demo", "--stratum-port", 0, "--http-port", 0, "--pool-port", 0)
    page = program.wait_for(r"(http://127\.0\.0\.1:\d+)/").group(1)
    program.wait_for(r"karoo.sim.miner demo\.\w+: accepted", 15)
    for name in ("esp32", "bitaxe", "rack"):
        program.wait_for(rf"authorized as {name}", 15)
    program.wait_for(r"karoo.sim.pool  accepted: ", 30)
    status = json.loads(get(f"{page}/status"))
    assert len(status["clients"]) == 3 and status["shares_ok"] > 0
    assert len(children_of(program.process.pid)) == 4
    os.killpg(program.process.pid, signal.SIGINT)  # what Ctrl-C does
    assert program.end() == 0
    assert "the pool's own books" in program.text and "Traceback" not in program.text
    assert not children_of(program.process.pid)


def test_demo_killed_takes_its_miners_with_it(karoo):
    program = karoo("demo", "--stratum-port", 0, "--http-port", 0, "--pool-port", 0)
    program.wait_for(r"authorized as \w+")
    program.process.kill()
    program.process.wait()
    with gevent.Timeout(10, AssertionError("miners were left behind")):
        while children_of(program.process.pid):
            gevent.sleep(0.05)


def test_demo_ends_by_itself_and_names_a_port_in_use(karoo):
    program = karoo("demo", "--stratum-port", 0, "--http-port", 0, "--pool-port", 0, "--seconds", 1)
    assert program.end() == 0
    for option in ("--stratum-port", "--http-port", "--pool-port"):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            others = [word for other in ("--stratum-port", "--http-port", "--pool-port") if other != option
                      for word in (other, 0)]
            program = karoo("demo", option, port, *others)
            assert program.end() == 69
            assert f"127.0.0.1:{port}" in program.text and "Traceback" not in program.text


def test_simulate_pool_runs_until_a_signal(karoo):
    program = karoo("simulate-pool", "--port", 0, "--difficulty", "1e-6")
    port = program.wait_for(r"pool on 127.0.0.1:(\d+)").group(1)
    miner = karoo("simulate-miner", f"127.0.0.1:{port}", "--user", "w.{n}", "--shares", 2, "--version-rolling")
    assert miner.end(timeout=30) == 0
    assert program.end(signal.SIGTERM) == 0
    assert "accepted: w.1" in program.text
