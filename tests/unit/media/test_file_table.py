"""The table of files: clutter by name, roles by suffix, and what a file chooser offers."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retllm.media.clutter import MAX_PLACES, ClutterCount
from retllm.media.file_table import GLOBS, FileRole, accepted, clutter_of, role_of


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("photos/@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "photos/@eaDir"),
        ("@EADIR/a.jpg", "@EADIR"),
        ("SYNOPHOTO_THUMB_XL.jpg", "SYNOPHOTO_THUMB_XL.jpg"),
        ("a.jpg@SynoEAStream", "a.jpg@SynoEAStream"),
        ("#recycle/old.png", "#recycle"),
        ("x/$RECYCLE.BIN/S-1-5/a.jpg", "x/$RECYCLE.BIN"),
        (".Trash-1000/files/a.jpg", ".Trash-1000"),
        (".@__thumb/s800a.jpg", ".@__thumb"),
        ("#snapshot/2023/a.jpg", "#snapshot"),
        ("__MACOSX/a.jpg", "__MACOSX"),
        ("a/.DS_Store", "a/.DS_Store"),
        ("a/._b.jpg", "a/._b.jpg"),
        ("a/Icon\r", "a/Icon\r"),
        ("Thumbs.db", "Thumbs.db"),
        ("a\\thumbs.db", "a/thumbs.db"),
        ("ehthumbs_vista.db", "ehthumbs_vista.db"),
        ("./desktop.ini", "desktop.ini"),
        ("x/a.png:Zone.Identifier", "x/a.png:Zone.Identifier"),
        ("Takeout/print-subscriptions.json", "Takeout/print-subscriptions.json"),
        ("Takeout/archive_browser.html", "Takeout/archive_browser.html"),
        ("Archiv_Übersicht.html", "Archiv_Übersicht.html"),
        ("x/Takeout/アーカイブ.html", "x/Takeout/アーカイブ.html"),
        ("DCIM/IMG_0001.AAE", "DCIM/IMG_0001.AAE"),
        ("lost+found/#123", "lost+found"),
        ("System Volume Information/x", "System Volume Information"),
        ("Holiday Previews.lrdata/0/a.lrprev", "Holiday Previews.lrdata"),
        ("Holiday.lrcat", "Holiday.lrcat"),
        ("Holiday.lrcat-journal", "Holiday.lrcat-journal"),
        ("My.photoslibrary/resources/derivatives/a.jpg", "My.photoslibrary/resources"),
        ("~$captions.xlsx", "~$captions.xlsx"),
        (".git/objects/ab", ".git"),
        ("DCIM/MVI_0001.THM", "DCIM/MVI_0001.THM"),
        ("a.png~", "a.png~"),
        ("x/a.png.bak", "x/a.png.bak"),
        ("_gsdata_/_saved_/a.png", "_gsdata_"),
        ("a/.hidden/b.jpg", "a/.hidden"),
    ],
)
def test_what_systems_and_programs_put_into_folders_is_clutter(name: str, path: str) -> None:
    clutter = clutter_of(name)
    assert clutter is not None
    assert clutter.path == path
    assert clutter.reason


@pytest.mark.parametrize(
    "name",
    [
        "a.jpg",
        "a/b.jpg",
        "a/",
        "../a.jpg",
        "./a.jpg",
        "thumbs.dbx",
        "thumbs.db.jpg",
        "desktop.ini\n",
        "my__MACOSX/a.jpg",
        "eaDir/a.jpg",
        "recycle/a.jpg",
        "found.jpg",
        "Icon.png",
        "lost and found/a.jpg",
        "My.photoslibrary/originals/0/a.jpg",
        "a.git",
        "a~$b.jpg",
        "PHOTOS~1/a~.jpg",
        "Takeout/Google Fotos/page.html",
        "thm/bak.jpg",
        "deskt\u0131p.ini",
        "DESKTOP.\u0130NI",
    ],
)
def test_what_people_have_is_no_clutter(name: str) -> None:
    assert clutter_of(name) is None


@given(st.text(st.sampled_from(".@#~$*/\\a thumbs._[]()\n\r"), max_size=40), st.sampled_from(GLOBS))
def test_all_that_is_in_a_cluttered_folder_is_clutter_of_the_same_place(inside: str, glob: tuple[str, str]) -> None:
    folder = "x/" + re.sub(r"[*?]", "0", glob[0])
    assert clutter_of(f"{folder}/{inside}") == clutter_of(folder)


def test_clutter_is_counted_by_folder() -> None:
    counted = ClutterCount()
    names = [f"a/@eaDir/{n}.jpg/SYNOPHOTO_THUMB_M.jpg" for n in range(1_200)]
    names += [f"a/._{n}.jpg" for n in range(3)] + ["a/Thumbs.db", "b/Thumbs.db", ".x/1", ".y/2", ".z"]
    assert [name for name in [*names, "a/1.jpg"] if not counted.take(name)] == ["a/1.jpg"]
    assert [(outcome.name, outcome.status, outcome.remark) for outcome in counted.outcomes()] == [
        ("a/@eaDir", "ignored", "Left out: index and previews of a Synology, 1,200 files."),
        ("a/._*", "ignored", "Left out: metadata of macOS, 3 files."),
        ("a/Thumbs.db", "ignored", "Left out: previews and settings of Windows."),
        ("b/Thumbs.db", "ignored", "Left out: previews and settings of Windows."),
        (".*", "ignored", "Left out: hidden file or folder, 3 files."),
    ]


def test_the_outcomes_of_clutter_are_bounded() -> None:
    counted = ClutterCount()
    for n in range(MAX_PLACES + 50):
        assert counted.take(f"{n}/@eaDir/a.jpg")
    *listed, rest = counted.outcomes()
    assert len(listed) == MAX_PLACES
    assert (rest.name, rest.remark) == ("…/@eaDir", "Left out: index and previews of a Synology, 50 files.")


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("a/b.JPG", FileRole.PICTURE),
        ("captions.tsv", FileRole.SHEET),
        ("captions.json", FileRole.SHEET),
        ("results_20130124.token", FileRole.SHEET),
        ("a.txt", FileRole.TEXT),
        ("a.xmp", FileRole.SIDECAR),
        ("a.zip", FileRole.ARCHIVE),
        ("shard-000001.tar", FileRole.ARCHIVE),
        ("a.tar.gz", FileRole.ARCHIVE),
        ("a.exe", None),
        ("jpg", None),
    ],
)
def test_a_suffix_says_what_a_file_may_be(name: str, role: FileRole | None) -> None:
    assert role_of(name) is role


def test_a_file_chooser_offers_every_suffix_of_the_table() -> None:
    offered = accepted().split(",")
    assert offered[0] == "image/*"
    assert {".jpg", ".csv", ".tsv", ".json", ".txt", ".zip", ".tar", ".tgz", ".gz"} <= set(offered)
    assert len(offered) == len(set(offered))
