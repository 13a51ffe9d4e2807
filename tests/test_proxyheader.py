"""The PROXY protocol's header: what balancers send, what nobody may send, and pieces of either."""

import ipaddress
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from karoo.net.proxyheader import MAX_HEADER, MAX_LINE, SIGNATURE, HeaderFault, ProxyHeader, announces, crc32c, parse

FFFF = ":".join(["ffff"] * 8)

# Lines as they stand in the specification, each of the greatest length that it gives.
SPECIFIED = [
    (b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", 47, ("192.168.0.1", 56324)),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", 56, ("255.255.255.255", 65535)),
    (f"PROXY TCP6 {FFFF} {FFFF} 65535 65535\r\n".encode(), 104, (FFFF, 65535)),
    (b"PROXY UNKNOWN\r\n", 15, None),
    (f"PROXY UNKNOWN {FFFF} {FFFF} 65535 65535\r\n".encode(), 107, None),
]

# What HAProxy 2.6.12 sent: its setting, the bytes in front of the miner's, and the source and whether it is local.
NINE = "127.0.0.9"
HAPROXY = [
    ("send-proxy", "50524f58592054435034203132372e302e302e39203132372e302e302e312035393633392034393637390d0a",
     (NINE, 59639), False),
    ("send-proxy, IPv6", "50524f58592054435036203a3a31203a3a312034363237342033383438330d0a", ("::1", 46274), False),
    ("send-proxy, IPv4 on bind [::]:port v4v6", (
        "50524f58592054435036203a3a666666663a3132372e302e302e39203a3a666666663a3132372e302e302e31203535373539203539"
        "3231350d0a"), (NINE, 55759), False),
    ("send-proxy, UNIX socket", "50524f585920554e4b4e4f574e0d0a", None, False),
    ("send-proxy check-send-proxy, its check",
     "50524f58592054435034203132372e302e302e31203132372e302e302e312035333731322035323639310d0a",
     ("127.0.0.1", 53712), False),
    ("send-proxy-v2", "0d0a0d0a000d0a515549540a2111000c7f0000097f0000019309e801", (NINE, 37641), False),
    ("send-proxy-v2, IPv6", (
        "0d0a0d0a000d0a515549540a21210024000000000000000000000000000000010000000000000000000000000000000195709bc3"),
     ("::1", 38256), False),
    ("send-proxy-v2, IPv4 on bind [::]:port v4v6", (
        "0d0a0d0a000d0a515549540a2121002400000000000000000000ffff7f00000900000000000000000000ffff7f000001a5cfaf67"),
     (NINE, 42447), False),
    ("send-proxy-v2, UNIX socket", "0d0a0d0a000d0a515549540a20000000", None, True),
    ("send-proxy-v2 check-send-proxy, its check", "0d0a0d0a000d0a515549540a20000000", None, True),
    ("crc32c", "0d0a0d0a000d0a515549540a211100137f0000097f000001b4c1afe1030004bb39ce1f", (NINE, 46273), False),
    ("crc32c, its check", "0d0a0d0a000d0a515549540a20000007030004a9b87e8f", None, True),
    ("send-proxy-v2-ssl without TLS", "0d0a0d0a000d0a515549540a211100147f0000097f000001e7a180472000050000000000",
     (NINE, 59297), False),
    ("send-proxy-v2-ssl", (
        "0d0a0d0a000d0a515549540a211100287f0000097f0000018207a9230100077374726174756d20000f0700000000210007544c5376"
        "312e33"), (NINE, 33287), False),
    ("send-proxy-v2-ssl, its check", "0d0a0d0a000d0a515549540a200000082000050000000000", None, True),
    ("send-proxy-v2-ssl-cn", (
        "0d0a0d0a000d0a515549540a2111003b7f0000097f000001c34bca2b0100077374726174756d2000220700000000210007544c5376"
        "312e332200106d696e65722d31372e6578616d706c65"), (NINE, 49995), False),
    ("ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c,unique-id", (
        "0d0a0d0a000d0a515549540a212100f1000000000000000000000000000000010000000000000000000000000000000193f0df7f03"
        "0004f00efdcf0100077374726174756d02000c706f6f6c2e6578616d706c6505005030303030303030303030303030303030303030"
        "303030303030303030303030313a393346305f30303030303030303030303030303030303030303030303030303030303030313a44"
        "4637465f303030432000570700000000210007544c5376312e332200106d696e65722d31372e6578616d706c652500054543323536"
        "24001165636473612d776974682d534841323536230016544c535f4145535f3235365f47434d5f534841333834"),
     ("::1", 37872), False),
]


def v1(family="TCP4", source="192.0.2.1", destination="192.0.2.2", port="5", destination_port="3333"):
    return f"PROXY {family} {source} {destination} {port} {destination_port}\r\n".encode()


def v2(rest=b"", *, command=0x21, family=0x11, length=None):
    return SIGNATURE + struct.pack("!BBH", command, family, len(rest) if length is None else length) + rest


def field(kind, value=b"", length=None):
    return struct.pack("!BH", kind, len(value) if length is None else length) + value


def summed(header, place):
    """A header with its checksum in the four bytes at a place."""
    return header[:place] + struct.pack("!I", crc32c(header)) + header[place + 4:]


ADDRESSES = bytes([192, 0, 2, 1, 192, 0, 2, 2]) + struct.pack("!HH", 5, 3333)
ADDRESSES6 = ipaddress.ip_address("2001:db8::1").packed + ipaddress.ip_address("2001:db8::2").packed + ADDRESSES[8:]
UNIX = b"/run/miner".ljust(108, b"\0") + b"/run/pool".ljust(108, b"\0")
NOBODY = None
MINER, MINER6 = ("192.0.2.1", 5), ("2001:db8::1", 5)


def expect(data, source, *, local=False):
    """The header, whatever follows it, and nothing before it is whole."""
    told = ProxyHeader(source, len(data), local)
    assert parse(data) == told
    assert parse(data + b'{"id":1,"method":"mining.subscribe"}\n') == told
    assert parse(data + bytes(2 * MAX_HEADER)) == parse(data + b"\r\n") == told
    assert [parse(data[:size]) for size in range(len(data))] == [None] * len(data)


# ---------------------------------------------------------------- what balancers send

@pytest.mark.parametrize("line, size, source", SPECIFIED, ids=[line.decode() for line, *_ in SPECIFIED])
def test_lines_of_the_specification(line, size, source):
    assert len(line) == size
    expect(line, source)


@pytest.mark.parametrize("sent, source, local", [case[1:] for case in HAPROXY], ids=[case[0] for case in HAPROXY])
def test_what_haproxy_sends(sent, source, local):
    expect(bytes.fromhex(sent), source, local=local)
    assert announces(bytes.fromhex(sent))


@pytest.mark.parametrize("line, source", [
    (v1(port="0", destination_port="0"), ("192.0.2.1", 0)),
    (v1("TCP6", "2001:DB8::A", "::", "65535"), ("2001:db8::a", 65535)),
    (v1("TCP6", "2001:0db8:0:0:0:0:0:1", "2001:db8::2"), MINER6),
    (v1("TCP6", "::ffff:192.0.2.1", "::ffff:192.0.2.2"), MINER),
    (v1("TCP6", "::ffff:c000:201", "2001:db8::2"), MINER),
    (b"PROXY UNKNOWN \r\n", NOBODY),
    (b"PROXY UNKNOWN what\0ever \xff\xfe 70000\r\n", NOBODY),
])
def test_lines(line, source):
    expect(line, source)


@pytest.mark.parametrize("header, source", [
    (v2(ADDRESSES), MINER),
    (v2(ADDRESSES6, family=0x21), MINER6),
    (v2(ipaddress.ip_address("::ffff:192.0.2.1").packed + ADDRESSES6[16:], family=0x21), MINER),
    (v2(ADDRESSES + field(4) + field(4, bytes(36)) + field(0xEA, b"\1vpce-0") + field(0xFF, b"?")), MINER),
    (v2(ADDRESSES + field(0x20, b"\1\0\0\0\0" + field(0x21, b"TLSv1.3", 999))), MINER),  # what is inside is not read
    (v2(ADDRESSES, family=0x12), NOBODY),  # UDP
    (v2(ADDRESSES6, family=0x22), NOBODY),
    (v2(UNIX, family=0x31), NOBODY),
    (v2(UNIX + field(4), family=0x32), NOBODY),
    *[(v2(rest, family=family), NOBODY)  # unspecified family or transport: whatever is there is skipped
      for family in (0x00, 0x01, 0x02, 0x10, 0x20, 0x30) for rest in (b"", b"??", ADDRESSES)],
])
def test_headers_of_version_2(header, source):
    expect(header, source)


@pytest.mark.parametrize("family", [0x00, 0x11, 0x21, 0x31, 0x40, 0x13, 0xFF])
@pytest.mark.parametrize("rest", [b"", b"??", ADDRESSES, UNIX + field(3, b"sum?")])
def test_the_balancer_for_itself(family, rest):
    """Its family and whatever else it says are to be ignored."""
    expect(v2(rest, command=0x20, family=family), NOBODY, local=True)


@pytest.mark.parametrize("command, family, rest, source", [
    (0x21, 0x11, ADDRESSES, MINER), (0x21, 0x31, UNIX, NOBODY), (0x21, 0x00, b"", NOBODY), (0x20, 0x00, b"", NOBODY)])
def test_the_longest_header(command, family, rest, source):
    rest += field(4, bytes(MAX_HEADER - 16 - 3 - len(rest)))
    header = v2(rest, command=command, family=family)
    assert len(header) == MAX_HEADER
    expect(header, source, local=command == 0x20)


# ---------------------------------------------------------------- what nobody may send

NOT_ONE = {
    "stratum": b'{"id":1,"method":"mining.subscribe"}\n', "tls": b"\x16\x03\x01\x02\0", "empty line": b"\n",
    "http": b"GET / HTTP/1.1\r\n", "post": b"POST / HTTP/1.1\r\n", "empty lines": b"\r\n\r\n\r\n", "space": b" PROXY ",
    "small letters": b"proxy TCP4", "no space": b"PROXYTCP4", "tab": b"PROXY\tTCP4", "signature": b"\r\n\r\n\0\r\nQUIX",
    "signature, last byte": b"\r\n\r\n\0\r\nQUIT\r", "zero": b"\0",
}
LINES = {
    "two spaces before the family": b"PROXY  TCP4 192.0.2.1 192.0.2.2 5 6\r\n",
    "two spaces before the source": b"PROXY TCP4  192.0.2.1 192.0.2.2 5 6\r\n",
    "two spaces before a port": b"PROXY TCP4 192.0.2.1 192.0.2.2  5 6\r\n",
    "space at the end": b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6 \r\n",
    "tab": b"PROXY TCP4 192.0.2.1\t192.0.2.2 5 6\r\n",
    "three fields": b"PROXY TCP4 192.0.2.1 192.0.2.2 5\r\n",
    "five fields": b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6 7\r\n",
    "no fields": b"PROXY TCP4\r\n", "empty fields": b"PROXY TCP4    \r\n",
    "UDP": b"PROXY UDP4 192.0.2.1 192.0.2.2 5 6\r\n", "TCP5": b"PROXY TCP5 192.0.2.1 192.0.2.2 5 6\r\n",
    "TCP": b"PROXY TCP 192.0.2.1 192.0.2.2 5 6\r\n", "tcp4": b"PROXY tcp4 192.0.2.1 192.0.2.2 5 6\r\n",
    "UNKNOWNS": b"PROXY UNKNOWNS\r\n", "unknown": b"PROXY unknown\r\n", "nothing": b"PROXY \r\n",
    "LF": b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\n", "CR": b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\rX",
    "CRCR": b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\r\n", "LFCR": b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\n\r",
    "UNKNOWN LF": b"PROXY UNKNOWN\n", "UNKNOWN CR": b"PROXY UNKNOWN\rX",
    "UNKNOWN, LF inside": b"PROXY UNKNOWN a\nb\r\n", "UNKNOWN, CR inside": b"PROXY UNKNOWN a\rb\r\n",
    "zero": b"PROXY TCP4 192.0.2.1\0 192.0.2.2 5 6\r\n",
    **{f"{family} {address}": v1(family, address, right) for family, right, addresses in [
        ("TCP4", "192.0.2.2", ["192.0.2", "192.0.2.1.1", "192.0.2.256", "192.0.2.01", "192.0.2.", "192..2.1", "1", "",
                               "192.0.2.0x1", "::1", "::ffff:192.0.2.1", "3221225985", "192.0.2.\u0661", "host"]),
        ("TCP6", "2001:db8::2", ["192.0.2.1", "2001:db8::1::2", "2001:db8", "2001:db8::12345", "1:2:3:4:5:6:7:8:9", ":",
                                 "[::1]", "::1%eth0", "::1%1", "::g", "", ":::1", "::ffff:192.0.2.256"])]
       for address in addresses},
    **{f"{family} to {address}": v1(family, source, address) for family, source, address in [
        ("TCP4", "192.0.2.1", "::1"), ("TCP4", "192.0.2.1", "192.0.2.300"), ("TCP6", "::1", "192.0.2.1")]},
    **{f"{name} {port}": v1(**{name: port}) for name in ("port", "destination_port") for port in [
        "65536", "99999", "100000", "-1", "+1", "01", "00", "", "0x10", "1.0", "1:", "f", "\u0661", "1_0", "5\n"]},
}
SUM = len(v2(ADDRESSES + field(3)))  # place of the checksum
SUMMED = summed(v2(ADDRESSES + field(3, bytes(4)) + field(4, b"pad")), SUM)
BINARY = {
    "version 1": v2(ADDRESSES, command=0x11), "version 3": v2(ADDRESSES, command=0x31),
    "version 0": v2(ADDRESSES, command=0x01), "command 2": v2(ADDRESSES, command=0x22),
    "command 15": v2(ADDRESSES, command=0x2F), "family 4": v2(ADDRESSES, family=0x41),
    "family 15": v2(ADDRESSES, family=0xF1), "transport 3": v2(ADDRESSES, family=0x13),
    "transport 15": v2(ADDRESSES, family=0x1F), "unspecified family, transport 3": v2(family=0x03),
    **{f"family {family:#x}, {size} bytes": v2(bytes(size), family=family) for family, whole in [
        (0x11, 12), (0x12, 12), (0x21, 36), (0x22, 36), (0x31, 216), (0x32, 216)] for size in (0, whole - 1)},
    "field without a length": v2(ADDRESSES + b"\4"), "field with half a length": v2(ADDRESSES + b"\4\0"),
    "field of a byte too many": v2(ADDRESSES + field(4, b"", 1)),
    "second field of a byte too many": v2(ADDRESSES + field(4, b"x") + field(4, b"xyz", 4)),
    "byte after a field": v2(ADDRESSES + field(4, b"x") + b"\0"),
    "greatest field": v2(ADDRESSES + field(4, b"", 65535)),
    "field of UDP": v2(ADDRESSES + b"\4", family=0x12), "field of a UNIX socket": v2(UNIX + b"\4", family=0x31),
    "sum of 3 bytes": v2(ADDRESSES + field(3, b"sum")), "sum of 5 bytes": v2(ADDRESSES + field(3, b"check")),
    "sum of none": v2(ADDRESSES + field(3)), "wrong sum": v2(ADDRESSES + field(3, b"sum?")),
    "zero for a sum": v2(ADDRESSES + field(3, bytes(4))),
    "wrong sum of UDP": v2(ADDRESSES + field(3, b"sum?"), family=0x12),
    "sum in the other byte order": SUMMED[:SUM] + SUMMED[SUM:SUM + 4][::-1] + SUMMED[SUM + 4:],
    "two sums": summed(summed(v2(ADDRESSES + field(3, bytes(4)) * 2), SUM), SUM + 7),
    "two sums, the first right": summed(v2(ADDRESSES + field(3, bytes(4)) * 2), SUM),
}


@pytest.mark.parametrize("data", [
    pytest.param(data, id=f"{kind}: {name}") for kind, cases in [("no header", NOT_ONE), ("1", LINES), ("2", BINARY)]
    for name, data in cases.items()])
def test_faults(data):
    with pytest.raises(HeaderFault) as fault:
        parse(data)
    assert 10 <= len(str(fault.value)) <= 200 and str(fault.value).isprintable()
    with pytest.raises(HeaderFault):
        parse(data + bytes(MAX_HEADER))


@pytest.mark.parametrize("byte", sorted(set(range(256)) - set(b"P\r")))
def test_a_first_byte_that_fits_neither_version(byte):
    with pytest.raises(HeaderFault, match="no PROXY header: it begins with b"):
        parse(bytes([byte]))


@pytest.mark.parametrize("good, wrong", [
    *[(SIGNATURE[:size], b"?") for size in range(1, len(SIGNATURE))],
    *[(b"PROXY "[:size], b"?") for size in range(1, 7)],
    (b"P", b"OST"), (b"PROXY TCP", b"5"), (b"PROXY TCP4", b"\r"), (b"PROXY TCP4 ", b"?"), (b"PROXY TCP6 ", b"g"),
    (b"PROXY TCP4 1", b"\n"), (b"PROXY TCP4 1\r", b"?"), (b"PROXY UNKNOWN", b"?"), (b"PROXY UNKNOWN ", b"\n"),
    (b"PROXY UNKNOWN\r", b"\r"), (SIGNATURE, b"\x11"), (SIGNATURE, b"\x22"), (SIGNATURE + b"\x21", b"\x40"),
    (SIGNATURE + b"\x21", b"\x13"), (SIGNATURE + b"\x21\x11\0", b"\x0b"), (SIGNATURE + b"\x21\x21\0", b"\x23"),
    (SIGNATURE + b"\x21\x31\0", b"\xd7"), (SIGNATURE + b"\x21\0\x0f", b"\xf1"), (SIGNATURE + b"\x20\0\xff", b"\0")])
def test_known_by_the_byte_that_is_wrong(good, wrong):
    """Nobody is waited for in vain."""
    assert parse(good) is None
    with pytest.raises(HeaderFault):
        parse(good + wrong)


@pytest.mark.parametrize("start", [b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN ", b"PROXY UNKNOWN  "])
def test_a_line_that_never_ends(start):
    line = start + b"1" * (MAX_LINE - 1 - len(start))
    assert len(line) == 106 and parse(line[:-1]) is None  # with CRLF it would fit
    for data in line, line + b"\r", line + b"\r\n", line + b"1" * 999:
        with pytest.raises(HeaderFault, match="no end of the line within 107 bytes"):
            parse(data)


@pytest.mark.parametrize("length", [MAX_HEADER - 15, 65535])
@pytest.mark.parametrize("command", [0x20, 0x21])
def test_a_length_beyond_the_bound(command, length):
    with pytest.raises(HeaderFault, match=f"{length + 16} bytes announced, at most 4096"):
        parse(v2(command=command, length=length))


def test_faults_say_what_was_wrong():
    for data, text in [
            (b'{"id": 1, "method": "mining.subscribe"}', "no PROXY header: it begins with b'{\"id\": 1, \"m'"),
            (b"PROXY SCTP 1", "neither TCP4, TCP6 nor UNKNOWN: b'PROXY SCTP 1'"),
            (v1(source="192.0.2.256"), "no address of TCP4: Octet 256 (> 255) not permitted in '192.0.2.256'"),
            (v1(port="65536"), "no port: '65536'"),
            (v2(command=0x31), "version 3 in a header of version 2"),
            (v2(ADDRESSES, family=0x21), "12 bytes announced, the addresses take 36"),
            (v2(ADDRESSES + field(3, b"sum?")), "the checksum is wrong"),
            (v2(ADDRESSES + field(3, b"sum")), "a checksum of 3 bytes"),
            (BINARY["two sums, the first right"], "more than one checksum")]:
        with pytest.raises(HeaderFault) as fault:
            parse(data)
        assert str(fault.value) == text


# ---------------------------------------------------------------- the checksum

@pytest.mark.parametrize("data, right", [  # RFC 3720, appendix B.4
    (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C), (b"", 0), (b"123456789", 0xE3069283)])
def test_crc32c(data, right):
    assert crc32c(data) == right


@given(st.integers(16, len(SUMMED) - 1), st.integers(0, 7))
def test_a_bit_that_fell_over(place, bit):
    """In the addresses, in the sum or in a field's value; elsewhere it may be that there is no sum to be checked."""
    expect(SUMMED, MINER)
    if place in (SUM - 3, SUM - 2, SUM - 1, SUM + 4, SUM + 5, SUM + 6):  # a field's type or length
        return
    spoiled = bytearray(SUMMED)
    spoiled[place] ^= 1 << bit
    with pytest.raises(HeaderFault, match="the checksum is wrong"):
        parse(bytes(spoiled))


# ---------------------------------------------------------------- any header, any bytes

ports = st.integers(0, 65535)
fields = st.lists(st.builds(field, st.integers(0, 255).filter(lambda kind: kind != 3), st.binary(max_size=300)),
                  max_size=5).map(b"".join)


def shown(address):
    return str(getattr(address, "ipv4_mapped", None) or address)


@st.composite
def headers(draw):
    """Bytes, and the source and whether it is local."""
    sort = draw(st.sampled_from(["line", "unknown", "binary", "local", "unix", "unspecified"]))
    version = draw(st.sampled_from([4, 6]))
    source, destination = draw(st.ip_addresses(v=version)), draw(st.ip_addresses(v=version))
    port, destination_port = draw(ports), draw(ports)
    block = source.packed + destination.packed + struct.pack("!HH", port, destination_port)
    if sort == "line":
        text = st.sampled_from([str, lambda address: address.exploded, lambda address: str(address).upper()])
        return v1(f"TCP{version}", draw(text)(source), draw(text)(destination), port, destination_port), (
            shown(source), port), False
    if sort == "unknown":
        rest = draw(st.binary(max_size=91)).replace(b"\r", b"").replace(b"\n", b"")
        return b"PROXY UNKNOWN" + (rest and b" " + rest) + b"\r\n", None, False
    if sort == "local":
        return v2(draw(st.binary(max_size=600)), command=0x20, family=draw(st.integers(0, 255))), None, True
    if sort == "unspecified":
        return v2(draw(st.binary(max_size=600)), family=draw(st.sampled_from([0, 1, 2, 0x10, 0x20, 0x30]))), None, False
    family = 0x31 if sort == "unix" else {4: 0x11, 6: 0x21}[version]
    start = UNIX if sort == "unix" else block
    before, after = draw(fields), draw(fields)
    data = v2(start + before + after, family=family)
    if draw(st.booleans()):
        data = v2(start + before + field(3, bytes(4)) + after, family=family)
        data = summed(data, 16 + len(start + before) + 3)
    return data, None if sort == "unix" else (shown(source), port), False


@given(headers(), st.binary(max_size=40))
def test_any_header(case, after):
    data, source, local = case
    assert parse(data + after) == ProxyHeader(source, len(data), local)
    assert announces(data) and announces(data + after)
    expect(data, source, local=local)


starts = st.sampled_from([
    b"", b"P", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ::", b"PROXY UNKNOWN", b"\r", SIGNATURE[:6], SIGNATURE,
    SIGNATURE + b"\x20", SIGNATURE + b"\x21\x11\0", SIGNATURE + b"\x21\x21\0\x40", v2(ADDRESSES, length=40)])


@st.composite
def spoiled(draw):
    """A header with some bytes changed, missing or too many."""
    data = bytearray(draw(headers())[0])
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        data[place:place + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


def outcome(data):
    try:
        return parse(data)
    except HeaderFault:
        return HeaderFault


@given(st.builds(bytes.__add__, starts, st.binary(max_size=300)) | spoiled())
@example(b"")
@example(b"PROXY UNKNOWN\r")
def test_any_bytes(data):
    """However they come in: what is known stays so, and known it is in the end."""
    known = None
    for size in range(len(data) + 1):
        now = outcome(data[:size])
        assert known is None or now == known
        known = now
        assert now in (None, HeaderFault) or now.size <= size
    for filling in b"\0", b"1", b" ", b"\r\n":
        end = outcome(data + filling * MAX_HEADER)
        assert end is not None and known in (None, end)
        assert end is HeaderFault or end.size <= MAX_HEADER


# ---------------------------------------------------------------- announces

@pytest.mark.parametrize("whole", [v1(), b"PROXY UNKNOWN\r\n", v2(ADDRESSES), v2(command=0x20, family=0)])
def test_announces(whole):
    assert [announces(whole[:size]) for size in range(len(whole) + 1)] == [False] * 6 + [True] * (len(whole) - 5)


@pytest.mark.parametrize("data", [
    *NOT_ONE.values(), b"", b"P", b"PROXY", b"PROXYING", b"\r", b"\r\n\r\n", b"\r\n\r\n\0", b"\r\n\r\n\0\n"])
def test_announces_nothing(data):
    assert not announces(data)


@given(st.binary(max_size=30) | st.builds(bytes.__add__, starts, st.binary(max_size=30)))
def test_what_announces_nothing_is_no_header(data):
    """But for the first few bytes."""
    if len(data) >= 6 and not announces(data):
        assert outcome(data) is HeaderFault
