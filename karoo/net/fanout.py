"""One buffer written to many connections, without waiting for any. Knows no Stratum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

from karoo.net.connection import Connection

# Descriptors and the buffer -> (position, bytes sent or minus errno) of those that did not take it whole
WriteAll = Callable[[list[int], bytes], list[tuple[int, int]]]


def write_all(connections: Sequence[Connection], data: bytes, write: WriteAll | None) -> None:
    """As `push` of each connection. `write` writes to many sockets at once (`karoo._speed.write_all`); where there is
    none, or a connection has something else to be written before, each is written to by itself."""
    if write is None:
        for connection in connections:
            connection.push(data)
        return
    at_once = []
    for connection in connections:
        if connection.is_idle:
            at_once.append(connection)
        else:
            connection.push(data)
    for position, sent in write([connection.descriptor for connection in at_once], data):
        at_once[position].was_sent(data, sent)
    now = monotonic()
    for connection in at_once:
        connection.last_sent = now
