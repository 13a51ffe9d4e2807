"""The search space: many miners, no two on the same work; what the pool gets is what it pays for."""

import math

import gevent
import pytest

from karoo.sim.scripted import ScriptedMiner
from tests.site import EASY


def start_many(site, proxy, count):
    """So many miners, each with a job; in groups, so that the kernel's queues hold them."""
    def one(number):
        miner = ScriptedMiner()
        miner.start("127.0.0.1", proxy.listener.port, user=f"user.rig{number}")
        site.miners.append(miner)
        return miner
    miners = []
    for first in range(0, count, 100):
        group = [gevent.spawn(one, number) for number in range(first, min(first + 100, count))]
        gevent.joinall(group, timeout=30, raise_error=True)
        miners += [greenlet.value for greenlet in group]
    return miners


def test_a_thousand_miners_on_one_upstream(site):
    pool = site.pool(difficulty=1e-9)
    proxy = site.proxy(pool)
    miners = start_many(site, proxy, 1000)
    assert len({miner.extranonce1 for miner in miners}) == 1000
    assert len(pool.connections) == 1
    for _ in range(2):
        asked = [(miner, miner.submit_async(miner.find_share())) for miner in miners]
        assert all(miner.verdict(request_id, timeout=30) is True for miner, request_id in asked)
    assert pool.books.accepted == 2000
    assert not pool.books.refused and not pool.books.duplicates
    pool.new_job()
    for miner in miners:
        miner.wait(lambda miner=miner: len(miner.jobs) == 2)


def test_further_connections_open_when_the_prefixes_run_out(site):
    pool = site.pool(extranonce2_size=3, difficulty=1e-9)
    proxy = site.proxy(pool)
    miners = start_many(site, proxy, 300)
    assert len(pool.connections) == 2
    assert len({miner.extranonce1 for miner in miners}) == 300
    assert {miner.extranonce2_size for miner in miners} == {2}
    asked = [(miner, miner.submit_async(miner.find_share())) for miner in miners]
    assert all(miner.verdict(request_id, timeout=30) is True for miner, request_id in asked)
    assert not pool.books.refused and not pool.books.duplicates


def test_without_room_for_a_prefix_each_session_has_a_connection_of_its_own_up_to_the_limit(site):
    pool = site.pool(extranonce2_size=2)
    proxy = site.proxy(pool, upstream={"max_connections": 2, "hold_ms": 500})
    first, second = site.miner(proxy), site.miner(proxy)
    assert len(pool.connections) == 2
    third = site.connect(proxy)
    answer = third.request("mining.subscribe", [])
    assert answer.error[0] == 20 and "extranonce" in answer.error[1]
    third.wait_closed()
    assert any("No extranonce" in reason for reason in proxy.metrics.turned_away)
    for miner in (first, second):
        assert miner.submit(miner.find_share()) is True


def test_a_freed_prefix_waits_for_its_jobs_to_be_gone_or_for_another_extranonce1(site):
    pool = site.pool(extranonce2_size=2)
    proxy = site.proxy(pool, upstream={"max_connections": 1})
    miner = site.miner(proxy)
    miner.close()
    site.wait_logged("disconnected")
    again = site.miner(proxy)
    assert again.extranonce1 != miner.extranonce1, "the connection was made anew for it"
    assert again.submit(again.find_share()) is True
    again.close()
    site.wait(lambda: len(site.logged("disconnected")) == 2)
    pool.new_job(clean=True)
    site.wait(lambda: len(site.logged("new clean job")) == 3)
    third = site.miner(proxy)
    assert third.extranonce1 == again.extranonce1, "no job is left on which the former holder could have worked"
    assert third.submit(third.find_share()) is True


def test_two_connections_with_one_extranonce_are_not_used(site):
    """A pool that gives everybody the same: the second connection is given up, not the work done twice."""
    pool = site.pool(extranonce2_size=2)
    pool._new_extranonce1 = lambda: b"\x01\x02\x03\x04"
    proxy = site.proxy(pool, upstream={"hold_ms": 400})
    site.miner(proxy)
    assert site.connect(proxy).request("mining.subscribe", []).error[0] == 20
    assert site.logged("the same extranonce1")


def test_the_work_accepted_here_is_the_work_that_the_pool_pays(site):
    """Miners a hundred times below the pool's difficulty beside miners at it.

    The pool gets exactly the shares that reach its difficulty. Of n shares each reaches it with p = 1/ratio, so
    the pool's count is within 4 standard deviations of n * p, and the work on both sides agrees within that.
    """
    ratio = 100
    pool = site.pool(difficulty=ratio * EASY)
    proxy = site.proxy(pool, vardiff={"min_diff": EASY})
    small = [site.miner(proxy, user=f"w.small{n}") for n in range(4)]
    large = [site.miner(proxy, user=f"w.large{n}") for n in range(2)]
    for miner in small:
        assert miner.suggest_difficulty(EASY) is True
        miner.wait(lambda miner=miner: miner.difficulty == EASY)
    for number in (2, 3):  # from the second job on nobody can work at the former difficulty any more
        pool.new_job()
        for miner in small:
            miner.wait(lambda miner=miner, number=number: len(miner.jobs) == number)
    reached = 0
    for miner in small:
        shares = [miner.find_share() for _ in range(500)]
        reached += sum(share.difficulty >= pool.difficulty for share in shares)
        asked = [miner.submit_async(share) for share in shares]
        assert all(miner.verdict(request_id, timeout=20) is True for request_id in asked)
    assert pool.books.accepted == reached and not pool.books.refused
    n, p = 2000, 1 / ratio
    assert abs(reached - n * p) <= 4 * math.sqrt(n * p * (1 - p))
    total = site.booked(proxy)
    assert total.checked_work == pytest.approx(n * EASY)
    assert total.pool_work == pytest.approx(reached * pool.difficulty)
    assert abs(total.checked_work - total.pool_work) <= 4 * math.sqrt(n * p * (1 - p)) * pool.difficulty
    for miner in large:
        assert miner.difficulty == pool.difficulty
        assert miner.submit(miner.find_share()) is True
    assert all(record.found >= pool.difficulty for record in pool.shares)
