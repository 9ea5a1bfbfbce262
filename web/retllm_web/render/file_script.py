"""The table of files for the pages' scripts: ``python -m retllm_web.render.file_script`` writes it after a change."""

from __future__ import annotations

import json
from pathlib import Path

from retllm.media.clutter import MAX_PLACES
from retllm.media.file_table import DESCRIBING, GLOBS, PATTERN, SUFFIXES, FileRole

PATH = Path(__file__).parents[1] / "static" / "file_table.js"


def script() -> str:
    """Return a module with the table as constants; it states facts, the scripts that import it decide."""
    describing = [suffix for role in DESCRIBING for suffix in SUFFIXES[role]]
    lines = [
        "// Generated from platform/retllm/media/file_table.py by retllm_web.render.file_script.",
        "// The names of clutter: one group for each of GLOBS, which have a name and a reason each.",
        f"export const CLUTTER = new RegExp({_literal(PATTERN)}, 'i');",
        f"export const GLOBS = {_literal(GLOBS)};",
        f"export const MAX_PLACES = {MAX_PLACES};",
        "// Suffixes of files that may say something of pictures and so are sent before them.",
        f"export const DESCRIBING = {_literal(describing)};",
        "// Those of captions of many pictures.",
        f"export const SHEETS = {_literal(SUFFIXES[FileRole.SHEET])};",
        f"export const PICTURES = {_literal(SUFFIXES[FileRole.PICTURE])};",
    ]
    return "\n".join(lines) + "\n"


def _literal(value: object) -> str:
    return json.dumps(value, indent=None if isinstance(value, str) else 2)


if __name__ == "__main__":
    PATH.write_text(script(), encoding="utf-8")
