"""``retllm upload``: pictures, texts, captions, archives and whole folders."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
from rich.progress import Progress

from retllm.cli import left_uploads, show
from retllm.cli.client import Api, Json, RequestRejected, connect, is_id, json_option
from retllm.cli.entry import INTERRUPTED
from retllm.cli.folders import Found, walk
from retllm.cli.patience import NOT_ALL, PATIENCE, GaveUp, Patience, PatientApi
from retllm.cli.sending import Sender
from retllm.db.enums import FileStatus, JobState
from retllm.db.state_words import FILE_STATUSES, PROBLEMS, outcome_counts
from retllm.errors import Conflict, InvalidInput, NotFound, RetllmError
from retllm.media.outcomes import FileOutcome

# outcomes of one kind that are printed; --json has all of them
_PRINTED = 100
# outcomes that a message names if there is nothing to send
_REASONS = 3
TAKEN = (FileStatus.ADDED, FileStatus.UPDATED, FileStatus.DUPLICATE)
"""Outcomes of what is in the collection afterwards."""
_SHOWN = (*TAKEN, "ignored", *PROBLEMS, "read")
_AGAIN = "Run the same command again to send the rest."
_STOPPED = "Not sent: the upload was stopped; run the command again to send the rest."


@dataclass(frozen=True)
class Uploaded:
    """The outcome of each file, also of those not sent, and the jobs: several if an upload was closed meanwhile."""

    outcomes: list[Json]
    jobs: list[Json]


@dataclass(frozen=True)
class Files:
    """The files to send, and the outcomes of those that are not sent."""

    found: list[Found]
    unsent: list[FileOutcome]


class Interrupted(RetllmError):
    """The upload was stopped."""

    code = "interrupted"


class Unfinished(RetllmError):
    """An upload ended before all files were sent, for the reason in ``cause``."""

    exit_status = NOT_ALL

    def __init__(self, cause: RetllmError, message: str | None = None) -> None:
        super().__init__(message or cause.message, **cause.detail)
        self._cause = cause

    def as_json(self) -> Json:
        """Return the error as the server sent it, with the message of this one."""
        error = self._cause.as_json()["error"]
        return {"error": {**error, "message": self.message}}


@click.command()
@click.argument("collection")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--create/--no-create", default=True, help="Create the collection if it does not exist.")
@click.option("--index/--no-index", default=True, help="Index the new items and wait for it.")
@click.option("--texts", is_flag=True, help="Add the rows of a sheet that name no picture as texts.")
@click.option(
    "--patience",
    type=click.FloatRange(min=0),
    default=PATIENCE,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a server that is away.",
)
@json_option
@click.pass_context
def upload(
    ctx: click.Context,
    collection: str,
    paths: Sequence[Path],
    create: bool,
    index: bool,
    texts: bool,
    patience: float,
    as_json: bool,
) -> None:
    """Upload PATHS (files, ZIP and tar archives, whole folders) into COLLECTION (a name or an id).

    Pictures, texts and captions are told by their content; captions go to the pictures that they name. Linked folders
    are followed. Rejected files are listed with the reason; all others are added. Hidden files and those that programs
    put into folders, such as @eaDir and Thumbs.db, are ignored.

    If the network is lost, the command waits and goes on. Run it again after it was stopped: it sends only what the
    server does not have. What arrived stays and is indexed. The exit status is 1 if a file was rejected or not sent, or
    the job did not succeed or was cancelled, 2 if nothing could be begun, and 130 after Ctrl-C.
    """
    api = connect()
    try:
        with _stoppable("Stopped: nothing was sent."):
            files = find_files(paths)
            target = find_or_make(api, collection, create=create)
        done = upload_files(api, target["id"], files, index=index, texts=texts, patience=patience, quiet=as_json)
    except Interrupted as stopped:
        show.say(stopped.message)
        if as_json:
            show.as_json(stopped.as_json())
        ctx.exit(INTERRUPTED)
    refused = any(outcome["status"] in PROBLEMS for outcome in done.outcomes)
    if as_json:
        answer = {"collection": target["id"], "files": done.outcomes, "job": done.jobs[-1], "jobs": done.jobs}
        show.as_json(answer | {"notice": target.get("notice")})
    else:
        show.notice(target)
        _print_outcomes(done, target["name"])
    ctx.exit(1 if refused or any(job["state"] != "succeeded" for job in done.jobs) else 0)


def find_or_make(api: Api, name: str, *, create: bool) -> Json:
    """Return the collection with that name or id; with ``create``, create it if it does not exist.

    Raises:
        NotFound: it does not exist, and ``create`` is false or the name is an id.
    """
    try:
        return api.collection(name)
    except NotFound:
        if not create or is_id(name):
            raise
    try:
        made = api.call("POST", "/collections", json={"name": name})
    except RequestRejected as error:
        if error.body["error"].get("code") != Conflict.code:
            raise
        return api.collection(name)  # another command has made it meanwhile
    show.say(
        f"Created the collection {name}. Texts and captions are searched as {made['language']}; "
        "`retllm collections change NAME --language LANGUAGE` changes that."
    )
    return made


def upload_files(
    api: Api,
    collection_id: str,
    files: Files,
    *,
    quiet: bool,
    index: bool = True,
    texts: bool = False,
    patience: float = PATIENCE,
) -> Uploaded:
    """Upload files as one job, and wait for it; return what became of each file.

    Raises:
        GaveUp: the server was away for longer than ``patience`` seconds.
        Interrupted: the user stopped it; what arrived stays.
        Unfinished: the job was cancelled before all files were sent, or the server took no more.
    """
    patient = PatientApi(api.http, Patience(patience, show.say), home=api.home)
    refused = sum(outcome.count for outcome in files.unsent if outcome.status == "rejected")
    asked = {"index": index, "texts": texts, "files": len(files.found) + refused}
    rows: dict[tuple[str | None, str], list[Json]] = {}
    jobs: list[Json] = []
    with show.progress(quiet=quiet) as bar:
        with _stoppable("Stopped: nothing was sent."):
            for left in left_uploads.close_left(patient):
                show.say(f"Closed upload {left}, which an earlier command left open. What arrived is not sent again.")
        whole = False
        while not whole:
            key = {"Idempotency-Key": str(uuid.uuid4())}
            before = f"what arrived is in job {jobs[-1]['id']}; {_AGAIN}" if jobs else "nothing was sent."
            with _stoppable(f"Stopped: {before}"):
                opened = patient.call("POST", f"/collections/{collection_id}/uploads", json=asked, headers=key)["id"]
            if not quiet:
                show.say(f"Upload {opened}: {api.page(f'/jobs/{opened}')}")
            with left_uploads.noted(patient, opened):
                whole = _send(patient, opened, files, bar)
            sent = "All files arrived" if whole else f"Stopped: job {opened} was closed before all files arrived"
            with _stoppable(f"{sent}; it goes on. Watch it with `retllm jobs watch {opened}`."):
                jobs.append(_follow(patient, opened, bar))
                _merge(rows, patient.pages(f"/uploads/{opened}/files", "files", status=_SHOWN))
    for job in jobs if not quiet else ():
        show.errors(job)
        if job["state"] == JobState.CANCELLED:
            show.say(f"Job {job['id']} was cancelled; `retllm jobs retry {job['id']}` goes on with it.")
    return Uploaded([row for some in rows.values() for row in some], jobs)


@contextmanager
def _stoppable(text: str) -> Iterator[None]:
    """Say what there is to know if the user stops the command here."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(text) from error


def find_files(paths: Sequence[Path]) -> Files:
    """Return what to upload of files and folders.

    Raises:
        InvalidInput: there is nothing.
    """
    found: list[Found] = []
    unsent: list[FileOutcome] = []
    for entry in walk(paths):
        if isinstance(entry, Found):
            found.append(entry)
        else:
            unsent.append(entry)
    # captions first: what they say of the pictures that arrive counts, even if the upload breaks off
    found.sort(key=lambda file: not file.describes)
    if not found:
        raise _nothing(unsent)
    return Files(found, unsent)


def _nothing(unsent: Sequence[FileOutcome]) -> InvalidInput:
    """Return the error for paths without anything to send, with the reasons."""
    reasons = [f"{one.name}: {one.remark if one.error is None else one.error.message}" for one in unsent]
    more = f" And {len(reasons) - _REASONS:,} more." if len(reasons) > _REASONS else ""
    told = " ".join(reasons[:_REASONS]) + more
    return InvalidInput(f"There is nothing to upload. {told}", files=[one.model_dump(mode="json") for one in unsent])


def _merge(rows: dict[tuple[str | None, str], list[Json]], found: Iterable[Json]) -> None:
    """Add the outcomes of an upload that goes on after others.

    It finds much of what came with them, which counts as it did then; what they refused counts anew.
    """
    new: dict[tuple[str | None, str], list[Json]] = {}
    for row in found:
        new.setdefault((row["within"], row["name"]), []).append(row)
    for place, some in new.items():
        if all(row["status"] in PROBLEMS for row in rows.get(place, [])):
            rows[place] = some


def _send(api: PatientApi, upload_id: str, files: Files, bar: Progress) -> bool:
    """Send files to an upload and close it; return false if it was closed before, as an idle one is.

    Raises:
        Unfinished: it was cancelled, or the server takes no more files.
    """
    task = bar.add_task("uploading", total=None)
    sender = Sender(api, upload_id, partial(show.sent, bar, task), unsent=list(files.unsent))
    with _closing(sender, len(files.found)):
        try:
            sender.send(files.found)
            api.call("POST", f"/uploads/{upload_id}/close")
        except RequestRejected as error:
            if error.detail.get("job_id") != upload_id:
                raise
            if not error.detail.get("cancelled"):
                return False
            here = sender.leave("Not sent: the upload was cancelled; run the command again to send the rest.")
            cancelled = error
        else:
            return True
    raise Unfinished(
        cancelled,
        f"Job {upload_id} was cancelled: {here or sender.arrived:,} of {len(files.found):,} files had arrived. "
        f"`retllm jobs files {upload_id}` lists what became of each, and `retllm jobs retry {upload_id}` goes on with "
        f"those that arrived. {_AGAIN}",
    )


@contextmanager
def _closing(sender: Sender, total: int) -> Iterator[None]:
    """If not all files are sent, close the upload with the outcomes of the others, and say what arrived."""
    try:
        yield
    except GaveUp as error:
        here = f"At least {sender.arrived:,} of {total:,} files arrived; they stay and are indexed."
        if not sender.arrived:
            here = f"It confirmed none of {total:,} files."
        missing = [file.name for file in sender.left]
        _print_missing(missing)
        raise GaveUp(f"{error.message} {here} {_AGAIN}", not_sent=missing) from error
    except KeyboardInterrupt as error:
        show.say("Stopping: the server is told what was not sent. Press Ctrl-C again to leave at once.")
        with _stoppable(f"Left at once; job {sender.upload_id} lists later what did not arrive. {_AGAIN}"):
            here = _left(sender, total)
        raise Interrupted(here) from error
    except RetllmError as error:
        sender.leave(f"Not sent: {error.message}")
        raise Unfinished(error) from error


def _print_missing(names: Sequence[str]) -> None:
    """Print the files that are not known to have arrived, when the server can't be told of them."""
    for name in names[:_PRINTED]:
        show.say(f"  {name}: not sent, or its arrival was not confirmed")
    if len(names) > _PRINTED:
        show.say(f"  and {len(names) - _PRINTED:,} more; --json lists all.")


def _left(sender: Sender, total: int) -> str:
    """Leave an upload that is stopped; return what arrived."""
    job = sender.upload_id
    arrived = sender.leave(_STOPPED)
    if arrived is None:
        here = f"at least {sender.arrived:,} of {total:,} files arrived. The" if sender.arrived else "the"
        return f"Stopped: {here} server did not answer in time; it lists the others in job {job} later. {_AGAIN}"
    if not arrived:
        return f"Stopped: no file arrived whole, as job {job} lists. {_AGAIN}"
    here = f"Stopped: {arrived:,} of {total:,} files arrived; they stay, and job {job} goes on with them."
    return here if arrived == total else f"{here} {_AGAIN}"


def _follow(api: PatientApi, upload_id: str, bar: Progress) -> Json:
    return show.watch(api, upload_id, bar, bar.add_task("reading files", total=None))


def _print_outcomes(done: Uploaded, name: str) -> None:
    outcomes = done.outcomes
    # what several uploads have together is not counted apart
    parts = done.jobs[0]["files"]["parts"] if len(done.jobs) == 1 else {}
    counts: Counter[FileStatus] = Counter()
    for outcome in outcomes:
        counts[outcome["status"]] += outcome["count"]
    summary = outcome_counts(counts, parts, (*TAKEN, FileStatus.IGNORED)) or "nothing new"
    problems = outcome_counts(counts, parts, PROBLEMS)
    told = filter(None, [summary, None if counts[FileStatus.REJECTED] else "0 rejected", problems])
    click.echo(f"{name}: {', '.join(told)}.")
    remarked = [outcome for outcome in outcomes if outcome["remark"] and outcome["status"] != "ignored"]
    for status in PROBLEMS:
        _print_some(FILE_STATUSES[status], [outcome for outcome in outcomes if outcome["status"] == status])
    _print_some("with a remark", [outcome for outcome in remarked if outcome["status"] not in PROBLEMS])
    _print_some("ignored", [outcome for outcome in outcomes if outcome["status"] == "ignored"])


def _print_some(what: str, outcomes: Sequence[Json]) -> None:
    for outcome in outcomes[:_PRINTED]:
        reason = outcome["remark"] if outcome["error"] is None else outcome["error"]["message"]
        click.echo(f"  {show.place(outcome)}: {reason}", err=True)
    if len(outcomes) > _PRINTED:
        more = sum(outcome["count"] for outcome in outcomes[_PRINTED:])
        click.echo(f"  and {more:,} more {what}; --json lists all.", err=True)
