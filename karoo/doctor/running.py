"""Who has what on this machine: ports, the accounts, the control socket. Looks only, and takes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import gevent
from gevent import socket

from karoo.config import Control
from karoo.ctl.socketfile import peer_of

_LISTEN = "0A"  # include/net/tcp_states.h
_ANSWER_SECONDS = 2.0


def inodes_listening(port: int) -> set[int]:
    """The sockets that listen on a TCP port, by their inodes; none where this is not Linux."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text("ascii").splitlines()[1:]
        except OSError:  # no IPv6, or no Linux
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(int(fields[9]))
    return found


def owners(inodes: set[int]) -> set[int]:
    """The processes that hold one of the sockets, as far as this user may see."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    return {pid for pid in _processes() if wanted and any(link in wanted for link in _links(pid))}


def _processes() -> Iterable[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []


def _links(pid: int) -> Iterable[str]:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:  # another user's, or gone
        return
    for name in names:
        try:
            yield os.readlink(f"{folder}/{name}")
        except OSError:
            continue


def locked_by(path: str) -> int | None:
    """The process that holds a lock on a file (flock); None for nobody. The lock is not tried."""
    try:
        inode = str(os.stat(path).st_ino)
        lines = Path("/proc/locks").read_text("ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()  # 3: FLOCK  ADVISORY  WRITE 10437 fe:00:2310227 0 EOF
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == inode:
            return int(fields[4])
    return None


def answers(path: str) -> int | None:
    """The process that listens on a Unix socket; None for nobody, 0 for one that cannot be told. It is connected to,
    and told nothing."""
    try:
        with gevent.Timeout(_ANSWER_SECONDS), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            peer = peer_of(sock)
            return 0 if peer is None else peer[0]
    except gevent.Timeout:
        return 0
    except PermissionError:
        return 0 if _listening(path) else None
    except OSError:
        return None


def _listening(path: str) -> bool:
    """Whether a Unix socket of that path listens, whoever's it is."""
    return path in _unix_listeners().values()


def _unix_listeners() -> dict[int, str]:
    """The paths of the Unix sockets that listen, whoever's they are, by their inodes."""
    try:
        lines = Path("/proc/net/unix").read_text(errors="surrogateescape").splitlines()[1:]
    except OSError:  # no Linux
        return {}
    # Num RefCount Protocol Flags Type St Inode Path; of the flags __SO_ACCEPTCON (include/linux/net.h)
    parts = (line.split(maxsplit=7) for line in lines)
    return {int(fields[6]): fields[7] for fields in parts if len(fields) == 8 and fields[3] == "00010000"}


def sockets_of(pid: int) -> set[str]:
    """The paths of the Unix sockets that a process listens on, as far as this user may see; a file may be gone."""
    held = {f"socket:[{inode}]": path for inode, path in _unix_listeners().items() if path.startswith("/")}
    return {held[link] for link in _links(pid) if link in held}


def words_of(pid: int) -> list[str]:
    """The command line of a process; empty where it cannot be seen."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [word.decode(errors="replace") for word in line.split(b"\0") if word]


def is_karoo(pid: int) -> bool:
    """Whether it looks like a proxy of this kind."""
    return any(os.path.basename(word) == "karoo" for word in words_of(pid)[:6])


def config_of(pid: int) -> str | None:
    """The whole path of the configuration that a running karoo was given; None where that cannot be seen."""
    words = words_of(pid)
    for number, word in enumerate(words):
        given = (words[number + 1] if word in ("-c", "--config") and number + 1 < len(words) else
                 word.removeprefix("--config=") if word.startswith("--config=") else "")
        if given:
            try:
                return os.path.realpath(os.path.join(os.readlink(f"/proc/{pid}/cwd"), given))
            except OSError:  # another user's
                return os.path.realpath(given) if os.path.isabs(given) else None
    return None


def started_with(config: str) -> set[int]:
    """The proxies that run and were started with this very configuration file."""
    path = os.path.realpath(config)
    return {pid for pid in _processes() if pid not in (os.getpid(), os.getppid()) and is_karoo(pid) and _runs(pid)
            and config_of(pid) == path}


def socket_of(config: str) -> str | None:
    """The path of the control socket of the proxy that runs with a configuration file; None where there is none, more
    than one, or where it cannot be seen. The file need not be right."""
    pids = started_with(config)
    found = {path for pid in pids for path in sockets_of(pid)}
    usual = os.path.join(os.path.dirname(os.path.abspath(config)), Control().socket)
    if not found and pids and answers(usual) in pids:  # what another user's process holds is not seen
        return usual
    return found.pop() if len(found) == 1 else None


def called(pid: int) -> str:
    """A process as people are told of it."""
    words = words_of(pid)
    name = "karoo" if is_karoo(pid) else os.path.basename(words[0]) if words else ""
    return f"process {pid}" + (f" ({name})" if name else "")


def descriptor_limit(pid: int) -> tuple[int, int] | None:
    """The soft and the hard limit of open files of a process; None where they cannot be seen."""
    try:
        for line in Path(f"/proc/{pid}/limits").read_text("ascii").splitlines():
            if line.startswith("Max open files"):
                soft, hard = line.split()[3:5]
                return _limit(soft), _limit(hard)
    except OSError:
        pass  # it is gone
    return None


def _limit(text: str) -> int:
    return int(text) if text.isdecimal() else 1 << 62


class Running:
    """The proxy that runs with this configuration, if any: the one that keeps its accounts, answers on its control
    socket, or was started with its file. ``pid`` is None for none, and 0 for one that cannot be seen; ``accounts`` and
    ``control`` are the processes that have these, whoever they are."""

    def __init__(self, path: str, accounts: str, control: str) -> None:
        self.path = os.path.realpath(path)
        self.accounts = locked_by(f"{accounts}.lock") if accounts else None
        self.control = answers(control) if control else None
        holders = (pid for pid in (self.accounts, self.control) if pid is not None)
        self.pid = next((pid for pid in holders if not self._other(pid)), None)
        if self.pid is None:
            self.pid = min(started_with(path), default=None)

    def is_it(self, pid: int) -> bool:
        """Whether a process is that proxy."""
        return pid == self.pid or (is_karoo(pid) and _runs(pid) and config_of(pid) == self.path)

    def _other(self, pid: int) -> bool:
        """Whether it was started with another file for sure."""
        return is_karoo(pid) and config_of(pid) not in (None, self.path)


def _runs(pid: int) -> bool:
    words = words_of(pid)
    after = next((n + 1 for n, word in enumerate(words[:6]) if os.path.basename(word) == "karoo"), len(words))
    return words[after:after + 1] in (["run"], ["-c"], ["--config"]) or any(
        word.startswith("--config=") for word in words[after:after + 1])
