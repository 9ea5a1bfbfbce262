"""What an archive may not do: unpack to too much, take much memory, or state wrong sizes."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
import zlib

import pytest
from tests.unit.media.handmade import Entry
from tests.unit.media.samples import zipped as packed
from tests.unit.media.test_archives import unpacked

from retllm.errors import MediaRejected, TooLarge
from retllm.media import archives
from retllm.settings import Settings

from . import handmade


def test_names_with_many_folders_are_read_in_little_memory(settings: Settings) -> None:
    data = handmade.made([Entry(b"a/" * 16_000 + b"%d.txt" % n) for n in range(3)])
    tracemalloc.start()
    try:
        found = unpacked(data, settings)
        assert [name.rpartition("/")[2] for name in found] == ["0.txt", "1.txt", "2.txt"]
        assert len({name.rpartition("/")[0] for name in found}) == 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def test_the_number_of_files_is_limited_without_counting_system_files(settings: Settings) -> None:
    files = {f"{n}.txt": b"x" for n in range(50)}
    assert len(unpacked(packed(files | {f"__MACOSX/{n}": b"" for n in range(50)}), settings)) == 50
    with pytest.raises(TooLarge, match=r"51 files.*RETLLM_MAX_ARCHIVE_FILES"):
        unpacked(packed(files | {"more.txt": b"x"}), settings)


def test_the_declared_total_size_is_limited(settings: Settings) -> None:
    part = bytes(2 << 20)
    assert len(unpacked(packed({f"{n}.txt": part for n in range(4)}), settings)) == 4
    with pytest.raises(TooLarge, match="RETLLM_MAX_ARCHIVE_BYTES"):
        unpacked(packed({f"{n}.txt": part for n in range(4)} | {"one.txt": b"x"}), settings)


def test_the_size_of_each_entry_is_limited(settings: Settings) -> None:
    result = unpacked(
        packed({"large.txt": bytes(range(256)) * 8192 + b"x", "b.txt": b"b"}, zipfile.ZIP_STORED), settings
    )
    assert "RETLLM_MAX_FILE_BYTES" in str(result["large.txt"])
    assert result["b.txt"] == b"b"


@pytest.mark.parametrize("claimed", [10, (2 << 20) - 1])
def test_an_entry_larger_than_declared_is_refused_with_little_memory(claimed: int, settings: Settings) -> None:
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


def test_a_directory_that_is_too_large_is_refused_before_it_is_read(settings: Settings) -> None:
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


def test_the_size_of_a_zip64_directory_is_limited(settings: Settings) -> None:
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


def test_a_zip64_file_can_be_read(settings: Settings) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive, archive.open("a.txt", "w", force_zip64=True) as entry:
        entry.write(b"content")
    assert unpacked(made.getvalue(), settings) == {"a.txt": b"content"}


@pytest.mark.parametrize("kind", handmade.OVERLAPPING)
def test_a_zip_with_overlapping_entries_is_refused(kind: str, settings: Settings) -> None:
    with pytest.raises(MediaRejected, match="overlap"):
        unpacked(handmade.OVERLAPPING[kind](), settings)


@pytest.mark.parametrize("kind", handmade.REFUSED)
def test_a_malformed_entry_is_refused_with_the_reason_and_little_memory(kind: str, settings: Settings) -> None:
    message, make = handmade.REFUSED[kind]
    data = make()
    tracemalloc.start()
    try:
        result = unpacked(data, settings)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert message in str(result["a.txt"]), result
    assert peak < 8 << 20


def test_a_small_entry_with_a_high_compression_ratio_is_accepted(settings: Settings) -> None:
    content = bytes(1 << 20)
    data = handmade.made([Entry(content=content, method=zipfile.ZIP_DEFLATED)])
    assert unpacked(data, settings) == {"a.txt": content}


def test_an_entry_without_sizes_in_its_local_header_is_accepted(settings: Settings) -> None:
    later = {"crc": 0, "packed": 0, "size": 0}
    data = handmade.made([Entry(flags=8, local=later), Entry(b"b.txt", method=8, flags=8, local=later)])
    assert unpacked(data, settings) == {"a.txt": b"some words", "b.txt": b"some words"}


def test_entries_that_understate_their_size_do_not_block_the_next_entry(settings: Settings) -> None:
    part = (bytes(range(256)) * 8192)[: 2 << 20]
    files = [Entry(f"{n}.txt".encode(), part, size=(2 << 20) - 1) for n in range(4)]
    # each declares one byte less than it has, so that the declared total is within the limit
    for entry in files:
        entry.crc = zlib.crc32(part)
    result = unpacked(handmade.made([*files, Entry(b"more.txt", b"xxxx")]), settings)
    assert all("more bytes than the ZIP states" in str(result[f"{n}.txt"]) for n in range(4))
    assert result["more.txt"] == b"xxxx"
