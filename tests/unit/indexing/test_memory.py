"""The memory of an index worker is bounded by bytes of pixels, not by the number of pictures in a unit."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image
from tests.factories import make_picture, store
from tests.soak import scaled
from tests.unit.indexing import memory_of_a_worker

from retllm.db.session import transaction
from retllm.db.tables import Embedding
from retllm.indexing.submit import submit_index
from retllm.media.storage import get_storage
from retllm.queue.worker import WorkerContext

ROOT = Path(__file__).parents[3]
SIDE = 9000
DECODED_BYTES = 24 << 20


@pytest.mark.parametrize("source", ["copy", "original"])
def test_pictures_of_81_megapixels_do_not_add_up_in_memory(
    context: WorkerContext, world, tmp_path: Path, source: str
) -> None:
    """A worker grows by less than twice RETLLM_DECODED_BYTES; one such picture alone has 10 times as many pixels."""
    count = scaled(4, 64)
    settings = context.settings.model_copy(
        update={"model_pictures": source, "decoded_bytes": DECODED_BYTES, "index_unit_items": count, "decoders": 2}
    )
    file = io.BytesIO()
    Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB").save(file, "JPEG", quality=80)
    file.seek(0)
    get_storage(settings).put("items/aa/large/original", file)
    with transaction(world.sessions) as session:
        for number in range(count):
            large = {"width": SIDE, "height": SIDE, "media_type": "image/jpeg", "name": f"{number}.jpg"}
            store(session, make_picture(world.collection_id, picture_key="items/aa/large/original", **large))
        job = submit_index(session, world.user, world.collection_id, settings).job
    (unit,) = world.units(job.id)
    (tmp_path / "settings.json").write_text(settings.model_dump_json(), "utf-8")
    command = [sys.executable, "-m", memory_of_a_worker.__name__, str(tmp_path / "settings.json"), str(unit.id)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=300)
    grown = int(done.stdout.splitlines()[-1])
    assert grown < 2 * DECODED_BYTES
    with world.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Embedding)) == count
