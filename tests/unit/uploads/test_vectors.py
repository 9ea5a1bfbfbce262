"""Models work while the files of an upload come: an item is embedded once, and once more after a late caption."""

from __future__ import annotations

import re
from collections import Counter
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from tests.unit.media.sheets.xmp_packets import packet
from tests.unit.media.test_parts import pages
from tests.unit.stand_ins import FakeEmbedder
from tests.unit.uploads.conftest import Uploads, packed, picture

from retllm.db.enums import FileStatus, JobState, Stage, UnitState
from retllm.db.jobs import Job
from retllm.db.many import insert_many
from retllm.db.session import transaction
from retllm.db.tables import Embedding, Item, new_id
from retllm.db.uploads import MAY_DESCRIBE, PICTURED, UploadFile
from retllm.errors import MediaRejected
from retllm.history import control
from retllm.history.job_views import job_view
from retllm.indexing.submit import submit_index
from retllm.media.file_table import SUFFIXES, FileRole
from retllm.media.sniffing import FileKind
from retllm.uploads.vectors import embed_rest, may_get_captions


class Counting(FakeEmbedder):
    """Counts the pictures that it embeds by their colour; those of colours in ``bad`` can't be embedded."""

    def __init__(self) -> None:
        self.seen: Counter[int] = Counter()
        self.bad: set[int] = set()

    def embed_images(self, pictures, *, query: bool = False) -> np.ndarray:
        colours = [one.convert("RGB").getpixel((0, 0))[0] for one in pictures]
        if self.bad & set(colours):
            raise MediaRejected("The model does not like this colour.")
        self.seen.update(colours)
        return super().embed_images(pictures, query=query)


@pytest.fixture
def embedder(uploads: Uploads) -> Counting:
    uploads.embedder = Counting()
    return uploads.embedder


def embedded(uploads: Uploads) -> int:
    """Return the number of vectors that are up to date."""
    query = sa.select(sa.func.count()).select_from(Embedding).join(Item, Item.id == Embedding.item_id)
    with uploads.world.sessions() as session:
        return session.scalar(query.where(Embedding.item_version == Item.version)) or 0


def passes(uploads: Uploads, job_id: UUID) -> list[str | None]:
    return [payload.get("pass") for payload in uploads.payloads(job_id, Stage.EMBED)]


def test_what_arrived_is_embedded_while_the_upload_is_open(uploads: Uploads, embedder: Counting) -> None:
    job_id = uploads.open()
    uploads.send(job_id, {f"{n}.png": picture(n) for n in range(3)})
    uploads.run(job_id)
    assert embedded(uploads) == 3
    assert uploads.world.job(job_id).state is JobState.RUNNING
    uploads.send(job_id, {"3.png": picture(3), "again.png": picture(1)})
    uploads.close(job_id)
    uploads.run(job_id)
    assert embedder.seen == Counter(range(4))
    assert passes(uploads, job_id) == [None] * 3
    assert uploads.world.job(job_id).state is JobState.SUCCEEDED
    uploads.check()


def test_while_captions_may_come_nothing_is_embedded(uploads: Uploads, embedder: Counting) -> None:
    job_id = uploads.open()
    uploads.send(job_id, {"c.csv": b"file,caption\n0.png,red\n", "0.png": picture(0)})
    zipped = uploads.open()
    uploads.send(zipped, {"z.zip": packed({"1.png": picture(1), "1.txt": b"one", "2.png": picture(2)})})
    for one in (job_id, zipped):
        uploads.run(one)
    assert (embedded(uploads), uploads.payloads(job_id, Stage.EMBED)) == (0, [])
    for one in (job_id, zipped):
        uploads.close(one)
        uploads.run(one)
    assert embedder.seen == Counter(range(3))
    assert embedded(uploads) == 3
    uploads.check()


def test_entries_of_an_archive_of_pictures_are_embedded_while_others_wait(
    uploads: Uploads, embedder: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retllm.uploads.archive_files.UNIT_ENTRIES", 2)
    job_id = uploads.open()
    uploads.send(job_id, {"z.zip": packed({f"{n}.JPG": picture(n) for n in range(4)})})
    uploads.do(uploads.ready(job_id)[0])
    uploads.do(uploads.ready(job_id, Stage.MEDIA)[0])
    assert len(uploads.ready(job_id, Stage.EMBED)) == 1
    uploads.close(job_id)
    uploads.run(job_id)
    assert embedder.seen == Counter(range(4))
    uploads.check()


def test_an_item_whose_caption_comes_later_is_embedded_once_more(uploads: Uploads, embedder: Counting) -> None:
    job_id = uploads.open()
    uploads.send(job_id, {f"{n}.png": picture(n) for n in range(3)})
    uploads.run(job_id)
    uploads.send(job_id, {"3.png": picture(3), "c.csv": b"file,caption\n0.png,red\n3.png,blue\n"})
    uploads.close(job_id)
    uploads.run(job_id)
    assert embedder.seen == Counter({0: 2, 1: 1, 2: 1, 3: 1})
    assert embedded(uploads) == 4
    assert passes(uploads, job_id) == [None, None, None, "again"]
    with uploads.world.sessions() as session:
        view = job_view(session, uploads.world.job(job_id))
    (stage,) = (stage for stage in view.stages if stage.stage is Stage.EMBED)
    assert (view.progress, stage.items_total, stage.items_done) == (1.0, 4, 4)
    uploads.check()


def test_captions_do_not_wait_for_the_vectors(uploads: Uploads, embedder: Counting) -> None:
    job_id = uploads.open()
    uploads.send(job_id, {"0.png": picture(0)})
    uploads.run(job_id, Stage.MEDIA)
    uploads.send(job_id, {"c.csv": b"file,caption\n0.png,red\n"})
    uploads.close(job_id)
    assert {unit.stage: unit.payload.get("pass") for unit in uploads.ready(job_id)} == {
        "media": "captions",
        "embed": None,
    }
    uploads.run(job_id, Stage.MEDIA)
    assert uploads.items()["0.png"].text == "red"
    uploads.run(job_id)
    assert embedder.seen == Counter([0])
    assert embedded(uploads) == 1
    uploads.check()


def test_what_can_not_be_embedded_is_not_tried_without_end(uploads: Uploads, embedder: Counting) -> None:
    embedder.bad = {1}
    job_id = uploads.open()
    uploads.send(job_id, {f"{n}.png": picture(n) for n in range(3)})
    uploads.run(job_id)
    uploads.send(job_id, {"c.csv": b"file,caption\n0.png,red\n1.png,blue\n"})
    uploads.close(job_id)
    uploads.run(job_id)
    job = uploads.world.job(job_id)
    assert (job.state, job.error) == (JobState.PARTIAL, "1.png: The model does not like this colour.")
    assert embedder.seen[0] == 2
    embedder.bad = set()
    with transaction(uploads.world.sessions) as session:
        control.retry_job(session, uploads.world.user, job_id)
    uploads.run(job_id)
    assert uploads.world.job(job_id).state is JobState.SUCCEEDED
    assert embedded(uploads) == 3
    assert not [unit for unit in uploads.world.units(job_id) if unit.state is UnitState.DEAD]
    uploads.check()


def test_an_index_job_beside_an_upload_embeds_nothing_twice(uploads: Uploads, embedder: Counting) -> None:
    job_id = uploads.open()
    uploads.send(job_id, {f"{n}.png": picture(n) for n in range(4)})
    uploads.run(job_id, Stage.MEDIA)
    world = uploads.world
    with transaction(world.sessions) as session:
        index_id = submit_index(session, world.user, world.collection_id, world.settings).job.id
    uploads.close(job_id)
    first, second = uploads.ready(job_id), uploads.ready(index_id)
    for one, other in zip(first, second, strict=True):
        uploads.do(one)
        uploads.do(other)
    assert embedder.seen == Counter(range(4))
    assert {world.job(one).state for one in (job_id, index_id)} == {JobState.SUCCEEDED}
    uploads.check()


WHOLE = {"a.tif": pages(3), "b.pdf": pages(2, "PDF")}
"""Files that become 5 items."""
OF_WHOLE = {
    "sheet": {"c.csv": b"file,caption\na.tif,red\nb.pdf,blue\n"},
    "sidecars": {"a.txt": b"red", "b.pdf.xmp": packet(description="blue")},
    "archive": {"z.zip": packed({"c.csv": b"file,caption\na.tif,red\nb.pdf,blue\n"})},
}


@pytest.mark.parametrize("how", OF_WHOLE)
def test_a_caption_of_a_whole_file_lets_every_page_be_embedded_once_more(
    uploads: Uploads, embedder: Counting, how: str
) -> None:
    uploads.upload(WHOLE)
    assert embedded(uploads) == 5
    uploads.upload(OF_WHOLE[how])
    assert Counter(item.text for item in uploads.items().values()) == {"red": 3, "blue": 2}
    assert embedded(uploads) == 5
    uploads.check()


def test_a_sidecar_of_several_pictures_lets_each_be_embedded_once_more(uploads: Uploads, embedder: Counting) -> None:
    uploads.upload({"a.png": picture(0), "a.tif": pages(2)})
    uploads.upload({"a.txt": b"red"})
    assert [item.text for item in uploads.items().values()] == ["red"] * 3
    assert embedded(uploads) == 3
    uploads.check()


@pytest.mark.parametrize("done", [0, 1, 3])
def test_pages_captioned_while_their_vectors_are_made_are_up_to_date_at_the_end(
    uploads: Uploads, embedder: Counting, done: int
) -> None:
    job_id = uploads.open()
    uploads.send(job_id, WHOLE)
    uploads.run(job_id, Stage.MEDIA)
    units = uploads.ready(job_id, Stage.EMBED)
    assert len(units) == 3
    for unit in units[:done]:
        uploads.do(unit)
    uploads.send(job_id, OF_WHOLE["sheet"])
    uploads.close(job_id)
    uploads.run(job_id, Stage.MEDIA)
    uploads.run(job_id)
    assert embedded(uploads) == 5
    assert uploads.world.job(job_id).state is JobState.SUCCEEDED
    uploads.check()


def test_pages_captioned_before_a_cancellation_are_embedded_by_a_retry(uploads: Uploads, embedder: Counting) -> None:
    uploads.upload(WHOLE)
    job_id = uploads.open()
    uploads.send(job_id, OF_WHOLE["sheet"])
    uploads.close(job_id)
    uploads.run(job_id, Stage.MEDIA)
    assert embedded(uploads) == 0
    with transaction(uploads.world.sessions) as session:
        control.cancel_job(session, uploads.world.user, job_id)
    assert uploads.world.job(job_id).state is JobState.CANCELLED
    with transaction(uploads.world.sessions) as session:
        control.retry_job(session, uploads.world.user, job_id)
    uploads.run(job_id)
    assert embedded(uploads) == 5
    uploads.check()


def test_an_item_is_not_compared_with_those_of_all_units(uploads: Uploads) -> None:
    """They may be too many for a hash table in memory, as those of a million pictures are."""
    world, plans = uploads.world, []
    job_id = uploads.open()
    world.add_units(job_id, Stage.EMBED, *({"items": [str(new_id())]} for _ in range(60)))

    def explain(conn, cursor, statement, parameters, context, executemany) -> None:
        if "jsonb_array_elements" in statement and not statement.startswith("EXPLAIN"):
            cursor.execute("EXPLAIN " + statement, parameters)
            plans.append("\n".join(row[0] for row in cursor.fetchall()))

    with world.sessions() as session:
        session.execute(sa.text("ANALYZE units"))
        session.execute(sa.text("SET LOCAL work_mem = '64kB'"))
        sa.event.listen(session.get_bind(), "before_cursor_execute", explain)
        assert embed_rest(session, session.get_one(Job, job_id), world.settings) == []
    assert ["Anti Join" in plan for plan in plans] == [True]


def test_what_may_have_captions_is_found_among_many_pictures_that_wait(uploads: Uploads) -> None:
    job_id, plans = uploads.open(), []

    def add(session: Session, *rows: tuple[str, str | None]) -> None:
        values = [{"id": new_id(), "job_id": job_id, "name": name, "content": content} for name, content in rows]
        session.execute(insert_many(UploadFile, [{**row, "status": FileStatus.WAITING} for row in values]))

    def explain(conn, cursor, statement, parameters, context, executemany) -> None:
        if statement.startswith("SELECT upload_files"):
            cursor.execute("EXPLAIN " + statement, parameters)
            plans.append("\n".join(row[0] for row in cursor.fetchall()))

    with uploads.world.sessions() as session:
        for n in range(0, 3000, 500):
            add(session, *((f"{n}-{m}.jpg", "picture") for m in range(500)))
            add(session, *((f"x/{n}-{m}.JPG", None) for m in range(500)))
        session.execute(sa.text("ANALYZE upload_files"))
        sa.event.listen(session.get_bind(), "before_cursor_execute", explain)
        assert not may_get_captions(session, job_id)
        add(session, ("x/notes", None))
        assert may_get_captions(session, job_id)
    assert ["ix_upload_files_may_describe" in plan for plan in plans] == [True, True]


def test_the_index_of_files_that_may_have_captions_knows_what_pictures_are_called() -> None:
    roles = (FileRole.PICTURE, FileRole.PAGES, FileRole.FILM)
    assert set(re.findall(r"\w+", PICTURED)) == {suffix[1:] for role in roles for suffix in SUFFIXES[role]}
    described = {FileKind(one) for one in re.findall(r"'(\w+)'", MAY_DESCRIBE)[1:4]}
    assert described == {FileKind.PICTURE, FileKind.PDF, FileKind.FILM}
