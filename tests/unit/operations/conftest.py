"""The fixtures of jobs for the tests in this folder."""

from __future__ import annotations

from tests.unit.job_world import bench, unused_tcp_port, world

__all__ = ["bench", "unused_tcp_port", "world"]
