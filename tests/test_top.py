"""`karoo top` in a real terminal: a pseudo-terminal whose screen is kept by a small terminal of our own."""

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import gevent
import pytest
from gevent.socket import wait_read

from karoo.ctl import frame, main, words
from karoo.ctl.server import ControlServer
from karoo.reload import Reloader
from tests.programs import ROOT, Program
from tests.site import EASY, POOL_DIFFICULTY

_ESCAPE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\x1b[()][A-Z0-9]|\x1b[=>78M]|\x0f|\x0e")


def _take_terminal():
    """In the child: a session of its own, which the terminal at its standard input controls."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A program in a pseudo-terminal, and the screen that it draws: rows of text, without styles."""

    def __init__(self, *given, term="xterm", rows=30, columns=110, reads=True):
        self.master, self.slave = pty.openpty()
        self.resize(rows, columns, None)
        self.before = termios.tcgetattr(self.slave)
        environ = {**os.environ, "TERM": term}
        environ.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "karoo", "top", *map(str, given)], cwd=ROOT, env=environ, stdin=self.slave,
            stdout=self.slave, stderr=self.slave, preexec_fn=_take_terminal)  # noqa: PLW1509 - there are no threads
        self.raw, self.pending = "", ""
        self.place = [0, 0]
        self._reader = gevent.spawn(self._read) if reads else None

    def resize(self, rows, columns, tell=signal.SIGWINCH):
        self.size = rows, columns
        self.cells = [[" "] * columns for _ in range(rows)]
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if tell is not None:
            self.process.send_signal(tell)

    def _read(self):
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while True:
            wait_read(self.master)
            try:
                text = decoder.decode(os.read(self.master, 65536))
            except OSError:
                return
            self.raw += text
            self._feed(self.pending + text)

    def _feed(self, text):
        at = 0
        while at < len(text):
            match = _ESCAPE.match(text, at)
            if match:
                self._steer(*match.groups())
                at = match.end()
            elif text[at] == "\x1b" and len(text) - at < 12:
                break  # the rest of it is still to come
            else:
                self._put(text[at])
                at += 1
        self.pending = text[at:]

    def _steer(self, numbers, letter):
        if letter == "H":
            row, _, column = (numbers or "1;1").partition(";")
            self.place = [int(row or 1) - 1, int(column or 1) - 1]
        elif letter == "J":
            self.cells = [[" "] * self.size[1] for _ in range(self.size[0])]
        elif letter == "K" and self.place[0] < self.size[0]:
            row = self.cells[self.place[0]]
            row[self.place[1]:] = [" "] * (self.size[1] - self.place[1])

    def _put(self, char):
        row, column = self.place
        if char == "\r":
            self.place[1] = 0
        elif char == "\n":
            self.place[0] = min(row + 1, self.size[0] - 1)
        elif char >= " " and row < self.size[0]:
            wide = words.char_width(char)
            assert column + wide <= self.size[1] or self.process.poll() is not None, "drawn beyond the edge"
            if wide:
                self.cells[row][column:column + wide] = [char, ""][:wide]
                self.place[1] += wide
            elif column:
                self.cells[row][column - 1] += char

    @property
    def lines(self):
        return ["".join(row).rstrip() for row in self.cells]

    def line(self, start):
        return next((line for line in self.lines if line.startswith(start)), "")

    def wait(self, predicate, timeout=20):
        try:
            with gevent.Timeout(timeout):
                while not predicate():
                    gevent.sleep(0.02)
        except gevent.Timeout:
            raise AssertionError(f"waited {timeout} s; the screen:\n" + "\n".join(self.lines)) from None

    def wait_for(self, pattern, timeout=20):
        self.wait(lambda: re.search(pattern, "\n".join(self.lines)), timeout)

    def press(self, keys):
        os.write(self.master, keys)

    @property
    def is_restored(self):
        return termios.tcgetattr(self.slave) == self.before

    def end(self, timeout=15):
        with gevent.Timeout(timeout, AssertionError("it does not end")):
            while self.process.poll() is None:
                gevent.sleep(0.02)
        return self.process.returncode

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self._reader is not None:
            self._reader.kill()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal():
    running = []

    def start(*given, **options):
        running.append(Terminal(*given, **options))
        return running[-1]
    yield start
    for one in running:
        one.close()


@pytest.fixture
def farm(site, tmp_path):
    """A proxy with miners and a control server: the path of its socket and the miners."""
    proxy = site.proxy(site.pool(difficulty=POOL_DIFFICULTY), vardiff={"start_diff": EASY, "min_diff": 1e-12})
    path = str(tmp_path / "karoo.sock")
    server = ControlServer(path, "600", proxy, Reloader(proxy, None))
    server.start()
    miners = {name: site.miner(proxy, user=f"a.{name}") for name in ("anna", "鉱山の機械", "zoe")}
    for name, shares in (("anna", 1), ("zoe", 3)):
        for _ in range(shares):
            assert miners[name].submit(miners[name].find_share()) is True
    for _ in range(2):
        stale = ["a.anna", "no such job", "00000000", "00000000", "00000000"]
        assert miners["anna"].answer(miners["anna"].request_async("mining.submit", stale)).error[0] == 21
    yield path, proxy, server
    server.stop()


def order_of(screen):
    """The workers in the order of the table."""
    names = [line.split()[0] for line in screen.lines if re.search(r"\bonline +1 ", line)]
    return [name for name in names if name in ("anna", "zoe", "鉱山の機械")]


@pytest.mark.parametrize("term", ["xterm", "xterm-256color", "screen", "vt100", "linux", "never-heard-of"])
def test_the_screen_shows_the_summary_and_q_gives_the_terminal_back(farm, terminal, term):
    path, _, _ = farm
    screen = terminal("--socket", path, term=term)
    screen.wait_for("q ends")
    assert screen.line("Pool").startswith("Pool      up: 127.0.0.1")
    assert screen.line("Workers").startswith("Workers   3 online   0 silent   0 gone   3 of ")
    assert "4 accepted" in screen.line("Shares") and "a second" in screen.line("Shares")
    assert screen.line("Rejects") == "Rejects   2 (33.33 %): 2 stale"
    assert all(f"{span} " in screen.line("Hashrate") for span in ("1m", "15m", "1h", "24h"))
    assert screen.line("Paid") and screen.line("Latency")
    assert any("Karoo" in line and "started" in line for line in screen.lines)  # an event
    assert screen.line("Workers by") == "Workers by hashrate, 3 of 3"
    screen.wait_for("鉱山の機械")
    title = screen.line("WORKER")
    row = next(line for line in screen.lines if line.startswith("鉱山の機械"))
    assert words.width(row[:row.index("online")]) == words.width(title[:title.index("STATE")])
    assert not screen.is_restored
    screen.press(b"q")
    assert screen.end() == 0 and screen.is_restored
    if term == "xterm":
        screen.wait(lambda: "\x1b[?1049l" in screen.raw)


def test_keys_sort_the_workers(farm, terminal):
    path, _, _ = farm
    screen = terminal("--socket", path, "--interval", "0.5")
    screen.wait_for("by hashrate")
    for key, word, first in ((b"a", "accepted", "zoe"), (b"R", "rejected", "anna"), (b"s", "silence", "鉱山の機械"),
                             (b"h", "hashrate", "")):
        screen.press(key)
        screen.wait(lambda word=word, first=first: screen.line("Workers by").startswith(f"Workers by {word},") and (
            not first or order_of(screen)[:1] == [first]))
    screen.press(b"\x1b[A\x1bOq")  # arrows and their like
    screen.press(b"xyz\x0c")
    screen.wait_for("q ends")
    assert screen.process.poll() is None


def test_it_follows_the_size_of_the_terminal(farm, terminal):
    path, _, _ = farm
    screen = terminal("--socket", path)
    screen.wait_for("q ends")
    for rows, columns in ((50, 160), (12, 40), (3, 20), (1, 5), (24, 80)):
        screen.resize(rows, columns)
        if rows > 3:
            screen.wait(lambda columns=columns, rows=rows: screen.lines[-1].startswith(" h hashrate"))
            assert screen.line("Pool")
        else:
            screen.wait(lambda: any(screen.lines))
        assert all(words.width(line) < columns for line in screen.lines)
    assert screen.process.poll() is None
    screen.press(b"q")
    assert screen.end() == 0


@pytest.mark.parametrize(("order", "column"), [(one.word, one.column) for one in frame.SORTS.values()])
def test_a_narrow_terminal_shows_what_counts(farm, terminal, order, column):
    path, _, _ = farm
    screen = terminal("--socket", path, "--sort", order, rows=24, columns=80)
    screen.wait_for("LAST SHARE")
    title = screen.line("WORKER").split()
    assert {"WORKER", "STATE", "RATIO", "LAST", "SHARE", "DEVICE", *column.split()} <= set(title) and "24h" not in title
    (anna,) = (line for line in screen.lines if line.startswith("anna"))
    assert re.search(r"66\.67 % +\S+ s +scrip", anna), anna
    screen.resize(24, 40)
    screen.wait(lambda: "DEVICE" not in screen.line("WORKER") and "LAST SHARE" in screen.line("WORKER"))
    assert column in screen.line("WORKER") and "…" not in screen.line("WORKER")
    screen.resize(24, 160)
    screen.wait(lambda: "24h" in screen.line("WORKER"))
    assert [one.title for one in frame.TABLE] == re.split(r"  +", screen.line("WORKER"))


@pytest.mark.parametrize("columns", [80, 60])
def test_one_picture_does_not_wrap(farm, terminal, columns):
    path, proxy, _ = farm
    proxy.metrics.timeline.note("start", "long " * 60)
    screen = terminal("--socket", path, "--once", columns=columns)
    assert screen.end() == 0
    screen.wait(lambda: "zoe" in screen.raw)
    lines = screen.raw.replace("\r", "").split("\n")
    assert max(map(words.width, lines)) <= columns and "…" in screen.raw


@pytest.mark.parametrize(("how", "code"), [(b"\x03", 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_end_it_and_give_the_terminal_back(farm, terminal, how, code):
    path, _, _ = farm
    screen = terminal("--socket", path)
    screen.wait_for("q ends")
    if isinstance(how, bytes):
        screen.press(how)
    else:
        screen.process.send_signal(how)
    assert screen.end() == code and screen.is_restored
    screen.wait(lambda: "\x1b[?1049l" in screen.raw)
    assert "Traceback" not in screen.raw


def test_a_stopped_one_gives_the_terminal_back_and_takes_it_again(farm, terminal):
    path, _, _ = farm
    screen = terminal("--socket", path)
    screen.wait_for("q ends")
    screen.press(b"\x1a")
    screen.wait(lambda: Path(f"/proc/{screen.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    assert screen.is_restored
    screen.process.send_signal(signal.SIGCONT)
    screen.wait(lambda: screen.raw.count("\x1b[?1049h") == 2 and not screen.is_restored)
    screen.press(b"q")
    assert screen.end() == 0 and screen.is_restored


def test_a_terminal_that_takes_nothing_does_not_keep_it(farm, terminal):
    path, _, _ = farm
    screen = terminal("--socket", path, "--interval", "0.2", rows=200, columns=400, reads=False)
    screen.wait(lambda: not screen.is_restored)

    def is_full():
        screen.press(b"x")  # it draws everything anew, into what nobody reads
        return not select.select([], [screen.slave], [], 0)[1]
    screen.wait(is_full)
    screen.process.send_signal(signal.SIGTERM)
    assert screen.end() == 143 and screen.is_restored


def test_a_bug_gives_the_terminal_back_and_shows_its_traceback(farm, terminal, tmp_path):
    path, _, server = farm
    screen = terminal("--socket", path, "--interval", "0.2")
    screen.wait_for("q ends")
    commands = server._commands._table
    broken = commands["status"]
    commands["status"] = type(broken)(lambda: {"nonsense": 1})
    assert screen.end() == 1 and screen.is_restored
    screen.wait(lambda: "KeyError" in screen.raw)
    assert screen.raw.index("\x1b[?1049l") < screen.raw.index("KeyError")


def test_a_proxy_that_starts_again_is_waited_for(farm, terminal):
    path, proxy, server = farm
    screen = terminal("--socket", path, "--interval", "0.2", columns=200)
    screen.wait_for("q ends")
    server.stop()
    screen.wait_for(r"no proxy since .*; it is asked again and again\n.*karoo\.sock: there is no such socket")
    assert "4 accepted" in screen.line("Shares")  # what was seen last
    proxy.started_at += 3600  # another process tells another start
    again = ControlServer(path, "600", proxy, Reloader(proxy, None))
    again.start()
    try:
        screen.wait_for("the proxy was started again")
        assert not screen.line("no proxy")
        screen.press(b"q")
        assert screen.end() == 0
    finally:
        again.stop()


def test_without_a_terminal_one_picture_is_printed(farm, karoo):
    path, _, _ = farm
    for given in ((), ("--once",), ("--once", "--sort", "rejected")):
        program = karoo("top", "--socket", path, *given)
        assert program.end() == 0
        assert "\x1b" not in program.text and "3 online" in program.text and "Workers by" in program.text
        assert "q ends" not in program.text
    rows = program.text[program.text.index("WORKER"):].splitlines()
    assert rows[1].startswith("anna") and max(map(words.width, rows)) < 80


@pytest.mark.parametrize("words_", [("top",), ("ctl", "status"), ("ctl", "--json", "workers")])
def test_what_cannot_be_printed_is_told_in_one_line(farm, words_):
    command, *more = words_
    for redirected, code, why in ((">/dev/full", 74, "karoo: standard output: No space left on device\n"),
                                  (">&-", 74, "karoo: standard output is closed\n"),
                                  (">/dev/null <&-", 0, "")):
        line = " ".join(["exec", sys.executable, "-m", "karoo", command, "--socket", farm[0], *more, redirected])
        done = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, done.stderr) == (code, why)


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_dumb_terminal_gets_one_picture(farm, terminal, term):
    path, _, _ = farm
    screen = terminal("--socket", path, term=term)
    assert screen.end() == 0
    screen.wait(lambda: "3 online" in screen.raw)
    assert "\x1b" not in screen.raw and screen.is_restored


def test_without_a_proxy_it_says_so(karoo, tmp_path):
    for given in ((), ("--once",)):
        program = karoo("top", "--socket", tmp_path / "s", *given)
        assert program.end() == 69 and f"{tmp_path}/s: there is no such socket" in program.text
    program = Program("top", "--socket", tmp_path / "s", "--interval", "0")
    assert program.end() == 2
    program.process.stdout.close()


def test_the_orders_are_those_of_the_command_line():
    assert tuple(one.word for one in frame.SORTS.values()) == main.ORDERS
