"""The archives that items came in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind
from retllm.db.many import one_of
from retllm.db.tables import Item
from retllm.db.uploads import UploadFile
from retllm.media.sniffing import FileKind


def archives_of(session: Session, item_ids: Collection[UUID]) -> Mapping[UUID, str]:
    """Return for each of these items the name of the archive that it came in.

    Nothing is known of an item that came in none, or whose upload was deleted.
    """
    if not item_ids:
        return {}
    found = session.execute(_archives().where(one_of(Item.id, item_ids)))
    return {row.id: row.name for row in found}


# its parts take longer to be put together than the database takes to answer
@cache
def _archives() -> sa.Select[UUID, str]:
    # a picture has the key of its file, which may have come loose; of a text, the item names the archive itself; each
    # is looked up by its key, since for a join the planner may read all files
    file, parent, outermost = (sa.orm.aliased(UploadFile) for _ in range(3))
    came_in = (
        sa.select(sa.func.coalesce(outermost.id, parent.id))
        .select_from(file)
        .outerjoin(parent, parent.id == file.parent_id)
        .outerjoin(outermost, outermost.id == parent.parent_id)
        .where(file.id == Item.id)
        .correlate(Item)
        .scalar_subquery()
    )
    of_text = sa.case((Item.kind == ItemKind.TEXT, Item.caption_file_id))
    its_pack = sa.select(UploadFile).where(UploadFile.id == sa.func.coalesce(came_in, of_text)).correlate(Item)
    pack = sa.orm.aliased(UploadFile, its_pack.offset(0).lateral())
    return sa.select(Item.id, pack.name).join(pack, sa.true()).where(pack.content == FileKind.ARCHIVE)
