"""Attacks that need no login: connections and bytes. See `abuse` for the table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import cycle, islice
from time import monotonic

import gevent

from karoo.pace import paced
from karoo.sim.offender import Crowd, Offender
from karoo.stratum import messages

_SUBSCRIBE = messages.request(1, "mining.subscribe", ["abuse/1.0 " + "x" * 12_000])  # within a line's usual bound
_NO_JSON = [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\n", b"\x00\xff\xfe\x80\n", b"{'id': 1}\n",
            b"[1, 2\n", b"hello\n", b'{"id":NaN,"method":"mining.ping"}\n', b"\xed\xa0\x80\n", b"}{\n"]
_MALFORMED = [b'{"id":true,"method":"mining.ping"}\n', b'{"id":[1],"method":"mining.ping"}\n',
              b'{"id":{},"method":"mining.submit"}\n', b'{"id":1,"method":7}\n', b'{"id":1,"method":[]}\n',
              b'{"id":2,"method":"mining.authorize","params":[]}\n',
              b'{"id":3,"method":"mining.subscribe","params":7}\n',
              b'{"id":4,"method":"mining.configure","params":[["version-rolling"],{"version-rolling.mask":"xyz"}]}\n',
              b'{"id":5,"method":"mining.suggest_difficulty","params":["NaN"]}\n', b'{"id":null,"method":null}\n']
_QUESTIONS = [b'{"id":1,"method":"mining.configure","params":[["version-rolling","info"],{}]}\n',
              b'{"id":"x","method":"mining.extranonce.subscribe","params":[]}\n',
              b'{"id":2,"method":"mining.no_such_method","params":[]}\n', b'{"id":3,"method":"mining.ping"}\n']


def slowloris(crowd: Crowd) -> None:
    """A subscribe line, a byte at a time from each connection in turn, that is never finished."""
    offenders = crowd.connect_many(crowd.many(300))
    for place in range(len(_SUBSCRIBE) - 1):
        for offender in paced(offenders, 50):
            offender.send(_SUBSCRIBE[place:place + 1])
        offenders = crowd.standing(offenders)
        if crowd.over or not offenders:
            return
        gevent.sleep(0.05)


def byte_a_second(crowd: Crowd) -> None:
    """Empty lines: a sign of life each second, and no handshake."""
    offenders = crowd.connect_many(crowd.many(100))
    while offenders and not crowd.over:
        for offender in offenders:
            offender.send(b"\n")
        gevent.sleep(1.0)
        for offender in offenders:
            offender.discard()
        offenders = crowd.standing(offenders)


def idle(crowd: Crowd) -> None:
    """Connections without a byte, held until each is cut."""
    crowd.connect_many(crowd.many(5000))
    crowd.hold()


def storm(crowd: Crowd) -> None:
    """Connect, and close at once: by turns properly and with a reset."""
    for number in range(crowd.many(3000)):
        offender = crowd.connect()
        if offender is not None:
            if number % 2:
                offender.reset()
            crowd.forget(offender)
        if crowd.over:
            return


def long_line(crowd: Crowd) -> None:
    """10 MB without a line feed."""
    def send(offender: Offender) -> None:
        offender.flood([b"x" * 65536] * 160)
        offender.wait_cut(crowd.until)

    crowd.each(crowd.connect_many(crowd.many(4)), send)


def junk(crowd: Crowd) -> None:
    """1,000 lines on each connection that are not even JSON."""
    _flood(crowd, crowd.many(100), list(islice(cycle(_NO_JSON), 1000)))


def malformed(crowd: Crowd) -> None:
    """1,000 lines on each connection that are JSON, and no message or none that makes sense."""
    _flood(crowd, crowd.many(100), list(islice(cycle(_MALFORMED), 1000)))


def deep(crowd: Crowd) -> None:
    """Lists in lists and objects in objects: as deep as a line holds, and deeper; within proper messages and alone."""
    lines = []
    for depth in (60, 1000, 7000, 100_000):
        lists, objects = b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth
        for value in (lists, objects):
            lines += [value + b"\n", b'{"id":1,"method":"mining.submit","params":%s}\n' % value,
                      b'{"id":%s,"method":"mining.subscribe","params":[]}\n' % value]
    for line in lines:
        _flood(crowd, crowd.many(2), [line] * 5)


def long_id(crowd: Crowd) -> None:
    """Ids that come back in every answer: of 1 MB, and of what a line holds. As text and as number."""
    for size in (1_000_000, 15_000):
        for value in (json.dumps("i" * size).encode(), b"9" * size):
            line = b'{"id":%s,"method":"mining.subscribe","params":[]}\n' % value
            _flood(crowd, crowd.many(5), [line] * 20)


def deaf(crowd: Crowd) -> None:
    """Requests as fast as they go, whose answers nobody reads."""
    def ask(offender: Offender) -> None:
        offender.flood(islice(cycle(_QUESTIONS), 20_000), read=False)
        while not crowd.over and offender.send(_QUESTIONS[0]):
            gevent.sleep(0.1)

    crowd.each(crowd.connect_many(crowd.many(5), receive_buffer=4096), ask)


def _flood(crowd: Crowd, connections: int, lines: list[bytes]) -> None:
    """The same lines on so many connections; who is through with them without being cut leaves."""
    def send(offender: Offender) -> None:
        offender.flood(lines)
        offender.wait_cut(monotonic() + 0.5)
        crowd.forget(offender)

    crowd.each(_connections(crowd, connections), send)


def _connections(crowd: Crowd, count: int) -> Iterator[Offender]:
    """One after the other, each made when it is needed."""
    for _ in range(count):
        offender = crowd.connect()
        if offender is not None:
            yield offender
