"""Credit: what a producer may send, and how a consumer's window follows its speed, in simulated time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vanilla.protocol.credit import FAST, SLOW, Quota, Window

# -- Quota

calls = st.lists(
    st.one_of(
        st.tuples(st.just("raise"), st.integers(0, 200), st.integers(0, 2000)),
        st.tuples(st.just("lower"), st.integers(0, 200), st.integers(0, 2000)),
        st.tuples(st.just("spend"), st.integers(0, 20), st.integers(0, 200)),
    ),
    max_size=40,
)


def play(first, said):
    """Both ends see the same calls; a producer spends only what it has."""
    quota = Quota(first)
    for what, n, b in said:
        if what == "spend":
            if n <= quota.left_n and b <= quota.left_b:
                quota.spend(n, b)
        elif what == "raise":
            quota.raise_to(first + n, b)
        else:
            quota.lower_to(first + n, b)
        yield quota


@settings(deadline=None)
@given(st.integers(0, 1 << 62), calls)
def test_what_is_left_is_never_less_than_nothing(first, said):
    for quota in play(first, said):
        assert quota.left_n >= 0 and quota.left_b >= 0


@settings(deadline=None)
@given(st.integers(0, 1 << 62), calls)
def test_credit_that_comes_twice_or_late_changes_nothing(first, said):
    for quota in play(first, said):
        before = quota.limit_n, quota.limit_b
        quota.raise_to(*before)
        quota.raise_to(quota.n, quota.b)
        quota.raise_to(0, 0)
        assert (quota.limit_n, quota.limit_b) == before


@settings(deadline=None)
@given(st.integers(0, 1 << 62), calls)
def test_giving_back_never_raises_a_limit_and_never_takes_what_is_spent(first, said):
    for quota in play(first, said):
        limits = quota.limit_n, quota.limit_b
        quota.lower_to(first + 50, 500)
        assert quota.n <= quota.limit_n <= limits[0]
        assert quota.b <= quota.limit_b <= limits[1]


def test_without_credit_nothing_is_left():
    quota = Quota(7)
    assert (quota.left_n, quota.left_b) == (0, 0)
    quota.raise_to(9, 100)
    assert (quota.left_n, quota.left_b) == (2, 100)
    quota.spend(1, 60)
    assert (quota.n, quota.left_n, quota.left_b) == (8, 1, 40)


# -- Window


class Consumer:
    """Takes messages one after the other from a broker that always has more, unless told otherwise."""

    def __init__(self, fixed=0):
        self.window = Window(fixed)
        self.taken = 0
        self.now = 100.0
        #: The most that lay ahead at any time, since it was last looked at.
        self.ahead = 0

    def take(self, work, more=True):
        """One message, which takes *work* seconds after it was taken."""
        if self.window.limit == self.taken or self.window.due(self.taken):
            self.window.renew(self.taken, int(self.window.limit == self.taken), more, self.now)
        assert self.window.limit > self.taken
        self.taken += 1
        self.ahead = max(self.ahead, self.window.limit - self.taken)
        self.now += work

    def work(self, count, work, more=True):
        for _ in range(count):
            self.take(work, more)

    def steady(self, work):
        """What lies ahead at most, once it has settled."""
        self.work(200, work)
        self.ahead = 0
        self.work(200, work)
        return self.ahead


class Far(Consumer):
    """The same, *way* seconds from its broker and back."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        #: Until when there is something at hand: (limit, when what it lets the broker send has come).
        self.coming = []

    def take(self, work, more=True):
        window = self.window
        if (window.limit == self.taken or window.due(self.taken)) and window.renew(
            self.taken, int(window.limit == self.taken), more, self.now
        ):
            self.coming.append((window.limit, self.now + self.way))
        while self.coming[0][0] <= self.taken:
            self.coming.pop(0)
        parked, self.now = self.now, max(self.now, self.coming[0][1])
        if self.now > parked and more:
            window.waited(parked, self.now)
        self.taken += 1
        self.ahead = max(self.ahead, window.limit - self.taken)
        self.now += work


def test_there_is_no_credit_before_somebody_receives():
    window = Window()
    assert window.limit == 0
    window.renew(0, 1, False, 0.0)
    assert window.limit == 1


def test_the_first_window_is_as_many_as_wait():
    window = Window()
    window.renew(0, 7, False, 0.0)
    assert window.limit == 7


def test_a_consumer_of_one_millisecond_gets_about_ten_milliseconds_of_work():
    assert Consumer().steady(0.001) in (7, 8, 9, 10)


@settings(deadline=None)
@given(st.floats(0.00005, 2.0))
def test_a_steady_consumer_never_has_more_than_ten_milliseconds_of_work_or_one_item_ahead(work):
    ahead = Consumer().steady(work)
    assert ahead * work <= SLOW or ahead <= 1


@settings(deadline=None)
@given(st.floats(0.00005, 2.0), st.sampled_from([0.0001, 0.004, 0.02, 0.2]))
def test_so_it_is_however_long_the_way(work, way):
    ahead = Far(way).steady(work)
    assert ahead * work <= SLOW or ahead <= 1


@pytest.mark.parametrize("way", [0.006, 0.02, 0.2])
def test_a_fast_consumer_streams_however_long_the_way(way):
    consumer = Far(way)
    consumer.work(20_000, 1e-5)
    assert consumer.window.size * 1e-5 >= FAST / 2
    assert consumer.now - 100 < 20_000 * 1e-5 + 150 * way  # and not 20,000 times


def test_a_slow_consumer_never_has_more_than_one_item_ahead():
    assert Consumer().steady(1.0) <= 1


def test_a_fast_consumer_gets_a_window_that_lasts_for_some_milliseconds():
    consumer = Consumer()
    consumer.work(20_000, 1e-6)
    assert consumer.window.size * 1e-6 >= FAST / 2
    assert consumer.window.size * 1e-6 <= SLOW


def test_a_window_doubles_only_while_the_broker_has_more():
    consumer = Consumer()
    consumer.work(1000, 1e-6, more=False)
    assert consumer.window.size == 1


def test_a_consumer_that_becomes_slow_is_given_less():
    consumer = Consumer()
    consumer.work(20_000, 1e-6)
    large = consumer.window.size
    consumer.work(large * 2, 0.001)
    assert consumer.steady(0.001) <= 10


def test_a_window_halves_to_one_and_no_further():
    consumer = Consumer()
    consumer.work(1000, 1e-6)
    consumer.work(10_000, 0.1)
    assert consumer.window.size == 1


def test_a_pause_makes_the_window_smaller_not_larger():
    consumer = Consumer()
    consumer.work(10_000, 1e-6)
    size = consumer.window.size
    consumer.work(size, 1e-6, more=False)  # the queue is empty
    consumer.now += 60
    sizes = [consumer.take(1e-6) or consumer.window.size for _ in range(size)]
    assert min(sizes) < size == max(sizes)


def test_credit_is_there_for_all_who_wait_however_small_the_window():
    window = Window()
    assert window.renew(0, 1, False, 0.0)
    assert window.renew(0, 5, False, 0.0)
    assert window.limit == 5
    assert not window.renew(0, 5, False, 60.0)


@settings(deadline=None)
@given(st.integers(1, 1000), st.floats(0, 1.0))
def test_a_fixed_window_keeps_its_size(fixed, work):
    consumer = Consumer(fixed)
    consumer.work(3 * fixed if fixed < 50 else 200, work)
    assert consumer.window.size == fixed
    assert consumer.ahead <= fixed


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.booleans(), st.floats(0, 0.1)), max_size=60))
def test_credit_is_never_taken_back(steps):
    window, taken, now = Window(), 0, 0.0
    for take, parked, more, passed in steps:
        before = window.limit
        taken = min(taken + take, window.limit)
        now += passed
        raised = window.renew(taken, parked, more, now)
        assert window.limit >= before
        assert raised == (window.limit > before)
        assert window.limit <= max(before, taken + max(window.size, parked))
