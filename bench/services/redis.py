"""Redis as a broker of requests: a list of them, and a list of replies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

from sides.program import version_of
from sides.redis import SERVER, Redis, connect

from .service import Service, many_in_lists

REQUESTS, REPLIES = "requests", "replies"


class Lists(Service):
    title = "Redis lists"
    package = "redis"
    guarantee = "none: what a server has popped goes with it, and its client waits for ever"
    batching = "none: RPUSH and BLPOP, each a call and a round trip a message"
    settings = "no persistence; redis-py with hiredis; one list of replies, which no request names"

    def version(self) -> str:
        return Redis().version()

    def broker(self, size: int) -> None:
        Redis().broker(size)

    def serve(self, address: str, work: str, ready: Callable[[], object]) -> None:
        with connect(address) as redis:
            redis.ping()
            ready()
            self.answer(redis)

    def answer(self, redis: Any) -> None:
        while True:
            redis.rpush(REPLIES, redis.blpop(REQUESTS)[1])

    @contextmanager
    def client(self, address: str, work: str) -> Iterator[Any]:
        with connect(address) as redis:
            redis.ping()
            yield redis

    def one_at_a_time(self, call: Any, tally: Any) -> None:
        def ask(request: bytes) -> Any:
            call.rpush(REQUESTS, request)
            return call.blpop(REPLIES)[1]

        super().one_at_a_time(ask, tally)


class Batched(Lists):
    """What a user has to write to have many under way without as many round trips."""

    title = "Redis lists, batched by hand"
    batching = "by the program: RPUSH of as many as there is room for, BLMPOP of up to 64, at both ends"
    most = 64

    def version(self) -> str:
        if int(version_of(SERVER).partition(".")[0]) < 7:
            raise LookupError(f"{SERVER} {version_of(SERVER)} has no BLMPOP, which came with 7.0")
        return super().version()

    def answer(self, redis: Any) -> None:
        while True:
            redis.rpush(REPLIES, *redis.blmpop(0, 1, REQUESTS, direction="LEFT", count=self.most)[1])

    def many(self, start: Any, tally: Any, most: int) -> None:
        many_in_lists(
            lambda requests: start.rpush(REQUESTS, *requests),
            lambda: start.blmpop(0, 1, REPLIES, direction="LEFT", count=most)[1],
            tally,
            most,
        )


SERVICES = {"redis": Lists(), "redis-batched": Batched()}
