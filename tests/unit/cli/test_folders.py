"""Folders are walked so that every file is found once, is clutter, or has a reason why it can't be sent."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from retllm.cli.folders import Found, walk
from retllm.media import special_files
from retllm.media.file_table import FileRole
from retllm.media.local_files import Unreadable
from retllm.media.names import base_name, coded
from retllm.media.outcomes import FileOutcome


def _make(folder: Path, *names: str) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    return folder


def _names(*paths: Path) -> list[str]:
    return [entry.name for entry in walk(paths) if isinstance(entry, Found)]


def _others(*paths: Path) -> dict[str, tuple[str, str]]:
    """Name below the folder that was named -> status and reason of what is not sent."""
    found = [entry for entry in walk(paths) if isinstance(entry, FileOutcome)]
    reasons = [entry.error.message if entry.error else entry.remark for entry in found]
    names = [entry.name.removeprefix(f"{paths[0].name}/") for entry in found]
    return {name: (entry.status, str(reason)) for name, entry, reason in zip(names, found, reasons, strict=True)}


def _below(folder: Path, *paths: Path) -> list[str]:
    """Return the names without that of the folder that was named."""
    names = _names(*paths or (folder,))
    assert all(name.startswith(f"{folder.name}/") for name in names)
    return [name.removeprefix(f"{folder.name}/") for name in names]


def test_the_name_of_a_file_begins_with_the_folder_or_file_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = _make(tmp_path / "photos", "b.png", "2023/a.png", "2023/more/c.txt", "2024/a.png")
    names = ["photos/b.png", "photos/2023/a.png", "photos/2023/more/c.txt", "photos/2024/a.png"]
    assert _names(photos) == names
    assert _names(photos / "2023" / "a.png", photos / "b.png") == ["a.png", "b.png"]
    monkeypatch.chdir(photos)
    assert _names(Path()) == _names(Path("..") / "photos") == _names(Path("2023") / "..") == names
    assert _names(Path("2023"), Path("2024"), Path("b.png")) == [
        name.removeprefix("photos/") for name in [*names[1:], names[0]]
    ]


def test_files_of_the_same_name_are_told_apart_by_the_folders_above(tmp_path: Path) -> None:
    _make(tmp_path, "2023/1.png", "2024/1.png", "a/photos/1.png", "b/photos/1.png", "b/other/2.png")
    assert _names(tmp_path / "2023" / "1.png", tmp_path / "2024" / "1.png") == ["2023/1.png", "2024/1.png"]
    assert _names(tmp_path / "a" / "photos", tmp_path / "b" / "photos") == ["a/photos/1.png", "b/photos/1.png"]
    assert _names(tmp_path / "a" / "photos", tmp_path / "b" / "other") == ["photos/1.png", "other/2.png"]


def test_a_folder_that_is_named_on_purpose_is_no_clutter_whatever_it_is_called(tmp_path: Path) -> None:
    _make(tmp_path, ".cache/1.png", "lost+found/2.png", "a/.cache/3.png")
    assert _names(tmp_path / ".cache", tmp_path / "lost+found") == ["1.png", "2.png"]
    assert _names(tmp_path / "a") == []


def test_clutter_of_the_same_name_tells_no_files_apart(tmp_path: Path) -> None:
    _make(tmp_path, "a/1.png", "a/Thumbs.db", "b/2.png", "b/Thumbs.db", "c/Thumbs.db")
    paths = [tmp_path / "a" / "1.png", tmp_path / "a" / "Thumbs.db", tmp_path / "c" / "Thumbs.db"]
    assert _names(*paths) == ["1.png"]


def test_sheets_and_sidecars_can_be_told_from_pictures(tmp_path: Path) -> None:
    _make(tmp_path, "a.png", "a.txt", "a.xmp", "captions.TSV", "metadata.json", "more.zip", "x.unknown")
    found = {entry.path.name: entry for entry in walk([tmp_path]) if isinstance(entry, Found)}
    assert {name for name, entry in found.items() if entry.describes} == {
        "a.txt",
        "a.xmp",
        "captions.TSV",
        "metadata.json",
    }
    assert (found["a.png"].role, found["a.png"].size) == (FileRole.PICTURE, 5)
    assert found["x.unknown"].role is None


def test_paths_that_are_given_twice_are_found_once(tmp_path: Path) -> None:
    _make(tmp_path, "2023/a.png", "b.png")
    file, inner = tmp_path / "b.png", tmp_path / "2023"
    assert _names(file, file, tmp_path / "2023" / ".." / "b.png") == ["b.png"]
    assert _below(tmp_path, tmp_path, tmp_path) == ["b.png", "2023/a.png"]
    assert _below(tmp_path, file, tmp_path, inner) == ["b.png", "2023/a.png"]
    assert _names(inner, tmp_path) == ["2023/a.png", f"{tmp_path.name}/b.png"]


def test_hard_links_are_files_of_their_own(tmp_path: Path) -> None:
    _make(tmp_path, "2023/a.png", "2024/.keep")
    os.link(tmp_path / "2023" / "a.png", tmp_path / "2024" / "a.png")
    assert _below(tmp_path) == ["2023/a.png", "2024/a.png"]


def test_clutter_is_counted_by_folder(tmp_path: Path) -> None:
    _make(tmp_path, "a.png", "Thumbs.db", *(f"x/@eaDir/{n}/SYNOPHOTO_THUMB_M.jpg" for n in range(5)), "#recycle/b.png")
    assert _below(tmp_path) == ["a.png"]
    assert _others(tmp_path) == {
        "Thumbs.db": ("ignored", "Left out: previews and settings of Windows."),
        "x/@eaDir": ("ignored", "Left out: index and previews of a Synology, 5 files."),
        "#recycle": ("ignored", "Left out: recycle bin."),
    }


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    assert _others(tmp_path / "empty") == {"empty": ("rejected", "The folder contains no files.")}
    _make(tmp_path / "empty", ".hidden")
    assert _others(tmp_path / "empty") == {".hidden": ("ignored", "Left out: hidden file or folder.")}


# links


def test_linked_folders_and_files_are_followed(tmp_path: Path) -> None:
    _make(tmp_path, "library/2023/a.png", "photos/b.png")
    photos = tmp_path / "photos"
    (photos / "2023").symlink_to(tmp_path / "library" / "2023")
    (photos / "c.png").symlink_to(photos / "b.png")
    assert _below(photos) == ["b.png", "c.png", "2023/a.png"]
    (tmp_path / "link").symlink_to(photos)
    assert _below(tmp_path / "link") == ["b.png", "c.png", "2023/a.png"]


def test_a_file_has_the_name_of_the_place_where_it_lies(tmp_path: Path) -> None:
    """An album that consists of links comes before the folders that it points to."""
    _make(tmp_path, "z/2023/a.png", "z/2023/deep/b.png")
    (tmp_path / "albums").mkdir()
    (tmp_path / "albums" / "summer").symlink_to(tmp_path / "z" / "2023")
    assert _below(tmp_path) == ["z/2023/a.png", "z/2023/deep/b.png"]
    assert _others(tmp_path) == {
        "albums/summer": ("ignored", "A link to a folder that is uploaded already is not followed.")
    }


def test_cycles_end(tmp_path: Path) -> None:
    photos = _make(tmp_path / "photos", "x/a.png")
    _make(tmp_path, "private/secret.png", "other/o.png")
    (photos / "x" / "self").symlink_to(photos / "x")
    (photos / "x" / "root").symlink_to(photos)
    (photos / "x" / "parent").symlink_to(tmp_path)
    (photos / "x" / "all").symlink_to("/")
    (photos / "other").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(photos)
    (tmp_path / "other" / "up").symlink_to(tmp_path)
    assert _below(photos) == ["x/a.png", "other/o.png"]
    others = _others(photos)
    assert set(others) == {"x/self", "x/root", "x/parent", "x/all", "other/back", "other/up"}
    assert {status for status, _ in others.values()} == {"ignored"}


def test_links_in_a_pattern_that_doubles_with_every_folder_are_followed_once(tmp_path: Path) -> None:
    for n in range(40):
        folder = _make(tmp_path / "chain" / f"{n:02}", "a.png")
        for link in ("left", "right"):
            (folder / link).symlink_to(tmp_path / "chain" / f"{n + 1:02}")
    assert len(_names(tmp_path / "chain" / "00")) == 40


def test_a_link_with_a_hidden_name_is_not_followed(tmp_path: Path) -> None:
    _make(tmp_path, "big/a.png", "photos/b.png")
    (tmp_path / "photos" / ".cache").symlink_to(tmp_path / "big")
    assert _below(tmp_path / "photos") == ["b.png"]


def test_broken_links_are_rejected_one_by_one(tmp_path: Path) -> None:
    _make(tmp_path, "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert _below(tmp_path) == ["a.png"]
    others = _others(tmp_path)
    assert others["gone.png"] == ("rejected", special_files.LINK_TO_NOTHING)
    assert others["loop.png"] == ("rejected", special_files.LINK_ROUND)


# what can't be read


def test_pipes_and_sockets_are_rejected_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _make(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.chdir(tmp_path)  # a socket's address is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket.png")
        assert _below(tmp_path) == ["a.png"]
        assert {name: status for name, (status, _) in _others(tmp_path, Path("/dev/null")).items()} == {
            "pipe.png": "rejected",
            "socket.png": "rejected",
            "null": "rejected",
        }


def test_a_folder_that_cannot_be_read_is_rejected_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _make(tmp_path, "closed/a.png", "lost+found/x", "open/b.png")
    scandir = os.scandir

    def guarded(folder: Path) -> os._ScandirIterator[str]:
        # permissions do not stop an administrator
        if Path(folder).name in ("closed", "lost+found"):
            raise PermissionError(13, "Permission denied")
        return scandir(str(folder))

    monkeypatch.setattr(os, "scandir", guarded)
    assert _below(tmp_path) == ["open/b.png"]
    assert _others(tmp_path) == {
        "closed": ("rejected", "The folder can't be read (Permission denied): correct that and send it again."),
        "lost+found": ("ignored", "Left out: remains of a file system check."),
    }


def test_a_file_that_vanishes_or_changes_is_unreadable(tmp_path: Path) -> None:
    _make(tmp_path, "gone.png", "longer.png", "pipe.png", "shorter.png")
    found = {entry.path.name: entry for entry in walk([tmp_path]) if isinstance(entry, Found)}
    (tmp_path / "gone.png").unlink()
    (tmp_path / "pipe.png").unlink()
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "longer.png").open("ab") as file:
        file.write(b"more")
    os.truncate(tmp_path / "shorter.png", 3)
    for name, message in {"gone": "No such file", "longer": "changed", "pipe": "changed", "shorter": "changed"}.items():
        with pytest.raises(Unreadable, match=message):
            found[f"{name}.png"].open()


@pytest.mark.parametrize("change", ["longer", "shorter"])
def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(100_000))
    (found,) = walk([path])
    assert isinstance(found, Found)
    with found.open() as file:
        assert file.seek(0, os.SEEK_END) == 100_000
        file.seek(0)
        assert len(file.read(50_000)) == 50_000
        if change == "longer":
            with path.open("ab") as more:
                more.write(b"more")
        else:
            os.truncate(path, 60_000)

        def rest() -> None:
            while file.read(50_000):
                pass

        with pytest.raises(Unreadable, match="changed while it was read"):
            rest()
        assert file.problem is not None


def test_an_unchanged_file_is_read_to_its_end(tmp_path: Path) -> None:
    (found,) = walk([_make(tmp_path, "a.txt") / "a.txt"])
    assert isinstance(found, Found)
    with found.open() as file:
        assert [file.read(3), file.read(), file.read(3)] == [b"a.t", b"xt", b""]


# names


def test_names_that_are_not_utf_8_become_readable(tmp_path: Path) -> None:
    raw = [b"caf\xe9.png", "Größe.png".encode(), b"d\xe9j\xe0 vu.png"]
    for name in raw:
        (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    assert sorted(_below(tmp_path)) == ["Größe.png", "café.png", "déjà vu.png"]
    for entry in walk([tmp_path]):
        entry.name.encode()


def test_a_folder_whose_name_is_not_utf_8_is_walked(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode("写真と猫".encode("cp932"))
    folder.mkdir()
    (folder / os.fsdecode("表示.png".encode("cp932"))).write_bytes(b"x")
    assert _below(tmp_path) == ["写真と猫/表示.png"]
    assert _names(folder) == ["写真と猫/表示.png"]


def test_files_whose_decoded_names_are_one_are_told_apart_with_their_sidecars(tmp_path: Path) -> None:
    for raw in ("café".encode(), b"caf\xe9"):
        for suffix in (b".png", b".txt"):
            (tmp_path / os.fsdecode(raw + suffix)).write_bytes(raw)
    found = {base_name(entry.name): entry for entry in walk([tmp_path]) if isinstance(entry, Found)}
    plain = {"café.png", "café.txt"}
    assert plain < found.keys()
    assert all(found[name].path.read_bytes() == "café".encode() for name in plain)
    first, second = sorted(found.keys() - plain)
    assert first.startswith("café~")
    assert second == first.replace(".png", ".txt")
    assert all(entry.sent_name == entry.name for entry in found.values())


def test_names_are_safe_to_show(tmp_path: Path) -> None:
    _make(tmp_path, "a\nb\x1b[2J.png", "con:?*<>|.png", "x" * 240 + ".png", "\u202egpj.exe")
    names = _names(tmp_path)
    assert len(names) == 4
    assert all(name.isprintable() for name in names)


def test_files_whose_raw_names_differ_keep_different_names(tmp_path: Path) -> None:
    decomposed = "cafe\u0301.png"
    for number, name in enumerate(("caf\u00e9.png", decomposed)):
        (tmp_path / name).write_bytes(bytes([number]))
    found = {entry.name: entry.path.read_bytes() for entry in walk([tmp_path]) if isinstance(entry, Found)}
    assert found == {
        f"{tmp_path.name}/caf\u00e9.png": b"\0",
        f"{tmp_path.name}/{coded(decomposed)}": b"\1",
    }
