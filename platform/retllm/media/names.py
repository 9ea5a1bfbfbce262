"""Make uploaded file names safe to show and to compare."""

from __future__ import annotations

import re
import unicodedata

from retllm.media.normalization import composed

MAX_NAME = 300
_MAX_SUFFIX_LENGTH = 16
# of a name as it comes; no file system has longer ones
_MAX_GIVEN = 1 << 14
# marks that change the text direction, so that "gpj.exe" reads as "exe.jpg"
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
_INVISIBLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


def clean_name(name: str, default: str = "unnamed") -> str:
    """Normalise ``name`` for storage and display: NFC, joined by ``/``, no control characters, 300 characters at most.

    Parts that lead elsewhere (``..``, an empty one, a leading slash) are dropped; a name that is too long loses its
    middle and keeps its suffix. The result is deterministic, so captions can refer to pictures by name.
    """
    if len(name) > _MAX_GIVEN:
        name = name[: _MAX_GIVEN // 2] + name[-_MAX_GIVEN // 2 :]
    parts = (one_line(part) for part in name.replace("\\", "/").split("/"))
    joined = "/".join(part for part in parts if part not in ("", ".", ".."))
    if len(joined) > MAX_NAME:
        suffix = joined[-_MAX_SUFFIX_LENGTH:]
        suffix = suffix[suffix.rindex(".") :] if "." in suffix else ""
        joined = joined[: MAX_NAME - len(suffix)].rstrip() + suffix
    return joined or default


def one_line(text: str) -> str:
    """Return ``text`` in NFC on one line, with single spaces, without control characters and direction marks."""
    visible = "".join(" " if unicodedata.category(c) in _INVISIBLE else c for c in composed(text) if c not in _BIDI)
    return re.sub(r"\s+", " ", visible).strip()


def base_name(name: str) -> str:
    """Return the last part of a name."""
    return name.rsplit("/", 1)[-1]


def suffix_of(name: str) -> str:
    """Return the suffix of a name in lower case, with its dot; empty if there is none."""
    last = base_name(name)
    return last[last.rindex(".") :].lower() if "." in last.lstrip(".") else ""
