"""Numbers of any size in JSON: what is not needed loses nothing, and what is needed loses its row only."""

from __future__ import annotations

import io
import json
import math
from contextlib import suppress

import pytest
from tests.unit.media.sheets.reading import JSON, count_examined, pairs, rows

from retllm.errors import MediaRejected
from retllm.media.sheets import documents
from retllm.media.sheets.rows import Reason, Row
from retllm.settings import Settings


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 14])
def test_numbers_that_json_has_not_are_left_out(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said = r'NaN is "NaN", -Infinity \ Infinity \"' + "\\" * 3
    values = [{"file": "a.png", "caption": said, "score": float("nan"), "NaN": [float("inf"), -float("inf")]}]
    monkeypatch.setattr(documents, "_BUFFER", size)
    read = [part.value for part in documents.parts(io.StringIO(json.dumps(values)))]
    assert read == [{"file": "a.png", "caption": said, "score": None, "NaN": [None, None]}]


HUGE = "9" * 5000
TOO_LARGE = ["1e999", "-1e400", f"{'1' * 400}.5", HUGE, f"-{HUGE}"]


@pytest.mark.parametrize("number", [*TOO_LARGE, "12345678901234567890", "1E-999", f"{HUGE}e-4999"])
@pytest.mark.parametrize("form", ["[%s, %s]", "%s\n%s\n", '{"data": [%s, %s]}'], ids=["list", "lines", "object"])
def test_a_number_of_any_size_that_is_not_needed_loses_nothing(form: str, number: str) -> None:
    entries = [f'{{"file": "{name}.png", "score": [{number}, -{number.lstrip("-")}], "text": "x"}}' for name in "ab"]
    assert pairs(form % tuple(entries), JSON) == [("a.png", ("x",)), ("b.png", ("x",))]


@pytest.mark.parametrize("number", TOO_LARGE)
@pytest.mark.parametrize("form", ["[%s, %s]", "%s\n%s\n"], ids=["list", "lines"])
def test_a_number_in_the_place_of_a_name_or_a_caption_loses_its_row_only(form: str, number: str) -> None:
    for entry, field in (
        (f'{{"file": "a.png", "text": {number}}}', "text"),
        (f'{{"file": {number}, "text": "x"}}', "file"),
    ):
        bad, good = rows(form % (entry, '{"file": "b.png", "text": "y"}'), JSON)
        assert bad.problem is not None
        assert bad.problem.message == f'Row 1: "{field}" has to be a text.'
        assert good == Row(2, "b.png", ("y",))


@pytest.mark.parametrize("number", [*TOO_LARGE, "NaN", "null", "1.5"])
def test_an_annotation_whose_id_is_none_is_refused_alone(number: str) -> None:
    good, bad = rows(
        f'{{"images": [{{"id": {number}, "file_name": "a.png"}}, {{"id": 2, "file_name": "b.png"}}], "annotations": '
        f'[{{"image_id": {number}, "caption": "x"}}, {{"image_id": 2, "caption": "y"}}]}}',
        JSON,
    )
    assert good == Row(1, "b.png", ("y",))
    assert bad.problem is not None
    assert bad.problem.reason is Reason.NO_PICTURE
    assert "image_id is neither a text nor a number for an id" in bad.problem.message


def test_ids_of_more_than_64_bits_are_told_apart() -> None:
    ids = ["123456789012345678901", "123456789012345678902"]
    images = ", ".join(f'{{"id": {key}, "file_name": "{at}.png"}}' for at, key in enumerate(ids))
    notes = ", ".join(f'{{"image_id": {key}, "caption": "c{at}"}}' for at, key in enumerate(ids))
    assert pairs(f'{{"images": [{images}], "annotations": [{notes}]}}', JSON) == [
        ("0.png", ("c0",)),
        ("1.png", ("c1",)),
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000, 1 << 14])
@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e999", math.inf),
        ("12345678901234567890", 12345678901234567890),
        ("-12345678901234567890", -12345678901234567890),
        (HUGE, math.inf),
        (f"0.{'1' * 3000}", 1 / 9),
        ("1.2345678901234567890123e+002", 123.45678901234568),
        ("0.12345678901234567890123", 0.12345678901234568),
        ('"1e999 9999999999999999999999"', "1e999 9999999999999999999999"),
        (f'"{HUGE}"', HUGE),
    ],
    ids=str,
)
def test_numbers_are_the_same_however_a_document_is_cut(
    written: str, value: object, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "_BUFFER", size)
    read = [part.value for part in documents.parts(io.StringIO(f"[1,{written},{written}\n,[{written}]]"))]
    assert read == [1, value, value, [value]]


@pytest.mark.parametrize("invalid", ["1" * 3000 + "a", "1e999x", "1a" * 3000, "--1e999", "01e", "x" * 30_000])
def test_what_only_begins_like_a_number_is_not_valid(invalid: str) -> None:
    with pytest.raises(MediaRejected, match="The JSON is not valid"):
        rows(f'[{{"file": "a.png", "text": "x", "n": {invalid}}}]', JSON)


@pytest.mark.parametrize("word", ["1a", "9"])
def test_an_endless_word_is_read_once(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    examined = count_examined(monkeypatch)
    document = f"[{word * 250_000}"
    with suppress(MediaRejected):
        rows(document, JSON, Settings(max_file_bytes=1 << 30))
    # the whole document twice: for the form of the sheet and for its rows
    assert sum(examined) < 3 * len(document)
    assert max(examined) <= documents._BUFFER + documents._LONGEST_WORD
