"""The services that requests use, created once per process and stored on the app."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from flask import current_app

from retllm.db.session import Sessions
from retllm.media.storage import Storage
from retllm.queue.routing import Notification, Routing, routing_of
from retllm.settings import Settings


class Notifying(Protocol):
    """Notifies workers that units are ready; a lost message is harmless, since the dispatcher sends it again."""

    def notify(self, units: Sequence[Notification]) -> object:
        """Send one hint per unit."""


@dataclass(frozen=True)
class Services:
    """The database, the media storage, the notifier and the settings of this process."""

    sessions: Sessions
    storage: Storage
    notifier: Notifying
    settings: Settings

    @property
    def routing(self) -> Routing:
        """The queues of this installation."""
        return routing_of(self.settings)


def services() -> Services:
    """Return the services of the app that handles this request."""
    found: Services = current_app.extensions["retllm"]
    return found
