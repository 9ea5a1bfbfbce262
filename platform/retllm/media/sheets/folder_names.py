"""What the names of folders, archives and sheets say of the pictures in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from retllm.media.file_table import FileRole, role_of
from retllm.media.names import base_name

# words in the names of folders that hold what is said of pictures elsewhere, and of the folders of those pictures:
# annotations/ beside images/, Flickr8k_text/ beside Flicker8k_Dataset/
DESCRIBING = frozenset(
    (
        "annotation",
        "annotations",
        "caption",
        "captions",
        "label",
        "labels",
        "meta",
        "metadata",
        "text",
        "texts",
        "txt",
        "json",
        "csv",
        "sheet",
        "sheets",
    )
)
OF_PICTURES = frozenset(
    (
        "image",
        "images",
        "img",
        "imgs",
        "picture",
        "pictures",
        "photo",
        "photos",
        "jpg",
        "jpeg",
        "jpegimages",
        "png",
        "dataset",
        "datasets",
        "data",
    )
)
# words for the parts of a data set, and which of them mean the same one
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
_WORD = re.compile(r"[^\W_]+")
# Flickr8k's own folder of pictures is misspelt
_SPELLING = ("flicker", "flickr")


def describes(folders: Iterable[str]) -> bool:
    """Return whether the name of a folder says that it holds what is said of pictures elsewhere."""
    return not DESCRIBING.isdisjoint(word for folder in folders for word in words_of(folder))


def words_of(folder: str) -> list[str]:
    """Return the words in a name, in lower case."""
    return _WORD.findall(folder.lower().replace(*_SPELLING))


def telling(name: str) -> str:
    """Return what a name says besides words that only say that it is about pictures."""
    return "".join(word for word in words_of(name) if word not in DESCRIBING | OF_PICTURES)


def splits(names: Iterable[str]) -> set[str]:
    """Return the parts of a data set that words in names mean; train2017 is train."""
    words = (word.rstrip("0123456789") for name in names for word in words_of(name))
    return {_SPLITS[word] for word in words if word in _SPLITS}


def data_set(name: str) -> list[str]:
    """Return what a name says besides the part of the data set, and that it is about pictures."""
    return [word for word in words_of(name) if word not in DESCRIBING | OF_PICTURES and not splits([word])]


def short_name(path: str) -> str:
    """Return the last part of a path up to its first dot."""
    return base_name(path).partition(".")[0]


@lru_cache(maxsize=1 << 12)
def archive_names(path: str) -> tuple[str, ...]:
    """Return the names that an archive's folder may have, with and without its suffix; none of an empty path."""
    name = base_name(path)
    bare = name
    while bare and role_of(bare) is FileRole.ARCHIVE:
        bare = bare.rpartition(".")[0]
    return tuple(dict.fromkeys(filter(None, (name, bare, short_name(path)))))


@lru_cache(maxsize=1 << 12)
def are_apart(first: str, second: str) -> bool:
    """Return whether two names are those of different parts of one data set."""
    mine, others = splits([first]), splits([second])
    return bool(mine and others) and mine.isdisjoint(others) and data_set(first) == data_set(second)
