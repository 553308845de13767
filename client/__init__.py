"""The client: remote endpoints as Senders and Recvers of your Hub."""

from .pull import Delivery, PullRecver
from .push import PushSender
from .remote import Event, Remote, Service

__all__ = ["Delivery", "Event", "PullRecver", "PushSender", "Remote", "Service"]
