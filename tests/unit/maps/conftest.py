"""Fixtures of the tests of maps."""

from __future__ import annotations

from tests.unit.job_world import context, world

__all__ = ["context", "world"]
