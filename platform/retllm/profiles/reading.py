"""Reading the file of a profile, whatever it is, and sentences on its mistakes."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

#: of a file; the largest profile of the package has 2 KiB
MOST_BYTES = 64 * 1024
#: characters of a key or a name that a message quotes
_QUOTED = 60

_WHAT_IT_IS = {
    "string_type": "it is a text, in quotes",
    "int_type": "it is a whole number, without quotes",
    "bool_type": "it is true or false, without quotes",
    "tuple_type": "it is a list, in brackets",
    "model_type": "it is a table",
    "dict_type": "it is a table",
    "string_pattern_mismatch": "it is empty: write a text, or remove the key",
    "string_too_short": "it is empty: write a text, or remove the key",
    "too_short": "it is an empty list: add an entry, or remove the key",
}


class BadProfile(ValueError):
    """A profile can't be used; the message names the file and the key, and says what to do."""


def read_profile(path: Path) -> str:
    """Return the text of a file.

    Raises:
        BadProfile: it is no regular file of UTF-8, is too large, or can't be read.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _unreadable(path, "it is no regular file")
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise _unreadable(path, f"it has more than {MOST_BYTES // 1024} KiB")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, "it is not UTF-8") from error
    except ValueError as error:
        if isinstance(error, BadProfile):
            raise
        raise _unreadable(path, "no file can have that name") from error


def _open_at_once(path: str, flags: int) -> int:
    """Open a file; a pipe that nobody writes to, too."""
    return os.open(path, flags | os.O_NONBLOCK)


def _unreadable(path: Path, reason: str | None) -> BadProfile:
    return BadProfile(f"The profile {path} can't be read ({reason}): correct the path, or unset it")


def parse_toml(text: str, file: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        BadProfile: it is none.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadProfile(f"The profile {file} is not valid TOML: {error}. Correct that place") from error
    except RecursionError as error:
        raise BadProfile(f"The profile {file} has too many brackets within each other: remove them") from error
    except ValueError as error:
        raise BadProfile(f"The profile {file} has a number of too many digits: correct it") from error


def sentence(error: ValidationError) -> str:
    """Return the first mistake, with the key and what to do."""
    first = error.errors(include_url=False)[0]
    key = quoted(".".join(str(part) for part in first["loc"] if part != "[key]"))
    if first["type"] == "extra_forbidden":
        return f'it has no key "{key}": remove it, or correct its spelling (the documentation lists the keys)'
    if first["type"] == "missing":
        return f'the key "{key}" is missing: add it'
    problem = _WHAT_IT_IS.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    return f'correct the key "{key}": {problem}' if key else problem


def quoted(text: str) -> str:
    """Return a text of a file for a message: shortened, without characters that control a terminal."""
    shown = "".join(character if character.isprintable() else "�" for character in text)
    return shown if len(shown) <= _QUOTED else f"{shown[:_QUOTED]}…"
