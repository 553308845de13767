"""Controllers on a path of 20 ms and 6 MB/s whose buffer holds one bandwidth-delay product, in simulated time."""

from __future__ import annotations

import functools

import pytest
from links import Flow, Link, World

from vanilla.protocol.congestion import CONTROLLERS
from vanilla.protocol.limits import Limits
from vanilla.protocol.newreno import NewReno
from vanilla.protocol.recovery import Sample

RATE, RTT = 6e6, 0.02
QUEUE = RATE * RTT


def share(controllers, seconds, loss=0.0, queue=QUEUE, seed=1, warm=1.0, rate=RATE, jitter=0.0):
    """What each flow gets through the same bottleneck, in bytes a second."""
    world = World(seed)
    there = Link(world, rate=rate, delay=RTT / 2, queue=queue, loss=loss, jitter=jitter)
    flows = []
    for index, name in enumerate(controllers):
        flow = Flow(world, there, Link(world, delay=RTT / 2, jitter=jitter), Limits(datagrams=4096, controller=name))
        flow.client.source = bytes
        flow.on_server = lambda end: setattr(end, "keep", False)
        world.at(index * 0.3, flow.start)
        flows.append(flow)
    world.run(warm)
    before = [flow.server.count for flow in flows]
    world.run(warm + seconds)
    return [(flow.server.count - count) / seconds for flow, count in zip(flows, before)]


@functools.cache
def alone(controller, loss=0.0):
    return share([controller], 3.0, loss)[0]


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_a_path_that_loses_nothing_is_used(controller):
    assert alone(controller) > 0.9 * RATE


@pytest.mark.parametrize(("loss", "goal"), [(0.01, 0.85), (0.1, 0.6), (0.2, 0.4)])
def test_random_loss_costs_little_more_than_what_it_takes(loss, goal):
    assert alone("delivery", loss) > goal * alone("delivery")


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("loss", [0.01, 0.1])
def test_processes_that_are_late_at_random_are_no_queue(loss, seed):
    (rate,) = share(["delivery"], 6.0, loss, seed=seed, warm=2.0, jitter=0.003)
    assert rate > 0.65 * (1 - loss) * RATE  # the worst of sixteen seeds: 0.69; if it were taken for one: 0.1


@pytest.mark.parametrize("jitter", [0.0, 0.001])
def test_what_is_lost_at_random_does_not_wear_a_rate_down(jitter):
    (rate,) = share(["delivery"], 6.0, loss=0.2, seed=2, warm=2.0, jitter=jitter)
    assert rate > 0.75 * 0.8 * RATE


def test_newreno_takes_random_loss_for_congestion():
    # Mathis et al., 1997: a window of sqrt(3/2p) datagrams.
    assert 0.5 < alone("newreno", 0.01) / (1200 * (1.5 / 0.01) ** 0.5 / RTT) < 1.5


@pytest.mark.parametrize("queue", [0.5, 1.0])
@pytest.mark.parametrize("controllers", [("delivery", "delivery"), ("delivery", "newreno"), ("newreno", "delivery")])
def test_two_flows_share(controllers, queue):
    rates = share(controllers, 8.0, queue=queue * QUEUE, warm=2.0)
    assert sum(rates) > 0.85 * RATE
    assert min(rates) > 0.3 * sum(rates)


def test_a_flow_alone_leaves_the_queue_short():
    world = World(1)
    there = Link(world, rate=RATE, delay=RTT / 2, queue=4 * QUEUE)
    flow = Flow(world, there, Link(world, delay=RTT / 2), Limits(datagrams=4096))
    flow.client.source = bytes
    flow.on_server = lambda end: setattr(end, "keep", False)
    flow.start()
    world.run(3.0)
    assert flow.client.transport.rtt < 1.3 * RTT


def sample(now=1.0, acked=1200, before=20_000, sent=0.5):
    return Sample(now, acked, 0, before - acked, before, acked, 0, sent, 0.0, False, 0.1, 0.1)


def test_newreno_doubles_at_first_and_then_grows_by_a_datagram_a_window():
    newreno = NewReno(1200, 0.0)
    assert newreno.window == 12_000
    newreno.on_ack(sample(acked=12_000))
    assert newreno.window == 24_000
    newreno.on_loss(1.0, 1200, 0.9, False)
    assert newreno.window == 12_000
    for _ in range(10):
        newreno.on_ack(sample(sent=1.1))
    assert 13_000 <= newreno.window <= 13_200


def test_newreno_halves_once_a_round_trip_and_falls_to_two_datagrams_when_congestion_persists():
    newreno = NewReno(1200, 0.0)
    newreno.window = 48_000
    newreno.on_loss(1.0, 1200, 0.9, False)
    newreno.on_loss(1.05, 1200, 0.95, False)
    assert newreno.window == 24_000
    newreno.on_loss(2.0, 1200, 1.9, True)
    assert newreno.window == 2_400


def test_newreno_does_not_grow_a_window_that_is_not_used():
    newreno = NewReno(1200, 0.0)
    newreno.on_ack(sample(before=3_000))
    assert newreno.window == 12_000


def test_a_flow_that_fills_a_deep_buffer_leaves_some_of_the_path():
    """Which looks longer than it is, until the shortest round trip is no longer believed, and measured anew."""
    rate = RATE / 4
    rates = share(("delivery", "newreno"), 8.0, queue=4 * rate * RTT, warm=12.0, rate=rate)
    assert min(rates) > 0.2 * rate and sum(rates) > 0.85 * rate
