"""``retllm download``: the items of a collection as a ZIP, which an upload reads again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from uuid import UUID

import click

from retllm.cli import show
from retllm.cli.client import connect, json_option
from retllm.cli.patience import PATIENCE, Patience, PatientApi
from retllm.media.streams import size


@click.command()
@click.argument("collection")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--where", help="Items to download, such as 'rating >= 4 and not tags = \"private\"'; default: all.")
@click.option(
    "--item", "items", type=click.UUID, multiple=True, metavar="ID", help="An item to download; repeat for more."
)
@json_option
def download(collection: str, file: Path, where: str | None, items: tuple[UUID, ...], as_json: bool) -> None:
    """Download the items of COLLECTION (or id) into the new ZIP FILE: all, some by their ids, or those that match.

    It has the originals, and their captions and facts in items.csv; `retllm upload` of it gives the same items.
    """
    if where is not None and items:
        raise click.UsageError("--item names the items itself: leave out --where.")
    if file.exists():
        raise click.UsageError(f"{file} exists already: choose another name, or remove it.")
    if not file.absolute().parent.is_dir():
        raise click.UsageError(f"There is no folder {file.absolute().parent}: create it, or choose another one.")
    api = connect()
    path = f"/collections/{api.collection(collection)['id']}/items/download"
    body = {"items": list(map(str, items))} if items else {"filter": where or ""}
    patient = PatientApi(api.http, Patience(PATIENCE, show.say), home=api.home)
    # complete as soon as it has its name
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("xb") as target:
            written = sum(map(target.write, patient.download(path, body=body)))
        part.rename(file)
    except FileExistsError as error:
        raise click.UsageError(f"{part} exists: another download writes it, or one was killed. Remove it.") from error
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    if as_json:
        show.as_json({"file": str(file), "bytes": written})
    else:
        click.echo(f"Wrote {file} ({size(written)}).")
