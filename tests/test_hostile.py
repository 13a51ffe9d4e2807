"""Miners that attack, by malice or by fault, beside honest ones that must go on getting jobs and verdicts."""

import json
import logging
import unicodedata

import gevent
import pytest

from karoo.sim.scripted import ScriptedMiner
from karoo.stratum import messages
from tests.fuzz import PATIENCE, QUARTER, Crew, Fuzz, Offender, living_greenlets, log_fault, resident_bytes
from tests.site import EASY

MB = 1_000_000
SEED = 20_260_131


@pytest.fixture
def house(site):
    """A pool, a proxy and a crew of honest miners, and whoever offends them."""
    house = House(site)
    yield house
    house.close()


class House:
    def __init__(self, site):
        self.site = site
        self.pool = self.proxy = self.crew = None
        self._offenders = []

    def open(self, pool=None, crew=2, **sections):
        """Everything runs; the miners have a job, and a share accepted."""
        self.pool = self.site.pool(**{"difficulty": EASY, **(pool or {})})
        self.proxy = self.site.proxy(self.pool, **sections)
        self.crew = Crew(self.site, self.pool, self.proxy, crew)
        self.crew.go_on(1)

    def offender(self, receive_buffer=None):
        """One who is connected, until the offence is over."""
        offender = Offender(self.proxy, receive_buffer)
        self._offenders.append(offender)
        return offender

    def close(self):
        for offender in self._offenders:
            offender.close()

    @property
    def ended(self):
        """The reasons for which sessions ended."""
        return " / ".join([*self.proxy.metrics.ended, *(cut["why"] for cut in self.proxy.snapshot()["cut"])])

    def alone(self):
        """Close the offenders, and wait until only the honest miners are left."""
        self.close()
        honest = len(self.crew.miners)
        self.site.wait(lambda: len(self.proxy.sessions) == honest, PATIENCE, "the end of the offenders")

    def over(self, same_connection=True):
        """The offence is over: nothing is left of it, and the honest miners lost nothing."""
        self.alone()
        assert self.proxy.metrics.exceptions == 0, self.site.logged("bug")
        self.crew.go_on(2)
        honest = len(self.crew.miners)
        assert self.proxy.routes.routes[0].prefixes.held == self.proxy.accounts.all.sessions == honest
        assert not any(miner.closed for miner in self.crew.miners)
        if same_connection:
            assert self.pool.books.connects == 1, f"they lost the pool: {self.proxy.metrics.upstream_losses}"
            assert not self.pool.books.bad_lines


def line(number, method, params):
    return messages.request(number, method, params)


LOGIN = line("s", "mining.subscribe", ["evil/1.0"]) + line("a", "mining.authorize", ["evil.rig", "x"])


def answers(lines):
    """The responses among lines, by the JSON of their ids; each line must be JSON."""
    found = {}
    for one in lines:
        message = json.loads(one)
        if "method" not in message:
            found.setdefault(json.dumps(message["id"]), []).append(message)
    return found


def has_pong(lines):
    return any(b"pong" in one for one in lines)


def ask(offender, requests):
    """Send requests, and read until each of them has an answer, or until the cut; the answers by id."""
    data = b"".join(requests)
    offender.send(data)
    missing = {json.dumps(json.loads(one)["id"]) for one in data.splitlines()}
    found = {}

    def take(lines):
        for number, responses in answers(lines).items():
            found.setdefault(number, []).extend(responses)
            missing.discard(number)
        return not missing

    try:
        offender.read_until(take)
    except TimeoutError:
        raise AssertionError(f"no answer to {sorted(missing)[:5]}") from None
    return found


# ---------------------------------------------------------------- lines that are none

def test_a_line_without_end_is_cut_and_takes_no_memory(house):
    """20 connections that send 10 MB each without a line feed."""
    house.open()
    before, highest = resident_bytes(), 0
    for _ in range(20):
        offender = house.offender()
        sent = 0
        while sent < 10 * MB and offender.send(b"x" * 65536):
            sent += 65536
            highest = max(highest, resident_bytes())
        offender.read_all()
        assert offender.cut and sent < 10 * MB
    house.over()
    assert "a line of more than 16384 bytes" in house.ended
    assert highest - before < 10 * MB and resident_bytes() - before < 10 * MB


def test_a_line_that_is_too_long_in_many_pieces_is_cut(house):
    house.open(proxy={"max_line_bytes": 1024})
    at_most, too_long = house.offender(), house.offender()
    around = len(line(1, "mining.ping", [""]).rstrip())
    for offender, length in ((at_most, 1024), (too_long, 1025)):
        data = line(1, "mining.ping", ["x" * (length - around)])
        assert len(data.rstrip()) == length
        for start in range(0, len(data), 100):
            offender.send(data[start:start + 100])
    assert answers(at_most.read())["1"][0]["result"] == "pong"
    too_long.read_all()
    assert too_long.cut
    house.over()


@pytest.mark.parametrize("longest", [16_384, 1_048_576])
@pytest.mark.parametrize("data", [
    b"[" * 1_000_000 + b"\n", b'{"a":' * 200_000 + b"\n", b"\x01" * 1_000_000 + b"\n",
    b'{"id":1,"method":"mining.ping","params":' + b"[" * 500_000 + b"]" * 500_000 + b"}\n",
    b'{"id":' + b"9" * 1_000_000 + b',"method":"mining.ping"}\n', b"9" * 1_000_000 + b"\n",
], ids=["brackets", "objects", "zeros", "nested", "number", "digits"])
def test_a_million_of_anything_is_cut_and_delays_nobody_for_long(house, data, longest):
    """Short lines are all that is read by default; where a megabyte is allowed the parser itself must stand it."""
    house.open(proxy={"max_line_bytes": longest})
    house.crew.start()
    offenders = [house.offender() for _ in range(3)]
    for offender in offenders:
        offender.send(data)
        offender.read_all()
        assert offender.cut
    house.crew.stop()
    house.over()


@pytest.mark.parametrize("data", [
    b"\xff\xfe\xfd\n", b'{"id":1,"method":"mining.authorize","params":["\xc3\x28","x"]}\n',
    b'{"id":1,"method":"mining.authorize","params":["\xed\xa0\x80","x"]}\n', b"\xef\xbb\xbf{}\n",
    b'{"id":1,"method":"mining.suggest_difficulty","params":[NaN]}\n',
    b'{"id":1,"method":"mining.suggest_difficulty","params":[-Infinity]}\n',
    b'{"id":NaN,"method":"mining.ping","params":[]}\n', b'{"id":%s,"method":"mining.ping"}\n' % (b"9" * 10_000),
    b"null\n", b"[]\n", b"{}\n", b'"x"\n', b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01\n",
    b'{"id":1,"method":"mining.ping","params":[]}}\n', b"{'id':1}\n",
], ids=lambda data: repr(data[:40]))
def test_what_is_no_message_is_answered_and_cut(house, data):
    """With the reason, and a miner that was at work is cut as well."""
    house.open()
    for login in (b"", LOGIN):
        offender = house.offender()
        offender.send(login + data)
        found = answers(offender.read_all())
        assert found["null"][0]["error"][0] == 20 and found["null"][0]["error"][1]
        assert len(found) == (3 if login else 1)
    house.over()


def test_numbers_beyond_64_bits_are_ids_like_others(house):
    house.open()
    offender = house.offender()
    numbers = [2**63, 2**64, 2**64 + 1, -(2**63) - 1, 10**100, 10**4000, 0, -1, 1.5, 1e300, -1e-300]
    found = ask(offender, [line(number, "mining.ping", []) for number in numbers])
    for number in numbers:
        assert [one["result"] for one in found[json.dumps(number)]] == ["pong"], number
    found = ask(offender, [line(str(number), "mining.suggest_difficulty", [number]) for number in numbers])
    for number in numbers:
        assert (found[json.dumps(str(number))][0]["result"] is True) is (0 < number < 1e308), number
    house.over()


# ---------------------------------------------------------------- wrong types

WRONG = [None, True, False, 0, -1, 2**64, 10**400, 1.5, 1e300, -0.0, "", "zz", "\x00\n", "\ud800", "é", "x" * 700, [],
         [None], [[]], {}, {"a": []}]


def right_params(job):
    """The parameters of every method as they should be."""
    return {
        "mining.configure": [["version-rolling", "minimum-difficulty", "subscribe-extranonce", "info"],
                             {"version-rolling.mask": "1fffe000", "minimum-difficulty.value": EASY}],
        "mining.subscribe": ["evil/1.0", "0badcafe"],
        "mining.authorize": ["evil.rig", "x"],
        "mining.extranonce.subscribe": ["x"],
        "mining.suggest_difficulty": [EASY],
        "mining.suggest_target": ["00" * 4 + "ff" * 28],
        "mining.ping": ["x"],
        "mining.submit": ["evil.rig", job.job_id, "00000000", f"{job.ntime:08x}", "00000000", "00002000"],
        "mining.get_transactions": ["1f"],
        "mining.multi_version": [1],
        "mining.no.such-method": ["x", "y"],
        "eth_submitWork": ["x"],
    }


# what is not looked at, or may be anything: wrong values there are no error
NOT_LOOKED_AT = {("mining.subscribe", 1), ("mining.extranonce.subscribe", 0), ("mining.ping", 0)}
MAY_BE = {("mining.configure", 0): ([], ["x"] * 32), ("mining.configure", 1): (None, {}, {"a": []}),
          ("mining.subscribe", 0): (None, "", "zz", "\x00\n", "é"), ("mining.authorize", 0): ("zz", "\x00\n", "é"),
          ("mining.authorize", 1): (None, "", "zz", "\x00\n", "é"),
          ("mining.suggest_difficulty", 0): (2**64, 1.5, 1e300)}
SHARES = {20, 21, 22, 23, 24, 25}


@pytest.mark.parametrize("state", ["unknown", "subscribed", "at work"])
def test_every_wrong_value_of_every_parameter_is_answered(house, state):
    """Never silence, never an exception, never a good answer to a wrong question."""
    house.open(proxy={"max_misbehaviour": 0})
    right = right_params(house.crew.miners[0].job.notify)
    offender = house.offender()
    steps = {"unknown": b"", "subscribed": line("s", "mining.subscribe", []), "at work": LOGIN}
    offender.send(steps[state])
    cases = []
    for method, params in right.items():
        wholes = [(None, wrong) for wrong in WRONG] + [(None, params[:count]) for count in range(len(params))]
        parts = [(at, wrong) for at in range(len(params)) for wrong in WRONG]
        for at, wrong in wholes + parts:
            if method == "mining.subscribe" and state == "unknown" and at == 1:
                continue  # would be right, and end this state
            sent = wrong if at is None else [*params[:at], wrong, *params[at + 1:]]
            cases.append((f"{len(cases)}", method, at, wrong, sent))
    house.crew.start()
    found = ask(offender, [line(number, method, sent) for number, method, _, _, sent in cases])
    house.crew.stop()
    assert not offender.cut
    for number, method, at, wrong, sent in cases:
        got = found[json.dumps(number)]
        assert len(got) == 1, (method, at, wrong)
        fault = got[0]["error"]
        if fault is not None:
            assert type(fault[0]) is int and type(fault[1]) is str and got[0]["result"] is None
        if method == "mining.submit":
            assert fault[0] in SHARES, (at, wrong)
        elif method not in methods_of_the_proxy():
            assert fault is not None
        elif at is None:
            continue
        elif (method, at) in NOT_LOOKED_AT or any(same(wrong, good) for good in MAY_BE.get((method, at), ())):
            assert fault is None, (method, at, wrong, fault)
        else:
            assert fault is not None and fault[0] == 20, (method, at, wrong, sent)
    house.over()


def methods_of_the_proxy():
    return {"mining.configure", "mining.subscribe", "mining.authorize", "mining.extranonce.subscribe",
            "mining.suggest_difficulty", "mining.suggest_target", "mining.ping", "mining.submit"}


def same(one, other):
    return json.dumps(one) == json.dumps(other)


@pytest.mark.parametrize("number", [True, False, [], [1], {}, {"id": 1}])
def test_a_request_with_an_id_that_is_none_is_answered_all_the_same(house, number):
    house.open()
    offender = house.offender()
    offender.send(json.dumps({"id": number, "method": "mining.ping", "params": []}).encode() + b"\n")
    assert answers(offender.read())["null"][0]["error"][0] == 20
    house.over()


# ---------------------------------------------------------------- through the proxy at the pool, or at the others

def test_nesting_of_any_depth_is_no_bug(house):
    """What the parser takes must not be too deep for the writer when it is passed on."""
    house.open()
    depths = [*range(0, 900, 50), *range(900, 1030), 2000, 7000]
    for depth in depths:
        offender = house.offender()
        offender.send(LOGIN + b'{"id":"deep","method":"mining.x","params":%s%s}\n'
                      % (b"[" * depth, b"]" * depth))
        ids = set()
        offender.read_until(lambda lines, ids=ids: ids.update(answers(lines)) or ids & {'"deep"', "null"})
        assert ids & {'"deep"', "null"}, depth
    house.over()


@pytest.mark.parametrize("lines", [
    [b'{"id":1,"method":"mining.x","params":[1e999]}\n'],
    [b'{"id":1,"method":"mining.x","params":[{"a":[-1e999]}]}\n'],
    [b'{"id":1,"method":"mining.x","params":["%s"]}\n' % ("é" * 8000).encode()],
    [b'{"id":1,"method":"mining.%s","params":[]}\n' % (b"x" * 16_300)],
    [b'{"id":1,"method":"mining.x","params":["%s"]}\n' % (b"x" * 16_000)] * 2000,
], ids=["infinite", "infinite within", "longer behind than in front", "long name", "32 MB"])
def test_what_one_miner_says_never_costs_the_others_the_pool(house, lines):
    """Methods that are passed on: the pool must not be sent what it cuts a connection for, by one of thousands."""
    house.open()
    house.crew.start()
    offender = house.offender()
    ask(offender, [LOGIN])
    sender = gevent.spawn(offender.send, b"".join(lines))
    answered = []
    offender.read_until(lambda came: answered.extend(answers(came).get("1", ())) or len(answered) >= len(lines), 60)
    sender.join()
    house.crew.stop()
    house.over()


def test_requests_that_a_slow_pool_owes_answers_to_leave_room_for_shares(house):
    """The pool reads nothing for a while; one miner asks it a hundred thousand things meanwhile."""
    house.open()
    miner = house.crew.miners[0]
    share = miner.find_share()
    offender = house.offender()
    ask(offender, [LOGIN])
    house.pool.pause()
    sender = gevent.spawn(offender.send, b"".join(line(number, "mining.x", []) for number in range(101_000))
                          + line("end", "mining.ping", []))
    offender.read_until(has_pong, 60)  # until the proxy took up all of them, or had enough of it
    number = miner.submit_async(share)
    assert miner.request("mining.ping", []).result == "pong"  # by now the share was taken up
    house.pool.resume()
    assert miner.verdict(number, PATIENCE) is True
    sender.join()
    house.over()


def test_the_pool_is_asked_a_few_things_by_miners_at_work_and_no_flood(house):
    """A pool that bans for unknown methods would ban everybody."""
    house.open()
    stranger, worker = house.offender(), house.offender()
    ask(stranger, [line("s", "mining.subscribe", [])])
    ask(worker, [LOGIN])
    for asking in (stranger, worker):
        found = ask(asking, [line(number, "mining.x", []) for number in range(200)])
        assert all(found[str(number)][0]["error"][0] == 20 for number in range(200))
    passed_on = sum(b"mining.x" in one for one in house.pool.lines)
    assert 10 <= passed_on <= 30
    house.over()


def test_a_pool_that_reads_slowly_is_not_lost_for_what_one_miner_asks_it(house):
    """Its backlog would fill with 16 KB questions, beyond which the connection is given up."""
    house.open()
    share = house.crew.miners[0].find_share()
    offender = house.offender()
    ask(offender, [LOGIN])
    house.pool.pause()
    sender = gevent.spawn(offender.send, line(1, "mining.x", ["x" * 16_000]) * 2000 + line("end", "mining.ping", []))
    offender.read_until(has_pong, 60)
    house.pool.resume()
    assert house.crew.miners[0].submit(share) is True
    sender.join()
    house.over()


# ---------------------------------------------------------------- readers that do not read

def test_a_miner_that_stops_reading_is_cut_and_delays_nobody(house, site):
    house.open(pool={"branches": 60}, proxy={"max_backlog_bytes": 65_536})
    for _ in range(40):
        house.crew.job()
    before = house.crew.delay
    deaf = ScriptedMiner()
    site.miners.append(deaf)
    deaf.connect("127.0.0.1", house.proxy.listener.port, receive_buffer=4096)
    deaf.subscribe()
    assert deaf.authorize("evil.rig")
    deaf.wait_job()
    deaf.stop_reading()
    jobs = 0
    while len(house.proxy.sessions) > len(house.crew.miners):
        house.crew.job()
        jobs += 1
        assert jobs < 20_000, "the one that does not read is not cut"
        if jobs % 50 == 0:
            house.crew.shares()
    assert "it does not read" in house.ended
    assert house.crew.delay < max(0.020, 5 * before), f"{before * 1e3:.1f} ms without it"
    house.over()


def test_a_miner_that_asks_by_the_thousand_and_reads_no_answer_is_cut(house):
    """Each answer is as long as its question."""
    house.open()
    house.crew.start()
    question = line(1, "mining.configure", [[f"{number:064d}" for number in range(32)]])
    before, offenders = resident_bytes(), [house.offender(4096) for _ in range(3)]
    gevent.joinall([gevent.spawn(_ask_until_cut, offender, question * 100) for offender in offenders], raise_error=True)
    house.crew.stop()
    assert "it does not read" in house.ended
    house.over()
    assert resident_bytes() - before < 20 * MB


def _ask_until_cut(offender, questions):
    asked = 0
    while offender.send(questions):
        asked += len(questions)
        assert asked < 100 * MB, "the one that does not read is not cut"


# ---------------------------------------------------------------- names

NAMES = ["a\nb", "a\r\nERROR karoo forged", "\x1b[2J\x1b[31mred", "a\x00b", "a\x7fb", "a\x9b31mb", "a\tb", "a\u2028b",
         "\u202egnp.exe", "<script>alert(1)</script>", "\"><img src=x onerror=x>", "%s", "%d %n %(x)s", "100%",
         "{0} {worker} {__class__}", "'; DROP TABLE workers;--", "../../etc/passwd", "\U0001f480", "é" * 500, "\ufeff",
         "$(reboot)`reboot`", "..", " . "]


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
@pytest.mark.parametrize("place", ["user", "agent", "password", "method", "job"])
def test_names_forge_no_log_line(house, site, place, level):
    """Each record makes one line, without control characters, in text and in JSON."""
    house.open(pool={"difficulty": QUARTER})
    logging.getLogger("karoo").setLevel(level)
    for name in NAMES:
        miner = site.connect(house.proxy, name if place == "agent" else "evil/1.0")
        miner.subscribe()
        user = f"wallet.{name}" if place == "user" else "wallet.evil"
        assert miner.authorize(user, name if place == "password" else "x")
        miner.wait_job()
        assert miner.submit(miner.find_share()) is True  # the pool hears the name as well
        assert miner.submit(miner.find_share(1e-15, at_most=QUARTER))[0] == 23
        if place == "method":
            assert miner.request(f"mining.{name}", [name]).error
            assert miner.request(name, [name]).error
        if place == "job":
            assert miner.request("mining.submit", [user, name, "00000000", "00000000", "00000000"]).error[0] == 21
            assert miner.request("mining.submit", [name, "1", "00000000", "00000000", "00000000"]).error[0] == 24
        miner.close()
    house.over()
    house.proxy.report()
    assert len(site.records) > 3 * len(NAMES)
    assert [fault for fault in map(log_fault, site.records) if fault] == []


@pytest.mark.parametrize("name", ["\\ud800", "", " ", "\\n\\t", "x" * 513])
def test_names_that_are_none_are_refused(house, name):
    house.open()
    offender = house.offender()
    found = ask(offender, [b'{"id":1,"method":"mining.authorize","params":["%s","x"]}\n' % name.encode()])
    assert found["1"][0]["error"][0] == 20
    house.over()


def test_snapshots_are_plain_json_whatever_the_names_are(house, site):
    house.open()
    for name in NAMES:
        miner = site.connect(house.proxy, name)
        miner.subscribe()
        assert miner.authorize(f"wallet.{name}")
    said = json.dumps([house.proxy.snapshot(), list(house.proxy.session_snapshots())], allow_nan=False)
    workers = [one["worker"] for one in json.loads(said)[1]]
    assert len(workers) == len(NAMES) + len(house.crew.miners) and all(workers)
    assert not any(unicodedata.category(char) == "Cc" for worker in workers for char in worker)
    for miner in site.miners[len(house.crew.miners):]:
        miner.close()
    house.over()


# ---------------------------------------------------------------- connections that end in the middle

def conversation(crew):
    """Everything that a miner says, with a share that counts in the end."""
    job = crew.miners[0].job.notify
    name, ntime = job.job_id, f"{job.ntime:08x}"
    return b"".join([
        line(1, "mining.configure", [["version-rolling"], {"version-rolling.mask": "1fffe000"}]), LOGIN,
        line(4, "mining.extranonce.subscribe", []), line(5, "mining.suggest_difficulty", [EASY]),
        *[line(10 + nonce, "mining.submit", ["evil.rig", name, "00000000", ntime, f"{nonce:x}"]) for nonce in range(9)],
        line(6, "mining.x", [name])])


@pytest.mark.parametrize("how", ["reset", "close"])
def test_connections_that_end_in_the_middle_of_everything_leave_nothing(house, site, how):
    house.open(pool={"difficulty": QUARTER})
    house.crew.job()
    text = conversation(house.crew)
    before = living_greenlets()
    for reads in (False, True):
        for end in range(0, len(text) + 1, 23):
            offender = house.offender()
            offender.send(text[:end])
            if reads and b"\n" in text[:end]:
                offender.read()
            getattr(offender, how)()
    house.over()
    assert house.proxy.metrics.connections > 2 * len(text) / 23
    site.wait(lambda: living_greenlets() <= before, PATIENCE, "the end of their greenlets")


def test_a_pool_that_is_lost_in_the_middle_of_everything_leaves_no_share_without_an_answer(site):
    """Some of the shares wait for the pool's verdict, some for the authorization of their worker's name."""
    pool = site.pool(difficulty=QUARTER)
    miners = [site.miner(proxy, f"user.rig{number}") for proxy in [site.proxy(pool)] for number in range(4)]
    for miner in miners[:2]:
        assert miner.submit(miner.find_share()) is True
    pool.options.second_authorize = "ignore"
    pool.hold_answers = True
    sent = [(miner, miner.submit_async(miner.find_share())) for miner in miners for _ in range(3)]
    for miner in miners:
        assert miner.request("mining.ping", []).result == "pong"
    pool.kick_all()
    pool.hold_answers = False
    pool.options.second_authorize = "accept"
    for miner, number in sent[:6]:  # these were on their way
        verdict = miner.verdict(number)
        assert verdict[0] == 20 and "lost" in verdict[1]
    for miner, number in sent[6:]:  # these had waited for their names, and were never sent
        assert miner.verdict(number) is True


SAID = {
    "notification": b'{"id":null,"method":"mining.news","params":%s}',
    "request": b'{"id":7,"method":"mining.news","params":%s}',
    "message": b'{"id":null,"method":"client.show_message","params":[%s]}',
    "answer": b'{"id":1,"result":null,"error":%s}',
    "difficulty": b'{"id":null,"method":"mining.set_difficulty","params":[%s]}',
    "extranonce": b'{"id":null,"method":"mining.set_extranonce","params":["f000000f",%s]}',
    "mask": b'{"id":null,"method":"mining.set_version_mask","params":[%s]}',
    "reconnect": b'{"id":null,"method":"client.reconnect","params":[%s,3333,0]}',
    "job": b'{"id":null,"method":"mining.notify","params":%s}',
}


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("value", [b"[1e999]", b"1e999", b'"\\ud800"', b'["\\u001b[31m\\n"]', b"9" * 4000, b"[]",
                                   b"[[[]]]", b"{}"],
                         ids=["infinite list", "infinite", "surrogate", "controls", "digits", "list", "lists", "{}"])
def test_a_pool_may_say_what_it_likes(house, site, said, value):
    """It is passed over, or the pool is left and dialled again; no bug, no line to a miner that is no JSON."""
    house.open()
    house.pool.send_to_all(SAID[said] % value)
    house.crew.go_on(1)
    assert all(miner.fault == "" for miner in house.crew.miners)
    assert [fault for fault in map(log_fault, site.records) if fault] == []
    house.over(same_connection=False)


@pytest.mark.parametrize("said", ["notification", "answer", "job"])
def test_nesting_of_any_depth_from_the_pool_is_no_bug(house, said):
    """Too deep for the parser is the end of that connection; what the parser takes is passed on, or passed over."""
    house.open()
    for depth in [5, 500, *range(920, 1000)]:
        house.pool.send_to_all(SAID[said] % (b"[" * depth + b"]" * depth))
        house.crew.go_on(1)
        assert house.proxy.metrics.exceptions == 0, depth
    house.over(same_connection=False)


@pytest.mark.parametrize("broken", ["on_job", "on_other"])
def test_a_bug_met_on_the_way_from_the_pool_costs_no_share_its_answer(site, monkeypatch, broken):
    """Whatever a bug ends, it is counted, the connection is made anew, and whoever waits for a verdict gets one."""
    pool = site.pool(difficulty=EASY)
    proxy = site.proxy(pool)
    miner = site.miner(proxy, extranonce=True)
    pool.hold_answers = True
    number = miner.submit_async(miner.find_share())
    pool.wait(lambda: pool.books.accepted == 1)
    with monkeypatch.context() as patch:
        def fail(*_):
            raise RuntimeError("made up for the test")
        patch.setattr(proxy.routes.routes[0], broken, fail)
        pool.send_to_all(SAID["notification"] % b"[]")
        pool.new_job()
        site.wait(lambda: proxy.metrics.exceptions == 1, PATIENCE, "the bug")
    pool.hold_answers = False
    assert miner.verdict(number, PATIENCE) is not True
    pool.wait(lambda: len(pool.connections) == 1 and pool.connections[0].gets_jobs)
    name = pool.new_job().wire_id
    miner.wait(lambda: miner.job.notify.job_id == name)
    assert miner.submit(miner.find_share()) is True
    assert proxy.metrics.exceptions == 1
    proxy.metrics.exceptions = 0  # it was ours


# ---------------------------------------------------------------- miners that leave while they wait for the pool

@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("said", [line(1, "mining.subscribe", []), LOGIN,
                                  line(1, "mining.configure", [["version-rolling"]]) + LOGIN],
                         ids=["subscribe", "login", "configure"])
@pytest.mark.parametrize("pool_comes", [True, False], ids=["pool comes", "pool stays away"])
def test_miners_that_leave_while_they_wait_for_the_pool_leave_nothing(site, said, how, pool_comes):
    """Whether the pool comes or not: long before the time is up for which miners may wait."""
    pool = site.pool(difficulty=EASY)
    pool.stop()
    proxy = site.proxy(pool, upstream={"hold_ms": 600_000, "backoff_max_ms": 50})
    before = living_greenlets()
    offenders = [Offender(proxy) for _ in range(20)]
    for offender in offenders:
        offender.send(said)
    site.wait(lambda: len(proxy.sessions) == 20)
    for offender in offenders:
        getattr(offender, how)()
    if pool_comes:
        pool.start()
    site.wait(lambda: not proxy.sessions, PATIENCE, "the end of the sessions")
    assert proxy.accounts.all.sessions == 0
    if not pool_comes:
        pool.start()
    crew = Crew(site, pool, proxy, 2)
    crew.go_on(2)
    assert proxy.routes.routes[0].prefixes.held == 2
    for miner in crew.miners:
        miner.close()
    site.wait(lambda: not proxy.sessions)
    # two more: the greenlet that keeps the pool connection, and the pool's own of that connection
    site.wait(lambda: living_greenlets() <= before + 2, PATIENCE, "the end of their greenlets")


# ---------------------------------------------------------------- a hundred thousand damaged lines

def test_a_hundred_thousand_damaged_lines_break_nothing(site, monkeypatch):
    """Over many connections, several at a time, honest miners beside them: see tests/fuzz.py.

    Memory may grow by 16 MB (it does by 4): accounts and names that were made up, what is kept of each former
    session, and the heap's own holes.
    """
    monkeypatch.setattr(logging.getLogger("karoo"), "propagate", False)  # pytest would keep 30,000 records
    fuzz = Fuzz(site, SEED)
    pool, proxy = fuzz.pool, fuzz.proxy
    tally = fuzz.run(100_000)
    print(tally)
    assert tally.handled >= 100_000 and tally.answers > 50_000 and tally.cut > 500
    assert tally.rounds > 20
    assert proxy.metrics.exceptions == 0, site.logged("bug")
    assert len(proxy.sessions) == len(fuzz.crew.miners) == proxy.routes.routes[0].prefixes.held
    assert pool.books.connects == 1 and not pool.books.bad_lines and not proxy.metrics.upstream_losses
    for number in range(len(fuzz.crew.miners)):
        assert not site.booked(proxy, f"honest{number}").refused
    total = site.booked(proxy)
    assert min(total.pool_accepted, total.answered_here) > 100, "nothing but refusals: the lines are damaged too much"
    assert {"malformed", "low difficulty", "duplicate", "stale", "unauthorized"} <= total.refused.keys()
    grown = tally.memory[1] - tally.memory[0]
    assert grown < 16 * MB, str(tally)
    assert tally.greenlets[1] <= tally.greenlets[0], str(tally)
    assert not tally.bad_log_lines
