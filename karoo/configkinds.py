"""Kinds of option values: how the text of a scalar becomes a value, and what is allowed. No I/O.

Values are read by the option's kind and never by YAML's own rules, under which `010` is eight, `1e-4` a text
and the user `no` a boolean.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Generic, Literal, NamedTuple, TypeVar

from karoo.configfile import Scalar
from karoo.policy import addresses

T = TypeVar("T")
Auto = Literal["auto"]

_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BARE = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_HOST = re.compile(r"[\w.-]{1,253}")
_TOKEN = re.compile(r"[!-~]{16,}")
_URL = re.compile(r"(?:([\w+.-]+)://)?(?:.*@)?(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+))(?::([0-9]+))?(?:/.*)?")
_LONGEST_NUMBER = 40
_LONGEST_TEXT = 1000


class Unfit(Exception):
    """A value does not fit its option; `advice` says how to mend it where that is not plain from the kind."""

    def __init__(self, advice: str = "") -> None:
        super().__init__(advice)
        self.advice = advice


class Address(NamedTuple):
    """Where to listen: a host name or an IP address without brackets, and a port (0: any free one)."""

    host: str
    port: int


def parse_address(text: str) -> Address:
    """The pieces of `host:port`, `:port` (all IPv4 addresses) or `[IPv6]:port`.

    Ports run from 0 (any free port) to 65535. Raises ValueError.
    """
    match = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^:\[\]]*)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ValueError("not an address of the form host:port, :port or [IPv6]:port")
    if match[1] is not None:
        ipaddress.IPv6Address(match[1])
        return Address(match[1], int(match[3]))
    if match[2] and not _is_host_name(match[2]):
        raise ValueError("not a host name or an IPv4 address before the port")
    return Address(match[2] or "0.0.0.0", int(match[3]))


def _is_host_name(text: str) -> bool:
    try:
        return bool(_HOST.fullmatch(text)) and bool(text.encode("idna"))
    except UnicodeError:
        return False


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


class Kind(Generic[T]):
    """`wants` names what is allowed, in words for an operator."""

    wants = ""

    def parse(self, scalar: Scalar) -> T:
        """The value of a scalar. Raises Unfit where it is of another type."""
        raise NotImplementedError

    def check(self, value: T) -> None:
        """Raises Unfit where a value of the right type is not allowed."""

    def write(self, value: T) -> str:
        """The value as YAML that `parse` reads back."""
        text = str(value)
        bare = _BARE.fullmatch(text) and text.lower() not in {*_BOOLEANS, "null"}
        return text if bare else json.dumps(text)


class Text(Kind[str]):
    """One line of any characters. A plain number is taken as it is written: `pass: 0123` is the text 0123."""

    def __init__(self, *, empty: bool = False) -> None:
        self.empty = empty
        self.wants = "a text of one line" if empty else "a text of one line, not empty"

    def parse(self, scalar: Scalar) -> str:
        return scalar.text

    def check(self, value: str) -> None:
        if not value and not self.empty:
            raise Unfit
        if len(value) > _LONGEST_TEXT:
            raise Unfit(f"keep it within {_LONGEST_TEXT} characters")
        if not all(char.isprintable() for char in value):
            raise Unfit("it holds a line break or another unprintable character")


_NAME = Text()


class Flag(Kind[bool]):
    wants = "true or false"

    def parse(self, scalar: Scalar) -> bool:
        value = _BOOLEANS.get(scalar.text.lower())
        if value is None:
            raise Unfit
        if not scalar.plain:
            raise Unfit("write it without quotes")
        return value

    def write(self, value: bool) -> str:
        return "true" if value else "false"


class Whole(Kind[int]):
    """An integer in decimal digits; `010`, `0x10`, `1_000` and `60.0` are refused, as each reads in two ways."""

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most
        self.wants = f"a whole number from {least} to {most}"

    def parse(self, scalar: Scalar) -> int:
        if len(scalar.text) > _LONGEST_NUMBER or not _WHOLE.fullmatch(scalar.text):
            raise Unfit
        if not scalar.plain:
            raise Unfit("write the number without quotes")
        return int(scalar.text)

    def check(self, value: int) -> None:
        if not self.least <= value <= self.most:
            raise Unfit

    def write(self, value: int) -> str:
        return str(value)


class Number(Kind[float]):
    """A finite decimal number; `0.0001` and `1e-4` are the same."""

    def __init__(self, least: float, most: float) -> None:
        self.least, self.most = least, most
        self.wants = f"a number from {least:g} to {most:g}".replace("e+", "e")

    def parse(self, scalar: Scalar) -> float:
        if len(scalar.text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(scalar.text):
            raise Unfit
        if not scalar.plain:
            raise Unfit("write the number without quotes")
        value = float(scalar.text)
        vanished = value == 0 and re.search("[1-9]", re.split("[eE]", scalar.text)[0])
        if vanished or not math.isfinite(value):
            raise Unfit
        return value

    def check(self, value: float) -> None:
        if not self.least <= value <= self.most:
            raise Unfit

    def write(self, value: float) -> str:
        text = format(Decimal(repr(value)), "f")
        return text.removesuffix(".0")


class AutoOr(Kind["T | Auto"], Generic[T]):
    """The word `auto`, or a value of another kind."""

    def __init__(self, kind: Kind[T]) -> None:
        self.kind = kind
        self.wants = f"auto or {kind.wants}"

    def parse(self, scalar: Scalar) -> T | Auto:
        return "auto" if scalar.text == "auto" else self.kind.parse(scalar)

    def check(self, value: T | Auto) -> None:
        if value != "auto":
            self.kind.check(value)

    def write(self, value: T | Auto) -> str:
        return "auto" if value == "auto" else self.kind.write(value)


class Choice(Kind[str]):
    """One of a few words, in upper or lower case."""

    def __init__(self, *choices: str) -> None:
        self.choices = choices
        self.wants = choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"

    def parse(self, scalar: Scalar) -> str:
        return scalar.text.lower()

    def check(self, value: str) -> None:
        if value not in self.choices:
            raise Unfit


class Table(Kind["tuple[tuple[str, T], ...]"], Generic[T]):
    """A mapping of free names to values of another kind, kept as pairs in file order; it replaces the default whole.

    Names keep their case, but two that differ in nothing else are the same name given twice. The rows are read by
    `Builder`; here are the rules for them.
    """

    most = 64
    longest_name = 64

    def __init__(self, value: Kind[T]) -> None:
        self.value = value
        self.wants = f"up to {self.most} names, each with {value.wants}"

    def parse(self, scalar: Scalar) -> tuple[tuple[str, T], ...]:
        raise Unfit

    def check_name(self, name: str) -> None:
        """Raises Unfit, with a whole sentence as its advice, where a name is not allowed."""
        if not 1 <= len(name) <= self.longest_name:
            raise Unfit(f"found a name of {len(name)} characters, wants 1 to {self.longest_name}")
        if not name.isprintable():
            raise Unfit("the name holds a line break or another unprintable character")

    def rows(self, value: tuple[tuple[str, T], ...]) -> list[str]:
        """Each row as a line of YAML."""
        return [f"{_NAME.write(name)}: {self.value.write(each)}" for name, each in value]

    def write(self, value: tuple[tuple[str, T], ...]) -> str:
        return f"{{{', '.join(self.rows(value))}}}"


class Listed(Kind["tuple[T, ...]"], Generic[T]):
    """A list of values of another kind, in file order; it replaces the default whole. `Builder` reads the items."""

    most = 1000

    def __init__(self, item: Kind[T]) -> None:
        self.item = item
        self.wants = f"a list of up to {self.most}, each {item.wants}"

    def parse(self, scalar: Scalar) -> tuple[T, ...]:
        raise Unfit("begin each with a dash")

    def write(self, value: tuple[T, ...]) -> str:
        return f"[{', '.join(self.item.write(each) for each in value)}]"


class Network(Kind[str]):
    """A network or a single address, kept as it is written; `addresses.network` reads it."""

    wants = "a network such as 10.0.0.0/8 or 2001:db8::/32, or an address"

    def parse(self, scalar: Scalar) -> str:
        return scalar.text

    def check(self, value: str) -> None:
        try:
            addresses.network(value)
        except ValueError as error:
            raise Unfit from error


def in_networks(texts: Iterable[str]) -> Callable[[str], bool]:
    """Whether an address, as text, is in one of the networks, which are written as `Network` takes them."""
    networks = addresses.Networks(addresses.network(text) for text in texts)

    def holds(text: str) -> bool:
        address = addresses.parse(text)
        return address is not None and address in networks

    return holds


class Token(Kind[str]):
    """A secret that programs send in an HTTP header; "" for none."""

    wants = 'at least 16 visible ASCII characters without spaces, or "" for none'

    def parse(self, scalar: Scalar) -> str:
        return scalar.text

    def check(self, value: str) -> None:
        if value and not _TOKEN.fullmatch(value):
            raise Unfit
        if len(value) > _LONGEST_TEXT:
            raise Unfit(f"keep it within {_LONGEST_TEXT} characters")


class Hex(Kind[str]):
    """A fixed number of hex digits, kept in lower case."""

    def __init__(self, digits: int) -> None:
        self.digits = digits
        self.wants = f"{digits} hex digits"

    def parse(self, scalar: Scalar) -> str:
        return scalar.text.lower()

    def check(self, value: str) -> None:
        if not re.fullmatch(f"[0-9a-f]{{{self.digits}}}", value):
            raise Unfit

    def write(self, value: str) -> str:
        return json.dumps(value)


class Listen(Kind[str]):
    """An address to listen on, kept as it is written; `parse_address` takes it apart."""

    def __init__(self, *, empty: bool = False) -> None:
        self.empty = empty
        self.wants = "an address such as 0.0.0.0:3333, :3333 or [::1]:3333" + (', or "" for none' if empty else "")

    def parse(self, scalar: Scalar) -> str:
        return scalar.text

    def check(self, value: str) -> None:
        if not value and self.empty:
            return
        try:
            parse_address(value)
        except ValueError as error:
            raise Unfit from error


class Host(Kind[str]):
    """A host name or an IP address alone, without scheme, port or brackets."""

    def __init__(self, *, empty: bool = False) -> None:
        self.empty = empty
        self.wants = "a host name or an IP address"

    def parse(self, scalar: Scalar) -> str:
        return scalar.text

    def check(self, value: str) -> None:
        if not value and self.empty:
            return
        if not _is_ipv6(value) and not _is_host_name(value):
            raise Unfit(_take_apart(value))


def _take_apart(text: str) -> str:
    """Where the pieces of `scheme://host:port` belong; "" where the text is not of that form."""
    match = _URL.fullmatch(text[:_LONGEST_TEXT])
    if match is None:
        return ""
    pieces = [f"host: {match[2] or match[3]}"]
    if match[4]:
        pieces.append(f"port: {match[4]}")
    if match[1] and match[1].lower().endswith(("tls", "ssl", "https", "wss")):
        pieces.append("tls: true")
    return f"write {' and '.join(pieces)}" + (", each on its own line" if len(pieces) > 1 else "")
