"""The worker as it is, heartbeat and all, with a model that costs nothing in place of the main embedder."""

from __future__ import annotations

from tests.chaos.models import Encoder

from retllm_workers import embed
from retllm_workers.app import app

__all__ = ["app"]

embed.HELD._load = Encoder  # type: ignore[assignment]
