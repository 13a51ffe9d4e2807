"""Several pools: away from one that fails, and back without losing a share."""

import gevent
import pytest

from karoo.policy.failover import Backoff, PoolOrder, Refusals, same_site
from karoo.sim.miner import MinerOptions, SimulatedMiner
from tests.site import EASY

SOON = {"failback_after_seconds": 0.3}


def on(proxy, pool, number=0):
    """Whether a route of the proxy is connected to this pool."""
    upstream = proxy.routes.routes[number].upstream
    return upstream is not None and upstream.port == pool.port and proxy.routes.routes[number].is_up


def stop_then_on_backup(site, proxy, primary, backup):
    primary.stop()
    site.wait(lambda: on(proxy, backup), what="the backup")


# ---------------------------------------------------------------- pure

class _Steps:
    def uniform(self, low, high):
        return high


def test_a_sick_pool_is_left_alone_for_the_longest_wait():
    order = PoolOrder([Backoff(1.0, 30.0, _Steps()), Backoff(1.0, 30.0, _Steps())])
    assert order.failed(0, 100.0) == 1.0 and order.failed(0, 101.0) == 2.0
    assert order.failed(1, 101.0, sick=True) == 30.0
    order.succeeded(1)
    assert order.failed(1, 200.0) == 1.0


def test_a_pool_that_is_sick_again_and_again_is_left_alone_for_longer_and_longer():
    backoff = Backoff(1.0, 30.0, _Steps())
    found = []
    for _ in range(10):
        found.append(backoff.failed(sick=True, served=20.0))
        backoff.succeeded()  # the handshakes of a sick pool go well
    assert found == [(30.0, 30.0), (30.0, 60.0), (30.0, 120.0), (30.0, 240.0), (30.0, 480.0), (30.0, 960.0),
                     (30.0, 1920.0), (30.0, 3600.0), (30.0, 3600.0), (30.0, 3600.0)]
    assert backoff.failed(served=3601.0) == (1.0, 0.0), "it was of use for so long"
    assert backoff.failed(sick=True, served=10.0) == (30.0, 30.0)


def test_a_sick_pool_that_is_the_only_one_is_tried_again_when_it_is_said():
    order = PoolOrder([Backoff(1.0, 30.0, _Steps())])
    assert [order.failed(0, 0.0, sick=True) for _ in range(5)] == [30.0] * 5
    assert order.next(29.0) == (0, 1.0) and order.next(30.0) == (0, 0.0)


def test_a_sick_pool_is_better_than_none():
    order = PoolOrder([Backoff(1.0, 30.0, _Steps()), Backoff(1.0, 30.0, _Steps())])
    for _ in range(5):
        order.failed(0, 0.0, sick=True)
    assert order.next(100.0) == (1, 0.0) and order.better(1, 100.0) is None
    order.failed(1, 100.0)
    assert order.next(100.5) == (0, 0.0), "the other one is away"
    assert order.next(101.0) == (1, 0.0) and order.better(1, 481.0) == 0


def test_only_better_pools_whose_wait_is_over_are_looked_at():
    order = PoolOrder([Backoff(10.0, 30.0, _Steps()) for _ in range(3)])
    assert order.better(0, 0.0) is None and order.better(2, 0.0) == 0
    order.failed(0, 0.0)
    assert (order.better(1, 9.0), order.better(2, 9.0), order.better(2, 10.0)) == (None, 1, 0)


def test_a_pool_that_somebody_else_found_down_is_not_looked_at_yet():
    order = PoolOrder([Backoff(10.0, 30.0, _Steps()) for _ in range(2)])
    order.postpone(0, 45.0)
    order.postpone(0, 30.0)
    assert (order.better(1, 44.0), order.better(1, 45.0)) == (None, 0)


@pytest.mark.parametrize(("ours", "theirs", "allowed"), [
    ("pool.example", "pool.example", True), ("pool.example", "eu.pool.example", True),
    ("eu.pool.example", "us.pool.example", True), ("eu.pool.example", "pool.example", True),
    ("EU.pool.example.", "us.POOL.example", True), ("pool.example", "evil.example", False),
    ("eu.pool.example", "eu.pool.example.evil.org", False), ("pool.example", "evilpool.example", False),
    ("10.0.0.1", "10.0.0.1", True), ("10.0.0.1", "11.0.0.1", False), ("::1", "::2", False), ("pool", "evil", False),
    ("pool.co.uk", "evil.co.uk", False), ("pool.co.uk", "eu.pool.co.uk", True), ("pool.com.br", "evil.com.br", False),
    ("eu.pool.co.uk", "us.pool.co.uk", True), ("eu.f2pool.io", "us.f2pool.io", True)])
def test_who_asks_to_reconnect_may_lead_to_the_same_site_only(ours, theirs, allowed):
    assert same_site(ours, theirs) is allowed


def test_the_ratio_of_refused_shares_is_over_the_last_minutes():
    refusals = Refusals()
    for number in range(19):
        refusals.count(False, float(number))
        assert refusals.ratio is None, "too few to tell"
    refusals.count(True, 19.0)
    assert refusals.ratio == 19 / 20
    for number in range(80):
        refusals.count(True, 310.0 + number)
    assert refusals.ratio == 19 / 100
    for number in range(30):
        refusals.count(True, 700.0 + number)
    assert refusals.ratio == 0.0, "what is older is forgotten"
    refusals.count(False, 5000.0)
    assert refusals.ratio is None


# ---------------------------------------------------------------- and back

def test_miners_go_back_to_the_primary_without_reconnecting(site):
    primary, backup = site.pool(), site.pool(difficulty=2e-6)
    proxy = site.proxy(primary, backup, upstream=SOON, backup={"user": "other"})
    miner = site.miner(proxy, user="a.rig", extranonce=True)
    assert miner.submit(miner.find_share()) is True
    stop_then_on_backup(site, proxy, primary, backup)
    miner.wait(lambda: miner.difficulty == backup.difficulty)
    assert miner.submit(miner.find_share()) is True
    assert backup.shares[-1].user == "other.rig"
    before = len(miner.jobs)
    primary.start()
    site.wait(lambda: on(proxy, primary), 10)
    miner.wait(lambda: len(miner.jobs) > before)
    assert miner.submit(miner.find_share(primary.difficulty)) is True
    assert primary.shares[-1].user == "wallet.rig" and not miner.closed
    assert primary.books.accepted == 2 and not primary.books.refused and not backup.books.refused
    site.wait(lambda: not backup.connections)
    assert site.logged("is well again") and site.logged("another pool took over")


def test_shares_in_flight_are_settled_by_the_pool_that_is_left(site):
    primary, backup = site.pool(), site.pool()
    proxy = site.proxy(primary, backup, upstream=SOON)
    miner = site.miner(proxy, extranonce=True)
    stop_then_on_backup(site, proxy, primary, backup)
    miner.wait(lambda: len(miner.jobs) == 2)
    backup.hold_answers = True
    late, later = miner.find_share(), miner.find_share()
    asked = miner.submit_async(late)
    backup.wait(lambda: backup.books.accepted == 1)
    primary.start()
    site.wait(lambda: on(proxy, primary), 10)
    on_its_way = miner.submit_async(later)  # found for a job of the backup, before the miner heard of the move
    backup.wait(lambda: backup.books.accepted == 2)
    backup.release_answers()
    assert miner.verdict(asked) is True and miner.verdict(on_its_way) is True
    site.wait(lambda: not backup.connections)
    assert site.booked(proxy).pool_accepted == 2
    assert miner.submit(miner.find_share()) is True
    assert miner.submit(later)[0] == 21, "the job went with its pool"


def test_a_crowd_loses_no_share_and_no_connection_over_failover_and_back(site):
    """Whatever a pool refuses or does not answer would be in the miners' books."""
    primary, backup = (site.pool(job_every=0.5, difficulty=2e-6) for _ in range(2))
    proxy = site.proxy(primary, backup, upstream=SOON, vardiff={"start_diff": EASY, "min_diff": EASY, "max_diff": EASY})
    miners = [SimulatedMiner(MinerOptions("127.0.0.1", proxy.listener.port, f"w.rig{n}", hashrate=2000))
              for n in range(10)]
    running = [gevent.spawn(miner.run) for miner in miners]
    try:
        primary.wait(lambda: primary.books.accepted >= 5, 30)
        primary.kick_all()
        primary.stop()
        backup.wait(lambda: backup.books.accepted >= 5, 30)
        refused = [sum(miner.stats.refused.values()) for miner in miners]
        primary.start()
        site.wait(lambda: on(proxy, primary), 10)
        former = primary.books.accepted
        primary.wait(lambda: primary.books.accepted >= former + 5, 30)
    finally:
        for miner in miners:
            miner.stop()
        gevent.joinall(running, timeout=5)
    assert [miner.stats.connects for miner in miners] == [1] * 10
    assert [sum(miner.stats.refused.values()) for miner in miners] == refused, "none was refused on the way back"
    assert not backup.books.refused and not primary.books.refused


def test_a_primary_that_flaps_is_not_gone_back_to(site):
    primary, backup = site.pool(), site.pool()
    proxy = site.proxy(primary, backup, upstream={"failback_after_seconds": 30, "backoff_max_ms": 50})
    miner = site.miner(proxy, extranonce=True)
    stop_then_on_backup(site, proxy, primary, backup)
    for _ in range(3):
        primary.start()
        primary.wait(lambda: primary.connections, 10)
        primary.stop()
        site.wait(lambda: site.logged("is not well yet"))
    assert on(proxy, backup) and not miner.closed
    assert miner.submit(miner.find_share()) is True


# ---------------------------------------------------------------- what counts as down

def test_a_pool_that_sends_no_new_job_is_left(site):
    primary, backup = site.pool(), site.pool(job_every=0.2)
    proxy = site.proxy(primary, backup, upstream={"stale_job_ms": 1000, "failback_after_seconds": 0.2})
    site.miner(proxy, extranonce=True)
    site.wait(lambda: on(proxy, backup), 10)
    assert site.logged("sent no new job for 1 s")


def test_a_pool_that_was_stuck_is_gone_back_to_when_it_has_new_work_and_not_before(site):
    primary, backup = site.pool(), site.pool(job_every=0.3)
    proxy = site.proxy(primary, backup, upstream={"stale_job_ms": 1000, "failback_after_seconds": 0.1})
    miner = site.miner(proxy, extranonce=True)
    site.wait(lambda: on(proxy, backup), 10)
    before = primary.books.connects
    site.wait_logged("and until it sends new work", 10)
    seen = len(miner.jobs)
    miner.wait(lambda: len(miner.jobs) > seen + 5)
    assert on(proxy, backup) and primary.books.connects == before + 1
    primary.new_job()
    site.wait(lambda: on(proxy, primary), 10)
    assert not miner.closed


@pytest.mark.parametrize("alone", [False, True])
def test_a_pool_that_refuses_too_many_shares_is_left_for_another_one(site, alone):
    primary, backup = site.pool(strict_difficulty=True), site.pool()
    proxy = site.proxy(primary, *([] if alone else [backup]))
    miner = site.miner(proxy, extranonce=True)
    primary.set_difficulty(1.0, then_job=False)  # it refuses all that comes for the job in hand
    primary.wait(lambda: True)
    for _ in range(25):
        miner.submit_async(miner.find_share(at_most=2 * 1e-5))
    if alone:
        site.wait_logged("there is no backup pool to go to")
        assert on(proxy, primary)
    else:
        site.wait(lambda: on(proxy, backup), 10)
        assert site.logged("the pool refuses 100% of the shares; next try in")
