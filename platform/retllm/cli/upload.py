"""``retllm upload``: pictures, texts, captions, archives and whole folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click
from rich.progress import Progress

from retllm.cli import show
from retllm.cli.client import Api, Json, connect, json_option
from retllm.errors import NotFound

# limits of one request, so that an interrupted upload loses little
_REQUEST_FILES = 32
_REQUEST_BYTES = 64 << 20
# remarks about files that were taken; all refused files are listed
_REMARKS = 20
# what may say something of pictures is sent after them
_CAPTIONS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xmp", ".caption", ".txt", ".text")


@dataclass(frozen=True)
class _File:
    """A file and its name in the collection."""

    path: Path
    name: str


@click.command()
@click.argument("collection")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--create/--no-create", default=True, help="Create the collection if it does not exist.")
@click.option("--index/--no-index", default=True, help="Index the new items and wait for it.")
@click.option("--texts", is_flag=True, help="Add the rows of sheets that name no picture as texts.")
@json_option
@click.pass_context
def upload(
    ctx: click.Context, collection: str, paths: Sequence[Path], create: bool, index: bool, texts: bool, as_json: bool
) -> None:
    """Upload PATHS (files, ZIP archives, whole folders) into COLLECTION (a name or an id).

    Pictures are JPEG, PNG, WebP, GIF, TIFF or BMP; texts are .txt. Captions are a table (.csv, .tsv) with the columns
    `file` and `caption`, JSON or JSON Lines with such fields, COCO's or Flickr's files, or a file beside each picture:
    a.txt, a.caption, a.json or a.xmp for a.jpg. Rejected files are listed with the reason; all others are added.
    Uploading a folder again adds only new files. The exit status is 1 if a file was rejected or the index job did not
    succeed.
    """
    api = connect()
    target = find_or_make(api, collection, create=create)
    files = list(_files(paths))
    outcomes = send(api, target["id"], files, quiet=as_json, texts=texts)
    job = _index(api, target["id"], quiet=as_json) if index and outcomes else None
    rejected = [outcome for outcome in outcomes if outcome["status"] == "rejected"]
    if as_json:
        show.as_json({"collection": target["id"], "files": outcomes, "job": job, "notice": target.get("notice")})
    else:
        show.notice(target)
        _print_outcomes(outcomes, rejected, target["name"])
    ctx.exit(1 if rejected or (job and job["state"] != "succeeded") else 0)


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


def _files(paths: Sequence[Path]) -> Iterator[_File]:
    """Yield the files to send; caption files come last, after the pictures that they name."""
    found: list[_File] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and not _hidden(file.relative_to(path)))
            found.extend(_File(file, file.relative_to(path).as_posix()) for file in inside)
        else:
            found.append(_File(path, path.name))
    yield from sorted(found, key=lambda file: file.path.suffix.lower() in _CAPTIONS)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _requests(files: Sequence[_File]) -> Iterator[list[_File]]:
    batch: list[_File] = []
    size = 0
    for file in files:
        bytes_ = file.path.stat().st_size
        if batch and (len(batch) >= _REQUEST_FILES or size + bytes_ > _REQUEST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += bytes_
    if batch:
        yield batch


def send_paths(api: Api, collection_id: str, paths: Sequence[Path], *, quiet: bool) -> list[Json]:
    """Upload files and folders; return the outcome of each file."""
    return send(api, collection_id, list(_files(paths)), quiet=quiet)


def send(api: Api, collection_id: str, files: Sequence[_File], *, quiet: bool, texts: bool = False) -> list[Json]:
    """Upload ``files`` in several requests; return the outcome of each. With ``texts``, rows may become texts."""
    outcomes: list[Json] = []
    with Progress(console=show.console(stderr=True), disable=quiet) as bar:
        task = bar.add_task("uploading", total=len(files))
        for batch in _requests(files):
            outcomes.extend(_send_batch(api, collection_id, batch, texts=texts))
            bar.advance(task, len(batch))
    return outcomes


def _send_batch(api: Api, collection_id: str, batch: Sequence[_File], *, texts: bool) -> list[Json]:
    with ExitStack() as opened:
        parts = [("file", (file.name, opened.enter_context(file.path.open("rb")))) for file in batch]
        params = {"index": "false", "texts": str(texts).lower()}
        answer = api.call("POST", f"/collections/{collection_id}/items", params=params, files=parts)
    outcomes: list[Json] = answer["outcomes"]
    return outcomes


def _index(api: Api, collection_id: str, *, quiet: bool) -> Json | None:
    if not api.get(f"/collections/{collection_id}")["items_total"]:
        return None
    job = api.submit(f"/collections/{collection_id}/index")
    return show.follow(api, job["id"], quiet=quiet)


def _print_outcomes(outcomes: Sequence[Json], rejected: Sequence[Json], name: str) -> None:
    counts = {status: sum(o["status"] == status for o in outcomes) for status in ("added", "updated", "duplicate")}
    summary = ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "nothing new"
    click.echo(f"{name}: {summary}, {len(rejected)} rejected.")
    remarked = [outcome for outcome in outcomes if outcome.get("remark")]
    for outcome in remarked[:_REMARKS]:
        click.echo(f"  {outcome['name']}: {outcome['remark']}", err=True)
    if len(remarked) > _REMARKS:
        click.echo(f"  And {len(remarked) - _REMARKS:,} more remarks; --json lists them.", err=True)
    for outcome in rejected:
        click.echo(f"  {outcome['name']}: {outcome['error']['message']}", err=True)
