"""The wire itself: every vector read in every way, and ``docs/protocol.md`` held against the code."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import msgpack
import pytest
import vectors
from peers import Peer, data

import vanilla
from vanilla.broker import admin, session, stream
from vanilla.broker.endpoint import LONE_FIRST_MESSAGES
from vanilla.broker.options import Options
from vanilla.protocol import connection, errors, frames, options, scan, terms
from vanilla.protocol.frames import HELLO, NAMES, PING, pack_control

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")


def examples(text, name):
    """The vectors in a part of the document."""
    fenced = re.findall(r"```wire\n(.*?)```", text, re.DOTALL)
    return [vectors.parse(f"{name} {number}", one) for number, one in enumerate(fenced, 1)]


FILES = vectors.files()
_BEFORE, _SESSIONS = DOCUMENT.split("## 19. Whole sessions")
EXAMPLES = examples(_BEFORE, "example")
#: Of a session each vector needs the state that the one before left behind.
SESSIONS = {
    name: examples(text, name)
    for name, text in re.findall(r"^### (.*?)\n(.*?)(?=^##)", _SESSIONS, re.DOTALL | re.MULTILINE)
}
IN_SESSIONS = [vector for session in SESSIONS.values() for vector in session]
ALL = FILES + EXAMPLES

every_session = pytest.mark.parametrize("name", SESSIONS)
every_vector = pytest.mark.parametrize("vector", ALL, ids=lambda vector: vector.name)


def expected(vector):
    return vector.events, vector.error


def split_points(size):
    """Every point of a short vector; of a long one those near its ends, and some."""
    points = (
        set(range(1, size)) if size < 1_000 else {*range(1, 100), *range(size - 100, size), *range(100, size, 9_973)}
    )
    return sorted(points)


# -- vectors


@every_vector
def test_a_vector_reads_as_it_says(vector):
    assert vectors.outcome(vector, [vector.data]) == expected(vector)


@every_vector
def test_a_vector_reads_the_same_byte_by_byte(vector):
    pieces = [vector.data[at : at + 1] for at in range(len(vector.data))]
    assert vectors.outcome(vector, pieces) == expected(vector)


@every_vector
def test_a_vector_reads_the_same_split_at_every_point(vector):
    for at in split_points(len(vector.data)):
        assert vectors.outcome(vector, [vector.data[:at], vector.data[at:]]) == expected(vector), at


@every_vector
def test_a_vector_reads_the_same_with_bytes_behind_it(vector):
    behind = b"\xc6\x00" if vector.error else pack_control(PING, 0, 99)
    over = vector.state == "ready" or any(event[0] == HELLO for event in vector.events)
    more = [] if vector.error or not over else [(PING, 0, 99, 1, {})]
    events, error = vectors.outcome(vector, [vector.data + behind])
    if over or vector.error:
        assert (events, error) == (vector.events + more, vector.error)
    else:
        assert (events, error) == (vector.events, "BAD_STATE")  # the hello is still to come


@every_vector
def test_nothing_comes_out_of_a_frame_that_is_cut_short(vector):
    for at in split_points(len(vector.data)):
        events, error = vectors.outcome(vector, [vector.data[:at]])
        assert events == vector.events[: len(events)]
        assert len(events) <= whole_frames(vector.data[:at])
        assert error in (None, vector.error)


def whole_frames(data):
    """How many frames are whole in *data*, going by their lengths."""
    count = at = 0
    while len(data) >= at + 5 and len(data) >= at + 5 + int.from_bytes(data[at + 1 : at + 5], "big"):
        at += 5 + int.from_bytes(data[at + 1 : at + 5], "big")
        count += 1
    return count


@pytest.mark.parametrize(
    "vector",
    [v for v in FILES + EXAMPLES + IN_SESSIONS if v.canonical and not v.error and "passed-over" not in v.name],
    ids=lambda v: v.name,
)
def test_the_same_values_are_written_as_the_same_bytes(vector):
    assert b"".join(map(vectors.encode, vector.events)) == vector.data


@pytest.mark.parametrize("vector", [v for v in ALL if not v.error], ids=lambda v: v.name)
def test_any_msgpack_library_reads_a_frame_with_two_calls(vector):
    unpacker = msgpack.Unpacker(max_buffer_size=1 << 30)
    unpacker.feed(vector.data)
    read = []
    for content in unpacker:
        kind, channel, seq, objects = msgpack.unpackb(content, strict_map_key=False, timestamp=1)
        read.append((kind, channel, seq, len(objects), objects if kind < HELLO else objects[0]))
    assert [event for event in read if event in vector.events] == vector.events


@pytest.mark.parametrize("kind", NAMES, ids=NAMES.get)
def test_there_is_a_vector_for_each_type_in_each_direction(kind):
    for side in "broker", "client":
        if any(kind in kinds for (who, _), kinds in connection.ALLOWED.items() if who == side):
            assert any(event[0] == kind for vector in FILES if vector.to == side for event in vector.events)


@pytest.mark.parametrize("kind", NAMES, ids=NAMES.get)
def test_the_document_shows_each_type(kind):
    assert kind == frames.DATA_OPTIONS | frames.MORE or any(
        event[0] == kind for v in EXAMPLES + IN_SESSIONS for event in v.events
    )


@pytest.mark.parametrize("kind", [frames.REPLY, frames.PART, frames.FAIL, frames.END, frames.CANCEL], ids=NAMES.get)
def test_the_document_shows_what_a_broker_passes_on_in_both_directions(kind):
    assert {v.to for v in EXAMPLES for event in v.events if event[0] == kind} == {"broker", "client"}


# -- the document's tables


def table(*head):
    """The rows of the document's table with these headings, without backquotes."""
    lines = DOCUMENT.splitlines()
    start = lines.index("| " + " | ".join(head) + " |")
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(tuple(cell.strip().strip("`") for cell in line.strip("|").split("|")))
    return rows


def receivers(kind):
    return {side for (side, _), kinds in connection.ALLOWED.items() if kind in kinds}


def test_the_table_of_types_is_that_of_the_code():
    words = {"both": {"broker", "client"}, "to the broker": {"broker"}, "to the client": {"client"}}
    rows = table("type", "name", "direction", "channel", "seq", "what it is")
    assert {int(number, 16): name for number, name, *_ in rows} == NAMES
    assert all(words[direction] == receivers(int(number, 16)) for number, _, direction, *_ in rows)


def test_the_table_of_states_is_that_of_the_code():
    said = {}
    for side, state, names in table("receiver", "state", "may come"):
        said[side, state] = (
            frozenset() if names == "nothing" else frozenset(vectors.TYPES[n] for n in names.split(", "))
        )
    assert said == connection.ALLOWED


def test_the_drawing_of_states_is_that_of_the_code():
    squeezed = [re.sub(r"\s+", " ", text) for text in (DOCUMENT, connection.__doc__)]
    drawing = re.search(r"broker: none -OPEN->.*?ended -\(sends CLOSE\)-> closing", squeezed[1])
    assert drawing and drawing[0] in squeezed[0]


def test_the_drawing_of_a_frame_is_that_of_the_code():
    drawing = re.search(r"offset  0  1.*?u32\n", DOCUMENT, re.DOTALL)
    assert drawing and drawing[0].split() == frames.__doc__.partition("::")[2].partition("so any")[0].split()


DEATH = {"endpoint": "jobs", "reason": "BAD", "attempts": 1, "accepted": 900, "died": 50}
NO_DEATHS = [
    *({key: value for key, value in DEATH.items() if key != missing} for missing in DEATH),
    *({**DEATH, key: None} for key in (*DEATH, "last_consumer")),
]
#: What the document calls a field's type, and examples of what it is and is not.
KINDS = {
    "integer, 0 to 2^63 - 1": ([0, 2**63 - 1], [-1, 2**63, True, 1.0, "1", None]),
    "bin of 16 bytes": ([bytes(16)], [bytes(15), bytes(17), "x" * 16]),
    "integer, 1 to 2^63 - 1": ([1, 2**63 - 1], [0, -1, 2**63, True, 1.0, "1", None]),
    "integer, 1 to 2^32 - 1": ([1, 2**32 - 1], [0, -1, 2**32, True, 1.0, "1", None]),
    "integer, 0 to 9": ([0, 9], [-1, 10, True, 1.0, "1", None]),
    "map of at most 4,096 bytes": (
        [{}, {"a": [1, None]}, {"a": "x" * 4090}],
        [[], None, {b"a": 1}, {"a": "x" * 4091}],
    ),
    "list of names": (
        [[], [None], ["a", b"a", "x" * 255, b"x" * 255]],
        [None, {}, "a", [""], [b""], ["x" * 256], ["é" * 128], [b"x" * 256], [5], [True], [["a"]]],
    ),
    "text": (["", "é"], [b"x", 1, None]),
    "integer, 4096 to 2^30": ([4096, 1 << 30], [4095, (1 << 30) + 1, True, 5000.0]),
    "integer, 1 to 255": ([1, 64, 255], [0, 256, True, 2.0, "1"]),
    "list of two integers": ([[0, 1]], [[0], [0, 1, 2], [0, -1], 5, [0, "1"]]),
    "bin or text of 16 to 256 bytes": (
        [bytes(16), bytes(256), "x" * 16, "é" * 8, "é" * 128],
        [bytes(15), bytes(257), "x" * 15, "é" * 129, "", 10**16, None, [1] * 16],
    ),
    "ranges": ([[0, 1], [0, 1, 1, 1]], [[], [0], [0, 0], "x"]),
    "boolean": ([True, False], [0, 1, None]),
    "text of 1 to 100 characters": (["x", "é" * 100], ["", "x" * 101, "a\nb", b"x", "\x85"]),
    "text of 1 to 64 characters": (["x", "é" * 64, "not there"], ["", "x" * 65, "a\nb", b"x", "\x85", 5]),
    "broker or server": (["broker", "server"], ["client", "", "Broker", b"broker", None]),
    "map": ([{}], [[], None]),
    "count, peek, purge or replay": (list(connection.ORDERS), ["", "Count", b"peek", 1, None]),
    "map of a death": ([DEATH, {**DEATH, "last_consumer": "x", "more": 1}], [{}, None, *NO_DEATHS]),
    "list": ([[]], [{}, None]),
}


def accepts(field, value):
    try:
        return field.check(value)
    except errors.ProtocolError:
        return False


def test_the_table_of_fields_is_that_of_the_code():
    rows = table("frame", "field", "is", "needed by", "what it says")
    said = {(name, field): (needed, what) for name, field, _, needed, what in rows if field}
    assert said == {(NAMES[k], f): (x.required, x.what) for k, fs in connection.FIELDS.items() for f, x in fs.items()}
    assert {name for name, field, *_ in rows if not field} == {
        NAMES[k] for k, fs in connection.FIELDS.items() if not fs
    }
    for name, field, kind, *_ in rows:
        if field:
            right, wrong = KINDS[kind]
            check = connection.FIELDS[vectors.TYPES[name]][field]
            assert all(accepts(check, value) for value in right), (name, field)
            assert not any(accepts(check, value) for value in wrong), (name, field)


def test_the_rules_of_fields_are_those_of_the_code():
    said = {rule: {} for rule in ("together or not at all", "one at most")}
    for name, rule, names in table("frame", "rule", "fields"):
        said[rule][vectors.TYPES[name]] = tuple(name.strip("`") for name in names.split(", "))
    assert said == {"together or not at all": connection.TOGETHER, "one at most": connection.APART}


def test_the_table_of_codes_is_that_of_the_code():
    assert {code: text for code, _, text in table("code", "ends the", "meaning")} == errors.CODES


def test_the_table_of_rejections_is_that_of_the_code():
    assert dict(table("rejection", "what happened")) == errors.REJECTIONS


def test_the_table_of_failures_is_that_of_the_code():
    assert dict(table("failure", "what happened")) == errors.FAILURES


def test_the_table_of_options_is_that_of_the_code():
    rows = table("channel", "option", "is", "what it says")
    said = {channel: {option for kind, option, *_ in rows if kind == channel} - {""} for channel, *_ in rows}
    assert said == {channel: set(known) for channel, known in options.OPTIONS.items()}
    assert set(said) == connection.KINDS
    for channel, option, kind, _ in rows:
        if option:
            right, wrong = KINDS[kind]
            check = options.OPTIONS[channel][option]
            assert all(map(check, right)), (channel, option)
            assert not any(map(check, wrong)), (channel, option)


def test_the_table_of_endpoint_options_is_that_of_the_code():
    rows = table("endpoint option", "is", "what it means")
    assert rows == [(name, term.is_, term.what) for name, term in terms.TERMS.items()]


def test_the_table_of_a_death_is_that_of_the_code():
    said = [key for key, _, _ in table("key", "is", "what it says")]
    assert said == [*options.DEATH, "last_consumer"]


def test_the_limits_are_those_of_the_code():
    said = [int(value.split()[0]) for _, value, _ in table("limit", "default", "what happens beyond it")]
    assert said == [
        frames.HELLO_LIMIT,
        Options.frame_bytes,
        frames.HELLO_LIMIT,
        frames.MAX_FRAME_LIMIT,
        frames.EXTRA_BYTES,
        frames.CONTROL_LIMIT,
        frames.CONTROL_DEPTH,
        scan.DEPTH,
        Options.hello_ms,
        Options.connections,
        Options.connections_per_address,
        Options.handshakes,
        Options.channels,
        session.UNCLOSED,
        Options.endpoints,
        Options.capacity,
        Options.memory,
        Options.capacity_bytes,
        Options.unsettled_bytes,
        Options.output_bytes,
        stream.AHEAD_BYTES,
        Options.max_attempts,
    ]
    assert session.LAST_WORDS_MS == 1_000 and Options.backoff_ms == 1_000 and admin.PAGE == 100


@pytest.mark.parametrize("what", [admin.describe, admin.describe_broker], ids=lambda what: what.__name__)
def test_the_document_names_each_key_of_a_status(what):
    keys = re.findall(r'^        "(\w+)":', inspect.getsource(what), re.MULTILINE)
    assert keys
    assert [key for key in keys if f"`{key}`" not in DOCUMENT] == []


def test_every_section_is_in_the_list_of_contents():
    anchors = re.findall(r"^\* \[(.*?)\]\(#.*?\)$", DOCUMENT, re.MULTILINE)
    assert anchors == re.findall(r"^## (.*)$", DOCUMENT, re.MULTILINE)


def test_the_code_in_the_document_is_that_of_the_example():
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    assert code in (ROOT / "examples" / "minimal_client.py").read_text()


# -- the document against a broker


def test_the_document_has_a_session_of_each_kind_of_endpoint():
    opened = [
        {e[4]["kind"] for v in session for e in v.events if e[0] == frames.OPEN and v.to == "broker"}
        for session in SESSIONS.values()
    ]
    assert opened == [{"push", "pull"}, {"call", "serve"}]


@every_session
def test_a_session_in_the_document_is_what_a_broker_says(name):
    with vanilla.Hub() as h, h.broker.listen("tcp://127.0.0.1:0") as broker:
        peer = Peer(h, broker.urls[0], hello=False)
        for vector in SESSIONS[name]:
            if vector.to == "broker":
                peer.send(vector.data)
                continue
            kind, channel, seq, count, array = peer.next()
            if kind == HELLO:  # the id and the version are the broker's own
                assert set(msgpack.unpackb(array)[0]) == {"v", "id", "agent", "frame"}
            else:
                head = frames.pack_head(kind, channel, seq, count, len(array) - frames.ARRAY_HEAD_BYTES)
                assert (head + array[frames.ARRAY_HEAD_BYTES :]).hex(" ") == vector.data.hex(" ")
        peer.close()


@every_session
def test_a_session_is_in_order_for_both_of_its_sides(name):
    sides = {side: connection.Connection(side, bytearray(4096)) for side in ("broker", "client")}
    for vector in SESSIONS[name]:
        ((kind, channel, _, _, payload),) = vector.events
        if vector.to == "broker" and kind == frames.OPEN:
            sides["client"].opening(channel, payload["kind"])
        if vector.to == "broker" and kind == frames.CLOSE:
            sides["client"].closing(channel)
        receiver = sides[vector.to]
        assert [
            vectors.decode(event, receiver.channels.get(event.channel, ""))
            for event in vectors.feed(receiver, vector.data)
        ] == vector.events
    assert sides["broker"].channels == sides["client"].channels == {}


def test_what_comes_behind_a_refused_open_is_passed_over(h):
    """A client need not wait for the answer to OPEN before it uses the channel."""
    with h.broker.listen("tcp://127.0.0.1:0", endpoints=1) as broker:
        peer = Peer(h, broker.urls[0])
        peer.open(1, "pull", "the only one")
        peer.expect(frames.OPEN)
        opened = pack_control(frames.OPEN, 2, 0, {"kind": "push", "name": "one more"})
        wanted = pack_control(frames.WANT, 2, 0, {"n": 1, "b": 1})
        closed = pack_control(frames.CLOSE, 2)
        again = pack_control(frames.OPEN, 2, 0, {"kind": "pull", "name": "the only one"})
        credit = pack_control(frames.CREDIT, 2, 0, {"n": 1, "b": 1})
        peer.send(opened + wanted + closed + again + credit + pack_control(PING, 0, 5))
        said = [peer.next()[0] for _ in range(4)]
        assert said == [frames.ERROR, frames.CLOSE, frames.OPEN, frames.PONG]
        peer.close()


def test_what_was_accepted_before_an_offence_is_confirmed_before_the_error(h):
    with h.broker.listen("tcp://127.0.0.1:0") as broker:
        peer = Peer(h, broker.urls[0])
        peer.open(1, "push", "jobs")
        peer.expect(frames.CREDIT)
        peer.send(data(1, 0, [1, 2]) + b"\x00")
        assert peer.fields(frames.ACK) == {"r": [0, 2]}
        assert peer.next()[0] == frames.ERROR
        assert peer.gone()
        assert broker.endpoints["jobs"].ready_n == 2
        peer.close()


def test_refused_channels_that_are_never_closed_end_the_connection(h):
    with h.broker.listen("tcp://127.0.0.1:0") as broker:
        peer = Peer(h, broker.urls[0])
        for channel in range(1, session.UNCLOSED + 2):
            peer.open(channel, "telepathy", "jobs")
        while (frame := peer.next())[1]:
            assert frame[0] == frames.ERROR
        assert msgpack.unpackb(frame[4])[0]["code"] == "TOO_MANY"
        assert peer.gone()
        peer.close()


def test_a_delivery_keeps_to_the_limit_in_the_hello(h):
    """Batches that share a frame do not make it longer than one producer's may be."""
    with h.broker.listen("tcp://127.0.0.1:0", frame_bytes=4096) as broker:
        peer = Peer(h, broker.urls[0])
        peer.open(1, "push", "jobs")
        peer.expect(frames.CREDIT)
        for number in range(10):
            peer.send(data(1, number, [b"x" * 4000]))
        while broker.endpoints["jobs"].ready_n < 10:
            peer.expect(frames.ACK)
        peer.open(2, "pull", "jobs")
        peer.credit(2)
        lengths = [len(peer.expect(frames.DATA)[4]) for _ in range(10)]
        assert max(lengths) <= 4096
        peer.close()


def test_the_largest_first_number_leaves_room_for_credit(h):
    with h.broker.listen("tcp://127.0.0.1:0") as broker:
        peer = Peer(h, broker.urls[0])
        peer.open(1, "push", "jobs", first=frames.MAX_FIRST)
        assert peer.fields(frames.CREDIT)["n"] == frames.MAX_FIRST + LONE_FIRST_MESSAGES
        peer.send(data(1, frames.MAX_FIRST, [1]))
        assert peer.fields(frames.ACK) == {"r": [frames.MAX_FIRST, 1]}
        peer.close()


@pytest.fixture
def address():
    """A broker in a process of its own."""
    command = [sys.executable, "-m", "vanilla.broker", "--listen", "tcp://127.0.0.1:0", "--capacity", "50"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process.stdout.readline().split("//")[1].strip()
        finally:
            process.kill()


def minimal(*arguments, **keywords):
    command = [sys.executable, str(ROOT / "examples" / "minimal_client.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, **keywords)


def test_the_minimal_client_pushes_and_pulls_through_a_broker(address):
    items = [{"id": 1}, "two", [3.5, None, True]]
    minimal(address, "push", "jobs", *map(json.dumps, items))
    assert [json.loads(line) for line in minimal(address, "pull", "jobs", 3).stdout.splitlines()] == items


def test_the_minimal_client_waits_for_credit(address):
    """More messages than the queue holds, and larger ones than the first credit: WANT is needed for both."""
    items = [str(number) * (1 if number % 20 else 2_000) for number in range(200)]
    pulling = [sys.executable, str(ROOT / "examples" / "minimal_client.py"), address, "pull", "jobs", "201"]
    with subprocess.Popen(pulling, stdout=subprocess.PIPE, text=True) as consumer:
        minimal(address, "push", "jobs", *map(json.dumps, items))
        minimal(address, "push", "jobs", json.dumps("x" * 100_000))
        took = [json.loads(line) for line in consumer.stdout]
    assert took == [*items, "x" * 100_000]


def test_the_minimal_client_uses_nothing_of_vanilla():
    source = (ROOT / "examples" / "minimal_client.py").read_text()
    assert (
        re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE)
        == "__future__ json os socket struct sys msgpack".split()
    )
