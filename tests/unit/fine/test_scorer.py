"""A score depends on its pair and its settings, and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from retllm.fine import Content, Injection, PairScore, Scorer

#: low enough that some samples trigger and others do not
EAGER = Injection(alpha=0.5, tau=0.5, start=0, end=6)


def picture(seed: int, width: int = 24, height: int = 16) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_smoke(scorer: Scorer) -> None:
    q = Content(text="a red square")
    cands = [Content(image=picture(i, 16 + 8 * i, 16)) for i in range(4)]
    print(scorer.info)
    for inj in (Injection(trigger="off"), EAGER, Injection(trigger="fixed", fixed_layer=2)):
        for s in scorer.score(q, cands, inj):
            print(s)
    print(
        scorer.score(
            Content(image=picture(1)), [Content(text="a circle"), Content(text="a small red square is")], EAGER
        )
    )
    print(scorer.score(Content(text="x"), [Content(text="a circle"), Content(text="a small red square is")], EAGER))
    print(
        scorer.score(
            Content(text="x", image=picture(3)),
            [Content(text="a circle", image=picture(4)), Content(text="a small red square is")],
            EAGER,
        )
    )
