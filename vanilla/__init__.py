"""vanilla: if Go and ZeroMQ had a baby. Coroutines and channels on greenlets, without monkey-patching; and a message
broker.

>>> import vanilla
>>> h = vanilla.Hub()
>>> sender, recver = h.pipe()
>>> task = h.spawn(sender.send, "Hello World")
>>> recver.recv()
'Hello World'
>>> h.stop()
"""

from .core import Hub, Task
from .exception import (
    Abandoned,
    Busy,
    Cancelled,
    Closed,
    ConnectionLost,
    Forked,
    Halt,
    Refused,
    Rejected,
    RemoteError,
    Stop,
    Timeout,
)
from .message import Pair, Recver, Sender

__version__ = "0.1.0"

__all__ = [
    "Abandoned",
    "Busy",
    "Cancelled",
    "Closed",
    "ConnectionLost",
    "Forked",
    "Halt",
    "Hub",
    "Pair",
    "Recver",
    "Refused",
    "Rejected",
    "RemoteError",
    "Sender",
    "Stop",
    "Task",
    "Timeout",
    "__version__",
]
