"""The simulated pool and the simulated miners against each other, over real sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from karoo.sim import grind, miner, via
from karoo.sim.miner import MinerOptions, SimulatedMiner
from karoo.sim.options import PoolOptions
from karoo.sim.pool import SimulatedPool
from karoo.sim.scripted import ScriptedMiner
from karoo.stratum import difficulty as dif
from karoo.stratum import share
from karoo.stratum.errors import Malformed
from karoo.stratum.methods import Notify, subscribe_result

EASY = 1e-7  # some 430 hashes a share
MASK = 0x1FFFE000

NewPool = Callable[..., SimulatedPool]
NewMiner = Callable[..., ScriptedMiner]


@pytest.fixture
def new_pool() -> Iterator[NewPool]:
    pools = []

    def make(**options: Any) -> SimulatedPool:
        pool = SimulatedPool(**{"difficulty": EASY, **options})
        pools.append(pool)
        pool.start()
        return pool

    yield make
    for pool in pools:
        pool.stop()


@pytest.fixture
def new_miner() -> Iterator[NewMiner]:
    miners = []

    def make(pool: SimulatedPool | None = None, **login: Any) -> ScriptedMiner:
        scripted = ScriptedMiner()
        miners.append(scripted)
        if pool is not None:
            scripted.start(pool.options.host, pool.port, **login)
        return scripted

    yield make
    for scripted in miners:
        scripted.close()


# ---------------------------------------------------------------- grinding

def test_grinding_finds_what_the_judge_accepts() -> None:
    start = bytes(range(76))
    target = dif.target_of(EASY)
    algorithm = share.ALGORITHMS["sha256d"]
    found = dict(grind.hits(start, target, 0, 3000, algorithm))
    values = {nonce: int.from_bytes(share.sha256d(start + nonce.to_bytes(4, "little")), "little")
              for nonce in range(3000)}
    assert found == {nonce: value for nonce, value in values.items() if value <= target}
    assert found


def test_grinding_ends_with_the_nonces() -> None:
    everything = dif.MAX_TARGET
    hits = grind.hits(bytes(76), everything, grind.NONCES - 2, 10, share.ALGORITHMS["sha256d"])
    assert [nonce for nonce, _ in hits] == [grind.NONCES - 2, grind.NONCES - 1]


@pytest.mark.parametrize(("counter", "mask", "bits"), [
    (0b101, 0x1FFFE000, 0b101 << 13), (0b11, 0b10100000, 0b10100000), (0b111, 0b10100000, 0b10100000), (5, 0, 0)])
def test_a_counter_is_laid_into_the_mask(counter: int, mask: int, bits: int) -> None:
    assert grind.bits_in_mask(counter, mask) == bits


# ---------------------------------------------------------------- jobs

def test_the_dialogue_up_to_the_first_job(new_pool: NewPool, new_miner: NewMiner) -> None:
    rig = new_miner(new_pool())
    assert [getattr(m, "method", "answer") for m in rig.messages] == [
        "answer", "answer", "mining.set_difficulty", "mining.notify"]
    assert (len(rig.extranonce1), rig.extranonce2_size, rig.difficulty) == (4, 8, EASY)
    job = rig.job
    assert job is not None and job.notify.clean
    assert len(job.notify.coinb1 + job.notify.coinb2) + 4 + 8 < 255
    assert len(job.notify.branches) == 12


def test_a_clean_job_has_another_previous_block(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool()
    rig = new_miner(pool)
    pool.new_job(clean=False)
    rig.wait_job()
    pool.new_job(clean=True)
    rig.wait_job()
    first, same, other = (Notify.parse(m.params) for m in rig.received if m.method == "mining.notify")
    assert first.prevhash == same.prevhash != other.prevhash
    assert (same.clean, other.clean) == (False, True)
    assert first.branches != same.branches


def test_jobs_come_by_themselves(new_pool: NewPool, new_miner: NewMiner) -> None:
    rig = new_miner(new_pool(job_every=0.02, clean_every=3))
    rig.wait(lambda: rig.count("mining.notify") >= 7)
    assert sum(m.params[8] for m in rig.received if m.method == "mining.notify") >= 3


# ---------------------------------------------------------------- verdicts

def test_an_accepted_share_is_in_the_books(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool()
    rig = new_miner(pool, user="alice.one")
    found = rig.find_share()
    assert rig.submit(found, message_id="a text") is True
    assert (pool.books.accepted, pool.books.work) == (1, EASY)
    assert pool.books.user("alice.one").accepted == 1
    record = pool.shares[-1]
    assert record.accepted and not record.block
    assert (record.user, record.connection, record.extranonce1) == ("alice.one", 1, rig.extranonce1)
    assert record.found == pytest.approx(found.difficulty)
    assert pool.books.methods["mining.submit"] == 1
    assert b"mining.submit" in pool.lines[-1]


def test_the_refusals(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool()
    rig = new_miner(pool, user="bob")
    good = rig.find_share()
    user, job_id, extranonce2, ntime, nonce = good.params("bob")

    def code(*params: str) -> int:
        return int(rig.request("mining.submit", list(params)).error[0])

    assert code(user, "no such job", extranonce2, ntime, nonce) == 21
    assert code(user, job_id, extranonce2[2:], ntime, nonce) == 20
    assert code(user, job_id, extranonce2, f"{good.ntime - 1:08x}", nonce) == 20
    assert code(user, job_id, extranonce2, f"{good.ntime + 9000:08x}", nonce) == 20
    assert code(user, job_id, extranonce2, ntime, nonce.lstrip("0")) == 20  # all 8 digits are wanted
    assert code(user, job_id, extranonce2, ntime, nonce, "00002000") == 20  # rolling was not asked for
    assert code(user, job_id, extranonce2, ntime) == 20
    assert code("eve", job_id, extranonce2, ntime, nonce) == 24
    low = rig.find_share(difficulty=EASY / 100, at_most=EASY)
    assert rig.submit(low)[0] == 23
    assert rig.submit(good) is True
    assert rig.submit(good)[0] == 22
    pool.new_job(clean=True)
    rig.wait_job()
    assert rig.submit(rig.find_share(job=good.job))[0] == 21
    assert pool.books.duplicates == 1
    assert pool.books.refused == {20: 6, 21: 2, 22: 1, 23: 1, 24: 1}


def test_before_subscribe_and_authorize(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool(notify_after="subscribe")
    rig = new_miner()
    rig.connect("127.0.0.1", pool.port)
    params = ["carol", "1", "00" * 8, "00000000", "00000000"]
    assert rig.request("mining.submit", params).error[0] == 25
    rig.subscribe()
    rig.wait_job()
    assert rig.submit(rig.find_share(), user="carol")[0] == 24
    pool.options.strict_user = False
    assert rig.authorize("carol")
    assert rig.submit(rig.find_share(), user="dora") is True


def test_a_pool_that_wants_subscribe_first(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool(subscribe_first=True)
    rig = new_miner()
    rig.connect("127.0.0.1", pool.port)
    rig.configure()
    rig.request_async("mining.authorize", ["erin", "x"])
    rig.wait_closed()


def test_a_block(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool(nbits=0x2100FFFF, difficulty=1e6)  # every second hash or so is a block
    rig = new_miner(pool)
    assert rig.submit(rig.find_share(difficulty=1e-9)) is True
    assert pool.books.blocks == 1


def test_scrypt(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool(algorithm="scrypt", difficulty=1e-4)
    rig = ScriptedMiner(algorithm="scrypt")
    try:
        rig.start("127.0.0.1", pool.port)
        assert rig.submit(rig.find_share()) is True
        assert rig.submit(rig.find_share(difficulty=1e-5, at_most=1e-4))[0] == 23
    finally:
        rig.close()


def test_a_difficulty_counts_for_the_jobs_after_it(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool()
    rig = new_miner(pool)
    pool.set_difficulty(EASY * 10, then_job=False)
    rig.wait_notification("mining.set_difficulty")
    assert rig.difficulty == EASY * 10
    between = {"difficulty": EASY, "at_most": EASY * 10}
    assert rig.submit(rig.find_share(**between)) is True
    pool.new_job(clean=False)
    rig.wait_job()
    assert rig.submit(rig.find_share(**between))[0] == 23
    assert rig.submit(rig.find_share()) is True
    assert pool.books.work == pytest.approx(EASY * 11)


def test_a_pool_whose_difficulty_counts_at_once(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool(strict_difficulty=True)
    rig = new_miner(pool)
    pool.set_difficulty(EASY * 10, then_job=False)
    assert rig.submit(rig.find_share(EASY, at_most=EASY * 10))[0] == 23


# ---------------------------------------------------------------- version rolling

def test_rolled_versions(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool(version=0x20002000)
    rig = new_miner(pool, mask=0xFFFFFFFF)
    assert rig.mask == MASK
    assert rig.submit(rig.find_share(version_bits=0x00C04000)) is True
    assert rig.submit(rig.find_share(version_bits=0x00000001))[0] == 20
    # the job's version has a bit inside the mask, so that the two ways of rolling differ
    exclusive = rig.find_share(version_bits=0x0000E000, xor=True)
    assert rig.submit(exclusive)[0] == 23
    pool.options.version_form = "xor"
    assert rig.submit(exclusive) is True
    pool.set_version_mask(0x00006000)
    rig.wait_notification("mining.set_version_mask")
    assert rig.mask == 0x00006000
    assert rig.submit(rig.find_share(version_bits=0x00008000))[0] == 20
    assert rig.submit(rig.find_share(version_bits=0x00004000, xor=True)) is True


def test_a_pool_without_version_rolling(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool(version_mask=0)
    rig = new_miner(pool, mask=MASK)
    assert rig.mask == 0
    assert rig.submit(rig.find_share(version_bits=0x2000))[0] == 20
    pool.options.configure = "error"
    assert new_miner(pool, mask=MASK).mask == 0


# ---------------------------------------------------------------- sessions

def test_a_restart_on_the_same_port_keeps_sessions_and_jobs(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool()
    rig = new_miner(pool)
    former, port, extranonce1 = rig.find_share(), pool.port, rig.extranonce1
    assert rig.submit(former) is True
    late = rig.find_share()
    pool.stop()
    rig.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        rig.connect("127.0.0.1", port)
    pool.start()
    assert pool.port == port
    rig.connect("127.0.0.1", port)
    rig.subscribe(session_id=rig.session_id)
    assert rig.extranonce1 == extranonce1
    assert rig.authorize("user.rig")
    assert rig.submit(late) is True
    assert rig.submit(former)[0] == 22
    assert pool.books.connects == 2


def test_a_restart_that_forgot(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool()
    rig = new_miner(pool)
    former, extranonce1 = rig.find_share(), rig.extranonce1
    pool.stop()
    pool.forget()
    pool.start()
    rig.connect("127.0.0.1", pool.port)
    rig.subscribe(session_id=rig.session_id)
    assert rig.extranonce1 != extranonce1
    assert rig.authorize("user.rig")
    assert rig.submit(former)[0] == 21


def test_who_resumes_a_live_session_takes_it_over(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool()
    first, second = new_miner(pool), new_miner()
    second.connect("127.0.0.1", pool.port)
    second.subscribe(session_id=first.session_id)
    assert second.extranonce1 == first.extranonce1
    first.wait_closed()
    pool.wait(lambda: len(pool.connections) == 1)
    pool.options.resume = False
    first.connect("127.0.0.1", pool.port)
    first.subscribe(session_id=first.session_id)
    assert first.extranonce1 != second.extranonce1


def test_a_new_extranonce1_counts_with_the_next_job(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool()
    taker, other = new_miner(pool), new_miner(pool)
    assert taker.extranonce_subscribe()
    former, untouched = taker.extranonce1, other.extranonce1
    pool.set_extranonce()
    taker.wait(lambda: len(taker.jobs) == 2)
    other.wait(lambda: len(other.jobs) == 2)
    assert taker.received[-2].method == "mining.set_extranonce"
    assert former != taker.extranonce1 and untouched == other.extranonce1
    assert taker.submit(taker.find_share()) is True
    assert other.submit(other.find_share()) is True
    assert pool.shares[-2].extranonce1 == taker.extranonce1


# ---------------------------------------------------------------- the pool's habits

@pytest.mark.parametrize(("form", "error", "result"), [
    ("array", [21, "Job not found", None], None),
    ("object", {"code": 21, "message": "Job not found", "traceback": None}, None),
    ("string", "Job not found", None), ("null", None, None), ("reason", None, False)])
def test_the_forms_of_an_error(new_pool: NewPool, new_miner: NewMiner, form: str, error: Any, result: Any) -> None:
    rig = new_miner(new_pool(error_form=form))
    response = rig.request("mining.submit", ["user.rig", "none", "00" * 8, "00000000", "00000000"])
    assert (response.error, response.result) == (error, result)
    assert response.reject_reason == ("Job not found" if form == "reason" else None)


@pytest.mark.parametrize("form", ["pairs", "pair", "string", "null"])
def test_the_forms_of_a_subscribe_result(new_pool: NewPool, new_miner: NewMiner, form: str) -> None:
    pool = new_pool(first_member=form, e2_as_text=True, extranonce1_bytes=5, extranonce2_size=3)
    rig = new_miner()
    rig.connect("127.0.0.1", pool.port)
    response = rig.request("mining.subscribe", ["agent"])
    assert response.result[2] == "3"
    session_id, extranonce = subscribe_result(response.result)
    assert (session_id is None) is (form == "null")
    assert (rig.session_id, rig.extranonce1) == (session_id, extranonce.extranonce1)
    assert len(rig.extranonce1) == 5


def test_further_users(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool(allowed=lambda user: user != "mallory")
    rig = new_miner(pool)
    assert not rig.authorize("mallory")
    assert rig.authorize("second")
    pool.options.second_authorize = "refuse"
    assert not rig.authorize("third")
    pool.options.second_authorize = "ignore"
    ignored = rig.request_async("mining.authorize", ["fourth", "x"])
    assert rig.request("mining.ping", []).result == "pong"  # the pool is past it, and said nothing
    with pytest.raises(AssertionError, match="no answer within"):
        rig.answer(ignored, timeout=0.01)
    assert list(pool.connections[0].users) == ["user.rig", "second"]
    assert rig.count("mining.notify") == 1


def test_verdicts_are_held_back(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool()
    rig = new_miner(pool)
    pool.hold_answers = True
    good, bad = rig.find_share(), rig.find_share(EASY / 100, at_most=EASY)
    ids = [rig.submit_async(good, message_id=4), rig.submit_async(bad, message_id=4)]
    pool.wait(lambda: pool.books.accepted and pool.books.refused[23])
    assert rig.request("mining.ping", []).result == "pong"
    pool.release_answers()
    assert rig.verdict(ids[0]) is True
    assert rig.verdict(ids[1])[0] == 23


def test_a_pool_that_does_not_read(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool()
    rig = new_miner(pool)
    pool.pause()
    ping = rig.request_async("mining.ping", [])
    pool.new_job()
    rig.wait(lambda: len(rig.jobs) == 2)
    assert pool.books.methods["mining.ping"] == 0
    pool.resume()
    assert rig.answer(ping).result == "pong"


def test_a_slow_pool_keeps_the_order(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool(reply_delay=0.02)
    rig = new_miner(pool)
    pool.new_job()
    pool.options.reply_delay = 0.0
    pool.new_job()
    rig.wait(lambda: len(rig.jobs) == 3)
    assert [job.notify.job_id for job in rig.jobs] == ["1", "2", "3"]


def test_what_the_pool_tells_everybody(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool()
    rig = new_miner(pool)
    pool.show_message("hello")
    pool.reconnect("pool.example", 3333, 5)
    pool.send_to_all(b'{"id":null,"method":"mining.other","params":[1]}')
    assert rig.wait_notification("client.show_message").params == ["hello"]
    assert rig.wait_notification("client.reconnect").params == ["pool.example", 3333, 5]
    assert rig.wait_notification("mining.other").params == [1]
    rig.stop_reading()
    pool.show_message("later")
    rig.resume_reading()
    assert rig.wait_notification("client.show_message").params == ["later"]
    pool.kick_all()
    rig.wait_closed()


def test_what_is_waited_for_in_vain_tells_what_came(new_pool: NewPool, new_miner: NewMiner) -> None:
    pool = new_pool(extranonce_subscribe="ignore")
    rig = new_miner(pool)
    with pytest.raises(AssertionError, match=r"(?s)no answer within.*mining\.notify"):
        rig.extranonce_subscribe(timeout=0.01)
    with pytest.raises(AssertionError, match=r"(?s)1 connects.*mining\.authorize"):
        pool.wait(lambda: pool.books.accepted, timeout=0.01)
    rig.send_bytes(b"no JSON\n")
    rig.wait_closed()
    with pytest.raises(AssertionError, match="closed"):
        rig.submit(rig.find_share())
    pool.wait(lambda: pool.books.bad_lines == 1)


def test_a_raw_request(new_pool: NewPool, new_miner: NewMiner) -> None:
    rig = new_miner(new_pool())
    rig.send({"id": "odd \u00e9", "method": "mining.nothing", "params": {}})
    assert rig.answer("odd \u00e9").error[0] == 20
    rig.notify("mining.capabilities", [])
    rig.send('{"id": 99, "method": "mining.subscribe", "params": 5}')
    rig.wait(lambda: b'"id": 99' in rig.lines[-1])


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="second_authorize must be one of accept"):
        PoolOptions(second_authorize="acept")
    with pytest.raises(AttributeError, match="no option 'hold'"):
        PoolOptions().hold = True  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="algorithm"):
        PoolOptions(algorithm="none")


# ---------------------------------------------------------------- the free-running miner

@pytest.fixture
def run_miner() -> Iterator[Callable[..., SimulatedMiner]]:
    running = []

    def start(pool: SimulatedPool, **options: Any) -> SimulatedMiner:
        free = SimulatedMiner(MinerOptions("127.0.0.1", pool.port, "free.rig", backoff_min=0.01, **options))
        running.append((free, gevent.spawn(free.run)))
        return free

    yield start
    for free, greenlet in running:
        free.stop()
        greenlet.get(timeout=5)  # raises what run raised


def test_a_free_miner_is_never_refused(new_pool: NewPool, run_miner: Callable[..., SimulatedMiner]) -> None:
    pool = new_pool(difficulty=1e-6, version=0x20006000)
    free = run_miner(pool, version_rolling=True, nonces_per_work=3000, difficulty_hint=0.5)
    pool.wait(lambda: pool.books.accepted >= 3)
    assert pool.connections[0].suggested == 0.5
    pool.set_difficulty(2e-6)
    pool.set_extranonce(clean=False)
    pool.wait(lambda: pool.shares[-1].needed == 2e-6 and pool.shares[-1].extranonce1 == free.extranonce1)
    assert not pool.books.refused
    pool.set_version_mask(0x0000E000)
    seen = pool.books.accepted
    pool.wait(lambda: pool.books.accepted > seen + 3)
    assert set(pool.books.refused) <= {20}  # what crossed the new mask on its way
    assert len({tuple(record.params[2::3]) for record in pool.shares}) > 3  # extranonce2 and version bits roll
    assert free.stats.accepted > 3 and free.stats.hashrate > 0


def test_a_free_miner_comes_back(new_pool: NewPool, run_miner: Callable[..., SimulatedMiner]) -> None:
    pool = new_pool(difficulty=1e-6)
    free = run_miner(pool)
    pool.wait(lambda: pool.books.accepted)
    session = free.session_id
    pool.stop()
    pool.start()
    pool.wait(lambda: pool.connections and pool.connections[0].users)
    assert pool.connections[0].asked_session == session
    pool.reconnect("elsewhere.example", 1)
    pool.reconnect()
    pool.wait(lambda: pool.books.connects == 3 and pool.connections and pool.connections[0].users)
    seen = pool.books.accepted
    pool.wait(lambda: pool.books.accepted > seen)
    assert not pool.books.refused


def test_a_free_miner_keeps_to_its_hashrate(new_pool: NewPool, run_miner: Callable[..., SimulatedMiner]) -> None:
    pool = new_pool(difficulty=1e-7)
    free = run_miner(pool, hashrate=20_000, applies_difficulty="at once")
    pool.wait(lambda: pool.books.accepted >= 20)
    assert free.stats.hashrate < 25_000
    assert not pool.books.refused


def test_the_command_ends_after_so_many_shares(new_pool: NewPool) -> None:
    pool = new_pool(difficulty=1e-6)
    assert miner.run(f"stratum+tcp://{pool.url}", "farm", count=3, hashrate=100_000, shares=5) == 0
    assert set(pool.books.users) <= {"farm.1", "farm.2", "farm.3"}
    assert pool.books.accepted >= 5
    assert not pool.books.refused


def test_urls_and_names() -> None:
    assert via.parse_url("stratum+tcp://[::1]:3333") == ("::1", 3333, via.PLAIN)
    assert via.parse_url("pool.example:1") == ("pool.example", 1, via.PLAIN)
    assert via.parse_url("wss://pool.example:1")[2] == via.Via(tls=True, websocket=True)
    for bad in ("pool.example", "https://pool.example:1", ":1", "pool.example:0", "pool.example:99999"):
        with pytest.raises(ValueError, match="is not stratum"):
            via.parse_url(bad)
    assert miner.user_names("a{n}.x", 2) == ["a1.x", "a2.x"]
    assert miner.user_names("a", 1) == ["a"]


def test_a_subscribe_result_that_is_none(new_pool: NewPool, new_miner: NewMiner) -> None:
    rig = new_miner()
    rig.connect("127.0.0.1", new_pool().port)
    with pytest.raises(Malformed):
        rig.subscribe(agent="x" * 1000)
