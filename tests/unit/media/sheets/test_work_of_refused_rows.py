"""Rows whose pictures are nowhere cost little: a sheet of another collection may have hundreds of thousands."""

from __future__ import annotations

import pytest
from tests.unit.media.outcomes import Items, reason
from tests.unit.media.samples import picture
from tests.unit.media.test_sheet_rows import add_all, captions

from retllm import errors
from retllm.media.ingest import Ingest
from retllm.media.sheets import lookup
from retllm.media.sheets.refusals import SHOWN


def test_only_shown_refusals_have_an_error_and_only_known_names_are_compared(
    ingest: Ingest, items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages, compared = [], []
    find, redact = lookup.find, errors.redact

    def found(reference, *args):
        compared.append("/".join(reference.parts))
        return find(reference, *args)

    def redacted(message: str) -> str:
        messages.append(message)
        return redact(message)

    monkeypatch.setattr(lookup, "find", found)
    monkeypatch.setattr(errors, "redact", redacted)
    sheet = "file,caption\na.png,A\n" + "".join(f"no{n}.png,B\n" for n in range(500))
    outcomes = add_all(ingest, {"a.png": picture(), "c.csv": sheet.encode()})
    assert captions(items) == {"a.png": "A"}
    refused = [each for each in outcomes if each.status == "rejected"]
    assert sum(each.count for each in refused) == 500
    assert reason(refused[0]) == (
        "Row 3 names the picture 'no0.png', which is not in this collection: upload it or correct the name."
    )
    assert sum("names the picture" in message for message in messages) == SHOWN
    assert compared == ["a.png"]
