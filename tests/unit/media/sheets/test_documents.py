"""JSON documents of well-known collections are told by their structure, and others are refused as what they are."""

from __future__ import annotations

import io
import json
import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.media.sheets.reading import JSON, count_examined, pairs, rows

from retllm.errors import MediaRejected, TooLarge
from retllm.media.sheets import documents
from retllm.media.sheets.documents import MAX_DEPTH, MAX_NODES
from retllm.media.sheets.encodings import BROKEN
from retllm.media.sheets.reading import read_rows
from retllm.media.sheets.rows import Reason, Row
from retllm.settings import Settings

COCO = {
    "info": {"description": "COCO 2017"},
    "licenses": [{"id": 1, "name": "CC"}],
    "images": [{"id": 9, "file_name": "000000000009.jpg", "license": 1}, {"id": 25, "file_name": "25.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 9, "caption": "one"},
        {"id": 2, "image_id": 25, "caption": "other"},
        {"id": 3, "image_id": 9, "caption": "two "},
    ],
}
KARPATHY = {
    "images": [
        {
            "filepath": "val2014",
            "filename": "a.jpg",
            "imgid": 0,
            "split": "test",
            "sentences": [{"tokens": ["a", "man"], "raw": "A man."}, {"tokens": [], "raw": "Two men."}],
        }
    ],
    "dataset": "coco",
}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (COCO, [("000000000009.jpg", ("one", "two")), ("25.jpg", ("other",))]),
        (dict(reversed(COCO.items())), [("000000000009.jpg", ("one", "two")), ("25.jpg", ("other",))]),
        (KARPATHY, [("val2014/a.jpg", ("A man.", "Two men."))]),
        ([{"image_id": 9, "caption": "x"}], [("9", ("x",))]),
        ([{"file_name": "a.png", "captions": ["x", "y"]}], [("a.png", ("x", "y"))]),
        ({"a.png": "x", "b/c.png": ["y", "z"]}, [("a.png", ("x",)), ("b/c.png", ("y", "z"))]),
        ({"0001": "x", "0002": ["y"]}, [("0001", ("x",)), ("0002", ("y",))]),
        ({"x/a.png": {"caption": "x", "tags": "t"}}, [("x/a.png", ("x",))]),
        ({"a": {"caption": "x", "tags": "t"}, "s/b": {"caption": "y"}}, [("a", ("x",)), ("s/b", ("y",))]),
        ({"image_urls": ["http://h/a.jpg"], "captions": ["x"], "user_ids": ["3"]}, [("http://h/a.jpg", ("x",))]),
        (
            {"train": [{"image": "a.png", "text": "x"}], "val": [{"image": "b.png", "text": "y"}]},
            [("a.png", ("x",)), ("b.png", ("y",))],
        ),
        (
            {"file": {"0": "a.png", "1": "b.png"}, "caption": {"0": "x", "1": "y"}},
            [("a.png", ("x",)), ("b.png", ("y",))],
        ),
        ({"file": ["a.png"], "caption": ["x"]}, [("a.png", ("x",))]),
        ({"file": "a.png", "caption": "x"}, [("a.png", ("x",))]),
        ({"file_name": "a.png", "captions": ["x", "y"]}, [("a.png", ("x", "y"))]),
        ({"captions": ["x"], "size": [3, 4], "file_name": "a.png"}, [("a.png", ("x",))]),
        (KARPATHY["images"][0], [("val2014/a.jpg", ("A man.", "Two men."))]),
        ({"imagePath": "a.jpg", "shapes": [{"label": "dog", "description": "left"}]}, [("", ("left",))]),
        ({"name": "flickr8k.png", "captions": [{"image": "a.png", "caption": "x"}]}, [("a.png", ("x",))]),
    ],
)
def test_json_documents_are_told_by_their_structure(
    document: object, expected: list[tuple[str, tuple[str, ...]]], indent: int | None
) -> None:
    assert pairs(json.dumps(document, indent=indent), JSON) == expected


def test_captions_of_an_image_that_is_missing_in_a_coco_file_are_refused() -> None:
    made = {**COCO, "annotations": [{"image_id": 5, "caption": "lost"}, {"image_id": 9, "caption": "one"}]}
    (lost, found) = rows(json.dumps(made), JSON)
    assert lost.problem is not None
    assert "image_id 5" in lost.problem.error.message
    assert found == Row(2, "000000000009.jpg", ("one",))


def test_an_empty_caption_of_a_coco_file_is_refused() -> None:
    made = {**COCO, "annotations": [{"image_id": 9, "caption": text} for text in ("one", None, "")]}
    found, *empty = rows(json.dumps(made), JSON)
    assert found == Row(1, "000000000009.jpg", ("one",))
    assert [row.problem and row.problem.error.message for row in empty] == [
        f"Row {number}: a caption for image_id 9 is empty." for number in (2, 3)
    ]


def test_an_object_of_names_and_lists_of_objects_is_read() -> None:
    made = {"a.png": [{"caption": "one"}, {"caption": "two"}], "b.png": [{"id": 3, "text": "three"}]}
    assert pairs(json.dumps(made), JSON) == [("a.png", ("one", "two")), ("b.png", ("three",))]


def test_captions_of_an_id_that_two_images_of_a_coco_file_have_are_refused() -> None:
    images = [(1, "a.jpg"), (1, "b.jpg"), (2, "c.jpg"), (2, "c.jpg")]
    made = {
        "images": [{"id": key, "file_name": name} for key, name in images],
        "annotations": [{"image_id": 1, "caption": "of a"}, {"image_id": 2, "caption": "of c"}],
    }
    (ambiguous, found) = rows(json.dumps(made), JSON)
    assert ambiguous.problem is not None
    assert ambiguous.problem.reason is Reason.AMBIGUOUS
    assert "image_id 1" in ambiguous.problem.error.message
    assert found == Row(2, "c.jpg", ("of c",))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ('"words"', "single text"),
        ("3", "single number"),
        ("null", "single null"),
        ("{", "cut short"),
        ('[{"file": "a.png"', "cut short"),
        ("{'a': 1}", "not valid"),
        ('[{"file": "a.png", "caption": nan}]', "not valid"),
        ("[1, 2, 3]", "not an object"),
        ('{"version": 5, "shapes": [], "flags": {}}', r'"version", "flags"'),
        ('[{"id": 1, "image": "a.jpg", "conversations": []}]', '"id", "image", "conversations"'),
        (json.dumps({**COCO, "annotations": [{"id": 1, "image_id": 9, "bbox": [1]}]}), "none of its annotations is a"),
        (
            json.dumps(
                {
                    "images": COCO["images"],
                    "annotations": [{"image_id": 9, "file_name": "000000000009.png", "segments_info": []}],
                    "categories": [{"id": 1, "name": "cat"}],
                }
            ),
            "none of its annotations is a caption",
        ),
        ("[" * 5000, f"more than {MAX_DEPTH} deep"),
        ('{"a":' * 5000, f"more than {MAX_DEPTH} deep"),
        ("a\nb\n", "not valid JSON"),
    ],
)
def test_a_document_that_is_no_list_of_rows_is_refused_as_what_it_is(document: str, message: str) -> None:
    with pytest.raises(MediaRejected, match=message):
        rows(document, JSON)


def test_an_element_of_a_document_has_a_bounded_number_of_values() -> None:
    with pytest.raises(TooLarge, match="100,000 values"):
        rows(json.dumps([{"file": "a.png", "caption": "x", "more": [0] * 2 * MAX_NODES}]), JSON)


def test_what_a_document_says_besides_is_not_kept_in_memory() -> None:
    """An annotation of COCO's form costs what its caption takes, whatever else it has."""
    polygons = [{"id": n, "image_id": n, "segmentation": [[1.5] * 300], "caption": f"c{n}"} for n in range(400)]
    document = {"images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(400)], "annotations": polygons}
    raw = json.dumps(document).encode()

    def number_of_rows() -> int:
        with read_rows(io.BytesIO(raw), JSON, Settings(max_file_bytes=1 << 30)) as sheet:
            return sum(1 for _ in sheet.rows)

    number_of_rows()  # what is imported or cached once does not count
    tracemalloc.start()
    try:
        count = number_of_rows()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 400
    # the numbers alone would take 400 x 300 x 32 bytes
    assert peak < 400 * 300 * 32 / 2


REPEATED = [
    ('{"a.jpg": "x", "a.jpg": "y"}', ("x", "y")),
    ('{"a.jpg": "x", "a.jpg": ["y", "z"]}', ("x", "y", "z")),
    ('{"a.jpg": ["x"], "a.jpg": "y", "a.jpg": {"caption": "z"}}', ("y", "z", "x")),
    ('{"a.jpg": ["x"], "a.jpg": ["y"]}', ("x", "y")),
    ('{"file": "a.jpg", "caption": "x", "caption": "y"}', ("x", "y")),
    ('[{"file": "a.jpg", "file": "a.jpg", "caption": "x", "caption": ["y", "z"]}]', ("x", "y", "z")),
    ('{"file": "a.jpg", "text": "x", "text": "y"}\n{"file": "b.jpg", "text": "x"}\n', ("x", "y")),
    ('{"data": [{"file": "a.jpg", "file": "a.jpg", "caption": "x", "caption": "y"}]}', ("x", "y")),
    ('{"file": {"0": "a.jpg"}, "caption": {"0": "x", "0": "y"}}', ("x", "y")),
]


@pytest.mark.parametrize(("document", "captions"), REPEATED)
def test_a_key_that_occurs_twice_loses_no_caption(document: str, captions: tuple[str, ...]) -> None:
    assert pairs(document, JSON)[0] == ("a.jpg", captions)


@pytest.mark.parametrize("form", ["[%s, %s]", "%s\n%s\n", '{"data": [%s, %s]}'], ids=["list", "lines", "object"])
def test_a_row_that_names_two_pictures_under_one_key_is_refused(form: str) -> None:
    entry = '{"file": "a.jpg", "file": "b.jpg", "caption": "x"}'
    bad, good = rows(form % (entry, '{"file": "c.jpg", "caption": "z"}'), JSON)
    assert bad.problem is not None
    assert bad.problem.message == 'Row 1: "file" is there more than once: keep one.'
    assert good == Row(2, "c.jpg", ("z",))


def conversation(name: str, *answers: str) -> dict[str, object]:
    asked = {"from": "human", "value": "What is this?\n<image>"}
    turns = [turn for answer in answers for turn in (asked, {"from": "gpt", "value": answer})]
    return {"id": name, "image": f"{name}.jpg", "conversations": turns}


@pytest.mark.parametrize("lines", [False, True])
def test_the_single_answer_of_a_conversation_is_the_caption(lines: bool) -> None:
    values = [conversation("a", "A dog."), conversation("b", "Red", "Two"), conversation("c", "A cat.")]
    found = rows("\n".join(map(json.dumps, values)) if lines else json.dumps(values), JSON)
    assert [found[0], found[2]] == [Row(1, "a.jpg", ("A dog.",)), Row(3, "c.jpg", ("A cat.",))]
    assert found[1].problem is not None
    assert found[1].problem.reason is Reason.TEXT
    assert found[1].problem.message == (
        "Row 2 is a conversation with 2 answers, as LLaVA is trained with, and no caption."
    )
    assert pairs(json.dumps({"data": values[:1]}), JSON) == [("a.jpg", ("A dog.",))]


def test_a_document_of_nothing_but_long_conversations_is_refused_as_such() -> None:
    values = [conversation(name, "Red", "Two") for name in "abc"]
    with pytest.raises(MediaRejected, match=r"no list of captions\. Row 1 is a conversation with 2 answers"):
        rows(json.dumps(values), JSON)


def test_a_text_of_escapes_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    examined = count_examined(monkeypatch)
    escapes = "\\" * 250_000
    (part,) = documents.parts(io.StringIO(json.dumps([escapes])))
    assert part.value == escapes
    assert max(examined) < documents._BUFFER + 2 * documents._LONGEST_ESCAPE
    assert sum(examined) < 2.1 * len(escapes)


def test_an_id_may_be_a_number_or_a_text() -> None:
    document = COCO | {"images": [{"id": "9", "file_name": "a.jpg"}, {"id": 25, "file_name": "b.jpg"}]}
    assert pairs(json.dumps(document), JSON) == [("a.jpg", ("one", "two")), ("b.jpg", ("other",))]


@pytest.mark.parametrize(
    ("data", "row", "named"),
    [
        (
            b'[{"file": "a.png", "text": "x"}, {"file": "b.png", "text": "y\xff"}, {"file": "c.png", "text": "z"}]',
            2,
            "b.png",
        ),
        (
            b'[{"file": "a.png", "text": "x"}, {"file": "b\xe9.png", "text": "y"}, {"file": "c.png", "text": "z"}]',
            2,
            "b\ufffd.png",
        ),
        (b'{"a.png": "x", "b.png": "y\xc3", "c.png": "z"}', 2, "b.png"),
        (
            b'{"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}, '
            b'{"id": 3, "file_name": "c.png"}], '
            b'"info": {"description": "\xfc"}, "annotations": [{"image_id": 1, "caption": "x"}, '
            b'{"image_id": 2, "caption": "\xfcber"}, {"image_id": 3, "caption": "z"}]}',
            2,
            "b.png",
        ),
        (
            b'{"file": "a.png", "text": "x"}\n{"file": "b.png", "text": "\xff"}\n{"file": "c.png", "text": "z"}\n',
            2,
            "b.png",
        ),
        (
            b'{"file": "a.png", "text": "x"}\n{"file": "b.png", \xff"text": "y"}\n{"file": "c.png", "text": "z"}\n',
            2,
            "",
        ),
    ],
    ids=["list", "name", "names", "coco", "lines", "broken line"],
)
def test_bytes_that_are_no_text_lose_their_own_entry_only(data: bytes, row: int, named: str) -> None:
    made = rows(data, JSON)
    assert [(each.file, each.captions) for each in made if each.problem is None] == [
        ("a.png", ("x",)),
        ("c.png", ("z",)),
    ]
    (broken,) = [each for each in made if each.problem]
    assert broken.problem is not None
    assert (broken.number, broken.problem.reason) == (row, Reason.UNREADABLE)
    begin = f"Row {row}, {named!r}," if named else f"Row {row}"
    assert broken.problem.error.message == (
        f"{begin} has bytes that are not UTF-8 or no text: correct it, and save the file as UTF-8."
    )


def test_bytes_that_are_no_text_between_texts_are_not_valid() -> None:
    with pytest.raises(MediaRejected, match="The JSON is not valid"):
        rows(b'[{"file": "a.png", \xff "text": "x"}]', JSON)


@given(data=st.binary(max_size=40), at=st.integers(0, 200), lines=st.booleans())
def test_whatever_bytes_are_put_into_a_document_no_row_has_one_that_is_no_text(
    data: bytes, at: int, lines: bool
) -> None:
    entries = [json.dumps({"file": f"{number}.png", "text": "a dog"}) for number in range(4)]
    text = ("\n".join(entries) if lines else f"[{','.join(entries)}]").encode()
    try:
        made = rows(text[:at] + data + text[at:], JSON)
    except (MediaRejected, TooLarge):
        return
    for row in made:
        assert row.problem or not BROKEN.search("".join((row.file, *row.captions)))


@pytest.mark.parametrize("form", ["[%s, %s]", "%s\n%s\n"], ids=["list", "lines"])
@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("\uffff", "\uffff"),
        (r"\uffff", "\uffff"),
        ("\uffff0 \uffff2", "\uffff0 \uffff2"),
        (r"\ud83d\ude00", "\U0001f600"),
        (r"\uD83D\uDE00", "\U0001f600"),
        (r"\\ud83d", r"\ud83d"),
        (r"\\\\uffff", r"\\uffff"),
        (r"x\ud83dy", "x\ud800y"),
        (r"\ude00\ud83d", "\ud800\ud800"),
        (r"\ud83d\ud83d\ude00", "\ud800\U0001f600"),
        (r"\ud83d\\ude00", "\ud800\\ude00"),
    ],
)
def test_a_document_has_the_characters_that_its_lines_would_have(form: str, written: str, text: str) -> None:
    line = f'{{"file": "a.png", "text": "{written}"}}'
    first, second = rows(form % (line, line), JSON)
    assert first.problem is second.problem is None
    halves = re.compile("[\ud800-\udfff]")
    assert {halves.sub("\ud800", each.captions[0]) for each in (first, second)} == {text}


@pytest.mark.parametrize("before", range(24))
def test_a_pair_that_two_parts_of_a_document_share_is_one_character(before: int) -> None:
    pair, half = r"\ud83d\ude00", r"\ud83d"
    start = '[{"file": "a.png", "text": "'
    fill = "x" * ((1 << 14) - len(start) - before)
    made = rows(f'{start}{fill}{pair}{half}"}}]', JSON)
    assert made[0].captions == (f"{fill}\U0001f600\ud800",)


def test_a_value_that_is_no_caption_of_a_picture_loses_its_own_row() -> None:
    document = {"a.png": "ok", "b.png": None, "c.png": {"x": 1}, "d.png": 5, "version": 2, "e.png": "too"}
    found = rows(json.dumps(document), JSON)
    assert [row.file for row in found if row.problem is None] == ["a.png", "e.png"]
    refused = [row.problem.error.message for row in found if row.problem is not None]
    assert [name for name in document if any(repr(name) in message for message in refused)] == [
        "b.png",
        "c.png",
        "d.png",
    ]
