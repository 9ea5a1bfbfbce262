"""Make uploaded file names safe to show and to compare."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from hashlib import sha256

from retllm.media.normalization import composed

MAX_NAME = 300
MAX_FOLDERS = 200
"""So many characters of a name are folders at most; whether these are cut does not depend on the file in them."""
_MAX_SUFFIX_LENGTH = 16
_HASH_LENGTH = 12
_NOWHERE = ("", ".", "..")
_DOT = re.compile(r"\.")
_CODE = re.compile(rf"~[0-9a-f]{{{_HASH_LENGTH}}}(?=\.)")
# of a name as it comes; no file system has longer ones
_MAX_GIVEN = 1 << 14
# marks that change the text direction, so that "gpj.exe" reads as "exe.jpg"
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
_INVISIBLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


def clean_name(name: str, default: str = "unnamed") -> str:
    """Normalise ``name`` for storage and display: NFC, joined by ``/``, no control characters, 300 characters at most.

    Parts that lead elsewhere (``..``, an empty one, a leading slash) are dropped. Folders that are too long lose their
    end, and so does a last part before its suffix; a hash of the whole stands for what is lost, so that different names
    stay different. The result is deterministic, so captions can refer to pictures by name.
    """
    if len(name) > _MAX_GIVEN:
        name = name[: _MAX_GIVEN // 2] + name[-_MAX_GIVEN // 2 :]
    cleaned = (one_line(part) for part in name.replace("\\", "/").split("/"))
    parts = [part for part in cleaned if part not in _NOWHERE]
    if not parts:
        return default
    folders, last = joined_folders(parts[:-1]), parts[-1]
    before = f"{folders}/" if folders else ""
    end = last[-_MAX_SUFFIX_LENGTH:]
    suffix = end[end.rindex(".") :] if "." in end else ""
    # with room for any suffix, so that a sidecar is cut like its picture
    return before + _cut(last.removesuffix(suffix), MAX_NAME - len(before) - _MAX_SUFFIX_LENGTH) + suffix


def clean_names(names: Sequence[str], raws: Sequence[str] | None = None) -> list[str]:
    """Return the clean names of files that come together, different where the last parts of their raw names differ.

    Of several files with one clean name the one whose raw name is clean keeps it, or else the first one; the others are
    :func:`coded`, and so are their sidecars, whose names begin with theirs.

    Args:
        raws: the raw names, if these were decoded.
    """
    cleaned = [clean_name(name) for name in names]
    raws = names if raws is None else raws
    splits = list(map(_split, raws, cleaned))
    keepers: dict[str, str] = {}
    for clean, (bare, raw, _) in zip(cleaned, splits, strict=True):
        if clean not in keepers or raw == base_name(bare):
            keepers[clean] = raw
    others = {(bare, raw) for clean, (bare, raw, _) in zip(cleaned, splits, strict=True) if keepers[clean] != raw}
    if not others:
        return cleaned
    return [_told_apart(raw, clean, others) for raw, clean in zip(raws, cleaned, strict=True)]


def sent_name(name: str, clean: str) -> str:
    """Return what a server is told of a name, of which it makes this clean one: the raw last part, if there is no code.

    By that a sidecar finds a picture that another upload brings.
    """
    raw = clean.removesuffix(base_name(clean)) + _last(name)
    return raw if clean_name(raw) == clean else clean


def _told_apart(name: str, clean: str, others: Collection[tuple[str, str]]) -> str:
    """Return the clean name; with a code if what precedes one of its dots is among ``others``, clean and raw."""
    last = _last(name)
    for dot in (found.start() for found in _DOT.finditer(last)):
        raw, rest = last[:dot], last[dot:]
        if clean.endswith(rest) and (clean.removesuffix(rest), raw) in others:
            return _with_code(clean.removesuffix(rest), raw, rest)
    bare, raw, rest = _split(name, clean)
    return _with_code(bare, raw, rest) if (bare, raw) in others else clean


def raw_end(name: str) -> str | None:
    """Return the last part of a raw name in ASCII with escapes; None if the clean name has the same."""
    last = _last(name)
    # what is longer is no name of a file
    is_kept = last != base_name(clean_name(name)) and len(last) <= _MAX_GIVEN
    return last.encode("unicode_escape").decode() if is_kept else None


def codes(clean: str, end: str | None) -> dict[str, str]:
    """Return the names with a code that a file has if its picture has one, by the path of that without suffix.

    Args:
        end: the :func:`raw_end` of the name.
    """
    if end is None:
        return {}
    last = end.encode().decode("unicode_escape")
    splits = ((last[:dot], last[dot:]) for dot in (found.start() for found in _DOT.finditer(last)))
    names = ((_with_code(clean.removesuffix(rest), raw, rest), rest) for raw, rest in splits if clean.endswith(rest))
    return {name.removesuffix(rest): name for name, rest in names}


def without_code(clean: str) -> str:
    """Return a clean name without the code of a raw one."""
    return clean.removesuffix(base_name(clean)) + _CODE.sub("", base_name(clean), count=1)


def coded(name: str) -> str:
    """Return the clean name with a code of the last part of the raw one, which a sidecar shares with its picture."""
    return _with_code(*_split(name, clean_name(name)))


def _with_code(bare: str, raw: str, suffix: str) -> str:
    room = MAX_NAME - max(len(suffix), _MAX_SUFFIX_LENGTH) - _HASH_LENGTH - 1
    return f"{bare[:room]}~{_hash(raw)}{suffix}"


def _split(name: str, clean: str) -> tuple[str, str, str]:
    """Return a clean name without its suffix, the last part of the raw name without it, and the suffix."""
    last = base_name(clean)[-_MAX_SUFFIX_LENGTH:]
    suffix = last[last.rindex(".") :] if "." in last else ""
    return clean.removesuffix(suffix), _last(name).removesuffix(suffix), suffix


def _last(name: str) -> str:
    """Return the last part of a raw name that a clean one has."""
    parts = name.replace("\\", "/").split("/")
    return next((part for part in reversed(parts) if one_line(part) not in _NOWHERE), parts[-1])


def _hash(text: str) -> str:
    return sha256(text.encode(errors="surrogatepass")).hexdigest()[:_HASH_LENGTH]


def joined_folders(folders: Iterable[str]) -> str:
    """Return clean folders as they are in a clean name: joined by ``/``, with 200 characters at most.

    Folders below some that were cut give the same as below the whole ones.
    """
    joined = ""
    for folder in folders:
        joined = _cut(f"{joined}/{folder}" if joined else folder, MAX_FOLDERS)
    return joined


def _cut(text: str, room: int) -> str:
    """Return ``text`` in ``room`` characters; a hash of all of it stands for what is lost."""
    if len(text) <= room:
        return text
    return f"{text[: room - _HASH_LENGTH - 1]}~{_hash(text)}"


def one_line(text: str) -> str:
    """Return ``text`` in NFC on one line, with single spaces, without control characters and direction marks."""
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    # composed last, since a direction mark may separate a letter from its accent
    text = composed("".join(c for c in text if c not in _BIDI))
    visible = "".join(" " if unicodedata.category(c) in _INVISIBLE else c for c in text)
    return re.sub(r"\s+", " ", visible).strip()


def quoted(name: str) -> str:
    """Return a name in quotes as messages have it; characters that can't be seen have escapes, and no others."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)
    return f'"{shown}"' if "'" in shown and '"' not in shown else f"'{shown}'"


def base_name(name: str) -> str:
    """Return the last part of a name."""
    return name.rsplit("/", 1)[-1]


def suffix_of(name: str) -> str:
    """Return the suffix of a name in lower case, with its dot; empty if there is none."""
    last = base_name(name)
    return last[last.rindex(".") :].lower() if "." in last.lstrip(".") else ""
