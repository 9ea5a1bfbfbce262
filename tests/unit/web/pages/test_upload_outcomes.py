"""How the pages show what became of the files of an upload."""

from __future__ import annotations

import pytest
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Visitor
from tests.unit.web.uploads import begin, send

_EXE = b"MZ\x90\0\3\0\0\0"


@pytest.mark.parametrize("where", ["collection", "job"])
def test_the_list_of_accepted_kinds_stands_once_below_the_files(
    reader: Visitor, ada: Caller, texts: str, where: str
) -> None:
    upload = begin(ada, texts)
    send(ada, upload, a_exe=_EXE, b_exe=_EXE)
    first, second = (row["error"]["message"] for row in ada.get(f"/uploads/{upload}/files").json["files"])
    assert first == second
    told, accepted, _ = first.partition(" Accepted: ")
    assert accepted
    page = reader.get(f"/jobs/{upload}" if where == "job" else f"/collections/{texts}")
    assert page.text.count(told) == 2
    assert page.text.count("Accepted: ") == 1


def test_what_a_cancellation_left_is_resumed_and_not_tried_again(reader: Visitor, ada: Caller, texts: str) -> None:
    upload = begin(ada, texts)
    # it waits for the end of the upload
    send(ada, upload, a_txt=b"a robin")
    ada.post(f"/jobs/{upload}/cancel")
    page = reader.get(f"/jobs/{upload}").text
    assert "Retry Continues with the files that arrived." in page
    assert "Retry rejected files" not in page


def test_the_hint_of_the_form_names_all_kinds_of_files(reader: Visitor, texts: str) -> None:
    hint = reader.get(f"/collections/{texts}").one("div", id="file-hint").text
    assert all(kind in hint for kind in ("Pictures", "PDFs", "films", "texts", "ZIP", "tar", "Captions"))
