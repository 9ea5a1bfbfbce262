"""Where files may be imported from: folders of this machine, and prefixes of buckets such as ``s3://BUCKET/PREFIX/``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_SCHEME = "s3://"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_ANY_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NOWHERE = {"", ".", ".."}


@dataclass(frozen=True, slots=True)
class Prefix:
    """The objects of a bucket whose keys begin with ``prefix``, which is empty or ends with a slash."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{_SCHEME}{self.bucket}/{self.prefix}"

    def contains(self, other: Prefix) -> bool:
        """Return whether all objects of ``other`` are objects of this one."""
        return self.bucket == other.bucket and other.prefix.startswith(self.prefix)


def root_of(address: str) -> Prefix | Path:
    """Return what an address means; ``s3://BUCKET/PREFIX`` is the same with and without a slash at its end.

    Raises:
        ValueError: it is neither a folder nor a prefix of a bucket; the message says what to write.
    """
    if "\0" in address:
        raise ValueError("The address of a folder or bucket has no character NUL")
    if not address.startswith(_SCHEME):
        if _ANY_SCHEME.match(address):
            raise ValueError(f"{address} is neither a folder nor s3://BUCKET/PREFIX/")
        return Path(address)
    bucket, _, prefix = address.removeprefix(_SCHEME).partition("/")
    prefix = prefix.removesuffix("/")
    if not _BUCKET.fullmatch(bucket) or (prefix and not is_plain(prefix)):
        raise ValueError(
            f"{address} is no prefix of a bucket: write s3://BUCKET/PREFIX/, without empty parts, . and .."
        )
    return Prefix(bucket, f"{prefix}/" if prefix else "")


def is_plain(key: str) -> bool:
    """Return whether no part of a key or path is empty or leads elsewhere, as ``..`` does in some stores."""
    return not _NOWHERE & set(key.split("/"))


def checked(roots: tuple[str, ...]) -> tuple[str, ...]:
    """Return the addresses of a setting.

    Raises:
        ValueError: as :func:`root_of`.
    """
    for root in roots:
        root_of(root)
    return roots
