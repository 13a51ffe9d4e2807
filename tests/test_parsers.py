"""Whatever comes in: lines, parameters, names; and the decisions that the house takes on them, against models."""

import json
import math
import random
import re
import tracemalloc
import unicodedata
from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from karoo import log
from karoo.policy.failover import Backoff, PoolOrder
from karoo.policy.held import MAX_CHANGES, HeldDifficulty
from karoo.policy.nonce import PrefixSpace, prefix_size
from karoo.policy.workers import WorkerNames, worker_name
from karoo.stratum import difficulty as dif
from karoo.stratum import job as jobs
from karoo.stratum import messages, methods
from karoo.stratum.errors import Malformed, ProtocolError, StratumError
from karoo.stratum.job import JobTable
from karoo.stratum.messages import Notification, Request, Response
from karoo.stratum.methods import Authorize, Configure, Extranonce, Notify, Submit, Subscribe

# ---------------------------------------------------------------- what peers may say

any_text = st.text(st.characters(exclude_categories=()), max_size=40)  # half surrogates and controls included
short_ints = st.integers() | st.sampled_from([0, -1, 2**31, 2**32, 2**63, 2**64, -(2**64), 10**400, True, False])
scalars = st.none() | st.booleans() | short_ints | st.floats(allow_nan=False, allow_infinity=False) | any_text
hex_like = st.text("0123456789abcdefABCDEF", max_size=40) | st.text("0aF xX+-_.\t\n\u0660\uff11", max_size=9)
long_text = st.sampled_from(["x" * 65, "x" * 513, "é" * 600, "00" * 17, "00" * 32, "00" * 33, "ff" * 32])
values = st.recursive(scalars | hex_like | long_text, lambda inner: (
    st.lists(inner, max_size=6) | st.dictionaries(any_text, inner, max_size=4)), max_leaves=12)
params = values | st.lists(values | hex_like | any_text, max_size=10)
ids = st.integers(-(2**70), 2**70) | any_text | st.floats(allow_nan=False, allow_infinity=False)
method_names = st.sampled_from(["mining.submit", "mining.notify", "x"]) | any_text

# numbers as they may stand in a line; Python's own writer would never write most of them
NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "1e308", "01", "1.", ".5", "+1", "0x10", "-",
           "-0", "1E+2", "18446744073709551616", "9" * 400, "9" * 4300, "9" * 10_000, "1" * 10_000 + ".5",
           "0." + "3" * 10_000]


def strict(line):
    """The value of a line, read by another's rules than ours: no NaN, no Infinity, in UTF-8."""
    def refuse(text):
        raise AssertionError(f"{text} is not JSON")
    return json.loads(line.decode("utf-8"), parse_constant=refuse)


def same(ours, theirs):
    """Equal, and of the same type: 1, 1.0 and true are three things."""
    return json.dumps(ours) == json.dumps(theirs)


def outcome(line):
    """The message on a line, or None where it is refused; anything else is an error."""
    try:
        return messages.parse(line)
    except (ProtocolError, Malformed):
        return None


# ---------------------------------------------------------------- lines

@given(st.binary(max_size=200) | st.text("{}[]\",:0123456789eE+-.\\utrfalsn \t\r", max_size=60).map(str.encode))
@example(b"")
@example(b"\xff\xfe{\x00}\x00")
@example(b"\xef\xbb\xbf{}")
@example(b'{"id":1,"method":"\xed\xa0\x80","params":[]}')
def test_any_bytes_are_a_message_or_refused(line):
    message = outcome(line)
    assert message is None or isinstance(message, (Request, Notification, Response))


@given(params, ids | st.none(), method_names, st.data())
def test_a_damaged_line_is_a_message_or_refused(value, message_id, method, data):
    line = bytearray(messages.request(message_id, method, value))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(line) - 1))
        line[at:at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
        assume(line)
    message = outcome(bytes(line))
    assert message is None or isinstance(message, (Request, Notification, Response))


@pytest.mark.parametrize("text", NUMBERS, ids=lambda text: text[:12] + f"({len(text)})")
@pytest.mark.parametrize("where", ['{"id":%s,"method":"m","params":[]}', '{"id":1,"method":"m","params":[%s]}',
                                   '{"id":1,"method":%s,"params":[]}', '{"id":1,"result":%s,"error":null}',
                                   '{"id":1,"result":null,"error":[%s,"e",null]}'])
def test_a_number_is_taken_as_json_has_it_or_the_line_is_refused(text, where):
    """And what is handed on to others is JSON again: one that is not would have its reader cut the connection."""
    line = (where % text).encode()
    message = outcome(line)
    if message is None:
        return
    theirs = strict(line)
    assert same(message.id, theirs["id"])
    for encode, value in ((messages.result, getattr(message, "result", None)),
                          (messages.error_verbatim, getattr(message, "error", None)),
                          (lambda message_id, sent: messages.request(message_id, "m", sent),
                           getattr(message, "params", None)),
                          (lambda _, sent: messages.notification("m", sent), getattr(message, "params", None))):
        try:
            handed_on = encode(message.id, value)
        except ValueError:  # refused at the last moment: as good
            continue
        strict(handed_on)


@pytest.mark.parametrize("line", [
    b"[" * 1_000_000, b"[" * 1_000_000 + b"]" * 1_000_000, b'{"a":' * 1_000_000,
    b'{"id":1,"method":"m","params":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'"' * 1_000_000,
    b"null", b"1", b'"text"', b"[]", b"{}", b"true", b"[{}]", b"{}{}", b'{"id":1}', b'{"id":1,"method":null}',
    b'{"method":null,"id":1,"params":[]}', b'{"id":1,"method":"a","params":[]} x', b'{"id":1,"method":"a",}',
    b"{'id':1}", b'{"id":1,"method":"a\nb"}', b"\x00", b"\xff", b'{"id":NaN,"method":"a"}',
    b'{"id":1,"method":"a","params":[Infinity]}', b'\xef\xbb\xbf{"id":1,"method":"a"}',
], ids=lambda line: repr(line[:30]))
def test_what_is_no_message_is_a_protocol_error(line):
    with pytest.raises(ProtocolError):
        messages.parse(line)


@pytest.mark.parametrize("member", ['"id":true,"method":"a"', '"id":[],"method":"a"', '"id":{"a":1},"method":"a"',
                                    '"id":1,"method":5', '"id":1,"method":["a"]', '"id":1,"method":false',
                                    '"method":{}'])
def test_an_id_or_a_method_of_a_wrong_type_is_malformed(member):
    with pytest.raises(Malformed):
        messages.parse(b"{%s}" % member.encode())


@given(ids, method_names, params)
@example(0, "m", [])
@example("", "m", None)
@example("4", "m", None)
@example(2**64, "m", {})
@example(-0.0, "m", {})
@example(1e300, "m", {})
@example("\ud800", "\udfff", ["\ud800"])
@example(10**400, "m", {})
def test_requests_come_back_as_they_were_sent_and_ids_verbatim(message_id, method, value):
    line = messages.request(message_id, method, value)
    message = messages.parse(line)
    assert type(message) is Request
    assert same([message.id, message.method, message.params], [message_id, method, value])
    assert same(strict(messages.encode_id(message.id)), strict(line)["id"])
    assert line.decode() and line.count(b"\n") == 1 and line.endswith(b"}\n")


@given(ids, method_names, values)
def test_ids_echo_however_the_line_is_written(message_id, method, value):
    """Other writers put blanks between, another order, or plain UTF-8."""
    members = {"params": value, "jsonrpc": "2.0", "method": method, "id": message_id}
    for text in (json.dumps(members, indent=1).replace("\n", "\t"), json.dumps(members, sort_keys=True),
                 f" {json.dumps(members)}\r\n", json.dumps(members, ensure_ascii=False)):
        line = text.encode("utf-8", "surrogatepass")
        message = outcome(line)
        try:
            line.decode()
        except UnicodeDecodeError:
            assert message is None
        else:
            assert same(json.loads(messages.encode_id(message.id)), message_id)


@given(method_names, params)
def test_notifications_come_back_as_they_were_sent(method, value):
    line = messages.notification(method, value)
    message = messages.parse(line)
    assert type(message) is Notification and same([message.method, message.params], [method, value])
    assert strict(line)["id"] is None
    assert type(messages.parse(json.dumps({"method": method, "params": value}).encode())) is Notification


@given(ids | st.none(), values, any_text, st.integers(0, 99))
def test_answers_come_back_as_they_were_sent(message_id, value, text, code):
    for line, result, fault in (
            (messages.result(message_id, value), value, None),
            (messages.result_true(message_id), True, None),
            (messages.error(message_id, StratumError(text, code)), None, [code, text, None]),
            (messages.error_verbatim(message_id, value), None, value)):
        message = messages.parse(line)
        assert type(message) is Response
        assert same([message.id, message.result, message.error], [message_id, result, fault])
        assert strict(line).keys() == {"id", "result", "error"}
        assert line.endswith(b"}\n") and line.count(b"\n") == 1


def test_the_last_of_two_keys_counts():
    message = messages.parse(b'{"id":1,"id":2,"method":"a","method":"b","params":[1],"params":[2]}')
    assert (message.id, message.method, message.params) == (2, "b", [2])


# ---------------------------------------------------------------- parameters

def is_text(value, longest=methods.MAX_NAME):
    if type(value) is not str or len(value) > longest:
        return False
    return not any("\ud800" <= char <= "\udfff" for char in value)


def is_hex(value, length=None):
    return (type(value) is str and re.fullmatch("(?:[0-9a-fA-F]{2})*", value) is not None
            and (length is None or len(value) == 2 * length))


def is_u32(value):
    return type(value) is str and re.fullmatch("[0-9a-fA-F]{1,8}", value) is not None


def is_positive(value):
    return type(value) in (int, float) and 0 < value <= Fraction(1.7976931348623157e308)


def is_size(value):
    if type(value) is str:
        return re.fullmatch("[0-9]{1,3}", value) is not None and 1 <= int(value) <= 16
    return type(value) is int and 1 <= value <= 16


def is_nbits(value):
    if not is_u32(value):
        return False
    bits = int(value, 16)
    exponent, mantissa = bits >> 24, bits & 0x7FFFFF
    return not bits & 0x800000 and 0 < math.floor(mantissa * Fraction(256) ** (exponent - 3)) < 1 << 256


NOTIFY = ["1f", "00" * 32, "aa", "bb", ["11" * 32], "20000000", "17034219", "68000000", True]

# what parses, parameters that are right, and for each of them what else would be right
METHODS = {
    "configure": (Configure.parse, [["version-rolling"], {"version-rolling.mask": "1fffe000"}], [
        lambda v: type(v) is list and len(v) <= 32 and all(is_text(name, 64) for name in v),
        lambda v: v is None or type(v) is dict]),
    "subscribe": (Subscribe.parse, ["cgminer/4.11", "abcd"], [lambda v: v is None or is_text(v), lambda v: True]),
    "authorize": (Authorize.parse, ["wallet.rig", "x"], [
        lambda v: is_text(v) and v.strip() != "", lambda v: v is None or is_text(v)]),
    "submit": (Submit.parse, ["wallet.rig", "1f", "00000000", "68000000", "1", "00c00000"], [
        lambda v: type(v) is str, lambda v: type(v) is str, is_hex, is_u32, is_u32,
        lambda v: v is None or is_u32(v)]),
    "notify": (Notify.parse, NOTIFY, [
        lambda v: is_text(v, 128), lambda v: is_hex(v, 32), is_hex, is_hex,
        lambda v: type(v) is list and all(is_hex(one, 32) for one in v), is_u32, is_nbits, is_u32,
        lambda v: type(v) is bool]),
    "set_extranonce": (lambda params: Extranonce.parse(*params), ["f000000f", 8], [
        lambda v: is_hex(v) and len(v) <= 32, is_size]),
    "subscribe result": (methods.subscribe_result, [[["mining.notify", "a"]], "f000000f", 8], [
        lambda v: True, lambda v: is_hex(v) and len(v) <= 32, is_size]),
    "suggest_difficulty": (lambda params: methods.positive(params[0], "it"), [0.5], [is_positive]),
    "version mask": (lambda params: methods.u32(params[0], "it"), ["1fffe000"], [is_u32]),
}
WRONG = [None, True, False, 0, 1, -1, 1.5, -0.0, 1e308, 5e-324, 2**32, 2**64, 10**400, "", " ", "0", "zz", "0x10",
         "00 00", "+1", "-1", "00000000 ", "123456789", "\ud800", "nan", "x" * 65, "x" * 513, "0" * 5000, [], [[]],
         [None], ["\ud800"], ["x"] * 33, {}, {"a": 1}, {"version-rolling.mask": 5}]


@pytest.mark.parametrize("name", METHODS)
def test_right_parameters_are_taken(name):
    parse, right, _ = METHODS[name]
    assert parse(right) is not None


def judged(name, index, value):
    """One parameter replaced: taken where it is right, Malformed where it is not, nothing else ever."""
    parse, right, checks = METHODS[name]
    given_params = [*right[:index], value, *right[index + 1:]]
    expected = checks[index](value)
    if name == "configure" and index == 1 and type(value) is dict:
        expected = is_u32(value.get("version-rolling.mask", "ffffffff"))
    try:
        parse(given_params)
    except Malformed as fault:
        assert not expected, (name, index, value, fault.message)
        assert fault.code == 20 and fault.message
        strict(messages.error(1, fault))
    else:
        assert expected, (name, index, value)


@pytest.mark.parametrize(("name", "index"), [(name, index) for name, (_, right, _) in METHODS.items()
                                             for index in range(len(right))])
def test_wrong_values_of_every_parameter_are_malformed(name, index):
    for value in WRONG:
        judged(name, index, value)


@given(st.sampled_from(sorted(METHODS)), st.integers(0, 8), values)
def test_any_value_of_any_parameter_is_taken_or_malformed(name, index, value):
    judged(name, index % len(METHODS[name][1]), value)


@pytest.mark.parametrize("parse", [Configure.parse, Subscribe.parse, Authorize.parse, Submit.parse, Notify.parse,
                                   methods.subscribe_result, methods.configure_mask],
                         ids=lambda parse: parse.__qualname__)
@given(value=params)
def test_any_parameters_at_all_are_taken_or_malformed(parse, value):
    try:
        assert parse(value) is not None
    except Malformed as fault:
        strict(messages.error(1, fault))


@pytest.mark.parametrize("name", ["configure", "authorize", "submit", "notify", "subscribe result"])
def test_too_few_parameters_are_malformed(name):
    parse, right, _ = METHODS[name]
    needed = {"configure": 1, "authorize": 1, "submit": 5, "notify": 9, "subscribe result": 3}[name]
    for count in range(needed):
        with pytest.raises(Malformed):
            parse(right[:count])
    assert parse(right[:needed]) is not None
    assert parse([*right, None, "more"]) is not None
    for no_list in (None, {}, "text", 5, True):
        with pytest.raises(Malformed):
            parse(no_list)


@given(st.dictionaries(st.sampled_from(["version-rolling.mask", "minimum-difficulty.value", "x"]), values),
       st.lists(st.sampled_from([methods.VERSION_ROLLING, methods.MINIMUM_DIFFICULTY, methods.EXTRANONCE_SUBSCRIBE,
                                 "info", "x"]), max_size=6))
def test_configure_holds_what_was_asked_and_nothing_else(options, names):
    mask = options.get("version-rolling.mask", "ffffffff")
    minimum = options.get("minimum-difficulty.value")
    asks_minimum = methods.MINIMUM_DIFFICULTY in names and "minimum-difficulty.value" in options
    right = ((methods.VERSION_ROLLING not in names or is_u32(mask)) and (not asks_minimum or is_positive(minimum)))
    if not right:
        with pytest.raises(Malformed):
            Configure.parse([names, options])
        return
    asked = Configure.parse([names, options])
    assert asked.version_mask == (int(mask, 16) if methods.VERSION_ROLLING in names else None)
    assert asked.minimum_difficulty == (float(minimum) if asks_minimum else None)
    assert asked.subscribe_extranonce == (methods.EXTRANONCE_SUBSCRIBE in names)
    answered = {methods.VERSION_ROLLING, methods.EXTRANONCE_SUBSCRIBE} | (
        {methods.MINIMUM_DIFFICULTY} if asks_minimum else set())
    assert list(asked.unknown) == [name for name in names if name not in answered]


@given(any_text, any_text, st.binary(max_size=16), *[st.integers(0, 2**32 - 1)] * 2,
       st.none() | st.integers(0, 2**32 - 1))
def test_submits_come_back_as_they_were_sent(user, job_id, extranonce2, ntime, nonce, bits):
    sent = methods.submit_params(user, job_id, extranonce2, ntime, nonce, bits)
    assert all(len(number) == 8 for number in sent[3:])
    got = Submit.parse(messages.parse(messages.request(4, "mining.submit", sent)).params)
    assert got == Submit(user, job_id, extranonce2, ntime, nonce, bits)


@given(st.integers(0, 2**32 - 1), st.integers(0, 7), st.booleans())
def test_numbers_are_padded_on_the_left(number, padding, upper):
    text = f"{number:x}".rjust(min(8, len(f"{number:x}") + padding), "0")
    assert methods.u32(text.upper() if upper else text, "the nonce") == number


hashes = st.binary(min_size=32, max_size=32)
notifies = st.builds(
    lambda job_id, prevhash, coinb1, coinb2, branches, version, ntime, clean: Notify(
        job_id, prevhash, coinb1, coinb2, tuple(branches), version, 0x17034219, ntime, clean,
        dif.target_of_nbits(0x17034219)),
    st.text(max_size=20), hashes, st.binary(max_size=80), st.binary(max_size=80), st.lists(hashes, max_size=4),
    st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.booleans())


@given(notifies, any_text, st.booleans())
def test_jobs_come_back_as_they_were_sent(notify, name, clean):
    assert Notify.parse(notify.params(notify.job_id, notify.clean)) == notify
    line = messages.notification("mining.notify", notify.params(notify.job_id, clean))
    assert Notify.parse(messages.parse(line).params).clean is clean
    assert notify.params(name, clean)[0] == name


@given(values, values)
def test_every_refusal_has_a_code_and_words(error, reason):
    code, text = methods.error_words(error, reason)
    assert type(code) is int and type(text) is str and 0 < len(text) <= 200


@given(st.none() | any_text | st.lists(values, max_size=4) | st.lists(st.lists(any_text, max_size=3), max_size=4))
def test_whatever_stands_for_the_subscriptions_gives_a_session_id_or_none(first):
    session_id, extranonce = methods.subscribe_result([first, "f000000f", "4"])
    assert session_id is None or type(session_id) is str
    assert extranonce == Extranonce(bytes.fromhex("f000000f"), 4)


# ---------------------------------------------------------------- difficulty

difficulties = st.floats(5e-324, 1.7976931348623157e308)
usual = st.floats(1e-12, 1e18)


@given(difficulties, st.sampled_from([dif.DIFF1_SHA256D, dif.DIFF1_SCRYPT]))
@example(1.0, dif.DIFF1_SHA256D)
@example(1e-9, dif.DIFF1_SCRYPT)
def test_a_target_is_the_highest_hash_that_reaches_the_difficulty(difficulty, diff1):
    target = dif.target_of(difficulty, diff1)
    assert 0 <= target <= dif.MAX_TARGET
    assert target * Fraction(difficulty) <= diff1
    if target < dif.MAX_TARGET:
        assert (target + 1) * Fraction(difficulty) > diff1


@given(usual, usual)
def test_a_higher_difficulty_has_no_higher_target_and_targets_turn_back(one, other):
    low, high = sorted((one, other))
    assert dif.target_of(low) >= dif.target_of(high)
    if dif.target_of(one) < dif.MAX_TARGET:
        assert dif.difficulty_of(dif.target_of(one)) == pytest.approx(one, rel=1e-9)


@pytest.mark.parametrize("wrong", [0, -1, -0.0, math.nan, math.inf, -math.inf])
def test_what_is_no_difficulty_has_no_target(wrong):
    with pytest.raises(ValueError, match="difficulty"):
        dif.target_of(wrong)


@given(st.integers(0, 2**32 - 1))
@example(0x1D00FFFF)
@example(0x01003456)
@example(0x04923456)
@example(0xFF7FFFFF)
def test_nbits_are_a_target_or_refused(nbits):
    if is_nbits(f"{nbits:08x}"):
        exponent, mantissa = nbits >> 24, nbits & 0x7FFFFF
        assert dif.target_of_nbits(nbits) == math.floor(mantissa * Fraction(256) ** (exponent - 3))
        assert dif.network_difficulty(nbits) > 0
    else:
        with pytest.raises(ValueError, match="nbits"):
            dif.target_of_nbits(nbits)


def test_known_difficulties():
    assert dif.target_of(1) == dif.target_of_nbits(0x1D00FFFF) == 0xFFFF << 208
    assert dif.network_difficulty(0x1D00FFFF) == 1
    assert dif.difficulty_of(0) == math.inf
    assert dif.hashrate(1, 1) == pytest.approx(2**32, rel=1e-4)
    assert dif.hashrate(1, 1, dif.DIFF1_SCRYPT) == pytest.approx(2**16, rel=1e-4)
    assert dif.hashrate(5, 0) == 0


# ---------------------------------------------------------------- prefixes

@given(st.integers(1, 16), st.none() | st.integers(0, 12))
def test_a_miner_keeps_a_size_that_miners_handle(size, setting):
    own = size - prefix_size(size, setting)
    assert 1 <= own <= size
    if setting is None:
        assert own == (4 if size >= 5 else 2 if size >= 2 else 1)
    else:
        assert own in (1, 2, 4, 8) and (size - own >= setting or own == 1)
        assert 2 * own > 8 or 2 * own > size - setting, "less than it could keep"


@pytest.mark.parametrize(("size", "asked", "there"), [(8, 70_000, 70_000), (6, 65_537, 65_536), (3, 300, 256),
                                                      (4, 65_540, 65_536), (2, 2, 1), (1, 2, 1)])
def test_no_two_of_many_sessions_get_one_prefix(size, asked, there):
    space = PrefixSpace(prefix_size(size))
    taken = [space.take(1) for _ in range(asked)]
    assert all(prefix is None for prefix in taken[there:])
    assert len(set(taken[:there])) == there == space.held
    assert {len(prefix) for prefix in taken[:there]} == {prefix_size(size)}


class Prefixes(RuleBasedStateMachine):
    """Sessions come and go while jobs come and go. The laws are checked, not the way in which they are kept."""

    held = Bundle("held")
    gone = Bundle("gone")

    @initialize(size=st.sampled_from([0, 1, 1, 4]), busy=st.integers(0, 256))
    def start(self, size, busy):
        self.space = PrefixSpace(size)
        self.oldest, self.newest = 1, 0
        self.live = {}  # prefix -> session id
        self.freed = {}  # prefix -> (last job, session id), the one freed first in front
        self.spare = set()  # freed, and no job stands for them
        self.used = set()
        self.sessions = 0
        for _ in range(min(busy, self.space.capacity - 1)):  # sessions that never leave
            self.seated(self.space.take(self.oldest), "stays")

    def seated(self, prefix, session_id):
        assert prefix not in self.live, "two holders of one prefix"
        assert len(prefix) == self.space.size
        self.live[prefix] = session_id
        self.used.add(prefix)
        self.freed.pop(prefix, None)
        self.spare.discard(prefix)

    @rule(clean=st.booleans())
    def job(self, clean):
        self.newest += 1
        self.oldest = self.newest if clean else max(self.oldest, self.newest - 5)

    @rule()
    def pool_cleared_every_job(self):
        self.oldest = self.newest + 1

    def a_seat(self, former):
        """A prefix for whoever has no claim on one of the freed."""
        self.sessions += 1
        prefix = self.space.take(self.oldest, former)
        first = next(iter(self.freed), None)
        if prefix is None:
            assert len(self.used) == self.space.capacity and not self.spare, "a prefix was there"
            assert first is None or self.freed[first][0] >= self.oldest, "a prefix was free again"
            return multiple()
        if prefix in self.freed:
            assert prefix == first, "not the one that was freed first"
            assert self.freed[prefix][0] < self.oldest, "its jobs still count"
        self.seated(prefix, str(self.sessions))
        return prefix, str(self.sessions)

    @rule(target=held, stranger=st.sampled_from([None, "unknown", "stays"]))
    def comes(self, stranger):
        return self.a_seat(stranger)

    @rule(target=held, former=consumes(gone))
    def comes_back(self, former):
        """It gets its own again, if nobody else has had it by now."""
        own = [prefix for prefix, (_, session_id) in self.freed.items() if session_id == former]
        if not own:
            return self.a_seat(former)
        self.sessions += 1
        assert self.space.take(self.oldest, former) == own[0]
        self.seated(own[0], str(self.sessions))
        return own[0], str(self.sessions)

    @rule(target=gone, session=consumes(held), worked=st.sampled_from([True, True, False]))
    def leaves(self, session, worked):
        prefix, session_id = session
        self.space.release(prefix, self.newest if worked else -1, session_id)
        if worked:
            self.freed[prefix] = self.newest, session_id
        else:
            self.spare.add(prefix)
        del self.live[prefix]
        return session_id

    @rule(prefix=st.binary(max_size=4))
    def releases_what_it_does_not_hold(self, prefix):
        if prefix not in self.live:
            self.space.release(prefix, self.newest, "nobody")

    @rule()
    def pool_gives_another_extranonce(self):
        """No job of before counts, and no former session has a claim; the numbers of the jobs go on."""
        self.space.forget_jobs()
        self.oldest = self.newest + 1
        self.spare |= self.freed.keys()
        self.freed.clear()

    @invariant()
    def as_many_are_held_as_sessions_live(self):
        if hasattr(self, "space"):
            assert self.space.held == len(self.live)


TestPrefixes = Prefixes.TestCase


def test_a_session_that_comes_back_has_no_claim_on_a_prefix_that_another_had_since():
    """The other's shares of a job that still counts would be found once more."""
    space = PrefixSpace(0)
    prefix = space.take(1)
    space.release(prefix, 1, "first")
    assert space.take(2) == prefix  # job 1 is gone
    space.release(prefix, 2, "second")
    assert space.take(2, "first") is None
    assert space.take(2, "second") == prefix


def test_sessions_that_come_and_go_for_ever_take_no_memory_for_ever():
    """And a search among them that takes ever longer at each subscribe."""
    space = PrefixSpace(prefix_size(8))

    def churn(first, count):
        for number in range(first, first + count):
            space.release(space.take(number), number - 1, f"{number:08x}")

    tracemalloc.start()
    try:
        churn(1, 150_000)
        before, _ = tracemalloc.get_traced_memory()
        churn(150_001, 50_000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 1_000_000, f"{(after - before) / 50_000:.0f} bytes are kept of each session that ever was"


# ---------------------------------------------------------------- names

@pytest.mark.parametrize(("user", "name"), [
    ("anything.rig7", "rig7"), ("rig7", "rig7"), ("a.b.c", "b.c"), ("wallet.", "wallet"), (".rig", "rig"),
    (" a.rig \r\n", "rig"), ("a.ri\x00g\x1b[31m", "rig[31m"), ("a.ri\u2028g", "rig"), ("a.\ud800rig", "rig"),
    ("", "worker"), ("\n", "worker"), (".", "worker"), ("a.\x07", "a"), ("a.<b>", "<b>"), ("a.%s%n", "%s%n")])
def test_worker_names(user, name):
    assert worker_name(user) == name


@given(any_text)
@example("..")
@example("...")
@example("a..")
@example("a. \x00")
def test_a_worker_name_is_never_empty_and_holds_no_control_character(user):
    for name in (worker_name(user), WorkerNames("passthrough", "w").account(user),
                 WorkerNames("suffix", "w").account(user)):
        assert name
        assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in name), repr(name)
    assert worker_name(user) == "worker" or set(worker_name(user)) <= set(user), "made up"


@given(st.text("ab1-_", min_size=1), st.text("ab1-_.", max_size=9), st.sampled_from(["wallet", "wallet.x"]))
def test_names_at_the_pool(account, rig, wallet):
    user = f"{account}.{rig}"
    assert WorkerNames("suffix", wallet).upstream_user(user) == f"{wallet}.{worker_name(user)}"
    assert WorkerNames("suffix", f"{wallet}.{{worker}}").upstream_user(user) == f"{wallet}.{worker_name(user)}"
    assert WorkerNames("suffix", f"{{worker}}@{wallet}").upstream_user(user) == f"{worker_name(user)}@{wallet}"
    assert WorkerNames("single", f"{wallet}.{{worker}}").upstream_user(user) == wallet
    assert WorkerNames("single", wallet).upstream_user(user) == wallet
    assert WorkerNames("passthrough", wallet).upstream_user(user) == user
    for mode in ("suffix", "single", "passthrough"):
        assert WorkerNames(mode, f"{wallet}.{{worker}}").default_user == wallet
        assert WorkerNames(mode, wallet).default_user == wallet


def test_a_worker_called_like_the_place_for_its_name_is_only_that():
    assert WorkerNames("suffix", "w.{worker}").upstream_user("a.{worker}") == "w.{worker}"
    assert WorkerNames("suffix", "w").upstream_user("a.{0}{worker!r}%s") == "w.{0}{worker!r}%s"


# ---------------------------------------------------------------- failover

class Extreme(random.Random):
    """Always the lowest, or always the highest."""

    def __init__(self, highest):
        super().__init__()
        self.highest = highest

    def uniform(self, a, b):
        return b if self.highest else a


@given(st.floats(0.01, 10), st.floats(1, 1000), st.integers(1, 25), st.randoms(use_true_random=False))
def test_waits_double_with_jitter_between_their_bounds(shortest, times, failures, rng):
    longest = shortest * times
    backoff, low, high = (Backoff(shortest, longest, one) for one in (rng, Extreme(False), Extreme(True)))
    for failure in range(failures):
        step = min(shortest * 2**failure, longest)
        wait, _ = backoff.failed()
        assert step / 2 <= wait <= step
        assert shortest / 2 <= wait <= longest
        assert (low.failed()[0], high.failed()[0]) == (pytest.approx(step / 2), pytest.approx(step))
    backoff.succeeded()
    assert shortest / 2 <= backoff.failed()[0] <= shortest


def test_proxies_do_not_knock_in_time():
    waits = {Backoff(1, 30, random.Random(seed)).failed()[0] for seed in range(50)}
    assert len(waits) == 50 and max(waits) - min(waits) > 0.4


@given(st.integers(1, 4), st.lists(st.tuples(st.sampled_from(["fails", "works", "time"]), st.integers(0, 3),
                                             st.floats(0, 40)), max_size=40), st.integers())
def test_the_first_pool_whose_wait_is_over_is_next(count, events, seed):
    rng = random.Random(seed)
    order = PoolOrder([Backoff(1, 30, rng) for _ in range(count)])
    now, due = 1000.0, [0.0] * count
    for what, index, seconds in events:
        index %= count
        if what == "time":
            now += seconds
        elif what == "works":
            order.succeeded(index)
            due[index] = 0.0
        else:
            wait = order.failed(index, now)
            assert 0.5 <= wait <= 30
            due[index] = now + wait
        chosen, wait = order.next(now)
        ready = [one for one in range(count) if due[one] <= now]
        if ready:
            assert (chosen, wait) == (ready[0], 0.0)
        else:
            assert due[chosen] == min(due) and wait == due[chosen] - now > 0
            assert order.next(due[chosen])[1] == 0.0


# ---------------------------------------------------------------- the difficulty that a session holds

class Held(RuleBasedStateMachine):
    """A share for a job is judged by the lowest difficulty that was in force since the job before its own was sent,
    and booked by the highest."""

    def __init__(self):
        super().__init__()
        self.held = HeldDifficulty(dif.DIFF1_SHA256D)
        self.newest = 0
        self.in_force = []  # every difficulty, in the order in which they were told
        self.since = {}  # job -> how many were told when the job before it was sent
        self.sent = 0  # how many were told when the last job was sent

    @initialize(difficulty=usual)
    def first(self, difficulty):
        assert self.held.difficulty == 0
        self.change(difficulty)

    def change(self, difficulty):
        self.held.change(difficulty)
        self.in_force.append(difficulty)

    @rule(skipped=st.integers(0, 3), difficulty=st.none() | st.sampled_from([0.5, 1.0, 2.0, 4.0]) | usual,
          keep=st.integers(1, 5))
    def job(self, skipped, difficulty, keep):
        """With a new difficulty in front of it, or without; some of the former jobs are gone."""
        if difficulty is not None:
            self.change(difficulty)
        self.newest += 1 + skipped
        self.since[self.newest] = self.sent
        for job in sorted(self.since)[:-keep]:
            del self.since[job]
        self.sent = len(self.in_force)
        self.held.sent(self.newest, min(self.since))

    @rule(difficulty=st.sampled_from([0.5, 1.0, 2.0, 4.0]) | usual)
    def difficulty_alone(self, difficulty):
        self.change(difficulty)

    @invariant()
    def every_job_is_judged_by_what_was_in_force(self):
        if self.in_force:
            assert self.held.difficulty == self.in_force[-1]
        for job, since in self.since.items():
            known = self.in_force[max(since - 1, 0):]
            measure = self.held.measure(job)
            if len(self.in_force) <= MAX_CHANGES:  # else older ones are taken together, in favour of the miner
                assert (measure.lowest, measure.highest) == (min(known), max(known))
            assert min(self.in_force) <= measure.lowest <= min(known) <= max(known) <= measure.highest
            assert measure.lowest_target == dif.target_of(measure.lowest)
            assert measure.highest_target == dif.target_of(measure.highest)

    @invariant()
    def a_job_to_come_is_judged_by_what_was_in_force_since_the_last(self):
        if self.in_force and len(self.in_force) <= MAX_CHANGES:
            known = self.in_force[max(self.sent - 1, 0):]
            assert self.held.measure(self.newest + 1).lowest == min(known)


TestHeld = Held.TestCase


def test_a_difficulty_long_past_is_forgotten():
    held = HeldDifficulty(dif.DIFF1_SHA256D)
    held.change(1.0)
    for job in range(1, 100):
        held.change(1.0 + job)
        held.sent(job, job)
    assert held.measure(99).lowest == 99.0


@pytest.mark.parametrize("changes", [10, 32, 40, 1000])
def test_however_often_the_difficulty_rose_a_share_is_judged_by_that_of_its_job(changes):
    """A miner that works on a job of which it was told difficulty 1 finds shares of difficulty 1."""
    held = HeldDifficulty(dif.DIFF1_SHA256D)
    held.change(1.0)
    held.sent(7, 7)
    for step in range(changes):
        held.change(2.0 + step)
    measure = held.measure(7)
    assert (measure.lowest, measure.highest) == (1.0, 1.0 + changes)


@given(usual, usual, st.integers(0, dif.MAX_TARGET))
def test_a_share_is_booked_by_the_higher_of_two_difficulties_or_not_at_all(one, other, value):
    held = HeldDifficulty(dif.DIFF1_SHA256D)
    held.change(one)
    held.sent(1, 1)
    held.change(other)
    work = held.measure(1).work(value)
    assert work == (max(one, other) if value <= dif.target_of(max(one, other)) else 0)


def test_however_often_the_difficulty_changed_what_is_remembered_is_bounded():
    held = HeldDifficulty(dif.DIFF1_SHA256D)
    tracemalloc.start()
    try:
        for step in range(20_000):
            held.change(1.0 + step)
            if step % 3 == 0:
                held.sent(step + 1, 1)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 1_000_000  # an unbounded memory of them takes 3 MB


# ---------------------------------------------------------------- the table of jobs

WORKS = [Notify.parse([*NOTIFY[:2], f"{work:02x}", *NOTIFY[3:]]) for work in range(3)]


def notify_of(job_id, work, clean):
    base = WORKS[work]
    return Notify(job_id, base.prevhash, base.coinb1, base.coinb2, base.branches, base.version, base.nbits,
                  base.ntime, clean, base.network_target)


class Table(RuleBasedStateMachine):
    """Jobs under ids that come again, some of them like the names that the table itself makes."""

    def __init__(self):
        super().__init__()
        self.table = JobTable()
        self.live = {}  # name towards the miners -> job, oldest first
        self.gone = set()
        self.seen = set()  # the pool's ids
        self.seq, self.clean_seq = 0, 0
        self.current = None

    @rule(job_id=st.sampled_from(["1", "2", "1.2", "1.3", "1.4", "2.3", "2.5", "1.3.5"]) | st.text(max_size=3),
          work=st.integers(0, 2), clean=st.booleans(), extranonce1=st.sampled_from([b"\x01", b"\x02"]),
          difficulty=st.sampled_from([1.0, 0.5]))
    def add(self, job_id, work, clean, extranonce1, difficulty):
        job = self.table.add(notify_of(job_id, work, clean), extranonce1, difficulty)
        if self.current == (job_id, work, extranonce1):
            assert job is None, "said again, sent again"
            kept = self.table.current
            assert (kept.difficulty, kept.target) == (difficulty, dif.target_of(difficulty)), "what the pool asks now"
            if clean:
                self.gone |= self.live.keys() - {kept.wire_id}
                self.live = {kept.wire_id: kept}
            return
        self.seq += 1
        if clean:
            self.forget_all()
        assert job is not None and job.seq == self.seq and job.clean_seq == self.clean_seq
        assert job.wire_id not in self.live, "two jobs that count under one name"
        assert job.wire_id not in self.gone, "a stale job's name for another one"
        if job_id not in self.seen and job_id not in self.gone and job_id not in self.live:
            assert job.wire_id == job_id
        assert (job.extranonce1, job.difficulty, job.target) == (extranonce1, difficulty, dif.target_of(difficulty))
        assert strict(job.id_json) == job_id
        for line, flag in ((job.line, clean), (job.clean_line, True)):
            sent = messages.parse(line)
            assert (sent.method, sent.params) == ("mining.notify", job.notify.params(job.wire_id, flag))
        self.live[job.wire_id] = job
        self.seen.add(job_id)
        self.current = (job_id, work, extranonce1)

    def forget_all(self):
        self.gone |= self.live.keys()
        self.live.clear()
        self.current = None
        self.clean_seq = self.seq

    @rule()
    def clear(self):
        self.table.clear()
        self.forget_all()
        self.clean_seq = self.seq + 1

    @invariant()
    def it_knows_the_live_and_only_those(self):
        assert len(self.table) == len(self.live)
        for name, job in self.live.items():
            assert self.table.get(name) is job
        for name in self.gone:
            assert self.table.get(name) is None
        assert self.table.seq == self.seq
        assert self.table.oldest_seq == min((job.seq for job in self.live.values()), default=self.seq + 1)
        newest = max(self.live.values(), key=lambda job: job.seq, default=None)
        assert self.table.current is newest


TestTable = Table.TestCase


def test_a_made_up_name_never_takes_the_place_of_a_jobs_own():
    """The pool reuses an id for other work while another of its ids looks like the name we would make."""
    table = JobTable()
    first, second, third = (table.add(notify_of(job_id, work, False), b"", 1.0)
                            for job_id, work in (("7", 0), ("7.3", 1), ("7", 2)))
    assert len({first.wire_id, second.wire_id, third.wire_id}) == 3
    assert [table.get(job.wire_id) for job in (first, second, third)] == [first, second, third]


def test_the_table_is_bounded_and_forgets_the_oldest():
    table = JobTable()
    added = [table.add(notify_of(f"{number:x}", 0, False), b"", 1.0) for number in range(3 * jobs.MAX_JOBS)]
    assert len(table) == jobs.MAX_JOBS
    assert table.current is added[-1]
    assert all(table.get(job.wire_id) is None for job in added[:-jobs.MAX_JOBS])
    assert all(table.get(job.wire_id) is job for job in added[-jobs.MAX_JOBS:])
    assert table.oldest_seq == added[-jobs.MAX_JOBS].seq


def test_a_pool_that_counts_from_one_again_gets_other_names():
    table = JobTable()
    for _ in range(3):
        names = [table.add(notify_of(str(number), number % 3, number == 0), b"", 1.0).wire_id for number in range(20)]
        assert len(set(names)) == 20
    assert names[0] != "0" and strict(table.get(names[0]).id_json) == "0"


# ---------------------------------------------------------------- the log

@given(any_text)
@example("\n2026-01-31 12:00:00 ERROR   karoo  forged")
@example("\x1b[2J\x1b]0;title\x07")
@example("\u202egnp.exe\u2066")
@example("a\tb")
@example("\x85\x9b31m\u2028\u2029\ud800")
def test_what_is_logged_steers_no_terminal(text):
    clean = log.clean(text)
    clean.encode()
    assert not re.search("[\u2028\u2029\u202a-\u202e\u2066-\u2069]", clean)
    assert {char for char in clean if unicodedata.category(char) == "Cc"} <= {"\n"}
    assert log.clean(clean) == clean
    if text.isprintable():
        assert clean == text
