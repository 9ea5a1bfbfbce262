"""Reports of `retllm eval`, written by its own code: which are accepted and which are rejected."""

from __future__ import annotations

import copy
import json

import pytest
from tests.unit.evaluation.test_report import made, part

from retllm.errors import InvalidInput, TooLarge
from retllm.evaluation.abstention import Abstention
from retllm.evaluation.run import Result
from retllm.evaluation.variants import Variant
from retllm.review import reports
from retllm.review.reports import read_report


@pytest.fixture(scope="module")
def written() -> dict:
    """A report with every feature: parts, groups, abstention, a skipped and a stopped variant."""
    return made(
        "mmeb",
        [
            Result(
                Variant("all", 5),
                "datasets",
                [part("a", 6, 8, group="vqa"), part("b", 5, 5, group="vqa")],
                abstention=Abstention(10, None, 0.9, 0.8, float("nan")),
            ),
            Result(Variant("k 3", 3), "datasets", [part("a", 6, 7), part("b", 5, 6)]),
            Result(Variant("mode choice", 5, mode="choice"), "datasets", [], skipped="It can't choose."),
            Result(Variant("mode verbalized", 5), "t2i", [part("t2i", 5, 5)], stopped="no number"),
        ],
    )


def test_a_report_is_read_with_all_its_figures(written):
    report = read_report(json.dumps(written).encode())
    assert list(report.sections) == ["datasets", "t2i"]
    first, second, skipped = report.sections["datasets"]
    assert (first.coarse.r1, first.fine.r1) == (0.55, 0.65)
    assert first.intervals.fine.r1 == tuple(written["variants"][0]["intervals"]["fine"]["r1"])
    assert (first.parts["a"].fine, first.groups["vqa"].queries) == (0.8, 20)
    # an area that cannot be computed is None
    assert (first.abstention.right, first.abstention.auroc, first.abstention.threshold) == (0.85, None, None)
    assert second.change.r1 == written["variants"][1]["change"]["r1"]
    assert (skipped.skipped, skipped.fine.r1) == ("It can't choose.", None)
    assert report.sections["t2i"][0].stopped == "no number"
    # a stored report reads the same
    assert reports.checked_report(report.model_dump(mode="json")) == report


WRONG = [
    (lambda r: r.pop("benchmark"), "benchmark"),
    (lambda r: r.update(variants=[]), "variants"),
    (lambda r: r["variants"][0]["fine"].update(r1=1.5), "variants.0.fine.r1"),
    (lambda r: r["variants"][0]["fine"].update(r1=None), "variants.0"),
    (lambda r: r["variants"][0].update(k="many"), "variants.0.k"),
    (lambda r: r["variants"][0].update(name="x" * 201), "variants.0.name"),
    (lambda r: r["variants"][0].update(name="a\0b"), "variants.0.name"),
    (lambda r: r.update(seed=10**30), "seed"),
    (lambda r: r["models"].update(scorer=[]), "models.scorer"),
]


@pytest.mark.parametrize(("spoil", "field"), WRONG)
def test_errors_name_the_invalid_field(written, spoil, field):
    report = copy.deepcopy(written)
    spoil(report)
    with pytest.raises(InvalidInput, match="not a report of `retllm eval`") as caught:
        read_report(json.dumps(report).encode())
    assert caught.value.detail["fields"][1]["field"] == field


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1", b"null", b"[]"])
def test_files_that_are_not_reports_are_rejected(raw):
    with pytest.raises(InvalidInput, match="Choose the result"):
        read_report(raw)


def test_the_size_of_a_report_is_limited(monkeypatch):
    monkeypatch.setattr(reports, "MAX_BYTES", 10)
    with pytest.raises(TooLarge):
        read_report(b" " * 11)
