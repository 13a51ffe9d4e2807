"""Where the log's lines go: rotation and reopening lose none, and neither full disks nor closed pipes reach who logs.
"""

import logging
import os
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import gevent
import pytest
from gevent import monkey

from karoo import log as logs
from karoo import logfile, stderr
from karoo.config import Log
from karoo.logfile import (
    AGAIN_AFTER,
    FULL_AGAIN_AFTER,
    KEPT,
    ROTATE_AGAIN_AFTER,
    LogFile,
    LogFileError,
    Output,
    put_aside,
)
from karoo.sim.scripted import ScriptedMiner
from karoo.stderr import takes
from tests.programs import ROOT, configuration
from tests.test_log import Clock, root

__all__ = ["root"]  # a fixture


close = monkey.get_original("os", "close")  # gevent's closes later


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder / "karoo.log"


@pytest.fixture
def told(capsys):
    """What was said on standard error."""
    class Told:
        text = ""

        def getvalue(self):
            self.text += capsys.readouterr().err
            return self.text
    return Told()


def line(number, length=20):
    return f"{number:<{length - 1}}\n".encode()


def numbers(*texts):
    return [int(each) for text in texts for each in text.split()]


def rotated(path):
    """The files, oldest first, the one in use last."""
    aside = sorted(path.parent.glob(f"{path.name}.*"), key=lambda each: -int(each.suffix[1:]))
    return [*aside, path]


# ------------------------------------------------------------------ rotation


def test_lines_are_added_and_the_file_is_for_its_owner_and_group(path, clock):
    path.write_bytes(line(0))
    path.chmod(0o604)
    LogFile(str(path), clock=clock).write(line(1))
    assert numbers(path.read_text()) == [0, 1] and stat.S_IMODE(path.stat().st_mode) == 0o604, "it was there already"
    path.unlink()
    LogFile(str(path), clock=clock).write(line(2))
    assert not stat.S_IMODE(path.stat().st_mode) & 0o137


def test_files_are_put_aside_by_size_and_none_of_the_lines_is_lost(path, clock):
    log = LogFile(str(path), 100, 1000, clock)
    for number in range(503):
        log.write(line(number))
    files = rotated(path)
    assert len(files) == 101 and all(each.stat().st_size <= 100 for each in files)
    assert numbers(*(each.read_text() for each in files)) == list(range(503))
    assert [each.name for each in files[-3:]] == ["karoo.log.2", "karoo.log.1", "karoo.log"]


def test_only_so_many_are_kept_and_fewer_when_that_changes(path, clock):
    log = LogFile(str(path), 100, 5, clock)
    for number in range(60):
        log.write(line(number))
    assert [each.name for each in rotated(path)] == [*(f"karoo.log.{n}" for n in (5, 4, 3, 2, 1)), "karoo.log"]
    log.keep = 2
    for number in range(60, 66):
        log.write(line(number))
    files = rotated(path)
    assert [each.name for each in files] == ["karoo.log.2", "karoo.log.1", "karoo.log"]
    assert numbers(*(each.read_text() for each in files)) == list(range(55, 66))


def test_a_line_longer_than_the_size_has_a_file_of_its_own(path, clock):
    log = LogFile(str(path), 100, 9, clock)
    for number, length in enumerate((20, 300, 20)):
        log.write(line(number, length))
    assert [each.stat().st_size for each in rotated(path)] == [20, 300, 20]


def test_the_new_file_has_the_mode_of_the_former_one(path, clock):
    log = LogFile(str(path), 100, 9, clock)
    path.chmod(0o664)
    for number in range(6):
        log.write(line(number))
    assert [stat.S_IMODE(each.stat().st_mode) for each in rotated(path)] == [0o664] * 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_the_new_file_has_the_owner_of_the_former_one(path, clock):
    log = LogFile(str(path), 100, 9, clock)
    os.chown(path, 12, 34)
    for number in range(6):
        log.write(line(number))
    assert [(each.stat().st_uid, each.stat().st_gid) for each in rotated(path)] == [(12, 34)] * 2


def test_a_gap_in_the_numbers_ends_the_shifting(path):
    for name in ("", ".1", ".3"):
        Path(f"{path}{name}").write_text(name)
    put_aside(str(path), 9)
    assert {each.name: each.read_text() for each in path.parent.iterdir()} == {
        "karoo.log.1": "", "karoo.log.2": ".1", "karoo.log.3": ".3"}


def test_a_link_to_the_file_stays_a_link(path, tmp_path, clock):
    real = tmp_path / "elsewhere.log"
    path.symlink_to(real)
    log = LogFile(str(path), 100, 9, clock)
    for number in range(8):
        log.write(line(number))
    assert path.is_symlink() and [each.name for each in rotated(real)] == ["elsewhere.log.1", "elsewhere.log"]


def test_a_file_that_cannot_be_put_aside_grows_on_and_is_put_aside_later(path, clock, told):
    log = LogFile(str(path), 100, 1, clock)
    in_the_way = Path(f"{path}.1")
    (in_the_way / "something").mkdir(parents=True)
    for number in range(30):
        log.write(line(number))
    assert numbers(path.read_text()) == list(range(30))
    assert told.getvalue().count("\n") == 1 and f"{path} cannot be put aside" in told.getvalue()
    shutil.rmtree(in_the_way)
    log.write(line(30))
    assert not in_the_way.exists(), "not at once"
    clock.now += ROTATE_AGAIN_AFTER
    log.write(line(31))
    assert numbers(*(each.read_text() for each in rotated(path))) == list(range(32))


def test_when_no_new_file_can_be_made_the_numbers_do_not_shift_on(path, clock, told, monkeypatch):
    log = LogFile(str(path), 100, 9, clock)
    real = logfile._open
    monkeypatch.setattr(logfile, "_open", lambda *_: (_ for _ in ()).throw(OSError(24, "Too many open files")))
    for number in range(30):
        log.write(line(number))
        clock.now += ROTATE_AGAIN_AFTER
    assert [each.name for each in path.parent.iterdir()] == ["karoo.log.1"], "the one that is written on"
    monkeypatch.setattr(logfile, "_open", real)
    log.write(line(30))
    assert numbers(Path(f"{path}.1").read_text()) == list(range(30)) and numbers(path.read_text()) == [30]
    assert told.getvalue().count("\n") == 1


def test_two_processes_with_one_file_do_not_put_it_aside_twice(path, clock):
    first, second = (LogFile(str(path), 100, 1000, clock) for _ in range(2))
    for number in range(0, 60, 2):
        first.write(line(number))
        second.write(line(number + 1))
    files = rotated(path)
    assert sorted(numbers(*(each.read_text() for each in files))) == list(range(60)) and len(files) <= 14


def test_lines_of_many_threads_are_whole(path, root):
    """The log's lock stands before the file; rotation does not get in the way of it."""
    logs.setup_from(Log(file=str(path), level="debug"))
    root.handlers[-1].output.rotate_bytes, root.handlers[-1].output.keep = 5000, 1000

    def write(first):
        for number in range(first, first + 500):
            logging.getLogger("karoo.x").info("number %d", number)
    threads = [gevent.get_hub().threadpool.spawn(write, 500 * each) for each in range(4)]
    gevent.joinall(threads, timeout=30, raise_error=True)
    text = "".join(each.read_text() for each in rotated(path))
    assert sorted(map(int, re.findall(r"number (\d+)\n", text))) == list(range(2000)) and text.count("\n") == 2000


# ------------------------------------------------------------------ reopening


def test_after_logrotate_moved_it_away_nothing_is_lost(path, clock):
    log, moved = LogFile(str(path), clock=clock), path.with_name("karoo.log-20260131")
    log.write(line(0))
    path.chmod(0o660)
    path.rename(moved)
    log.write(line(1))
    assert numbers(moved.read_text()) == [0, 1] and not path.exists(), "it waits to be told"
    log.reopen()
    log.write(line(2))
    assert numbers(path.read_text()) == [2] and stat.S_IMODE(path.stat().st_mode) == 0o660


def test_the_file_that_logrotate_made_is_taken_as_it_is(path, clock):
    log = LogFile(str(path), clock=clock)
    path.rename(path.with_name("moved"))
    path.touch()
    path.chmod(0o600)
    log.reopen()
    log.write(line(1))
    assert numbers(path.read_text()) == [1] and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_copytruncate_works_without_a_word(path, clock):
    log = LogFile(str(path), 100, 9, clock)
    for number in range(5):
        log.write(line(number))
    shutil.copy(path, path.with_name("copy"))
    os.truncate(path, 0)
    log.write(line(5))
    assert path.read_bytes() == line(5) and len(list(path.parent.iterdir())) == 2


def test_when_it_cannot_be_opened_again_the_former_is_used_on(path, clock):
    log, moved = LogFile(str(path), clock=clock), path.parent.with_name("moved")
    path.parent.rename(moved)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LogFileError, match=r"karoo\.log cannot be opened again: No such file"):
        log.reopen()
    log.write(line(1))
    assert numbers((moved / path.name).read_text()) == [1] and len(os.listdir("/proc/self/fd")) == before


def test_reopening_leaves_no_descriptors(path, clock):
    log = LogFile(str(path), clock=clock)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        log.reopen()
    with gevent.Timeout(10):
        while len(os.listdir("/proc/self/fd")) > before:
            gevent.sleep(0.01)


# ------------------------------------------------------------------ faults


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["directory", "fifo-nobody-reads"])
def test_what_cannot_be_written_to_is_refused_at_once(path, make):
    make(path)
    with pytest.raises(LogFileError, match=re.escape(f"the log cannot go to {path}: ")):
        LogFile(str(path))


def test_a_deleted_file_is_made_anew_at_once(path, clock, told):
    log = LogFile(str(path), clock=clock)
    log.write(line(0))
    path.unlink()
    log.write(line(1))
    assert numbers(path.read_text()) == [1] and not told.getvalue()


def test_when_the_folder_is_gone_lines_wait_for_it(path, clock, told):
    log = LogFile(str(path), clock=clock)
    log.write(line(0))
    shutil.rmtree(path.parent)
    for number in range(1, 10):
        log.write(line(number))
        clock.now += AGAIN_AFTER
    assert told.getvalue().count("\n") == 1 and "cannot be written (No such file or directory)" in told.getvalue()
    path.parent.mkdir()
    log.write(line(10))
    assert numbers(path.read_text()) == list(range(1, 11))
    assert told.getvalue().splitlines()[1].endswith("can be written again") and told.getvalue().count("\n") == 2


def test_a_full_disk_is_tried_again_now_and_then(path, clock, told, monkeypatch):
    path.symlink_to("/dev/full")
    log, tries = LogFile(str(path), clock=clock), []
    real = os.write
    monkeypatch.setattr(logfile.os, "write", lambda *args: (tries.append(1), real(*args))[1])
    for number in range(1000):
        log.write(line(number))
    assert len(tries) == 1, "one try a second, not one a line"
    assert "cannot be written (No space left on device)" in told.getvalue() and told.getvalue().count("\n") == 1
    path.unlink()
    log.reopen()
    assert numbers(path.read_text()) == list(range(1000)), "at once, when it is opened again"


def test_what_is_too_much_to_keep_goes_to_standard_error(path, clock, told):
    path.symlink_to("/dev/full")
    log = LogFile(str(path), clock=clock)
    for number in range(20):
        log.write(line(number, KEPT // 16))
    assert numbers(told.getvalue().split("\n", 1)[1]) == [16, 17, 18, 19]
    path.unlink()
    log.reopen()
    assert numbers(path.read_text()) == list(range(16)) and not log.take_lost()


def test_what_is_kept_at_the_end_goes_to_standard_error_and_so_does_what_comes_later(path, clock, told):
    path.symlink_to("/dev/full")
    log = LogFile(str(path), clock=clock)
    log.write(line(0))
    log.close()
    log.write(line(1))
    assert numbers(*told.getvalue().splitlines()[1:]) == [0, 1]


PART = """
import os, resource, signal, sys
from karoo.logfile import LogFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
clock = [0.0]
log = LogFile(sys.argv[1], clock=lambda: clock[0])
resource.setrlimit(resource.RLIMIT_FSIZE, (50, resource.RLIM_INFINITY))
for number in range(10):
    log.write(b"%019d\\n" % number)
assert os.stat(sys.argv[1]).st_size == 50
if len(sys.argv) > 2:
    os.rename(sys.argv[1], sys.argv[2])
    log.reopen()
    assert os.stat(sys.argv[1]).st_size == 50
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
clock[0] += 1
log.write(b"%019d\\n" % 10)
"""


def test_a_line_that_the_disk_took_in_part_is_completed(path):
    done = subprocess.run([sys.executable, "-c", PART, path], check=True, capture_output=True, text=True, timeout=60)
    assert numbers(path.read_text()) == list(range(11)) and "File too large" in done.stderr


def test_a_line_that_the_former_file_took_in_part_stands_in_the_new_one_whole(path):
    moved = path.with_name("moved")
    subprocess.run([sys.executable, "-c", PART, path, moved], check=True, capture_output=True, timeout=60)
    assert numbers(path.read_text()) == list(range(2, 11)) and numbers(moved.read_text()[:40]) == [0, 1]


@pytest.fixture
def in_time():
    """Ends a test that waits in a system call, which nothing of gevent's does."""
    waits = []

    def over(*_):
        waits.append(True)
        raise AssertionError("it waits")
    former = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, 20)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, former)
    assert not waits, "whoever caught that"


class Ends:
    """Where one writes, as others opened it: it waits; and where one reads."""

    def __init__(self, kind):
        if kind == "socket":
            self._sockets = socket.socketpair()
            self.reader, self.writer = (os.dup(each.fileno()) for each in self._sockets)
            for each in self._sockets:
                each.close()
        else:
            self.reader, self.writer = os.openpty() if kind == "terminal" else os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self.writer, True)

    def read(self):
        """What is there."""
        try:
            return os.read(self.reader, 1 << 20)
        except BlockingIOError:
            return b""

    def read_lines(self, output, count):
        """As many lines, while the output writes them."""
        got = b""
        while got.count(b"\n") < count:
            output._clock.now += AGAIN_AFTER
            output.again()
            got += self.read()
        return got.replace(b"\r", b"").decode()

    def close(self):
        for descriptor in (self.reader, self.writer):
            close(descriptor)


@pytest.fixture(params=["its own way", "none to be had"])
def ways(request, monkeypatch):
    if request.param != "its own way":
        monkeypatch.setattr(logfile, "own_way", lambda _: None)


@pytest.fixture(params=["pipe", "socket", "terminal"])
def ends(request, ways, in_time):
    ends = Ends(request.param)
    yield ends
    ends.close()


def test_who_does_not_read_stops_nobody_and_has_all_lines_whole_but_those_that_are_counted(ends, clock):
    output = Output(ends.writer, clock)
    for number in range(3000):
        clock.now += AGAIN_AFTER
        waits = output.write(line(number, 1000))
    assert waits and not output.take_lost(), "nobody could be told"
    assert os.get_blocking(ends.writer), "others have it too"
    lost = output._lost
    got = numbers(ends.read_lines(output, 3000 - lost))
    assert got == list(range(3000 - lost)) and output.take_lost() == lost > 1000 and not output.take_lost()
    assert not output.write(line(3000)) and numbers(ends.read_lines(output, 1)) == [3000]
    output.close()


def test_long_lines_come_whole(ends, clock):
    output = Output(ends.writer, clock)
    for number in range(3):
        output.write(line(number, 300_000))
    assert ends.read_lines(output, 3) == "".join(line(number, 300_000).decode() for number in range(3))
    output.close()


def test_a_terminal_that_was_stopped_gets_its_lines_when_it_goes_on(ways, in_time, clock):
    ends = Ends("terminal")
    output = Output(ends.writer, clock)
    os.write(ends.reader, b"\x13")  # Ctrl-S
    while takes(ends.writer):
        gevent.sleep(0.001)
    for number in range(100):
        output.write(line(number))
    assert output.again() and not ends.read().strip(b"^S")
    os.write(ends.reader, b"\x11")
    assert numbers(ends.read_lines(output, 100)) == list(range(100))
    output.close()
    ends.close()


def test_a_slow_reader_gets_all_lines_whole(ends, clock):
    output = Output(ends.writer, clock)
    got = b""
    for number in range(4000):
        clock.now += FULL_AGAIN_AFTER
        output.write(line(number, 100))
        if number % 40 == 0:
            got += ends.read()
    got = got.replace(b"\r", b"").decode()
    got += ends.read_lines(output, 4000 - got.count("\n"))
    assert numbers(got) == list(range(4000)) and not output.take_lost()
    output.close()


def test_at_the_end_who_reads_has_a_moment_and_who_does_not_is_not_waited_for(ends, monkeypatch):
    monkeypatch.setattr(logfile, "END_SECONDS", 0.2)
    before = len(os.listdir("/proc/self/fd"))
    output = Output(ends.writer)
    for number in range(1000):
        output.write(line(number, 1000))
    output.close()
    assert not output._kept_bytes and len(os.listdir("/proc/self/fd")) == before
    output.write(line(1000))  # nor is anybody who still logs


def test_at_the_end_what_is_kept_is_written(ends, monkeypatch):
    monkeypatch.setattr(logfile, "END_SECONDS", 10)
    output = Output(ends.writer)
    for number in range(1000):
        output.write(line(number, 1000))
    assert output.again()
    os.set_blocking(ends.reader, True)

    def read():
        got = b""
        while got.count(b"\n") < 1000:
            got += os.read(ends.reader, 1 << 20)
        return got.decode()
    reader = gevent.get_hub().threadpool.spawn(read)
    output.close()
    assert numbers(reader.get(timeout=10)) == list(range(1000))


def test_a_file_has_one_place_where_all_write_on(path):
    """As `karoo run 2> FILE` has it: who shares it finds the lines before its own."""
    with path.open("wb", buffering=0) as shared:
        output = Output(shared.fileno())
        output.write(line(0))
        shared.write(line(1))
        output.write(line(2))
        output.close()
    assert numbers(path.read_text()) == [0, 1, 2]


@pytest.mark.parametrize("device, kept", [("/dev/null", 0), ("/dev/full", 20)])
def test_devices_are_written_to(device, kept, clock):
    descriptor = os.open(device, os.O_WRONLY)
    output = Output(descriptor, clock)
    assert output.write(line(0)) == bool(kept) and output._kept_bytes == kept
    output.close()
    close(descriptor)


def test_an_urgent_line_does_not_wait_either(ends, monkeypatch):
    output = Output(ends.writer)
    while not output.write(line(0)):
        pass
    monkeypatch.setattr(stderr, "stderr_descriptor", lambda: ends.writer)
    if logfile.own_way is not stderr.own_way:
        monkeypatch.setattr(stderr, "own_way", logfile.own_way)
    for _ in range(100):
        output.urgent(line(1, 1000))
    monkeypatch.setattr(logfile, "END_SECONDS", 0)
    output.close()


def test_the_traceback_of_a_greenlet_that_died_does_not_wait_but_comes_where_it_can(ends, root, monkeypatch, told):
    logs.setup_from(Log())
    gevent.spawn(int, "no number").join()
    assert "ValueError: invalid literal" in told.getvalue()
    monkeypatch.setattr(sys, "stderr", os.fdopen(ends.writer, "w", 1, closefd=False))
    output = Output(ends.writer)
    while not output.write(line(0)):
        pass
    gevent.spawn(int, "no number either").join()
    monkeypatch.setattr(logfile, "END_SECONDS", 0)
    output.close()


def test_what_waits_is_written_even_if_no_line_follows_and_what_was_lost_is_told(ends, root):
    logs._install("debug", "text", Output(ends.writer), False)
    log = logging.getLogger("karoo.x")
    for number in range(3000):
        log.info("number %d %s", number, "x" * 980)
    handler = root.handlers[-1]
    lost = handler.output._lost
    got = b""
    with gevent.Timeout(15, AssertionError("the last are not written")):
        while b"lost before" not in got:
            got += ends.read()
            gevent.sleep(0.001)
    assert f" {lost} lines of the log were lost before, as standard error did not take them" in got.decode()
    assert list(map(int, re.findall(rb"number (\d+) x{980}\r?\n", got))) == list(range(3000 - lost)) and lost
    with gevent.Timeout(10):
        while handler._timer is not None:
            gevent.sleep(0.01)
    handler.close()


def test_a_proxy_whose_standard_error_nobody_reads_serves_on_and_ends(site, tmp_path, in_time):
    pool, ends = site.pool(), Ends("pipe")
    process = subprocess.Popen(
        [sys.executable, "-m", "karoo", "run", "-c", configuration(
            tmp_path, upstream={"host": "127.0.0.1", "port": pool.port, "user": "w"}, log={"level": "debug"},
            ratelimit={"enabled": False})],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=ends.writer)
    miner, got = ScriptedMiner(), b""

    def read(pattern):
        nonlocal got
        with gevent.Timeout(15, AssertionError(f"no {pattern!r} in the last of {got[-2000:]!r}")):
            while (found := re.search(pattern, got)) is None:
                got += ends.read()
                gevent.sleep(0.001)
        return found
    try:
        port = int(read(rb"miners may connect to 127\.0\.0\.1:(\d+)").group(1))
        miner.start("127.0.0.1", port)
        for number in range(KEPT // 4000 + 100):
            asked = miner.request_async("mining.ping", [number, "x" * 4000])
            assert miner.answer(asked).result == "pong"
        read(rb"lines of the log were lost before")
        told = int(read(rb" (\d+) lines of the log were lost before, as standard error did not take them\n").group(1))
        lines = got.decode().splitlines()
        seen = [int(each) for each in re.findall(r'"mining.ping","params":\[(\d+),"x{4000}"\]', got.decode())]
        assert seen and seen == list(range(len(seen))) and told >= KEPT // 4000 + 100 - len(seen) > 0
        assert all(re.match(r"\d{4}-\d\d-\d\d ", each) for each in lines), "whole lines"
        for number in range(100):
            miner.answer(miner.request_async("mining.ping", [number, "x" * 4000]))
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0, "though the pipe is full"
    finally:
        miner.close()
        if process.poll() is None:
            process.kill()
            process.wait()
        ends.close()


@pytest.mark.parametrize("broken", ["no reader", "closed", "none"])
def test_a_closed_standard_error_neither_raises_nor_takes_time_nor_room(clock, broken, monkeypatch):
    tries, real = [], os.write
    reader, writer = os.pipe()
    close(reader)
    if broken == "closed":
        close(writer)
        writer = 10_000  # a number that nobody else gets meanwhile
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= writer or not os.path.exists("/proc/self/fd/10000")
    output = Output(None if broken == "none" else writer, clock)
    monkeypatch.setattr(logfile.os, "write", lambda *args: (tries.append(1), real(*args))[1])
    for number in range(5000):
        output.write(line(number, 1000))
    output.close()
    assert len(tries) <= 2 and output._kept_bytes == 0
    if broken == "no reader":
        close(writer)


def test_to_give_back_the_room_of_large_files_takes_the_loop_no_time(path, monkeypatch):
    """The last descriptor of a removed file is closed by a thread."""
    closed_by = []
    real = logfile.close
    monkeypatch.setattr(logfile, "close", lambda fd: (closed_by.append(logfile.monkey.get_original(
        "_thread", "get_ident")()), real(fd)))
    Path(f"{path}.1").write_text("old")
    path.write_text("new")
    put_aside(str(path), 1)
    with gevent.Timeout(10):
        while not closed_by:
            gevent.sleep(0.01)
    assert closed_by[0] != logfile.monkey.get_original("_thread", "get_ident")()
    assert Path(f"{path}.1").read_text() == "new"


def test_an_urgent_line_goes_to_the_file_and_to_standard_error(path, told):
    log = LogFile(str(path))
    log.urgent(line(1))
    assert numbers(path.read_text()) == numbers(told.getvalue()) == [1]
    shutil.rmtree(path.parent)
    log.urgent(line(2))
    assert numbers(told.getvalue()) == [1, 2]
