"""A soak: the real proxy for minutes or days under honest load, churn, faults and abuse; then quiet, and a verdict."""

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()

import argparse
import logging
import random
import sys
import tempfile
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event

from karoo.sim import soakverdict
from karoo.sim.abuse import ATTACKS
from karoo.sim.labreport import failed, table
from karoo.sim.miner import MinerOptions, SimulatedMiner
from karoo.sim.pool import SimulatedPool
from karoo.sim.proxyprocess import LOOK_EVERY, Measure
from karoo.sim.soakbooks import Count
from karoo.sim.soakfaults import Faults
from karoo.sim.stage import Stage

HASHRATE = 40.0  # hashes a second of each miner
DIFFICULTY = HASHRATE / 2.0 ** 32  # so that it finds a share a second
POOL_FACTOR = 4.0  # the pools' difficulty in that: every fourth share goes to a pool
PLAIN = 12  # miners behind one address that have the usual limits, and reconnect whenever a pool changes extranonces
VISITORS = 8  # miners at a time that come, mine for some seconds, and leave
VISITOR_NAMES = 24
SMALL = 0.05  # the size of an attack
WARMUP_PART, WARMUP_MOST = 0.25, 60.0  # of the whole time, and in seconds
QUIET_SECONDS = 60.0  # the longest that the end of all disturbance may take to show
FAREWELLS = 4.0  # seconds in which what ends after its last words is gone
PROGRESS_SECONDS = 10.0
BOOKED = ("accepted", "rejected", "forwarded")  # what tells that the page of the workers is up to date

SECTIONS: dict[str, dict[str, Any]] = {
    "proxy": {"first_byte_ms": 3000, "subscribe_ms": 6000, "authorize_ms": 8000},
    "upstream": {"failback_after_seconds": 2, "silence_ms": 10000, "hold_ms": 15000, "max_reject_ratio": 1},
    # Honest miners are kept out of the limits by address, so that the attackers can be held to the usual ones.
    "ratelimit": {"enabled": True, "allow": ["127.0.0.1"], "ban_duration_seconds": 30},
}


class Soak:
    """One soak on a stage that is up. `rng` decides what happens when; how it falls is up to the machine."""

    def __init__(self, stage: Stage, rng: random.Random) -> None:
        self.stage, self._rng = stage, rng
        self.faults = Faults(stage.pools, DIFFICULTY, rng)
        self.happened: Counter[str] = Counter()
        self.visitors: dict[str, Count] = {}
        self.visits = 0
        self._free = [f"v{number}" for number in range(VISITOR_NAMES)]
        self._over = Event()
        self._began = monotonic()

    # ------------------------------------------------------------------ load

    def load(self, seconds: float) -> None:
        """Churn, faults and abuse for so long; when this returns all of it has ended, and the pools are well."""
        self._over.clear()
        work = [gevent.spawn(self._visit_for_ever) for _ in range(VISITORS)]
        work += [gevent.spawn(self._fail_for_ever), gevent.spawn(self._attack_for_ever)]
        progress = gevent.spawn(self._tell_for_ever)
        try:
            self._over.wait(seconds)
            self._over.set()
            for one in work:
                one.get()
            self.faults.mend(POOL_FACTOR)
        finally:
            gevent.killall([*work, progress])

    def _visit_for_ever(self) -> None:
        while not self._over.is_set():
            name = self._free.pop(self._rng.randrange(len(self._free)))
            miner = SimulatedMiner(MinerOptions("127.0.0.1", self.stage.proxy.port, f"visit.{name}", hashrate=HASHRATE,
                                                version_rolling=self._rng.random() < 0.5))
            run = gevent.spawn(miner.run)
            self._over.wait(self._rng.uniform(0.5, 8.0))
            miner.stop()
            run.join(2.0)
            run.kill()
            self.visitors.setdefault(name, Count()).add(miner.stats)
            self.visits += 1
            self._free.append(name)

    def _fail_for_ever(self) -> None:
        while not self._over.wait(self._rng.uniform(0.2, 2.0)):
            self.happened[self.faults.one()] += 1

    def _attack_for_ever(self) -> None:
        names = list(ATTACKS)
        while not self._over.wait(self._rng.uniform(0.2, 2.0)):
            name = self._rng.choice(names)
            self.stage.attack(name, SMALL, seconds=4.0)
            self.happened[name] += 1

    def _tell_for_ever(self) -> None:
        while True:
            gevent.sleep(PROGRESS_SECONDS)
            self.tell()

    def tell(self) -> None:
        """A line on how it goes."""
        losses, measure = self.stage.farm.losses, self.stage.measure()
        print(f"{monotonic() - self._began:6.0f} s: {measure.status['sessions']} sessions, honest shares "
              f"{self.stage.farm.accepted} accepted, {losses.refused} refused, {losses.unanswered} unanswered; "
              f"{self.visits} visits, {self.happened.total()} faults and attacks; {measure.resident / 1e6:.1f} MB, "
              f"{measure.greenlets} greenlets, {measure.descriptors} descriptors", flush=True)

    # ------------------------------------------------------------------ quiet

    def quiet(self, before: Measure | None = None) -> Measure:
        """Wait until only the honest miners are there, on the first pool, each with a further share, and no answer is
        owed; and a little for greenlets that there were not `before`. Raises TimeoutError."""
        until = monotonic() + QUIET_SECONDS
        first = f"127.0.0.1:{self.stage.pools[0].port}"
        while monotonic() < until:
            status = self.stage.proxy.status()
            routes = [route for route in status["routes"] if route["sessions"]]
            if (status["sessions"] == len(self.stage.farm.miners)
                    and all(route["address"] == first and not route["held_shares"] for route in routes)):
                self.stage.farm.await_shares(QUIET_SECONDS)
                return self._settled(0 if before is None else before.greenlets)
            gevent.sleep(LOOK_EVERY)
        raise TimeoutError(f"no quiet within {QUIET_SECONDS:g} s: {status['sessions']} sessions, routes {routes}")

    def _settled(self, greenlets: int) -> Measure:
        """The least of a few looks: what comes and goes with each share is no leak. While there are more than so many
        greenlets they are given time to end: a pool connection that was replaced stays for two seconds, a farewell
        takes one."""
        looks: list[Measure] = []
        until = monotonic() + FAREWELLS
        while len(looks) < 20 or (looks[-1].greenlets > greenlets > 0 and monotonic() < until):
            gevent.sleep(LOOK_EVERY)
            looks.append(self.stage.measure())
        return min(looks, key=lambda look: (look.greenlets, look.descriptors, look.tables.get("owed_answers", 0)))

    def close_books(self) -> dict[str, Any]:
        """End the honest miners, and wait until the proxy's page shows all that they did: that page."""
        self.stage.farm.stop()
        until = monotonic() + QUIET_SECONDS
        while monotonic() < until:
            status = self.stage.proxy.status()
            whole = [sum(worker[what] for worker in status["workers"]) for what in BOOKED]
            if not status["sessions"] and whole == [status["accounts"][what] for what in BOOKED]:
                return status
            gevent.sleep(LOOK_EVERY)
        raise TimeoutError(f"the books do not close within {QUIET_SECONDS:g} s: {status['sessions']} sessions, {whole} "
                           f"against {status['accounts']}")


def soak(folder: Path, minutes: float, seed: int, miners: int) -> int:
    """A whole soak; the exit status."""
    rng = random.Random(seed)
    pools = [SimulatedPool(difficulty=DIFFICULTY, job_every=2.0, branches=4, seed=seed + number) for number in range(2)]
    with Stage(folder, pools, miners=miners, hashrate=HASHRATE, difficulty=DIFFICULTY, version_rolling=True,
               plain=min(PLAIN, miners),
               **SECTIONS) as stage:
        run = Soak(stage, rng)
        run.faults.mend(POOL_FACTOR)
        seconds = minutes * 60
        warmup = min(WARMUP_PART * seconds, WARMUP_MOST)
        run.load(warmup)
        before = run.quiet()
        print(f"warmed up: {before}", flush=True)
        run.load(seconds - warmup)
        after = run.quiet(before)
        print(f"quiet again: {after}", flush=True)
        status = run.close_books()
        code = stage.proxy.stop()
        rows, faults = soakverdict.verdict(run, before, after, status, code)
    print(table(rows))
    print(f"\nwhat happened: {', '.join(f'{count} x {name}' for name, count in run.happened.most_common())}")
    for fault in faults:
        print(fault)
    bad = failed(rows)
    print(f"\n{f'NOT WELL: {len(bad)}' if bad else 'well'}")
    return 1 if bad else 0


def parser() -> argparse.ArgumentParser:
    """The options of the script."""
    options = argparse.ArgumentParser(prog="soak", description="Run the proxy under honest miners, churn, failing "
                                      "pools and abuse, all on this machine. Ends with 1 if anything leaked or a share "
                                      "is not accounted for.")
    options.add_argument("--minutes", type=float, default=5.0, metavar="M", help="how long (default: %(default)g)")
    options.add_argument("--seed", type=int, default=1, metavar="S",
                         help="of all that is random (default: %(default)s)")
    options.add_argument("--miners", type=int, default=60, metavar="N", help="honest ones (default: %(default)s)")
    options.add_argument("--folder", type=Path, help="where the proxy's configuration, log and ledger stay afterwards "
                         "(default: a folder that is removed)")
    return options


def main(arguments: list[str] | None = None) -> int:
    """The script; returns its exit status."""
    options = parser().parse_args(arguments)
    if options.minutes <= 0 or not 1 <= options.miners <= 2000:
        parser().error("--minutes must be positive, --miners from 1 to 2000")
    logging.basicConfig(level=logging.ERROR)
    logging.getLogger("karoo.sim").setLevel(logging.CRITICAL)  # refusals and lost pools are what this is about
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    place = tempfile.TemporaryDirectory(prefix="karoo-soak-") if options.folder is None else nullcontext(options.folder)
    with place as folder:
        return soak(Path(folder), options.minutes, options.seed, options.miners)


if __name__ == "__main__":
    sys.exit(main())
