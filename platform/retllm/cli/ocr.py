"""``retllm ocr``: reads the text in the pictures of a collection."""

from __future__ import annotations

import click

from retllm.cli import show
from retllm.cli.client import connect, json_option


@click.command()
@click.argument("collection")
@click.option("--again", is_flag=True, help="Read all pictures, and not only those that nobody has read.")
@json_option
@click.pass_context
def ocr(ctx: click.Context, collection: str, again: bool, as_json: bool) -> None:
    """Read the text in the pictures of COLLECTION (name or id), so that searches for words find it.

    Pictures that are added later are read by the next call. The exit status is 1 if some pictures could not be read.
    """
    api = connect()
    key = api.collection(collection)["id"]
    path = f"/collections/{key}/ocr"
    job = show.follow(api, api.submit(f"{path}?again={str(again).lower()}")["id"], quiet=as_json)
    state = api.call("GET", path)
    if as_json:
        show.as_json({"job": job, **state})
    else:
        read = sum(stage["items_done"] for stage in job["stages"])
        more = "" if state["unread_is_exact"] else "more than "
        left = f", {more}{state['unread']:,} not" if state["unread"] else ""
        click.echo(f"{read:,} {'picture was' if read == 1 else 'pictures were'} read{left}; see {api.page(path)}")
    ctx.exit(0 if job["state"] == "succeeded" else 1)
