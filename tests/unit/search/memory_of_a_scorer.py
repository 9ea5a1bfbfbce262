"""A process that scores units like a worker, and prints by how much its memory grew at most, in bytes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from PIL import Image
from tests.unit.indexing.memory_of_a_worker import measure
from tests.unit.stand_ins import FakeScorer

from retllm.fine import Content, Picture
from retllm.fine.content import PreparedPicture
from retllm.queue.worker import WorkerContext, run_units
from retllm.search.fine_worker import FineUnits

SIDE = 1024
PREPARED_BYTES = 4 * SIDE * SIDE


class Scorer(FakeScorer):
    """Sees pictures of about a megapixel, and keeps none of a call."""

    least_pixels = 640 * 640
    pairs_at_once = 32
    info = replace(FakeScorer.info, device="cuda:0")

    def __init__(self) -> None:
        super().__init__(lambda _: (0.5, 0.1))

    def prepares(self, picture: Picture) -> bool:
        return True

    def prepare(self, picture: Picture) -> PreparedPicture:  # type: ignore[override]
        image = picture.rgb().resize((SIDE, SIDE))
        assert image.mode == "RGB", "of four bytes in memory"
        return PreparedPicture(image, None, PREPARED_BYTES)

    def score_pairs(self, pairs: Sequence[tuple[Content, Content]], *arguments: Any, **ways: Any) -> list[Any]:
        for _, candidate in pairs:
            assert candidate.picture is not None
            image: Image.Image = (candidate.picture.prepared() or self.prepare(candidate.picture)).image  # type: ignore[assignment]
            assert image.getpixel((SIDE - 1, SIDE - 1))
            # other threads go on while the model computes
            image.resize((SIDE // 2, SIDE // 2), Image.Resampling.LANCZOS)
        return super().score_pairs(pairs, *arguments, **ways)


def main(settings_file: str, unit_id: str) -> None:
    """Do the unit, and all that follow, with the settings in the file."""
    scorer = Scorer()
    units = FineUnits(lambda: scorer, lambda: False)

    def work(context: WorkerContext) -> bool:
        return run_units(context, UUID(unit_id), units, items=scorer.pairs_at_once, following=units.following)

    measure(settings_file, work)


if __name__ == "__main__":
    main(*sys.argv[1:])
