"""Index jobs share work: an item is embedded once, whoever asks (design: jobs).

An attempt claims the items of its unit for its embedder before it embeds them. A claim holds as long as the lease of
the attempt, so that one of a dead worker is void and the next attempt takes it over. Whoever finds items claimed by
another attempt leaves them out, and comes back to them when that has stored their vectors.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.enums import UnitState
from retllm.db.jobs import Unit
from retllm.db.locks import lock_collections_of_jobs
from retllm.db.tables import Embedding, EmbeddingClaim, EmbeddingModel, Item
from retllm.errors import StaleClaim
from retllm.indexing.indexed import fresh_embedding
from retllm.queue.claim import Claim


@dataclass(frozen=True)
class Share:
    """Which items of a unit its attempt embeds.

    Attributes:
        mine: claimed for this attempt.
        elsewhere: claimed by another attempt whose lease has not run out.
    """

    mine: frozenset[UUID]
    elsewhere: frozenset[UUID]


def claim_items(session: Session, claim: Claim, model_id: UUID, item_ids: Collection[UUID], weight: float) -> Share:
    """Claim the items that have no vector of this model for an attempt, except those that another one has claimed.

    The caller commits before it embeds. ``weight`` is the picture's weight in items of picture and text.

    Raises:
        StaleClaim: the collection was deleted.
    """
    if not lock_collections_of_jobs(session, [claim.job_id]):
        raise StaleClaim
    # one claim at a time: the next statement sees the leases and vectors of all that claimed before
    lock = sa.select(EmbeddingModel.id).where(EmbeddingModel.id == model_id).with_for_update(key_share=True)
    session.execute(lock)
    taken = _take(session, claim.token, model_id, sorted(item_ids))
    # after the claims: what was committed before them is seen, and what comes later is not claimed by us
    fresh = _fresh(session, model_id, taken, weight)
    others = set(item_ids) - taken
    elsewhere = others - _fresh(session, model_id, others, weight)
    release_items(session, claim.token, model_id, fresh)
    return Share(frozenset(taken - fresh), frozenset(elsewhere))


def release_items(session: Session, token: UUID, model_id: UUID, item_ids: Collection[UUID]) -> None:
    """Delete the claims of an attempt, whose items have their vectors now."""
    held = (EmbeddingClaim.model_id == model_id, EmbeddingClaim.item_id.in_(item_ids), EmbeddingClaim.token == token)
    session.execute(sa.delete(EmbeddingClaim).where(*held).execution_options(synchronize_session=False))


def _take(session: Session, token: UUID, model_id: UUID, item_ids: Sequence[UUID]) -> set[UUID]:
    if not item_ids:
        return set()
    holder = sa.select(Unit.id).where(
        Unit.token == EmbeddingClaim.token,
        Unit.state == UnitState.LEASED,
        Unit.lease_until > sa.func.clock_timestamp(),
    )
    # items that are deleted as collections are have no row any more
    rows = (
        sa.select(Item.id, sa.literal(model_id, sa.Uuid), sa.literal(token, sa.Uuid))
        .where(Item.id.in_(item_ids))
        .order_by(Item.id)
    )
    statement = insert(EmbeddingClaim).from_select(["item_id", "model_id", "token"], rows)
    taken = session.scalars(
        statement.on_conflict_do_update(
            index_elements=["item_id", "model_id"],
            set_={"token": statement.excluded.token},
            where=~holder.exists(),
        ).returning(EmbeddingClaim.item_id)
    )
    return set(taken)


def _fresh(session: Session, model_id: UUID, item_ids: Collection[UUID], weight: float) -> set[UUID]:
    """Return the items that have a vector of this model, made from their current version."""
    if not item_ids:
        return set()
    found = sa.select(Item.id).join(Embedding, fresh_embedding(model_id, weight)).where(Item.id.in_(item_ids))
    return set(session.scalars(found))
