"""The fields of the result, its figures, the figures of the paper, and the page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from tests.unit.evaluation.stages import ColourEmbedder, ColourScorer

from retllm.evaluation import published
from retllm.evaluation.abstention import Abstention
from retllm.evaluation.metrics import AT
from retllm.evaluation.page import write_page
from retllm.evaluation.report import report
from retllm.evaluation.run import Part, Result
from retllm.evaluation.variants import Variant


def hits(right: int, of: int) -> dict:
    return {n: np.array([1.0] * right + [0.0] * (of - right)) for n in AT}


def part(name: str, coarse: int, fine: int, of: int = 10, group: str | None = None) -> Part:
    return Part(name, group, hits(coarse, of), hits(fine, of), 5 * of, 2, 10, 1, 2.5, 0.5)


def made(benchmark: str, results: list[Result]) -> dict:
    return report(benchmark, 7, ColourEmbedder.info, ColourScorer.info, results)


@pytest.fixture
def flickr():
    return made(
        "flickr30k",
        [
            Result(Variant("all", 5), "t2i", [part("t2i", 6, 8)], abstention=Abstention(10, 1.5, 0.9, 0.8, 0.95)),
            Result(Variant("neither", 5), "t2i", [part("t2i", 6, 7)]),
            Result(Variant("mode choice", 5, mode="choice"), "t2i", [], skipped="It can't <choose>."),
            Result(Variant("all", 5), "i2t", [part("i2t", 5, 9)]),
            Result(Variant("mode verbalized", 5), "i2t", [part("i2t", 5, 5)], stopped="no number"),
        ],
    )


def test_the_result_has_the_required_fields(flickr):
    assert list(flickr) == ["benchmark", "seed", "models", "variants"]
    for variant in flickr["variants"]:
        assert {"name", "k", "queries", "coarse", "fine", "pairs_per_query", "seconds"} <= variant.keys()
        assert set(variant["coarse"]) == set(variant["fine"]) == {"r1", "r5", "r10"}
    json.dumps(flickr, allow_nan=False)


def test_figures_are_shares_and_means_over_queries(flickr):
    first, second, skipped, other, stopped = flickr["variants"]
    assert (first["queries"], first["coarse"]["r1"], first["fine"]["r1"]) == (10, 0.6, 0.8)
    assert (first["pairs_per_query"], first["seconds"], first["injected_share"]) == (5.0, 2.5, 0.2)
    assert first["abstention"] == {
        "queries": 10, "threshold": 1.5, "right": 0.85, "matched": 0.9, "refused": 0.8, "auroc": 0.95,
    }  # fmt: skip
    low, high = first["intervals"]["fine"]["r1"]
    assert low < 0.8 < high
    assert first["change"] is other["change"] is None
    assert second["change"]["r1"] == -0.1
    assert (stopped["stopped"], stopped["change"]) == ("no number", None)
    assert skipped["skipped"] == "It can't <choose>."


def test_models_in_folders_are_named_without_their_path(flickr):
    assert flickr["models"]["embedder"] == "local-dir:colours"
    assert flickr["models"]["scorer"] == "colours"


def test_the_result_includes_the_figures_of_the_paper(flickr):
    """Method section 6: 81.8 and 80.2 in the ablation on Flickr30k t2i, 94.5 in the main table for i2t."""
    assert [(variant.get("paper") or {}).get("r1") for variant in flickr["variants"]] == [
        0.818,
        0.802,
        None,
        0.945,
        None,
    ]


def test_figures_of_groups_and_variants_are_means_of_their_parts():
    parts = [
        part("swap_obj", 2, 4, group="swap"),
        part("swap_att", 6, 8, of=20, group="swap"),
        part("add_obj", 9, 10, group="add"),
    ]
    (variant,) = made("sugarcrepe", [Result(Variant("all", 2), "choice", parts)])["variants"]
    assert variant["parts"]["swap_att"] == {"queries": 20, "coarse": 0.3, "fine": 0.4}
    assert variant["groups"]["swap"] == {"queries": 30, "coarse": 0.25, "fine": 0.4, "paper": 0.927}
    assert variant["groups"]["add"]["paper"] == 0.962
    assert variant["fine"]["r1"] == pytest.approx((0.4 + 0.4 + 1.0) / 3, abs=1e-4)


@pytest.mark.parametrize(
    ("benchmark", "section", "variant", "ablated", "wanted"),
    [
        ("flickr30k", "t2i", "all", False, 0.82),
        ("flickr30k", "i2t", "all", True, 0.945),
        ("coco", "t2i", "enhancement only", True, 0.515),
        ("coco", "i2t", "neither", True, 0.669),
        ("urban1k", "t2i", "all", True, 0.786),
        ("sharegpt4v", "i2t", "all", False, 0.976),
        ("mmeb", "datasets", "all", False, 0.542),
        ("flickr30k", "t2i", "k=3", True, None),
        ("scenes", "t2i", "all", True, None),
    ],
)
def test_published_figures_are_those_of_the_paper(benchmark, section, variant, ablated, wanted):
    assert published.of_variant(benchmark, section, variant, ablated=ablated) == wanted


def test_published_figures_include_other_methods():
    assert published.of_methods("urban1k", "i2t") == {
        "CLIP ViT-L": 0.47, "E5-V": 0.889, "UniME": 0.959, "RetLLM": 0.889,
    }  # fmt: skip
    assert published.of_group("sugarcrepe", "swap")["UniME"] == 0.776
    assert published.of_group("mmeb", "vqa") == {"RetLLM": 0.278}


class Reader(HTMLParser):
    """Collects the addresses that a page refers to, its tags and its texts."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_self_contained_and_shows_every_figure(tmp_path, flickr):
    write_page(flickr, tmp_path / "result.html")
    text = (tmp_path / "result.html").read_text(encoding="utf-8")
    page = Reader()
    page.feed(text)
    assert page.addresses == []
    assert not re.search(r"@import|url\(", text)
    assert "script" not in page.tags
    assert page.tags.count("figure") == 2
    words = " ".join(page.words)
    low, high = flickr["variants"][0]["intervals"]["fine"]["r1"]
    assert f"80.00 % ({100 * low:.2f} to {100 * high:.2f})" in words, "the interval of a bar"
    assert {"81.80 %", "80.20 %"} < set(page.words), "the paper's figures of each variant"
    assert {"CLIP ViT-L", "E5-V", "UniME"} < set(page.words), "the methods that the paper compares with"
    assert "mode verbalized was stopped after 10 queries: no number; its figures include only these queries." in words
    for shown in ("80.00", "81.80", "It can't <choose>.", "color-scheme: light dark"):
        assert shown in words or shown in text
    assert "It can't <choose>." not in text


def test_the_page_gives_the_reason_for_a_skipped_section(tmp_path):
    skipped = Result(Variant("mode choice", 5, mode="choice"), "t2i", [], skipped="It can't choose.")
    write_page(made("flickr30k", [skipped]), tmp_path / "result.html")
    text = (tmp_path / "result.html").read_text(encoding="utf-8")
    assert "mode choice was skipped: It can&#x27;t choose." in text
    assert "<figure" not in text
