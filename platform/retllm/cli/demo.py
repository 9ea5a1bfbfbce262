"""``retllm demo``: uploads and searches a demo collection, then leaves the dashboard open."""

from __future__ import annotations

from pathlib import Path

import click

from retllm.cli import show
from retllm.cli.up import run_stack
from retllm.settings import PRESETS
from retllm.stack.local import LocalStack


@click.command()
@click.option("--once", is_flag=True, help="Stop after the search instead of leaving the dashboard open.")
@click.option("--preset", type=click.Choice(sorted(PRESETS)), help="The pair of models.")
@click.option(
    "--photos",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder with your own pictures instead of the procedural scenes.",
)
@click.option("--query", help="Text to search for.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the dashboard; 0 chooses a free one.")
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="Folder for data and logs.")
def demo(
    once: bool, preset: str | None, photos: Path | None, query: str | None, port: int | None, home: Path | None
) -> None:
    """Start the platform, upload a collection, search it, and compare the coarse order with the final one.

    The last line is one JSON object. Without --once the dashboard stays open until Ctrl-C.
    """
    # with --once nobody opens the dashboard, so any port will do
    options = {"preset": preset, "home": home, "port": 0 if once and port is None else port}

    results: list[dict[str, object]] = []

    def tour(stack: LocalStack) -> None:
        from retllm.cli.client import open_api
        from retllm.cli.tour import run_tour
        from retllm.stack.client_file import read_client

        api = open_api(stack.url, read_client(stack.home)["token"])
        results.append(run_tour(api, photos, query))
        if not once:
            show.say(f"The dashboard is open at {stack.url} until Ctrl-C.")
            show.as_json(results[0])

    run_stack(options, as_json=False, after_start=tour, stay=not once)
    if once and results:
        show.as_json(results[0])
