"""`karoo ctl`: ask a running proxy, or have it do something. Exit codes: 0 done, 1 refused or failed, 2 wrong words, 69
no proxy is there."""

from __future__ import annotations

import argparse
import ipaddress
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

from karoo import units
from karoo.ctl import words
from karoo.log import colored

EX_OK, EX_FAILED, EX_USAGE, EX_UNAVAILABLE = 0, 1, 2, 69

ANSWER_SECONDS = 60.0
INTERVAL, SHORTEST, LONGEST = 2.0, 0.2, 3600.0  # seconds between two looks of `karoo top`
ORDERS = ("hashrate", "accepted", "rejected", "silence")  # of its workers
ALL = 1_000_000_000  # things in a list, with --limit 0

EPILOG = """\
examples:
  karoo ctl -c karoo.yaml status                  the summary
  karoo ctl -c karoo.yaml --json status           the same for programs, as /api/v1/summary has it
  karoo ctl workers --sort rejected --limit 20    who has most rejects
  karoo ctl sessions --search 10.0.0.             who is connected from there
  karoo ctl switch 1                              take the miners to the first backup
  karoo ctl kick 10.0.0.7                         disconnect all from an address (also: a session's number, a worker)
  karoo ctl ban 10.0.0.7 60                       for an hour
  karoo ctl reload                                read the configuration again
  karoo ctl log-level debug --logger karoo.session
  karoo ctl --socket /run/karoo/karoo.sock stacks

Without -c and --socket the socket is ./karoo.sock or /run/karoo/karoo.sock.
Exit codes: 0 done, 1 refused or failed, 2 wrong words, 69 no proxy is there.
"""

TOP_EPILOG = """\
keys: h hashrate, a accepted, r rejected, s silence; q ends, any other draws anew
examples:
  karoo top -c karoo.yaml
  karoo top --socket /run/karoo/karoo.sock --interval 5
  karoo top --once                        one picture, as text

Without a terminal one picture is printed, as with --once.
"""

Printer = Callable[[dict[str, Any], int | None, bool], list[str]]
Asked = tuple[str, dict[str, Any], Printer]  # command, members, and how its answer is told


# ---------------------------------------------------------------- the words

def add_place(parser: argparse.ArgumentParser) -> None:
    """Options that say which proxy is meant."""
    place = parser.add_mutually_exclusive_group()
    place.add_argument("-c", "--config", metavar="FILE", help="the proxy's configuration, which names the socket")
    place.add_argument("--socket", metavar="PATH", help="the socket itself")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options and commands of `karoo ctl`."""
    parser.epilog = EPILOG
    add_place(parser)
    parser.add_argument("--json", action="store_true", help="answer as /api/v1 does")
    parser.add_argument("--timeout", type=_seconds, default=ANSWER_SECONDS, metavar="S",
                        help=f"wait so many seconds for an answer (default {ANSWER_SECONDS:g})")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")
    shared = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    shared.add_argument("--json", action="store_true", help="answer as /api/v1 does")

    def command(name: str, text: str, ask: Callable[[argparse.Namespace], Asked],
                *aliases: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, aliases=aliases, parents=[shared],
                                  description=f"{text[0].upper()}{text[1:]}.")
        sub.set_defaults(ask=ask)
        return sub

    command("status", "everything at one look", lambda args: (
        "status", {}, lambda found, room, color: words.status(found)), "summary")
    _add_lists(command)
    _add_acts(command)
    command("ping", "does the proxy answer, and can miners be served?", lambda args: ("ping", {}, _ping), "version")


def add_top_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `karoo top`."""
    parser.epilog = TOP_EPILOG
    add_place(parser)
    parser.add_argument("--interval", type=_interval, default=INTERVAL, metavar="S",
                        help=f"ask every so many seconds (default {INTERVAL:g})")
    parser.add_argument("--once", action="store_true", help="print one picture and end")
    parser.add_argument("--sort", choices=ORDERS, default=ORDERS[0],
                        help=f"what the workers are sorted by (default: {ORDERS[0]})")


def _interval(text: str) -> float:
    value = _seconds(text)
    if not SHORTEST <= value <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from {SHORTEST:g} to {LONGEST:g}")
    return value


def _add_lists(command: Callable[..., argparse.ArgumentParser]) -> None:
    sub = command("workers", "the workers", _workers)
    _add_paging(sub, "hashrate_1h, name, state, accepted, rejected, reject_ratio, last_share, …")
    sub.add_argument("--state", help="only those in this state: online, silent, gone, past")
    sub = command("worker", "all about one worker", lambda args: ("worker", {"name": args.name}, _worker))
    sub.add_argument("name", metavar="NAME")
    sub = command("sessions", "the connected miners", _sessions)
    _add_paging(sub, "id, address, worker, agent, difficulty, accepted, rejected, silent_seconds, …")
    sub.add_argument("--worker", metavar="NAME", help="only those of this worker")
    sub = command("session", "all about one connected miner", lambda args: (
        "session", {"id": args.number}, lambda found, room, color: words.details(found)))
    sub.add_argument("number", type=_whole, metavar="NUMBER")
    command("pools", "the pools in their order", lambda args: ("pools", {}, _table(words.POOLS, "pools")))
    sub = command("bans", "the bans in force", lambda args: ("bans", _paging(args), _table(words.BANS, "bans")))
    _add_paging(sub, "since, until, address, times")
    sub = command("events", "what happened", _events)
    sub.add_argument("--limit", type=_whole, default=30, metavar="N", help="the last N (default 30); 0: all that is "
                     "known")
    sub.add_argument("--after", type=_whole, metavar="ID", help="only what came after the event with this id")
    sub.add_argument("--kind", action="append", metavar="KIND", help="only this kind; may be given several times")
    sub.add_argument("--search", metavar="TEXT", help="only what holds this text")
    command("stacks", "where each greenlet and thread stands", lambda args: (
        "stacks", {}, lambda found, room, color: words.stacks(found)))


def _add_acts(command: Callable[..., argparse.ArgumentParser]) -> None:
    sub = command("switch", "take the miners to another pool", lambda args: (
        "switch-pool", {"pool": int(args.pool) if args.pool.isdecimal() else args.pool}, _done), "switch-pool")
    sub.add_argument("pool", metavar="POOL", help="its number (0 is the first) or its name")
    sub = command("kick", "disconnect miners; they may come back", _kick)
    who = sub.add_mutually_exclusive_group(required=True)
    who.add_argument("who", nargs="?", metavar="WHO",
                     help="a session's number, an address, or a worker's name, whichever it looks like")
    who.add_argument("--session", type=_whole, metavar="NUMBER")
    who.add_argument("--worker", metavar="NAME", help="all that work for it")
    who.add_argument("--address", metavar="ADDRESS", help="all that come from it")
    sub = command("ban", "ban an address, and disconnect whoever comes from it", _ban)
    sub.add_argument("address", metavar="ADDRESS")
    sub.add_argument("minutes", nargs="?", type=_seconds, metavar="MINUTES",
                     help="how long (default: ratelimit.ban_duration_seconds)")
    sub.add_argument("--reason", metavar="TEXT")
    sub = command("unban", "lift a ban", lambda args: ("unban", {"address": args.address}, _done))
    sub.add_argument("address", metavar="ADDRESS")
    command("reload", "read the configuration again", lambda args: (
        "reload", {}, lambda found, room, color: words.changes(found)))
    sub = command("log-level", "show or change how much is logged", _log_level)
    sub.add_argument("level", nargs="?", metavar="LEVEL",
                     help="debug, info, warning, error; for one logger also default: none of its own")
    sub.add_argument("--logger", metavar="NAME", help="only of this one, such as karoo.session")


def _add_paging(parser: argparse.ArgumentParser, sorts: str) -> None:
    parser.add_argument("--search", metavar="TEXT", help="only those that hold this text")
    parser.add_argument("--sort", metavar="KEY", help=f"by what: {sorts}")
    parser.add_argument("--order", choices=("asc", "desc"), help="in which direction")
    parser.add_argument("--limit", type=_whole, metavar="N", help="so many (default 100); 0: all")
    parser.add_argument("--offset", type=_whole, metavar="N", help="after so many others")


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > ALL:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


# ---------------------------------------------------------------- what is asked

def _given(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _limit(limit: int | None) -> int | None:
    return ALL if limit == 0 else limit


def _paging(args: argparse.Namespace) -> dict[str, Any]:
    return _given(q=args.search, sort=args.sort, order=args.order, limit=_limit(args.limit), offset=args.offset)


def _workers(args: argparse.Namespace) -> Asked:
    return "workers", _paging(args) | _given(state=args.state), _table(words.WORKERS, "workers")


def _sessions(args: argparse.Namespace) -> Asked:
    return "sessions", _paging(args) | _given(worker=args.worker), _table(words.SESSIONS, "sessions")


def _events(args: argparse.Namespace) -> Asked:
    members = _given(limit=_limit(args.limit), after=args.after, kind=args.kind, q=args.search)

    def tell(found: dict[str, Any], room: int | None, color: bool) -> list[str]:
        """The latest last, as in a log."""
        return words.listed(words.EVENTS, found | {"items": found["items"][::-1]}, "events", room, color)
    return "events", members, tell


def _kick(args: argparse.Namespace) -> Asked:
    members = _given(session=args.session, worker=args.worker, address=args.address)
    if args.who is not None:
        kind = "session" if _is_number(args.who) else "address" if _is_address(args.who) else "worker"
        members[kind] = int(args.who) if kind == "session" else args.who
    return "kick", members, _done


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True


def _ban(args: argparse.Namespace) -> Asked:
    return "ban", _given(address=args.address, seconds=args.minutes and args.minutes * 60, reason=args.reason), _done


def _log_level(args: argparse.Namespace) -> Asked:
    members = _given(level=args.level, logger=args.logger)
    return ("log-level", members, _levels) if args.level is None else ("set-log-level", members, _done)


# ---------------------------------------------------------------- how it is told

def _table(columns: Sequence[words.Column], what: str) -> Printer:
    return lambda found, room, color: words.listed(columns, found, what, room, color)


def _done(found: dict[str, Any], room: int | None, color: bool) -> list[str]:
    return [words.plain(found["done"])]


def _ping(found: dict[str, Any], room: int | None, color: bool) -> list[str]:
    return [f"karoo {words.plain(found['version'])}, process {found['pid']}, up "
            f"{words.ago(found['uptime_seconds'])}: {words.plain(found['not_ready'] or 'ready')}"]


def _levels(found: dict[str, Any], room: int | None, color: bool) -> list[str]:
    return words.facts([("all", found["level"]), *found["loggers"].items()])


def _worker(found: dict[str, Any], room: int | None, color: bool) -> list[str]:
    lines = words.details({name: {span: units.hashrate(value) for span, value in part.items()}
                           if name in ("hashrate", "hashrate_paid") else part for name, part in found.items()})
    if found["session_items"]:
        lines += ["", *words.table(words.SESSIONS, found["session_items"], room, color)]
    return lines


# ---------------------------------------------------------------- the command

def run(args: argparse.Namespace) -> int:
    """Do what `add_arguments` read; the exit code."""
    from karoo.ctl import client
    command, members, tell = args.ask(args)
    try:
        found = client.ask(client.socket_path(args.config, args.socket), command, members, args.timeout)
    except client.NoProxy as failure:
        return fail(str(failure), EX_UNAVAILABLE)
    except client.Failed as failure:
        if args.json:
            print(words.as_json({"error": {"code": failure.code, "message": str(failure)}}, None), flush=True)
        return fail(str(failure), EX_USAGE if failure.code == "bad_request" else EX_FAILED)
    if args.json:
        print(words.as_json(found))
        return EX_OK
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print("\n".join(tell(found, room, colored("auto", sys.stdout))))
    return EX_OK


def fail(text: str, code: int) -> int:
    """Say why; the exit code."""
    lines = [words.plain(line) for line in text.split("\n")]
    print(f"karoo: {lines[0]}", *lines[1:], sep="\n", file=sys.stderr)
    return code
