"""Photographs of the benchmarks: a platform keeps one of several that are the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from retllm.bench.photographs import write_photographs


def test_all_photographs_differ(tmp_path: Path) -> None:
    """So small that chance alone would draw the same one several times."""
    paths = write_photographs(tmp_path, 300, width=32)
    assert len({path.read_bytes() for path in paths}) == len(set(paths)) == 300


def test_more_photographs_than_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="larger sample"):
        write_photographs(tmp_path, 32 * 24 + 1, width=32)
