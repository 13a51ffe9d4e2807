"""The pool goes away, comes back the same or another: nothing is lost, nobody waits in silence."""

import gevent
import pytest

from karoo.proxy import names
from karoo.sim.miner import MinerOptions, SimulatedMiner
from tests.site import EASY, POOL_DIFFICULTY


def restart(pool, forget):
    pool.stop()
    if forget:
        pool.forget()
    pool.start()


def test_after_a_restart_with_another_extranonce_those_that_take_it_go_on_and_the_others_come_back(site):
    pool = site.pool()
    proxy = site.proxy(pool)
    taker, other = site.miner(proxy, extranonce=True), site.miner(proxy)
    former = taker.extranonce1
    restart(pool, forget=True)
    message = taker.wait_notification("mining.set_extranonce")
    taker.wait(lambda: len(taker.jobs) == 2)
    assert taker.extranonce1 != former and message.params == [taker.extranonce1.hex(), 4]
    methods = [one.method for one in taker.received]
    assert methods[methods.index("mining.set_extranonce"):] == ["mining.set_extranonce", "mining.notify"]
    assert taker.job_params[8] is True
    other.wait_closed()
    again = site.miner(proxy)
    for miner in (taker, again):
        assert miner.submit(miner.find_share()) is True
    assert not pool.books.refused and not taker.closed


def test_many_miners_over_a_restart_with_another_extranonce(site):
    """Free-running miners that really hash: after the restart no share is refused."""
    pool = site.pool(difficulty=1e-6)
    proxy = site.proxy(pool)
    miners = [SimulatedMiner(MinerOptions("127.0.0.1", proxy.listener.port, f"w.rig{n}", hashrate=20_000,
                                          version_rolling=n % 2 == 0, backoff_min=0.05, nonces_per_work=10_000))
              for n in range(8)]
    running = [gevent.spawn(miner.run) for miner in miners]
    try:
        pool.wait(lambda: pool.books.accepted >= 20)
        restart(pool, forget=True)
        before = pool.books.accepted
        pool.wait(lambda: pool.books.accepted >= before + 5)
        refused = sum((miner.stats.refused for miner in miners), start=type(miners[0].stats.refused)())
        pool.wait(lambda: pool.books.accepted >= before + 60)
        assert sum((miner.stats.refused for miner in miners), start=type(refused)()) == refused
        assert not pool.books.refused
        assert {miner.stats.connects for miner in miners} == {1}, "they all take mining.set_extranonce"
    finally:
        for miner in miners:
            miner.stop()
        gevent.joinall(running, timeout=5)


def test_after_a_restart_with_the_same_session_nobody_reconnects_and_held_shares_count(site):
    pool = site.pool()
    proxy = site.proxy(pool)
    miners = [site.miner(proxy, user=f"user.rig{n}") for n in range(3)]
    pool.stop()
    site.wait(lambda: not proxy.routes.routes[0].is_up)
    meanwhile = [miner.submit_async(miner.find_share()) for miner in miners]
    site.wait(lambda: proxy.routes.routes[0].snapshot(0)["held_shares"] == 3)
    pool.start()
    for miner, request_id in zip(miners, meanwhile, strict=True):
        assert miner.verdict(request_id) is True
        assert not miner.closed
        assert miner.submit(miner.find_share()) is True
    assert pool.books.accepted == 6
    assert {record.user for record in pool.shares} == {"wallet.rig0", "wallet.rig1", "wallet.rig2"}


def test_held_shares_are_stale_when_the_pool_comes_back_as_another(site):
    pool = site.pool()
    proxy = site.proxy(pool)
    miner = site.miner(proxy, extranonce=True)
    pool.stop()
    site.wait(lambda: not proxy.routes.routes[0].is_up)
    held = miner.submit_async(miner.find_share())
    site.wait(lambda: proxy.routes.routes[0].snapshot(0)["held_shares"] == 1)
    pool.forget()
    pool.start()
    assert miner.verdict(held)[0] == 21
    miner.wait(lambda: len(miner.jobs) == 2)
    assert miner.submit(miner.find_share()) is True


def test_held_shares_are_bounded(site):
    pool = site.pool()
    proxy = site.proxy(pool, upstream={"held_shares": 1})
    miner = site.miner(proxy)
    pool.stop()
    site.wait(lambda: not proxy.routes.routes[0].is_up)
    kept = miner.submit_async(miner.find_share())
    assert miner.submit(miner.find_share())[0] == 20
    pool.start()
    assert miner.verdict(kept) is True


def test_shares_in_flight_get_an_error_and_may_be_sent_again(site):
    pool = site.pool()
    proxy = site.proxy(pool)
    miner = site.miner(proxy)
    pool.hold_answers = True
    share = miner.find_share()
    first = miner.submit_async(share)
    pool.wait(lambda: pool.books.methods["mining.submit"] == 1)
    restart(pool, forget=False)
    assert miner.verdict(first)[0] == 20
    pool.hold_answers = False
    site.wait(lambda: proxy.routes.routes[0].is_up)
    assert miner.submit(share)[0] == 22, "this pool had taken it: its verdict, not ours"
    assert pool.books.refused[22] == 1


def test_shares_below_the_pools_difficulty_are_answered_while_it_is_away(site):
    pool = site.pool()
    proxy = site.proxy(pool, vardiff={"start_diff": EASY, "min_diff": 1e-9})
    miner = site.miner(proxy)
    pool.stop()
    site.wait(lambda: not proxy.routes.routes[0].is_up)
    assert miner.submit(miner.find_share(at_most=POOL_DIFFICULTY)) is True


def test_past_hold_ms_everybody_is_disconnected_with_an_answer(site):
    pool = site.pool()
    proxy = site.proxy(pool, upstream={"hold_ms": 300})
    miner = site.miner(proxy)
    pool.stop()
    site.wait(lambda: not proxy.routes.routes[0].is_up)
    held = miner.submit_async(miner.find_share())
    miner.wait_closed()
    assert miner.verdict(held)[0] == 20
    newcomer = site.connect(proxy)
    answer = newcomer.request("mining.subscribe", [])
    assert answer.error[0] == 20 and "pool" in answer.error[1]
    newcomer.wait_closed()


def test_newcomers_wait_for_the_pool(site):
    pool = site.pool()
    pool.stop()
    proxy = site.proxy(pool)
    miner = site.connect(proxy)
    asked = [miner.request_async("mining.configure", [["version-rolling"], {"version-rolling.mask": "1fffe000"}]),
             miner.request_async("mining.subscribe", [])]
    site.wait_logged("next try in")
    assert not miner.lines
    pool.start()
    assert miner.answer(asked[0]).result["version-rolling.mask"] == "1fffe000"
    assert miner.answer(asked[1]).result[2] == 4


def test_a_new_extranonce_of_the_pool_and_shares_of_the_job_in_hand(site):
    pool = site.pool()
    proxy = site.proxy(pool, vardiff={"start_diff": EASY, "min_diff": 1e-9})
    taker, other = site.miner(proxy, extranonce=True), site.miner(proxy)
    under_former = taker.find_share(at_most=POOL_DIFFICULTY)
    job = taker.job
    pool.set_extranonce(clean=False)
    taker.wait_notification("mining.set_extranonce")
    taker.wait(lambda: len(taker.jobs) == 2)
    other.wait_closed()
    assert taker.job_params[8] is True
    assert taker.submit(under_former) is True
    applied_at_once = taker.find_share(at_most=POOL_DIFFICULTY, job=job)  # the new one to the job in hand
    assert taker.submit(applied_at_once) is True
    assert taker.submit(taker.find_share(POOL_DIFFICULTY)) is True
    assert pool.books.accepted == 1 and not pool.books.refused


def test_a_pool_that_asks_to_reconnect_is_followed_on_its_own_host_only(site):
    pool, elsewhere = site.pool(), site.pool()
    proxy = site.proxy(pool)
    miner = site.miner(proxy, extranonce=True)
    pool.reconnect("pool.example.net", elsewhere.port)
    site.wait_logged("another site")
    assert pool.connections
    pool.reconnect("127.0.0.1", elsewhere.port)
    elsewhere.wait(lambda: elsewhere.connections)
    miner.wait(lambda: len(miner.jobs) == 2)
    assert miner.submit(miner.find_share()) is True
    assert elsewhere.books.accepted == 1


def test_the_backup_pool_takes_over_with_its_own_user(site):
    first, second = site.pool(), site.pool()
    proxy = site.proxy(first, second, backup={"user": "other"})
    miner = site.miner(proxy, extranonce=True)
    first.stop()
    miner.wait(lambda: len(miner.jobs) == 2)
    assert miner.submit(miner.find_share()) is True
    assert second.shares[-1].user == "other.rig"


def test_a_silent_pool_is_left(site):
    pool = site.pool()
    proxy = site.proxy(pool, upstream={"silence_ms": 1000})
    site.miner(proxy)
    pool.pause()
    site.wait_logged("the pool was silent")


@pytest.mark.parametrize(("options", "reason"), [
    ({"allowed": lambda user: False}, "mining.authorize refused"),
    ({"extranonce2_size": 17}, "extranonce2_size must be"),
    ({"extranonce1_bytes": 17}, "extranonce1 is longer"),
])
def test_a_pool_that_cannot_be_used_is_named_with_the_reason(site, options, reason):
    pool = site.pool(**options)
    proxy = site.proxy(pool)
    site.connect(proxy).request_async("mining.subscribe", [])
    site.wait_logged(reason)
    assert not proxy.routes.routes[0].is_up


@pytest.mark.parametrize("second", ["ignore", "refuse"])
def test_a_pool_that_takes_one_user_only_gets_all_shares_under_it(site, second, monkeypatch):
    monkeypatch.setattr(names, "NAME_DEADLINE", 0.2)
    pool = site.pool(second_authorize=second)
    proxy = site.proxy(pool)
    miners = [site.miner(proxy, user=f"a.rig{n}") for n in range(3)]
    for miner in miners:
        assert miner.submit(miner.find_share(), timeout=10) is True
    assert {record.user for record in pool.shares} == {"wallet"}
    assert len(site.logged("credited to wallet")) == 1


@pytest.mark.parametrize(("names", "user", "expected"), [
    ("suffix", "wallet", ["wallet.rig7", "wallet.lone"]), ("suffix", "acct.{worker}.x", ["acct.rig7.x", "acct.lone.x"]),
    ("single", "wallet", ["wallet", "wallet"]), ("passthrough", "wallet", ["anything.rig7", "lone"]),
])
def test_worker_names_at_the_pool(site, names, user, expected):
    pool = site.pool()
    proxy = site.proxy(pool, upstream={"worker_names": names, "user": user})
    for name in ("anything.rig7", "lone"):
        miner = site.miner(proxy, user=name)
        assert miner.submit(miner.find_share()) is True
    assert [record.user for record in pool.shares] == expected
    # each name once, the connection's own first
    assert pool.books.methods["mining.authorize"] == (1 if names == "single" else 3)


def test_local_authorize_false_means_passthrough_with_the_miners_own_password(site):
    pool = site.pool()
    proxy = site.proxy(pool, compat={"local_authorize": False})
    miner = site.connect(proxy)
    miner.subscribe()
    miner.user = "own.name"
    miner.authorize("own.name", "secret")
    miner.wait_job()
    assert miner.submit(miner.find_share()) is True
    assert pool.shares[-1].user == "own.name"
    assert any(b'"own.name","secret"' in line.replace(b" ", b"") for line in pool.lines)
    assert not site.logged("secret")


@pytest.mark.parametrize("forget", [False, True])
def test_a_share_that_waits_for_its_workers_name_is_kept_when_the_pool_dies(site, forget):
    pool = site.pool(second_authorize="ignore")
    proxy = site.proxy(pool)
    miner = site.miner(proxy, extranonce=True)
    waiting = miner.submit_async(miner.find_share())
    pool.wait(lambda: pool.books.methods["mining.authorize"] == 2)
    pool.options.second_authorize = "accept"
    restart(pool, forget)
    verdict = miner.verdict(waiting)
    assert (verdict[0] == 21) if forget else verdict is True
    assert not site.logged("the worker name")


def test_a_pool_that_knows_one_name_is_remembered_over_a_reconnect(site, monkeypatch):
    monkeypatch.setattr(names, "NAME_DEADLINE", 0.1)
    pool = site.pool(second_authorize="ignore")
    proxy = site.proxy(pool)
    miners = [site.miner(proxy, user=f"a.rig{n}") for n in range(3)]
    for miner in miners:
        assert miner.submit(miner.find_share()) is True
    monkeypatch.setattr(names, "NAME_DEADLINE", 60.0)

    def come_back():
        connects = pool.books.connects
        restart(pool, forget=False)
        site.wait(lambda: pool.books.connects > connects and proxy.routes.routes[0].is_up)

    come_back()
    for miner in miners:
        assert miner.submit(miner.find_share()) is True
    pool.options.second_authorize = "accept"
    come_back()
    assert miners[0].submit(miners[0].find_share()) is True
    pool.wait(lambda: "wallet.rig0" in pool.connections[-1].users)
    assert miners[0].submit(miners[0].find_share()) is True
    assert pool.shares[-1].user == "wallet.rig0", "it takes more than one by now"


@pytest.mark.parametrize("difficulty", [POOL_DIFFICULTY / 5, POOL_DIFFICULTY * 5])
def test_a_resumed_pool_that_says_its_job_again_under_another_difficulty(site, difficulty):
    pool = site.pool(strict_difficulty=True)
    miner = site.miner(site.proxy(pool))
    pool.stop()
    pool.difficulty = difficulty
    pool.start()
    miner.wait(lambda: miner.difficulty == difficulty)
    assert miner.count("mining.notify") == 1
    assert miner.submit(miner.find_share(difficulty, at_most=5 * difficulty)) is True
    assert not pool.books.refused


def test_a_pool_that_sends_us_on_and_on_is_not_followed_without_a_pause(site):
    pool, backup = site.pool(), site.pool()
    proxy = site.proxy(pool, backup, upstream={"backoff_min_ms": 60_000, "backoff_max_ms": 60_000})
    site.miner(proxy, extranonce=True)
    pool.reconnect("127.0.0.1", pool.port)
    pool.wait(lambda: pool.books.connects == 2 and pool.connections and pool.connections[-1].gets_jobs)
    site.wait(lambda: proxy.routes.routes[0].is_up)
    pool.reconnect("127.0.0.1", pool.port)
    backup.wait(lambda: backup.connections and backup.connections[-1].gets_jobs)
    assert pool.books.connects == 2


def test_a_session_is_still_resumed_after_a_long_outage(site):
    pool = site.pool()
    proxy = site.proxy(pool)
    miner = site.miner(proxy)
    pool.stop()
    site.wait(lambda: len(site.logged("Connection refused")) >= 5)
    pool.start()
    site.wait(lambda: proxy.routes.routes[0].is_up)
    assert site.logged("former session resumed")
    assert miner.submit(miner.find_share()) is True


def test_miners_that_come_and_go_do_not_make_the_proxy_dial_and_dial(site):
    pool = site.pool(extranonce2_size=2)
    proxy = site.proxy(pool, upstream={"max_connections": 1, "hold_ms": 200})
    for _ in range(10):
        miner = site.connect(proxy)
        answer = miner.request("mining.subscribe", [])
        if answer.error is None and miner.authorize("a.rig") is True:
            miner.wait_job()
        miner.close()
        site.wait(lambda: not proxy.sessions)
    assert pool.books.connects <= 3


def test_a_route_that_serves_somebody_is_dialled_again_whatever_happened_meanwhile(site):
    pool = site.pool()
    proxy = site.proxy(pool)
    miner = site.miner(proxy)
    route = proxy.routes.routes[0]
    route.wanted.clear()  # as an idle connection's sweep does while somebody sits down
    pool.kick_all()
    site.wait(lambda: route.is_up and route.wanted.is_set() and len(pool.connections) == 1)
    assert miner.submit(miner.find_share()) is True


@pytest.mark.parametrize("form", ["array", "object", "string", "reason", "null"])
def test_a_refused_session_in_every_form(site, form):
    pool = site.pool(unknown_session="refuse", error_form=form)
    miner = site.miner(site.proxy(pool), extranonce=True)
    restart(pool, forget=True)
    miner.wait(lambda: len(miner.jobs) == 2)
    assert miner.submit(miner.find_share()) is True


def test_a_widened_mask_reaches_the_pool_for_the_job_in_hand(site):
    pool = site.pool(version_mask=0x1FFFE000)
    proxy = site.proxy(pool)
    miner = site.miner(proxy, mask=0x1FFFE000)
    pool.set_version_mask(0x0000E000)
    pool.new_job()
    miner.wait(lambda: len(miner.jobs) == 2)
    pool.set_version_mask(0x1FFFE000)
    miner.wait(lambda: miner.mask == 0x1FFFE000)
    assert miner.submit(miner.find_share(version_bits=0x10000000)) is True
    assert pool.shares[-1].params[5] == "10000000"


def test_a_name_that_is_authorized_late_is_used_from_then_on(site, monkeypatch):
    monkeypatch.setattr(names, "NAME_DEADLINE", 0.2)
    pool = site.pool()
    proxy = site.proxy(pool)
    miner = site.miner(proxy)
    pool.options.reply_delay = 2.0
    first = miner.submit_async(miner.find_share())
    site.wait_logged("does not answer")
    pool.options.reply_delay = 0.0
    assert miner.verdict(first, timeout=10) is True
    assert pool.shares[-1].user == "wallet"
    assert miner.submit(miner.find_share(), timeout=10) is True
    assert pool.shares[-1].user == "wallet.rig"


def test_further_names_are_authorized_with_the_pools_password(site):
    pool = site.pool()
    miner = site.miner(site.proxy(pool, upstream={"pass": "d=4096"}))
    assert miner.submit(miner.find_share()) is True
    assert any(b"wallet.rig" in line and b"d=4096" in line for line in pool.lines)


def test_an_outage_is_over_for_all_connections_when_it_is_over_for_one(site):
    pool = site.pool(extranonce2_size=2)
    proxy = site.proxy(pool, upstream={"backoff_min_ms": 300, "backoff_max_ms": 60_000})
    miners = [site.miner(proxy, extranonce=True) for _ in range(6)]
    pool.stop()
    site.wait(lambda: len(site.logged("next try in")) >= 12, timeout=20)
    pool.start()
    site.wait(lambda: all(route.is_up for route in proxy.routes.routes), timeout=10)
    for miner in miners:
        assert miner.submit(miner.find_share()) is True


def test_a_pool_that_refuses_a_former_session_is_asked_without(site):
    pool = site.pool(unknown_session="refuse")
    miner = site.miner(site.proxy(pool), extranonce=True)
    restart(pool, forget=True)
    miner.wait(lambda: len(miner.jobs) == 2)
    assert miner.submit(miner.find_share()) is True
    assert site.logged("Unknown session")


def test_another_pool_with_the_same_extranonce1_is_another_pool(site):
    first, second = site.pool(), site.pool()
    for pool in (first, second):
        pool._new_extranonce1 = lambda: b"\x00\x00\x00\x2a"
    proxy = site.proxy(first, second)
    miner = site.miner(proxy, extranonce=True)
    share = miner.find_share()
    first.stop()
    site.wait(lambda: not proxy.routes.routes[0].is_up)
    held = miner.submit_async(share)
    assert miner.verdict(held)[0] == 21
    miner.wait(lambda: len(miner.jobs) == 2)
    assert not second.books.refused


def test_a_late_joiner_waits_for_the_job_that_goes_with_a_new_extranonce(site):
    pool = site.pool()
    proxy = site.proxy(pool)
    site.miner(proxy, extranonce=True)
    pool.send_to_all(b'{"id":null,"method":"mining.set_extranonce","params":["0badcafe",8]}\n')
    site.wait_logged("changes extranonce1")
    late = site.connect(proxy)
    late.subscribe()
    late.authorize("user.late")
    assert late.request("mining.ping", []).result == "pong"
    assert late.extranonce1.hex().startswith("0badcafe") and not late.jobs
    pool.new_job()
    late.wait_job()


def test_a_share_found_before_the_mask_narrowed_is_the_pools_to_judge(site):
    pool = site.pool()
    miner = site.miner(site.proxy(pool), mask=0x1FFFE000)
    share = miner.find_share(version_bits=0x1FF00000)
    pool.set_version_mask(0x0000E000)
    miner.wait_notification("mining.set_version_mask")
    pool.set_version_mask(0x1FFFE000)  # this pool judges by the newest
    assert miner.submit(share) is True


def test_a_miner_that_leaves_while_it_waits_for_the_pool_is_gone(site):
    pool = site.pool()
    pool.stop()
    proxy = site.proxy(pool)
    for _ in range(20):
        miner = site.connect(proxy)
        miner.send_bytes(b'{"id":1,"method":"mining.subscribe","params":[]}\n' * 5)
    site.wait(lambda: len(proxy.sessions) == 20)
    for miner in site.miners:
        miner.close()
    site.wait(lambda: not proxy.sessions, timeout=10)
    assert sum(proxy.metrics.turned_away.values()) <= 20


def test_an_idle_proxy_is_not_said_to_miss_its_pool(site):
    pool = site.pool()
    proxy = site.proxy(pool, upstream={"idle_grace_ms": 0, "hold_ms": 100})
    site.miner(proxy).close()
    pool.wait(lambda: not pool.connections)
    site.wait(lambda: proxy.routes.routes[0].upstream is None)
    assert proxy.routes.routes[0].lost_at is None
