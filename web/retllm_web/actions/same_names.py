"""The archives of items whose names alone do not tell them apart in a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.many import one_of
from retllm.db.tables import Item
from retllm.db.uploads import UploadFile
from retllm.media.sniffing import FileKind


def archives(session: Session, named: Iterable[tuple[UUID, str]]) -> Mapping[UUID, str]:
    """Return for the items of a list that share their name with another the archive that each came in.

    Nothing is known of an item that came in none, or whose upload was deleted.

    Args:
        named: the keys and names of the list.
    """
    listed = list(named)
    times = Counter(name for _, name in listed)
    shared = [key for key, name in listed if times[name] > 1]
    if not shared:
        return {}
    # a picture has the key of its file; of a text, the item names the archive itself
    file, parent, outermost = (sa.orm.aliased(UploadFile) for _ in range(3))
    pack = sa.orm.aliased(UploadFile)
    query = (
        sa.select(Item.id, pack.name)
        .outerjoin(file, file.id == Item.id)
        .outerjoin(parent, parent.id == file.parent_id)
        .outerjoin(outermost, outermost.id == parent.parent_id)
        .join(pack, pack.id == sa.func.coalesce(outermost.id, parent.id, Item.caption_file_id))
        .where(one_of(Item.id, shared), pack.content == FileKind.ARCHIVE)
        .where(sa.or_(file.id.is_not(None), Item.picture_key.is_(None)))
    )
    return {row.id: row.name for row in session.execute(query)}
