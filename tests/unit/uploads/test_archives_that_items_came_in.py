"""The archive of an item is the one that it came in, whatever gave its caption."""

from __future__ import annotations

import sqlalchemy as sa
from tests.unit.uploads.conftest import Uploads, packed, picture
from tests.unit.uploads.test_rows_of_pages_that_may_come import document, sheet

from retllm.db.jobs import Job
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.media.came_in import archives_of
from retllm.media.ingest import delete_item


def archives(uploads: Uploads) -> dict[str, str | None]:
    with uploads.world.sessions() as session:
        items = session.scalars(sa.select(Item).order_by(Item.id)).all()
        found = archives_of(session, [item.id for item in items])
        return {item.name: found.get(item.id) for item in items}


def test_an_archive_that_only_captioned_an_item_is_not_the_one_that_it_came_in(uploads: Uploads) -> None:
    loose = {"1.png": picture(1), "2.png": picture(2), "s.tif": document("s.tif", 0)}
    inside = {"3.png": picture(3), "t.tif": document("t.tif", 200), "words.txt": b"some words"}
    uploads.upload(loose, index=False)
    said = {"s.csv": sheet("1.png", "s.tif", "t.tif, page 1"), "2.txt": b"of the text"}
    uploads.upload({"z.zip": packed(inside | said)}, index=False)
    wanted = {
        **dict.fromkeys(("1.png", "2.png", *(f"s.tif, page {number}" for number in (1, 2, 3)))),
        **dict.fromkeys(("3.png", *(f"t.tif, page {number}" for number in (1, 2, 3)), "words.txt"), "z.zip"),
    }
    assert archives(uploads) == wanted
    with transaction(uploads.world.sessions) as session:
        item = session.scalars(sa.select(Item).filter_by(name="1.png")).one()
        delete_item(session, uploads.context.storage, item)
    assert archives(uploads) == wanted, "old results still name it"


def test_nothing_is_known_of_a_picture_whose_upload_was_deleted(uploads: Uploads) -> None:
    job_id = uploads.upload({"1.png": picture(1)}, index=False)
    uploads.upload({"z.zip": packed({"s.csv": sheet("1.png")})}, index=False)
    with transaction(uploads.world.sessions) as session:
        session.execute(sa.delete(Job).where(Job.id == job_id))
    assert archives(uploads) == {"1.png": None}
