"""The memory of a score worker is bounded by bytes of pixels, not by the number of pictures in its units."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image
from tests.factories import make_picture, store
from tests.unit.search import memory_of_a_scorer
from tests.unit.search.pools import ready_units
from tests.unit.stand_ins import FakeEmbedder, index, search

from retllm.db.searches import Score
from retllm.db.session import transaction
from retllm.media.storage import get_storage
from retllm.queue.worker import WorkerContext, run_unit
from retllm.search.coarse_worker import coarse_unit

ROOT = Path(__file__).parents[3]
SIDE = 1400
COUNT = 48
DECODED_BYTES = 40 << 20


@pytest.mark.parametrize("source", ["copy", "original"])
def test_pictures_that_are_prepared_ahead_do_not_add_up_in_memory(
    context: WorkerContext, world, tmp_path: Path, source: str
) -> None:
    """A worker grows by less than twice RETLLM_DECODED_BYTES; the pictures of a call have 3.2 times as many bytes."""
    assert memory_of_a_scorer.Scorer.pairs_at_once * memory_of_a_scorer.PREPARED_BYTES > 3 * DECODED_BYTES
    settings = context.settings.model_copy(
        update={"model_pictures": source, "decoded_bytes": DECODED_BYTES, "decoders": 2}
    )
    file = io.BytesIO()
    Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB").save(file, "JPEG", quality=60)
    for at in range(COUNT):
        file.seek(0)
        get_storage(settings).put(f"items/aa/{at}/original", file)
    with transaction(world.sessions) as session:
        for at in range(COUNT):
            large = {"width": SIDE, "height": SIDE, "media_type": "image/jpeg", "name": f"{at}.jpg"}
            digest = f"{at:064x}"
            key = f"items/aa/{at}/original"
            store(session, make_picture(world.collection_id, picture_key=key, content_sha256=digest, **large))
    index(context, world)
    key = search(world, text="red", k=COUNT)
    run_unit(context, world.units(key)[0].id, lambda c, held: coarse_unit(c, held, lambda _: FakeEmbedder()))
    (tmp_path / "settings.json").write_text(settings.model_dump_json(), "utf-8")
    unit = ready_units(world, key)[0]
    command = [sys.executable, "-m", memory_of_a_scorer.__name__, str(tmp_path / "settings.json"), str(unit)]
    # freed pixels leave the process at once, so that what is measured is what is held
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, text=True, timeout=300)
    grown = int(done.stdout.splitlines()[-1])
    sys.stdout.write(f"{source}: grown by {grown / DECODED_BYTES:.2f} of the bound\n")
    assert grown < 2 * DECODED_BYTES
    with world.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Score)) == COUNT
