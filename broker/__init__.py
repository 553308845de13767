"""The broker: a daemon, or a part of your own process, that hosts named endpoints."""

from .broker import Broker, Service
from .options import Options

__all__ = ["Broker", "Options", "Service"]
