"""The table of files by name: what is clutter, and what a suffix may be.

Command line, pages, API and archives decide by this table; the pages' scripts get it from
``retllm_web.render.file_script``. What a file really is, its content decides (``retllm.media.sniffing``).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from retllm.media.formats import PICTURE_SUFFIXES
from retllm.media.names import suffix_of


class FileRole(StrEnum):
    """What a file may be by its suffix."""

    PICTURE = "picture"  # a picture
    PAGES = "pages"  # a document whose pages become pictures
    FILM = "film"  # a film whose scenes become pictures
    TEXT = "text"  # a text, or the caption of the picture with the same name
    SHEET = "sheet"  # captions of many pictures
    SIDECAR = "sidecar"  # what is known of the picture with the same name
    ARCHIVE = "archive"  # holds files of the other roles


SUFFIXES: dict[FileRole, tuple[str, ...]] = {
    FileRole.PICTURE: tuple(sorted(PICTURE_SUFFIXES)),
    FileRole.PAGES: (".pdf",),
    FileRole.FILM: (
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".mpg",
        ".mpeg",
        ".wmv",
        ".flv",
        ".3gp",
        ".mts",
        ".m2ts",
        ".ogv",
    ),
    FileRole.TEXT: (".txt", ".text"),
    FileRole.SHEET: (".csv", ".tsv", ".token", ".jsonl", ".ndjson", ".json"),
    FileRole.SIDECAR: (".xmp", ".caption"),
    FileRole.ARCHIVE: (".zip", ".tar", ".tgz", ".gz", ".tbz2", ".bz2", ".txz", ".xz"),
}
DESCRIBING = (FileRole.TEXT, FileRole.SHEET, FileRole.SIDECAR)
"""Files of these roles may say something of pictures, so they are sent before all pictures."""

CLUTTER: dict[str, tuple[str, ...]] = {
    "index and previews of a Synology": (
        "@eaDir",
        "*@SynoResource",
        "*@SynoEAStream",
        "SYNOPHOTO_THUMB_*",
        "SYNOINDEX_*",
    ),
    "recycle bin": ("#recycle", "@Recycle", "$RECYCLE.BIN", "RECYCLER", ".Trash*", "Network Trash Folder"),
    "earlier states kept by a network drive": ("#snapshot", "@Recently-Snapshot", ".snapshot", ".zfs"),
    "temporary files of a network drive": ("@tmp", ".@*", "Temporary Items"),
    "metadata of macOS": ("__MACOSX", "._*", ".DS_Store", "Icon\r", "Icon%0D"),
    "previews and settings of Windows": (
        "Thumbs.db",
        "Thumbs.db:encryptable",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "*:Zone.Identifier",
        "System Volume Information",
    ),
    "remains of a file system check": ("lost+found", "found.00?"),
    "previews and catalogue of Lightroom": ("*.lrdata", "*.lrcat", "*.lrcat-*", "*.lrcat.lock"),
    "previews and database of a picture library": (
        *(f"*.photoslibrary/{folder}" for folder in ("resources", "database", "private", "external", "scopes")),
        *(f"*.{kind}/{folder}" for kind in ("photolibrary", "aplibrary") for folder in ("Thumbnails", "Previews")),
        "digikam4.db",
        "thumbnails-digikam.db",
        "Picasa.ini",
        "ZbThumbnail.info",
        "pspbrwse.jbf",
    ),
    "changes that Apple Photos keeps beside a picture": ("*.aae",),
    "record of Google Photos that names no picture": (
        "print-subscriptions.json",
        "shared_album_comments.json",
        "user-generated-memory-titles.json",
    ),
    # its name depends on the language of the user
    "index page of Google Takeout": ("archive_browser.html", "Archiv*bersicht.html", "Takeout/*.html"),
    "preview that a camera keeps beside a film": ("*.thm",),
    "earlier state kept by a program": ("*.*~", "*.bak"),
    "data of a backup program": ("_gsdata_",),
    "lock file of an office program": ("~$*",),
    "version history": (".git", ".svn", ".hg"),
    "hidden file or folder": (".*",),
}
"""Reason -> names that nobody means to upload. ``*`` and ``?`` stand for characters other than ``/``; upper and lower
case are the same. A folder of such a name is clutter with all that is in it."""


class Clutter(NamedTuple):
    """The part of a name that makes it clutter: ``path`` ends with the file or folder that ``glob`` matches."""

    path: str
    glob: str
    reason: str


GLOBS: tuple[tuple[str, str], ...] = tuple((glob, reason) for reason, globs in CLUTTER.items() for glob in globs)
"""Each glob with its reason; the first that matches counts."""


def _group(glob: str) -> str:
    """Return the glob as a group of a regular expression that Python and JavaScript read alike."""
    parts = {"*": "[^/]*", "?": "[^/]"}
    return "(" + "".join(parts[c] if c in parts else re.sub(r"([.+$()\[\]{}^|\\/])", r"\\\1", c) for c in glob) + ")"


# not "$", which Python also matches before a line end
PATTERN = "(?:^|/)(?:" + "|".join(_group(glob) for glob, _ in GLOBS).replace("\r", r"\r") + r")(?=/|(?![\s\S]))"
"""A regular expression for a name whose parts are joined by ``/``, with one group for each of ``GLOBS``."""
# ASCII, because JavaScript folds no other letters into these
_CLUTTER = re.compile(PATTERN, re.IGNORECASE | re.ASCII)


def clutter_of(name: str) -> Clutter | None:
    """Return what makes a file clutter, by its whole name with folders; None if it is none."""
    path = "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", ".."))
    found = _CLUTTER.search(path)
    if found is None:
        return None
    assert found.lastindex is not None
    return Clutter(path[: found.end()], *GLOBS[found.lastindex - 1])


_ROLES = {suffix: role for role, suffixes in SUFFIXES.items() for suffix in suffixes}


def role_of(name: str) -> FileRole | None:
    """Return what a file may be by its suffix; None for a suffix that is not in the table."""
    return _ROLES.get(suffix_of(name))


def accepted() -> str:
    """Return what a file chooser offers, as the value of ``accept`` in HTML."""
    return ",".join(["image/*", *_ROLES])
