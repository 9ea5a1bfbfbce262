"""``retllm upload``: pictures, texts, captions, archives and whole folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import click
from rich.progress import Progress

from retllm.cli import show
from retllm.cli.client import Api, Json, connect, json_option
from retllm.cli.folders import Found, OpenedFile, Unreadable, walk
from retllm.errors import NotFound
from retllm.media.outcomes import FileOutcome, rejected

# limits of one request, so that an interrupted upload loses little
_REQUEST_FILES = 32
_REQUEST_BYTES = 64 << 20
# outcomes of one kind that are printed; --json has all of them
_PRINTED = 100
TAKEN = ("added", "updated", "duplicate")
"""Outcomes of what is in the collection afterwards."""


@click.command()
@click.argument("collection")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--create/--no-create", default=True, help="Create the collection if it does not exist.")
@click.option("--index/--no-index", default=True, help="Index the new items and wait for it.")
@json_option
@click.pass_context
def upload(
    ctx: click.Context, collection: str, paths: Sequence[Path], create: bool, index: bool, as_json: bool
) -> None:
    """Upload PATHS (files, ZIP and tar archives, whole folders) into COLLECTION (a name or an id).

    Pictures are JPEG, PNG, WebP, GIF, TIFF or BMP; texts are .txt; captions are .csv or .jsonl with the fields
    `file` and `caption`. Linked folders are followed. Rejected files are listed with the reason; all others are added.
    Hidden files and those that programs put into folders, such as @eaDir and Thumbs.db, are ignored. Uploading a folder
    again adds only new files. The exit status is 1 if a file was rejected or the index job did not succeed.
    """
    api = connect()
    target = find_or_make(api, collection, create=create)
    outcomes = send_paths(api, target["id"], paths, quiet=as_json)
    sent = any(outcome["status"] in TAKEN for outcome in outcomes)
    job = _index(api, target["id"], quiet=as_json) if index and sent else None
    refused = any(outcome["status"] == "rejected" for outcome in outcomes)
    if as_json:
        show.as_json({"collection": target["id"], "files": outcomes, "job": job, "notice": target.get("notice")})
    else:
        show.notice(target)
        _print_outcomes(outcomes, target["name"])
    ctx.exit(1 if refused or (job and job["state"] != "succeeded") else 0)


def find_or_make(api: Api, name: str, *, create: bool) -> Json:
    """Return the collection with that name or id; with ``create``, create it if it does not exist.

    Raises:
        NotFound: it does not exist, and ``create`` is false.
    """
    try:
        return api.collection(name)
    except NotFound:
        if not create:
            raise
    return api.call("POST", "/collections", json={"name": name})


def _requests(files: Sequence[Found]) -> Iterator[list[Found]]:
    batch: list[Found] = []
    size = 0
    for file in files:
        if batch and (len(batch) >= _REQUEST_FILES or size + file.size > _REQUEST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield batch


def send_paths(api: Api, collection_id: str, paths: Sequence[Path], *, quiet: bool) -> list[Json]:
    """Upload files and folders; return the outcome of each file, also of those that are not sent."""
    found: list[Found] = []
    others: list[Json] = []
    for entry in walk(paths):
        if isinstance(entry, Found):
            found.append(entry)
        else:
            others.append(entry.model_dump(mode="json"))
    # captions after the pictures that they name
    found.sort(key=lambda file: file.describes)
    return send(api, collection_id, found, quiet=quiet) + others


def send(api: Api, collection_id: str, files: Sequence[Found], *, quiet: bool) -> list[Json]:
    """Upload ``files`` in several requests; return the outcome of each."""
    outcomes: list[Json] = []
    with Progress(console=show.console(stderr=True), disable=quiet) as bar:
        task = bar.add_task("uploading", total=len(files))
        for batch in _requests(files):
            outcomes.extend(_send_batch(api, collection_id, batch))
            bar.advance(task, len(batch))
    return outcomes


def _send_batch(api: Api, collection_id: str, batch: Sequence[Found]) -> list[Json]:
    """Send files in one request; those that can't be read are left out, each with its outcome."""
    unreadable: list[FileOutcome] = []
    sent: list[Json] | None = None
    files = list(batch)
    while sent is None:
        with ExitStack() as stack:
            opened: dict[Found, OpenedFile] = {}
            for file in files:
                try:
                    opened[file] = stack.enter_context(file.open())
                except Unreadable as error:
                    unreadable.append(rejected(file.name, error))
            files = list(opened)
            if not files:
                sent = []
                continue
            parts = [("file", (file.name, stream)) for file, stream in opened.items()]
            try:
                path = f"/collections/{collection_id}/items"
                sent = api.call("POST", path, params={"index": "false"}, files=parts)["outcomes"]
            except Unreadable as error:
                (wrong,) = (file for file, stream in opened.items() if stream.problem is error)
                unreadable.append(rejected(wrong.name, error))
                files.remove(wrong)
    return sent + [outcome.model_dump(mode="json") for outcome in unreadable]


def _index(api: Api, collection_id: str, *, quiet: bool) -> Json | None:
    if not api.get(f"/collections/{collection_id}")["items_total"]:
        return None
    job = api.submit(f"/collections/{collection_id}/index")
    return show.follow(api, job["id"], quiet=quiet)


def _print_outcomes(outcomes: Sequence[Json], name: str) -> None:
    counts = Counter(outcome["status"] for outcome in outcomes)
    summary = ", ".join(f"{counts[status]} {status}" for status in (*TAKEN, "ignored") if counts[status])
    click.echo(f"{name}: {summary or 'nothing new'}, {counts['rejected']} rejected.")
    for status in ("rejected", "ignored"):
        shown = [outcome for outcome in outcomes if outcome["status"] == status]
        for outcome in shown[:_PRINTED]:
            reason = outcome["remark"] if outcome["error"] is None else outcome["error"]["message"]
            click.echo(f"  {outcome['name']}: {reason}", err=True)
        if len(shown) > _PRINTED:
            click.echo(f"  and {len(shown) - _PRINTED:,} more {status}; --json lists all.", err=True)
