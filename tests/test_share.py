"""Real shares, through every intermediate value."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karoo.stratum import difficulty as dif
from karoo.stratum import share as sh
from karoo.stratum.errors import DuplicateShare, LowDifficulty, StratumError
from karoo.stratum.job import JobTable
from karoo.stratum.methods import Notify, Submit

VECTORS = json.loads((Path(__file__).parent / "vectors" / "shares.json").read_text())["shares"]
SCRYPT = json.loads((Path(__file__).parent / "vectors" / "scrypt.json").read_text())["shares"]
ALL = [("sha256d", vector) for vector in VECTORS] + [("scrypt", vector) for vector in SCRYPT]
by_name = pytest.mark.parametrize(("algorithm", "vector"), ALL, ids=[vector["name"] for _, vector in ALL])


@pytest.fixture(params=["in Python", "in C"], autouse=True)
def work(request, monkeypatch):
    """Every test of a share runs with both."""
    make = sh.Work if request.param == "in Python" else pytest.importorskip("karoo._speed").Work
    monkeypatch.setattr(Case, "make_work", staticmethod(make))


class Case:
    """A vector as the objects that the proxy makes of it."""

    make_work = staticmethod(sh.Work)

    def __init__(self, algorithm, vector):
        self.judge = sh.Judge(algorithm, make_work=self.make_work)
        self.expect = vector["expect"]
        self.extranonce1 = bytes.fromhex(vector["extranonce1"])
        self.mask = int(vector["version_mask"] or "0", 16)
        self.notify = vector["notify"]
        submit = vector["submit"]
        self.submit_params = ["w", vector["notify"][0], submit["extranonce2"], submit["ntime"], submit["nonce"]]
        if vector["submit"]["version_bits"]:
            self.submit_params.append(vector["submit"]["version_bits"])
        self.target = dif.target_of(vector["expect"]["difficulty"] * (1 - 1e-12), self.judge.algorithm.diff1)

    def job(self, notify=None):
        return JobTable(self.judge.algorithm.diff1).add(Notify.parse(notify or self.notify), b"", 1.0)

    def judged(self, notify=None, submit=None, extranonce1=None):
        # a share that is no block, so that only the session's target decides
        job = self.job(notify)
        job.network_target = 0
        return self.judge.judge(job, Submit.parse(submit or self.submit_params), extranonce1 or self.extranonce1,
                                self.mask, self.target, now=0)


@by_name
def test_every_intermediate_value(algorithm, vector):
    case = Case(algorithm, vector)
    job, submit = case.job(), Submit.parse(case.submit_params)
    coinbase = sh.coinbase(job, case.extranonce1, submit.extranonce2)
    assert sh.sha256d(coinbase).hex() == case.expect["coinbase_txid_le"]
    assert sh.merkle_root(coinbase, job.notify.branches).hex() == case.expect["merkle_root"]
    version = sh.rolled_version(job.notify.version, case.mask, submit.version_bits)
    header = sh.build_header(job, case.extranonce1, submit, version)
    assert header.hex() == case.expect["header"]
    assert case.judge.algorithm.hash(header)[::-1].hex() == case.expect["hash"]
    share = case.judged()
    assert share.value == int(case.expect["hash"], 16)
    difficulty = dif.difficulty_of(share.value, case.judge.algorithm.diff1)
    assert difficulty == pytest.approx(case.expect["difficulty"], rel=1e-12)


@by_name
def test_a_share_is_good_up_to_its_difficulty_and_not_above(algorithm, vector):
    case = Case(algorithm, vector)
    assert case.judged().value <= case.target
    case.target = dif.target_of(case.expect["difficulty"] * (1 + 1e-9), case.judge.algorithm.diff1)
    with pytest.raises(LowDifficulty) as caught:
        case.judged()
    assert caught.value.found == pytest.approx(case.expect["difficulty"], rel=1e-9)


def flipped(text, bit=0):
    """Hex digits with one bit of the last byte changed."""
    data = bytearray.fromhex(text)
    data[-1] ^= 1 << bit
    return data.hex()


@by_name
@pytest.mark.parametrize("field", ["prevhash", "coinb1", "coinb2", "branch", "version", "nbits", "ntime of the job"])
def test_a_changed_bit_of_the_job_is_refused(algorithm, vector, field):
    case = Case(algorithm, vector)
    notify = json.loads(json.dumps(case.notify))
    fields = ("", "prevhash", "coinb1", "coinb2", "branch", "version", "nbits", "ntime of the job")
    index = fields.index(field)
    if field == "branch":
        # a block of one transaction has none: then one too many is the change
        notify[4] = [*notify[4][:-1], flipped(notify[4][-1])] if notify[4] else ["00" * 32]
    elif field == "ntime of the job":  # does not stand in the header: only bounds the share's
        notify[7] = f"{int(case.submit_params[3], 16) + 1:08x}"
    else:
        notify[index] = flipped(notify[index], 4 if field == "version" else 0)
    with pytest.raises(StratumError) as caught:
        case.judged(notify=notify)
    assert type(caught.value) is (StratumError if field.startswith("ntime") else LowDifficulty)


@by_name
@pytest.mark.parametrize("index", [2, 3, 4], ids=["extranonce2", "ntime", "nonce"])
def test_a_changed_bit_of_the_submit_is_refused(algorithm, vector, index):
    case = Case(algorithm, vector)
    submit = list(case.submit_params)
    submit[index] = flipped(submit[index], 1)
    if index == 3 and int(submit[3], 16) < int(case.notify[7], 16):
        submit[3] = f"{int(case.submit_params[3], 16) + 4:08x}"
    with pytest.raises(LowDifficulty):
        case.judged(submit=submit)
    with pytest.raises(LowDifficulty):
        case.judged(extranonce1=bytes.fromhex(flipped(case.extranonce1.hex())))


def test_a_changed_version_bit_is_refused():
    case = next(Case("sha256d", vector) for vector in VECTORS if vector["submit"]["version_bits"])
    inside, outside = list(case.submit_params), list(case.submit_params)
    inside[5] = "00004000"
    outside[5] = "00002001"
    with pytest.raises(LowDifficulty):
        case.judged(submit=inside)
    with pytest.raises(StratumError, match="outside the mask"):
        case.judged(submit=outside)


def test_bits_xored_into_a_job_version_inside_the_mask_count_too():
    """Bitaxe and public-pool XOR; the header is the same as that of the BIP 310 share."""
    case = next(Case("sha256d", vector) for vector in VECTORS if vector["submit"]["version_bits"])
    notify = list(case.notify)
    notify[5] = "20004000"  # a bit inside the mask
    submit = list(case.submit_params)
    submit[5] = f"{0x20002000 ^ 0x20004000:08x}"
    share = case.judged(notify=notify, submit=submit)
    assert share.version == 0x20002000


def test_the_second_of_two_equal_shares_is_a_duplicate():
    case = Case("sha256d", VECTORS[0])
    job, submit = case.job(), Submit.parse(case.submit_params)
    case.judge.judge(job, submit, case.extranonce1, 0, case.target, now=0)
    with pytest.raises(DuplicateShare):
        case.judge.judge(job, submit, case.extranonce1, 0, case.target, now=0)


def test_the_share_of_a_former_extranonce1_is_found_under_the_newer():
    case = Case("sha256d", VECTORS[1])
    job, submit = case.job(), Submit.parse(case.submit_params)
    job.network_target = 0
    share = case.judge.judge(job, submit, b"\x00\x01", 0, case.target, now=0, other_extranonce1=case.extranonce1)
    assert share.value == int(case.expect["hash"], 16)


def test_a_block_counts_whatever_the_difficulty():
    case = Case("sha256d", VECTORS[0])
    job = case.job()
    share = case.judge.judge(job, Submit.parse(case.submit_params), case.extranonce1, 0, target=1, now=0)
    assert share.is_block and share.reaches_pool


def test_without_an_algorithm_only_the_form_and_duplicates_are_judged():
    case = Case("none", VECTORS[0])
    job = case.job()
    share = case.judge.judge(job, Submit.parse(case.submit_params), b"any", 0, target=1, now=0)
    assert share.reaches_pool and not share.is_block
    with pytest.raises(DuplicateShare):
        case.judge.judge(job, Submit.parse(case.submit_params), b"any", 0, target=1, now=0)


@pytest.mark.parametrize(("late", "now", "good"), [(-1, 0, False), (0, 0, True), (7200, 0, True), (7201, 0, False),
                                                   (7300, 100, True), (7301, 100, False)])
def test_ntime_from_the_job_to_two_hours_past_the_present(late, now, good):
    case = Case("none", VECTORS[0])
    base = int(case.notify[7], 16)
    submit = Submit.parse([*case.submit_params[:3], f"{base + late:08x}", case.submit_params[4]])
    if good:
        assert case.judge.judge(case.job(), submit, b"", 0, 1, now=base + now).submit is submit
    else:
        with pytest.raises(StratumError, match="ntime"):
            case.judge.judge(case.job(), submit, b"", 0, 1, now=base + now)


@given(st.floats(min_value=1e-12, max_value=1e18))
def test_a_target_is_the_last_value_of_its_difficulty(difficulty):
    target = dif.target_of(difficulty)
    if target == dif.MAX_TARGET:
        assert difficulty < 2.4e-10
    else:  # in whole numbers: target * difficulty <= D1 < (target + 1) * difficulty
        top, bottom = difficulty.as_integer_ratio()
        assert target * top <= dif.DIFF1_SHA256D * bottom < (target + 1) * top
        assert dif.difficulty_of(target) == pytest.approx(difficulty, rel=1e-9)


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf")])
def test_a_difficulty_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="positive"):
        dif.target_of(bad)


def test_nbits():
    assert dif.network_difficulty(0x1D00FFFF) == 1.0
    assert dif.target_of_nbits(0x1D00FFFF) == dif.DIFF1_SHA256D
    assert dif.network_difficulty(0x17034219) == pytest.approx(86_388_558_925_171.02, rel=1e-12)
    for bad in (0, 0x1D800001, 0xFF123456, 0x03000000):
        with pytest.raises(ValueError, match="no target"):
            dif.target_of_nbits(bad)
