"""Congestion control on loopback: none, until what stands behind the address is seen to be a path."""

from __future__ import annotations

import pytest
from links import Flow, Link, World, bytes_of

from vanilla.protocol.arrivals import DELAY
from vanilla.protocol.limits import Limits
from vanilla.protocol.nearby import NO_WINDOW, TRIALS, Nearby
from vanilla.protocol.recovery import Sample
from vanilla.udppath import LOOPBACK_BYTES

BOTH = Limits(datagram=LOOPBACK_BYTES, datagrams=504)


def sample(rtt, now=1.0):
    return Sample(now, 1000, 0, 5000, 6000, 1000, 0, now - rtt, 1e6, False, rtt, rtt)


def test_short_round_trips_leave_everything_unbounded():
    controller = Nearby(1000)
    for rtt in [0.03] * (TRIALS - 1) + [0.0002] + [0.03] * 100:  # one turn in which nobody had to wait is enough
        controller.on_ack(sample(rtt))
    assert (controller.window, controller.pacing_rate) == (NO_WINDOW, 0)


def test_round_trips_none_of_which_is_short_are_those_of_a_path():
    controller = Nearby(1000)
    for _ in range(TRIALS):
        assert controller.window == NO_WINDOW
        controller.on_ack(sample(0.01))
    controller.on_ack(sample(0.01, 2.0))
    assert controller.window < 1_000_000 and controller.pacing_rate > 0


def test_a_peer_that_puts_its_acknowledgements_off_is_no_path():
    world = World(1)
    flow = Flow(world, Link(world, delay=0.0001), Link(world, delay=0.0001), BOTH)
    flow.start()
    for number in range(2 * TRIALS):  # each comes alone, and nothing goes back that an ACK could go along with
        world.run(0.1 * number)
        flow.client.transport.put([b"x"])
        flow.client.pump()
    assert flow.client.transport.rtt > DELAY and flow.client.transport.window == NO_WINDOW


def test_a_loss_is_one_of_a_path():
    controller = Nearby(1000)
    controller.on_loss(1.0, 1000, 0.9, False)
    assert controller.window < 1_000_000


@pytest.mark.parametrize("path", [{}, {"rate": 1e6, "queue": 50_000}, {"loss": 0.1}], ids=str)
@pytest.mark.parametrize("delay", [0.0001, 0.01])
def test_a_session_whose_ends_are_on_loopback_gets_through_whatever_is_behind_it(path, delay):
    world = World(1)
    flow = Flow(world, Link(world, delay=delay, **path), Link(world, delay=delay, **path), BOTH)
    data, flow.client.source = bytes_of(3_000_000, world.random)
    flow.start()
    assert world.run(60.0, lambda: flow.server is not None and flow.server.got == data)
    assert (flow.client.transport.window == NO_WINDOW) is (not path)


def test_a_session_that_has_left_loopback_is_controlled():
    world = World(1)
    flow = Flow(world, Link(world, delay=0.0001), Link(world, delay=0.0001), BOTH)
    flow.client.transport.put([bytes(100_000)])
    flow.on_server = lambda end: end.transport.put([bytes(100_000)])
    flow.start()
    world.run(1.0)
    assert flow.server.transport.window == NO_WINDOW
    flow.client.address = "elsewhere"
    flow.client.transport.put([b"x"])
    flow.client.pump()
    assert world.run(5.0, lambda: flow.server.transport.counters.moves == 1)
    assert flow.server.transport.window < NO_WINDOW
