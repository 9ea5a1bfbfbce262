"""SVG charts: drawn without scripts, in the colours of the page's theme, each with a table of its values.

A page with charts links or includes ``STYLE``, which uses Bootstrap's colour variables (``--bs-body-color``) and
follows the page's colour scheme. The charts have no style attributes.
"""

from __future__ import annotations

from pathlib import Path

from retllm.charts.chart import Chart, Mark, Rule, Series
from retllm.charts.drawing import bars, lines, stacked

__all__ = ["STYLE", "Chart", "Mark", "Rule", "Series", "bars", "lines", "stacked"]

STYLE = Path(__file__).parent / "static" / "charts.css"
