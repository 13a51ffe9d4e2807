"""What a simulated pool writes down: who was paid for what, and what was refused and why."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

KEEP_SHARES = 20_000


@dataclass(slots=True)
class Account:
    """One user's shares, or everybody's. `work` is the pool's difficulty of each accepted share, summed up."""

    accepted: int = 0
    work: float = 0.0
    refused: Counter[int] = field(default_factory=Counter)

    @property
    def refusals(self) -> int:
        return self.refused.total()

    def __str__(self) -> str:
        refused = ", ".join(f"{count} with {code}" for code, count in sorted(self.refused.items())) or "none"
        return f"{self.accepted} accepted (difficulty {self.work:.6g}), {refused} refused"


@dataclass(slots=True, frozen=True)
class ShareRecord:
    """One submit and its verdict.

    ``connection`` is the serial number of the pool's connection, ``extranonce1`` that of the job.
    ``code`` is 0 for an accepted share, else the error's; ``found`` the difficulty of its hash
    (0.0 where it was refused before it was hashed, or as a duplicate), ``needed`` the one it was
    judged by. ``params`` is what came on the wire.
    """

    user: str
    job_id: str
    connection: int
    extranonce1: bytes
    code: int
    message: str
    found: float
    needed: float
    block: bool
    params: object

    @property
    def accepted(self) -> bool:
        return self.code == 0


class Books:
    """Totals, accounts by user name, and counts of every method that was called."""

    def __init__(self) -> None:
        self.total = Account()
        self.users: dict[str, Account] = {}
        self.methods: Counter[str] = Counter()
        self.shares: deque[ShareRecord] = deque(maxlen=KEEP_SHARES)
        self.blocks = 0
        self.connects = 0
        self.bad_lines = 0

    @property
    def accepted(self) -> int:
        return self.total.accepted

    @property
    def work(self) -> float:
        """Accepted difficulty."""
        return self.total.work

    @property
    def refused(self) -> Counter[int]:
        """Refused shares by error code; 0 for a code that never occurred."""
        return self.total.refused

    @property
    def duplicates(self) -> int:
        return self.total.refused[22]

    def user(self, name: str) -> Account:
        """The account of a user; an empty one for a user that never submitted."""
        return self.users.get(name) or Account()

    def record(self, share: ShareRecord) -> None:
        self.shares.append(share)
        self.blocks += share.block
        for account in (self.total, self.users.setdefault(share.user, Account())):
            if share.accepted:
                account.accepted += 1
                account.work += share.needed
            else:
                account.refused[share.code] += 1

    def __str__(self) -> str:
        lines = [f"total: {self.total}; {self.connects} connects, {self.blocks} blocks"]
        lines += [f"{name}: {account}" for name, account in sorted(self.users.items())]
        lines.append("methods: " + (", ".join(f"{n} x {name}" for name, n in sorted(self.methods.items())) or "none"))
        return "\n".join(lines)
