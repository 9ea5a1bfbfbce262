"""Many small sheets of one upload are written with as few statements as one large one."""

from __future__ import annotations

import sqlalchemy as sa
from tests.unit.uploads.conftest import Files, Uploads, packed, picture

from retllm.db.enums import FileStatus, Stage


def folders(count: int) -> Files:
    files = {f"d{n}/1.png": picture(n) for n in range(count)}
    return files | {f"d{n}/c.csv": f"file,caption\n1.png,words {n}\n".encode() for n in range(count)}


def statements_of_captions(uploads: Uploads, files: Files) -> int:
    """Run an upload; return how many statements its last unit, that of the captions, sends."""
    job_id = uploads.open(index=False)
    uploads.send(job_id, {"a.zip": packed(files)})
    uploads.close(job_id)
    sent: list[str] = []
    engine = uploads.world.sessions.kw["bind"]

    def note(*args: object) -> None:
        sent.append(str(args[2]))

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        while ready := uploads.ready(job_id, Stage.MEDIA):
            sent.clear()
            assert uploads.do(ready[0])
            count = len(sent)
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
    return count


def test_statements_do_not_grow_with_the_sheets(uploads: Uploads) -> None:
    few = statements_of_captions(uploads, folders(3))
    many = statements_of_captions(uploads, {f"x/{name}": content for name, content in folders(40).items()})
    assert many <= few + 5
    texts = {name: item.text for name, item in uploads.items().items()}
    assert all(texts[f"x/d{n}/1.png"] == f"words {n}" for n in range(3, 40))


def test_sheets_that_say_the_same_of_a_picture_each_have_their_outcome(uploads: Uploads) -> None:
    same = {f"{name}.csv": b"file,caption\n1.png,words\n" for name in "abc"}
    job_id = uploads.upload({"1.png": picture(1), "z.csv": b"file,caption\n1.png,others\n", **same}, index=False)
    statuses = uploads.statuses(job_id)
    assert [statuses[f"{name}.csv, row 2"] for name in "abcz"] == [
        FileStatus.UPDATED,
        FileStatus.DUPLICATE,
        FileStatus.DUPLICATE,
        FileStatus.REJECTED,
    ]
    assert [statuses[name] for name in same] == [FileStatus.READ] * 3
    assert [item.text for item in uploads.items().values()] == ["words"]
