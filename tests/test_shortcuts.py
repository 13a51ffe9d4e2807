"""The short ways for the two lines that come with every share: what they read, the long way reads alike."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from karoo.stratum import messages, submitline
from karoo.stratum.errors import Malformed, ProtocolError
from karoo.stratum.messages import Request, Response
from karoo.stratum.methods import Submit, submit_params

names = st.text(st.characters(max_codepoint=0x17F), max_size=12)
u32 = st.integers(0, 2**32 - 1)
forms = st.tuples(st.permutations(["id", "method", "params"]), st.sampled_from([(",", ":"), (", ", ": "), (" ,", ":")]))


def long_way(line):
    """The id and the Submit on a line; None where it is no submit, or a wrong one."""
    try:
        message = messages.parse(line)
        if type(message) is Request and message.method == "mining.submit":
            return message.id, Submit.parse(message.params)
    except (ProtocolError, Malformed):
        return None
    return None


@given(st.integers(-1, 10**19), names, names, st.binary(max_size=8), u32, u32, st.none() | u32, forms)
@example(4, "wallet.rig", "1a", b"\0\0\0\1", 0x68000000, 7, None, (["id", "method", "params"], (",", ":")))
def test_a_submit_is_read_as_the_long_way_reads_it(message_id, user, job_id, extranonce2, ntime, nonce, bits, form):
    order, separators = form
    members = {"id": message_id, "method": "mining.submit",
               "params": submit_params(user, job_id, extranonce2, ntime, nonce, bits)}
    line = json.dumps({name: members[name] for name in order}, separators=separators).encode()
    read = submitline.read(line)
    assert read in (None, long_way(line))


USUAL = ['{"id":%d,"method":"mining.submit","params":[%s]}', '{"id": %d, "method": "mining.submit", "params": [%s]}',
         '{"params": [%s], "id": %d, "method": "mining.submit"}']  # ours, ESP-Miner; cgminer


@pytest.mark.parametrize("form", USUAL)
@pytest.mark.parametrize("bits", ["", ', "00c02000"'])
def test_the_usual_forms_take_the_short_way(form, bits):
    params = f'"wallet.rig7", "6a1", "0000002A", "68000001", "deadBEEF"{bits}'
    line = (form % ((7, params) if form.startswith('{"id"') else (params, 7))).encode()
    version = 0xC02000 if bits else None
    submit = Submit("wallet.rig7", "6a1", b"\0\0\0\x2a", 0x68000001, 0xDEADBEEF, version)
    assert submitline.read(line) == submitline.read(line + b"\r") == (7, submit) == long_way(line)


ODD = [b'{"id":07,"method":"mining.submit","params":["u","j","00","00000000","00000000"]}',
       b'{"id":7,"method":"mining.submit","params":["u","j","000","00000000","00000000"]}',
       b'{"id":7,"method":"mining.submit","params":["u","j","00","0000000","00000000"]}',
       b'{"id":7,"method":"mining.submit","params":["u","j","0 0 ","00000000","00000000"]}',
       b'{"id":7,"method":"mining.submit","params":["u\\u0041","j","00","00000000","00000000"]}',
       b'{"id":7,"method":"mining.submit","params":["u\x01","j","00","00000000","00000000"]}',
       b'{"id":7,"method":"mining.submit","params":["u\xff","j","00","00000000","00000000"]}',
       b'{"id":7,"method":"mining.submit","params":["u","j","00","00000000","00000000","00000000","x"]}',
       b'{"id":7,"method":"mining.submit","params":["u","j","00","00000000","00000000"]} {"id":8}',
       b'{"id":7,"method":"mining.submit","params":["u","j","00","00000000","00000000"],"id":8}',
       b'{"id":"7","method":"mining.submit","params":["u","j","00","00000000","00000000"]}',
       b'{"id":null,"method":"mining.submit","params":["u","j","00","00000000","00000000"]}', b"", b"{}",
       b'{"id":7,"method":"mining.submit","params":["' + b"[" * 65 + b'","j","00","00000000","00000000"]}']


@pytest.mark.parametrize("line", ODD)
def test_anything_else_is_left_to_the_long_way(line):
    assert submitline.read(line) is None


@given(st.integers(-1, 10**19), st.sampled_from([True, False, None, "true"]), st.sampled_from([None, [], "x"]),
       st.permutations(["id", "result", "error"]), st.sampled_from([(",", ":"), (", ", ": ")]), st.booleans())
def test_a_true_answer_is_read_as_the_long_way_reads_it(message_id, result, error, order, separators, with_return):
    members = {"id": message_id, "result": result, "error": error}
    line = json.dumps({name: members[name] for name in order}, separators=separators).encode() + b"\r" * with_return
    taken = messages.taken_id(line)
    if taken is not None:
        assert messages.parse(line) == Response(taken, True, None)


@pytest.mark.parametrize("line", [
    b'{"id":12,"result":true,"error":null}', b'{"id": 12, "result": true, "error": null}',
    b'{"result": true, "error": null, "id": 12}\r', b'{"error": null, "id": 12, "result": true}'])
def test_true_answers_of_known_pools_take_the_short_way(line):
    assert messages.taken_id(line) == 12


@pytest.mark.parametrize("line", [
    b'{"id":012,"result":true,"error":null}', b'{"id":12,"result":false,"error":null}', b'{"id":12,"result":true}x',
    b'{"id":12,"result":true,"error":[20,"x",null]}', b'{"id":"12","result":true,"error":null}', b""])
def test_no_other_answer_does(line):
    assert messages.taken_id(line) is None
