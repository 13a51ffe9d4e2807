"""The command line. Exit codes: 0 well, 2 wrong words, 3 warnings (`karoo doctor --strict`), 69 something is not to be
had (a port, a pool, a file), 70 it cannot go on and is to be started anew, 74 what is to be printed cannot be written,
78 a faulty configuration. No restart mends 2 and 78 (supervisord: `exitcodes=0,2,78`)."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence

from karoo import __version__, stdout

EX_OK, EX_USAGE, EX_UNAVAILABLE, EX_IOERR, EX_CONFIG = 0, 2, 69, 74, 78

EPILOG = """\
examples:
  karoo demo                              a pool, the proxy and miners on this machine
  karoo config > karoo.yaml               an example configuration, to be edited
  karoo check -c karoo.yaml               is it right?
  karoo doctor -c karoo.yaml              can it work: ports, limits, clock, DNS, each pool, disk
  karoo run -c karoo.yaml                 the proxy (plain `karoo -c karoo.yaml` too)
  karoo ctl -c karoo.yaml status          ask the running proxy, or have it do something
  karoo top -c karoo.yaml                 what it does, live in the terminal
  karoo report -c karoo.yaml              what each worker did today
  karoo cert --out /etc/karoo             a certificate, for miners that connect over TLS
  karoo simulate-pool --port 3333         a pool to try things with
  karoo simulate-miner 127.0.0.1:3333 --user wallet.rig1 --count 3

`karoo COMMAND --help` says more about one command.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    sys.stdout = stdout.guarded(sys.stdout)
    try:
        try:
            return _command(argv)
        finally:
            sys.stdout.flush()
    except stdout.NotPrinted as failure:
        return _fail(str(failure), EX_IOERR) if sys.stderr is not None else EX_IOERR


def _command(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    option, *value = words[0].split("=", 1) if words else [""]
    if option in ("-c", "--config", "-config"):  # the last as the original Karoo had it
        words[:1] = ["run", "--config", *value]
    args = _parser().parse_args(words)
    try:
        return args.call(args)  # type: ignore[no-any-return]
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    from karoo.accounting import report
    from karoo.ctl import main as ctl
    parser = argparse.ArgumentParser(
        prog="karoo", description="A Stratum V1 mining proxy: many miners, one connection to the pool.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"karoo {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, call: Callable[[argparse.Namespace], int], text: str,
                example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.",
                                  epilog=f"example:\n  karoo {example}",
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
        sub.set_defaults(call=call)
        return sub

    sub = command("run", _run, "run the proxy", "run -c karoo.yaml")
    _add_config(sub)
    sub = command("demo", _demo, "run a simulated pool, the proxy and a few miners that really hash",
                  "demo --http-port 0 --seconds 60")
    for side, port in (("stratum", 3333), ("http", 8080), ("pool", 3334)):
        sub.add_argument(f"--{side}-port", type=_port, default=port, metavar="PORT",
                         help=f"default {port}; 0: any free one")
    sub.add_argument("--seconds", type=_positive, help="end by itself after so many seconds")
    sub = command("check", _check, "check a configuration", "check -c karoo.yaml")
    sub.add_argument("--connect", action="store_true", help="also dial each pool, up to its first job, as doctor does")
    _add_config(sub)
    sub = command("doctor", _doctor, "look for whatever keeps miners from working, and say how to mend it",
                  "doctor -c karoo.yaml")
    sub.add_argument("--json", action="store_true", help="for programs: one JSON object")
    sub.add_argument("--strict", action="store_true", help="warnings make the exit code 3")
    sub.add_argument("--offline", action="store_true", help="ask neither the DNS nor the pools")
    sub.add_argument("--timeout", type=_positive, default=60.0, metavar="SECONDS",
                     help="for each pool (default 60); they are tried all at once")
    _add_config(sub)
    report.add_arguments(command("report", _report, "print what each worker did, from the accounts",
                                 "report --from 2026-01-01 --to 2026-01-31 --csv -c karoo.yaml"))
    ctl.add_arguments(command("ctl", _ctl, "ask a running proxy, or have it do something", "ctl -c karoo.yaml status"))
    ctl.add_top_arguments(command("top", _top, "a running proxy live in the terminal: hashrate, workers, events",
                                  "top -c karoo.yaml"))
    command("config", _config, "print an example configuration with every option", "config > karoo.yaml")
    _add_cert(command("cert", _cert, "make a self-signed certificate, for a listener with TLS",
                      "cert --out /etc/karoo --host proxy.farm.example 10.0.0.5 --days 3650"))
    _add_pool(command("simulate-pool", _simulate_pool, "run a pool that checks every share",
                      "simulate-pool --port 3333 --difficulty 0.001 --job-every 30"))
    _add_miner(command("simulate-miner", _simulate_miner, "run miners that really hash",
                       "simulate-miner stratum+tcp://127.0.0.1:3333 --user wallet.rig --count 3 --hashrate 50000"))
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", required=True, metavar="FILE", help="YAML, or the JSON of the original Karoo")


def _add_cert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default=".", metavar="FOLDER",
                        help="where karoo-cert.pem and karoo-key.pem go (default: here)")
    parser.add_argument("--host", action="extend", nargs="+", dest="hosts", metavar="NAME",
                        help="DNS names and IP addresses that miners call the proxy by (default: this machine's)")
    parser.add_argument("--days", type=_count,
                        help="how long it is valid, up to 7300 (default 3650; Apple's systems refuse more than 824)")
    parser.add_argument("--force", action="store_true", help="replace the files that are there")


def _add_pool(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=_port, default=3334, help="default 3334; 0: any free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--difficulty", type=_positive, default=0.001, help="default 0.001")
    parser.add_argument("--job-every", type=_positive, default=30.0, metavar="SECONDS", help="default 30")
    parser.add_argument("--cert", default="", metavar="FILE", help="speak TLS, with this certificate, in PEM")
    parser.add_argument("--key", default="", metavar="FILE", help="its private key")
    parser.add_argument("--extranonce2-size", type=int, default=8, choices=range(1, 17), metavar="BYTES")
    parser.add_argument("--algorithm", choices=("sha256d", "scrypt"), default="sha256d")


def _add_miner(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="stratum+tcp://host:port, stratum+ssl://, ws:// or wss://")
    parser.add_argument("--ca-file", default="", metavar="FILE",
                        help="the authorities that certificates must be of, in PEM (else the system's)")
    parser.add_argument("--insecure", action="store_true", help="take any certificate")
    parser.add_argument("--user", required=True, help="a {n} in it becomes the miner's number")
    parser.add_argument("--password", default="x")
    parser.add_argument("--count", type=_count, default=1, help="so many miners, each a session of its own")
    parser.add_argument("--hashrate", type=_positive, metavar="H/S", help="of each; as fast as the CPU goes without it")
    parser.add_argument("--version-rolling", action="store_true", help="roll version bits, as ASICs do")
    parser.add_argument("--agent", help="the program that it says it is")
    parser.add_argument("--suggest-difficulty", type=_positive, metavar="D")
    parser.add_argument("--algorithm", choices=("sha256d", "scrypt"), default="sha256d")
    parser.add_argument("--seconds", type=_positive, help="end after so many seconds")
    parser.add_argument("--shares", type=_count, help="end after so many accepted shares")
    parser.add_argument("--parent", type=int, metavar="PID", help=argparse.SUPPRESS)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _fail(text: str, code: int) -> int:
    print(f"karoo: {text}", file=sys.stderr)
    return code


# ---------------------------------------------------------------- the commands

def _run(args: argparse.Namespace) -> int:
    from karoo import config, service
    from karoo.logfile import LogFileError
    from karoo.net.listener import ListenError
    from karoo.net.tls import TlsError
    from karoo.systemd import ActivationError
    try:
        return service.run(config.load(args.config), args.config)
    except (config.ConfigError, TlsError) as faults:
        return _fail(str(faults), EX_CONFIG)
    except (ListenError, ActivationError, LogFileError) as failure:
        return _fail(f"{failure}", EX_UNAVAILABLE)


def _demo(args: argparse.Namespace) -> int:
    from karoo import demo
    from karoo.net.listener import ListenError
    try:
        return demo.run(args.stratum_port, args.http_port, args.pool_port, args.seconds)
    except ListenError as failure:
        return _fail(f"{failure}; choose another with --stratum-port, --http-port or --pool-port (0: any free one)",
                     EX_UNAVAILABLE)


def _check(args: argparse.Namespace) -> int:
    from karoo import config
    from karoo.net.tls import TlsError
    from karoo.proxy import waysin
    try:
        settings = config.load(args.config)
    except config.ConfigError as faults:
        return _fail(str(faults), EX_CONFIG)
    for sentence in config.remarks(settings):
        print(f"note: {sentence}")
    try:
        waysin.securities(settings)
        waysin.check_pools(settings)
    except TlsError as fault:
        return _fail(str(fault), EX_CONFIG)
    print(f"{args.config}: the configuration is right")
    if not args.connect:
        return EX_OK
    from karoo.doctor import examine, words
    report = examine.examine_pools(args.config, settings)
    for section in report.sections:
        print("\n".join(["", *words.section_lines(section, *_terminal())]))
    return report.exit_code()


def _doctor(args: argparse.Namespace) -> int:
    from karoo.doctor import examine, words
    report = examine.examine(args.config, examine.Wishes(args.offline, args.timeout))
    if args.json:
        print(words.as_json(report, args.strict))
    else:
        print(words.text(report, *_terminal()))
    return report.exit_code(args.strict)


def _terminal() -> tuple[int, bool]:
    """The width of the lines that it gets, and whether it shows colours."""
    if not sys.stdout.isatty():
        return 120, False
    from karoo import log
    return min(shutil.get_terminal_size().columns, 140), log.colored("auto", sys.stdout)


def _report(args: argparse.Namespace) -> int:
    from karoo import config
    from karoo.accounting import report
    if args.database is not None:
        return report.run(args.database, args)
    try:
        settings = config.load(args.config)
    except config.ConfigError as faults:
        return _fail(f"{faults}\n(--database FILE needs no configuration)", EX_CONFIG)
    return report.run(settings.accounting.database, args, settings.shares.algorithm)


def _ctl(args: argparse.Namespace) -> int:
    from karoo.ctl import main as ctl
    return ctl.run(args)


def _top(args: argparse.Namespace) -> int:
    from karoo.ctl import top
    return top.run(args)


def _config(args: argparse.Namespace) -> int:
    from karoo.configdoc import example
    sys.stdout.write(example())
    return EX_OK


def _cert(args: argparse.Namespace) -> int:
    import time

    from karoo import cert
    try:
        hosts = cert.own_hosts() if args.hosts is None else args.hosts
        sys.stdout.write(cert.create(args.out, hosts, args.days or cert.DAYS, args.force, time.time()))
    except cert.BadRequest as fault:
        return _fail(str(fault), EX_USAGE)
    except cert.NotWritten as failure:
        return _fail(str(failure), EX_UNAVAILABLE)
    return EX_OK


def _simulate_pool(args: argparse.Namespace) -> int:
    from karoo import log
    from karoo.net.tls import ServerFiles, TlsError, server_context
    from karoo.sim import pool
    from karoo.sim.options import PoolOptions
    log.setup()
    try:
        tls = server_context(ServerFiles(args.cert, args.key or args.cert)) if args.cert else None
        return pool.run(PoolOptions(host=args.host, port=args.port, difficulty=args.difficulty,
                                    job_every=args.job_every, extranonce2_size=args.extranonce2_size,
                                    algorithm=args.algorithm, tls=tls))
    except TlsError as fault:
        return _fail(str(fault), EX_USAGE)
    except OSError as failure:
        return _fail(f"cannot listen on {args.host}:{args.port}: {failure.strerror or failure}", EX_UNAVAILABLE)


def _simulate_miner(args: argparse.Namespace) -> int:
    from karoo import log
    from karoo.net.tls import ClientFiles
    from karoo.sim import miner
    log.setup()
    if args.parent is not None:
        from karoo.demo import end_with_parent
        end_with_parent(args.parent)
    try:
        return miner.run(args.url, args.user, password=args.password, count=args.count, hashrate=args.hashrate,
                         version_rolling=args.version_rolling, agent=args.agent or miner.DEFAULT_AGENT,
                         seconds=args.seconds, shares=args.shares, difficulty_hint=args.suggest_difficulty,
                         algorithm=args.algorithm, tls=ClientFiles(not args.insecure, args.ca_file))
    except ValueError as fault:
        return _fail(str(fault), EX_USAGE)
