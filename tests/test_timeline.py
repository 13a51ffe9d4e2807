"""What happened, as pages show it: in order, by kind, and bounded whatever happens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karoo import timeline
from karoo.timeline import Timeline


def test_the_latest_comes_first_and_only_what_was_not_seen_yet():
    line = Timeline()
    line.note("start", "Karoo started")
    line.note("pool up", "the pool is up", pool="a")
    line.note("ban", "somebody is banned", timeline.WARNING, address="10.0.0.1")
    assert [one.kind for one in line.after()] == ["ban", "pool up", "start"]
    assert [one.id for one in line.after(1)] == [3, 2]
    assert [one.text for one in line.after(0, ["pool up"])] == ["the pool is up"]
    assert not list(line.after(line.last_id))
    plain = next(line.after()).plain()
    assert (plain["severity"], plain["details"]) == ("warning", {"address": "10.0.0.1"})


def test_a_kind_that_nobody_knows_is_a_bug():
    with pytest.raises(ValueError, match="'oops' is no kind"):
        Timeline().note("oops", "")


@given(st.lists(st.sampled_from(["cut", "pool lost", "ban"]), max_size=200))
def test_a_crowd_of_cuts_pushes_nothing_else_out(kinds):
    line = Timeline()
    line.note("block", "a block")
    for kind in [*kinds, *["cut"] * (timeline.KEPT + 10)]:
        line.note(kind, "x" * 10_000)
    cuts = list(line.after(0, ["cut"]))
    assert len(cuts) == timeline.KEPT_OF_CROWDS["cut"] and cuts[0].id == line.last_id
    assert [one.kind for one in line.after() if one.kind != "cut"] == [
        *reversed([kind for kind in kinds if kind != "cut"]), "block"]
    assert max(len(one.text) for one in line.after()) <= timeline.MAX_TEXT


def test_of_many_happenings_the_oldest_go():
    line = Timeline()
    for number in range(timeline.KEPT + 5):
        line.note("failover", str(number))
    kept = list(line.after())
    assert (len(kept), kept[-1].text) == (timeline.KEPT, "5")
