"""The plot of the coarse benchmark has the times of all runs, by the size of the collection."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from retllm_tools.growth import growth


def run_of(size: int, milliseconds: float) -> dict[str, Any]:
    times = {"p50_ms": milliseconds, "p95_ms": 2 * milliseconds}
    return {"size": size, "answers": {"platform": {"all": times}, "tuned": {"all": {**times, "p50_ms": 1.5}}}}


def test_the_plot_is_an_svg_with_every_time_and_names_its_lines() -> None:
    drawn = ElementTree.fromstring(growth([run_of(50_000, 30.0), run_of(5000, 20.5), run_of(500_000, 40.0)]))
    texts = [text for element in drawn.iter() for text in [(element.text or "").strip()] if text]
    points = [text for text in texts if ", platform, median: " in text]
    assert points == [
        "5,000, platform, median: 20.5 ms",
        "50,000, platform, median: 30.0 ms",
        "500,000, platform, median: 40.0 ms",
    ]
    assert "50,000, platform, p95: 60.0 ms" in texts
    assert "500,000, bare SQL with as many candidates, median: 1.5 ms" in texts
    assert {"platform, median", "platform, p95", "bare SQL with as many candidates, median"} <= {*texts}
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
