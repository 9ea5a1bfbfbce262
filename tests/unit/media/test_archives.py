"""A ZIP is checked before it is extracted; one bad entry does not affect the others."""

from __future__ import annotations

import contextlib
import io
import stat
import struct
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.media.handmade import Entry, unicode_path
from tests.unit.media.samples import zipped as packed

from retllm.errors import MediaRejected, TooLarge
from retllm.media import archives
from retllm.media.sniffing import FileKind, sniff
from retllm.media.special_files import LINK_TO_NOTHING
from retllm.settings import Settings

from . import handmade


def unpacked(data: bytes, settings: Settings) -> dict[str, bytes | str]:
    """Return the content of each entry, or the error message if it is refused."""
    result: dict[str, bytes | str] = {}
    with archives.opened(io.BytesIO(data), settings) as archive:
        for entry in archive.entries:
            try:
                with archive.spooled(entry) as file:
                    result[entry.name] = file.read()
            except (MediaRejected, TooLarge) as error:
                result[entry.name] = error.message
    return result


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_entries_are_extracted_unchanged(method: int, settings: Settings) -> None:
    files = {"a.txt": b"one", "dir/b.txt": bytes(range(256)) * 100, "empty.txt": b""}
    assert unpacked(packed(files, method), settings) == files


def test_folders_and_system_files_are_skipped(settings: Settings) -> None:
    files = {"dir/": b"", "dir/a.txt": b"a", "__MACOSX/dir/._a.txt": b"x", "dir/.DS_Store": b"x", "Thumbs.db": b"x"}
    assert unpacked(packed(files), settings) == {"dir/a.txt": b"a"}


def test_a_zip_with_a_comment_or_after_other_data_can_be_read(settings: Settings) -> None:
    made = io.BytesIO(packed({"a.txt": b"a"}))
    with zipfile.ZipFile(made, "a") as archive:
        archive.comment = b"PK\x05\x05 hello " * 20
    assert unpacked(made.getvalue(), settings) == {"a.txt": b"a"}
    assert unpacked(b"#!program\n" * 50 + packed({"a.txt": b"a"}), settings) == {"a.txt": b"a"}


def test_absolute_and_parent_paths_are_removed_from_names(settings: Settings) -> None:
    files = {"../../etc/passwd.txt": b"1", "/abs.txt": b"2", "C:\\win.txt": b"3", "a\0b.txt": b"4"}
    assert set(unpacked(packed(files), settings)) == {"etc/passwd.txt", "abs.txt", "C:/win.txt", "a"}


def test_names_without_the_utf8_flag_are_decoded_as_utf8_or_as_most_plausible(settings: Settings) -> None:
    data = packed({"XXXXX.txt": b"a"})
    assert list(unpacked(data.replace(b"XXXXX", "猫é".encode()), settings)) == ["猫é.txt"]
    assert list(unpacked(data.replace(b"XXXXX", b"Stra\xe1"), settings)) == ["Straß.txt"]
    for codec, names in (("cp932", ["写真/猫.txt", "写真/表示.txt"]), ("cp866", ["фото/море.txt", "фото/Я.txt"])):
        assert list(unpacked(handmade.made([Entry(name.encode(codec)) for name in names]), settings)) == names


def test_a_name_with_the_utf8_flag_counts_beside_names_in_an_old_encoding(settings: Settings) -> None:
    data = handmade.made([Entry("фото.txt".encode("cp866")), Entry("Größe.txt".encode(), flags=0x800)])
    assert list(unpacked(data, settings)) == ["фото.txt", "Größe.txt"]


def test_a_name_in_another_encoding_than_its_flag_says_costs_no_other_entry(settings: Settings) -> None:
    names = [name.encode("latin-1") for name in ("Größe.txt", "Käse.txt")]
    data = handmade.made([*(Entry(name, flags=0x800) for name in names), Entry("猫.txt".encode(), flags=0x800)])
    assert list(unpacked(data, settings)) == ["Größe.txt", "Käse.txt", "猫.txt"]


def test_the_unicode_path_of_an_entry_is_its_name(settings: Settings) -> None:
    other = struct.pack("<2H", 0x5455, 1) + b"\0"
    old = "猫.txt".encode("cp932")
    entries = [
        Entry(old, extra=other + unicode_path(old, "猫とネコ.txt")),
        Entry(b"?????.txt", extra=unicode_path(b"?????.txt", "фото/кот.txt")),
        Entry(b"../?.txt", extra=unicode_path(b"../?.txt", "../../ä.txt")),
    ]
    assert list(unpacked(handmade.made(entries), settings)) == ["猫とネコ.txt", "фото/кот.txt", "ä.txt"]


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(unicode_path(b"b.txt", "other.txt"), id="of another name"),
        pytest.param(unicode_path(b"a.txt", "other.txt", version=2), id="of another version"),
        pytest.param(unicode_path(b"a.txt", ""), id="empty"),
        pytest.param(b"up\3\0\1\0\0", id="too short"),
        pytest.param(unicode_path(b"a.txt", "é.txt").replace("é".encode(), b"\xe9\xff"), id="not UTF-8"),
    ],
)
def test_a_unicode_path_that_does_not_belong_to_the_name_is_ignored(extra: bytes, settings: Settings) -> None:
    assert list(unpacked(handmade.made([Entry(extra=extra)]), settings)) == ["a.txt"]


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(Entry(b"dir\\", b""), id="joined by a backslash"),
        pytest.param(Entry(b"dir/", b""), id="joined by a slash"),
        pytest.param(Entry(b"dir", b""), id="known from its files"),
        pytest.param(Entry(b"other", b"", mode=stat.S_IFDIR | 0o755), id="by its mode"),
        pytest.param(Entry(b"other", b"", dos=0x10), id="by its attributes in MS-DOS"),
    ],
)
def test_entries_of_folders_are_skipped(folder: Entry, settings: Settings) -> None:
    data = handmade.made([folder, Entry(b"dir\\a.txt"), Entry(b"dir!.txt")])
    assert unpacked(data, settings) == {"dir/a.txt": b"some words", "dir!.txt": b"some words"}


def test_two_entries_of_the_same_name_are_both_read(settings: Settings) -> None:
    data = handmade.made([Entry(b"a.txt", b"one"), Entry(b"./a.txt", b"two"), Entry(b"a.txt", b"three")])
    with archives.opened(io.BytesIO(data), settings) as archive:
        assert [entry.name for entry in archive.entries] == ["a.txt"] * 3
        contents = [archive.spooled(entry).read() for entry in archive.entries]
    assert contents == [b"one", b"two", b"three"]


def test_clutter_is_listed_by_folder(settings: Settings) -> None:
    files = {"a.txt": b"a", "Thumbs.db": b"x"} | {f"@eaDir/{n}.jpg": b"x" for n in range(200)}
    with archives.opened(io.BytesIO(packed(files)), settings) as archive:
        assert [entry.name for entry in archive.entries] == ["a.txt"]
        assert [(outcome.name, outcome.status) for outcome in archive.ignored] == [
            ("Thumbs.db", "ignored"),
            ("@eaDir", "ignored"),
        ]


def test_only_the_encrypted_entry_is_refused(settings: Settings) -> None:
    data = bytearray(packed({"a.txt": b"a", "b.txt": b"b"}))
    data[6] |= 1  # the flag in the local header of the first entry
    data[data.index(b"PK\x01\x02") + 8] |= 1
    result = unpacked(bytes(data), settings)
    assert "encrypted" in str(result["a.txt"])
    assert result["b.txt"] == b"b"


@pytest.mark.parametrize(
    ("method", "name"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "LZMA")], ids=["bzip2", "LZMA"]
)
def test_only_the_entry_with_another_compression_is_refused(method: int, name: str, settings: Settings) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a.txt", b"some words", method)
        archive.writestr("b.txt", b"b", zipfile.ZIP_DEFLATED)
    assert unpacked(made.getvalue(), settings) == {
        "a.txt": f"The file is compressed with {name}, which is not accepted: zip it again with Deflate.",
        "b.txt": b"b",
    }


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_only_the_damaged_entry_is_refused(method: int, settings: Settings) -> None:
    content = b"some words that are long enough to be packed " * 20
    data = bytearray(packed({"a.txt": content, "b.txt": b"b"}, method))
    start = 30 + len("a.txt")
    for at in range(start + 12, start + 18):
        data[at] ^= 0xFF
    result = unpacked(bytes(data), settings)
    assert "damaged" in str(result["a.txt"])
    assert result["b.txt"] == b"b"


@pytest.mark.parametrize("target", ["/etc/passwd", "../../etc/passwd", "", "x" * 5000, "etc/passwd/", "a\0b"])
def test_a_link_out_of_the_archive_is_refused(target: str, settings: Settings) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        link = zipfile.ZipInfo("link.txt")
        link.create_system = 3
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, target)
    assert str(unpacked(made.getvalue(), settings)["link.txt"]) == LINK_TO_NOTHING


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"PK\x03\x04", id="signature of an entry"),
        pytest.param(b"PK\x05\x06", id="signature of the end record"),
        pytest.param(packed({"a.txt": b"a"})[:33], id="truncated"),  # contains the time, so it can't be the id
        pytest.param(b"x" * 70_000, id="not an archive"),
    ],
)
def test_an_unreadable_zip_is_refused(data: bytes, settings: Settings) -> None:
    with pytest.raises(MediaRejected, match="ZIP"):
        unpacked(data, settings)


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        (["[Content_Types].xml", "word/media/a.png"], r"Word \(DOCX\)"),
        (["_rels/.rels", "xl/workbook.xml", "[Content_Types].xml"], r"Excel \(XLSX\): save each sheet as CSV"),
        (["[Content_Types].xml", "ppt/media/a.png"], r"PowerPoint \(PPTX\)"),
        (["[Content_Types].xml", "a.xaml"], "Microsoft Office"),
        (["mimetype", "content.xml"], "OpenDocument, EPUB"),
        (["Index/Document.iwa", "preview.jpg"], "Pages, Numbers or Keynote"),
        (["META-INF/MANIFEST.MF", "xl/a.png"], "Java"),
        (["AndroidManifest.xml", "res/a.png"], "Android"),
        (["Document.archive", "QuickLook/Thumbnail.png"], "a drawing of Procreate: save it as PNG"),
        (["canvas.fig", "thumbnail.png", "images/1"], "a drawing of Figma"),
        (["boat.usdc", "0/sail.png"], "a scene in three dimensions"),
    ],
)
def test_documents_and_programs_in_a_zip_are_refused_by_their_true_name(
    entries: list[str], what: str, settings: Settings
) -> None:
    with pytest.raises(MediaRejected, match=what):
        unpacked(packed(dict.fromkeys(entries, b"x")), settings)


def test_a_comic_is_an_archive_of_pictures(settings: Settings) -> None:
    data = packed({"1.png": b"a"})
    assert sniff(data[:512], "a.cbz") is FileKind.ARCHIVE
    assert unpacked(data, settings) == {"1.png": b"a"}


@pytest.mark.parametrize("mark", [b"PK\x07\x08", b"PK00"])
def test_a_zip_that_was_to_be_split_but_has_one_part_is_read(mark: bytes, settings: Settings) -> None:
    data = mark + packed({"a.txt": b"a"})
    assert sniff(data[:512], "a.zip") is FileKind.ARCHIVE
    assert unpacked(data, settings) == {"a.txt": b"a"}


def test_the_last_part_of_a_split_zip_is_refused_as_what_it_is(settings: Settings) -> None:
    data = bytearray(packed({"a.txt": b"a"}))
    struct.pack_into("<2H", data, data.index(b"PK\5\6") + 4, 1, 1)
    with pytest.raises(MediaRejected, match="The file is part of a split archive: join the parts, then upload"):
        unpacked(bytes(data), settings)


@given(st.data())
def test_any_change_to_a_zip_gives_files_or_a_reason(data: st.DataObject) -> None:
    settings = Settings(max_archive_files=50, max_archive_bytes=8 << 20, max_file_bytes=2 << 20)
    whole = bytearray(b"some bytes before" + handmade.made([Entry(), Entry(b"d/\xe9.txt", extra=b"up\3\0\1\0\0")]))
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=6)):
        whole[at] = data.draw(st.sampled_from([0, 1, 8, 0x50, 0xFF]))
    with contextlib.suppress(MediaRejected, TooLarge):
        unpacked(bytes(whole), settings)


@pytest.mark.parametrize("start", ["", "./"])
def test_links_are_followed_from_their_folders_and_through_linked_ones(start: str, settings: Settings) -> None:
    """``tar -cf x.tar .`` writes the names with ``./``."""
    followed = {"2023/b.txt": "a.txt", "now": "2023", "c.txt": "now/a.txt", "x/y": "../now", "d.txt": "x/y/b.txt"}
    links = followed | {"r": "s", "s": "r", "e.txt": "r/a.txt"}
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        file = tarfile.TarInfo(f"{start}2023/a.txt")
        file.size = 7
        archive.addfile(file, io.BytesIO(b"a robin"))
        for name, target in links.items():
            link = tarfile.TarInfo(start + name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
    entries = [Entry(f"{start}2023/a.txt".encode(), b"a robin")]
    entries += [Entry((start + n).encode(), to.encode(), mode=stat.S_IFLNK | 0o777) for n, to in links.items()]
    for data in (handmade.made(entries), made.getvalue()):
        found = unpacked(data, settings)
        whole = {"2023/a.txt", "2023/b.txt", "c.txt", "d.txt"}
        assert {name for name, content in found.items() if content == b"a robin"} == whole
        assert found.keys() == whole | {"e.txt", "r", "s"}


def test_links_that_are_not_followed_count_as_files(settings: Settings) -> None:
    links = [Entry(b"l%d" % n, b"dir", mode=stat.S_IFLNK | 0o777) for n in range(50)]
    with pytest.raises(TooLarge, match=r"51 files.*RETLLM_MAX_ARCHIVE_FILES"):
        unpacked(handmade.made([Entry(b"dir/a.txt"), *links]), settings)


def test_an_entry_is_found_by_its_place_whatever_counts_as_clutter(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of two versions may differ in that."""
    data = packed({"Thumbs.db": b"clutter", "a.txt": b"1", "b.txt": b"2"})
    with archives.opened(io.BytesIO(data), settings) as archive:
        places = {entry.name: entry.place for entry in archive.entries}
    assert places == {"a.txt": 1, "b.txt": 2}
    monkeypatch.setattr("retllm.media.archives.ClutterCount.take", lambda _, name: name == "a.txt")
    with archives.opened(io.BytesIO(data), settings) as archive:
        assert archive.spooled(archive.entry(places["b.txt"])).read() == b"2"
        with pytest.raises(MediaRejected, match="not found in its archive"):
            archive.entry(places["a.txt"])
        with pytest.raises(MediaRejected, match="not found in its archive"):
            archive.entry(3)


@pytest.mark.parametrize("name", [b"../../a.txt", b"/etc/a.txt", b"..\\..\\a.txt", b"C:\\a.txt", b"\0/a.txt"])
def test_an_unsafe_entry_name_is_made_safe(name: bytes, settings: Settings) -> None:
    data = handmade.made([Entry(name)])
    with archives.opened(io.BytesIO(data), settings) as archive:
        (entry,) = archive.entries
        shown = entry.name
        with archive.spooled(entry) as file:
            assert file.read() == b"some words"
    assert not shown.startswith("/")
    assert ".." not in shown.split("/")
    assert "\\" not in shown
