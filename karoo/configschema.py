"""Options as declared, and the walk that fills them from a tree. No I/O; the environment is an argument.

A class of options is a frozen dataclass whose fields are made by `option`, `required`, `section` and `sections`;
what is known of an option lives in its field's metadata and nowhere else.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Container, Iterator
from collections.abc import Mapping as Environment
from dataclasses import dataclass, field
from typing import Any, TypeVar

from karoo.configfile import Entry, Fault, Mapping, Node, Scalar, Sequence
from karoo.configkinds import File, Kind, Listed, Table, Unfit
from karoo.configwords import describe, printable, sort, substitute

T = TypeVar("T")
S = TypeVar("S", bound="Options")

MAX_LISTED = 100

# The options that do not go together, by their names from the section on, and a sentence that says how to mend it.
Contradiction = tuple[tuple[str, ...], str]


class Options:
    """A section: a frozen dataclass of options and further sections."""

    __slots__ = ()

    def contradictions(self, given: Container[str]) -> Iterator[Contradiction]:
        """What is wrong although each option by itself is fine. `given` holds the paths, from this section on, that
        the file sets."""
        return iter(())


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its name in the file, its attribute, and all that an operator is told of it.

    `unless`: the option beside it that may stand in its place. `zero_is_default`: 0 or "" means the default.
    `never`: why it has no effect. `secret`: its value is shown nowhere.
    """

    name: str
    kind: Kind[Any]
    default: Any
    prose: str
    attribute: str = ""
    required: bool = False
    unless: str = ""
    secret: bool = False
    zero_is_default: bool = False
    never: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A section of options, or with `many` a list of them, of which `sample` is shown in the example file."""

    name: str
    cls: type[Options]
    prose: str
    attribute: str = ""
    many: bool = False
    sample: Environment[str, str] = field(default_factory=dict)


def option(default: T, prose: str, kind: Kind[T], *, name: str = "", secret: bool = False,
           zero_is_default: bool = False, never: str = "") -> T:
    """A field with a default. `name` is the one in the file, where it cannot be the attribute's."""
    card = Option(name, kind, default, prose, secret=secret, zero_is_default=zero_is_default, never=never)
    return field(default=default, repr=not secret, metadata={"card": card})


def required(example: str, prose: str, kind: Kind[str], *, unless: str = "") -> Any:
    """A field that the file must give, or the option `unless` in its place; the example file shows `example`."""
    return field(metadata={"card": Option("", kind, example, prose, required=True, unless=unless)})


def section(cls: type[S], prose: str) -> S:
    """A field that holds a section."""
    return field(default_factory=cls, metadata={"card": Section("", cls, prose)})


def sections(cls: type[S], prose: str, sample: Environment[str, str]) -> tuple[S, ...]:
    """A field that holds a list of sections, empty by default; `sample` differs from the section's defaults."""
    return field(default=(), metadata={"card": Section("", cls, prose, many=True, sample=sample)})


def members(cls: type[Options]) -> tuple[Option | Section, ...]:
    """The options and sections of a class, in the order of their declaration."""
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} is no dataclass")
    cards = ((item.name, item.metadata.get("card")) for item in dataclasses.fields(cls))
    return tuple(dataclasses.replace(card, attribute=attribute, name=card.name or attribute)
                 for attribute, card in cards if card is not None)


def walk(options: Options, path: str = "") -> Iterator[tuple[str, Option, Any]]:
    """Every option below with its path in the file (such as `backups[0].pass`) and its value."""
    for member in members(type(options)):
        where = _join(path, member.name)
        value = getattr(options, member.attribute)
        if isinstance(member, Option):
            yield where, member, value
        elif member.many:
            for index, item in enumerate(value):
                yield from walk(item, f"{where}[{index}]")
        else:
            yield from walk(value, where)


def based(options: S, folder: str) -> S:
    """The same options with full paths of files: those that are none begin in the folder."""
    changed: dict[str, Any] = {}
    for member in members(type(options)):
        value = getattr(options, member.attribute)
        if isinstance(member, Section):
            changed[member.attribute] = (tuple(based(item, folder) for item in value) if member.many
                                         else based(value, folder))
        elif isinstance(member.kind, File) and value:
            changed[member.attribute] = os.path.join(folder, value)
    return dataclasses.replace(options, **changed)  # type: ignore[type-var]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


class Builder:
    """Fills the class `root` from a tree, and gathers every fault on the way instead of stopping at the first.

    `given` maps the path of each option in the tree to its line. Where there are faults, the built object holds
    defaults in the place of the faulty options and must not be used.
    """

    def __init__(self, root: type[Options], environ: Environment[str, str]) -> None:
        self.environ = environ
        self.faults: list[Fault] = []
        self.given: dict[str, int | None] = {}
        self._failed: set[str] = set()
        self._homes = homes(root)

    def fault(self, path: str, line: int | None, sentence: str) -> None:
        """Note a fault that leaves the option or section at `path` without a value."""
        self.note(path, line, sentence)
        self._failed.add(path)

    def note(self, path: str, line: int | None, sentence: str) -> None:
        self.faults.append(Fault(path, line, sentence))

    def build(self, cls: type[S], node: Node | None, path: str, line: int | None) -> S:
        """The section at `path`, which begins at `line`; a node of None is a section that is not there."""
        entries = self._entries(cls, node, path, line)
        values: dict[str, Any] = {}
        for member in members(cls):
            where = _join(path, member.name)
            entry = entries.get(member.name)
            start = entry.line if entry else line
            if isinstance(member, Option):
                may_miss = not member.required or _says_something(entries.get(member.unless))
                values[member.attribute] = self._option(member, entry, where, start, may_miss)
            elif member.many:
                values[member.attribute] = self._list(member.cls, entry, where, start)
            else:
                values[member.attribute] = self.build(member.cls, entry.value if entry else None, where, start)
        built = cls(**values)
        prefix = f"{path}." if path else ""
        given = {each.removeprefix(prefix) for each in self.given if each.startswith(prefix)}
        for names, sentence in built.contradictions(given):
            paths = [_join(path, name) for name in names]
            if self._failed.isdisjoint(paths):
                where = next((each for each in paths if each in self.given), paths[0])
                self.note(where, self.given.get(where, line), sentence)
        return built

    def _entries(self, cls: type[Options], node: Node | None, path: str, line: int | None) -> dict[str, Entry]:
        if node is None or node.is_null:
            return {}
        if not isinstance(node, Mapping):
            names = ", ".join(member.name for member in members(cls))
            self.fault(path, node.line, f"found {sort(node)}, wants options by name: {names}")
            return {}
        known = {member.name for member in members(cls)}
        entries: dict[str, Entry] = {}
        for entry in node.entries:
            if entry.key is None:
                self.note(path, entry.line, "found something else than a text in the place of an option's name")
            elif entry.key not in known:
                where = _join(path, printable(entry.key) or '""')
                self.note(where, entry.line, self._unknown(cls, entry.key, path))
            elif entry.key in entries:
                self.note(_join(path, entry.key), entry.line, twice(entries[entry.key].line))
            else:
                entries[entry.key] = entry
        return entries

    def _unknown(self, cls: type[Options], key: str, path: str) -> str:
        if key in self._homes:
            return f"there is no such option here; {key} belongs {' or '.join(self._homes[key])}"
        names = [member.name for member in members(cls)]
        near = difflib.get_close_matches(key.lower(), names, n=1) if len(key) <= 40 else []
        if near:
            return f"there is no such option; did you mean {near[0]}?"
        return f"there is no such option; known here are {', '.join(names)}"

    def _list(self, cls: type[S], entry: Entry | None, path: str, line: int | None) -> tuple[S, ...]:
        if entry is None or entry.value.is_null:
            return ()
        node = entry.value
        if not isinstance(node, Sequence):
            self.fault(path, node.line, f"found {sort(node)}, wants a list: begin each with a dash")
            return ()
        if len(node.items) > MAX_LISTED:
            self.fault(path, node.line, f"found {len(node.items)}, wants at most {MAX_LISTED}")
            return ()
        return tuple(self.build(cls, item, f"{path}[{index}]", item.line or line)
                     for index, item in enumerate(node.items))

    def _option(self, option: Option, entry: Entry | None, path: str, line: int | None, may_miss: bool) -> Any:
        value = None
        if entry is None or entry.value.is_null:
            if not may_miss and path.rpartition(".")[0] not in self._failed:
                self.fault(path, line, f"missing, wants {option.kind.wants}")
        else:
            self.given[path] = entry.value.line
            if isinstance(option.kind, Table) and isinstance(entry.value, Mapping):
                value = self._table(option.kind, entry.value, path)
            elif isinstance(option.kind, Listed) and isinstance(entry.value, Sequence):
                value = self._items(option.kind, entry.value, path)
            else:
                value = self._value(option.kind, entry.value, path, option.secret, option.zero_is_default)
        if value is None:
            return "" if option.required else option.default
        return value

    def _value(self, kind: Kind[T], node: Node, path: str, secret: bool = False, zero: bool = False) -> T | None:
        """The value of a node; None where it is faulty, or with `zero` where it is 0 or ""."""
        try:
            if not isinstance(node, Scalar):
                raise Unfit
            node = substitute(node, self.environ)
            value = kind.parse(node)
            if zero and value in (0, ""):
                return None
            kind.check(value)
            return value
        except LookupError as error:
            self.fault(path, node.line, str(error.args[0]))
        except Unfit as unfit:
            advice = f": {unfit.advice}" if unfit.advice else ""
            self.fault(path, node.line, f"found {describe(node, secret)}, wants {kind.wants}{advice}")
        return None

    def _items(self, kind: Listed[T], node: Sequence, path: str) -> tuple[T, ...] | None:
        """The items of a list, as far as they are right; None where there are too many."""
        if len(node.items) > kind.most:
            self.fault(path, node.line, f"found {len(node.items)}, wants at most {kind.most}")
            return None
        found = [self._value(kind.item, item, f"{path}[{index}]") for index, item in enumerate(node.items)]
        right = tuple(value for value in found if value is not None)
        if len(right) < len(found):
            self._failed.add(path)
        return right

    def _table(self, kind: Table[T], node: Mapping, path: str) -> tuple[tuple[str, T], ...] | None:
        """The rows of a table, as far as they are right; None where there are too many."""
        if len(node.entries) > kind.most:
            self.fault(path, node.line, f"found {len(node.entries)}, wants at most {kind.most}")
            return None
        rows: list[tuple[str, T]] = []
        first: dict[str, int | None] = {}
        for entry in node.entries:
            if entry.key is None:
                self.fault(path, entry.line, "found something else than a text in the place of a name")
                continue
            where = _join(path, printable(entry.key) or '""')
            folded = entry.key.lower()
            if folded in first:
                self.fault(where, entry.line, twice(first[folded]))
                continue
            first[folded] = entry.line
            try:
                kind.check_name(entry.key)
            except Unfit as unfit:
                self.fault(where, entry.line, unfit.advice)
                continue
            if entry.value.is_null:
                self.fault(where, entry.line, f"missing, wants {kind.value.wants}")
                continue
            value = self._value(kind.value, entry.value, where)
            if value is not None:
                rows.append((entry.key, value))
        if len(rows) < len(node.entries):
            self._failed.add(path)
        return tuple(rows)


def _says_something(entry: Entry | None) -> bool:
    return entry is not None and not entry.value.is_null and not (isinstance(entry.value, Scalar)
                                                                  and not entry.value.text)


def twice(first: int | None) -> str:
    """The sentence on a name that comes again after the line `first`."""
    again = f", first on line {first}" if first is not None else ""
    return f"given twice{again}: keep one of them"


def homes(root: type[Options]) -> dict[str, list[str]]:
    """For each name known below `root`, the sections it is known in, in words."""
    found: dict[str, list[str]] = {}

    def visit(cls: type[Options], path: str) -> None:
        for member in members(cls):
            found.setdefault(member.name, []).append(f"in {path}" if path else "at the top, without indentation")
            if isinstance(member, Section):
                visit(member.cls, _join(path, member.name))

    visit(root, "")
    return {name: sorted(places, key=lambda place: place.count(".")) for name, places in found.items()}
