"""The client: remote endpoints as Senders and Recvers of your Hub."""

from .delivery import Delivery
from .recver import PullRecver
from .remote import Event, Remote, Service
from .sender import PushSender
from .waiting import Letter, Waiting

__all__ = ["Delivery", "Event", "Letter", "PullRecver", "PushSender", "Remote", "Service", "Waiting"]
