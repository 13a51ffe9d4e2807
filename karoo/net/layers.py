"""What may lie between a TCP stream and the lines on it: TLS, WebSocket, one in the other. Knows no Stratum. No I/O.

A layer is fed what comes and what goes, and never waits: a connection with layers is read and written as one without.
"""

from __future__ import annotations

from typing import Protocol


class Garbled(Exception):
    """What the peer sent makes no sense in a layer; the text says why."""


class Layer(Protocol):
    """One connection's.

    ``ended``: the peer says nothing more, or can no longer be understood; ``fault`` then says why (empty: it took its
    leave). ``probes``: `probe` has something to say.
    """

    @property
    def ended(self) -> bool: ...
    @property
    def fault(self) -> str: ...
    @property
    def probes(self) -> bool: ...

    def decode(self, data: bytes) -> bytes:
        """What the peer says in these bytes and those before; some of it may only come with the next bytes."""

    def encode(self, data: bytes) -> bytes:
        """The bytes to be sent in the place of these; none after `farewell` or a fault."""

    def replies(self) -> bytes:
        """Bytes that the layer itself has to send: to be asked for after each `decode`."""

    def probe(self) -> bytes:
        """Bytes that a peer which is still there answers."""

    def farewell(self, code: int, reason: str) -> bytes:
        """The last bytes to be sent. `code` is one of a WebSocket's close."""


class Stacked:
    """A layer that is carried by another one."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, outer: Layer, inner: Layer) -> None:
        self._outer, self._inner = outer, inner

    @property
    def ended(self) -> bool:
        return self._inner.ended or self._outer.ended

    @property
    def fault(self) -> str:
        return self._inner.fault or self._outer.fault

    @property
    def probes(self) -> bool:
        return self._inner.probes

    def decode(self, data: bytes) -> bytes:
        return self._inner.decode(self._outer.decode(data))

    def encode(self, data: bytes) -> bytes:
        return self._outer.encode(self._inner.encode(data))

    def replies(self) -> bytes:
        return self._outer.replies() + self._outer.encode(self._inner.replies())

    def probe(self) -> bytes:
        return self._outer.encode(self._inner.probe())

    def farewell(self, code: int, reason: str) -> bytes:
        return self._outer.encode(self._inner.farewell(code, reason)) + self._outer.farewell(code, reason)
