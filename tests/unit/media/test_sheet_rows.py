"""The rows of a sheet find their pictures, and become their captions."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping

import pytest
from tests.unit.media.outcomes import Items, add_file, reason, statuses
from tests.unit.media.samples import packed, picture, zipped
from tests.unit.uploading import add_files

from retllm.media.ingest import FileOutcome, IncomingFile, Ingest
from retllm.media.names import coded


def add_all(ingest: Ingest, files: Mapping[str, bytes | io.BytesIO], *, texts: bool = False) -> list[FileOutcome]:
    """Add files as one upload."""
    incoming = [IncomingFile(n, io.BytesIO(d) if isinstance(d, bytes) else d) for n, d in files.items()]
    return add_files(ingest, incoming, texts=texts)


def captions(items: Items) -> dict[str, str | None]:
    return {item.name: item.text for item in items()}


def test_a_row_matches_a_picture_by_full_name_or_else_by_base_name(ingest: Ingest, items: Items) -> None:
    for number, name in enumerate(["x/a.png", "y/a.png", "x/b.png", "c.png"]):
        add_file(ingest, name, io.BytesIO(picture(number)))
    sheet = "file,caption\nx/a.png,one\na.png,two\nb.png,three\n./images\\c.png,four\nd.png,five\nz/b.png,six\n"
    outcomes = add_file(ingest, "c.csv", io.BytesIO(sheet.encode()))
    assert [outcome.status for outcome in outcomes] == [
        "updated",
        "rejected",
        "updated",
        "updated",
        "rejected",
        "rejected",
    ]
    assert "matches 2 pictures ('x/a.png', 'y/a.png'): give its full name with folders" in reason(outcomes[1])
    assert "Row 6 names the picture 'd.png', which is not in this collection" in reason(outcomes[4])
    assert "the only one of that name is 'x/b.png', in another folder" in reason(outcomes[5])
    assert captions(items) == {"x/a.png": "one", "y/a.png": None, "x/b.png": "three", "c.png": "four"}


@pytest.mark.parametrize("layout", ["folders", "one ZIP", "two ZIPs"])
def test_two_folders_with_the_same_names_each_have_their_own_sheet(layout: str, ingest: Ingest, items: Items) -> None:
    years = {
        year: {"IMG_1.png": picture(seed), "captions.csv": f"file,caption\nIMG_1.png,of {year}\n".encode()}
        for seed, year in enumerate(["2023", "2024"])
    }
    files: dict[str, bytes | io.BytesIO] = {
        f"{y}/{name}": data for y, inner in years.items() for name, data in inner.items()
    }
    if layout == "one ZIP":
        files = {"all.zip": packed(files)}  # type: ignore[arg-type]
    elif layout == "two ZIPs":
        files = {f"{year}.zip": packed(inner) for year, inner in years.items()}
    outcomes = add_all(ingest, files)
    assert {outcome.status for outcome in outcomes} == {"added", "updated"}
    assert sorted(item.text or "" for item in items()) == ["of 2023", "of 2024"]
    assert [item.text for item in items() if item.name.startswith("2023")] in ([], ["of 2023"])


def test_a_sheet_in_one_archive_says_nothing_of_another_archive_with_its_own_sheet(
    ingest: Ingest, items: Items
) -> None:
    one = packed({"a.png": picture(1), "c.csv": b"file,caption\na.png,one\nb.png,lost\n"})
    two = packed({"b.png": picture(2), "c.csv": b"file,caption\nb.png,two\n"})
    outcomes = add_all(ingest, {"1.zip": one, "2.zip": two})
    assert [outcome.status for outcome in outcomes] == ["added", "added", "updated", "rejected", "updated"]
    assert captions(items) == {"a.png": "one", "b.png": "two"}


def test_one_sheet_can_be_for_the_pictures_of_several_archives(ingest: Ingest, items: Items) -> None:
    rows = {f"{n}.png": f"number {n}" for n in range(3)}
    sheet = json.dumps(rows).encode()
    shards = {f"{n}.zip": packed({f"{n}.png": picture(n)} | ({"all.json": sheet} if n == 1 else {})) for n in range(3)}
    add_all(ingest, shards)
    assert captions(items) == rows


def test_a_row_prefers_a_picture_of_the_same_upload(ingest: Ingest, items: Items) -> None:
    add_file(ingest, "a.png", io.BytesIO(picture(1)))
    add_file(ingest, "z.zip", packed({"new/a.png": picture(2), "c.csv": b"file,caption\na.png,the new one\n"}))
    assert captions(items) == {"a.png": None, "new/a.png": "the new one"}


@pytest.mark.parametrize("bad", ["\ud800", "\0"])
def test_a_character_that_is_none_costs_a_sheet_only_its_own_row(bad: str, ingest: Ingest, items: Items) -> None:
    rows: list[dict[str, object]] = [
        {"file": "a.png", "caption": "one"},
        {"file": f"a{bad}1.png", "caption": "lost"},
        {"file": "a.png", "caption": f"lo{bad}st"},
        {"file": "a.png", f"capt{bad}ion": 4},
        {"file": "b.png", "caption": "two", f"my{bad}column": 1},
    ]
    sheet = "\n".join(map(json.dumps, rows)).encode()
    outcomes = add_all(ingest, {"a.png": picture(1), "b.png": picture(2), "c.jsonl": sheet})[2:]
    assert [outcome.status for outcome in outcomes] == [
        "read",
        "updated",
        "rejected",
        "rejected",
        "rejected",
        "updated",
    ]
    assert outcomes[0].remark == 'The columns "capt ion", "my column" are not read.'
    assert "names the picture 'a 1.png', which is not in this collection" in reason(outcomes[2])
    assert ("half a surrogate pair" if bad == "\ud800" else "NUL") in reason(outcomes[3])
    assert reason(outcomes[4]) == 'Row 4: "capt ion" has to be a text.'
    assert captions(items) == {"a.png": "one", "b.png": "two"}


def test_of_earlier_pictures_with_one_name_the_newest_gets_the_caption_with_a_remark(
    ingest: Ingest, items: Items
) -> None:
    for seed in (1, 2):
        add_file(ingest, "cat.png", io.BytesIO(picture(seed)))
    (outcome,) = add_file(ingest, "c.csv", io.BytesIO(b"file,caption\ncat.png,a cat\n"))
    assert outcome.remark == "2 pictures are named 'cat.png'; the newest has this caption."
    assert [item.text for item in items()] == [None, "a cat"]


def test_a_row_matches_a_duplicate_by_its_name_in_the_upload(ingest: Ingest, items: Items) -> None:
    add_file(ingest, "old.png", io.BytesIO(picture(1)))
    add_file(ingest, "z.zip", packed({"again.png": picture(1), "c.csv": b"file,caption\nagain.png,a cat\n"}))
    assert [(item.name, item.text) for item in items()] == [("old.png", "a cat")]


def test_several_rows_for_a_picture_become_one_caption_of_several_lines(ingest: Ingest, items: Items) -> None:
    add_file(ingest, "1.jpg", io.BytesIO(picture(1, kind="JPEG")))
    add_file(ingest, "2.jpg", io.BytesIO(picture(2, kind="JPEG")))
    sheet = b"image,caption\n1.jpg,A dog .\n2.jpg,A cat .\n1.jpg,A brown dog .\n1.jpg,A dog .\n"
    for status in ("updated", "duplicate"):
        outcomes = add_file(ingest, "captions.txt", io.BytesIO(sheet))
        assert statuses(outcomes) == [("captions.txt, row 2", status), ("captions.txt, row 3", status)]
    assert captions(items) == {"1.jpg": "A dog .\nA brown dog .", "2.jpg": "A cat ."}
    assert {item.version for item in items()} == {2}


def test_captions_that_do_not_fit_into_one_are_left_out_with_a_remark(ingest: Ingest, items: Items) -> None:
    lines = "".join(f"a.png,{letter * 90}\n" for letter in "abc")
    *_, outcome = add_all(ingest, {"a.png": picture(), "c.csv": f"file,caption\n{lines}".encode()})
    assert "the first 2 of 3 captions" in (outcome.remark or "")
    assert captions(items) == {"a.png": "a" * 90 + "\n" + "b" * 90}


def test_a_second_sheet_of_one_upload_does_not_replace_the_first_but_one_of_a_later_upload_does(
    ingest: Ingest, items: Items
) -> None:
    one, two = (f"file,caption\na.png,{words}\n".encode() for words in ("one", "two"))
    outcomes = add_all(ingest, {"a.png": picture(), "1.csv": one, "2.csv": two, "3.csv": one})
    assert [outcome.status for outcome in outcomes] == ["added", "updated", "rejected", "duplicate"]
    assert "another caption than 1.csv, row 2" in reason(outcomes[2])
    assert captions(items) == {"a.png": "one"}
    assert add_all(ingest, {"2.csv": two})[0].status == "updated"
    assert captions(items) == {"a.png": "two"}


def test_rows_with_different_folders_do_not_share_a_picture_without_folders(ingest: Ingest, items: Items) -> None:
    sheet = b"file,caption\ntrain/1.png,one\nval/1.png,two\n"
    outcomes = add_all(ingest, {"1.png": picture(), "c.csv": sheet})
    for outcome in outcomes[1:]:
        assert "'train/1.png' and 'val/1.png' would be the same picture" in reason(outcome)
    assert captions(items) == {"1.png": None}


def test_a_picture_that_was_converted_has_the_caption_of_its_row_with_a_remark(ingest: Ingest, items: Items) -> None:
    sheet = b"file,caption\na.png,one\nb.jpeg,two\n"
    outcomes = add_all(ingest, {"a.webp": picture(1), "b.jpg": picture(2), "c.csv": sheet})
    assert [(o.status, o.remark) for o in outcomes[-2:]] == [
        ("updated", "Its sheet names it 'a.png'."),
        ("updated", None),
    ]
    assert captions(items) == {"a.webp": "one", "b.jpg": "two"}


@pytest.mark.parametrize("order", [["a.png,one", "a.jpg,two"], ["a.jpg,two", "a.png,one"]])
def test_a_row_that_names_a_picture_as_it_is_counts_before_one_with_another_suffix(
    order: list[str], ingest: Ingest, items: Items
) -> None:
    outcomes = add_all(ingest, {"a.png": picture(1), "c.csv": "\n".join(["file,caption", *order]).encode()})
    (refused,) = (outcome for outcome in outcomes if outcome.status == "rejected")
    assert "names the picture 'a.jpg', which is not in this collection; 'a.png' is" in reason(refused)
    assert captions(items) == {"a.png": "one"}


def test_rows_for_two_pictures_do_not_share_one_with_a_third_suffix(ingest: Ingest, items: Items) -> None:
    outcomes = add_all(ingest, {"a.webp": picture(1), "c.csv": b"file,caption\na.png,one\na.jpg,two\n"})
    assert [outcome.status for outcome in outcomes] == ["added", "rejected", "rejected"]
    assert captions(items) == {"a.webp": None}


def test_an_earlier_picture_of_the_very_name_counts_before_a_new_one_with_another_suffix(
    ingest: Ingest, items: Items
) -> None:
    add_all(ingest, {"a.png": picture(1)})
    add_all(ingest, {"a.webp": picture(2), "c.csv": b"file,caption\na.png,one\n"})
    assert captions(items) == {"a.png": "one", "a.webp": None}


def test_a_row_for_a_rejected_picture_says_so(ingest: Ingest) -> None:
    outcomes = add_all(ingest, {"a.png": picture()[:60], "c.csv": b"file,caption\na.png,words\n"})
    assert "'a.png', which was rejected" in reason(outcomes[1])


def test_rejected_rows_have_a_reason(ingest: Ingest, items: Items) -> None:
    add_file(ingest, "a.png", io.BytesIO(picture()))
    lines = [
        '{"file": "a.png", "caption": "' + "x" * 201 + '"}',
        '{"file": "a.png", "caption": "nul \\u0000"}',
        '{"file": "a.png", "caption": "half \\ud800"}',
        "{",
        '{"caption": "words"}',
        '{"file": "a.png", "caption": "fine"}',
    ]
    outcomes = add_file(ingest, "c.jsonl", io.BytesIO("\n".join(lines).encode()))
    assert [outcome.status for outcome in outcomes] == ["rejected"] * 5 + ["updated"]
    for number, part in enumerate(["RETLLM_MAX_TEXT_CHARS", "NUL", "surrogate", "JSON", "--texts"], start=1):
        message = reason(outcomes[number - 1])
        assert message.startswith(f"Row {number}")
        assert part in message
    assert captions(items) == {"a.png": "fine"}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("c.csv", b"file,caption\n", "no captions"),
        ("c.csv", b"what,ever\n1,2\n", "first line"),
        ("c.csv", "caption\nGröße über Café\n".encode("cp850"), "UTF-8"),
        (
            "c.csv",
            b"caption,mood\nred,calm\nblue,calm\n",
            r'columns "caption", "mood", and none of them names pictures',
        ),
        ("c.jsonl", b'{"caption": "red"}\n{"caption": "blue"}\n', "none of them names pictures.*--texts"),
        ("c.json", b"[]", "no captions"),
        ("c.json", json.dumps({"shapes": [], "version": "5"}, indent=1).encode(), "no list of captions"),
        ("c.json", b"[\n1,\n2\n]", "not an object"),
    ],
)
def test_an_unusable_sheet_is_rejected_as_a_whole(
    name: str, data: bytes, message: str, ingest: Ingest, items: Items
) -> None:
    for outcomes in (add_file(ingest, name, io.BytesIO(data)), add_file(ingest, "z.zip", packed({name: data}))):
        (outcome,) = outcomes
        assert outcome.name == name
        assert re.search(message, reason(outcome))
    assert items() == []


def test_rows_become_texts_only_if_asked_for_or_in_a_sheet_of_texts(ingest: Ingest, items: Items) -> None:
    sheet = b"caption,mood\nred,calm\nblue,loud\n"
    assert add_all(ingest, {"c.csv": b"text,title\ngreen,A colour\n"})[0].status == "added"
    assert [(item.name, item.text) for item in items()] == [("A colour", "green")]
    outcomes = add_all(ingest, {"c.csv": sheet, "d.csv": b"file,caption\n,grey\nno.png,white\n"}, texts=True)
    assert [outcome.status for outcome in outcomes] == ["read", "added", "added", "added", "rejected"]
    assert (outcomes[0].name, outcomes[0].remark) == ("c.csv", 'The column "mood" is not read.')
    assert {item.text for item in items()} == {"green", "red", "blue", "grey"}


@pytest.mark.parametrize("late", [False, True], ids=["with the pictures", "later"])
def test_a_row_finds_the_picture_of_its_raw_name_among_those_of_one_clean_name(
    late: bool, ingest: Ingest, items: Items
) -> None:
    nfc, nfd = "caf\u00e9", "cafe\u0301"
    pictures = {f"{name}.png": picture(number) for number, name in enumerate((nfd, nfc, "b\u200e", "b"))}
    sheet = f"file,caption\n{nfc}.png,composed\n{nfd}.png,decomposed\nb\u200e.png,marked\nb.png,plain\n".encode()
    if late:
        add_all(ingest, {"a.zip": zipped(pictures)})
        outcomes = add_all(ingest, {"a.csv": sheet})
    else:
        outcomes = add_all(ingest, {"a.zip": zipped(pictures | {"a.csv": sheet})})
    assert [outcome for outcome in outcomes if outcome.status == "rejected"] == []
    expected = {
        coded(f"{nfd}.png"): "decomposed",
        f"{nfc}.png": "composed",
        coded("b\u200e.png"): "marked",
        "b.png": "plain",
    }
    assert captions(items) == expected


def test_a_sidecar_belongs_to_the_picture_of_its_raw_name(ingest: Ingest, items: Items) -> None:
    nfc, nfd = "caf\u00e9", "cafe\u0301"
    files = {f"{name}.png": picture(number) for number, name in enumerate((nfc, nfd))}
    add_all(ingest, {"a.zip": zipped(files | {f"{nfd}.txt": b"decomposed"})})
    assert captions(items) == {f"{nfc}.png": None, coded(f"{nfd}.png"): "decomposed"}


def test_a_row_of_another_form_finds_the_only_picture_of_its_name(ingest: Ingest, items: Items) -> None:
    files = {"caf\u00e9.png": picture(1), "a.csv": "file,caption\ncafe\u0301.png,found\n".encode()}
    add_all(ingest, {"a.zip": zipped(files)})
    assert captions(items) == {"caf\u00e9.png": "found"}
