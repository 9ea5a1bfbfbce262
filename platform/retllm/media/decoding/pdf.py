"""The pages of a PDF."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from retllm.media.decoding.facts import Part, Refused, Split, damage

_POINTS_TO_PIXELS = 4.0  # 288 pixels an inch: more shows nothing more of a small page


def pages(file: BinaryIO, asked: Split) -> Iterator[Part]:
    """Yield the pages of a PDF, with its annotations and filled forms.

    Raises:
        Refused: it is encrypted or damaged, has no pages, or pypdfium2 is not installed.
    """
    try:
        import pypdfium2
    except ImportError as error:
        raise Refused("extra", extra="pdf", format="PDF") from error
    try:
        document = pypdfium2.PdfDocument(file)
        document.init_forms()
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == pypdfium2.raw.FPDF_ERR_PASSWORD:
            raise Refused("locked") from error
        raise Refused("damaged", reason=damage(error)) from error
    count = len(document)
    if not count:
        raise Refused("damaged", reason="it has no pages")
    given = min(count, asked.most)
    for number in range(asked.first, given):
        left_out = count - given if number == given - 1 else 0
        try:
            picture = _rendered(document, number, asked.side)
        except (pypdfium2.PdfiumError, ValueError, RuntimeError) as error:
            yield Part(reason=damage(error), page=number + 1, pages=count, left_out=left_out)
            continue
        yield Part(picture, page=number + 1, pages=count, left_out=left_out)


def _rendered(document: Any, number: int, side: int) -> Any:
    page = document[number]
    try:
        longest = max(page.get_size())
        if not longest > 0:
            raise ValueError("the page has no size")
        bitmap = page.render(scale=min(_POINTS_TO_PIXELS, side / longest))
        try:
            return bitmap.to_pil().convert("RGB")
        finally:
            bitmap.close()
    finally:
        page.close()
