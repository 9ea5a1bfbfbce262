"""Fixtures of the job tests, for the tests of this folder."""

from __future__ import annotations

from tests.unit.job_world import context, world

__all__ = ["context", "world"]
