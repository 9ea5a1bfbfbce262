"""The world of the job core's tests serves here too."""

from __future__ import annotations

from tests.unit.jobs.conftest import world

__all__ = ["world"]
