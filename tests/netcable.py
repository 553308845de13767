"""A pair of network devices between two network namespaces, where nft drops packets at random and writes addresses.

The kernel does it all, at its speed; there is no delay (see netpath.py for that). Trains of datagrams would go through
as one packet each, and be dropped as one, so the devices take single packets only (``gso_max_segs 1``).

It needs root, and ``apt-get install iproute2 nftables``; `unavailable` says what is missing.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from contextlib import ExitStack, closing
from typing import Any

from netspace import Namespace, Unavailable

DEVICE = "cable"
#: What is needed, and the package that has it.
TOOLS = {"ip": "iproute2", "nft": "nftables"}

#: In each namespace: what comes is dropped at random, and counted; a router may stand before the device.
RULES = """
table inet chaos {
    counter dropped { }
    chain come { type filter hook input priority 0; }
    chain inwards { type filter hook prerouting priority raw; }
    chain outwards { type filter hook postrouting priority raw; }
}
"""
#: What a router before the right end has.
OUTSIDE = "10.79.0.{}"
#: Shares are told to nft in these parts.
PARTS = 10_000


class Cable:
    """Two namespaces and the devices between them.

    :ivar left, right: the namespaces.
    :raises Unavailable: it cannot be had.
    """

    left_address = "10.78.0.1"
    right_address = "10.78.0.2"
    #: One that the right end may change to.
    other_address = "10.78.0.3"

    def __init__(self, loss: float = 0.0) -> None:
        for tool, package in TOOLS.items():
            if shutil.which(tool) is None:
                raise Unavailable(f"{tool} is missing: apt-get install {package}")
        with ExitStack() as stack:
            self.left, self.right = (stack.enter_context(closing(Namespace())) for _ in range(2))
            peer = ["peer", "name", DEVICE, "netns", str(self.right.pid)]
            _run(self.left, ["ip", "link", "add", "name", DEVICE, "type", "veth", *peer])
            for space, address in (self.left, self.left_address), (self.right, self.right_address):
                _run(space, ["ip", "address", "add", f"{address}/24", "dev", DEVICE])
                _run(space, ["ip", "link", "set", DEVICE, "gso_max_segs", "1", "up"])
                _run(space, ["ip", "link", "set", "lo", "up"])
                _run(space, ["nft", "-f", "-"], RULES)
            self._stack = stack.pop_all()
        self.drop(loss)

    def drop(self, share: float) -> None:
        """Drop this share of the packets, each way, from now on."""
        rules = "flush chain inet chaos come\n"
        if share:
            chance = "" if share == 1 else f"numgen random mod {PARTS} < {round(share * PARTS)} "
            rules += f"add rule inet chaos come {chance}counter name dropped drop\n"
        for space in self.left, self.right:
            _run(space, ["nft", "-f", "-"], rules)

    def cut(self) -> None:
        """Nothing passes any more, either way."""
        self.drop(1.0)

    def heal(self) -> None:
        """All passes again."""
        self.drop(0.0)

    @property
    def dropped(self) -> int:
        """Packets so far, of both directions."""
        return sum(self._dropped(space) for space in (self.left, self.right))

    def _dropped(self, space: Namespace) -> int:
        said = json.loads(_run(space, ["nft", "-j", "list", "counter", "inet", "chaos", "dropped"]))
        return sum(each["counter"]["packets"] for each in said["nftables"] if "counter" in each)

    def move(self) -> None:
        """Take the right end's address, and give it its other one: in between it has none."""
        ours, other = self.right_address, self.other_address
        for what, address in ("del", ours), ("add", other):
            _run(self.right, ["ip", "address", what, f"{address}/24", "dev", DEVICE])
        self.right_address, self.other_address = other, ours

    def route(self, number: int) -> None:
        """Have a router before the right end show it as this one of the addresses of `OUTSIDE`, and no other."""
        ours, shown = self.right_address, OUTSIDE.format(number)
        rules = "flush chain inet chaos inwards\nflush chain inet chaos outwards\n"
        rules += f"add rule inet chaos inwards ip daddr {shown} ip daddr set {ours}\n"
        rules += f"add rule inet chaos outwards ip saddr {ours} ip saddr set {shown}\n"
        _run(self.left, ["ip", "route", "replace", OUTSIDE.format(0) + "/24", "via", ours])
        _run(self.right, ["nft", "-f", "-"], rules)

    def close(self) -> None:
        """Twice does nothing."""
        self._stack.close()

    def __enter__(self) -> Cable:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _run(space: Namespace, argv: list[str], said: str = "") -> str:
    """Run a tool: what it says."""
    ran: Any = space.run(argv, input=said, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if ran.returncode:
        raise Unavailable(f"{' '.join(argv)}: {ran.stderr.strip()}")
    text: str = ran.stdout
    return text


@functools.lru_cache(None)
def unavailable() -> str:
    """Why there can be none on this machine; "" if there can."""
    try:
        Cable().close()
    except Unavailable as why:
        return str(why)
    return ""
