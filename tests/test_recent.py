"""The last shares of a worker: a ring of bytes gives back what was put in, the latest first."""

import math

from hypothesis import given
from hypothesis import strategies as st

from karoo.accounting import recent
from karoo.accounting.recent import RecentShares
from karoo.stratum.difficulty import DIFF1_SHA256D as DIFF1

shares = st.builds(
    dict, at=st.floats(1e9, 4e9), value=st.integers(0, (1 << 256) - 1),
    needed=st.floats(0, 1e300), waited=st.floats(0, 100),
    verdict=st.sampled_from([recent.HERE, recent.POOL, recent.REFUSED_HERE, recent.REFUSED_BY_POOL]),
    job_id=st.text(st.characters(exclude_characters="\0"), max_size=20))


def same(shown, kept):
    return shown is None if not kept else math.isclose(shown, kept, rel_tol=1e-5)


@given(st.lists(shares, max_size=130))
def test_the_ring_keeps_the_latest(added):
    ring = RecentShares()
    for number, share in enumerate(added):
        ring.add(**{**share, "job_id": share["job_id"].encode("utf-8", "replace")})
        if share["verdict"] in (recent.REFUSED_HERE, recent.REFUSED_BY_POOL):
            ring.explain(f"reason {number}", f"words {number}")
    shown = list(ring.latest(DIFF1))
    expected = list(enumerate(added))[-recent.KEPT:][::-1]
    assert len(shown) == len(expected)
    for one, (number, share) in zip(shown, expected, strict=True):
        refused = share["verdict"] in (recent.REFUSED_HERE, recent.REFUSED_BY_POOL)
        by_pool = share["verdict"] in (recent.POOL, recent.REFUSED_BY_POOL)
        assert one["verdict"] == ("rejected" if refused else "accepted")
        assert one["by"] == ("pool" if by_pool else "proxy")
        assert (one["reason"], one["words"]) == ((f"reason {number}", f"words {number}") if refused else ("", ""))
        assert one["unix"] == round(share["at"], 3)
        assert share["job_id"].encode("utf-8", "replace").startswith(one["job"].encode())
        value = share["value"]
        assert same(one["difficulty"], DIFF1 / value if value else 0.0) and same(one["needed"], share["needed"])
        assert (one["latency_ms"] is not None) == by_pool


def test_long_words_are_cut():
    ring = RecentShares()
    ring.add(1e9, 1.0, 1.0, 0.0, recent.REFUSED_BY_POOL, b"job")
    ring.explain("r" * 1000, "w" * 1000)
    (one,) = ring.latest(DIFF1)
    assert len(one["reason"]) == len(one["words"]) == recent.MAX_WORDS
