"""One page of a sorted list is what sorting everything gives."""

import gevent
from hypothesis import given
from hypothesis import strategies as st

from karoo.proxy.pick import page


@given(st.lists(st.tuples(st.integers(0, 5), st.integers())), st.booleans(), st.integers(0, 30), st.integers(1, 20))
def test_a_page_is_a_slice_of_the_whole_in_order(things, descending, offset, limit):
    total, found = page(things, lambda thing: thing[0], descending, offset, limit)
    assert total == len(things)
    assert found == sorted(things, key=lambda thing: thing[0], reverse=descending)[offset:offset + limit]


def test_many_are_sorted_in_runs_while_others_have_their_turn():
    turns = []

    def other():
        while True:
            turns.append(1)
            gevent.sleep(0)
    busy = gevent.spawn(other)
    things = [(n * 7919) % 5003 for n in range(5003)]
    try:
        assert page(things, lambda thing: thing, False, 5000, 10) == (5003, [5000, 5001, 5002])
    finally:
        busy.kill()
    assert len(turns) > 50
