"""A tar is read like a ZIP: checked before it is unpacked, within the same limits, and one bad entry fails alone."""

from __future__ import annotations

import bz2
import gzip
import io
import random
import tarfile
import tracemalloc
from contextlib import suppress
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.media import handmade_tars
from tests.unit.media.handmade_tars import entry, header, made, pax, tarred
from tests.unit.media.samples import zipped
from tests.unit.media.test_archives import unpacked

from retllm.errors import MediaRejected, TooLarge
from retllm.media import archives
from retllm.media.sniffing import FileKind, sniff
from retllm.settings import Settings

FILES = {"a.txt": b"one", "dir/b.txt": bytes(range(256)) * 100, "empty.txt": b"", "Größe/猫.txt": b"x" * 512}
FORMATS = {"POSIX.1-1988": tarfile.USTAR_FORMAT, "GNU": tarfile.GNU_FORMAT, "POSIX.1-2001": tarfile.PAX_FORMAT}


def _peak(data: bytes, settings: Settings) -> int:
    """Read an archive that is refused, and return the most memory that it took."""
    stream = io.BytesIO(data)
    tracemalloc.start()
    try:
        with pytest.raises((MediaRejected, TooLarge)), archives.opened(stream, settings):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", FORMATS)
def test_files_of_each_format_are_read_unchanged(kind: str, settings: Settings) -> None:
    long_name = "/".join(["folder" * 5] * 6) + "/c.txt"
    data = tarred(FILES | {long_name: b"three"}, FORMATS[kind])
    assert sniff(data[:4096], "a.tar") is FileKind.ARCHIVE
    assert unpacked(data, settings) == FILES | {long_name: b"three"}


@pytest.mark.parametrize("packer", handmade_tars.PACKERS)
def test_a_compressed_tar_is_read(packer: str, settings: Settings) -> None:
    data = handmade_tars.PACKERS[packer](tarred(FILES))
    assert sniff(data[:4096], "shard.tar") is FileKind.ARCHIVE
    assert unpacked(data, settings) == FILES


def test_a_tar_in_several_gzip_members_is_read(settings: Settings) -> None:
    data = tarred(FILES)
    assert unpacked(gzip.compress(data[:700]) + gzip.compress(data[700:]), settings) == FILES


def test_a_tar_in_the_format_before_the_standard_is_read(settings: Settings) -> None:
    data = made([entry(at257=bytes(8), kind=b"\0"), header(b"dir/", kind=b"\0", at257=bytes(8))])
    assert sniff(data[:4096], "a") is FileKind.ARCHIVE
    assert unpacked(data, settings) == {"a.txt": b"some words"}


def test_a_tar_without_its_end_is_read(settings: Settings) -> None:
    assert unpacked(made([entry()], end=b""), settings) == {"a.txt": b"some words"}


def test_entries_are_read_in_any_order_and_more_than_once(settings: Settings) -> None:
    with archives.opened(io.BytesIO(tarred(FILES)), settings) as archive:
        for at in (3, 1, 0, 1, 2):
            name = archive.entries[at].name
            assert archive.spooled(archive.entries[at]).read() == FILES[name]
            assert archive.entries[at].file_size == len(FILES[name])


def test_folders_labels_and_clutter_are_left_out(settings: Settings) -> None:
    entries = [header(b"dir/", kind=b"5"), header(b"label", kind=b"V"), entry(b"g", b"9 a=b\n...", b"g")]
    entries += [entry(b"dir/._a.txt"), entry(b"dir/a.txt"), entry(b"dir/@eaDir/a.txt")]
    with archives.opened(io.BytesIO(made(entries)), settings) as archive:
        assert [entry.name for entry in archive.entries] == ["dir/a.txt"]
        assert [outcome.name for outcome in archive.ignored] == ["dir/._a.txt", "dir/@eaDir"]


def test_a_description_belongs_to_the_next_file_only(settings: Settings) -> None:
    entries = [pax({"path": "ä.txt".encode(), "size": b"4"}), entry(content=b"abcd", at124=b"00000000000\0")]
    entries += [
        entry(b"global", b"16 path=all.txt\n", b"g"),
        entry(b"L", b"long.txt\0", b"L"),
        entry(b"x"),
        entry(b"b.txt"),
    ]
    assert unpacked(made(entries), settings) == {"ä.txt": b"abcd", "long.txt": b"some words", "b.txt": b"some words"}


@pytest.mark.parametrize("name", ["BZhang.png", "BZh9.png", "BZh91AY.png"])
def test_a_first_name_like_the_mark_of_bzip2_is_a_name(name: str, settings: Settings) -> None:
    for data in (tarred({name: b"1"}), gzip.compress(tarred({name: b"1"})), bz2.compress(tarred({name: b"1"}))):
        assert sniff(data[:4096], "a.tar") is FileKind.ARCHIVE
        assert unpacked(data, settings) == {name: b"1"}


def test_names_in_an_old_encoding_are_decoded(settings: Settings) -> None:
    names = ["写真/猫.txt", "写真/表示.txt"]
    assert list(unpacked(made([entry(name.encode("cp932")) for name in names]), settings)) == names


@pytest.mark.parametrize("name", [b"../../a.txt", b"/etc/a.txt", b"..\\..\\a.txt", b"C:\\a.txt", b"a\n/b\x1b[2J.txt"])
def test_an_unsafe_name_is_made_safe(name: bytes, settings: Settings) -> None:
    ((shown, content),) = unpacked(made([pax({"path": name}), entry()]), settings).items()
    assert content == b"some words"
    assert not shown.startswith("/")
    assert ".." not in shown.split("/")
    assert shown.isprintable()


def test_two_entries_of_the_same_name_are_both_read(settings: Settings) -> None:
    with archives.opened(io.BytesIO(made([entry(content=b"1"), entry(content=b"2")])), settings) as archive:
        assert [archive.spooled(entry).read() for entry in archive.entries] == [b"1", b"2"]


@pytest.mark.parametrize("kind", handmade_tars.REFUSED)
def test_only_the_entry_that_is_no_file_is_refused(kind: str, settings: Settings) -> None:
    message, make = handmade_tars.REFUSED[kind]
    result = unpacked(make(), settings)
    assert message in str(result.pop("a.txt"))
    assert all(content == b"some words" for content in result.values())


_LONG = "long/" * 40 + "b.txt"


@pytest.mark.parametrize(
    "data",
    [
        made([entry(b"b.txt"), header(kind=b"1", at157=b"b.txt")]),
        made([header(size=10, kind=b"1", at157=b"b.txt"), entry(b"b.txt")]),
        made([entry(b"b.txt"), header(b"x/y.txt", kind=b"2", at157=b"../b.txt"), header(kind=b"2", at157=b"x/y.txt")]),
        made([pax({"path": _LONG.encode()}), entry(), pax({"linkpath": _LONG.encode()}), header(kind=b"2")]),
        made([pax({"path": _LONG.encode()}), entry(), entry(b"x", _LONG.encode(), b"K"), header(kind=b"1")]),
    ],
    ids=["hard", "hard with a size", "link to a link", "long by POSIX.1-2001", "long by GNU"],
)
def test_a_link_to_a_file_of_the_tar_is_that_file(data: bytes, settings: Settings) -> None:
    result = unpacked(data, settings)
    assert set(result.values()) == {b"some words"}
    assert "a.txt" in result


@pytest.mark.parametrize("kind", handmade_tars.BROKEN)
def test_a_damaged_tar_is_refused_with_little_memory(kind: str, settings: Settings) -> None:
    data = handmade_tars.BROKEN[kind]()
    with pytest.raises(MediaRejected, match="damaged or truncated"), archives.opened(io.BytesIO(data), settings):
        pass
    # xz takes 8 MiB for its dictionary by default
    assert _peak(data, settings) < 12 << 20


@pytest.mark.parametrize("kind", handmade_tars.BOMBS)
def test_a_bomb_is_refused_with_little_memory(kind: str, settings: Settings) -> None:
    data = handmade_tars.BOMBS[kind]()
    assert sniff(data[:4096], "a.tgz") is FileKind.ARCHIVE
    with pytest.raises(MediaRejected, match="200 times"), archives.opened(io.BytesIO(data), settings):
        pass
    # xz takes 8 MiB for its dictionary by default
    assert _peak(data, settings) < 12 << 20


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"just words", "no tar archive"), (b"", "no tar archive"), (bytes(2048), "no tar archive")],
)
@pytest.mark.parametrize("packer", handmade_tars.PACKERS)
def test_another_compressed_file_is_refused(packer: str, content: bytes, message: str, settings: Settings) -> None:
    data = handmade_tars.PACKERS[packer](content)
    with pytest.raises(MediaRejected, match=message), archives.opened(io.BytesIO(data), settings):
        pass


def test_the_number_of_files_is_limited_without_counting_clutter(settings: Settings) -> None:
    files = {f"{n}.txt": b"x" for n in range(50)}
    assert len(unpacked(tarred(files | {f"@eaDir/{n}": b"" for n in range(50)}), settings)) == 50
    with pytest.raises(TooLarge, match=r"51 files.*RETLLM_MAX_ARCHIVE_FILES"):
        unpacked(tarred(files | {"more.txt": b"x"}), settings)


def test_the_number_of_headers_is_limited(settings: Settings) -> None:
    data = made([header(b"dir/", kind=b"5")] * 11_000)
    with pytest.raises(TooLarge, match="RETLLM_MAX_ARCHIVE_FILES"):
        unpacked(data, settings)


@pytest.mark.parametrize("kind", handmade_tars.TALKATIVE)
def test_what_a_tar_says_of_its_files_is_limited_with_little_memory(kind: str, settings: Settings) -> None:
    what, make = handmade_tars.TALKATIVE[kind]
    data = make()
    with pytest.raises(TooLarge, match=f"The {what} of the files"), archives.opened(io.BytesIO(data), settings):
        pass
    assert _peak(data, settings) < 4 << 20


@pytest.mark.parametrize("kind", ["path", "GNU long name"])
def test_only_the_entry_with_an_endless_name_is_refused(kind: str, settings: Settings) -> None:
    def named(name: bytes) -> bytes:
        return pax({"path": name}) if kind == "path" else entry(b"L", name + b"\0", b"L")

    longest, too_long = "ä".encode() * (1 << 15), "x猫".encode() * (1 << 14) + b"!"
    shorter, cut = named(longest), named(too_long)
    # a name in an old encoding is decoded as if the other one had not been cut
    data = made([shorter, entry(), cut, entry(), entry("写真/猫.txt".encode("cp932"))])
    first, second, third = unpacked(data, settings).items()
    assert first[1] == b"some words"
    assert "more than 65,536 bytes" in str(second[1])
    assert third == ("写真/猫.txt", b"some words")


class _Ended(Exception):
    """What ends the work."""


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(tarred({f"{n}.txt": b"x" for n in range(40)}), id="tar"),
        pytest.param(made([header(b"dir/", kind=b"5")] * 40), id="tar of folders"),
        pytest.param(made([pax({"a": b"b"})] * 40), id="tar of attributes"),
        pytest.param(gzip.compress(tarred({f"{n}.txt": b"x" for n in range(40)})), id="tgz"),
        pytest.param(zipped({f"{n}.txt": b"x" for n in range(40)}), id="zip"),
    ],
)
def test_each_step_of_listing_can_be_the_last(data: bytes, settings: Settings) -> None:
    taken: list[None] = []
    with archives.opened(io.BytesIO(data), settings, lambda: taken.append(None)):
        steps = len(taken)
    assert steps >= 40
    for last in range(steps):
        # the check is called so often without an error
        check = Mock(side_effect=[None] * last + [_Ended])
        with pytest.raises(_Ended), archives.opened(io.BytesIO(data), settings, check):
            pass


def test_the_total_size_is_limited(settings: Settings) -> None:
    part = handmade_tars.incompressible(2 << 20)
    assert len(unpacked(tarred({f"{n}.txt": part for n in range(4)}), settings)) == 4
    too_large = tarred({f"{n}.txt": part for n in range(4)} | {"one.txt": b"x"})
    for data in (too_large, gzip.compress(too_large, 1)):
        with pytest.raises(TooLarge, match="RETLLM_MAX_ARCHIVE_BYTES"):
            unpacked(data, settings)
    headers = settings.model_copy(update={"max_archive_bytes": 1 << 20, "max_archive_files": 1})
    noise = random.Random(1).randbytes(13 << 20)
    with pytest.raises(TooLarge, match="RETLLM_MAX_ARCHIVE_BYTES"):
        unpacked(gzip.compress(tarred({"a": noise}), 1), headers)


def test_the_size_of_each_entry_is_limited(settings: Settings) -> None:
    result = unpacked(tarred({"large.txt": bytes((2 << 20) + 1), "b.txt": b"b"}), settings)
    assert "RETLLM_MAX_FILE_BYTES" in str(result["large.txt"])
    assert result["b.txt"] == b"b"


@pytest.mark.parametrize("outer", ["tar", "tgz"])
@pytest.mark.parametrize(
    "inner", [tarred({"a.txt": b"a"}), zipped({"a.txt": b"a"}), gzip.compress(b"a", mtime=0)], ids=["tar", "zip", "gz"]
)
def test_an_archive_inside_a_tar_is_an_archive(outer: str, inner: bytes, settings: Settings) -> None:
    data = tarred({"inner.dat": inner})
    content = unpacked(gzip.compress(data) if outer == "tgz" else data, settings)["inner.dat"]
    assert isinstance(content, bytes)
    assert sniff(content[:4096], "inner.dat") is FileKind.ARCHIVE


@given(st.data())
def test_any_change_to_a_tar_gives_files_or_a_reason(data: st.DataObject) -> None:
    settings = Settings(max_archive_files=20, max_archive_bytes=1 << 20, max_file_bytes=1 << 20)
    raw = bytearray(
        made([pax({"path": b"long.txt"}), entry(), entry(b"L", b"n" * 200, b"L"), entry(b"b.txt"), header()])
    )
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(MediaRejected, TooLarge):
        unpacked(bytes(raw), settings)
