"""Configuration files: YAML or JSON text to a tree that remembers its lines. No option is known here.

The text is read as events and composed with a stack, so that hostile nesting cannot recurse. Anchors, aliases
and tags are refused: an alias can multiply itself without end, and `pass: &secret` would otherwise quietly
mean an empty value.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import yaml

MAX_CHARS = 256 * 1024
MAX_DEPTH = 20

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong: the option's path ("" for the whole file), its line from 1 (None without a file), a sentence."""

    path: str
    line: int | None
    sentence: str

    def __str__(self) -> str:
        line = f"line {self.line}" if self.line is not None else ""
        return ": ".join(part for part in (line, self.path, self.sentence) if part)


class ConfigError(Exception):
    """The configuration cannot be used. `faults` holds every reason in file order; `str()` has one line for each."""

    def __init__(self, name: str, faults: Iterable[Fault]) -> None:
        self.name = name
        self.faults = sorted(faults, key=lambda fault: fault.line or 0)
        super().__init__(name, self.faults)

    def __str__(self) -> str:
        count = len(self.faults)
        headline = f"{self.name}: {count} fault{'' if count == 1 else 's'}"
        return "\n".join([headline, *(f"  {fault}" for fault in self.faults)])


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value as its source text; nothing has been interpreted.

    `plain`: written without quotes. `literal`: given in code, where `${NAME}` stands for itself.
    """

    text: str
    line: int | None = None
    plain: bool = False
    literal: bool = False

    @property
    def is_null(self) -> bool:
        """Whether the value is left open, which means the default."""
        return self.plain and self.text in _NULLS


@dataclass(frozen=True, slots=True)
class Entry:
    """A key and its value. The key is None where the file has something else than text. Keys may come twice."""

    key: str | None
    line: int | None
    value: Node


@dataclass(frozen=True, slots=True)
class Mapping:
    line: int | None = None
    entries: list[Entry] = field(default_factory=list)
    is_null: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Sequence:
    line: int | None = None
    items: list[Node] = field(default_factory=list)
    is_null: ClassVar[bool] = False


Node = Scalar | Mapping | Sequence


class _Broken(Exception):
    """The text cannot be read past this line."""

    def __init__(self, line: int | None, sentence: str) -> None:
        super().__init__(sentence)
        self.line = line
        self.sentence = sentence


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a configuration file. Raises ConfigError where there is no such file, or it is not UTF-8 text."""
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            data = file.read(4 * MAX_CHARS + 1)
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        sentence = "there is no such file: check the path"
    except IsADirectoryError:
        sentence = "this is a directory: name a file in it"
    except PermissionError:
        sentence = "the file may not be read: give the user of the proxy the right to read it"
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(name, [Fault("", line, "not UTF-8 text: save the file as UTF-8")]) from error
    except (OSError, ValueError) as error:
        sentence = f"the file cannot be read: {getattr(error, 'strerror', None) or error}"
    raise ConfigError(name, [Fault("", None, sentence)])


def require_file(path: str | os.PathLike[str]) -> None:
    """Look whether a path is that of a file, or of nothing. Raises ConfigError where it is that of a pipe or a device:
    to read one may take for ever, in which a proxy that runs would serve nobody."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return  # to read it says why
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        sentence = "this is no file but a pipe or a device, which may be read at the start only: put a file there"
        raise ConfigError(os.fspath(path), [Fault("", None, sentence)])


def parse(text: str, name: str) -> Node:
    """The tree of YAML or JSON text. Raises ConfigError, under the given file name, where the text is neither."""
    try:
        if len(text) > MAX_CHARS:
            raise _Broken(None, f"longer than {MAX_CHARS} characters: this is hardly a configuration file")
        text = text.removeprefix("\ufeff")
        error = _json_error(text)
        if error is None:
            return _compose(_json_events(text))
        try:
            return _compose(_yaml_events(text))
        except _Broken:
            if re.match(r'\s*\{\s*["}]', text) and isinstance(error, json.JSONDecodeError):
                raise _Broken(error.lineno, f"not valid JSON: {error.msg}, column {error.colno}") from error
            raise
    except _Broken as broken:
        raise ConfigError(name, [Fault("", broken.line, broken.sentence)]) from broken


def from_plain(value: Any, name: str) -> Node:
    """The tree of dicts, lists and scalars given in code. Raises ConfigError where something else is among them."""
    try:
        return _plain(value, 0)
    except _Broken as broken:
        raise ConfigError(name, [Fault("", None, broken.sentence)]) from broken


def _plain(value: Any, depth: int) -> Node:
    if depth > MAX_DEPTH:
        raise _Broken(None, f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        entries = [Entry(key if isinstance(key, str) else None, None, _plain(item, depth + 1))
                   for key, item in value.items()]
        return Mapping(None, entries)
    if isinstance(value, (list, tuple)):
        return Sequence(None, [_plain(item, depth + 1) for item in value])
    if value is None:
        return Scalar("", plain=True)
    if isinstance(value, bool):
        return Scalar("true" if value else "false", plain=True, literal=True)
    if isinstance(value, (int, float)):
        return Scalar(format(value, "d") if isinstance(value, int) else repr(value), plain=True, literal=True)
    if isinstance(value, str):
        return Scalar(value, literal=True)
    raise _Broken(None, f"found a {type(value).__name__}, wants dicts, lists, texts, numbers, booleans or None")


@dataclass(frozen=True, slots=True)
class _Event:
    """A scalar or a bracket; block YAML has its brackets too, only invisible."""

    kind: Literal["scalar", "{", "}", "[", "]"]
    line: int
    text: str = ""
    plain: bool = False


class _Open:
    """A mapping or sequence that is still being filled."""

    def __init__(self, node: Mapping | Sequence) -> None:
        self.node = node
        self.key: tuple[str | None, int | None] | None = None

    def take(self, node: Node) -> None:
        if isinstance(self.node, Sequence):
            self.node.items.append(node)
        elif self.key is None:
            self.key = (node.text if isinstance(node, Scalar) else None, node.line)
        else:
            self.node.entries.append(Entry(*self.key, node))
            self.key = None


def _compose(events: Iterable[_Event]) -> Node:
    root = Sequence()
    stack = [_Open(root)]
    for event in events:
        if event.kind in "}]":
            stack.pop()
            continue
        if event.kind == "scalar":
            stack[-1].take(Scalar(event.text, event.line, event.plain))
            continue
        node = Mapping(event.line) if event.kind == "{" else Sequence(event.line)
        stack[-1].take(node)
        stack.append(_Open(node))
        if len(stack) > MAX_DEPTH:
            raise _Broken(event.line, f"nested deeper than {MAX_DEPTH} levels: check the brackets here")
    return root.items[0] if root.items else Scalar("", 1, plain=True)


# JSON is read by a tokenizer of its own: YAML knows neither its surrogate pairs nor tabs before a key.
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s,:\[\]{}"]+|[\[\]{}]')


def _json_error(text: str) -> Exception | None:
    """Why the text is not JSON; None where it is."""
    try:
        json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as error:
        return error
    return None


def _json_events(text: str) -> Iterator[_Event]:
    """The events of text that is known to be valid JSON."""
    line, end = 1, 0
    for match in _JSON_TOKEN.finditer(text):
        line += text.count("\n", end, match.start())
        end = match.start()
        token = match.group()
        match token:
            case "{" | "}" | "[" | "]":
                yield _Event(token, line)
            case _ if token.startswith('"'):
                yield _Event("scalar", line, json.loads(token))
            case _:
                yield _Event("scalar", line, token, plain=True)


def _yaml_events(text: str) -> Iterator[_Event]:
    """The events of YAML text. Raises _Broken at the first thing that cannot be read."""
    try:
        loader = yaml.BaseLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _Broken(line, f"holds the character U+{ord(text[error.position]):04X}: remove it") from error
    documents = 0
    try:
        while loader.check_event():
            event = loader.get_event()
            line = event.start_mark.line + 1
            documents += isinstance(event, yaml.DocumentStartEvent)
            if documents > 1:
                raise _Broken(line, "a second document begins here: keep one, without --- between")
            yield from _yaml_event(event, line)
    except yaml.MarkedYAMLError as error:
        raise _Broken(_line(error), f"not valid YAML: {_mend(error)}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # chr() and int() inside the scanner refuse absurd escapes and version numbers in their own way.
        raise _Broken(loader.line + 1, "not valid YAML: a number or an escape such as \\U is out of range") from error


def _yaml_event(event: Any, line: int) -> Iterator[_Event]:
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
        raise _Broken(line, "anchors (&name) and aliases (*name) are not read: write the value out, "
                            "or quote a text that begins with & or *")
    if getattr(event, "tag", None) is not None:
        raise _Broken(line, "tags (!name) are not read: remove the tag, or quote a text that begins with !")
    match event:
        case yaml.ScalarEvent():
            yield _Event("scalar", line, event.value, plain=event.style is None)
        case yaml.MappingStartEvent():
            yield _Event("{", line)
        case yaml.SequenceStartEvent():
            yield _Event("[", line)
        case yaml.MappingEndEvent():
            yield _Event("}", line)
        case yaml.SequenceEndEvent():
            yield _Event("]", line)


# What the reader says, and how an operator mends it. Its own words are not shown: they may quote a password.
_MENDING = (
    ("'\\t'", "a tab stands where spaces are wanted: indent with spaces"),
    ("mapping values are not allowed", "a second colon, or a line indented too far: quote a text that holds a colon"),
    ("could not find expected ':'", "a key without a colon: write `key: value`, with a space after the colon"),
    ("expected the node content", "a value is missing, or a text with brackets, such as [::1]:3333, needs quotes"),
    ("expected <block end>", "the indentation does not fit the lines above, or a text needs quotes"),
    ("expected ',' or", "a comma or a closing bracket is missing; quote a text that holds brackets"),
    ("unexpected end of stream", "a quote is opened and never closed"),
    ("cannot start any token", "a text begins with a character that YAML keeps for itself: quote the text"),
    ("unknown escape character", "a backslash stands in double quotes: double it, or use single quotes"),
    ("block scalar", "a text begins with | or >: quote the text"),
    ("<document start>", "text stands outside of every section: check the indentation"),
    ("tag", "tags (!name) are not read: quote a text that begins with !"),
)


def _mend(error: Any) -> str:
    words = f"{error.context} {error.problem}"
    return next((advice for sign, advice in _MENDING if sign in words), "check the indentation, quotes and brackets")


def _line(error: Any) -> int:
    """Where the fault is mended: a text or a key that goes wrong does so from its beginning."""
    from_start = error.context_mark is not None and f"{error.context}".startswith("while scanning a")
    mark = error.context_mark if from_start else error.problem_mark
    return int(mark.line) + 1
