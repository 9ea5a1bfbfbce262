"""A ZIP is checked before it is unpacked; one bad entry does not keep the others out."""

from __future__ import annotations

import io
import stat
import struct
import tracemalloc
import zipfile
import zlib

import pytest
from tests.unit.media.handmade import Entry
from tests.unit.media.samples import zipped as packed

from retllm.errors import MediaRejected, TooLarge
from retllm.media import archives
from retllm.settings import Settings

from . import handmade


def unpacked(data: bytes, settings: Settings) -> dict[str, bytes | str]:
    """Each entry's content, or the reason why there is none."""
    result: dict[str, bytes | str] = {}
    with archives.opened(io.BytesIO(data), settings) as archive:
        for entry in archive.entries:
            try:
                with archive.spooled(entry) as file:
                    result[archives.entry_name(entry)] = file.read()
            except (MediaRejected, TooLarge) as error:
                result[archives.entry_name(entry)] = error.message
    return result


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_entries_come_out_as_they_went_in(method: int, settings: Settings) -> None:
    files = {"a.txt": b"one", "dir/b.txt": bytes(range(256)) * 100, "empty.txt": b""}
    assert unpacked(packed(files, method), settings) == files


def test_folders_and_clutter_are_left_out(settings: Settings) -> None:
    files = {"dir/": b"", "dir/a.txt": b"a", "__MACOSX/dir/._a.txt": b"x", "dir/.DS_Store": b"x", "Thumbs.db": b"x"}
    assert unpacked(packed(files), settings) == {"dir/a.txt": b"a"}


def test_a_comment_behind_and_a_program_before_the_zip_do_no_harm(settings: Settings) -> None:
    made = io.BytesIO(packed({"a.txt": b"a"}))
    with zipfile.ZipFile(made, "a") as archive:
        archive.comment = b"PK\x05\x05 hello " * 20
    assert unpacked(made.getvalue(), settings) == {"a.txt": b"a"}
    assert unpacked(b"#!program\n" * 50 + packed({"a.txt": b"a"}), settings) == {"a.txt": b"a"}


def test_names_lead_nowhere(settings: Settings) -> None:
    files = {"../../etc/passwd.txt": b"1", "/abs.txt": b"2", "C:\\win.txt": b"3", "a\0b.txt": b"4"}
    assert set(unpacked(packed(files), settings)) == {"etc/passwd.txt", "abs.txt", "C:/win.txt", "a"}


def test_names_in_utf8_without_the_flag_are_read_as_utf8(settings: Settings) -> None:
    data = packed({"XXXXX.txt": b"a"})
    assert list(unpacked(data.replace(b"XXXXX", "猫é".encode()), settings)) == ["猫é.txt"]
    assert list(unpacked(data.replace(b"XXXXX", b"Stra\xe1"), settings)) == ["Straß.txt"]


def test_an_encrypted_entry_is_refused_alone(settings: Settings) -> None:
    data = bytearray(packed({"a.txt": b"a", "b.txt": b"b"}))
    data[6] |= 1  # the flag in the local header of the first entry
    data[data.index(b"PK\x01\x02") + 8] |= 1
    result = unpacked(bytes(data), settings)
    assert "encrypted" in str(result["a.txt"])
    assert result["b.txt"] == b"b"


@pytest.mark.parametrize(
    ("method", "name"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "LZMA")], ids=["bzip2", "LZMA"]
)
def test_another_method_than_deflate_is_named_and_refused_alone(method: int, name: str, settings: Settings) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a.txt", b"some words", method)
        archive.writestr("b.txt", b"b", zipfile.ZIP_DEFLATED)
    assert unpacked(made.getvalue(), settings) == {
        "a.txt": f"The file is compressed with {name}, which is not accepted: zip it again with Deflate.",
        "b.txt": b"b",
    }


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_entry_is_refused_alone(method: int, settings: Settings) -> None:
    content = b"some words that are long enough to be packed " * 20
    data = bytearray(packed({"a.txt": content, "b.txt": b"b"}, method))
    start = 30 + len("a.txt")
    for at in range(start + 12, start + 18):
        data[at] ^= 0xFF
    result = unpacked(bytes(data), settings)
    assert "damaged" in str(result["a.txt"])
    assert result["b.txt"] == b"b"


def test_a_link_is_refused(settings: Settings) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        link = zipfile.ZipInfo("link.txt")
        link.create_system = 3
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert "link" in str(unpacked(made.getvalue(), settings)["link.txt"])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"PK\x03\x04", id="the mark of an entry"),
        pytest.param(b"PK\x05\x06", id="the mark of an end"),
        pytest.param(packed({"a.txt": b"a"})[:-30], id="cut short"),  # holds the time, which a name must not
        pytest.param(b"x" * 70_000, id="no archive"),
    ],
)
def test_what_can_t_be_read_is_refused(data: bytes, settings: Settings) -> None:
    with pytest.raises(MediaRejected, match="ZIP"):
        unpacked(data, settings)


@pytest.mark.parametrize("entry", ["[Content_Types].xml", "mimetype", "META-INF/MANIFEST.MF"])
def test_documents_and_programs_are_no_archives(entry: str, settings: Settings) -> None:
    with pytest.raises(MediaRejected, match="document"):
        unpacked(packed({entry: b"x", "word/media/a.png": b"y"}), settings)


def test_the_number_of_files_is_limited_and_clutter_does_not_count(settings: Settings) -> None:
    files = {f"{n}.txt": b"x" for n in range(50)}
    assert len(unpacked(packed(files | {f"__MACOSX/{n}": b"" for n in range(50)}), settings)) == 50
    with pytest.raises(TooLarge, match=r"51 files.*RETLLM_MAX_ARCHIVE_FILES"):
        unpacked(packed(files | {"more.txt": b"x"}), settings)


def test_the_unpacked_size_is_limited_as_declared(settings: Settings) -> None:
    part = bytes(2 << 20)
    assert len(unpacked(packed({f"{n}.txt": part for n in range(4)}), settings)) == 4
    with pytest.raises(TooLarge, match="RETLLM_MAX_ARCHIVE_BYTES"):
        unpacked(packed({f"{n}.txt": part for n in range(4)} | {"one.txt": b"x"}), settings)


def test_one_entry_is_limited(settings: Settings) -> None:
    result = unpacked(
        packed({"large.txt": bytes(range(256)) * 8192 + b"x", "b.txt": b"b"}, zipfile.ZIP_STORED), settings
    )
    assert "RETLLM_MAX_FILE_BYTES" in str(result["large.txt"])
    assert result["b.txt"] == b"b"


@pytest.mark.parametrize("claimed", [10, (2 << 20) - 1])
def test_a_size_that_lies_gives_no_more_than_it_says(claimed: int, settings: Settings) -> None:
    content = bytes(30 << 20)
    data = bytearray(packed({"bomb.txt": content, "b.txt": b"b"}))
    directory = data.index(b"PK\x01\x02")
    struct.pack_into("<L", data, 22, claimed)
    struct.pack_into("<L", data, directory + 24, claimed)
    tracemalloc.start()
    try:
        result = unpacked(bytes(data), settings)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "more bytes than the ZIP states" in str(result["bomb.txt"])
    assert result["b.txt"] == b"b"
    assert peak < 12 << 20


def test_a_directory_too_large_to_hold_is_refused_unread(settings: Settings) -> None:
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 9) + bytes(16) + b"some name"
    count = 60_000
    directory = entry * count
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory), 0, 0)
    stream = io.BytesIO(directory + end)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="RETLLM_MAX_ARCHIVE_FILES"), archives.opened(stream, settings):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_the_64_bit_directory_is_measured_too(settings: Settings) -> None:
    size = 1 << 33
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 9, 9, size, 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)
    for claimed in (0, 0xFFFFFFFF):
        end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, claimed, 0xFFFFFFFF, 0)
        with (
            pytest.raises(TooLarge, match="RETLLM_MAX_ARCHIVE_FILES"),
            archives.opened(io.BytesIO(end64 + locator + end), settings),
        ):
            pass


def test_a_zip_of_64_bit_form_is_read(settings: Settings) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive, archive.open("a.txt", "w", force_zip64=True) as entry:
        entry.write(b"content")
    assert unpacked(made.getvalue(), settings) == {"a.txt": b"content"}


@pytest.mark.parametrize("kind", handmade.OVERLAPPING)
def test_files_that_share_bytes_are_refused_together(kind: str, settings: Settings) -> None:
    with pytest.raises(MediaRejected, match="overlap"):
        unpacked(handmade.OVERLAPPING[kind](), settings)


@pytest.mark.parametrize("kind", handmade.REFUSED)
def test_what_no_packer_makes_is_refused_with_its_reason_and_little_memory(kind: str, settings: Settings) -> None:
    why, make = handmade.REFUSED[kind]
    data = make()
    tracemalloc.start()
    try:
        result = unpacked(data, settings)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert why in str(result["a.txt"]), result
    assert peak < 8 << 20


def test_what_packs_well_and_is_small_is_taken(settings: Settings) -> None:
    content = bytes(1 << 20)
    data = handmade.made([Entry(content=content, method=zipfile.ZIP_DEFLATED)])
    assert unpacked(data, settings) == {"a.txt": content}


def test_a_file_whose_sizes_follow_it_is_taken(settings: Settings) -> None:
    later = {"crc": 0, "packed": 0, "size": 0}
    data = handmade.made([Entry(flags=8, local=later), Entry(b"b.txt", method=8, flags=8, local=later)])
    assert unpacked(data, settings) == {"a.txt": b"some words", "b.txt": b"some words"}


@pytest.mark.parametrize("name", [b"../../a.txt", b"/etc/a.txt", b"..\\..\\a.txt", b"C:\\a.txt", b"\0/a.txt"])
def test_a_name_is_shown_and_never_followed(name: bytes, settings: Settings) -> None:
    data = handmade.made([Entry(name)])
    with archives.opened(io.BytesIO(data), settings) as archive:
        (entry,) = archive.entries
        shown = archives.entry_name(entry)
        with archive.spooled(entry) as file:
            assert file.read() == b"some words"
    assert not shown.startswith("/")
    assert ".." not in shown.split("/")
    assert "\\" not in shown


def test_every_entry_may_come_to_its_limit_and_all_together_to_theirs(settings: Settings) -> None:
    part = (bytes(range(256)) * 8192)[: 2 << 20]
    files = [Entry(f"{n}.txt".encode(), part, size=(2 << 20) - 1) for n in range(4)]
    # each says one byte less than it has, so that their sum looks right
    for entry in files:
        entry.crc = zlib.crc32(part)
    result = unpacked(handmade.made([*files, Entry(b"more.txt", b"xxxx")]), settings)
    assert all("more bytes than the ZIP states" in str(result[f"{n}.txt"]) for n in range(4))
    assert result["more.txt"] == b"xxxx"
