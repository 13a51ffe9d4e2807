"""The example configuration and the reference, generated from the options: `python -m karoo.configdoc >
conf/karoo.yaml`, `python -m karoo.configdoc --markdown > docs/configuration.md`."""

from __future__ import annotations

import dataclasses
import re
import sys
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


# ---------------------------------------------------------------- the reference

_INTRODUCTION = """\
# Configuration reference

Every option, by section. This page is made from the program:
`python -m karoo.configdoc --markdown > docs/configuration.md`.
[conf/karoo.yaml](../conf/karoo.yaml) has the same as a file to start from; `karoo config` prints it.

- The file is YAML or JSON. Only a pool's `host` (or `url`) and `user` must be given; what is left out keeps its
  default.
- `${NAME}` in a value is replaced by the environment variable `NAME`; `$${` stands for `${` itself.
- Paths of files begin at the folder of the configuration.
- Options marked **secret** are shown nowhere: not in the log, not in faults, not on the status page.
- An option that is not known, or has a value that is not allowed, is a fault. `karoo check -c karoo.yaml` lists all of
  them, with their lines. So does the start, which ends with exit code 78.
"""


def reference() -> str:
    """The Markdown text of docs/configuration.md: a table for each section, an anchor for each option."""
    tops = [member for member in members(Config) if isinstance(member, Section)]
    lines = [_INTRODUCTION, "Sections: " + ", ".join(f"[{top.name}](#{top.name})" for top in tops) + "."]
    for top in tops:
        lines += _chapter(top, top.name, 2)
    return "\n".join(lines) + "\n"


def _chapter(section: Section, path: str, level: int) -> Iterator[str]:
    yield f"\n{'#' * level} {path}\n"
    yield _prose(section.prose)
    if section.many:
        yield "\nA list: each item begins with a dash."
    if section.cls is Upstream and section.many:
        yield "Its options are those of [upstream](#upstream)."
        return
    within = members(section.cls)
    options = [member for member in within if isinstance(member, Option)]
    if options:
        yield "\n| option | takes | default | |\n| --- | --- | --- | --- |"
        yield from (_row(option, path) for option in options)
    for member in within:
        if isinstance(member, Section):
            yield from _chapter(member, f"{path}.{member.name}", level + 1)


def _row(option: Option, path: str) -> str:
    notes = [_prose(option.prose)]
    if option.secret:
        notes.append("**Secret.**")
    if option.zero_is_default:
        notes.append('`""` means the default.' if isinstance(option.default, str) else "`0` means the default.")
    if option.never:
        notes.append(f"Never has an effect: {_prose(option.never)}.")
    cells = (f'<a id="{path}.{option.name}"></a>`{option.name}`', _prose(option.kind.wants), _default(option),
             " ".join(notes))
    return f"| {' | '.join(cells)} |"


def _default(option: Option) -> str:
    if option.required:
        return f"must be given, or [{option.unless}](#upstream.{option.unless})" if option.unless else "must be given"
    if isinstance(option.kind, Table):
        return ", ".join(f"`{row}`" for row in option.kind.rows(option.default))
    return "none" if option.default is None else f"`{option.kind.write(option.default)}`"


def _prose(text: str) -> str:
    """Prose as it stands in a cell of a table, with links where it names another option."""
    for sign in "\\|*[]<>":
        text = text.replace(sign, f"\\{sign}")
    paths = set(_paths(Config, ""))
    return re.sub(r"[a-z]+(?:\.[a-z_]+)+", lambda found: f"[`{found[0]}`](#{found[0]})" if found[0] in paths
                  else found[0], text)


def _paths(cls: type[Options], path: str) -> Iterator[str]:
    for member in members(cls):
        if isinstance(member, Section):
            yield from _paths(member.cls, f"{path}{member.name}.")
        else:
            yield f"{path}{member.name}"


if __name__ == "__main__":
    print(reference() if "--markdown" in sys.argv[1:] else example(), end="")
