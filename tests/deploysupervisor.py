"""A real supervisord for tests, with a program file that scripts/install wrote."""

import re
import subprocess
import sys
from pathlib import Path

import gevent

_MAIN = """\
[unix_http_server]
file={folder}/s
chmod=0700
[supervisord]
nodaemon=true
logfile={folder}/supervisord.log
pidfile={folder}/supervisord.pid
childlogdir={folder}
minfds={minfds}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{folder}/s
[include]
files={snippet}
"""
SECONDS = 40  # for anything to happen: a start takes some, and startsecs more


class Supervisor:
    """`supervisord` over one program file, from `start` to `stop`. ``folder``: a short path, as a socket is in it."""

    def __init__(self, folder, snippet, minfds):
        self.folder, self.conf = folder, folder / "supervisord.conf"
        self.conf.write_text(_MAIN.format(folder=folder, snippet=snippet, minfds=minfds))
        self._process = None

    def start(self):
        with open(self.folder / "said", "w") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.conf)], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=said, start_new_session=True)
        return self

    def ctl(self, *words):
        """What supervisorctl prints."""
        done = subprocess.run([sys.executable, "-m", "supervisor.supervisorctl", "-c", str(self.conf), *words],
                              check=False, capture_output=True, text=True, timeout=SECONDS)
        return done.stdout + done.stderr

    @property
    def state(self):
        """Of the program karoo: RUNNING, STOPPED, BACKOFF, FATAL, ..."""
        words = self.ctl("status", "karoo").split()
        return words[1] if words[:1] == ["karoo"] else ""

    @property
    def pid(self):
        return int(self.ctl("pid", "karoo"))

    @property
    def log(self):
        """What supervisord says itself."""
        paths = [self.folder / "said", self.folder / "supervisord.log"]
        return "".join(path.read_text() for path in paths if path.exists())

    def wait(self, predicate, what):
        """Wait until something holds; what it is."""
        with gevent.Timeout(SECONDS, AssertionError(f"waited {SECONDS} s for {what}; supervisord:\n{self.log}")):
            while not (found := predicate()):
                assert self._process.poll() is None, self.log
                gevent.sleep(0.05)
        return found

    def wait_state(self, *states):
        self.wait(lambda: self.state in states, f"one of {states}")

    def wait_text(self, path, pattern, beyond=0):
        """Wait for a pattern in a file, from a position on; the match."""
        return self.wait(lambda: path.exists() and re.search(pattern, path.read_text()[beyond:]),
                         f"{pattern} in {path}")

    def stop(self):
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(SECONDS)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()


def open_files_limit(pid):
    """The hard limit of a process."""
    line = next(one for one in Path(f"/proc/{pid}/limits").read_text().splitlines() if one.startswith("Max open files"))
    return int(line.split()[4])

