"""The language of a collection's full-text search in texts, captions and pictures: a configuration of the server."""

from __future__ import annotations

from typing import cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.locks import lock_collection
from retllm.db.tables import ITEM_WORDS, Collection, Item, has_searched_text, searched_text, words_of
from retllm.errors import Conflict


def languages(session: Session) -> list[str]:
    """Return the languages that the database server knows, in alphabetical order; ``simple`` compares whole words.

    A name with special characters has the quotes that it needs as an identifier.
    """
    names = "SELECT oid::regconfig::text FROM pg_ts_config WHERE pg_ts_config_is_visible(oid) ORDER BY 1"
    return list(session.connection().exec_driver_sql(names).scalars())


def require_known(session: Session, name: str) -> None:
    """Reject a language that the database server does not know.

    Raises:
        Conflict: the message lists those that it knows.
    """
    known = languages(session)
    if name not in known:
        raise Conflict(
            f"The database server has no full-text search in {name!r}. Choose one of: {', '.join(known)}.",
            field="language",
        )


def change_language(session: Session, collection: Collection, name: str) -> None:
    """Change the language of a collection and compute the words of its texts again, in this transaction.

    Changes of the collection's items wait until it ends. Candidates and results of earlier searches stay.

    Raises:
        NotFound: the collection was deleted.
        Conflict: see :func:`require_known`.
    """
    require_known(session, name)
    lock_collection(session, collection.id, alone=True)
    session.refresh(collection, ["language"])
    if collection.language == name:
        return
    collection.language = name
    session.flush()
    items = sa.update(cast(sa.Table, Item.__table__)).values({ITEM_WORDS: words_of(name, searched_text())})
    session.execute(items.where(Item.collection_id == collection.id, has_searched_text()))
