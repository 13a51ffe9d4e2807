"""Kinds of option values: how the text of a scalar becomes a value, and what is allowed. No I/O.

Values are read by the option's kind and never by YAML's own rules, under which `010` is eight, `1e-4` a text
and the user `no` a boolean.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Generic, Literal, TypeVar

from karoo.configfile import Scalar

T = TypeVar("T")
Auto = Literal["auto"]

_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BARE = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_TOKEN = re.compile(r"[!-~]{16,}")
_LONGEST_NUMBER = 40
LONGEST_TEXT = 1000


class Unfit(Exception):
    """A value does not fit its option; `advice` says how to mend it where that is not plain from the kind."""

    def __init__(self, advice: str = "") -> None:
        super().__init__(advice)
        self.advice = advice


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
        if len(value) > LONGEST_TEXT:
            raise Unfit(f"keep it within {LONGEST_TEXT} characters")
        if not all(char.isprintable() for char in value):
            raise Unfit("it holds a line break or another unprintable character")


class File(Text):
    """The path of a file, from the directory of the configuration on; "" for none."""

    def __init__(self) -> None:
        super().__init__(empty=True)
        self.wants = "the path of a file, from the directory of this configuration on"


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


class Left(Kind["T | None"], Generic[T]):
    """A value of another kind, or none: then `instead` counts."""

    def __init__(self, kind: Kind[T], instead: str) -> None:
        self.kind = kind
        self.wants = f"{kind.wants}; left out, {instead} counts"

    def parse(self, scalar: Scalar) -> T | None:
        return self.kind.parse(scalar)

    def check(self, value: T | None) -> None:
        if value is not None:
            self.kind.check(value)

    def write(self, value: T | None) -> str:
        return "null" if value is None else self.kind.write(value)


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


class Token(Kind[str]):
    """A secret that programs send in an HTTP header; "" for none."""

    wants = 'at least 16 visible ASCII characters without spaces, or "" for none'

    def parse(self, scalar: Scalar) -> str:
        return scalar.text

    def check(self, value: str) -> None:
        if value and not _TOKEN.fullmatch(value):
            raise Unfit
        if len(value) > LONGEST_TEXT:
            raise Unfit(f"keep it within {LONGEST_TEXT} characters")


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


class Fingerprint(Kind[str]):
    """A SHA-256 in hex, with or without colons, kept in lower case without; "" for none."""

    wants = '64 hex digits, with or without colons, or "" for none'

    def parse(self, scalar: Scalar) -> str:
        return scalar.text.replace(":", "").lower()

    def check(self, value: str) -> None:
        if value and not re.fullmatch("[0-9a-f]{64}", value):
            raise Unfit("openssl x509 -noout -fingerprint -sha256 prints it")


