"""Of an archive that was cut off, the files that are whole are read, and what is missing is said."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
import zipfile
import zlib
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.media import handmade
from tests.unit.media.handmade import Entry
from tests.unit.media.handmade_tars import made, tarred

from retllm.errors import MediaRejected, TooLarge
from retllm.media import archives, streams
from retllm.media.zip_directory import ZipEntry, read_directory, written
from retllm.settings import Settings

FILES = {"a.txt": b"first " * 200, "b/c.txt": random.Random(1).randbytes(3000), "d.txt": b"", "ä.txt": b"last"}


class Unseekable(io.BytesIO):
    """A file to which an archive is written as a stream."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation

    def tell(self) -> int:
        raise io.UnsupportedOperation


def streamed(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A ZIP whose headers have no sizes, as the standard library writes it to a pipe."""
    target = Unseekable()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def zipped(files: dict[str, bytes], method: int) -> bytes:
    return handmade.made([Entry(name.encode(), content, method=method) for name, content in files.items()])


def read(data: bytes, settings: Settings) -> tuple[dict[str, bytes], str | None]:
    """The files of an archive, and what is said of it; those of its other form are the same."""
    with archives.opened(io.BytesIO(data), settings) as archive:
        found = {entry.name: archive.spooled(entry).read() for entry in archive.entries}
        if archive.rewritten is not None:
            with archives.opened(archive.rewritten(), settings) as again:
                assert {entry.name: again.spooled(entry).read() for entry in again.entries} == found
                assert [entry.number for entry in again.entries] == [entry.number for entry in archive.entries]
        return found, archive.remark if archive.lost is None else archive.lost.message


def read_or_nothing(data: bytes, settings: Settings) -> tuple[dict[str, bytes], str | None]:
    try:
        return read(data, settings)
    except MediaRejected as error:
        return {}, f"cut off: {error}"


WHOLE = {
    "tar": tarred(FILES),
    "stored": zipped(FILES, 0),
    "deflated": zipped(FILES, 8),
    "streamed": streamed(FILES),
    "streamed and stored": streamed(FILES, zipfile.ZIP_STORED),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_the_files_before_a_cut_are_read(kind: str, settings: Settings) -> None:
    data, names = WHOLE[kind], list(FILES)
    assert read(data, settings) == (FILES, None)
    counts = set()
    content_end = data.index(b"last" if kind == "tar" else b"PK\1\2") + 4
    for end in sorted({*range(30, content_end, 61), *range(512, content_end, 512)}):
        found, remark = read_or_nothing(data[:end], settings)
        assert found == {name: FILES[name] for name in names[: len(found)]}
        assert remark is not None
        assert "cut off" in remark
        if found:
            assert f"up to {names[len(found) - 1]!r}; what follows is missing" in remark or (
                len(found) == len(names) and "all its files could be read" in remark
            )
        counts.add(len(found))
    assert counts >= {0, 1}
    assert max(counts) >= 2


def test_a_zip_that_was_cut_in_its_directory_lacks_nothing(settings: Settings) -> None:
    for kind in WHOLE.keys() - {"tar"}:
        data = WHOLE[kind]
        for end in range(data.index(b"PK\1\2") + 4, len(data), 17):
            assert read(data[:end], settings) == (
                FILES,
                "The ZIP was cut off in its directory; all its files could be read.",
            )


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
def test_the_files_before_the_cut_of_a_compressed_tar_are_read(pack, settings: Settings) -> None:  # type: ignore[no-untyped-def]
    files = {f"{n}.txt": random.Random(n).randbytes(250_000 + n) for n in range(5)}
    data = pack(tarred(files))
    counts = set()
    for end in range(len(data) // 5, len(data), len(data) // 5):
        found, remark = read_or_nothing(data[:end], settings)
        assert "cut off" in str(remark)
        assert found == {name: files[name] for name in list(files)[: len(found)]}
        counts.add(len(found))
    assert max(counts) >= 4
    # bytes that were changed are another matter: no checksum tells where
    damaged = data[: len(data) // 2] + bytes(2000) + data[len(data) // 2 + 2000 :]
    with pytest.raises(MediaRejected, match="damaged or truncated"):
        read(damaged, settings)


@pytest.mark.parametrize("signature", [b"PK\7\x08", b""])
@pytest.mark.parametrize("form", ["<3L", "<L2Q"])
def test_the_end_of_a_streamed_file_is_found_with_each_form_of_its_sizes(
    signature: bytes, form: str, settings: Settings
) -> None:
    content = b"some words " * 99
    packed = handmade.deflated(content)
    descriptor = signature + struct.pack(form, zlib.crc32(content), len(packed), len(content))
    empty = {"crc": 0, "packed": 0, "size": 0}
    data = b""
    for name in (b"a.txt", b"b.txt"):
        entry = handmade.made([Entry(name, content, method=8, flags=8, local=empty)])
        data += entry[: entry.index(b"PK\1\2")] + descriptor
    found, remark = read(data + b"PK\3\4", settings)
    assert found == {"a.txt": content, "b.txt": content}
    assert "up to 'b.txt'" in str(remark)
    # one that disagrees ends the reading
    wrong = data[:-1] + b"\1"
    assert list(read(wrong, settings)[0]) == ["a.txt"]


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress], ids=["gz", "xz", "bz2"])
def test_a_tar_that_is_compressed_in_pieces_is_read(pack, settings: Settings) -> None:  # type: ignore[no-untyped-def]
    """As pigz, pxz and pbzip2 write it, or tools that join files."""
    data = tarred({name: content for name, content in FILES.items() if content})
    pieces = [pack(data[start : start + 2_000]) for start in range(0, len(data), 2_000)]
    whole = read(b"".join(pieces), settings)
    assert (list(whole[0]), whole[1]) == (["a.txt", "b/c.txt", "ä.txt"], None)
    for more in (bytes(4_000), b"\n", b"what a mail program added"):
        assert read(b"".join(pieces) + more, settings) == whole
    first = b"".join(pieces[:2])
    for end in range(len(pieces[2])):
        found, remark = read(first + pieces[2][:end], settings)
        assert list(found) in (["a.txt"], ["a.txt", "b/c.txt"])
        assert "cut off" in str(remark)


def test_zeros_between_pieces_count_for_nothing(settings: Settings) -> None:
    data = tarred(FILES)
    for pack in (gzip.compress, lzma.compress):
        assert read(pack(data[:700]) + bytes(70_000) + pack(data[700:]), settings) == (FILES, None)


@pytest.mark.parametrize("form", ["<3L", "<L2Q"])
def test_a_stored_file_without_its_size_ends_at_its_descriptor(form: str, settings: Settings) -> None:
    # within, at and across the steps in which it is searched, and after others that fit in part
    for size in (0, 10, (1 << 16) - 3, 1 << 16, (1 << 17) - 2):
        content = random.Random(size).randbytes(size)
        content += b"PK\7\x08" + struct.pack(form, 7, len(content), len(content)) + b"PK\7\x08"
        descriptor = b"PK\7\x08" + struct.pack(form, zlib.crc32(content), len(content), len(content))
        data = b""
        for name in (b"a.txt", b"b.txt"):
            local = {"crc": 0, "packed": 0, "size": 0}
            entry = handmade.made([Entry(name, content, method=0, flags=8, local=local)])
            data += entry[: entry.index(b"PK\1\2")] + descriptor
        assert read(data, settings)[0] == {"a.txt": content, "b.txt": content}
        assert list(read(data[:-1], settings)[0]) == ["a.txt"]


def test_a_stored_file_without_its_descriptor_ends_the_reading(settings: Settings) -> None:
    data = streamed({"a.txt": b"x" * 300})
    stored = streamed({"b.txt": WHOLE["stored"]}, zipfile.ZIP_STORED)
    found, _ = read(data[: data.index(b"PK\1\2")] + stored[:3000], settings)
    # neither the file nor one inside of it
    assert list(found) == ["a.txt"]


def test_the_directory_of_an_archive_inside_is_not_that_of_the_whole(settings: Settings) -> None:
    inner = zipped({"inner.txt": b"inside"}, 0)
    data = zipped({"a.txt": b"first", "inner.zip": inner, "b.txt": b"x" * 99}, 0)
    found, remark = read(data[: data.index(b"b.txt")], settings)
    assert found == {"a.txt": b"first", "inner.zip": inner}
    assert "up to 'inner.zip'" in str(remark)


def test_a_document_that_was_cut_off_is_no_archive(settings: Settings) -> None:
    data = zipped({"[Content_Types].xml": b"<a/>", "word/document.xml": b"<b/>", "c": b"x" * 99}, 0)
    with pytest.raises(MediaRejected, match="Word"):
        read(data[:-150], settings)


def test_a_bomb_that_was_cut_off_ends_the_reading(settings: Settings) -> None:
    bomb = streamed({"a.txt": b"fine", "b.txt": bytes(8 << 20), "c.txt": b"more"})
    found, _ = read(bomb[: bomb.index(b"PK\1\2")], settings)
    assert found == {"a.txt": b"fine"}
    many = zipped({f"{n}": b"" for n in range(settings.max_archive_files + 1)}, 0)
    with pytest.raises(TooLarge, match="RETLLM_MAX_ARCHIVE_FILES"):
        read(many[:-10], settings)


def test_encrypted_files_of_known_size_are_passed_over(settings: Settings) -> None:
    data = handmade.made([Entry(flags=1), Entry(b"b.txt"), Entry(b"c.txt")])
    with archives.opened(io.BytesIO(data[:-10]), settings) as archive:
        with pytest.raises(MediaRejected, match="encrypted"):
            archive.spooled(archive.entries[0])
        assert [archive.spooled(entry).read() for entry in archive.entries[1:]] == [b"some words"] * 2


def test_a_directory_that_is_written_is_read_with_numbers_of_64_bits(settings: Settings) -> None:
    extra = handmade.unicode_path(b"a", "ä.txt")
    entries = [
        ZipEntry(b"a", 0x800, 8, 5, 6, 7, 0, 0, extra),
        ZipEntry(b"b", 8, 0, 1, 5 << 32, 6 << 32, 0, 7 << 32, b""),
        ZipEntry(b"c", 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0xFFFFFFFF, b"\1\0\x10\0" + bytes(16)),
    ]
    found = read_directory(io.BytesIO(written(entries, 0)), settings)
    assert found is not None
    assert (found.start, found.shift) == (0, 0)
    for before, after in zip(entries, found.entries, strict=True):
        numbers = ("name", "flags", "method", "crc", "packed", "size", "offset")
        assert [getattr(before, name) for name in numbers] == [getattr(after, name) for name in numbers]
    assert found.entries[0].extra.endswith(extra)


def in_local_header(name: bytes, extra: bytes, content: bytes = b"x") -> bytes:
    """A stored file with an extra field in its own header."""
    numbers = (zlib.crc32(content), len(content), len(content), len(name), len(extra))
    return struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 33, *numbers) + name + extra + content


def padded(extra: bytes, length: int) -> bytes:
    """The same fields, and one that nobody reads."""
    return extra + struct.pack("<2H", 0xCAFE, length - len(extra) - 4) + bytes(length - len(extra) - 4)


def test_names_stay_as_they_are_in_the_other_form(settings: Settings) -> None:
    path = padded(handmade.unicode_path(b".DS_Store", "first.txt"), 0xFFFF)
    cut = in_local_header(b".DS_Store", path, b"1") + in_local_header(b"b.txt", padded(b"", 0xFFFF), b"2")
    found, remark = read(cut + in_local_header(b"c.txt", b"", b"3"), settings)
    assert found == {"first.txt": b"1", "b.txt": b"2", "c.txt": b"3"}
    assert "cut off" in str(remark)


def test_a_zip_without_room_for_a_name_in_its_other_form_is_refused(settings: Settings) -> None:
    path = handmade.unicode_path(b"a", "x" * 65_520)
    with archives.opened(io.BytesIO(in_local_header(b"a", path)), settings) as archive:
        assert archive.rewritten is not None
        with pytest.raises(MediaRejected, match="damaged or truncated"):
            archive.rewritten()


def test_what_can_be_listed_of_a_cut_zip_can_be_opened_in_its_other_form() -> None:
    """The limits of both are the same, at the number of bytes where the first one ends."""
    few = Settings(max_archive_files=20)
    long = b"".join(in_local_header(bytes([97 + n]) * 65_535, b"", b"") for n in range(16))
    opened = 0
    for length in range(7_000, 11_000, 500):
        cut = long + in_local_header(b"z" * length, b"", b"")
        with ExitStack() as stack:
            try:
                archive = stack.enter_context(archives.opened(io.BytesIO(cut), few))
            except TooLarge:
                continue
            assert archive.rewritten is not None
            again = stack.enter_context(archives.opened(archive.rewritten(), few))
            assert len(again.entries) == 17
            opened += 1
    assert 0 < opened < 8


def test_the_whole_can_be_ended_at_each_step(settings: Settings) -> None:
    data = WHOLE["streamed"][:-30]
    taken: list[None] = []
    with ExitStack() as stack:
        archive = stack.enter_context(archives.opened(io.BytesIO(data), settings, lambda: taken.append(None)))
        assert archive.rewritten is not None
        before = len(taken)
        assert streams.length(archive.rewritten()) > len(data) - 200
        assert len(taken) > before > len(FILES)


@given(st.data())
def test_any_change_to_a_cut_archive_gives_files_or_a_reason(data: st.DataObject) -> None:
    settings = Settings(max_archive_files=20, max_archive_bytes=1 << 20, max_file_bytes=1 << 20)
    small = {"a.txt": b"some words", "b.txt": b"x" * 300}
    kind = data.draw(
        st.sampled_from([streamed(small), zipped(small, 8), zipped(small, 0), gzip.compress(tarred(small))])
    )
    raw = bytearray(kind[: data.draw(st.integers(60, len(kind)))])
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(4, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(MediaRejected, TooLarge), archives.opened(io.BytesIO(bytes(raw)), settings) as archive:
        for entry in archive.entries:
            with suppress(MediaRejected, TooLarge):
                archive.spooled(entry).read()
        if archive.rewritten is not None:
            with archives.opened(archive.rewritten(), settings) as again:
                assert [entry.name for entry in again.entries] == [entry.name for entry in archive.entries]


def test_a_header_that_was_cut_ends_the_reading_of_a_tar(settings: Settings) -> None:
    data = tarred({"a.txt": b"some words", "b.txt": b"more"})
    assert read(data[:1_300], settings)[0] == {"a.txt": b"some words"}
    with pytest.raises(MediaRejected, match="damaged or truncated"):
        read(made([b"x" * 512]), settings)
