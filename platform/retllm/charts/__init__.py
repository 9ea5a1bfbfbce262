"""Charts as SVG from numbers: drawn without a script, coloured by the page's theme, with the numbers as a table below.

A page that shows one links or holds ``STYLE``, which takes its colours from Bootstrap's variables (``--bs-body-color``)
and follows the page's colour scheme. Nothing here uses a style attribute.
"""

from __future__ import annotations

from pathlib import Path

from retllm.charts.chart import Chart, Mark, Rule, Series
from retllm.charts.drawing import bars, lines, stacked

__all__ = ["STYLE", "Chart", "Mark", "Rule", "Series", "bars", "lines", "stacked"]

STYLE = Path(__file__).parent / "static" / "charts.css"
