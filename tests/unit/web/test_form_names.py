"""Names of files in the headers of forms, as browsers and other programs write them."""

from __future__ import annotations

import io

import pytest
from tests.unit.web.conftest import Caller
from tests.unit.web.uploads import begin

PARAMETERS = [
    ("filename=caf\xe9.txt".encode("latin-1"), "café.txt"),
    ("filename=写真.txt".encode("cp932"), "写真.txt"),
    ("filename=猫.txt".encode(), "猫.txt"),
    (b"filename = a robin.txt ", "a robin.txt"),
    (b"filename*=ISO-8859-1''caf%E9.txt", "café.txt"),
    (b"filename*=iso-8859-15'fr'%A4.txt", "€.txt"),
    (b"filename*=Shift_JIS''%8E%CA%90%5E.txt", "写真.txt"),
    (b"filename*=UTF-8''caf%C3%A9%3B.txt", "café;.txt"),
    (b"filename*=UTF-8''caf%E9.txt", "café.txt"),
    (b"filename*=no-such''caf%E9.txt", "café.txt"),
    (b"filename*=UTF-8''two%0D%0Alines.txt", "two lines.txt"),
    (b"filename=\"photo.txt\"; filename*=UTF-8''%E5%86%99%E7%9C%9F.txt", "写真.txt"),
    (b'filename="a;filename=b.txt"', "a;filename=b.txt"),
]
"""How the name of a file may be written in the header of its part, and the name."""


@pytest.fixture
def collection(ada: Caller) -> str:
    """An empty collection of ada's."""
    return str(ada.post("/collections", json={"name": "Forms"}).json["id"])


def name_of(caller: Caller, collection: str, raw: bytes) -> str:
    """Return the name of a text that was sent as a form with these bytes between the quotation marks."""
    return name_in(caller, collection, b'filename="' + raw + b'"')


def name_in(caller: Caller, collection: str, parameter: bytes) -> str:
    """Return the name of a text that was sent as a form with this parameter of the header."""
    body = b'--x\r\nContent-Disposition: form-data; name="file"; ' + parameter + b"\r\n\r\na robin\r\n--x--\r\n"
    answer = caller.post(f"/collections/{collection}/items", data=body, content_type="multipart/form-data; boundary=x")
    assert answer.status_code == 200
    (outcome,) = answer.json["outcomes"]
    return str(outcome["name"])


@pytest.mark.parametrize(
    ("raw", "name"),
    [(b"caf\xe9.txt", "café.txt"), ("写真.txt".encode("cp932"), "写真.txt"), ("猫.txt".encode(), "猫.txt")],
)
def test_a_name_that_is_not_utf_8_is_read(ada: Caller, collection: str, raw: bytes, name: str) -> None:
    assert name_of(ada, collection, raw) == name


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (rb"5%22 disk.txt", '5" disk.txt'),
        (rb"two%0D%0Alines.txt", "two lines.txt"),
        (rb"100%.txt", "100%.txt"),
        (rb"a%20b%2F%0d.txt", "a%20b%2F%0d.txt"),
        # a backslash is one between folders, as everywhere
        (rb"back\slash.txt", "back/slash.txt"),
        (b"end.txt\\", "end.txt"),
        (rb"quoted \%22x\%22.txt", 'quoted/"x/".txt'),
    ],
)
def test_a_name_is_read_as_browsers_write_it(ada: Caller, collection: str, raw: bytes, name: str) -> None:
    """A browser writes `"`, CR and LF as %22, %0D and %0A, and everything else as it is."""
    assert name_of(ada, collection, raw) == name


@pytest.mark.parametrize(
    ("raw", "name"),
    [(rb"5\" disk.txt", '5" disk.txt'), (rb"a\"", 'a"'), (rb"back\\slash.txt", "back/slash.txt")],
)
def test_a_name_is_read_as_other_programs_escape_it(ada: Caller, collection: str, raw: bytes, name: str) -> None:
    assert name_of(ada, collection, raw) == name


@pytest.mark.parametrize(("parameter", "name"), PARAMETERS)
def test_a_name_without_quotation_marks_or_with_an_encoding_is_read(
    ada: Caller, collection: str, parameter: bytes, name: str
) -> None:
    assert name_in(ada, collection, parameter) == name


def test_a_percent_encoded_name_that_is_not_utf_8_is_read(ada: Caller, collection: str) -> None:
    job = begin(ada, collection)
    form = {"file": [(io.BytesIO(b"a robin"), "caf%E9.txt")]}
    ada.post(f"/uploads/{job}/files?quoted=true", data=form, content_type="multipart/form-data")
    (file,) = ada.get(f"/uploads/{job}/files").json["files"]
    assert file["name"] == "café.txt"
