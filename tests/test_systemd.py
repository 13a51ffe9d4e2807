"""Sockets that systemd passes, and what it is told: with its own systemd-socket-activate, and in its place a socket."""

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import gevent
import pytest
from gevent import socket

from karoo import systemd
from karoo.systemd import Activation, ActivationError, Notifier, check_listening, passed_sockets

ROOT = Path(__file__).parent.parent
ACTIVATE = shutil.which("systemd-socket-activate")
needs_systemd = pytest.mark.skipif(  # by hand only: where everything must hold, it is missed
    ACTIVATE is None and not os.environ.get("CI"),
    reason="systemd-socket-activate is missing: .ci/debian systemd-socket-activate systemd")
PID = str(os.getpid())
FAR = 900  # descriptors from here on are the tests'


# ---------------------------------------------------------------- passed descriptors

@pytest.fixture
def far(monkeypatch):
    """As if systemd passed descriptors from FAR on, where the tests put them: 3 and those after it are in use."""
    monkeypatch.setattr(systemd, "FIRST_DESCRIPTOR", FAR)
    numbers = count(FAR)
    put = []

    def place(*files):
        for one in files:
            number = next(numbers)
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(number)
            put.append(os.dup2(one.fileno(), number, inheritable=True))
    yield place
    for descriptor in put:
        with contextlib.suppress(OSError):
            socket.close(descriptor)


@pytest.fixture
def make():
    """Makes sockets that are closed in the end."""
    with contextlib.ExitStack() as stack:
        def start(family=socket.AF_INET, kind=socket.SOCK_STREAM, listen=True, to=("127.0.0.1", 0)):
            sock = stack.enter_context(contextlib.closing(socket.socket(family, kind)))
            sock.bind(to)
            if listen:
                sock.listen()
            return sock
        yield start


def variables(fds, names=None, pid=PID):
    values = {"LISTEN_PID": pid, "LISTEN_FDS": fds, "LISTEN_FDNAMES": names}
    return {key: value for key, value in values.items() if value is not None}


@pytest.mark.parametrize(("names", "passed"), [
    (None, {"unknown": [900, 901, 902]}),
    ("", {"unknown": [900, 901, 902]}),
    ("miners:page:tls", {"miners": [900], "page": [901], "tls": [902]}),
    ("miners:page:miners", {"miners": [900, 902], "page": [901]}),
    ("karoo.socket:karoo.socket:karoo.socket", {"karoo.socket": [900, 901, 902]}),
    ("a::b", {"a": [900], "unknown": [901], "b": [902]}),
])
def test_descriptors_come_by_their_names_in_order(far, make, names, passed):
    far(make(), make(), make())
    environ = {"PATH": "/bin", "LISTEN_PIDFDID": "12", **variables("3", names)}
    found = passed_sockets(environ)
    assert found == passed and list(found) == list(passed)
    assert environ == {"PATH": "/bin"}
    assert [os.get_inheritable(descriptor) for descriptor in (900, 901, 902)] == [False] * 3


@pytest.mark.parametrize("environ", [
    {}, variables("1", pid="1"), variables("1", pid=None), variables(None), variables("0"), variables("0", ""),
    variables("nonsense", pid="1"),
])
def test_what_is_not_for_this_process_is_not_taken_and_not_handed_on(far, make, environ):
    far(make())
    environ = dict(environ)
    assert passed_sockets(environ) == {} and environ == {}
    assert os.get_inheritable(FAR), "it is somebody else's"


@pytest.mark.parametrize(("environ", "text"), [
    (variables("one"), "LISTEN_FDS is 'one', which is no number"),
    (variables(""), "LISTEN_FDS is '', which is no number"),
    (variables("-1"), "LISTEN_FDS is '-1'"),
    (variables(" 1"), "LISTEN_FDS is ' 1'"),
    (variables("\u0661"), "which is no number"),
    (variables("1" * 5000), "which is no number"),
    (variables("99999999"), "LISTEN_FDS is 99999999: so many"),
    (variables("1", pid="me"), "LISTEN_PID is 'me', which is no number"),
    (variables("1", "a:b"), r"LISTEN_FDNAMES names 2 descriptors \(a, b\), but LISTEN_FDS says that 1 were passed"),
    (variables("2", "a"), r"names 1 descriptors \(a\), but LISTEN_FDS says that 2"),
    (variables("2"), "2 descriptors were passed, but descriptor 901 cannot be used: Bad file descriptor"),
])
def test_faulty_variables_are_named(far, make, environ, text):
    far(make())
    environ = dict(environ)
    with pytest.raises(ActivationError, match=text):
        passed_sockets(environ)
    assert environ == {}


def test_each_socket_is_taken_once(far, make):
    far(make(), make(), make(socket.AF_INET6, to=("::1", 0)))
    activation = Activation(variables("3", "miners:page:miners"))
    assert activation.unused() == ["miners", "page"]
    assert activation.take("miners") == [900, 902]
    assert activation.unused() == ["page"]
    with pytest.raises(ActivationError, match="named miners is wanted for two things"):
        activation.take("miners")
    with pytest.raises(ActivationError, match=r"no socket named pages: it passed miners, page \(FileDescriptorName="):
        activation.take("pages")
    assert activation.take("page") == [901] and activation.unused() == []


@pytest.mark.parametrize(("environ", "text"), [
    ({}, "no socket named miners: this process was not started by a socket unit"),
    (variables("0"), "not started by a socket unit"),
    (variables("1", pid="1"), f"systemd passed its sockets to process 1, and this is {PID} .*exec"),
])
def test_without_sockets_it_says_why_there_are_none(environ, text):
    activation = Activation(dict(environ))
    assert activation.unused() == []
    with pytest.raises(ActivationError, match=text):
        activation.take("miners")


def test_what_cannot_be_listened_on_is_not_taken(far, make):
    far(make(), make(kind=socket.SOCK_DGRAM, listen=False))
    activation = Activation(variables("2", "miners:miners"))
    with pytest.raises(ActivationError, match="the socket named miners cannot be used: descriptor 901 is a datagram"):
        activation.take("miners")
    assert activation.unused() == ["miners"]


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_listening_socket_stays_as_it_was(make, family, address):
    sock = make(family, to=(address, 0))
    os.set_blocking(sock.fileno(), True)
    check_listening(sock.fileno())
    assert os.get_blocking(sock.fileno()), "systemd has the same socket"
    assert sock.getsockname()[0] == address


def test_what_is_no_listening_socket_is_named(make, tmp_path):
    unix = make(socket.AF_UNIX, to=str(tmp_path / "socket"))
    listener = make()
    with contextlib.closing(socket.create_connection(listener.getsockname())) as connected, \
            open(os.devnull, "rb") as file:
        for one, text in ((unix, "a Unix socket, not one of an IP address"),
                          (make(kind=socket.SOCK_DGRAM, listen=False), "a datagram socket"),
                          (make(listen=False), "does not listen"),
                          (connected, "does not listen, such as a single connection"),
                          (file, "no socket")):
            with pytest.raises(ActivationError, match=f"descriptor {one.fileno()} is .*{text}"):
                check_listening(one.fileno())
            os.fstat(one.fileno())  # still open
        number = connected.fileno()
    with pytest.raises(ActivationError, match="unusable: Bad file descriptor"):
        check_listening(number)


def test_another_protocol_than_tcp_is_named():
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)  # IPPROTO_MPTCP
    except OSError:
        pytest.skip("this kernel has no MPTCP")
    with contextlib.closing(sock), pytest.raises(ActivationError, match=r"protocol 262.*SocketProtocol="):
        check_listening(sock.fileno())


# ---------------------------------------------------------------- systemd-socket-activate

# Takes the sockets of the names it is given (or all), says so, and answers one connection to each with its name.
PROGRAM = """
from gevent import monkey; monkey.patch_all()
import json, os, subprocess, sys
from gevent import socket
from karoo.systemd import Activation, ActivationError
try:
    activation = Activation()
    passed = {name: activation.take(name) for name in sys.argv[1:] or activation.unused()}
except ActivationError as fault:
    sys.exit(f"fault: {fault}")
child = "import os\\nfor n in (3, 4):\\n  try: os.fstat(n); print('open')\\n  except OSError: pass"
seen = subprocess.run([sys.executable, "-c", child], close_fds=False, capture_output=True, text=True, check=True).stdout
left = [name for name in os.environ if name.startswith("LISTEN_")]
print(json.dumps({"passed": passed, "unused": activation.unused(), "left": left, "child": seen}), flush=True)
for name, descriptors in passed.items():
    for descriptor in descriptors:
        listener = socket.socket(fileno=descriptor)
        peer, _ = listener.accept()
        peer.sendall(name.encode())
        peer.close()
"""
V4, V6 = "127.0.0.1", "::1"


class Activated:
    """A program that systemd-socket-activate starts when somebody comes."""

    def __init__(self, hosts, words, program):
        self._hosts, self._words, self._program = hosts, words, program
        for _ in range(5):  # somebody else may take a port that was free just now
            self._start()
            if "in use" not in self.text:
                return
            self.end()
        raise AssertionError(self.text)

    def _start(self):
        self.addresses = [free_address(host) for host in self._hosts]
        listens = [word for host, port in self.addresses
                   for word in ("-l", f"[{host}]:{port}" if ":" in host else f"{host}:{port}")]
        self.text = ""
        self.process = subprocess.Popen(
            [ACTIVATE or "systemd-socket-activate", *listens, *self._words, *self._program], cwd=ROOT, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "SYSTEMD_LOG_TARGET": "console", "SYSTEMD_LOG_LEVEL": "info"})
        self._reader = gevent.spawn(self._read, self.process)
        wanted = len(self.addresses)
        self.wait(lambda: len(re.findall(r"Listening on .* as \d", self.text)) == wanted or "in use" in self.text)

    def _read(self, process):
        for line in process.stdout:
            self.text += line

    def wait(self, condition, timeout=20):
        with gevent.Timeout(timeout, AssertionError(f"waited {timeout} s; it said:\n{self.text}")):
            while not condition():
                assert self.process.poll() is None or not self._reader.dead or condition(), self.text
                gevent.sleep(0.01)

    def connect(self, number=0, kind=socket.SOCK_STREAM):
        host, port = self.addresses[number]
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
        sock.settimeout(20)
        sock.connect((host, port))
        return sock

    def ask(self, number=0):
        """What the program says to somebody who connects."""
        with contextlib.closing(self.connect(number)) as sock, sock.makefile("rb") as file:
            return file.read().decode()

    def said(self):
        """What it printed of itself."""
        self.wait(lambda: re.search(r"^\{.*\}\n", self.text, re.MULTILINE))
        return json.loads(re.search(r"^\{.*\}\n", self.text, re.MULTILINE).group())

    def fault(self):
        """Its last words."""
        self.wait(lambda: re.search(r"^fault: (.*)\n", self.text, re.MULTILINE))
        return re.search(r"^fault: (.*)\n", self.text, re.MULTILINE).group(1)

    def end(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # the programs that it started too
            self.process.wait(10)
        self._reader.join(10)
        self.process.stdout.close()


def free_address(host):
    with contextlib.closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as sock:
        sock.bind((host, 0))
        return host, sock.getsockname()[1]


@pytest.fixture
def activated():
    started = []

    def start(hosts, *words, take=(), before=()):
        started.append(Activated(hosts, words, [*before, sys.executable, "-c", PROGRAM, *take]))
        return started[-1]
    yield start
    for one in started:
        one.end()


@needs_systemd
def test_real_sockets_by_name(activated):
    """Two of different names, one of them IPv6; whoever was first is served, and children get none of it."""
    program = activated([V4, V6], "--fdname=miners:page", take=("page", "miners"))
    with contextlib.closing(program.connect(0)) as first:
        assert program.said() == {"passed": {"page": [4], "miners": [3]}, "unused": [], "left": [], "child": ""}
        assert program.ask(1) == "page"
        assert first.recv(100) == b"miners"
    assert program.process.wait(10) == 0


@needs_systemd
def test_real_sockets_of_one_name(activated):
    program = activated([V4, V4], "--fdname=miners", take=("miners",))
    assert program.ask(0) == "miners" and program.ask(1) == "miners"
    assert program.said()["passed"] == {"miners": [3, 4]}


@needs_systemd
def test_a_real_socket_without_a_name(activated):
    program = activated([V4], take=("unknown",))
    assert program.ask() == "unknown"
    assert program.said()["passed"] == {"unknown": [3]}


@needs_systemd
def test_a_real_socket_that_nobody_takes(activated):
    program = activated([V4, V4], "--fdname=miners:page", take=("miners",))
    assert program.ask() == "miners"
    assert program.said()["unused"] == ["page"]


@needs_systemd
def test_a_real_socket_of_another_name(activated):
    program = activated([V4, V4], "--fdname=a:b", take=("miners",))
    with contextlib.closing(program.connect()):
        assert program.fault() == ("systemd passed no socket named miners: it passed a, b "
                                   "(FileDescriptorName= of the socket unit names it)")
    assert program.process.wait(10) == 1


@needs_systemd
def test_more_real_names_than_sockets(activated):
    program = activated([V4, V4], "--fdname=a:b:c", take=("a",))
    with contextlib.closing(program.connect()):
        assert program.fault() == ("LISTEN_FDNAMES names 3 descriptors (a, b, c), but LISTEN_FDS says that 2 were "
                                   "passed")


@needs_systemd
def test_a_real_datagram_socket(activated):
    program = activated([V4], "--datagram", "--fdname=miners", take=("miners",))
    with contextlib.closing(program.connect(kind=socket.SOCK_DGRAM)) as sock:
        sock.send(b"x")
        assert "descriptor 3 is a datagram socket" in program.fault()


@needs_systemd
def test_a_real_single_connection(activated):
    """A program for each connection, as with Accept=yes."""
    program = activated([V4], "--accept")
    with contextlib.closing(program.connect()):
        assert "descriptor 3 is a socket that does not listen, such as a single connection" in program.fault()


@needs_systemd
def test_a_script_in_between_takes_what_is_not_for_it(activated):
    program = activated([V4], "--fdname=miners", take=("miners",), before=("sh", "-c", '"$@"; exit 7', "sh"))
    with contextlib.closing(program.connect()):
        assert re.fullmatch(r"there is no socket named miners: systemd passed its sockets to process \d+, and this is "
                            r"\d+ \(a script in between has to start karoo with exec\)", program.fault())
    assert program.process.wait(10) == 7


# ---------------------------------------------------------------- what systemd is told

class Ear:
    """A unix datagram socket in systemd's place."""

    def __init__(self, address):
        self.name = "@" + address[1:] if address[0] == "\0" else address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self):
        """All that it was told: what is sent on this machine is there at once."""
        texts = []
        while True:
            try:
                texts.append(self.socket.recv(10_000).decode())
            except BlockingIOError:
                return texts

    def close(self):
        self.socket.close()


@pytest.fixture(params=["path", "abstract"])
def ear(request, tmp_path):
    address = str(tmp_path / "notify") if request.param == "path" else f"\0karoo-test-{PID}-{time.monotonic_ns()}"
    with contextlib.closing(Ear(address)) as one:
        yield one


@pytest.fixture
def notifier(ear):
    """One whose systemd watches it, with a clock to be moved."""
    environ = {"NOTIFY_SOCKET": ear.name, "WATCHDOG_USEC": "8000000", "WATCHDOG_PID": PID, "PATH": "/bin"}
    clock = [1000.0]
    with contextlib.closing(Notifier(environ, lambda: clock[0])) as one:
        one.test_clock = clock
        assert environ == {"PATH": "/bin"}
        yield one


def warnings(caplog):
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


def test_a_life_as_systemd_hears_it(ear, notifier, caplog):
    assert notifier.active and notifier.watchdog_seconds == 8.0
    notifier.ready()
    notifier.status("2 miners, pool example.com is up")
    notifier.watchdog()
    assert ear.heard() == ["READY=1", "STATUS=2 miners, pool example.com is up", "WATCHDOG=1"]
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.ready()
    reloading, ready = ear.heard()
    found = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", reloading)
    assert found and before <= int(found.group(1)) <= after and ready == "READY=1"
    notifier.stopping()
    assert ear.heard() == ["STOPPING=1"]
    notifier.close()
    notifier.status("silence")
    notifier.ready()
    assert ear.heard() == [] and warnings(caplog) == []


def test_signs_of_life_come_four_times_as_often_as_they_have_to(ear, notifier):
    heard = []
    for _ in range(17):  # looks, half a second apart
        notifier.watchdog()
        heard.append(len(ear.heard()))
        notifier.test_clock[0] += 0.5
    assert heard == [1, 0, 0, 0] * 4 + [1]


def test_a_status_is_told_when_it_differs(ear, notifier):
    for text in ("a", "a", " a ", "b", "a"):
        notifier.status(text)
    assert ear.heard() == ["STATUS=a", "STATUS=b", "STATUS=a"]


@pytest.mark.parametrize(("text", "told"), [
    ("one\ntwo", "one two"),
    ("up\nREADY=1\r\n\tMAINPID=1", "up READY=1 MAINPID=1"),
    ("a\x00b\x1b[2J", "a\\x00b\\x1b[2J"),
    ("half \ud800", "half \\xd800"),
    ("Pool Größe ⛏", "Pool Größe ⛏"),
    ("x" * 500, "x" * 500),
    ("x" * 501, "x" * 497 + "…"),
    ("⛏" * 10_000, "⛏" * 165 + "…"),
    ("x" + "⛏" * 10_000, "x" + "⛏" * 165 + "…"),
])
def test_a_status_is_one_line_and_short(ear, notifier, text, told):
    notifier.status(text)
    assert ear.heard() == [f"STATUS={told}"]
    assert len(told.encode()) <= systemd.LONGEST_STATUS


def test_without_systemd_nothing_is_told(caplog):
    environ = {"PATH": "/bin"}
    notifier = Notifier(environ)
    assert not notifier.active and notifier.watchdog_seconds is None and environ == {"PATH": "/bin"}
    for tell in (notifier.ready, notifier.reloading, notifier.watchdog, notifier.stopping, notifier.close):
        tell()
    notifier.status("nobody listens")
    assert notifier._socket is None and caplog.records == []


@pytest.mark.parametrize(("usec", "pid", "seconds", "warned"), [
    (None, None, None, None), (None, PID, None, None), ("30000000", None, 30.0, None), ("1500000", PID, 1.5, None),
    ("30000000", "1", None, None), ("nonsense", PID, None, "WATCHDOG_USEC is 'nonsense', which is no number"),
    ("", PID, None, "WATCHDOG_USEC is ''"), ("0", PID, None, "WATCHDOG_USEC is 0, which is no time"),
    ("-1", None, None, "WATCHDOG_USEC is '-1'"), ("9" * 400, None, None, "no number"),
    (str(2**64 - 1), PID, None, "which is no time"), ("30000000", "me", None, "WATCHDOG_PID is 'me'"),
])
def test_how_often_systemd_wants_a_sign_of_life(ear, caplog, usec, pid, seconds, warned):
    values = {"NOTIFY_SOCKET": ear.name, "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
    environ = {key: value for key, value in values.items() if value is not None}
    with contextlib.closing(Notifier(environ)) as notifier:
        assert environ == {} and notifier.watchdog_seconds == seconds
        notifier.watchdog()
    assert ear.heard() == (["WATCHDOG=1"] if seconds else [])
    found = warnings(caplog)
    assert len(found) == (1 if warned else 0) and (not warned or warned in found[0])


@pytest.mark.parametrize("address", ["vsock:2:9999", "notify", "@", "/", ""])
def test_other_addresses_are_named_once(caplog, address):
    notifier = Notifier({"NOTIFY_SOCKET": address})
    for _ in range(3):
        notifier.ready()
        notifier.status("nobody listens")
    found = warnings(caplog)
    assert not notifier.active and len(found) == (1 if address else 0)
    assert not address or f"told over {address}, which this program cannot" in found[0]


def test_a_path_that_is_too_long_is_told_and_nothing_breaks(caplog):
    with contextlib.closing(Notifier({"NOTIFY_SOCKET": "/" + "x" * 200})) as notifier:
        notifier.ready()
        notifier.watchdog()
    assert len(warnings(caplog)) == 1 and "too long" in warnings(caplog)[0]


def test_a_failure_is_told_once_until_it_is_over(tmp_path, caplog):
    caplog.set_level(logging.INFO, "karoo")
    path = str(tmp_path / "notify")
    with contextlib.closing(Notifier({"NOTIFY_SOCKET": path})) as notifier:
        for _ in range(3):
            notifier.ready()
            notifier.status("up")
            notifier.watchdog()
        assert warnings(caplog) == [f"systemd could not be told READY=1 over {path}: No such file or directory"]
        with contextlib.closing(Ear(path)) as ear:
            notifier.watchdog()
            assert ear.heard() == ["READY=1"] * 3, "what it owes, although nobody wants signs of life"
            notifier.status("up")
            assert ear.heard() == ["STATUS=up"]
        assert [one.getMessage() for one in caplog.records][1:] == ["systemd could be told READY again"]
        for text in ("a", "b"):  # nobody has the path's socket any more
            notifier.status(text)
        assert warnings(caplog)[1:] == [f"systemd could not be told STATUS=a over {path}: Connection refused"]


def test_where_systemd_is_slow_nothing_waits_and_nothing_that_counts_is_lost(ear, notifier, caplog):
    turned = []
    gevent.spawn(turned.append, "the loop")
    with gevent.Timeout(10, AssertionError("it waits")):
        for number in range(2000):  # more than any queue takes
            notifier.status(str(number))
            if warnings(caplog):
                break
        notifier.ready()
        notifier.reloading()
        notifier.ready()
        notifier.watchdog()
    assert turned == [], "the loop got a turn: something has waited"
    assert len(warnings(caplog)) == 1 and "Resource temporarily unavailable" in warnings(caplog)[0]
    assert len(ear.heard()) == number
    notifier.status(str(number))  # which was not told before
    heard = [text.split("\n")[0] for text in ear.heard()]
    assert heard == ["READY=1", "RELOADING=1", "READY=1", f"STATUS={number}"]
    notifier.watchdog()
    assert ear.heard() == ["WATCHDOG=1"]


def test_what_is_owed_is_bounded(tmp_path):
    path = str(tmp_path / "notify")
    with contextlib.closing(Notifier({"NOTIFY_SOCKET": path})) as notifier:
        for _ in range(1000):
            notifier.reloading()
            notifier.ready()
        with contextlib.closing(Ear(path)) as ear:
            notifier.stopping()
            heard = [text.split("\n")[0] for text in ear.heard()]
            assert heard == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]


def test_no_descriptor_is_needed_once_something_was_told(ear, notifier, monkeypatch):
    notifier.ready()
    monkeypatch.setattr(systemd.socket, "socket", None)
    notifier.watchdog()
    assert ear.heard() == ["READY=1", "WATCHDOG=1"]
