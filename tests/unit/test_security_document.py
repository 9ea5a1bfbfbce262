"""SECURITY.md numbers its threats, and its appendix names existing tests for each."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
_APPENDIX = "\n## Appendix: tests\n"


def _rows(text: str) -> list[list[str]]:
    """The table rows that begin with the number of a threat."""
    lines = [line for line in text.splitlines() if re.match(r"\| T\d+ \|", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _parts() -> tuple[list[list[str]], list[list[str]]]:
    threats, appendix, tests = (ROOT / "SECURITY.md").read_text("utf-8").partition(_APPENDIX)
    assert appendix
    return _rows(threats), _rows(tests)


def _tests(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)}


def test_threats_are_numbered_from_1_and_each_has_a_defence() -> None:
    threats, _ = _parts()
    assert len(threats) > 30
    assert [row[0] for row in threats] == [f"T{number}" for number in range(1, len(threats) + 1)]
    for row in threats:
        assert len(row) == 3, row
        assert all(row), row


def test_each_threat_has_tests_that_exist() -> None:
    threats, appendix = _parts()
    assert [row[0] for row in appendix] == [row[0] for row in threats]
    for row in appendix:
        assert len(row) == 2, row
        named = _NAMED.findall(row[1])
        assert named, row
        for file, test in named:
            assert (ROOT / file).is_file(), file
            assert test in _tests(ROOT / file), (file, test)


def test_no_threat_is_listed_twice() -> None:
    threats, _ = _parts()
    names = [row[1] for row in threats]
    assert len(names) == len(set(names))
