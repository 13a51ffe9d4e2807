"""The PROXY protocol, receiving side: the header by which a balancer tells who connected to it. No I/O.

Versions 1 (a line of text) and 2 (binary): https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

MAX_LINE = 107  # bytes of version 1, CRLF included: section 2.1
# Bytes of version 2, which could announce 65,551, but is to fit into one segment of TCP (section 2.2). After at most 52
# bytes HAProxy adds names of up to 255 bytes each, an identifier of 128, and in its newest versions a client's
# certificate: one or two thousand. nginx has the same bound.
MAX_HEADER = 4096
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

_TELLING = 6  # bytes after which nothing else is known to begin like a header

_WORDS = (b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN ", b"PROXY UNKNOWN\r")
_ADDRESSES_AND_PORTS = re.compile(rb"[0-9A-Fa-f:. ]*")
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")

_START = 16  # bytes of version 2 before the addresses
_TCP4, _TCP6 = 0x11, 0x21
# Bytes that the addresses take up, by the byte that tells family and transport: TCP and UDP over IPv4, over IPv6, and
# the two kinds of UNIX sockets.
_BLOCKS = {_TCP4: 12, 0x12: 12, _TCP6: 36, 0x22: 36, 0x31: 216, 0x32: 216}
_CRC32C = 3  # type of the field that holds the header's checksum


class HeaderFault(ValueError):
    """What came is no PROXY header; its text says why."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a balancer told about a connection."""

    source: tuple[str, int] | None  # the miner's address and port; None: not told, the connection's own are to be used
    size: int  # bytes that the header takes up; what follows them is the miner's
    # The balancer says that it connected for itself, as for a health check. HAProxy says so too of whoever came to
    # it over a UNIX socket, so there may be a miner all the same.
    local: bool


def announces(data: bytes) -> bool:
    """Whether bytes begin like a header of either version. Fewer than 6 tell nothing: others say "P" or CRLF too."""
    return len(data) >= _TELLING and (data.startswith(b"PROXY ") or SIGNATURE.startswith(data[:len(SIGNATURE)]))


def parse(data: bytes) -> ProxyHeader | None:
    """The header at the start of a stream, of which these are the first bytes; None while it takes more of them, which
    it never does from MAX_HEADER bytes on. Raises HeaderFault: by the first byte that fits neither version, when a line
    or a length goes beyond its bound, and for addresses and fields when they are whole."""
    if data.startswith(b"P"):
        return _parse_text(data)
    if data.startswith(b"\r"):
        return _parse_binary(data)
    if data:
        raise _no_header(data)
    return None


def _no_header(data: bytes) -> HeaderFault:
    return HeaderFault(f"no PROXY header: it begins with {data[:12]!r}")


# ---------------------------------------------------------------- version 1

def _parse_text(data: bytes) -> ProxyHeader | None:
    line = data[:MAX_LINE]
    if not any(word.startswith(line[:len(word)]) for word in _WORDS):
        if line.startswith(b"PROXY "):
            raise HeaderFault(f"neither TCP4, TCP6 nor UNKNOWN: {line[:20]!r}")
        raise _no_header(data)
    words, _, after = line.partition(b"\r")
    if b"\n" in words:
        raise HeaderFault("a line feed without a carriage return")
    if after and not after.startswith(b"\n"):
        raise HeaderFault("a carriage return without a line feed")
    unknown = line.startswith(b"PROXY U")  # then whatever else the line says is to be ignored
    if not unknown and not _ADDRESSES_AND_PORTS.fullmatch(words, len(_WORDS[0])):
        raise HeaderFault(f"bytes that are in no address and no port: {words!r}")
    if not after:
        if len(words) >= MAX_LINE - 1:  # no room for CRLF
            raise HeaderFault(f"no end of the line within {MAX_LINE} bytes")
        return None
    size = len(words) + len(b"\r\n")
    return ProxyHeader(None if unknown else _source(words), size, local=False)


def _source(line: bytes) -> tuple[str, int]:
    """The source that a whole line tells. The destination has to be right as well, and is of no use."""
    words = line.decode("ascii").split(" ")
    if len(words) != 6:
        raise HeaderFault(f"not two addresses and two ports, one space between: {line!r}")
    _, family, source, destination, source_port, destination_port = words
    kind = IPv4Address if family == "TCP4" else IPv6Address
    try:
        address, _ = kind(source), kind(destination)
    except ValueError as why:
        raise HeaderFault(f"no address of {family}: {why}") from None
    for port in source_port, destination_port:
        if not _PORT.fullmatch(port) or int(port) > 65535:
            raise HeaderFault(f"no port: {port!r}")
    return _name(address), int(source_port)


def _name(address: IPv4Address | IPv6Address) -> str:
    """An address as it is to be shown, the same however it came: balancers that take both families on one socket tell
    IPv4 as ::ffff:192.0.2.1."""
    return str((isinstance(address, IPv6Address) and address.ipv4_mapped) or address)


# ---------------------------------------------------------------- version 2

def _parse_binary(data: bytes) -> ProxyHeader | None:
    if not SIGNATURE.startswith(data[:len(SIGNATURE)]):
        raise _no_header(data)
    if len(data) > 12:
        _check_command(data[12])
    if len(data) > 13 and data[12] & 15:
        _check_family(data[13])
    if len(data) < _START:
        return None
    command, family, length = struct.unpack_from("!BBH", data, len(SIGNATURE))
    local = not command & 15
    # Bytes that tell nothing known are skipped unread: the balancer's own connections (whose family is to be ignored),
    # and an unspecified family or transport, where nobody knows how long the addresses are.
    block = 0 if local else _BLOCKS.get(family, 0)
    size = _START + length
    if size > MAX_HEADER:
        raise HeaderFault(f"{size} bytes announced, at most {MAX_HEADER} are taken")
    if length < block:
        raise HeaderFault(f"{length} bytes announced, the addresses take {block}")
    if len(data) < size:
        return None
    if block:
        _check_fields(data[:size], _START + block)
    # A receiver takes what it does not support (UDP and UNIX sockets, here) for unspecified: section 2.2.
    source = None
    if not local and family == _TCP4:
        four, _, port = struct.unpack_from("!4s4sH", data, _START)
        source = _name(IPv4Address(four)), port
    elif not local and family == _TCP6:
        sixteen, _, port = struct.unpack_from("!16s16sH", data, _START)
        source = _name(IPv6Address(sixteen)), port
    return ProxyHeader(source, size, local)


def _check_command(byte: int) -> None:
    if byte >> 4 != 2:
        raise HeaderFault(f"version {byte >> 4} in a header of version 2")
    if byte & 15 > 1:
        raise HeaderFault(f"command {byte & 15} is neither LOCAL nor PROXY")


def _check_family(byte: int) -> None:
    if byte >> 4 > 3:
        raise HeaderFault(f"family {byte >> 4} of addresses is not known")
    if byte & 15 > 2:
        raise HeaderFault(f"transport {byte & 15} is not known")


def _check_fields(header: bytes, place: int) -> None:
    """That the fields after the addresses end where the header does, and that its checksum is right if it has one."""
    found = False
    for kind, start, length in _fields(header, place):
        if kind != _CRC32C:
            continue
        if length != 4 or found:
            raise HeaderFault("more than one checksum" if found else f"a checksum of {length} bytes")
        found = True
        # Who can check it must, over the header with zeros in its place: section 2.2.3.
        if crc32c(header[:start] + bytes(4) + header[start + 4:]) != int.from_bytes(header[start:start + 4], "big"):
            raise HeaderFault("the checksum is wrong")


def _fields(header: bytes, place: int) -> Iterator[tuple[int, int, int]]:
    """Type, place of the value, and its length, of each field from a place on. Raises HeaderFault."""
    while place < len(header):
        if len(header) - place < 3:
            raise HeaderFault("bytes too few for a field at the end")
        kind, length = struct.unpack_from("!BH", header, place)
        start, place = place + 3, place + 3 + length
        if place > len(header):
            raise HeaderFault(f"a field of {length} bytes goes beyond the end")
        yield kind, start, length


def _remainders() -> Iterator[int]:
    """What a byte leaves when divided by Castagnoli's polynomial, bits reversed, for each byte."""
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        yield value


_REMAINDERS = tuple(_remainders())


def crc32c(data: bytes) -> int:
    """The checksum of RFC 4960, appendix B (RFC 3720, appendix B.4, has examples). zlib has another polynomial."""
    rest = 0xFFFFFFFF
    for byte in data:
        rest = rest >> 8 ^ _REMAINDERS[(rest ^ byte) & 255]
    return rest ^ 0xFFFFFFFF
