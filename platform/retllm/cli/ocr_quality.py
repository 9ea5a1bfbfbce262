"""``retllm bench ocr``: how much of the text in pictures is read, and how long it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from retllm.cli import show
from retllm.cli.client import json_option

if TYPE_CHECKING:
    from retllm.bench.ocr import OcrQuality


@click.command()
@click.option(
    "--pictures", type=click.IntRange(1, 1000), default=5, show_default=True, help="For each size of letters."
)
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="CPU threads.")
@json_option
def ocr(pictures: int, threads: int, as_json: bool) -> None:
    """Measure how much of the text in pictures is read, and how long it takes, on drawn words of several sizes."""
    from retllm.bench.ocr import measure_ocr

    result = measure_ocr(pictures, threads)
    if as_json:
        show.as_json(result.as_json())
        return
    show_ocr(result)


def show_ocr(result: OcrQuality) -> None:
    """Print which share of the words is read, and the seconds of a picture, by the longer side of the picture."""
    rows: list[tuple[str, ...]] = [
        (f"letters of {size} pixels", *(f"{share:.0%}" for share in shares.values()))
        for size, shares in result.recall.items()
    ]
    rows.append(("seconds for a picture (median)", *(f"{seconds:.2f}" for seconds in result.seconds.values())))
    show.table(("words that are read, in pictures of", *(f"{side} pixels" for side in result.seconds)), rows)
