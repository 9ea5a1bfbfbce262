"""A row means the picture in its sheet's folder, or else by its path from the end; none where folders disagree."""

from __future__ import annotations

import unicodedata
import uuid
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from retllm.media.names import clean_name
from retllm.media.sheets.located import Located, Picture
from retllm.media.sheets.matching import Found, find
from retllm.media.sheets.references import keys, names_a_picture, reference, stem
from retllm.media.sheets.seen import Named, NamesSeen

ONE, TWO = uuid.UUID(int=1), uuid.UUID(int=2)


def located(name: str) -> Located:
    """``1:path`` lies in the first archive, ``path`` in none."""
    archive, _, path = name.rpartition(":")
    return Located(path, {"": None, "1": ONE, "2": TWO}[archive])


def names(found: Found) -> list[str]:
    marks = {None: "", ONE: "1:", TWO: "2:"}
    return [marks[picture.located.archive] + picture.located.name for picture in found.pictures]


def found(row: str, sheet: str, pictures: Sequence[str], *, earlier: bool = False) -> Found:
    wanted = reference(row)
    assert wanted is not None
    candidates = [Picture(located(name), uuid.uuid4(), earlier) for name in pictures]
    return find(wanted, located(sheet), candidates)


def matched(row: str, sheet: str, *pictures: str) -> list[str]:
    return names(found(row, sheet, pictures))


@pytest.mark.parametrize(
    ("row", "sheet", "pictures", "expected"),
    [
        # the sheet's own folder, then its own archive
        ("a.png", "2023/c.csv", ["2023/a.png", "2024/a.png", "a.png"], "2023/a.png"),
        ("a.png", "1:c.csv", ["1:a.png", "2:a.png", "a.png"], "1:a.png"),
        ("a.png", "2:c.csv", ["1:a.png", "2:x/a.png"], "2:x/a.png"),
        ("x/a.png", "data/c.csv", ["data/x/a.png", "x/a.png"], "data/x/a.png"),
        ("../a.png", "text/c.csv", ["a.png", "text/a.png"], "a.png"),
        ("../images/a.png", "captions/c.csv", ["images/a.png", "x/a.png"], "images/a.png"),
        # the root of its archive or upload
        ("x/a.png", "data/c.csv", ["x/a.png", "y/x/a.png"], "x/a.png"),
        # the path from the end
        ("/home/me/data/train/a.png", "c.csv", ["train/a.png", "val/a.png"], "train/a.png"),
        (r"C:\data\train\a.png", "c.csv", ["train/a.png", "val/a.png"], "train/a.png"),
        (r"train\a.png", "c.csv", ["coco/train/a.png", "val/a.png"], "coco/train/a.png"),
        ("./a.png", "c.csv", ["deep/down/a.png"], "deep/down/a.png"),
        ("train/a.png", "c.csv", ["a.png"], "a.png"),
        ("a.png", "train/c.csv", ["images/train/a.png", "images/val/a.png"], "images/train/a.png"),
        ("a.png", "annotations/c.json", ["train2017/a.png"], "train2017/a.png"),
        ("a.png", "labels/train/c.csv", ["images/train/a.png", "images/val/a.png"], "images/train/a.png"),
        ("a.png", "data/c.csv", ["data/images/a.png"], "data/images/a.png"),
        ("a.png", "data/meta2/c.csv", ["data/a.png"], "data/a.png"),
        ("b/x.png", "c.csv", ["a/b/x.png", "z/x.png"], "a/b/x.png"),
        # folders as well-known collections have them
        ("a.png", "annotations_trainval2017/annotations/c.json", ["val2017/a.png"], "val2017/a.png"),
        ("a.png", "Flickr8k_text/Flickr8k.token.txt", ["Flicker8k_Dataset/a.png"], "Flicker8k_Dataset/a.png"),
        ("a.png", "caption_datasets/c.json", ["flickr30k-images/a.png"], "flickr30k-images/a.png"),
        ("val2014/a.png", "caption_datasets/c.json", ["coco/val2014/a.png"], "coco/val2014/a.png"),
        ("a.png", "train_captions/c.csv", ["train_images/a.png", "val_images/a.png"], "train_images/a.png"),
        # addresses by their last part
        ("https://host/deep/a.png?w=200#top", "c.csv", ["x/a.png"], "x/a.png"),
        ("http://host/a%20b.png", "c.csv", ["a b.png"], "a b.png"),
        ("a%20b.png", "c.csv", ["a b.png", "a%20b.png"], "a%20b.png"),
        ("file:///home/me/train/a.png", "c.csv", ["train/a.png", "val/a.png"], "train/a.png"),
        # numbers of captions, suffixes, case, composed letters
        ("a.jpg#3", "c.txt", ["a.jpg"], "a.jpg"),
        ("0001", "c.csv", ["0001.jpg", "0002.jpg"], "0001.jpg"),
        ("9", "c.json", ["000000000009.jpg"], "000000000009.jpg"),
        ("A.PNG", "c.csv", ["a.png"], "a.png"),
        ("a.png", "c.csv", ["A.png", "a.png"], "a.png"),
        ("A.PNG", "c.csv", ["A.png", "a.png"], "A.png"),
        ("9", "c.json", ["COCO_val2014_000000000009.jpg"], "COCO_val2014_000000000009.jpg"),
        ("https://host/get?id=3&file=x%2Fa.png#top", "c.csv", ["a.png"], "a.png"),
        ("https://host/photos/12345", "c.csv", ["12345.jpg"], "12345.jpg"),
        # pictures that were converted
        ("a.jpeg", "c.csv", ["a.jpg", "a.png"], "a.jpg"),
        ("a.png", "c.csv", ["a.webp"], "a.webp"),
        ("x/a.png", "c.csv", ["x/a.webp", "y/a.png"], "x/a.webp"),
        ("a.v2", "c.csv", ["a.v2.png", "a.png"], "a.v2.png"),
        ("Train/a.png", "c.csv", ["train/a.png", "val/a.png"], "train/a.png"),
        (unicodedata.normalize("NFD", "é.png"), "c.csv", ["é.png"], "é.png"),
    ],
)
def test_a_row_means_one_picture(row: str, sheet: str, pictures: list[str], expected: str) -> None:
    assert matched(row, sheet, *pictures) == [expected]
    assert matched(row, sheet, *reversed(pictures)) == [expected]


@pytest.mark.parametrize(
    ("row", "sheet", "picture"),
    [
        ("train/0001.png", "c.csv", "val/0001.png"),
        ("0001.png", "train/c.csv", "val/0001.png"),
        ("0001.png", "train/c.csv", "images/val/0001.png"),
        ("0001.png", "1:train/c.csv", "2:val/0001.png"),
        ("0001.png", "labels/train/c.csv", "images/val/0001.png"),
        ("/data/train/0001.png", "c.csv", "val/0001.png"),
        ("images/0001.png", "train/c.csv", "val/images/0001.png"),
        ("0001.png", "photos/c.csv", "images/0001.png"),
        ("0001.png", "captions_2023/c.csv", "2024/0001.png"),
        ("0001.png", "train_captions/c.csv", "val_images/0001.png"),
        ("0001.png", "captions_2/c.csv", "images_20/0001.png"),
        ("0001.png", "coco/annotations/c.csv", "flickr/images/0001.png"),
    ],
)
def test_a_row_means_no_picture_in_a_folder_that_it_contradicts(row: str, sheet: str, picture: str) -> None:
    result = found(row, sheet, [picture])
    assert result.pictures == ()
    assert [each.located for each in result.elsewhere] == [located(picture)]


@pytest.mark.parametrize(
    ("row", "picture"),
    [("a.png", "b.png"), ("a.txt", "a.jpg"), ("a.png", "aa.png"), ("0001", "10001.jpg"), ("a", "a b.png")],
)
def test_another_name_is_no_candidate(row: str, picture: str) -> None:
    assert found(row, "c.csv", [picture]) == Found()


@pytest.mark.parametrize(
    ("row", "picture", "changed"),
    [("a.png", "a.webp", True), ("a.jpeg", "a.JPG", False), ("a.tiff", "a.tif", False), ("a", "a.png", False)],
)
def test_a_picture_of_another_format_than_the_row_says_is_told(row: str, picture: str, changed: bool) -> None:
    assert found(row, "c.csv", [picture]).changed is changed


@pytest.mark.parametrize(
    ("row", "sheet", "pictures"),
    [
        ("a.png", "c.csv", ["x/a.png", "y/a.png"]),
        ("a.png", "c.csv", ["1:a.png", "2:a.png"]),
        ("0001", "c.csv", ["0001.jpg", "0001.png"]),
        ("A.PNG", "c.csv", ["a.png", "a.Png"]),
        ("b/a.png", "c.csv", ["x/b/a.png", "y/b/a.png"]),
    ],
)
def test_a_row_that_fits_several_pictures_equally_is_ambiguous(row: str, sheet: str, pictures: list[str]) -> None:
    assert sorted(matched(row, sheet, *pictures)) == sorted(pictures)


DEEP = "folder/" * 60


@pytest.mark.parametrize(
    ("row", "sheet", "picture"),
    [
        ("a.png", DEEP + "a long name of a sheet.csv", DEEP + "a.png"),
        ("sub/a.png", DEEP + "c.csv", DEEP + "sub/a.png"),
        (DEEP + "a.png", "c.csv", DEEP + "a.png"),
    ],
)
def test_a_row_finds_its_picture_in_folders_that_were_cut(row: str, sheet: str, picture: str) -> None:
    others = [clean_name(DEEP + "other/a.png"), clean_name("x/" + DEEP + "a.png")]
    assert matched(row, clean_name(sheet), *others, clean_name(picture)) == [clean_name(picture)]


def test_a_picture_of_an_earlier_upload_has_no_archive_to_tell() -> None:
    assert names(found("a.png", "1:x/c.csv", ["x/a.png", "y/a.png"], earlier=True)) == ["x/a.png"]


@pytest.mark.parametrize("name", ["", "  ", "/", "..", "./", "a/..", "http://host", "C:\\", "file:///"])
def test_a_field_without_a_name_means_nothing(name: str) -> None:
    assert reference(name) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.JPG", True),
        ("x/a.tiff#2", True),
        ("https://host/a.webp?x=1", True),
        ("a", False),
        ("a.csv", False),
        ("http://host/png", False),
        ("jpg", False),
        ("http://[bad/a.png", True),
    ],
)
def test_a_name_of_a_picture_is_told_by_its_suffix(name: str, expected: bool) -> None:
    assert names_a_picture(name) is expected


PART = st.sampled_from(["a", "b", "train", "val", "images", "é", "x y"])
PATH = st.lists(PART, max_size=3)
BASE = st.sampled_from(["1.png", "2.png", "é.jpg", "x.y.png"])
ARCHIVE = st.sampled_from([None, ONE, TWO])


def path(folders: list[str], base: str) -> str:
    return "/".join([*folders, base])


@given(PATH, PATH, PATH, BASE, ARCHIVE, st.lists(st.tuples(PATH, BASE, ARCHIVE), max_size=6))
def test_a_picture_at_the_path_from_the_sheets_folder_is_always_the_one(
    sheet: list[str], below: list[str], other: list[str], base: str, archive: uuid.UUID | None, more: list[tuple]
) -> None:
    own = Picture(Located(path(sheet + below, base), archive), uuid.uuid4())
    others = [Picture(Located(path(folders, name), place), uuid.uuid4()) for folders, name, place in more]
    others = [picture for picture in others if picture.located != own.located]
    wanted = reference(path(below, base))
    assert wanted is not None
    assert find(wanted, Located(path(sheet, "c.csv"), archive), [*others, own]).pictures == (own,)


@given(PATH, PATH, PATH, BASE, ARCHIVE, ARCHIVE)
def test_folders_of_a_row_never_contradict_those_of_its_picture(
    sheet: list[str],
    named: list[str],
    of_picture: list[str],
    base: str,
    of_sheet: uuid.UUID | None,
    other: uuid.UUID | None,
) -> None:
    wanted = reference(path(named, base))
    assert wanted is not None
    picture = Picture(Located(path(of_picture, base), other), uuid.uuid4())
    result = find(wanted, Located(path(sheet, "c.csv"), of_sheet), [picture])
    if result.pictures and of_picture != sheet + named:
        assert all(a == b for a, b in zip(reversed(named), reversed(of_picture), strict=False))
    assert len(result.pictures) + len(result.elsewhere) == 1


@example("a.heic", "a.heic.jpg")
@example(".HEIC", "")
@given(st.text(max_size=30), st.text(max_size=30))
def test_any_name_is_found_under_the_keys_that_are_looked_up(row: str, picture: str) -> None:
    """A picture that a row means is in the index under one of the row's keys."""
    for name in (picture, row, row + ".png", row.upper() + ".PNG"):
        wanted, clean = reference(row), clean_name(name)
        if wanted is None:
            continue
        seen = NamesSeen()
        seen.add(Located(clean), ONE)
        candidate = Picture(Located(clean), ONE)
        if find(wanted, Located("c.csv"), [candidate]).pictures:
            assert candidate in seen.pictures.fitting(wanted, Located("c.csv"))
            assert keys(wanted) & {stem(clean), stem(clean).lower()}


@given(
    PATH,
    ARCHIVE,
    st.sampled_from(["", "/", "../", "x%20y/"]),
    PATH,
    st.sampled_from(["1.png", "1.PNG", "1.jpg", "1", "2.png"]),
    st.lists(st.tuples(PATH, st.sampled_from(["1.png", "1.PNG", "2.png"]), ARCHIVE, st.booleans()), max_size=8),
)
def test_the_index_leaves_out_no_picture_that_a_row_means(
    sheet: list[str], archive: uuid.UUID | None, start: str, named: list[str], base: str, pictures: list[tuple]
) -> None:
    def place(path: str, archive: uuid.UUID | None) -> Located:
        return Located(path, archive, {None: "", ONE: "x/train.zip", TWO: "val.zip"}[archive])

    wanted = reference(start + path(named, base))
    assert wanted is not None
    of_sheet, index = place(path(sheet, "c.csv"), archive), Named()
    every = [Picture(place(path(*p), where), uuid.uuid4(), earlier) for *p, where, earlier in pictures]
    for picture in every:
        index.add(picture)
    of_all, of_few = find(wanted, of_sheet, every), find(wanted, of_sheet, index.fitting(wanted, of_sheet))
    assert {picture.item_id for picture in of_few.pictures} == {picture.item_id for picture in of_all.pictures}
    if not of_all.pictures:
        assert bool(of_few.elsewhere) is bool(of_all.elsewhere)


@pytest.mark.parametrize("row", ["p7/front.png", "p7/Front.PNG", "q7/front.png"])
def test_a_row_with_a_folder_is_compared_with_few_of_many_pictures_of_its_name(row: str) -> None:
    seen = NamesSeen()
    for number in range(100):
        seen.add(Located(f"x/p{number}/front.png"), uuid.uuid4())
    wanted = reference(row)
    assert wanted is not None
    assert len(seen.pictures.fitting(wanted, Located("c.csv"))) <= 5


@pytest.mark.parametrize(
    ("row", "sheet", "picture", "matches"),
    [
        ("1.png", "val.csv", "train/1.png", False),
        ("1.png", "data/captions_val2017.json", "data/train2017/1.png", False),
        ("1.png", "dev.csv", "images/test/dogs/1.png", False),
        ("1.png", "val.csv", "validation/1.png", True),
        ("1.png", "train_val.csv", "train/1.png", True),
        ("1.png", "val.csv", "photos/1.png", True),
        ("train/1.png", "val.csv", "train/1.png", True),
        ("1.png", "train/val.csv", "train/1.png", True),
        ("1.png", "coco_val.csv", "train/1.png", True),
        ("1.png", "val.csv", "val/train/1.png", False),
    ],
)
@pytest.mark.parametrize("earlier", [False, True])
def test_a_sheet_of_one_part_of_a_data_set_is_not_for_the_folder_of_another(
    row: str, sheet: str, picture: str, matches: bool, earlier: bool
) -> None:
    assert names(found(row, sheet, [picture], earlier=earlier)) == [picture] * matches
