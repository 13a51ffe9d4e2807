"""The tutorial: what it tells the reader to type is typed, and what it shows is seen.

How its pages are read:

- A block ```console is typed into a terminal, a block ```console NAME into another one, which stays open. `$ ` begins a
  command. What stands below it must be seen, in this order, with whatever else between; `…` stands for anything, and a
  number for any number, unless it is alone on its line. `^C` ends what runs in that terminal. A command that a later
  `^C` in its terminal ends is left running; every other one must end, and well, unless `echo $?` asks for its code.
- A block ```yaml NAME is a file that the reader writes.
- A block ```sh is not run: it needs a machine of its own.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import gevent
import pytest

from karoo.net.listener import ListenError, listening_socket

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "docs" / name for name in ("tutorial.md", "tutorial.pt.md")]
FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = ["sudo apt install git curl python3-venv gcc python3-dev\n"]
PORTS = (3333, 3334, 3335, 3336, 8080)
DEADLINE = 60  # seconds for one command
MIDNIGHT = 240  # seconds before it that this does not begin in
CLONE = "https://git.example.org/karoo.git"


def blocks(page):
    """(kind, name, text) of each fenced block."""
    return FENCE.findall(page.read_text())


def commands(text):
    """(command, lines that must be seen) of a console block; a command may be `^C`."""
    found = []
    for line in text.splitlines():
        if line.startswith("$ ") or line == "^C":
            found.append((line.removeprefix("$ "), []))
        else:
            assert found, f"{line!r} comes before any command"
            found[-1][1].append(line)
    return found


def without_comments(text):
    return re.sub(r"\s*#.*", "", text)


class Terminal:
    """A shell of its own, in the home directory, as on the reader's machine."""

    def __init__(self, environment):
        self.text = ""
        self.shell = subprocess.Popen(["bash", "--norc", "--noprofile"], cwd=environment["HOME"], env=environment,
                                      text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, start_new_session=True)
        self._reader = gevent.spawn(self._read)
        self._seen = 0  # characters that belong to former commands
        self._turn = 0

    def _read(self):
        for line in self.shell.stdout:
            self.text += line

    def type(self, command):
        """Start a command. The next one finds its exit code in `$?`, as always."""
        self._turn += 1
        self._seen = len(self.text)
        self.shell.stdin.write(f"{{ {command}\n}} </dev/null; code=$?; echo; echo DONE-{self._turn} $code; "
                               f"(exit $code)\n")
        self.shell.stdin.flush()

    def press_ctrl_c(self):
        """Whatever runs in the foreground is told."""
        self._seen = len(self.text)
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = stat.read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue  # it ended meanwhile
            if int(parent) == self.shell.pid:
                os.kill(int(stat.parent.name), signal.SIGINT)

    def expect(self, lines):
        """Wait until the lines are there, in this order."""
        self._wait(lambda: missing(self._output(), lines) is None, lambda: self._not_seen(lines))

    def check(self, lines):
        """They must be there by now."""
        assert missing(self._output(), lines) is None, self._not_seen(lines)

    def _not_seen(self, lines):
        return f"{missing(self._output(), lines)!r} is not seen in:\n{self.text}"

    def code(self):
        """Wait for the end of the command; its exit code."""
        done = re.compile(rf"^DONE-{self._turn} (\d+)$", re.MULTILINE)
        self._wait(lambda: done.search(self.text), lambda: f"it does not end:\n{self.text}")
        return int(done.search(self.text)[1])

    def _output(self):
        return self.text[self._seen:]

    def _wait(self, predicate, why):
        with gevent.Timeout(DEADLINE, False):
            while not predicate():
                gevent.sleep(0.02)
        assert predicate(), why()

    def close(self):
        if self.shell.poll() is None:
            os.killpg(self.shell.pid, signal.SIGKILL)
        self.shell.wait()
        self._reader.join(10)
        for stream in (self.shell.stdin, self.shell.stdout):
            stream.close()


def missing(output, lines):
    """The first of the lines that is not there, in this order; None where all are."""
    shown = iter(output.splitlines())
    for line in lines:
        pattern = looks_like(line)
        if not any(pattern.search(one) for one in shown):
            return line
    return None


def looks_like(line):
    if line.strip().isdecimal():
        return re.compile(rf"^{line.strip()}$")
    pattern = ""
    for part in re.findall(r"\s*…\s*|\s+|(?<!\w)(?=\w*\d)[0-9a-f]{8,}(?!\w)|\d+|[^\d\s…]+", line):
        if "…" in part:
            pattern += ".*"
        elif part.isspace():
            pattern += r"\s+"
        elif part.isdecimal():
            pattern += r"\d+"
        else:
            pattern += "[0-9a-f]+" if re.fullmatch(r"(?=\w*\d)[0-9a-f]{8,}", part) else re.escape(part)
    return re.compile(pattern)


def test_the_eye():
    """What counts as seen: a reader must not be shown what does not come."""
    assert looks_like("5 accepted, 0 refused").search("12:00 71 accepted,  2 refused: none")
    assert not looks_like("5 accepted, 0 refused").search("5 accepted")
    assert looks_like("extranonce1 d96a4fe5").search("extranonce1   0123abcd")
    assert looks_like("rig1 … (karoo-miner").search("rig2: authorized (karoo-miner/0.1.0)")
    assert looks_like("78").search("78")
    assert not looks_like("78").search("0")
    assert missing("a\nb\nc", ["a", "c"]) is None
    assert missing("a\nb\nc", ["c", "a"]) == "a"


def test_both_pages_say_the_same():
    """The commands, what is seen, and the files are the same in both languages; comments in the files are not."""
    first, second = ([(kind, name, without_comments(text) if kind == "yaml" else text) for kind, name, text in
                      blocks(page)] for page in PAGES)
    assert first == second


def test_every_block_is_run():
    kinds = {kind for kind, _, _ in blocks(PAGES[0])}
    assert kinds == {"console", "yaml", "sh"}
    assert [text for kind, _, text in blocks(PAGES[0]) if kind == "sh"] == NOT_RUN
    assert len(re.findall("^ *```", PAGES[0].read_text(), re.MULTILINE)) == 2 * len(blocks(PAGES[0]))


def free_ports():
    """A port for each that the page uses: on the reader's machine those are free, here perhaps not. They are none that
    the system gives away by itself (from 32768 on), as it might before they are used."""
    found = {}
    candidates = random.sample(range(20_000, 32_000), 1000)
    for port in PORTS:
        while str(port) not in found:
            candidate = candidates.pop()
            try:
                listening_socket("127.0.0.1", candidate).close()
            except ListenError:
                continue
            found[str(port)] = str(candidate)
    return found


def environment_of(home):
    passed = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("KAROO_")}
    return {"HOME": str(home), "LANG": "C.UTF-8", "TERM": "dumb", **passed, "GIT_CONFIG_COUNT": "2",
            "GIT_CONFIG_KEY_0": f"url.{ROOT}.insteadOf", "GIT_CONFIG_VALUE_0": CLONE,
            "GIT_CONFIG_KEY_1": "safe.directory", "GIT_CONFIG_VALUE_1": "*"}


@pytest.mark.parametrize("page", PAGES[:1], ids=lambda page: page.name)
def test_the_tutorial_works(page, tmp_path):
    for program in ("git", "curl", "bash"):
        if shutil.which(program) is None and not os.environ.get("CI"):
            pytest.skip(f"{program} is missing")
    if (left := -time.time() % 86_400) < MIDNIGHT:
        gevent.sleep(left)  # a report is of today
    home = tmp_path / "home"
    home.mkdir()
    ports = free_ports()

    def here(text):
        return re.sub(rf"\b({'|'.join(ports)})\b", lambda found: ports[found[0]], text)

    terminals = {}
    steps = [(kind, name, text) for kind, name, text in blocks(page) if kind != "sh"]
    try:
        for number, (kind, name, text) in enumerate(steps):
            if kind == "yaml":
                (home / "farm" / name).write_text(here(text))
                continue
            if name not in terminals:
                terminals[name] = Terminal(environment_of(home))
            later = [line for one, other, more in steps[number + 1:] if (one, other) == ("console", name)
                     for line, _ in commands(more)]
            type_all(terminals[name], [(here(command), [here(line) for line in lines])
                                       for command, lines in commands(text)], later, home)
    finally:
        for terminal in terminals.values():
            terminal.close()


def type_all(terminal, todo, later, home):
    """A block's commands, one after the other; `later` are those that come in further blocks of the terminal."""
    following = [command for command, _ in todo[1:]] + later
    for number, (command, lines) in enumerate(todo):
        coming = following[number] if number < len(following) else ""
        if command == "^C":
            terminal.press_ctrl_c()
        elif command.startswith("git clone") and not (ROOT / ".git").exists():  # an unpacked archive
            terminal.type("mkdir ~/karoo")
        else:
            terminal.type(command)
        if coming == "^C" and command != "^C":
            terminal.expect(lines)
            continue
        code = terminal.code()
        terminal.check(lines)
        assert code == 0 or (command == "^C" and code == 130) or coming == "echo $?", f"{command}: {terminal.text}"
        if command.startswith("git clone"):
            shutil.rmtree(home / "karoo")
            (home / "karoo").symlink_to(ROOT)  # the state that is tested, in its environment
