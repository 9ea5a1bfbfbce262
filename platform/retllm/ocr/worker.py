"""Reading the text in pictures on a worker: do one unit; the texts are written in the transaction that ends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from PIL import Image
from sqlalchemy.orm import Session

from retllm.db.enums import Stage
from retllm.db.jobs import Job, Unit
from retllm.db.many import one_of, update_many
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.errors import RetllmError
from retllm.indexing.indexed import has_content, is_ready
from retllm.media.parallel import InParallel, PixelBudget
from retllm.ocr.reader import PictureText, reader_of, require_installed
from retllm.ocr.submit import PLAN, READ, STEP
from retllm.ocr.views import is_unread
from retllm.queue import lifecycle
from retllm.queue.claim import complete
from retllm.queue.routing import Notification
from retllm.queue.worker import LastStep, LeasedUnit, WorkerContext

# pictures of one unit; each takes about a second
_READ = 16


def ocr_unit(context: WorkerContext, held: LeasedUnit) -> LastStep:
    """Do the unit; return the step that stores its result.

    Raises:
        StaleClaim, JobCancelled: between two pictures; StaleClaim also by the last step.
        ModelUnavailable: what reads text is not installed here.
        MediaRejected, NotFound: no picture of the unit can be read. If some can, the others get units of their own.
        StackError, OSError: storage or decoders can't be used; no picture is at fault.
    """
    return (_plan if held.claim.payload[STEP] == PLAN else _read)(context, held)


def _again(session: Session, held: LeasedUnit) -> tuple[UUID, bool]:
    """Return the collection, and whether pictures are read that have been read before."""
    job = session.get_one(Job, held.claim.job_id)
    return job.one_collection, job.params["again"]


def _plan(context: WorkerContext, held: LeasedUnit) -> LastStep:
    """List the pictures to read."""
    # before there are thousands of units that fail
    require_installed()
    with transaction(context.sessions) as session:
        collection_id, again = _again(session, held)
        of_job = (is_ready(), Item.picture_key.is_not(None)) if again else is_unread()
        query = sa.select(Item.id).where(Item.collection_id == collection_id, *of_job)
        keys = [str(key) for key in session.scalars(query.order_by(Item.collection_id, Item.id))]
    payloads = [{STEP: READ, "items": keys[start : start + _READ]} for start in range(0, len(keys), _READ)]

    def write(session: Session, job: Job) -> list[Notification]:
        return lifecycle.append_units(session, job, Stage.MEDIA, payloads)

    return partial(complete, context.sessions, held.claim, write)


def _read(context: WorkerContext, held: LeasedUnit) -> LastStep:
    """Read the text in the unit's pictures. What is in the trash may be restored, and is read too."""
    with context.sessions() as session:
        _, again = _again(session, held)
        ids = [UUID(item) for item in held.claim.payload["items"]]
        wanted = one_of(Item.id, ids), has_content(), *(() if again else (Item.ocr_text.is_(None),))
        items = session.scalars(sa.select(Item).where(*wanted).order_by(Item.id)).all()
    texts, errors = _read_items(context, held, items)
    held.lease.check()

    def write(session: Session, job: Job) -> list[Notification]:
        store_texts(session, texts)
        # each of them gets its own unit, which fails and can be retried separately
        return lifecycle.set_apart(session, job, session.get_one(Unit, held.claim.unit_id), errors) if errors else []

    return partial(complete, context.sessions, held.claim, write)


def store_texts(session: Session, texts: Mapping[UUID, PictureText]) -> None:
    """Store the texts in pictures with their items, except those that were deleted meanwhile."""
    locked = sa.select(Item.id).where(one_of(Item.id, list(texts)), has_content()).order_by(Item.id)
    rows: list[dict[str, Any]] = [
        {"id": key, "ocr_text": texts[key].text, "ocr_confidence": texts[key].confidence}
        for key in session.scalars(locked.with_for_update(key_share=True))
    ]
    if rows:
        session.execute(update_many(Item, rows).execution_options(synchronize_session=False))


def _read_items(
    context: WorkerContext, held: LeasedUnit, items: Sequence[Item]
) -> tuple[dict[UUID, PictureText], list[str]]:
    """Return the texts in the items' pictures, and the ids of those whose picture can't be decoded.

    Raises:
        RetllmError: no picture can be decoded, or a retry can help.
    """
    reader = reader_of(context.settings)
    texts: dict[UUID, PictureText] = {}
    errors: dict[str, RetllmError] = {}
    # decoded by the sandboxed processes, the next ones while one is read
    pictures = InParallel(
        items,
        context.pictures.open,
        context.pictures.decoded_bytes,
        threads=context.settings.decoders_at_once,
        budget=PixelBudget(context.settings.decoded_bytes),
        ahead=2,
        kept_of=_bytes_of,
    )
    with closing(pictures):
        for item, result in zip(items, pictures, strict=True):
            held.lease.check()
            if result.error is None:
                assert result.value is not None
                texts[item.id] = reader.read(result.value, context.settings.max_text_chars)
            elif not isinstance(result.error, RetllmError) or result.error.retryable:
                raise result.error
            # the files of an item that was deleted meanwhile are gone
            elif not context.pictures.is_gone(item):
                errors[str(item.id)] = result.error
    if errors and not texts:
        raise next(iter(errors.values()))
    return texts, list(errors)


def _bytes_of(picture: Image.Image) -> int:
    return 4 * picture.width * picture.height
