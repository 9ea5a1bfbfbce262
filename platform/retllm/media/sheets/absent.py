"""Pictures that texts and sidecars may describe, and that are not there: they did not come, or not yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from retllm.errors import MediaRejected, PictureNotSent
from retllm.media.file_table import FileRole, role_of
from retllm.media.sheets import refused_files, sidecars
from retllm.media.sheets.folder_names import archive_names, are_apart, short_name
from retllm.media.sheets.located import Located
from retllm.media.sheets.matching import path_stem
from retllm.media.sheets.references import Reference, names_a_picture


def archive_for(located: Located, archives: Iterable[str], folders: Sequence[str] = ()) -> str | None:
    """Return the first archive that may have the pictures of a file: none of another part of its data set.

    Args:
        folders: those that a row of the file names.
    """

    def is_apart(archive: str) -> bool:
        return located.contradicts(Located(archive, outer=archive)) or any(
            are_apart(folder, short_name(archive)) for folder in folders
        )

    return next((each for each in archives if not is_apart(each)), None)


def named_archive(reference: Reference, archives: Iterable[str]) -> str | None:
    """Return the first archive that a folder of a row has the name of."""
    folders = {folder.lower() for folder in reference.parts[:-1]}
    return next((each for each in archives if not folders.isdisjoint(map(str.lower, archive_names(each)))), None)


class Absent:
    """The files that did not come with an upload, and those that other uploads are still bringing.

    Args:
        missing: names of files that were to come with the upload and did not.
        awaited: names of files that other uploads are still sending or processing.
        archives: those of archives that they are still sending, or have not unpacked.

    Attributes:
        missing_archives: the archives among those that were to come with the upload.
        archives: those that other uploads are still bringing.
        is_nothing: whether there are neither such archives nor pictures that other uploads are still bringing.
    """

    def __init__(self, missing: Sequence[str] = (), awaited: Sequence[str] = (), archives: Sequence[str] = ()) -> None:
        self._missing = _by_path(missing)
        self._awaited = _by_path(awaited)
        self.missing_archives = [name for name in missing if role_of(name) is FileRole.ARCHIVE]
        self.archives = archives
        self.is_nothing = not (self.missing_archives or self._awaited or archives)

    def picture(self, located: Located, *, is_text: bool = False, very: bool = False) -> MediaRejected | None:
        """Return why a text or sidecar is refused whose picture is absent; None if that is not so.

        Args:
            very: whether only a picture of its very name is meant.
        """
        name, files = located.name, located.very if very else (*located.very, located)
        # what did not come lies beside loose files only
        if located.archive is None and (picture := _beside([one.name for one in files], self._missing)) is not None:
            return PictureNotSent(refused_files.not_sent(name, picture, is_text=is_text))
        names = [each for one in files for each in (one.name, one.unpacked_name)]
        if (picture := _beside(names, self._awaited)) is not None:
            return MediaRejected(refused_files.awaited(name, picture))
        return None

    def archive(self, located: Located, *, is_text: bool = False) -> MediaRejected | None:
        """Return why a file with the name of a sidecar is refused: its picture may be in an absent archive."""
        if not sidecars.places(located.name):
            return None
        if (archive := archive_for(located, self.missing_archives)) is not None:
            return PictureNotSent(refused_files.in_unsent_archive(located.name, archive, is_text=is_text))
        if (archive := archive_for(located, self.archives)) is not None:
            return MediaRejected(refused_files.in_awaited_archive(located.name, archive, is_text=is_text))
        return None


def _by_path(names: Iterable[str]) -> dict[str, str]:
    return {path_stem(name).lower(): name for name in names if names_a_picture(name)}


def _beside(names: Iterable[str], pictures: dict[str, str]) -> str | None:
    """Return the picture that a text or sidecar of these names would describe."""
    for place in (place for name in names for place in (*sidecars.places(name), *sidecars.wholes(name))):
        picture = pictures.get(place.path.lower())
        if picture is not None and place.fits(picture):
            return picture
    return None
