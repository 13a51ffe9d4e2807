"""What runs in C where it was built: the same results as its twins in Python, nothing lost where a socket is full."""

import importlib.machinery
import importlib.util
import os
import random
import shlex
import socket as stdlib_socket
import subprocess
import sys
import sysconfig

import gevent
import pytest
from gevent import socket
from hypothesis import given
from hypothesis import strategies as st

from karoo.net.connection import Connection
from karoo.net.fanout import write_all
from karoo.stratum import share as sh
from tests.programs import ROOT

speed = pytest.importorskip("karoo._speed", reason="there was no compiler")

u32s = st.integers(0, 2**32 - 1)
blobs = st.binary(max_size=300)


@pytest.fixture(scope="module")
def portable(tmp_path_factory):
    """The extension as it is on processors without instructions for SHA-256, compiled here and now."""
    path = tmp_path_factory.mktemp("portable") / "_speed.so"
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    subprocess.run([*compiler, "-shared", "-fPIC", "-O2", "-pthread", "-DKAROO_PORTABLE",
                    f"-I{sysconfig.get_path('include')}", ROOT / "karoo" / "_speed.c", "-o", path], check=True)
    loader = importlib.machinery.ExtensionFileLoader("karoo._speed", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("karoo._speed", loader))
    loader.exec_module(module)
    assert module.SHA256 == "portable C"
    return module


@pytest.fixture(scope="module", params=["as built", "portable"])
def built(request):
    """Both ways in which the extension may hash."""
    return speed if request.param == "as built" else request.getfixturevalue("portable")


@given(blobs, blobs, st.lists(st.binary(min_size=32, max_size=32), max_size=14), st.binary(min_size=32, max_size=32),
       u32s, st.binary(max_size=40), u32s, u32s, u32s)
def test_a_share_has_the_same_hash_in_both(built, coinb1, coinb2, branches, prevhash, nbits, extranonce, version,
                                           ntime, nonce):
    job = coinb1, coinb2, b"".join(branches), prevhash, nbits
    assert (built.Work(*job).digest(extranonce, version, ntime, nonce)
            == sh.Work(*job).digest(extranonce, version, ntime, nonce))


@pytest.mark.parametrize("size", [0, 1, 54, 55, 56, 57, 63, 64, 65, 119, 120, 128, 16_384, 500_000])
def test_coinbases_of_every_size_around_a_block(built, size):
    """Padding has its edges at 55, 56 and 64 bytes; long ones are hashed without Python's lock."""
    rng = random.Random(size)
    for first in (0, 1, 63, 64, 65):
        job = rng.randbytes(first), rng.randbytes(size), rng.randbytes(64), rng.randbytes(32), 7
        assert built.Work(*job).digest(b"12345678", 1, 2, 3) == sh.Work(*job).digest(b"12345678", 1, 2, 3)


@pytest.mark.parametrize("wrong", [
    (b"", b"", b"", b"x" * 31, 1), (b"", b"", b"x" * 33, b"x" * 32, 1), (b"", b"", b"", b"x" * 32, 2**32),
    (b"", b"", b"", b"x" * 32, -1), ("", b"", b"", b"x" * 32, 1), (b"", b"", b"", b"x" * 32, 1.0), (b"",), ()])
def test_wrong_work_is_refused(wrong):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        speed.Work(*wrong)


@pytest.mark.parametrize("wrong", [("", 1, 2, 3), (b"", -1, 2, 3), (b"", 2**32, 2, 3), (b"", 1, 2**64, 3),
                                   (b"", 1, 2, None), (b"", 1, 2), (b"", 1, 2, 3, 4), ()])
def test_a_wrong_share_is_refused(wrong):
    with pytest.raises((TypeError, OverflowError)):
        speed.Work(b"", b"", b"", bytes(32), 1).digest(*wrong)


# ---------------------------------------------------------------- one buffer to many

@pytest.fixture
def pairs():
    made = []

    def make(count, send_buffer=None):
        for _ in range(count):
            ours, theirs = socket.socketpair()
            if send_buffer:
                ours.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_SNDBUF, send_buffer)
            theirs.settimeout(5)
            made.append((ours, theirs))
        return made
    yield make
    for pair in made:
        for sock in pair:
            sock.close()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 200])
def test_all_get_it_whole(pairs, count, threads):
    made = pairs(count)
    assert speed.write_all([ours.fileno() for ours, _ in made], b"job\n", threads) == []
    assert all(theirs.recv(100) == b"job\n" for _, theirs in made)


@pytest.mark.parametrize("threads", [1, 2])
def test_who_did_not_take_it_whole_is_named(pairs, threads):
    made = pairs(100, send_buffer=4096)
    made[7][1].close()
    while True:  # fill one to the brim
        try:
            made[9][0]._sock.send(b"x" * 1000)
        except BlockingIOError:
            break
    descriptors = [ours.fileno() for ours, _ in made]
    descriptors[11] = -1
    found = dict(speed.write_all(descriptors, b"y" * 100, threads))
    assert found.pop(7) == -32 and found.pop(9) == -11 and found.pop(11) == -9 and not found
    whole = b"z" * 1_000_000
    short = dict(speed.write_all([made[0][0].fileno()], whole, threads))
    assert 0 < short[0] < len(whole)


@pytest.mark.parametrize("wrong", [((), b"", 1), ([None], b"", 1), ([1.5], b"", 1), ([0], "text", 1), ([2**70], b"", 1),
                                   ([0], b"")])
def test_wrong_descriptors_are_refused(wrong):
    with pytest.raises((TypeError, OverflowError)):
        speed.write_all(*wrong)


@pytest.mark.parametrize("write", [None, lambda descriptors, data: speed.write_all(descriptors, data, 2)],
                         ids=["python", "c"])
def test_a_buffer_reaches_every_connection_behind_what_was_written_before(pairs, write):
    made = pairs(6, send_buffer=4096)
    connections = [Connection(ours, max_backlog=1 << 20) for ours, _ in made]
    data = b"job " * 50_000  # more than any of them takes at once
    connections[1].push_soon(b"first ")
    connections[2].push(data)
    connections[3].close()
    made[4][1].close()
    write_all(connections, data, write)
    for number, before in ((0, b""), (1, b"first "), (2, data), (5, b"")):
        wanted, got = before + data, b""
        while len(got) < len(wanted) and (more := made[number][1].recv(65536)):
            got += more
        assert got == wanted, number
    with gevent.Timeout(5):
        while not connections[4].closed:
            gevent.sleep(0.001)
    assert connections[3].closed and not connections[0].closed


# ---------------------------------------------------------------- with it and without

@pytest.mark.parametrize("pure", [False, True])
def test_the_proxy_says_which_of_the_two_runs(pure):
    environment = {**os.environ, "KAROO_PURE_PYTHON": "1" if pure else ""}
    told = subprocess.run([sys.executable, "-c", "from karoo.speed import load; print(load().kind, load().write_all)"],
                          cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
    if pure:
        assert told.strip() == "in Python: KAROO_PURE_PYTHON is set None"
    else:
        assert told.startswith(f"in C ({speed.SHA256}) <function")
