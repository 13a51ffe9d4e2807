"""The main job, end to end: miners to the pool and back."""

import json
import logging

import pytest

from karoo.accounting.account import NOBODY
from karoo.sim.scripted import ScriptedMiner
from tests.site import EASY, POOL_DIFFICULTY

CHECKED = {"start_diff": EASY, "min_diff": 1e-9}


def test_a_share_reaches_the_pool_and_its_verdict_the_miner(site):
    pool = site.pool()
    miner = site.miner(site.proxy(pool))
    assert miner.difficulty == POOL_DIFFICULTY
    assert miner.submit(miner.find_share()) is True
    assert pool.books.accepted == 1
    assert pool.shares[-1].user == "wallet.rig"


def test_what_a_miner_is_sent_and_in_which_order(site):
    miner = site.miner(site.proxy(site.pool()))
    methods = [message.method for message in miner.received]
    assert methods == ["mining.set_difficulty", "mining.notify"]
    assert miner.job_params[8] is True
    replies = [line for line in miner.lines if b'"method"' not in line]
    assert all(b'"id"' in line and b'"result"' in line and b'"error"' in line for line in replies)
    assert all(b'"id":null' in line for line in miner.lines if b'"method"' in line)


def test_the_miner_keeps_four_bytes_of_extranonce2(site):
    pool = site.pool(extranonce2_size=8)
    first, second = [site.miner(proxy) for proxy in [site.proxy(pool)] for _ in range(2)]
    assert first.extranonce2_size == second.extranonce2_size == 4
    assert first.extranonce1[:4] == second.extranonce1[:4] == pool.connections[0].extranonce1
    assert first.extranonce1 != second.extranonce1


@pytest.mark.parametrize(("size", "own"), [(2, 2), (3, 2), (4, 2), (5, 4), (6, 4), (8, 4)])
def test_miners_own_2_or_4_bytes_and_never_3(site, size, own):
    pool = site.pool(extranonce2_size=size)
    miner = site.miner(site.proxy(pool))
    assert miner.extranonce2_size == own
    assert miner.submit(miner.find_share()) is True


def test_shares_below_the_pools_difficulty_are_answered_here(site):
    pool = site.pool()
    proxy = site.proxy(pool, vardiff=CHECKED)
    miner = site.miner(proxy)
    assert miner.difficulty == EASY
    for _ in range(5):
        assert miner.submit(miner.find_share(at_most=POOL_DIFFICULTY)) is True
    assert pool.books.accepted == 0
    assert miner.submit(miner.find_share(POOL_DIFFICULTY)) is True
    assert pool.books.accepted == 1
    total = site.booked(proxy)
    assert (total.accepted, total.answered_here, total.forwarded, total.pool_accepted) == (6, 5, 1, 1)
    assert total.checked_work == total.accepted_work == pytest.approx(6 * EASY)
    assert total.pool_work == pytest.approx(POOL_DIFFICULTY)


def test_every_kind_of_bad_share_gets_its_code(site):
    pool = site.pool()
    proxy = site.proxy(pool)
    newcomer = site.connect(proxy)
    assert newcomer.request("mining.submit", ["u", "1", "00000000", "00000000", "00000000"]).error[0] == 25
    newcomer.subscribe()
    assert newcomer.request("mining.submit", ["u", "1", "00000000", "00000000", "00000000"]).error[0] == 24
    miner = site.miner(proxy)
    share = miner.find_share()
    good = share.params(miner.user)

    def code(index, value):
        answer = miner.request("mining.submit", [*good[:index], value, *good[index + 1:]])
        assert answer.result is None
        return answer.error[0]

    assert code(0, "somebody.else") == 24
    assert code(1, "no such job") == 21
    assert code(2, "00") == code(2, "zz") == code(3, "") == code(4, "123456789") == 20
    assert code(3, "00000001") == code(3, "ffffffff") == 20
    assert miner.request("mining.submit", [*good, "00000001"]).error[0] == 20
    assert code(4, f"{int(good[4], 16) ^ 1:08x}") == 23
    assert miner.submit(share) is True
    assert miner.submit(share)[0] == 22
    pool.new_job(clean=True)
    miner.wait(lambda: len(miner.jobs) == 2)
    assert miner.submit(share)[0] == 21
    assert pool.books.accepted == 1 and not pool.books.refused
    reasons = site.booked(proxy).refused
    assert reasons == {"not subscribed": 1, "unauthorized": 2, "stale": 2, "malformed": 4, "other": 3,
                       "low difficulty": 1, "duplicate": 1}


def test_an_unpadded_nonce_is_padded_before_it_is_judged_and_forwarded(site):
    pool = site.pool()
    miner = site.miner(site.proxy(pool))
    share = miner.find_share()
    while not share.params("u")[4].startswith("0"):
        share = miner.find_share()
    params = share.params(miner.user)
    assert miner.request("mining.submit", [*params[:4], params[4].lstrip("0")]).result is True
    assert pool.shares[-1].params[4] == params[4]


def test_the_verdict_of_the_pool_comes_with_its_words(site):
    pool = site.pool(strict_difficulty=True)
    proxy = site.proxy(pool)
    miner = site.miner(proxy)
    share = miner.find_share(at_most=2 * POOL_DIFFICULTY)
    pool.set_difficulty(10 * POOL_DIFFICULTY, then_job=False)  # counts at once at this pool
    pool.wait(lambda: True)
    verdict = miner.submit(share)
    assert verdict[0] == 23 and verdict[1] == pool.shares[-1].message
    assert site.booked(proxy).refused == {"pool: 23 Low difficulty share (# of #)": 1}


@pytest.mark.parametrize("form", ["array", "object", "string", "reason", "null"])
def test_every_form_of_a_refusal_is_a_refusal(site, form):
    pool = site.pool(strict_difficulty=True, error_form=form)
    miner = site.miner(site.proxy(pool))
    share = miner.find_share(at_most=2 * POOL_DIFFICULTY)
    pool.set_difficulty(10 * POOL_DIFFICULTY, then_job=False)
    answer = miner.request("mining.submit", share.params(miner.user))
    assert answer.result is None and answer.error


def test_a_share_sent_in_one_packet_with_the_handshake_counts(site):
    """Requests pipelined in one packet, one cut in half, CRLF line ends."""
    pool = site.pool(difficulty=2e-10)  # every hash is a share
    proxy = site.proxy(pool)
    scout = site.miner(proxy)
    miner = site.connect(proxy)
    ntime, job = scout.job_params[7], scout.job_params[0]
    text = ('{"id":1,"method":"mining.subscribe","params":[]}\r\n'
            '{"id":2,"method":"mining.authorize","params":["a.b","x"]}\r\n'
            f'{{"id":"three","method":"mining.submit","params":["a.b","{job}","00000000","{ntime}","00000000"]}}\r\n'
            f'{{"id":18446744073709551616,"method":"mining.submit","params":["a.b","{job}","00000001","{ntime}","1"]}}\r\n')
    miner.send_bytes(text[:200].encode())
    miner.wait(lambda: miner.lines)
    miner.send_bytes(text[200:].encode())
    miner.wait(lambda: any(b"18446744073709551616" in line for line in miner.lines))
    answers = [line for line in miner.lines if b'"method"' not in line]
    assert answers[2:] == [b'{"id":"three","result":true,"error":null}',
                           b'{"id":18446744073709551616,"result":true,"error":null}']


def test_a_request_without_an_id_is_never_answered(site):
    pool = site.pool()
    miner = site.miner(site.proxy(pool))
    before = len(miner.lines)
    share = miner.find_share()
    miner.notify("mining.submit", share.params(miner.user))
    miner.notify("mining.suggest_target", ["00" * 32])
    miner.notify("mining.no_such_thing", [])
    pool.wait(lambda: pool.books.accepted == 1)
    assert miner.request("mining.ping", []).result == "pong"
    assert len(miner.lines) == before + 1


@pytest.mark.parametrize("strict", [True, False])
def test_unknown_methods_are_answered_or_passed_on(site, strict):
    pool = site.pool()
    miner = site.miner(site.proxy(pool, compat={"strict_broadcast": strict}))
    for method in ("mining.get_transactions", "mining.multi_version", "mining.frobnicate"):
        answer = miner.request(method, ["1"])
        assert answer.result is None and answer.error
        passed_on = not strict and method != "mining.get_transactions"  # whose answer would be megabytes
        assert bool(pool.books.methods[method]) is passed_on
    assert miner.request("eth_submitWork", []).error[0] == 20
    pool.send_to_all(b'{"id":null,"method":"mining.news","params":["hello"]}\n')
    pool.new_job()
    miner.wait(lambda: len(miner.jobs) == 2)
    assert miner.count("mining.news") == (0 if strict else 1)


def test_configure_answers_each_extension(site):
    pool = site.pool(version_mask=0x1FFFE000)
    miner = site.connect(site.proxy(pool))
    answer = miner.request("mining.configure", [
        ["version-rolling", "minimum-difficulty", "subscribe-extranonce", "info", "x-unknown"],
        {"version-rolling.mask": "00c00000", "version-rolling.min-bit-count": 2, "minimum-difficulty.value": 0.5}])
    assert answer.result == {"version-rolling": True, "version-rolling.mask": "00c00000", "minimum-difficulty": True,
                             "subscribe-extranonce": True, "info": False, "x-unknown": False}


@pytest.mark.parametrize("configure", ["accept", "error", "ignore"])
def test_version_rolling_is_what_pool_and_miner_both_can(site, configure):
    pool = site.pool(version_mask=0x00FFE000, configure=configure)
    miner = site.connect(site.proxy(pool, upstream={"handshake_ms": 300}))
    answer = miner.request("mining.configure", [["version-rolling"], {"version-rolling.mask": "1fffe000"}])
    granted = {"version-rolling": True, "version-rolling.mask": "00ffe000"}
    assert answer.result == (granted if configure == "accept" else {"version-rolling": False})


@pytest.mark.parametrize("mask", [0x1FFFE000, 0x00C00000])
def test_rolled_bits_reach_the_pool(site, mask):
    pool = site.pool(version=0x20400000)  # a bit inside the mask
    miner = site.miner(site.proxy(pool), mask=mask)
    for _ in range(3):
        assert miner.submit(miner.find_share(version_bits=0x00800000)) is True
    assert miner.submit(miner.find_share(version_bits=0x00800000, xor=True)) is True
    assert pool.books.accepted == 4


def test_a_pool_that_reads_version_bits_as_xor_is_understood(site):
    pool = site.pool(version=0x20400000, version_form="xor")
    proxy = site.proxy(pool)
    miner = site.miner(proxy, mask=0x1FFFE000)
    for _ in range(3):
        assert miner.submit(miner.find_share(version_bits=0x00802000)) is True
    assert pool.books.accepted == 3
    assert pool.books.refused.total() == 1, "the first one, sent again the other way"
    assert site.booked(proxy).refused_total == 0


def test_authorize_before_subscribe(site):
    miner = site.connect(site.proxy(site.pool()))
    assert miner.authorize("user.rig") is True
    assert not miner.received
    miner.subscribe()
    miner.wait_job()
    assert miner.submit(miner.find_share()) is True


def test_one_connection_may_have_several_workers(site):
    pool = site.pool()
    miner = site.miner(site.proxy(pool), user="a.one")
    assert miner.authorize("a.two") is True
    assert miner.submit(miner.find_share(), user="a.one") is True
    assert miner.submit(miner.find_share(), user="a.two") is True
    assert [record.user for record in pool.shares] == ["wallet.one", "wallet.two"]


def test_a_new_mask_of_the_pool_is_passed_on(site):
    pool = site.pool()
    proxy = site.proxy(pool)
    roller, plain = site.miner(proxy, mask=0x00FFE000), site.miner(proxy)
    pool.set_version_mask(0x0000E000)
    assert roller.wait_notification("mining.set_version_mask").params == ["0000e000"]
    pool.new_job()
    plain.wait(lambda: len(plain.jobs) == 2)
    assert plain.count("mining.set_version_mask") == 0
    assert roller.submit(roller.find_share(version_bits=0x2000)) is True


def test_a_late_joiner_has_the_current_job_at_once_as_a_clean_one(site):
    pool = site.pool()
    proxy = site.proxy(pool)
    site.miner(proxy)
    pool.new_job(clean=False)
    late = site.miner(proxy)
    assert late.job_params[8] is True
    assert late.submit(late.find_share()) is True


def test_a_raised_difficulty_counts_with_the_next_job_and_a_dropped_one_at_once(site):
    pool = site.pool()
    miner = site.miner(site.proxy(pool))
    easy = miner.find_share(at_most=2 * POOL_DIFFICULTY)
    job = miner.job
    pool.set_difficulty(2 * POOL_DIFFICULTY, then_job=True)
    miner.wait(lambda: len(miner.jobs) == 2)
    assert miner.difficulty == 2 * POOL_DIFFICULTY
    assert miner.submit(easy) is True, "a share for a job is judged by what was in force when the job was sent"
    pool.set_difficulty(POOL_DIFFICULTY / 4, then_job=False)
    miner.wait(lambda: miner.difficulty == POOL_DIFFICULTY / 4)
    assert miner.count("mining.notify") == 2
    assert miner.submit(miner.find_share(POOL_DIFFICULTY / 4, at_most=POOL_DIFFICULTY, job=job)) is True
    assert pool.books.accepted == 1


def test_a_suggested_difficulty_is_taken_below_the_pools_and_a_repeated_one_changes_nothing(site):
    pool = site.pool()
    miner = site.miner(site.proxy(pool, vardiff={"min_diff": 1e-8}))
    assert miner.suggest_difficulty(EASY) is True
    miner.wait(lambda: miner.difficulty == EASY)
    told = miner.count("mining.set_difficulty")
    for _ in range(3):
        miner.suggest_difficulty(EASY)
    miner.suggest_difficulty(1000)
    miner.wait(lambda: miner.difficulty == POOL_DIFFICULTY)
    assert miner.count("mining.set_difficulty") == told + 1
    assert miner.submit(miner.find_share(at_most=2 * POOL_DIFFICULTY)) is True


def test_a_job_said_twice_is_sent_once(site):
    pool = site.pool()
    miner = site.miner(site.proxy(pool))
    line = json.dumps({"id": None, "method": "mining.notify", "params": miner.job_params}).encode() + b"\n"
    pool.send_to_all(line)
    assert miner.request("mining.ping", []).result == "pong"
    pool.new_job()
    miner.wait(lambda: len(miner.jobs) == 2)
    assert miner.count("mining.notify") == 2


def test_a_session_that_comes_back_gets_its_extranonce_again(site):
    pool = site.pool()
    proxy = site.proxy(pool)
    site.miner(proxy)  # keeps the pool connection
    miner = site.miner(proxy)
    share, extranonce1, session_id = miner.find_share(), miner.extranonce1, miner.session_id
    miner.close()
    site.wait_logged("disconnected")
    other = site.miner(proxy)
    assert other.extranonce1 != extranonce1
    again = ScriptedMiner()
    again.connect("127.0.0.1", proxy.listener.port)
    site.miners.append(again)
    again.subscribe(session_id=session_id)
    again.authorize("user.rig")
    assert again.extranonce1 == extranonce1
    again.wait_job()
    assert again.submit(share) is True


def test_it_gets_its_extranonce_again_also_behind_a_configure(site):
    proxy = site.proxy(site.pool())
    site.miner(proxy)  # keeps the pool connection
    miner = site.miner(proxy, mask=0x1FFFE000)
    miner.close()
    site.wait_logged("disconnected")
    again = site.connect(proxy)
    assert again.configure(0x1FFFE000)
    again.subscribe(session_id=miner.session_id)
    assert again.extranonce1 == miner.extranonce1


def test_passwords_are_in_no_log(site):
    logging.getLogger("karoo").setLevel(logging.DEBUG)
    pool = site.pool()
    proxy = site.proxy(pool, upstream={"pass": "poolsecret", "worker_names": "passthrough"})
    miner = site.connect(proxy)
    miner.subscribe()
    miner.user = "a.rig"
    assert miner.authorize("a.rig", "min]er\"secret") is True
    miner.send('{"method": "mining.authorize", "params": ["b", {"c": "otherminersecret"}]}')
    miner.wait_job()
    assert miner.submit(miner.find_share()) is True
    assert site.logged("mining.authorize")
    assert not [record for record in site.records if "secret" in record.getMessage()
                and not record.name.startswith("karoo.sim")]


def test_the_pool_is_dialled_for_the_first_miner_and_left_after_the_last(site):
    pool = site.pool()
    proxy = site.proxy(pool, upstream={"idle_grace_ms": 0})
    assert not pool.connections
    miner = site.miner(proxy)
    assert len(pool.connections) == 1
    miner.close()
    pool.wait(lambda: not pool.connections)
    assert site.miner(proxy).submit
    assert len(pool.connections) == 1


def test_a_quiet_miner_gets_its_difficulty_again_and_no_job(site):
    miner = site.miner(site.proxy(site.pool(), proxy={"quiet_ms": 1000}))
    miner.wait(lambda: miner.count("mining.set_difficulty") == 2)
    assert miner.count("mining.notify") == 1


def test_a_silent_newcomer_is_disconnected_and_a_miner_at_work_is_not(site):
    proxy = site.proxy(site.pool(), proxy={"client_idle_ms": 500})
    miner, newcomer = site.miner(proxy), site.connect(proxy)
    newcomer.wait_closed()
    assert not miner.closed


def test_a_full_proxy_says_so(site):
    proxy = site.proxy(site.pool(), proxy={"max_clients": 1})
    site.miner(proxy)
    late = site.connect(proxy)
    late.wait_closed()
    assert b"full" in late.lines[0]
    assert proxy.metrics.turned_away["max_clients"] == 1


def test_without_checking_the_pools_difficulty_is_passed_on_and_every_share_forwarded(site):
    pool = site.pool()
    miner = site.miner(site.proxy(pool, shares={"algorithm": "none"}, vardiff={"enabled": False}))
    assert miner.submit(miner.find_share()) is True
    assert miner.submit(miner.find_share(EASY, at_most=POOL_DIFFICULTY))[0] == 23
    assert pool.books.refused[23] == 1


def test_scrypt(site):
    pool = site.pool(algorithm="scrypt", difficulty=0.001)
    proxy = site.proxy(pool, shares={"algorithm": "scrypt"})
    miner = ScriptedMiner(algorithm="scrypt")
    miner.start("127.0.0.1", proxy.listener.port)
    site.miners.append(miner)
    assert miner.submit(miner.find_share()) is True
    assert pool.books.accepted == 1


def test_a_block_candidate_is_forwarded_whatever_the_pools_difficulty_and_logged_loudly(site):
    pool = site.pool(nbits=0x2000FFFF, difficulty=1e-5)  # every 256th hash is a block
    proxy = site.proxy(pool, vardiff=CHECKED)
    miner = site.miner(proxy)
    assert miner.submit(miner.find_share(6.1e-8, at_most=EASY)) is True
    assert pool.books.blocks == 1 and proxy.metrics.blocks == 1
    assert site.logged("BLOCK CANDIDATE")


def test_names_that_never_sent_a_good_share_are_forgotten(site):
    proxy = site.proxy(site.pool())
    miner = site.miner(proxy, user="a.good")
    assert miner.submit(miner.find_share()) is True
    other = site.miner(proxy, user="a.bad")
    assert other.request("mining.submit", ["a.bad", "no such job", "00000000", "00000000", "00000000"]).error[0] == 21
    for one in (miner, other):
        one.close()
    site.wait(lambda: not proxy.sessions)
    assert list(proxy.accounts.workers) == ["good", NOBODY]
    assert site.booked(proxy, NOBODY).refused == {"stale": 1}
    assert site.booked(proxy).refused == {"stale": 1}


def test_the_current_job_said_again_as_a_clean_one_makes_the_former_ones_stale(site):
    pool = site.pool()
    miner = site.miner(site.proxy(pool))
    former = miner.find_share()
    pool.new_job(clean=False)
    miner.wait(lambda: len(miner.jobs) == 2)
    params = [*miner.job_params[:8], True]
    pool.send_to_all(json.dumps({"id": None, "method": "mining.notify", "params": params}).encode() + b"\n")
    site.wait(lambda: len(site.proxies[0].routes.routes[0].jobs) == 1)
    assert miner.submit(former)[0] == 21
    assert miner.submit(miner.find_share()) is True


def test_a_miner_that_does_nothing_but_wrong_does_not_fill_the_log(site):
    miner = site.miner(site.proxy(site.pool()))
    for number in range(220):
        miner.request_async("mining.submit", [miner.user, "none", "00000000", "00000000", "00000000"], number + 1000)
    assert miner.request("mining.ping", []).result == "pong"
    assert len(site.logged("share rejected (stale)")) == 52
