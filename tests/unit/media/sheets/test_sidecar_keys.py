"""A caption whose name is the key of a sample of WebDataset, which is the name up to its first dot."""

from __future__ import annotations

import pytest
from tests.unit.media.handmade_tars import tarred
from tests.unit.media.outcomes import Items, reason
from tests.unit.media.samples import as_json, picture
from tests.unit.media.sheets.xmp_packets import packet
from tests.unit.media.test_sheet_rows import add_all, captions

from retllm.media.ingest import Ingest

SAMPLE = {"0.input.jpg": picture(1, kind="JPEG"), "1.input.jpg": picture(2, kind="JPEG"), "1.txt": b"another"}
OF_KEYS = {
    "a/0.txt": b"a cat",
    "a/1.caption": b"a cat",
    "b.01/2.json": as_json({"caption": "a cat"}),
    "b.01/3.xmp": packet(description="a cat"),
    "4.prompt.txt": b"a cat",
}


@pytest.mark.parametrize("how", ["folder", "tar", "later"])
def test_a_caption_of_a_key_goes_to_its_only_picture(how: str, ingest: Ingest, items: Items) -> None:
    """WebDataset's key is the name up to its first dot."""
    folders = [name.rpartition("/")[0] for name in OF_KEYS]
    pictures = {f"{folder}/{n}.input.jpg".lstrip("/"): picture(n, kind="JPEG") for n, folder in enumerate(folders)}
    files = OF_KEYS | pictures
    if how == "later":
        add_all(ingest, pictures)
        files = OF_KEYS
    add_all(ingest, {"a.tar": tarred(files)} if how == "tar" else files)
    assert captions(items) == dict.fromkeys(pictures, "a cat")


def test_a_caption_of_a_key_that_several_pictures_share_is_refused(ingest: Ingest, items: Items) -> None:
    # not even a picture of that very name in another archive, or from before, is meant
    add_all(ingest, {"0.jpg": picture(7, kind="JPEG")})
    refused = {"0.txt": b"x", "0.json": as_json({"caption": "x"}), "0.xmp": packet(description="x")}
    shards = {
        "a.tar": {**SAMPLE, "0.output.jpg": picture(3, kind="JPEG"), **refused},
        "b.tar": {"0.png": picture(4)},
    }
    outcomes = add_all(ingest, {key: tarred(files) for key, files in shards.items()})
    for name in refused:
        (outcome,) = (each for each in outcomes if each.name == name)
        message = f"The caption {name!r} fits 2 pictures ('0.input.jpg', '0.output.jpg'): name it like one of them"
        assert reason(outcome).startswith(message)
    assert set(captions(items).values()) == {None, "another"}


def test_a_caption_of_a_key_of_several_earlier_pictures_is_refused(ingest: Ingest, items: Items) -> None:
    further = {"0.output.jpg": picture(3, kind="JPEG"), "e/1.input.jpg": picture(4, kind="JPEG")}
    add_all(ingest, {**SAMPLE, **further})
    (refused, updated) = add_all(ingest, {"0.txt": b"a cat", "e/1.txt": b"a dog"})
    assert reason(refused).startswith("The caption '0.txt' fits 2 pictures ('0.")
    assert updated.status == "updated"
    assert captions(items) == {
        "0.input.jpg": None,
        "1.input.jpg": "another",
        "0.output.jpg": None,
        "e/1.input.jpg": "a dog",
    }


def test_a_year_before_dates_and_words_is_no_key_of_webdataset(ingest: Ingest, items: Items) -> None:
    pictures = {
        name: picture(n) for n, name in enumerate(["2023.01.02 beach.png", "2023.01.03.png", "2023.05 sea.png"])
    }
    add_all(ingest, pictures | {"2023.txt": b"A good year"})
    assert captions(items) == dict.fromkeys(pictures) | {"2023.txt": "A good year"}


def test_the_picture_of_the_very_name_goes_before_others_of_its_key(ingest: Ingest, items: Items) -> None:
    add_all(ingest, {**SAMPLE, "0.jpg": picture(5, kind="JPEG"), "0.txt": b"a cat", "0.input.txt": b"a dog"})
    assert captions(items) == {"0.jpg": "a cat", "0.input.jpg": "a dog", "1.input.jpg": "another"}
    add_all(ingest, {".hidden.input.jpg": picture(6, kind="JPEG"), "note.txt": b"a note"})
    assert captions(items)["note.txt"] == "a note"
