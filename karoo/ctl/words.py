"""What `karoo ctl` prints: tables and lists, aligned by what a terminal shows. No I/O.

Names come from miners: control characters are shown as escapes.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from time import localtime, strftime
from typing import Any

from karoo import log, units

MOST_MARKS = 4  # characters without a width, one after the other, that are shown
JOINERS = "\u200c\u200d"  # of those without a width, the ones that scripts need between letters
GAP = "  "
_PERHAPS_UNSAFE = re.compile("[^\n\x20-\x7e]")

STYLES = {"good": "32", "warn": "33", "bad": "31", "head": "1", "dim": "2"}


# ---------------------------------------------------------------- widths

@lru_cache(maxsize=4096)
def char_width(char: str) -> int:
    """The columns that a terminal gives to a character."""
    if char < "\u0300":
        return 1
    if unicodedata.category(char) in ("Mn", "Me", "Cf") or "\u1160" <= char <= "\u11ff":  # jamo inside a syllable
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def width(text: str) -> int:
    """The columns that a terminal gives to a text."""
    return len(text) if text.isascii() else sum(map(char_width, text))


def plain(text: str) -> str:
    """A peer's words in one line, without what could steer a terminal, or pile marks on one another."""
    text = log.clean(text).replace("\n", "\\n")
    if text.isascii():
        return text
    shown, marks = [], 0
    for char in text:
        if unicodedata.category(char) == "Cf" and char not in JOINERS:
            char = f"\\x{ord(char):02x}"  # marks of direction, and tags that nobody sees
        marks = marks + 1 if len(char) == 1 and char_width(char) == 0 else 0
        if marks <= MOST_MARKS:
            shown.append(char)
    return "".join(shown)


def as_json(value: Any, indent: int | None = 1) -> str:
    """JSON for programs, which a terminal may be shown too: what could steer it stands as an escape of JSON's."""
    return _PERHAPS_UNSAFE.sub(_escaped, json.dumps(value, ensure_ascii=False, indent=indent))


def _escaped(match: re.Match[str]) -> str:
    char = match.group()
    if unicodedata.category(char)[0] != "C" and char not in "\u2028\u2029":
        return char
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at:at + 4]}" for at in range(0, len(units), 4))


def cut(text: str, most: int) -> str:
    """A text in so many columns at most; … stands for what is left out."""
    if width(text) <= most:
        return text
    if most <= 0:
        return ""
    taken, used = [], 0
    for char in text:
        used += char_width(char)
        if used > most - 1:
            break
        taken.append(char)
    return "".join(taken) + "…"


def pad(text: str, columns: int, right: bool = False) -> str:
    """A text in just so many columns."""
    text = cut(text, columns)
    blank = " " * (columns - width(text))
    return blank + text if right else text + blank


# ---------------------------------------------------------------- tables

@dataclass(slots=True, frozen=True)
class Column:
    """`tell` gives the text of a row, `style` the name of one of STYLES or ""; `flexible` is cut where there is too
    little room, down to so many columns (0: never)."""

    title: str
    tell: Callable[[dict[str, Any]], str]
    right: bool = False
    flexible: int = 0
    style: Callable[[dict[str, Any]], str] = lambda row: ""


def painted(text: str, style: str, color: bool) -> str:
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if color and style and text else text


def table(columns: Sequence[Column], rows: Sequence[dict[str, Any]], room: int | None, color: bool) -> list[str]:
    """A line of titles and one for each row; `room` is the width of the terminal (None: no limit)."""
    lines = [[(column.title, "head") for column in columns],
             *([(plain(column.tell(row)), column.style(row)) for column in columns] for row in rows)]
    widths = fit(columns, [max(width(line[place][0]) for line in lines) for place in range(len(columns))], room)
    return [GAP.join(painted(pad(text, columns_of, column.right), style, color)
                     for (text, style), columns_of, column in zip(line, widths, columns, strict=True)).rstrip()
            for line in lines]


def fit(columns: Sequence[Column], widths: list[int], room: int | None) -> list[int]:
    """Widths with which a line has room: flexible columns give way, the widest first."""
    if room is None:
        return widths
    excess = sum(widths) + len(GAP) * (len(columns) - 1) - room
    while excess > 0:
        loose = [place for place, column in enumerate(columns) if 0 < column.flexible < widths[place]]
        if not loose:
            break
        widest = max(loose, key=lambda place: widths[place])
        widths[widest] -= 1
        excess -= 1
    return widths


def facts(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Names and what belongs to them, one a line."""
    known = [(name, plain(text)) for name, text in pairs]
    room = max((width(name) for name, _ in known), default=0)
    return [f"{pad(name, room)}{GAP}{text}".rstrip() for name, text in known]


# ---------------------------------------------------------------- values

def ago(seconds: float | None) -> str:
    return "-" if seconds is None else units.duration(seconds)


def clock(unix: float) -> str:
    """In the time of whoever reads it."""
    return strftime("%Y-%m-%d %H:%M:%S", localtime(unix))


def share_of(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "-"


def rates(hashes: dict[str, float]) -> str:
    return "   ".join(f"{span} {units.hashrate(value)}" for span, value in hashes.items())


def reasons(counts: dict[str, int], most: int = 5) -> str:
    """The commonest first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = len(ordered) - most
    return ", ".join(f"{count} {reason}" for reason, count in ordered[:most]) + (
        f", and {more} more reasons" if more > 0 else "")


def latency(waits: dict[str, float] | None) -> str:
    return "-" if waits is None else "  ".join(f"{name} {value:g} ms" for name, value in waits.items())


STATES = {"online": "good", "up": "good", "active": "good", "silent": "warn", "connecting": "warn", "gone": "bad",
          "down": "bad", "past": "dim", "info": "", "warning": "warn", "critical": "bad"}


def state_style(row: dict[str, Any]) -> str:
    return STATES.get(str(row.get("state") or row.get("severity")), "")


WORKERS = (
    Column("WORKER", lambda row: row["name"], flexible=12),
    Column("STATE", lambda row: row["state"], style=state_style),
    Column("SESSIONS", lambda row: str(row["sessions"]), right=True),
    *(Column(f"RATE {span}", lambda row, span=span: units.hashrate(row["hashrate"][span]),  # type: ignore[misc]
             right=True) for span in ("1m", "1h", "24h")),
    Column("PAID 24h", lambda row: units.hashrate(row["hashrate_paid"]["24h"]), right=True),
    Column("ACCEPTED", lambda row: str(row["accepted"]), right=True),
    Column("REJECTED", lambda row: str(row["rejected"]), right=True),
    Column("RATIO", lambda row: share_of(row["rejected"], row["accepted"] + row["rejected"]), right=True),
    Column("DIFF", lambda row: units.difficulty(row["difficulty"]) if row["difficulty"] else "-", right=True),
    Column("LAST SHARE", lambda row: ago(row["seconds_since_share"]), right=True),
    Column("DEVICE", lambda row: row["device"] or "-", flexible=10),
)

SESSIONS = (
    Column("ID", lambda row: str(row["id"]), right=True),
    Column("ADDRESS", lambda row: row["address"]),
    Column("WORKER", lambda row: row["worker"] or "-", flexible=12),
    Column("DIFF", lambda row: units.difficulty(row["difficulty"]), right=True),
    Column("ACCEPTED", lambda row: str(row["accepted"]), right=True),
    Column("REJECTED", lambda row: str(row["rejected"]), right=True),
    Column("CONNECTED", lambda row: ago(row["connected_seconds"]), right=True),
    Column("SILENT", lambda row: ago(row["silent_seconds"]), right=True),
    Column("BACKLOG", lambda row: str(row["backlog_bytes"]), right=True),
    Column("LISTENER", lambda row: row["listener"], flexible=8),
    Column("DEVICE", lambda row: row["agent"] or "-", flexible=10),
)

POOLS = (
    Column("N", lambda row: str(row["index"]), right=True),
    Column("POOL", lambda row: row["name"], flexible=16),
    Column("STATE", lambda row: row["state"], style=state_style),
    Column("SINCE", lambda row: clock(row["since_unix"]) if row["since_unix"] else "-"),
    Column("SESSIONS", lambda row: str(row["sessions"]), right=True),
    Column("LINES", lambda row: str(sum(one["up"] for one in row["connections"])), right=True),
    Column("DIFF", lambda row: next((units.difficulty(one["difficulty"]) for one in row["connections"] if one["up"]),
                                    "-"), right=True),
    Column("USER", lambda row: row["user"], flexible=12),
    Column("TLS", lambda row: "yes" if row["tls"] else "no"),
    Column("REASON", lambda row: row["reason"] or "-", flexible=12),
)

BANS = (
    Column("ADDRESS", lambda row: row["address"]),
    Column("SINCE", lambda row: clock(row["since_unix"])),
    Column("LEFT", lambda row: ago(row["seconds_left"]), right=True),
    Column("TIMES", lambda row: str(row["times"]), right=True),
    Column("WHY", lambda row: row["why"], flexible=16),
)

EVENTS = (
    Column("ID", lambda row: str(row["id"]), right=True),
    Column("TIME", lambda row: clock(row["unix"])),
    Column("KIND", lambda row: row["kind"], style=state_style),
    Column("WHAT", lambda row: row["text"], flexible=20),
    Column("BY", lambda row: str(row["details"].get("by") or "-"), flexible=12),
)


# ---------------------------------------------------------------- whole answers

def listed(columns: Sequence[Column], found: dict[str, Any], what: str, room: int | None, color: bool) -> list[str]:
    """A table, and how much of the list it is."""
    rows, total, before = found["items"], found["total"], found["offset"]
    if not rows:
        return [f"no {what}" if not total else f"no {what} after the first {before}; there are {total}"]
    lines = table(columns, rows, room, color)
    if len(rows) < total:
        told = [f"after the first {before}"] * bool(before) + ["--limit 0 shows all"] * (before + len(rows) < total)
        lines += ["", f"{len(rows)} of {total} {what} ({'; '.join(told)})"]
    return lines


def status(one: dict[str, Any]) -> list[str]:
    """The summary."""
    shares, pool, ledger, workers = one["shares"], one["pool"], one["ledger"], one["workers"]
    given = shares["accepted"] + shares["rejected"]
    pairs = [
        ("Karoo", f"{one['version']}, up {units.duration(one['uptime_seconds'])}"),
        ("Pool", pool_line(pool, one["now_unix"])),
        ("Hashrate", rates(one["hashrate"])), ("Paid", rates(one["hashrate_paid"])),
        ("Workers", f"{workers['online']} online, {workers['silent']} silent, {workers['gone']} gone"),
        ("Sessions", f"{one['sessions']} of {one['max_sessions']}"),
        ("Shares", f"{shares['accepted']} accepted, {shares['per_second']:.3g} a second, "
                   + (f"the last {ago(shares['seconds_since_share'])} ago" if shares["seconds_since_share"] is not None
                      else "none yet")),
        ("Rejected", f"{shares['rejected']} ({share_of(shares['rejected'], given)})" + (
            f": {reasons(shares['rejected_by_reason'])}" if shares["rejected_by_reason"] else "")),
        ("At the pool", f"{shares['pool_accepted']} accepted, {shares['pool_rejected']} rejected of "
                        f"{shares['forwarded']}, {shares['blocks']} blocks"),
        ("Pool latency", latency(one["pool_latency_ms"])),
        ("Bans", str(one["bans"])), ("Failovers", str(one["failovers"])),
    ]
    if one["exceptions"]:
        pairs.append(("Bugs", f"{one['exceptions']}: the log has their tracebacks"))
    if ledger["fault"]:
        pairs.append(("Accounts", f"not kept: {ledger['fault']}"))
    pairs += [("Miners enter", address) for address in one["stratum"]["addresses"]]
    return facts(pairs)


def pool_line(pool: dict[str, Any], now: float) -> str:
    """The pool in one line."""
    text = f"{pool['state']}: {pool['name']}" + (" (a backup)" if pool["is_backup"] else "")
    if pool["state"] == "up":
        text += f", difficulty {units.difficulty(pool['difficulty'])}"
    if pool["since_unix"] is not None:
        text += f", for {units.duration(max(0.0, now - pool['since_unix']))}"
    if pool["seconds_since_job"] is not None:
        text += f", last job {units.duration(pool['seconds_since_job'])} ago"
    return text + (f": {pool['reason']}" if pool["reason"] and pool["state"] != "up" else "")


def changes(found: dict[str, list[str]]) -> list[str]:
    """What a reload did: lists by what became of the options in them."""
    titles = {"changed": "changed, and in force now:", "needs_restart": "changed, and in force after a restart:"}
    lines: list[str] = []
    for name in sorted(found, key=lambda name: (list(titles).index(name) if name in titles else len(titles), name)):
        if found[name]:
            texts = found[name] if isinstance(found[name], list) else [str(found[name])]
            lines += [titles.get(name, f"{name.replace('_', ' ')}:"), *(f"  {plain(str(text))}" for text in texts)]
    return lines or ["nothing has changed"]


def details(one: dict[str, Any]) -> list[str]:
    """All that is known of one thing, with the names that JSON has for it."""
    return facts((name, _value(value)) for name, value in one.items() if not isinstance(value, list))


def _value(value: Any) -> str:
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case dict():
            return ", ".join(f"{name} {_value(part)}" for name, part in value.items()) or "-"
        case float():
            return f"{value:.6g}"
    return str(value)


def stacks(found: dict[str, Any]) -> list[str]:
    """The stacks, with how many stand there."""
    rows = found["items"]
    number = {kind: sum(row["count"] for row in rows if row["kind"] == kind) for kind in ("greenlet", "thread")}
    lines = [f"{number['greenlet']} greenlets at {sum(row['kind'] == 'greenlet' for row in rows)} places, "
             f"{number['thread']} other threads"]
    for row in rows:
        lines += ["", f"--- {units.counted(row['count'], row['kind'])}",
                  *(plain(line) for line in row["stack"].splitlines())]
    return lines
