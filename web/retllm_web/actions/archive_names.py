"""Names of files in archives: safe on every system, and different from each other."""

from __future__ import annotations

import re
from uuid import UUID

from retllm.media.file_table import FileRole, role_of
from retllm.media.names import base_name, suffix_of

_WITH_PICTURES = (FileRole.PICTURE, FileRole.PAGES, FileRole.FILM)
# what Windows has in no name, and a backslash, which is a folder there
_UNSAFE = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(?=\.|$)", re.IGNORECASE)
# an upload shortens longer names
_LONGEST = 260
_CODE_LENGTH = 8


def path_of(name: str, key: UUID, suffix: str, *, is_twin: bool, exactly: bool = False) -> str:
    """Return the path of a file in an archive.

    Args:
        name: the name of its item, with folders.
        key: that of its item, the end of which makes a name different that is not the item's own.
        suffix: what names of its format end with; one that ends like a picture's gets no further one.
        is_twin: whether another file in the archive has this name.
        exactly: whether the name has to end with ``suffix``.
    """
    safe = "/".join(filter(None, map(_safe, name.split("/")))) or "unnamed"
    last = base_name(safe)
    end = last[len(last) - len(suffix_of(last)) :] if role_of(last) in _WITH_PICTURES else ""
    bare = safe.removesuffix(end)
    if is_twin or safe != name or len(bare) > _LONGEST:
        bare = f"{bare[:_LONGEST].rstrip(' ./')} ({key.hex[-_CODE_LENGTH:]})"
    has_suffix = end.lower() == suffix if exactly else bool(end)
    return f"{bare}{end}{'' if has_suffix else suffix}"


def _safe(part: str) -> str:
    part = _UNSAFE.sub("_", part).strip().rstrip(" .")
    # files with a leading dot are hidden, and no upload takes them
    part = f"_{part[1:]}" if part.startswith(".") else part
    return f"_{part}" if _RESERVED.match(part) else part
