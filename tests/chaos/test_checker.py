"""The checker finds each fault that it is there for, and none where there is none."""

from __future__ import annotations

import pytest
from checker import judge, milliseconds
from hypothesis import given, settings
from hypothesis import strategies as st
from journal import BURIED, CONFIRMED, DONE, GOT, SEND, Event, Journal, count, read

JOB = ("p", 0)


def events(*whats):
    """The story of one job; "again" is a delivery with ``redelivered``."""
    known = {"again": (GOT, True)}
    return [
        Event(at, known.get(what, (what,))[0], "p" if what in (SEND, CONFIRMED) else "c", JOB, what == "again")
        for at, what in enumerate(whats)
    ]


@pytest.mark.parametrize(
    ("story", "faults"),
    [
        ((SEND, CONFIRMED, GOT, DONE), set()),
        ((SEND, GOT, DONE, CONFIRMED), set()),
        ((GOT, SEND, DONE, CONFIRMED), set()),  # two processes write at the same time
        ((SEND,), set()),  # nobody was promised anything
        ((SEND, GOT, DONE), set()),
        ((SEND, CONFIRMED, GOT, "again", DONE), set()),
        ((SEND, CONFIRMED, GOT, DONE, "again", DONE), set()),  # its acknowledgement had not left
        ((SEND, CONFIRMED, "again", DONE), set()),  # who got it first did not live to write so
        ((SEND, CONFIRMED, GOT, BURIED), set()),
        ((SEND, CONFIRMED), {"lost"}),
        ((SEND, CONFIRMED, GOT), {"lost"}),
        ((SEND, CONFIRMED, GOT, GOT, DONE), {"silent"}),
        ((SEND, CONFIRMED, GOT, "again", GOT, DONE), {"silent"}),
        ((GOT, DONE), {"invented"}),
        ((BURIED,), {"invented"}),
    ],
)
def test_each_story_of_a_job_has_its_verdict(story, faults):
    assert set(judge(events(*story)).faults) == faults


def test_a_confirm_holds_for_all_before_it():
    assert judge([Event(0, CONFIRMED, "p", ("p", 2))]).lost == [("p", 0), ("p", 1), ("p", 2)]


def test_first_deliveries_are_in_order_for_each_producer_and_consumer():
    def got(*seen):
        told = [Event(0, SEND, producer, (producer, n)) for producer in "pq" for n in range(3)]
        return judge(told + [Event(at, GOT, who, (job[0], int(job[1]))) for at, (who, job) in enumerate(seen)])

    assert not got(("a", "p0"), ("a", "q0"), ("b", "p2"), ("a", "p1"), ("b", "q1")).disordered
    assert got(("a", "p1"), ("a", "q2"), ("a", "p0")).disordered == [("p", 0)]


@st.composite
def histories(draw):
    """Of a broker that keeps its word: some jobs, each with crashes of its consumers before the work is done."""
    story = []
    jobs = draw(st.integers(1, 8))
    for number in range(jobs):
        story.append(Event(len(story), SEND, "p", ("p", number)))
    story.append(Event(len(story), CONFIRMED, "p", ("p", jobs - 1)))
    for number in range(jobs):
        crashes = draw(st.integers(0, 3))
        for attempt in range(crashes + 1):
            who = draw(st.sampled_from("abc"))
            story.append(Event(len(story), GOT, who, ("p", number), attempt > 0, attempt + 1))
        story.append(Event(len(story), draw(st.sampled_from([DONE, BURIED])), who, ("p", number)))
    return story


@settings(deadline=None)
@given(histories())
def test_a_broker_that_keeps_its_word_has_no_faults(story):
    verdict = judge(story)
    assert verdict.faults == {}
    assert verdict.done + verdict.buried == verdict.confirmed
    assert len(verdict.waits) == verdict.sent


@settings(deadline=None)
@given(histories(), st.data())
def test_an_end_that_is_taken_out_is_a_loss(story, data):
    ends = [event for event in story if event.what in (DONE, BURIED)]
    gone = data.draw(st.sampled_from(ends))
    assert judge([event for event in story if event is not gone]).faults == {"lost": [gone.job]}


@settings(deadline=None)
@given(histories(), st.data())
def test_a_first_delivery_that_comes_twice_is_silent(story, data):
    first = data.draw(st.sampled_from([event for event in story if event.what == GOT and not event.marked]))
    verdict = judge([*story, first._replace(at=len(story), who="d")])
    assert verdict.faults == {"silent": [first.job]}
    assert verdict.unmarked == 1


def test_the_verdict_says_its_figures():
    verdict = judge(events(SEND, CONFIRMED, GOT, "again", DONE))
    assert "1 sent, 1 confirmed, 1 done, 0 dead; 0 lost; repeated: 1 with redelivered, 0 without" in str(verdict)
    assert "1 redeliveries; waited 0.0 ms (p50)" in str(verdict)


def test_percentiles_are_by_nearest_rank():
    waits = [n * 1_000_000 for n in range(1, 201)]
    assert (milliseconds(waits, 50), milliseconds(waits, 99)) == ("100.0 ms", "198.0 ms")


def test_what_is_noted_is_read_back_in_the_order_of_time(tmp_path):
    one, two = Journal(str(tmp_path), "one"), Journal(str(tmp_path), "two")
    one.note(SEND, ("one", 7))
    two.note(GOT, ["one", 7], True, 3)
    one.note(CONFIRMED, ("one", 7))
    one.close()
    two.close()
    assert [event._replace(at=0) for event in read(tmp_path)] == [
        Event(0, SEND, "one", ("one", 7)),
        Event(0, GOT, "two", ("one", 7), True, 3),
        Event(0, CONFIRMED, "one", ("one", 7)),
    ]
    assert count(tmp_path, GOT) == 1
