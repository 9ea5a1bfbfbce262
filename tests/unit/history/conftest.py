"""The fixtures of jobs for the tests in this folder."""

from __future__ import annotations

from tests.unit.job_world import context, unused_tcp_port, world

__all__ = ["context", "unused_tcp_port", "world"]
