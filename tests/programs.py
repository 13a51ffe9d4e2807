"""`karoo` as a process of its own, for tests."""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import gevent

ROOT = Path(__file__).parent.parent


class Program:
    """`karoo` with some words, its output read as it comes."""

    def __init__(self, *words):
        self.text = ""
        self.process = subprocess.Popen([sys.executable, "-u", "-m", "karoo", *map(str, words)], cwd=ROOT, text=True,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        start_new_session=True)
        self._reader = gevent.spawn(self._read)

    def _read(self):
        for line in self.process.stdout:
            self.text += line

    def wait_for(self, pattern, timeout=20):
        with gevent.Timeout(timeout, AssertionError(f"no {pattern!r} within {timeout} s in:\n{self.text}")):
            while (found := re.search(pattern, self.text)) is None:
                assert self.process.poll() is None or not self._reader.dead, self.text
                gevent.sleep(0.02)
        return found

    def end(self, number=None, timeout=15):
        """Its exit code, after a signal or by itself."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(timeout)
        self._reader.join(timeout)
        return code


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def configuration(folder, **sections):
    path = folder / "karoo.yaml"
    values = {"proxy": {"listen": "127.0.0.1:0"}, "upstream": {"host": "127.0.0.1", "port": 1, "user": "w"},
              "http": {"listen": "127.0.0.1:0"}, **sections}
    path.write_text(json.dumps(values))
    return path
