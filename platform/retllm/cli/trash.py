"""``retllm trash``: list what was deleted, restore it, or delete it for good."""

from __future__ import annotations

from uuid import UUID

import click

from retllm.cli import show
from retllm.cli.client import Api, Json, connect, is_id, json_option
from retllm.errors import NotFound


@click.group()
def trash() -> None:
    """List, restore and delete for good what was deleted."""


@trash.command("list")
@click.argument("collection", required=False)
@json_option
def list_trash(collection: str | None, as_json: bool) -> None:
    """List the deleted items of COLLECTION (a name or id); without it, the deleted collections."""
    api = connect()
    if collection is None:
        rows = list(api.pages("/trash", "collections"))
        if as_json:
            show.as_json({"collections": rows})
            return
        shown = [
            (
                row["name"],
                row["items_total"],
                _moment(row["deleted_at"]),
                row["deleted_by"],
                _moment(row["kept_until"]),
                row["id"],
            )
            for row in rows
        ]
        show.table(("collection", "items", "deleted", "by", "kept until", "id"), shown)
        return
    rows = list(api.pages(f"/collections/{api.collection(collection)['id']}/trash", "items"))
    if as_json:
        show.as_json({"items": rows})
        return
    items = [
        (row["name"], _moment(row["trashed_at"]), row["trashed_by"], _moment(row["kept_until"]), row["id"])
        for row in rows
    ]
    show.table(("item", "deleted", "by", "kept until", "id"), items)


@trash.command()
@click.argument("name")
@click.argument("items", nargs=-1, type=click.UUID)
@click.option("--all", "everything", is_flag=True, help="Restore all deleted items of the collection.")
@json_option
def restore(name: str, items: tuple[UUID, ...], everything: bool, as_json: bool) -> None:
    """Restore the deleted collection NAME (or id); with ITEMS (ids) or --all, deleted items of the collection NAME."""
    if items and everything:
        raise click.UsageError("Name items or specify --all, not both.")
    api = connect()
    if not (items or everything):
        restored = api.call("POST", f"/collections/{_deleted(api, name)['id']}/restore")
        if as_json:
            show.as_json(restored)
        else:
            click.echo(f"Restored {restored['name']}.")
        return
    path = f"/collections/{api.collection(name)['id']}/trash/restore"
    done, skipped, after = list[str](), list[Json](), None
    while True:
        asked = {"all": True, "after": after} if everything else {"items": [str(item) for item in items]}
        answer = api.call("POST", path, json=asked)
        done += answer["done"]
        skipped += answer["skipped"]
        if answer["error"] is not None:
            show.say(answer["error"])
        after = answer["next"]
        if after is None or answer["error"] is not None:
            break
    if as_json:
        show.as_json({"done": done, "skipped": skipped})
        return
    click.echo(f"Restored {_items(len(done))}.")
    for one in skipped:
        show.say(f"  {one['name'] or one['item_id']}: {_REASONS.get(one['reason'], one['reason'])}")


_REASONS = {
    "duplicate": "not restored, the collection has the same content by now",
    "not_found": "not in the trash",
}


@trash.command()
@click.argument("name")
@click.option("--deleted", is_flag=True, help="NAME is a deleted collection: delete it for good.")
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
@json_option
def empty(name: str, deleted: bool, yes: bool, as_json: bool) -> None:
    """Delete all deleted items of the collection NAME (or id) for good."""
    api = connect()
    found = _deleted(api, name) if deleted else api.collection(name)
    what = f"Delete {found['name']} for good" if deleted else f"Empty the trash of {found['name']}"
    if not yes:
        click.confirm(f"{what}? This cannot be undone.", abort=True)
    api.call("DELETE", f"/trash/{found['id']}" if deleted else f"/collections/{found['id']}/trash")
    if as_json:
        show.as_json({"emptied": found["id"]})
    else:
        click.echo(f"Deleted {found['name']} for good." if deleted else f"Emptied the trash of {found['name']}.")


def _deleted(api: Api, name: str) -> Json:
    """Return the deleted collection with that name or id.

    Raises:
        NotFound: there is none.
        UsageError: there are several of that name.
    """
    found = [row for row in api.pages("/trash", "collections") if name in (row["id"], row["name"])]
    if not found:
        what = "with the id" if is_id(name) else "named"
        raise NotFound(f"There is no deleted collection {what} {name}. `retllm trash list` lists them.")
    if len(found) > 1:
        ids = ", ".join(row["id"] for row in found)
        raise click.UsageError(f"Several deleted collections are named {name}. Specify the id of one: {ids}.")
    return found[0]


def _moment(text: str) -> str:
    """Return a time of the API in minutes."""
    return text[:16].replace("T", " ")


def _items(number: int) -> str:
    return "1 item" if number == 1 else f"{number:,} items"
