"""The example configuration, generated from the options: `python -m karoo.configdoc > conf/karoo.yaml`."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator

from karoo.config import Config, Upstream
from karoo.configkinds import Table
from karoo.configschema import Option, Options, Section, members

WIDTH = 88

_HEAD = (
    "The configuration of Karoo: every option with its default.",
    "Only upstream.host and upstream.user must be given; whatever is left out keeps its default. JSON is read as well. "
    "${NAME} in a value is replaced by the environment variable NAME, so that passwords need not stand here; $${ "
    "stands for ${ itself.",
)


def example() -> str:
    """The YAML text of conf/karoo.yaml: all options with their defaults, ranges and prose. It loads without fault."""
    lines = [line for number, paragraph in enumerate(_HEAD)
             for line in (["#"] if number else []) + list(_comment(paragraph, ""))]
    for member in members(Config):
        lines += ["", *_section(member, "")] if isinstance(member, Section) else _option(member, "")
    return "\n".join(lines) + "\n"


def _section(section: Section, indent: str) -> Iterator[str]:
    yield from _comment(section.prose, indent)
    if section.many:
        item = _short_item(section) if section.cls is Upstream else _whole_item(section)
        yield from (f"{indent}# {line}" for line in item)
        return
    yield f"{indent}{section.name}:"
    yield from _members(section.cls, indent + "  ")


def _members(cls: type[Options], indent: str) -> Iterator[str]:
    for member in members(cls):
        yield from _section(member, indent) if isinstance(member, Section) else _option(member, indent)


def _option(option: Option, indent: str) -> Iterator[str]:
    yield from _comment(f"{option.prose} {_takes(option)}", indent)
    if isinstance(option.kind, Table) and option.default:
        yield f"{indent}{option.name}:"
        yield from (f"{indent}  {row}" for row in option.kind.rows(option.default))
    else:
        yield f"{indent}{option.name}: {option.kind.write(option.default)}"


def _takes(option: Option) -> str:
    words = [f"Takes {option.kind.wants}"]
    if option.required:
        words.append(f"must be given where {option.unless} is not" if option.unless else "must be given")
    if option.never:
        words.append(f"never has an effect: {option.never}")
    return "; ".join(words) + "."


def _whole_item(section: Section) -> Iterator[str]:
    """A list with one section, of which everything is said."""
    yield f"{section.name}:"
    dash = "- "
    for member in members(section.cls):
        if isinstance(member, Option):
            member = dataclasses.replace(member, default=section.sample.get(member.name, member.default))
        # Two columns further in than they will stand, which the sign of a comment before each takes up.
        for line in _section(member, "      ") if isinstance(member, Section) else _option(member, "      "):
            is_comment = line.lstrip().startswith("#")
            yield line[2:] if is_comment else f"  {dash}{line[6:]}"
            dash = dash if is_comment else "  "


def _short_item(section: Section) -> Iterator[str]:
    """A list with one section that sets its first options; the others are the same as in the section above it."""
    first = [member for member in members(section.cls) if isinstance(member, Option)]
    last = max(number for number, option in enumerate(first) if option.required)
    yield f"{section.name}:"
    for number, option in enumerate(first[:last + 2]):
        value = section.sample.get(option.name, option.default)
        yield f"  {'-' if number == 0 else ' '} {option.name}: {option.kind.write(value)}"


def _comment(text: str, indent: str) -> Iterator[str]:
    yield from textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ",
                             break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    print(example(), end="")
