"""Damaged miners' lines by the hundred thousand against a live proxy, beside honest miners that must lose nothing.

`python -m tests.fuzz --lines 1000000 --seed 7` runs it by hand. The same seed makes the same lines, job ids
and times aside; how they fall between those of other connections is up to the network.
"""

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()

import argparse
import copy
import gc
import json
import logging
import random
import re
import resource
import struct
import sys
import unicodedata
from collections import Counter, deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from time import monotonic

import gevent
from gevent import socket
from gevent.event import Event
from greenlet import greenlet

from karoo import log
from karoo.proxy import lines as session_lines

MAX_LINE = 16_384  # bytes, the proxy's own default
MANY = 30  # lists, or objects, in one line
QUARTER = 4 / 2**32  # the difficulty that every fourth hash reaches
CONNECTIONS = 8  # at a time
PATIENCE = 10  # seconds for what takes milliseconds
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def resident_bytes():
    """What this process holds in memory now."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def living_greenlets():
    """How many greenlets were started and did not end."""
    gc.collect()
    return sum(isinstance(one, greenlet) and not one.dead for one in gc.get_objects())


# ---------------------------------------------------------------- honest miners

class Crew:
    """Honest miners. Each round the pool makes a clean job; every one of them must get it, and must have a share
    of it accepted by the pool. ``delays`` holds the seconds from the job's making until the last had it."""

    def __init__(self, site, pool, proxy, size=3):
        self.site, self.pool = site, pool
        self.miners = [site.miner(proxy, f"crew.honest{number}") for number in range(size)]
        self.rounds = 0
        self.delays = []
        self._enough = Event()
        self._work = None

    def job(self):
        """A new job reaches everybody."""
        started = monotonic()
        name = self.pool.new_job().wire_id
        for miner in self.miners:
            miner.wait(lambda miner=miner: miner.job.notify.job_id == name, PATIENCE, f"job {name}")
        self.delays.append(monotonic() - started)

    def shares(self):
        """Everybody has a share accepted."""
        sent = [(miner, miner.submit_async(miner.find_share())) for miner in self.miners]
        for miner, number in sent:
            verdict = miner.verdict(number, PATIENCE)
            assert verdict is True, f"a good share of {miner.user} was refused: {verdict}"
            for told in (miner.received, miner.messages, miner.lines):
                told.clear()
        self.rounds += 1

    def start(self, pace=0.02):
        """Go on in the background, a round every `pace` seconds or as fast as it goes."""
        def work():
            while not self._enough.wait(pace):
                self.job()
                self.shares()
        self._enough.clear()
        self._work = gevent.spawn(work)

    def go_on(self, rounds=3):
        """Wait until so many rounds more are done, in the background or here."""
        if self._work is None:
            for _ in range(rounds):
                self.job()
                self.shares()
            return
        wanted = self.rounds + rounds
        self.site.wait(lambda: self.rounds >= wanted or self._work.dead, PATIENCE, "the honest miners")
        if self._work.dead:
            self._work.get()

    def stop(self):
        """End the work in the background; raises what went wrong in it."""
        self.go_on(1)
        self._enough.set()
        self._work.get()
        self._work = None

    @property
    def delay(self):
        """The median of the delays so far, which are then forgotten."""
        delays, self.delays = self.delays, []
        return median(delays)


# ---------------------------------------------------------------- offenders

class Offender:
    """A bare connection: sends whatever bytes, reads lines. ``cut`` once the other side has closed or reset it."""

    def __init__(self, proxy, receive_buffer=None, source="127.0.0.1"):
        self.sock = socket.socket()
        self.sock.bind((source, 0))
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(("127.0.0.1", proxy.listener.port))
        self.cut = False
        self._partial = b""

    def send(self, data):
        """Whether it could be sent; waits until the other side took it."""
        try:
            self.sock.sendall(data)
        except OSError as failure:
            if isinstance(failure, TimeoutError):
                raise
            self.cut = True
        return not self.cut

    def read(self):
        """The lines that have come by now, at least one; none at the end. Raises TimeoutError after long silence."""
        while True:
            try:
                data = self.sock.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                self.cut = True
                return []
            *lines, self._partial = (self._partial + data).split(b"\n")
            if lines:
                return lines

    def read_until(self, enough, patience=PATIENCE):
        """Hand lines to `enough` as they come until it is content, or the other side closes. Raises TimeoutError
        after so many seconds, however much else comes meanwhile."""
        with gevent.Timeout(patience, TimeoutError(f"not within {patience} s")):
            while not self.cut and not enough(self.read()):
                pass

    def read_all(self):
        """Every line until the other side closes."""
        lines = []
        self.read_until(lines.extend)
        return lines

    def close(self):
        self.sock.close()

    def reset(self):
        """Close so that the other side gets a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.sock.close()


def fate(line):
    """What must become of a line, by another's reading of the rules: "cut", "silence", or the JSON of the id
    that its answer must have; "open" where it may be answered, or the end: a number beyond all numbers, or more
    lists than any miner sends."""
    line = line.strip(b" \t\r\0\xef\xbb\xbf")  # what firmware puts around a line
    if not line:
        return "silence"
    value, beyond = _object(line)
    if value and (beyond or max(line.count(b"["), line.count(b"{")) > MANY):
        return "open"
    number, method = value.get("id"), value.get("method")
    if type(number) in (bool, list, dict):
        return "null"
    if type(method) is str:
        return "silence" if number is None else json.dumps(number)
    if method is not None:
        return "null"
    return "silence" if "result" in value or "error" in value else "cut"


def _object(line):
    """The object on a line; an empty one, which is no message, where the line is none or too long. And whether
    a number in it is beyond all numbers."""
    beyond = []

    def refuse(text):
        raise ValueError(text)

    def number(text):
        value = float(text)
        if abs(value) == float("inf"):
            beyond.append(text)
        return value

    try:
        value = json.loads(line.decode().strip(), parse_constant=refuse, parse_float=number)
    except (ValueError, RecursionError):
        return {}, False
    return (value, bool(beyond)) if type(value) is dict and len(line) <= MAX_LINE else ({}, False)


# ---------------------------------------------------------------- lines

JUNK = [None, True, False, 0, -1, 1, 0.5, 1e-300, 1e300, 2**31, 2**32, 2**63, 2**64, -(2**64), 10**300, "", " ",
        "0", "00", "zz", "ffffffff", "-1", "0x1", "é", "\x00", "\n", "\x1b[31m", "%s%n%x", "{0}", "\ud800", "\u202e",
        "\U0001f480\U0001f480", "x" * 600, "a.b" * 100, "0" * 2000, [], [[]], [None], {}, {"a": 1}, {"id": 1},
        [[[[[[]]]]]], ["x"] * 40, "mining.submit", "mining.subscribe", "a.rig1", "\x01huge"]
WRITTEN = {b'"\\u0001huge"': b"1e999"}  # what no writer of JSON writes
NAMES = ["u.rig1", "u.rig2", "rig", "u.%s", "u.%d%n", "u.<b>x</b>", "u.\x1b[31mred", "u.\nERROR forged",
         "u.\u202eabc", "u.{worker}", "u.\U0001f480", "u.'\";--", "u.a\tb", "..", "u." + "x" * 500]
RAW = [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"9" * 400, b"9" * 5000, b"0." + b"1" * 3000, b"01",
       b"\xff\xfe", b"\x00", b"\xed\xa0\x80", b"\xc3", b"\\ud800", b"\\u0000", b"\\", b'"', b"\n", b"\r\n", b"\r",
       b"[" * 500, b"[" * 8000, b'{"a":' * 300, b"}" * 3, b"]", b",", b":", b"/*", b"\xef\xbb\xbf", b"\xe2\x80\xa8",
       b"null", b"true", b" " * 5000, b"x" * 20_000]


class Lines:
    """Makes lines as miners send them, and damages them. `job` tells id and ntime of a job that counts."""

    def __init__(self, rng, job):
        self.rng, self._job = rng, job
        self.user = rng.choice(NAMES)
        self._number = 0
        self._last = []

    def real(self):
        """A message as some miner sends it."""
        rng = self.rng
        self._number += 1
        number = rng.choice([self._number, 4, str(self._number), "auth", 2**64 + self._number, self._number + 0.5])
        method, params = rng.choice([
            self._submit, self._submit, self._submit,
            lambda: ("mining.configure", [["version-rolling", "minimum-difficulty", "subscribe-extranonce", "info"], {
                "version-rolling.mask": "1fffe000", "version-rolling.min-bit-count": 2,
                "minimum-difficulty.value": 2048}]),
            lambda: ("mining.subscribe", [rng.choice(["cgminer/4.11.1", "NerdMinerV2", "bitaxe/BM1366", "%s\x1b[31m"]),
                                          *([f"{rng.getrandbits(32):08x}"] * rng.randrange(2))]),
            lambda: ("mining.authorize", [rng.choice([self.user, rng.choice(NAMES)]), "x"]),
            lambda: ("mining.suggest_difficulty", [rng.choice([0.00015, 500_000, QUARTER / 2, QUARTER / 4])]),
            lambda: ("mining.suggest_target", ["00" * rng.randrange(33) + "ff" * 2]),
            lambda: ("mining.extranonce.subscribe", []),
            lambda: (rng.choice(["mining.ping", "mining.get_transactions", "mining.multi_version", "login",
                                 "mining.capabilities"]), [1, {"notify": []}]),
        ])()
        return {"id": None if rng.random() < 0.1 else number, "method": method, "params": params}

    def _submit(self):
        name, ntime = self._job()
        rng = self.rng
        if self._last and rng.random() < 0.1:  # once more
            return "mining.submit", list(self._last)
        bits = [f"{rng.getrandbits(16) << 13:08x}"] if rng.random() < 0.2 else []
        self._last = [self.user, name, f"{rng.getrandbits(32):08x}", f"{ntime + rng.randrange(3):08x}",
                      f"{rng.getrandbits(32):x}", *bits]
        return "mining.submit", list(self._last)

    def swapped(self):
        """Valid JSON, wrong in some of its members."""
        rng, message = self.rng, self.real()
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            self._damage(message)
        return rng.choice(JUNK) if rng.random() < 0.002 else message

    def _damage(self, message):
        rng, params = self.rng, message.get("params")
        choice = rng.random()
        if choice < 0.55 and type(params) is list and params:
            at = rng.randrange(len(params))
            inner = params[at]
            if type(inner) in (list, dict) and inner and rng.random() < 0.5:
                inner[rng.choice(list(inner) if type(inner) is dict else range(len(inner)))] = self._junk()
            else:
                params[at] = self._junk()
        elif choice < 0.65 and type(params) is list and params:
            del params[rng.randrange(len(params)):]
        elif choice < 0.7 and type(params) is list:
            params.extend(params * rng.choice([1, 1, 1, 20]))
        elif choice < 0.8:
            message["id"] = self._junk()
        elif choice < 0.84:
            message["params"] = self._junk()
        elif choice < 0.9 and type(message.get("method")) is str:
            at = rng.randrange(len(message["method"]) + 1)
            other = rng.choice(["", "x", "\x00", "é", "%s"])
            message["method"] = message["method"][:at] + other + message["method"][at + 1:]
        elif choice < 0.92:
            message["method"] = self._junk()
        elif choice < 0.96:
            message[rng.choice(["result", "error", "jsonrpc", "worker", "reject-reason"])] = self._junk()
        elif choice < 0.999:
            message.pop(rng.choice(["id", "params"]), None)
        else:
            message.pop("method", None)

    def _junk(self):
        return copy.deepcopy(self.rng.choice(JUNK))

    def broken(self):
        """A line damaged byte by byte: seldom JSON."""
        rng = self.rng
        line = bytearray(self.written(self.real() if rng.random() < 0.5 else self.swapped()))
        for _ in range(rng.choice([1, 1, 2, 5])):
            at = rng.randrange(len(line) + 1)
            other = min(len(line), at + rng.randrange(1, 12))
            kind = rng.randrange(7)
            if kind == 0 and at < len(line):
                line[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                del line[at:other]
            elif kind == 2:
                line[at:at] = line[at:other] * rng.choice([1, 2, 50])
            elif kind == 3:
                del line[at:]
            elif kind == 4:
                line[at:at] = rng.randbytes(rng.randrange(1, 9))
            elif kind == 5:
                line[at:at] = rng.choice(RAW)
            else:  # another number, or a value where one stood
                spots = list(re.finditer(rb"[0-9]+|\"[^\"]*\"", line))
                if spots:
                    spot = rng.choice(spots)
                    line[spot.start():spot.end()] = rng.choice(RAW)
        return bytes(line)

    def written(self, message):
        """JSON in one of the ways that miners write it."""
        rng = self.rng
        plain = json.dumps(message, separators=rng.choice([(",", ":"), (", ", ": ")]), ensure_ascii=rng.random() < 0.7)
        line = plain.encode("utf-8", "replace")
        if rng.random() < 0.1:
            for text, other in WRITTEN.items():
                line = line.replace(text, other)
        return line + rng.choice([b"", b"", b"\r", b" "])

    def packet(self, lines):
        """So many lines, the last ones broken, and a ping."""
        rng = self.rng
        whole = [self.written(self.real() if rng.random() < 0.2 else self.swapped()) for _ in range(lines)]
        whole += [self.broken() for _ in range(rng.choice([0, 1, 1, 2]))]
        return b"\n".join(whole) + b'\n{"id":"end","method":"mining.ping"}\n'

    def handshake(self):
        return b"".join(json.dumps(one).encode() + b"\n" for one in (
            {"id": "e1", "method": "mining.subscribe", "params": ["fuzz"]},
            {"id": "e2", "method": "mining.authorize", "params": [self.user, "x"]}))


# ---------------------------------------------------------------- the run

@dataclass
class Tally:
    """What a run did. Memory in bytes, before it and after it; greenlets likewise."""

    seed: int
    handled: int = 0  # lines that the proxy took up
    sent: int = 0
    connections: int = 0
    cut: int = 0
    answers: int = 0
    rounds: int = 0  # of the honest miners
    logged: int = 0
    bad_log_lines: list = field(default_factory=list)
    memory: tuple = (0, 0)
    greenlets: tuple = (0, 0)
    seconds: float = 0.0

    def __str__(self):
        return (f"seed {self.seed}: {self.handled} lines handled of {self.sent} sent over {self.connections} "
                f"connections, {self.cut} cut; {self.answers} answers, {self.logged} log lines; {self.rounds} honest "
                f"rounds; memory {(self.memory[1] - self.memory[0]) / 1e6:+.1f} MB; greenlets {self.greenlets[0]} -> "
                f"{self.greenlets[1]}; {self.seconds:.1f} s")


class _LogCheck(logging.Handler):
    """Formats every record both ways: one line each, without control characters, and JSON."""

    def __init__(self, tally):
        super().__init__()
        self._tally = tally

    def emit(self, record):
        self._tally.logged += 1
        fault = log_fault(record)
        if fault and len(self._tally.bad_log_lines) < 10:
            self._tally.bad_log_lines.append(fault)


def log_fault(record):
    """What is wrong with the two lines that a record makes in the log; empty when nothing is."""
    try:
        text, object_ = log.TextFormatter().format(record), log.JsonFormatter().format(record)
        json.loads(object_)
    except (TypeError, ValueError) as failure:
        return f"{failure!r} for {record.msg!r} with {record.args!r}"
    for line in (text, object_):
        if not line.isprintable() and any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in line):
            return f"control characters: {line!r}"
    return ""


class _Recent(list):
    """The last few hundred of what is appended."""

    def append(self, one):
        super().append(one)
        if len(self) > 400:
            del self[:-200]


@contextmanager
def _counted(tally):
    """Counts the lines that reach the sessions."""
    on_line = session_lines.on_line

    def counting(session, line):
        tally.handled += 1
        on_line(session, line)

    session_lines.on_line = counting
    try:
        yield
    finally:
        session_lines.on_line = on_line


class Fuzz:
    """One run, against a proxy in front of a pool at which every fourth hash is a share, and which lets miners
    have difficulties far below that."""

    def __init__(self, site, seed):
        self.tally = Tally(seed)
        self.pool = pool = site.pool(difficulty=QUARTER)
        self.proxy = proxy = site.proxy(pool, vardiff={"min_diff": 1e-12}, proxy={"max_misbehaviour": 0})
        self._site, self._seed = site, seed
        site.records = _Recent()  # what the tests and the pool keep must not count as the proxy's memory
        pool.lines, pool.books.shares = deque(maxlen=200), deque(maxlen=200)
        self.crew = Crew(site, pool, proxy)

    def run(self, lines):
        """Until the proxy took up so many lines; raises AssertionError with the packet that was answered wrongly."""
        tally, crew, started = self.tally, self.crew, monotonic()
        check = _LogCheck(tally)
        logging.getLogger("karoo").addHandler(check)
        try:
            crew.go_on(5)
            greenlets, memory = living_greenlets(), resident_bytes()
            crew.start(pace=0.1)
            with _counted(tally):
                workers = [gevent.spawn(self._work, number, lines) for number in range(CONNECTIONS)]
                gevent.joinall(workers, raise_error=True)
            crew.stop()
            self._site.wait(lambda: len(self.proxy.sessions) == len(crew.miners), PATIENCE, "the end of the sessions")
            self._site.wait(lambda: not self.proxy.routes.routes[0].upstream.owed, PATIENCE, "the pool's last answers")
            tally.greenlets = greenlets, living_greenlets()
            tally.memory = memory, resident_bytes()
        finally:
            logging.getLogger("karoo").removeHandler(check)
        tally.rounds, tally.seconds = crew.rounds, monotonic() - started
        return tally

    def _work(self, number, lines):
        rng = random.Random(f"{self._seed}/{number}")
        while self.tally.handled < lines:
            self._connection(rng)

    def _job(self):
        notify = self.crew.miners[0].job.notify
        return notify.job_id, notify.ntime

    def _connection(self, rng):
        source, offender = Lines(rng, self._job), Offender(self.proxy)
        self.tally.connections += 1
        try:
            for turn in range(rng.choice([1, 2, 4, 8])):
                packet = source.packet(rng.choice([5, 20, 60, 100]))
                if turn == 0 and rng.random() < 0.8:
                    packet = source.handshake() + packet
                self.tally.sent += packet.count(b"\n")
                offender.send(packet)
                if rng.random() < 0.05:
                    offender.reset()
                    return
                expect = self._read_answers(offender, packet)
                self.tally.cut += offender.cut
                if offender.cut or expect.is_open:
                    return
        finally:
            offender.close()

    def _read_answers(self, offender, packet):
        """Every request must have its answer, once, and nothing else any. What was expected."""
        expect = Expected(packet)

        def take(lines):
            for line in lines:
                message = json.loads(line, parse_constant=_no_json)
                if "method" not in message:
                    self.tally.answers += 1
                    if not expect.answered(json.dumps(message["id"])):
                        raise self._blame(f"an answer too many: {line!r}", packet, expect)
            return expect.complete

        try:
            if not expect.complete:
                offender.read_until(take)
        except TimeoutError:
            raise self._blame("silence", packet, expect) from None
        if offender.cut and not expect.may_be_cut:
            raise self._blame("cut without a reason", packet, expect)
        return expect

    def _blame(self, what, packet, expect):
        return AssertionError(f"{what} (seed {self._seed}); no answer has {expect.unanswered}\n"
                              f"packet: {packet[:3000]!r}")


class Expected:
    """What must come back for a packet."""

    def __init__(self, packet):
        self._fates = [(fate(line), line) for line in packet.split(b"\n") if line not in (b"", b"\r")]
        fates = [what for what, _ in self._fates]
        end = fates.index("cut") if "cut" in fates else len(fates)
        self._open = fates[:end].count("open")  # lines that may be answered, or cut the connection
        self._ends = end < len(fates)
        self._owed = Counter(what for what in fates[:end] if what not in ("silence", "open"))
        self._owed["null"] += self._ends  # the reason for the cut
        self.is_open = self._open > 0
        self.may_be_cut = self._ends or self.is_open

    @property
    def complete(self):
        """All has come. Where a cut must come it is waited for."""
        return not self._ends and not +self._owed

    def answered(self, number):
        """Whether an answer with this id was still to come."""
        self._owed[number] -= 1
        if self._owed[number] < 0:
            self._open -= 1
            self._owed[number] = 0
        return self._open >= 0

    @property
    def unanswered(self):
        """The first of the lines whose answers are missing."""
        return [line[:300] for what, line in self._fates if self._owed[what] > 0][:5]


def _no_json(text):
    raise AssertionError(f"the proxy sent {text}, which is not JSON")


def main():
    parser = argparse.ArgumentParser(description="Damaged lines against a proxy on this machine.")
    parser.add_argument("--lines", type=int, default=1_000_000, help="how many the proxy must take up")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    from tests.site import Site
    site = Site()
    try:
        tally = Fuzz(site, options.seed).run(options.lines)
        print(tally)
        site.check()
        for line in tally.bad_log_lines:
            print(line)
        return bool(tally.bad_log_lines)
    finally:
        site.close()


if __name__ == "__main__":
    sys.exit(main())
