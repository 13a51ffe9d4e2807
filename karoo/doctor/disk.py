"""Where files are to be written: the accounts, the log, the control socket. Nothing is written, and nothing locked."""

from __future__ import annotations

import os
import sqlite3
import stat
from time import monotonic
from urllib.parse import quote

from gevent import get_hub

from karoo import config
from karoo.accounting.faults import LedgerError, check_place, explained
from karoo.accounting.schema import MIGRATIONS, version_of
from karoo.ctl.socketfile import LONGEST_PATH
from karoo.doctor.findings import Section
from karoo.doctor.running import Running, called, sockets_of

MIB = 1 << 20
LITTLE, TOO_LITTLE = 200 * MIB, 10 * MIB  # bytes left on a disk
QUICK_CHECK_UP_TO, QUICK_CHECK_SECONDS = 256 * MIB, 3.0
_BUSY = 1.0  # seconds


def examine(section: Section, settings: config.Config, proxy: Running) -> None:
    """All that the configuration has written."""
    if settings.accounting.database:
        _accounts(section, settings.accounting.database, proxy)
        _space(section, "accounting.database", settings.accounting.database)
    if settings.log.file:
        _log(section, settings)
        _space(section, "log.file", settings.log.file)
    if settings.control.socket:
        _control(section, settings.control.socket, proxy)


def _accounts(section: Section, path: str, proxy: Running) -> None:
    label = "accounting.database"
    try:
        check_place(path, new=True)
        if not os.path.exists(path):
            section.ok("disk.accounts", label, f"{path} will be made", exists=False)
            return
        if not os.access(path, os.W_OK) or not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK):
            raise LedgerError(path, "may not be written; give it and its directory to the user that Karoo runs as")
        found = get_hub().threadpool.apply(_looked, (path,))
        if isinstance(found, LedgerError):
            raise found
    except LedgerError as fault:
        section.fail("disk.accounts", label, str(fault), damaged=fault.damaged)
        return
    size = os.path.getsize(path) / MIB
    if proxy.accounts is not None and proxy.accounts != os.getpid():
        kept = f"{path} ({size:.1f} MB) is kept by {called(proxy.accounts)}"
        if proxy.is_it(proxy.accounts) or not proxy.accounts:
            section.ok("disk.accounts", label, f"{kept}, the running proxy", exists=True, held_by=proxy.accounts)
        else:
            section.fail("disk.accounts", label, kept, "give each proxy a file of its own", exists=True,
                         held_by=proxy.accounts)
    else:
        section.ok("disk.accounts", label, f"{path} ({size:.1f} MB) can be used", exists=True)
    if found:
        section.note("disk.integrity", label, found)


def _looked(path: str) -> str | LedgerError:
    """For a thread: gevent would print the traceback of what is raised there."""
    try:
        return _look(path)
    except LedgerError as fault:
        return fault


def _look(path: str) -> str:
    """Open the accounts to read, and look through them as long as that is cheap; what was not looked at, in words.
    Raises LedgerError. Whoever writes them is not kept waiting."""
    alone = not os.path.exists(f"{path}-wal")
    uri = f"file:{quote(os.fsencode(os.path.abspath(path)))}?mode=ro{'&immutable=1' if alone else ''}"
    try:
        db = sqlite3.connect(uri, uri=True, timeout=_BUSY, isolation_level=None)
    except sqlite3.Error as error:
        raise explained(path, error, opened=False) from error
    try:
        version = version_of(path, db)
        if version < len(MIGRATIONS):
            return f"its schema is of version {version}: the proxy brings it to {len(MIGRATIONS)} when it starts"
        if os.path.getsize(path) > QUICK_CHECK_UP_TO:
            return "it is too large to be looked through here: sqlite3 FILE 'PRAGMA quick_check' does it"
        until = monotonic() + QUICK_CHECK_SECONDS
        db.set_progress_handler(lambda: monotonic() > until, 10_000)
        (said,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            raise LedgerError(path, f"is damaged: {said}; move it away, and a new one is begun", True)
    except sqlite3.OperationalError as error:
        if "interrupted" in str(error):
            return f"it was not looked through within {QUICK_CHECK_SECONDS:g} s"
        raise explained(path, error, opened=False) from error
    except sqlite3.Error as error:
        raise explained(path, error, opened=False) from error
    finally:
        db.close()
    return ""


def _space(section: Section, label: str, path: str) -> None:
    try:
        there = os.statvfs(os.path.dirname(os.path.abspath(path)))
    except OSError:
        return  # that the folder is missing has been said
    free = there.f_bavail * there.f_frsize
    if free < TOO_LITTLE:
        section.fail("disk.space", label, f"{free // MIB} MB are left on its disk", "make room", free_bytes=free)
    elif free < LITTLE:
        section.warn("disk.space", label, f"{free // MIB} MB are left on its disk", "make room", free_bytes=free)
    else:
        section.ok("disk.space", label, f"{free / (1 << 30):.1f} GB are left on its disk", free_bytes=free)
    if there.f_files and not there.f_favail:
        section.fail("disk.inodes", label, "its disk can hold no more files", "delete some")


def _log(section: Section, settings: config.Config) -> None:
    path, label = settings.log.file, "log.file"
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        section.fail("disk.log", label, f"the folder {folder} does not exist", "make it, for the user that Karoo "
                     "runs as")
    elif os.path.isdir(path):
        section.fail("disk.log", label, f"{path} is a folder", "name a file in it")
    elif os.path.exists(path) and not os.access(path, os.W_OK):
        section.fail("disk.log", label, f"{path} may not be written", "give it to the user that Karoo runs as")
    elif not os.access(folder, os.W_OK | os.X_OK):
        if settings.log.rotate_mb or not os.path.exists(path):
            section.fail("disk.log", label, f"the folder {folder} may not be written", "give it to the user that Karoo "
                         "runs as")
        else:
            section.ok("disk.log", label, f"{path} can be written; its folder cannot")
    else:
        section.ok("disk.log", label, f"{path} can be written")
    if not settings.log.rotate_mb:
        section.note("disk.rotation", label, "nothing puts it aside when it grows, unless logrotate does",
                     "set log.rotate_mb, or see deploy/ for logrotate")


def _control(section: Section, path: str, proxy: Running) -> None:
    label, folder = "control.socket", os.path.dirname(os.path.abspath(path))
    if len(os.fsencode(path)) > LONGEST_PATH:
        section.fail("disk.control", label, f"its path has {len(os.fsencode(path))} bytes, and a socket's may have "
                     f"{LONGEST_PATH}", "choose a shorter one, such as /run/karoo/karoo.sock", faulty=True)
    elif not os.path.isdir(folder):
        section.fail("disk.control", label, f"the folder {folder} does not exist",
                     "make it, for the user that Karoo runs as")
    elif proxy.pid is not None and proxy.control is None and _room_for_socket(path):
        _lost(section, path, proxy.pid)
    elif not os.path.lexists(path):
        if os.access(folder, os.W_OK | os.X_OK):
            section.ok("disk.control", label, f"{path} will be made")
        else:
            section.fail("disk.control", label, f"the folder {folder} may not be written",
                         "give it to the user that Karoo runs as, or name another place")
    elif not stat.S_ISSOCK(os.lstat(path).st_mode):
        section.fail("disk.control", label, f"{path} is there already, and no socket", "remove it, or name another")
    elif proxy.control is None:
        section.note("disk.control", label, f"{path} is left over: nobody answers there",
                     "the proxy replaces it when it starts")
    elif proxy.control == 0 or proxy.is_it(proxy.control):
        section.ok("disk.control", label, f"{path} is answered by the running proxy")
    else:
        section.fail("disk.control", label, f"{path} is answered by {called(proxy.control)}", "give each its own")


def _room_for_socket(path: str) -> bool:
    """Whether there is nothing at a path, or a socket."""
    return not os.path.lexists(path) or stat.S_ISSOCK(os.lstat(path).st_mode)


def _lost(section: Section, path: str, pid: int) -> None:
    """A proxy runs with this configuration, and does not answer at its socket."""
    label = "control.socket"
    whose = f"the running proxy, {called(pid)}," if pid else "the running proxy"
    own = sockets_of(pid) if pid else set()
    if os.path.realpath(path) in map(os.path.realpath, own):
        section.warn("disk.control", label, f"{whose} has lost {path}: somebody removed it, and neither karoo ctl nor "
                     "karoo top find the proxy", "restart the proxy, and leave the file alone")
    elif own:
        section.note("disk.control", label, f"{whose} listens at {', '.join(sorted(own))}; {path} will be made at its "
                     "next start")
    else:
        section.warn("disk.control", label, f"nobody answers at {path}, although {whose} has this configuration",
                     "its log says whether it could not make it; restart the proxy")
