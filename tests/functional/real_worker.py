"""The real worker, with its heartbeat and with a fast stand-in model as the main embedder."""

from __future__ import annotations

from tests.chaos.models import Encoder

from retllm_workers import embed
from retllm_workers.app import app

__all__ = ["app"]

embed.HELD._load = Encoder  # type: ignore[assignment]
