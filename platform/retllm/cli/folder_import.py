"""``retllm import``: what is new or changed in a folder of this machine or in a bucket, read where it lies."""

from __future__ import annotations

import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import click
import sqlalchemy as sa
from rich.progress import Progress

from retllm.cli import left_uploads, show
from retllm.cli.client import Json, RequestRejected, connect, json_option
from retllm.cli.database import database
from retllm.cli.entry import INTERRUPTED
from retllm.cli.patience import PATIENCE, Patience, PatientApi
from retllm.cli.sending import Sent
from retllm.cli.upload import TAKEN, Unfinished, find_or_make
from retllm.db.enums import FileStatus, JobState
from retllm.db.session import Sessions, run_transaction
from retllm.db.state_words import PROBLEMS, outcome_counts
from retllm.errors import Conflict, NotFound, RetllmError
from retllm.settings import Settings

if TYPE_CHECKING:
    from retllm.imports.found import Importable
    from retllm.imports.scanning import Scan
    from retllm.imports.sending import Import
    from retllm.queue.routing import Notification

_PRINTED = 100
_DELETED_AT_ONCE = 500
_CLOSING_SECONDS = 5.0
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_STOPPED = "Stopped: what arrived stays. Run the same command again for the rest."
_NOT_SENT = "Not sent: the import was stopped; run the command again for the rest."


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds of a time such as 90s, 10m, 2h or 1d."""
        found = re.fullmatch(r"(\d+)([smhd])", str(value))
        if found is None or not int(found[1]):
            self.fail(f"{value!r} is no time: write 90s, 10m, 2h or 1d.", param, ctx)
        return float(int(found[1]) * _UNITS[found[2]])


@click.command("import")
@click.argument("folder")
@click.option("--to", "collection", required=True, help="The collection: its name or id.")
@click.option("--create/--no-create", default=True, help="Create the collection if it does not exist.")
@click.option("--index/--no-index", default=True, help="Index the new items and wait for it.")
@click.option("--texts", is_flag=True, help="Add the rows of a sheet that name no picture as texts.")
@click.option(
    "--remove-missing", is_flag=True, help="Delete the items of files that are gone, and of earlier contents of others."
)
@click.option("--reference", is_flag=True, help="Leave originals where they lie, and keep no copy of them.")
@click.option("--retry-rejected", is_flag=True, help="Also take files that were rejected before and have not changed.")
@click.option("--every", type=_Duration(), metavar="TIME", help="Stay, and import again after this time, such as 10m.")
@json_option
@click.pass_context
def import_folder(
    ctx: click.Context,
    /,
    folder: str,
    collection: str,
    create: bool,
    every: float | None,
    as_json: bool,
    **options: bool,
) -> None:
    """Import FOLDER, which lies on a machine of the platform, with everything in it; or s3://BUCKET/PREFIX/.

    RETLLM_IMPORT_ROOTS names the folders and prefixes that may be imported. A job takes the files as `retllm upload`
    does, but they are read where they lie; links are not followed. Run it again for what is new or changed since. The
    command needs the server, and database and storage of the platform, as workers do.

    The exit status is 1 if a file was rejected or not sent, or a job did not succeed or was cancelled, 2 if nothing
    could be begun, and 130 after Ctrl-C.
    """
    from retllm.imports.allowing import allowed
    from retllm.job_kinds import register_handlers
    from retllm.private import keep_private

    register_handlers()
    settings = Settings()
    keep_private(settings)
    with allowed(folder, settings.import_roots) as opened, database(settings) as sessions:
        api = connect()
        patient = PatientApi(api.http, Patience(PATIENCE, show.say), home=api.home)
        target = find_or_make(patient, collection, create=create)
        command = _Command(patient, target, opened, settings, sessions, quiet=as_json, **options)
        try:
            status = command.run()
            while every is not None:
                time.sleep(every)
                with _said():
                    status = command.run()
        except KeyboardInterrupt:
            show.say(_STOPPED)
            status = INTERRUPTED
    ctx.exit(status)


@contextmanager
def _said() -> Iterator[None]:
    """Say an error of one run of several: the next one may succeed."""
    try:
        yield
    except RetllmError as error:
        show.say(f"retllm: {error.message}")
    except (sa.exc.OperationalError, OSError) as error:
        # a database or a drive that is away
        show.say(f"retllm: {str(error.__cause__ or error).strip().splitlines()[0]}")


@dataclass
class _Done:
    """What one run did: what it found first, its jobs, and how many items it deleted."""

    found: Scan
    jobs: list[Json] = field(default_factory=list)
    removed: int = 0

    @property
    def counts(self) -> Counter[FileStatus]:
        counts: Counter[FileStatus] = Counter()
        for job in self.jobs:
            counts.update({FileStatus(status): count for status, count in job["files"]["counts"].items()})
            if job is not self.jobs[-1]:
                # the next one took the rest
                del counts[FileStatus.NOT_SENT]
        return counts

    @property
    def status(self) -> int:
        failed = any(job["state"] != JobState.SUCCEEDED for job in self.jobs)
        return int(failed or any(self.counts[problem] for problem in PROBLEMS))


@dataclass
class _Command:
    """Imports one folder into one collection, once or several times."""

    api: PatientApi
    collection: Json
    folder: Importable
    settings: Settings
    sessions: Sessions
    quiet: bool
    index: bool
    texts: bool
    remove_missing: bool
    reference: bool
    retry_rejected: bool

    def run(self) -> int:
        """Import what is new or changed, and print what became of it; return the exit status."""
        from retllm.imports.scanning import alone

        with alone(self.sessions, self._collection_id, self.folder), show.progress(quiet=self.quiet) as bar:
            done = self._import(bar)
        self._print(done)
        return done.status

    @property
    def _collection_id(self) -> uuid.UUID:
        return uuid.UUID(self.collection["id"])

    def _scan(self) -> Scan:
        from retllm.imports.scanning import scan

        rejected, self.retry_rejected = self.retry_rejected, False
        return scan(self.sessions, self._collection_id, self.folder, rejected=rejected)

    def _import(self, bar: Progress) -> _Done:
        for left in left_uploads.close_left(self.api):
            show.say(f"Closed upload {left}, which an earlier command left open.")
        found = self._scan()
        done, whole = _Done(found), False
        while found.has_news and not whole:
            whole = self._job(done, found, bar)
            if not whole:
                # the server closed the upload, as it does with an idle one
                found = self._scan()
        if self.remove_missing and all(job["state"] != JobState.CANCELLED for job in done.jobs):
            done.removed = self._remove(found)
        return done

    def _job(self, done: _Done, found: Scan, bar: Progress) -> bool:
        """Take what was found by a job and wait for it; return false if it was closed before all files had come."""
        asked = {"index": self.index, "texts": self.texts, "files": found.new + found.changed + found.rejected}
        key = {"Idempotency-Key": str(uuid.uuid4())}
        opened = self.api.call("POST", f"/collections/{self.collection['id']}/uploads", json=asked, headers=key)["id"]
        if not self.quiet:
            show.say(f"Upload {opened}: {self.api.page(f'/jobs/{opened}')}")
        with left_uploads.noted(self.api, opened):
            whole = self._send(opened, found, bar)
        done.jobs.append(show.watch(self.api, opened, bar, bar.add_task("reading files", total=None)))
        return whole

    def _send(self, job_id: str, found: Scan, bar: Progress) -> bool:
        from retllm.imports.sending import Import
        from retllm.media.storage import get_storage

        storage = get_storage(self.settings)
        sending = Import(self.sessions, storage, self.settings, self.folder, found, self.reference)
        try:
            self._give(sending, uuid.UUID(job_id), bar)
            self.api.call("POST", f"/uploads/{job_id}/close")
        except KeyboardInterrupt:
            self._leave(job_id, _NOT_SENT)
            raise
        except Conflict as error:
            if not error.detail.get("cancelled"):
                return False
            raise Unfinished(error) from error
        except RetllmError as error:
            self._leave(job_id, f"Not sent: {error.message}")
            raise Unfinished(error) from error
        return True

    def _give(self, sending: Import, job_id: uuid.UUID, bar: Progress) -> None:
        found = sending.found
        task = bar.add_task("importing", total=None)
        sent = Sent(of_files=found.new + found.changed, of_bytes=found.size)

        def progress(files: int, size: int) -> None:
            sent.files += files
            sent.bytes += size
            show.sent(bar, task, sent)

        show.sent(bar, task, sent)
        sending.announce(job_id)
        sending.send(job_id, notifier(self.settings), progress)

    def _leave(self, job_id: str, reason: str) -> None:
        # the server closes what is left open after a while
        with suppress(RetllmError):
            self.api.once("POST", f"/uploads/{job_id}/close", json={"reason": reason}, timeout=_CLOSING_SECONDS)

    def _remove(self, found: Scan) -> int:
        """Delete the items whose files are gone or have another content; return how many."""
        from retllm.imports.missing import forget_missing, missing_items

        removed, after = 0, None
        while True:
            with self.sessions() as session:
                items = missing_items(session, self._collection_id, found, after=after, limit=_DELETED_AT_ONCE)
            if not items:
                break
            for item in items:
                self._delete(item)
            removed, after = removed + len(items), items[-1]
        run_transaction(self.sessions, partial(forget_missing, found=found))
        return removed

    def _delete(self, item: uuid.UUID) -> None:
        try:
            self.api.call("DELETE", f"/items/{item}")
        except RequestRejected as error:
            # deleted meanwhile, perhaps by a request whose answer was lost
            if error.body["error"].get("code") != NotFound.code:
                raise

    def _print(self, done: _Done) -> None:
        found = done.found
        if self.quiet:
            told = {"files": found.files, "new": found.new, "changed": found.changed, "gone": found.gone}
            answer = {"collection": self.collection["id"], "found": told, "counts": done.counts, "jobs": done.jobs}
            show.as_json(answer | {"removed": done.removed, "left_out": list(self._left_out(done.jobs))})
            return
        parts = done.jobs[0]["files"]["parts"] if len(done.jobs) == 1 else {}
        summary = outcome_counts(done.counts, parts, (*TAKEN, FileStatus.IGNORED)) or "nothing new"
        problems = outcome_counts(done.counts, parts, PROBLEMS)
        click.echo(f"{self.collection['name']}: {', '.join(filter(None, [summary, problems]))}.")
        for sentence in _sentences(done, self.remove_missing):
            click.echo(sentence)
        for job in done.jobs:
            show.errors(job)
        for file in self._left_out(done.jobs):
            click.echo(f"  {show.outcome(file)}", err=True)

    def _left_out(self, jobs: Sequence[Json]) -> Iterator[Json]:
        """Yield the first files that were not taken."""
        statuses = (*PROBLEMS, FileStatus.IGNORED)
        for job in jobs:
            yield from islice(self.api.pages(f"/uploads/{job['id']}/files", "files", status=statuses), _PRINTED)


def _sentences(done: _Done, remove_missing: bool) -> Iterator[str]:
    found = done.found
    if found.changed:
        yield f"Changed: {_files(found.changed)}."
    if found.gone:
        advice = "" if remove_missing else " What came of them stays; --remove-missing deletes it."
        yield f"Gone: {_files(found.gone)}.{advice}"
    if done.removed:
        yield f"Deleted: {done.removed:,} {'item' if done.removed == 1 else 'items'}."


def _files(count: int) -> str:
    return f"{count:,} {'file' if count == 1 else 'files'}"


def notifier(settings: Settings) -> Callable[[Sequence[Notification]], object]:
    """Return what notifies workers of units; without the address of Redis the dispatcher does it soon."""
    if settings.redis_url is None:
        return lambda _: None
    from retllm.queue.notifications import Notifier
    from retllm.queue.routing import routing_of

    return Notifier(settings.redis_url, routing_of(settings)).notify
