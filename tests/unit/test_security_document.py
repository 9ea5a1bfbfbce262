"""SECURITY.md names for each threat a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def _rows() -> list[list[str]]:
    lines = (ROOT / "SECURITY.md").read_text("utf-8").splitlines()
    begin = lines.index("| threat | defence | test |") + 2
    rows = [line.strip("|").split("|") for line in lines[begin:]]
    return [[cell.strip() for cell in row] for row in rows[: rows.index([""])]]


def _tests(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)}


def test_each_threat_has_a_defence_and_tests_that_exist() -> None:
    rows = _rows()
    assert len(rows) > 30
    for row in rows:
        assert len(row) == 3, row
        assert all(row), row
        named = _NAMED.findall(row[2])
        assert named, row
        for file, test in named:
            assert (ROOT / file).is_file(), file
            assert test in _tests(ROOT / file), (file, test)


def test_no_threat_stands_twice() -> None:
    threats = [row[0] for row in _rows()]
    assert len(threats) == len(set(threats))
