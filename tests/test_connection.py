"""The protocol of one connection: every frame in every state, in both roles, and what the maps must hold."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import feed

from vanilla.protocol import frames
from vanilla.protocol.connection import ALLOWED, APART, DEAF, FIELDS, KINDS, TOGETHER, Connection
from vanilla.protocol.errors import ProtocolError
from vanilla.protocol.frames import (
    ACK,
    ADMIN,
    CANCEL,
    CLOSE,
    CREDIT,
    DATA,
    END,
    ERROR,
    FAIL,
    GO_AWAY,
    HELLO,
    MORE,
    NACK,
    NAMES,
    OPEN,
    PING,
    SENT,
    STATUS,
    TOUCH,
    WANT,
    pack_control,
    pack_head,
)

ID = b"0123456789abcdef"
#: A map for each control frame that will do on either side.
MAPS = {
    HELLO: {"v": 1, "id": ID, "frame": 1 << 20},
    OPEN: {"kind": "push", "name": "jobs"},
    CREDIT: {"n": 1, "b": 1, "epoch": 0},
    WANT: {"n": 1},
    ACK: {"r": [0, 1]},
    NACK: {"r": [0, 1]},
    STATUS: {"broker": {}, "endpoints": []},
    ERROR: {"code": "TOO_MANY", "text": "x"},
    GO_AWAY: {"drain": 1},
    FAIL: {"count": 1, "code": "X", "text": "x", "by": "server"},
    END: {"n": 1},
    CANCEL: {"r": [0, 1]},
    TOUCH: {"r": [0, 1]},
    SENT: {"b": 0},
    ADMIN: {"do": "count", "name": "jobs", "n": 1},
}


def packed(kind, channel, fields=None):
    if kind & ~MORE < HELLO:
        body = b"\x80\x01" if kind & ~MORE == frames.DATA_OPTIONS else b"\x01"
        return pack_head(kind, channel, 0, len(body), len(body)) + body
    return pack_control(kind, channel, 0, MAPS.get(kind, {}) if fields is None else fields)


def in_state(side, state):
    """A connection whose channel 1, or which itself, is in this state."""
    made = Connection(side, bytearray(512))
    if state == "hello":
        return made, 0
    made.state = "ready"
    made.reader = type(made.reader)(made.limit, bytearray(512))
    if state in ("ready", "none"):
        return made, int(state == "none")
    made.channels[1] = state
    return made, 1


def code(made, data):
    """The code with which it refuses *data*; None: it does not."""
    try:
        list(feed(made, data))
    except ProtocolError as error:
        return error.code
    return None


# -- the table of states


@pytest.mark.parametrize("kind", NAMES, ids=NAMES.get)
@pytest.mark.parametrize(("side", "state"), ALLOWED)
def test_a_frame_may_come_in_the_states_of_the_table_and_in_no_other(side, state, kind):
    made, channel = in_state(side, state)
    said = code(made, packed(kind, channel))
    assert said == (None if kind in ALLOWED[side, state] else "BAD_STATE")


@pytest.mark.parametrize("kind", sorted(set(range(256)) - set(NAMES)))
@pytest.mark.parametrize("side", ["broker", "client"])
def test_a_type_that_is_not_in_the_table_is_no_frame(side, kind):
    made, channel = in_state(side, "ready")
    assert code(made, pack_head(kind, channel, 0, 1, 1) + b"\x80") == "BAD_FRAME"


@pytest.mark.parametrize("kind", NAMES, ids=NAMES.get)
@pytest.mark.parametrize("side", ["broker", "client"])
def test_before_the_hello_there_are_no_channels(side, kind):
    assert code(Connection(side, bytearray(512)), packed(kind, 1)) == "BAD_STATE"


#: (side, state before, frame) -> state after, wherever that is another.
MOVES = {
    ("broker", "hello", HELLO): "ready",
    ("client", "hello", HELLO): "ready",
    ("broker", "none", OPEN): "push",
    **{("broker", kind, CLOSE): "none" for kind in KINDS},
    ("broker", "ended", CLOSE): "none",
    ("client", "closing", CLOSE): "none",
    **{("client", kind, ERROR): "ended" for kind in KINDS},
}


@pytest.mark.parametrize(("side", "state"), ALLOWED)
def test_frames_that_come_move_the_state_as_drawn(side, state):
    for kind in ALLOWED[side, state]:
        made, channel = in_state(side, state)
        list(feed(made, packed(kind, channel)))
        after = made.channels.get(channel, "none") if channel else made.state
        assert after == MOVES.get((side, state, kind), state), NAMES[kind]


@pytest.mark.parametrize(("side", "state"), [pair for pair in ALLOWED if pair[1] in DEAF and ALLOWED[pair]])
def test_what_comes_on_a_channel_that_has_ended_is_passed_over_but_for_close(side, state):
    for kind in ALLOWED[side, state]:
        made, channel = in_state(side, state)
        assert [event.kind for event in feed(made, packed(kind, channel))] == ([CLOSE] if kind == CLOSE else [])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_channel_that_is_opened_is_in_the_state_of_its_kind(kind):
    broker, client = in_state("broker", "none")[0], in_state("client", "none")[0]
    client.opening(1, kind)
    list(feed(broker, packed(OPEN, 1, {"kind": kind, "name": "x"})))
    assert client.channels == broker.channels == {1: kind}
    assert all((side, kind) in ALLOWED for side in ("broker", "client"))


def test_an_unknown_kind_of_endpoint_ends_the_channel_and_not_the_connection():
    made, _ = in_state("broker", "none")
    (event,) = feed(made, packed(OPEN, 1, {"kind": "telepathy", "name": "x"}))
    assert event.payload["kind"] == "telepathy"
    assert made.channels == {1: "ended"}


def test_our_own_frames_move_the_state():
    broker, client = in_state("broker", "none")[0], in_state("client", "none")[0]
    client.opening(1, "push")
    list(feed(broker, packed(OPEN, 1)))
    assert client.channels == broker.channels == {1: "push"}
    broker.ending(1)
    list(feed(client, packed(ERROR, 1)))
    assert client.channels == broker.channels == {1: "ended"}
    client.closing(1)
    assert client.channels == {1: "closing"}


@pytest.mark.parametrize("channel", [0, -1, 1 << 32, 5])
def test_a_client_cannot_open_a_number_that_is_none_or_in_use(channel):
    made, _ = in_state("client", "none")
    made.opening(5, "pull")
    with pytest.raises(ValueError):
        made.opening(channel, "push")


def test_a_number_is_free_again_only_when_the_answer_to_close_has_come():
    made, _ = in_state("client", "none")
    made.opening(5, "pull")
    made.closing(5)
    with pytest.raises(ValueError):
        made.opening(5, "pull")
    list(feed(made, pack_control(CLOSE, 5)))
    made.opening(5, "pull")


def test_whoever_handles_an_event_may_change_what_the_next_frame_means():
    """A channel is refused while the frames behind its OPEN are there already: they are passed over."""
    made, _ = in_state("broker", "none")
    stream = packed(OPEN, 1) + packed(WANT, 1) + packed(DATA, 1) + packed(CLOSE, 1) + packed(PING, 0)
    seen = []
    for event in feed(made, stream):
        seen.append(event.kind)
        if event.kind == OPEN:
            made.ending(1)
    assert seen == [OPEN, CLOSE, PING]


@pytest.mark.parametrize("kind", [frames.REPLY, frames.PART], ids=NAMES.get)
@pytest.mark.parametrize(("side", "state"), [("broker", "serve"), ("client", "call")])
def test_an_answer_cannot_say_that_there_is_more(side, state, kind):
    made, channel = in_state(side, state)
    assert code(made, pack_head(kind | MORE, channel, 0, 1, 1) + b"\x00") == "BAD_FRAME"


@pytest.mark.parametrize(("asks", "answers"), [("call", "serve"), ("serve", "call")])
def test_what_a_broker_passes_on_may_go_on_where_it_came_from(asks, answers):
    """What one side of a service sends, the other can be sent: requests and cancelling, answers, credit of streams."""
    sent = ALLOWED["broker", asks] - {WANT, NACK, CLOSE}
    assert sent <= ALLOWED["client", answers]


def test_what_came_before_an_error_counts():
    made, _ = in_state("broker", "push")
    seen = []
    with pytest.raises(ProtocolError, match="BAD_STATE"):
        for event in feed(made, packed(DATA, 1) + packed(WANT, 1) + packed(HELLO, 0) + packed(PING, 0)):
            seen.append(event.kind)
    assert seen == [DATA, WANT]


def test_the_end_of_the_stream_is_an_eoferror():
    with pytest.raises(EOFError):
        list(Connection("broker", bytearray(512)).read(lambda buffers: 0))


# -- the hello and its limits


@pytest.mark.parametrize("side", ["broker", "client"])
def test_the_first_frame_is_limited_and_the_next_ones_are_not(side):
    hello = {**MAPS[HELLO], "x": "y" * 5000}
    assert code(Connection(side, bytearray(512)), packed(HELLO, 0, hello)) == "TOO_BIG"
    made = Connection(side, bytearray(512))
    assert code(made, packed(HELLO, 0) + pack_control(PING, 0, 0, {"x": "y" * 5000})) is None


def test_a_client_cannot_raise_the_limit_of_a_broker():
    made = Connection("broker", bytearray(512), 8192)
    list(feed(made, packed(HELLO, 0, {"v": 1, "id": ID, "frame": 1 << 30})))
    assert made.limit == made.reader.limit == 8192
    assert code(made, pack_head(DATA, 1, 0, 1, 8192)) == "TOO_BIG"


def test_a_delivery_may_be_longer_than_the_limit_in_the_hello():
    made = Connection("client", bytearray(512))
    list(feed(made, packed(HELLO, 0, {"v": 1, "id": ID, "frame": 8192})))
    made.opening(1, "pull")
    most = 8192 + 4096 - frames.COUNTED_BYTES
    assert code(made, pack_head(DATA, 1, 0, 1, most + 1)) == "TOO_BIG"
    made.reader = type(made.reader)(made.limit, bytearray(512))  # after an error a reader must not be used again
    assert code(made, pack_head(DATA, 1, 0, 1, most)) is None


@pytest.mark.parametrize("version", [0, 2, 1 << 40])
@pytest.mark.parametrize("side", ["broker", "client"])
def test_another_version_is_refused_before_all_else(side, version):
    assert (
        code(Connection(side, bytearray(512)), packed(HELLO, 0, {"v": version, "id": "of another form"})) == "VERSION"
    )


@pytest.mark.parametrize("side", ["broker", "client"])
@pytest.mark.parametrize("version", [None, "1", True, -1, 1.0])
def test_a_version_that_is_no_number_is_a_bad_map(side, version):
    assert code(Connection(side, bytearray(512)), packed(HELLO, 0, {**MAPS[HELLO], "v": version})) == "BAD_MAP"


# -- maps


@pytest.mark.parametrize("side", ["broker", "client"])
@pytest.mark.parametrize("kind", FIELDS, ids=NAMES.get)
def test_a_map_without_a_field_that_is_needed_is_refused(side, kind):
    states = [state for who, state in ALLOWED if who == side and kind in ALLOWED[who, state]]
    for state in states[:1]:
        for key, field in FIELDS[kind].items():
            made, channel = in_state(side, state)
            without = {k: v for k, v in MAPS.get(kind, {}).items() if k != key}
            needed = field.required in (side, "both")
            assert code(made, packed(kind, channel, without)) == ("BAD_MAP" if needed else None), key


@pytest.mark.parametrize(("kind", "together"), TOGETHER.items())
def test_fields_that_belong_together_are_refused_alone(kind, together):
    values = {"limit": [1, 1], "epoch": 1}
    for key in together:
        assert code(in_state("broker", "push")[0], packed(kind, 1, {key: values[key]})) == "BAD_MAP"
    assert code(in_state("broker", "push")[0], packed(kind, 1, values)) is None


@pytest.mark.parametrize(("kind", "apart"), APART.items())
def test_fields_that_contradict_each_other_are_refused(kind, apart):
    values = {"delay": 1, "back": True, "dead": "x"}
    for key in apart:
        alone = {"r": [0, 1], key: values[key]}
        assert code(in_state("broker", "pull")[0], packed(kind, 1, alone)) is None
        for other in set(apart) - {key}:
            assert code(in_state("broker", "pull")[0], packed(kind, 1, {**alone, other: values[other]})) == "BAD_MAP"


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=5).filter(lambda key: key not in ("n", "b", "epoch")), st.integers() | st.text(max_size=5)
    )
)
def test_fields_that_are_not_known_are_passed_over(extra):
    fields = {"n": 1, "b": 2, "epoch": 3, **{key: value for key, value in extra.items() if type(value) is str}}
    (event,) = feed(in_state("client", "push")[0], packed(CREDIT, 1, fields))
    assert event.payload == fields


@pytest.mark.parametrize("length", [frames.CONTROL_LIMIT, frames.CONTROL_LIMIT + 1])
def test_a_control_frame_to_the_broker_is_limited_and_one_to_the_client_is_not(length):
    room = length - (len(pack_control(PING, 0, 0, {"x": b"x" * 70_000})) - 5 - 70_000)
    data = pack_control(PING, 0, 0, {"x": b"x" * (room if room > 65535 else room + 2)})
    assert len(data) - 5 == length
    assert code(in_state("broker", "ready")[0], data) == ("BAD_MAP" if length > frames.CONTROL_LIMIT else None)
    assert code(in_state("client", "ready")[0], data) is None


@pytest.mark.parametrize("side", ["broker", "client"])
@pytest.mark.parametrize("kind", [kind for kind in FIELDS if kind != HELLO], ids=NAMES.get)
def test_numbers_are_below_two_to_the_63(side, kind):
    states = [state for who, state in ALLOWED if who == side and kind in ALLOWED[who, state]]
    for state in states:
        made, channel = in_state(side, state)
        body = msgpack.packb(MAPS.get(kind, {}))
        assert code(made, pack_head(kind, channel, 1 << 63, 1, len(body)) + body) == "BAD_SEQUENCE"


@pytest.mark.parametrize(("first", "said"), [(frames.MAX_FIRST, None), (frames.MAX_FIRST + 1, "BAD_SEQUENCE")])
def test_the_first_number_leaves_room_for_those_that_follow(first, said):
    assert code(in_state("broker", "none")[0], pack_control(OPEN, 1, first, MAPS[OPEN])) == said


# -- anything at all

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)  # which is not even equal to itself
    | st.text(max_size=5)
    | st.binary(max_size=17),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)
names = st.sampled_from(sorted({key for fields in FIELDS.values() for key in fields}))
maps = st.sampled_from(list(MAPS.values())).flatmap(
    lambda base: st.dictionaries(names, anything, max_size=3).map(lambda extra: {**base, **extra})
)
any_frames = st.builds(
    lambda kind, channel, fields: packed(kind, channel, None if kind < HELLO else fields),
    st.sampled_from(list(NAMES)),
    st.integers(0, 10),
    maps,
)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(["broker", "client"]), st.lists(any_frames, max_size=8), st.integers(1, 60))
def test_any_frames_are_events_or_an_error_and_the_same_in_pieces(side, stream, size):
    joined = packed(HELLO, 0) + b"".join(stream)

    def run(pieces):
        made = Connection(side, bytearray(512))
        made.channels.update(enumerate([*sorted(KINDS), "closing" if side == "client" else "ended"], 1))
        events = []
        try:
            for piece in pieces:
                for event in feed(made, piece):
                    control = isinstance(event.payload, dict)
                    # A client's arrays are lent until the next read.
                    events.append(event if control else event._replace(payload=bytes(event.payload)))
        except ProtocolError as error:
            return error.code, made.channels, made.state
        return events, made.channels, made.state

    pieces = [joined[at : at + size] for at in range(0, len(joined), size)]
    assert run([joined]) == run(pieces)
