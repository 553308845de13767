"""The client: remote endpoints as Senders and Recvers of your Hub."""

from .delivery import Delivery
from .pull import PullRecver
from .remote import Event, Remote, Service
from .sender import PushSender

__all__ = ["Delivery", "Event", "PullRecver", "PushSender", "Remote", "Service"]
