"""What the broker says of its endpoints adds up: at every moment, and whatever goes on."""

from __future__ import annotations

import random

from peers import PATIENCE, until

import vanilla
from vanilla.broker.admin import ENTRY_BYTES, describe
from vanilla.broker.terms import Terms
from vanilla.protocol.frames import STATUS, pack_control
from vanilla.protocol.terms import MAX_MS

#: How often the accounts are looked at while others work.
LOOKS = 50


def missing(endpoint):
    """Accepted messages of which nothing is said."""
    places = ("acknowledged", "ready", "delayed", "in_flight", "dead", "dropped")
    return endpoint["accepted"] - sum(endpoint[place] for place in places)


def test_the_accounts_balance_at_every_moment_under_load(h):
    chance = random.Random(7)
    with h.broker.listen("tcp://127.0.0.1:0", backoff_ms=1, max_attempts=3) as broker:
        url = broker.urls[0]
        ended = []

        def produce(name, **options):
            with h.client.connect(url, linger=0) as remote:
                jobs = remote.push(name, **options)
                while not ended:
                    try:
                        jobs.send(b"x" * chance.randrange(300), 5)
                    except (vanilla.Rejected, vanilla.Timeout):
                        h.sleep(1)

        def work(name, lease):
            while not ended:
                with h.client.connect(url, linger=0) as remote:
                    jobs = remote.pull(name, ack=True, lease=lease, prefetch=chance.choice([0, 50]))
                    for _ in range(chance.randrange(200)):
                        try:
                            delivery = jobs.recv(5)
                        except vanilla.Timeout:
                            break
                        what = chance.random()
                        if what < 0.8:
                            delivery.ack()
                        elif what < 0.9:
                            delivery.nack(delay=chance.choice([None, 0, 20]))
                        elif what < 0.95:
                            delivery.touch()
                    if chance.random() < 0.5:
                        remote._link.lost("as if the process were killed")

        tasks = [
            h.spawn(f, name, *args)
            for name in ("blocks", "rejects", "drops")
            for f, *args in ((work, 20), (work, None), (work, 5))
        ]
        tasks.append(h.spawn(lambda: produce("blocks", capacity=200)))
        tasks.append(h.spawn(lambda: produce("rejects", capacity=100, overflow="reject")))
        tasks.append(h.spawn(lambda: produce("drops", capacity=50, overflow="drop-oldest", max_attempts=2)))
        with h.client.connect(url) as remote:
            seen = {}
            for look in range(20 * LOOKS):  # as many as it takes until some are dead
                if look >= LOOKS and seen["blocks"]["dead"] and "blocks.dead" in seen:
                    break
                said = remote.status(PATIENCE)
                for endpoint in said["endpoints"]:
                    assert missing(endpoint) == 0
                    assert sum(endpoint["drops"].values()) == endpoint["dropped"]
                    seen[endpoint["name"]] = endpoint
                h.sleep(1)
            ended.append(True)
            for task in tasks:
                task.join(PATIENCE)
            until(h, lambda: not any(endpoint.pushers for endpoint in broker.endpoints.values()))
            for endpoint in broker.endpoints.values():
                assert endpoint.balance == 0
        assert all(seen[name]["acknowledged"] for name in ("blocks", "rejects", "drops"))
        assert seen["drops"]["drops"].keys() == {"overflow"}
        assert seen["blocks"]["dead"] and "blocks.dead" in seen


def test_status_tells_the_options_that_are_not_the_defaults_and_why_messages_were_dropped(h):
    with h.broker.listen("tcp://127.0.0.1:0", capacity=7) as broker, h.client.connect(broker.urls[0]) as remote:
        remote.declare("jobs", capacity=7, overflow="drop-oldest", lease=60_000)
        other = remote.push("other")
        other.send(1)
        other.sync(PATIENCE)
        jobs = remote.push("jobs")
        for number in range(20):
            jobs.send(number, PATIENCE)
        jobs.sync(PATIENCE)
        said = {endpoint["name"]: endpoint for endpoint in remote.status()["endpoints"]}
        assert said["jobs"]["options"] == {"overflow": "drop-oldest", "lease": 60_000}
        assert said["jobs"]["drops"] == {"overflow": said["jobs"]["dropped"]}
        assert said["jobs"]["dropped"] + said["jobs"]["ready"] == 20
        assert (said["other"]["options"], said["other"]["drops"], said["other"]["duplicates"]) == ({}, {}, 0)


def test_what_is_said_of_one_endpoint_takes_no_more_than_is_reckoned_with(h):
    with h.broker.listen("tcp://127.0.0.1:0") as broker:
        endpoint = broker.endpoint("x" * 255)
        endpoint.terms = Terms(1 << 62, 1 << 62, 1_000_000, 86_400_000, "drop-oldest", "y" * 255, MAX_MS, MAX_MS, 1, 1)
        endpoint.drops = {"overflow": 1 << 62, "expired": 1 << 62, "purged": 1 << 62}
        told = describe(endpoint, broker.now())
        numbers = {key: 1 << 62 for key, value in told.items() if type(value) in (int, float) or value is None}
        assert len(pack_control(STATUS, 0, 0, {**told, **numbers})) < ENTRY_BYTES
