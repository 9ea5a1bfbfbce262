"""What an object of JSON says of pictures is taken, or has an outcome: by keys, by columns, and beside COCO's lists."""

from __future__ import annotations

import json

import pytest
from tests.unit.media.sheets.reading import JSON, pairs, rows

from retllm.media.sheets.documents import MAX_DEPTH

CAT, DOG = {"file": "cat.jpg", "caption": "a cat"}, {"file": "dog.jpg", "caption": "a dog"}
BOTH = [("cat.jpg", ("a cat",)), ("dog.jpg", ("a dog",))]


@pytest.mark.parametrize(
    "keys", ["01", ("id1", "id2"), ("1.jpg", "2.jpg"), ("first", "second"), ("cat.jpg", "dog.jpg")]
)
def test_the_name_in_an_object_goes_before_its_key(keys: tuple[str, str]) -> None:
    document = dict(zip(keys, (CAT, DOG), strict=True))
    assert pairs(json.dumps(document), JSON) == BOTH
    lists = {key: [value] for key, value in document.items()}
    assert pairs(json.dumps(lists), JSON) == BOTH


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("0", {"image": "cat", "caption": "x"}, "cat"),
        ("0", {"image_id": 391895, "caption": "x"}, "391895"),
        ("0", {"image": {"path": "cat.jpg"}, "caption": "x"}, "cat.jpg"),
        ("0", {"name": "cat.jpg", "caption": "x"}, "cat.jpg"),
        ("0", {"url": "http://h/cat.jpg", "caption": "x"}, "http://h/cat.jpg"),
        ("a.jpg", {"url": "http://h/cat.jpg", "caption": "x"}, "a.jpg"),
        ("a.jpg", {"image_id": 5, "caption": "x"}, "a.jpg"),
        ("0001", {"name": "Anna", "caption": "x"}, "0001"),
        ("0001", {"file": None, "caption": "x"}, "0001"),
    ],
)
def test_an_object_names_its_picture_if_it_has_a_name_of_one(key: str, value: object, named: str) -> None:
    assert pairs(json.dumps({key: value}), JSON) == [(named, ("x",))]


def test_a_key_with_captions_of_its_own_and_of_others_has_both() -> None:
    document = {"a.jpg": ["one", {"caption": "two"}, CAT], "b.jpg": "three"}
    assert pairs(json.dumps(document), JSON) == [("b.jpg", ("three",)), BOTH[0], ("a.jpg", ("one", "two"))]


def test_objects_of_columns_are_joined_by_their_keys() -> None:
    document = {"file": {"0": "0.jpg", "1": "1.jpg", "2": "2.jpg"}, "caption": {"2": "two", "0": "zero", "7": "lost"}}
    assert [(row.file, row.captions) for row in rows(json.dumps(document), JSON)] == [
        ("0.jpg", ("zero",)),
        ("1.jpg", ()),
        ("2.jpg", ("two",)),
        ("", ("lost",)),
    ]


IMAGES = [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2, 3)]
NORMAL = {"image_id": 1, "caption": "one"}
ONE, TWO = ("1.jpg", ("one",)), ("2.jpg", ("two",))


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"annotations": [NORMAL, {"image_id": 2, "file_name": "2.jpg", "caption": "two"}]}, [ONE, TWO]),
        ({"annotations": [NORMAL, {"image_id": 2, "text": "two"}]}, [ONE, TWO]),
        ({"annotations": [{"image_id": 2, "text": "two"}]}, [TWO]),
        ({"annotations": [NORMAL], "more": [{"file": "2.jpg", "caption": "two"}]}, [ONE, TWO]),
        ({"annotations": [NORMAL], "2.jpg": "two"}, [ONE, TWO]),
        (
            {
                "images": [{**IMAGES[0], "text": "first"}, *IMAGES[1:]],
                "annotations": [NORMAL, {"image_id": 2, "caption": "two"}],
            },
            [ONE, TWO, ("1.jpg", ("first",))],
        ),
        ({"images": [{**image, "caption": None} for image in IMAGES], "annotations": [NORMAL]}, [ONE]),
        (
            {
                "annotations": [NORMAL],
                "info": {"description": "COCO", "url": "http://cocodataset.org"},
                "categories": [{"id": 1, "name": "cat", "description": "an animal"}],
                "licenses": [{"id": 1, "name": "CC", "url": "http://l/1.png"}],
            },
            [ONE],
        ),
    ],
)
def test_nothing_that_is_said_beside_the_annotations_of_coco_is_lost(
    document: dict[str, object], expected: list[object]
) -> None:
    assert pairs(json.dumps({"images": IMAGES} | document), JSON) == expected


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"cat.jpg": "A", "dog.jpg": "B", "extra": [CAT]}, [BOTH[0], ("cat.jpg", ("A",)), ("dog.jpg", ("B",))]),
        ({"extra": [CAT], "0001": "A", "version": "2", "x": DOG}, [BOTH[0], ("0001", ("A",)), BOTH[1]]),
        ({"file": "1.jpg", "caption": "a", "annotations": [CAT]}, [BOTH[0], ("1.jpg", ("a",))]),
        ({"file": "1.jpg", "caption": "a", "captions": ["b", {"text": "c"}]}, [("1.jpg", ("a", "b", "c"))]),
        ({"file": "1.jpg", "captions": ["b", CAT]}, [BOTH[0], ("1.jpg", ("b",))]),
        ({"file": "1.jpg", "caption": "a", "size": [3, 4]}, [("1.jpg", ("a",))]),
        ({"image": "1.jpg", "urls": ["http://h/2.jpg"], "captions": ["a"]}, [("1.jpg", ("a",))]),
        ({"file": {"0": "1.jpg"}, "caption": {"0": "a"}, "extra": [CAT]}, [BOTH[0], ("1.jpg", ("a",))]),
    ],
)
def test_nothing_that_is_said_beside_a_list_of_rows_is_lost(document: object, expected: list[object]) -> None:
    assert pairs(json.dumps(document), JSON) == expected


def test_what_is_no_object_in_a_list_of_rows_is_refused() -> None:
    good, *bad = rows(json.dumps({"data": ["a", CAT, None]}), JSON)
    assert (good.file, good.captions) == BOTH[0]
    assert [row.problem and row.problem.message for row in bad] == [
        f'Row {number} is not an object like {{"file": ..., "caption": ...}}.' for number in (2, 3)
    ]


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("depth", [MAX_DEPTH, 5_000, 50_000])
@pytest.mark.parametrize("form", ["[%s, %s, %s]", '{"data": [%s, %s, %s]}'])
def test_an_element_that_is_nested_too_deeply_loses_itself_only(form: str, depth: int) -> None:
    deep = f'{{"file": "a.jpg", "caption": "x", "more": {nested(depth)}}}'
    made = rows(form % (json.dumps(CAT), deep, json.dumps(DOG)), JSON)
    assert [(row.file, row.captions) for row in made if row.problem is None] == BOTH
    assert [row.problem.message for row in made if row.problem] == [
        f"Row 2 is nested more than {MAX_DEPTH} deep, so it is no row of a sheet."
    ]


def test_what_is_not_too_deep_is_read() -> None:
    deep = f'[{{"file": "a.jpg", "caption": "x", "more": {nested(MAX_DEPTH - 2)}}}]'
    assert pairs(deep, JSON) == [("a.jpg", ("x",))]


@pytest.mark.parametrize("place", [0, 1])
def test_a_line_that_is_nested_too_deeply_is_refused_as_that(place: int) -> None:
    deep = f'{{"file": "a.jpg", "caption": "x", "more": {nested(8_000)}}}'
    lines = [json.dumps(CAT), json.dumps(DOG)]
    lines.insert(place, deep)
    made = rows("\n".join(lines), JSON)
    assert [(row.file, row.captions) for row in made if row.problem is None] == BOTH
    assert [row.problem.message for row in made if row.problem] == [
        f"Row {place + 1} is nested too deeply, so it is no row of a sheet."
    ]


@pytest.mark.parametrize("text", ["\u200b", " \u200b\u00a0\u2060\n", "\ufeff", "\u00ad"])
def test_a_caption_of_nothing_to_see_is_empty(text: str) -> None:
    assert rows(json.dumps([CAT, {"file": "a.jpg", "caption": text}]), JSON)[1].captions == ()
    assert rows(f'file,caption\na.jpg,"{text}"\nb.jpg,x\n')[0].captions == ()


def test_a_conversation_that_is_the_document_gives_its_single_answer() -> None:
    turns = [{"from": "human", "value": "What?\n<image>"}, {"from": "gpt", "value": "A dog."}]
    for indent in (None, 1):
        assert pairs(json.dumps({"id": "1", "image": "1.jpg", "conversations": turns}, indent=indent), JSON) == [
            ("1.jpg", ("A dog.",))
        ]
