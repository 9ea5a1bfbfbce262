"""Archives: ZIP, and tar with or without compression. The directory is checked before anything is unpacked."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from retllm.errors import Incomplete, MediaRejected, TooLarge
from retllm.media import streams, tars, zips
from retllm.media.clutter import ClutterCount
from retllm.media.file_table import FileRole, role_of
from retllm.media.name_encodings import told_apart
from retllm.media.names import clean_name, clean_names, quoted
from retllm.media.outcomes import FileOutcome, ignored
from retllm.media.sniffing import FileKind, limit_of
from retllm.media.special_files import Links
from retllm.media.streams import Readable
from retllm.settings import Settings


class Reader(Protocol):
    """Reads the files of an archive."""

    @property
    def files(self) -> Sequence[tuple[str, int]]:
        """Whole name and size of each file, in the order of the archive, without folders."""

    @property
    def raw_names(self) -> Sequence[bytes]:
        """The bytes of their names."""

    @property
    def links(self) -> Mapping[int, str | None]:
        """By the place of a link in ``files``, what it points to; see :class:`retllm.media.special_files.Links`."""

    @property
    def remark(self) -> str | None:
        """What else there is to know about the archive."""

    @property
    def is_cut(self) -> bool:
        """Whether it was cut off, or is damaged, so that files are missing after these."""

    @property
    def rewritten(self) -> Callable[[], BinaryIO] | None:
        """Returns the archive in a form that is opened with less work, if there is one; see :class:`Archive`."""

    def unpacked(self, number: int) -> Readable:
        """Return a stream of the bytes of a file by its place in ``files``; it can be read once.

        Raises:
            MediaRejected: the file is refused, for the reason in the message.
        """


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of an archive, or a link to one.

    Attributes:
        place: its place among all files of the archive, clutter and links included.
        number: the place of the file that has its bytes: the same, unless it is a link.
        name: the name with its folders, safe to show.
        given: the name as the archive has it.
        problem: why it is a link that can't be followed.
    """

    place: int
    number: int
    name: str
    given: str
    file_size: int
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive within the limits.

    Attributes:
        entries: its files.
        ignored: the outcomes of its clutter, and of links that are not followed.
        remark: what else there is to know about it.
        lost: that an archive was cut off, so that files are missing.
        rewritten: if the whole had to be read to open the archive, returns it in a form with the same entries for which
            that is not so: a compressed tar without compression, a cut ZIP with a directory. It lives as long.
    """

    entries: list[Entry]
    ignored: list[FileOutcome]
    remark: str | None
    lost: Incomplete | None
    rewritten: Callable[[], BinaryIO] | None
    _reader: Reader
    _settings: Settings

    def entry(self, place: int) -> Entry:
        """Return the entry at a place.

        Raises:
            MediaRejected: there is none.
        """
        at = bisect_left(self.entries, place, key=lambda entry: entry.place)
        if at == len(self.entries) or self.entries[at].place != place:
            raise MediaRejected("The file is not found in its archive any more: send it again.")
        return self.entries[at]

    def spooled(self, entry: Entry) -> BinaryIO:
        """Unpack the entry into a seekable file, positioned at its start; the caller closes it.

        Raises:
            MediaRejected: the entry is encrypted, a device or a link to nothing, compressed in a way that is not
                accepted, a bomb, damaged, or larger than the directory says.
            TooLarge: the entry has more than ``max_file_bytes``, or ``max_film_bytes`` if it is named like a film.
        """
        if entry.problem is not None:
            raise MediaRejected(entry.problem)
        kind = FileKind.FILM if role_of(entry.name) is FileRole.FILM else None
        return streams.spool(self._reader.unpacked(entry.number), *limit_of(kind, self._settings))


def _never_ends() -> None:
    pass


@contextmanager
def opened(stream: BinaryIO, settings: Settings, check: Callable[[], None] = _never_ends) -> Iterator[Archive]:
    """Open the archive in ``stream``; its entries leave out folders and clutter.

    Args:
        check: called before each step of listing and of unpacking; what it raises ends the work.

    Raises:
        MediaRejected: the archive can't be read, is no archive but a compressed file, its files share bytes, or it is a
            document in ZIP format (docx, epub, jar).
        TooLarge: it has more files than ``max_archive_files``, or more unpacked bytes than ``max_archive_bytes``.
    """
    with ExitStack() as stack:
        stream = streams.watched(stream, check)
        head = streams.head(stream)
        kind = tars if tars.is_tar_archive(head) else zips
        reader: Reader = kind.opened(stream, settings, stack, check)
        clutter = ClutterCount()
        entries: list[Entry] = []
        unfollowed: list[FileOutcome] = []
        given = [name for name, _ in reader.files]
        links = Links(given, reader.links)
        names = clean_names(given, told_apart(given, reader.raw_names))
        for place, (name, _) in enumerate(reader.files):
            check()
            if clutter.take(name):
                continue
            try:
                end = links.follow(place)
            except MediaRejected as error:
                entries.append(Entry(place, place, names[place], name, 0, error.message))
                continue
            if isinstance(end, str):
                unfollowed.append(ignored(names[place], end))
            else:
                entries.append(Entry(place, end, names[place], name, reader.files[end][1]))
        _check_limits(entries, len(unfollowed), settings)
        outcomes, lost = unfollowed + clutter.outcomes(), _lost(reader.files) if reader.is_cut else None
        yield Archive(entries, outcomes, reader.remark, lost, reader.rewritten, reader, settings)


def _lost(files: Sequence[tuple[str, int]]) -> Incomplete:
    read = "1 whole file was" if len(files) == 1 else f"{len(files):,} whole files were"
    last = f", up to {quoted(clean_name(files[-1][0]))}" if files else ""
    return Incomplete(
        f"The archive was cut off or is damaged: {read} read{last}; what follows is missing. Send it again complete."
    )


def inside_another(stream: BinaryIO, settings: Settings) -> MediaRejected:
    """Return why an archive inside another one is refused, by the name of what it is if that is a document."""
    try:
        zips.check_no_document(stream, settings)
    except MediaRejected as error:
        return error
    return MediaRejected("An archive inside an archive is not opened: send it separately.")


def _check_limits(entries: list[Entry], unfollowed: int, settings: Settings) -> None:
    if (count := len(entries) + unfollowed) > settings.max_archive_files:
        raise TooLarge(
            f"The archive contains {count:,} files; RETLLM_MAX_ARCHIVE_FILES allows "
            f"{settings.max_archive_files:,}: send it in parts.",
            limit=settings.max_archive_files,
        )
    total = sum(entry.file_size for entry in entries)
    if total > settings.max_archive_bytes:
        raise TooLarge(
            f"The archive unpacks to {streams.size(total)}; RETLLM_MAX_ARCHIVE_BYTES allows "
            f"{streams.exact_size(settings.max_archive_bytes)}: send it in parts.",
            limit=settings.max_archive_bytes,
        )
