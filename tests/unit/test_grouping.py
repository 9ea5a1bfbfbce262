"""The test files named in the Makefile and in ``tests.grouping`` exist."""

from __future__ import annotations

import re
from pathlib import Path

from tests.grouping import FIRST, GROUPS

ROOT = Path(__file__).resolve().parents[2]


def test_the_files_of_all_groups_exist() -> None:
    named = [*FIRST, *(pattern for patterns in GROUPS.values() for pattern in patterns)]
    assert [pattern for pattern in named if not list(ROOT.glob(pattern))] == []


def test_the_test_files_named_in_the_makefile_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    named = re.findall(r"tests/[\w/.]+\.py", makefile)
    functional = re.findall(r"^OF_\w+ := (.+)$", makefile, re.MULTILINE)
    named += [f"tests/functional/test_{one}.py" for names in functional for one in names.split()]
    (models,) = re.findall(r"^WITH_MODELS := (.+)$", makefile, re.MULTILINE)
    named += [f"tests/unit/{one}" for one in models.split()]
    assert len(named) > 10
    assert [name for name in named if not list(ROOT.glob(name))] == []
