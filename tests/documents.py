"""Reads the code blocks of the documentation.

A block is run unless the line before it is ``<!-- not run: the reason -->``. In a ``console`` block a line with ``$ ``
is a command, lines with ``> `` continue it, and all others are its output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
TUTORIAL = DOCS / "tutorial.md"
HOW_TO = sorted((DOCS / "how-to").glob("*.md"))

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\s*$")
_NOT_RUN = re.compile(r"^ *<!-- not run: (?P<reason>.+) -->$")


@dataclass
class Command:
    """A command line with the output that the page shows."""

    text: str
    output: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Block:
    """A fenced block: its position, language and text, and the reason why it is not run (None if it is run)."""

    page: str
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def commands(self) -> list[Command]:
        """The commands of a ``console`` block."""
        found: list[Command] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append(Command(line[2:]))
            elif line.startswith("> "):
                found[-1].text += "\n" + line[2:]
            else:
                assert found, f"{self.page}:{self.line}: output before any command"
                found[-1].output.append(line)
        return found


def blocks(path: Path) -> Iterator[Block]:
    """Generate every fenced block of a page."""
    lines = path.read_text("utf-8").splitlines()
    reason: str | None = None
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            marked = _NOT_RUN.match(lines[number])
            reason = marked["reason"] if marked else None
            number += 1
            continue
        end = next(n for n in range(number + 1, len(lines)) if lines[n] == f"{fence['indent']}```")
        inside = "\n".join(line.removeprefix(fence["indent"]) for line in lines[number + 1 : end])
        yield Block(path.relative_to(ROOT).as_posix(), number + 1, fence["language"], inside, reason)
        reason, number = None, end + 1


def headings(path: Path) -> list[str]:
    """Return the headings of a page without their number signs and explicit anchors."""
    found, fenced = [], False
    for line in path.read_text("utf-8").splitlines():
        fenced ^= line.lstrip().startswith("```")
        if not fenced and re.match(r"#+ ", line):
            found.append(re.sub(r"\s*\{.*\}$", "", line.lstrip("#")).strip())
    return found
