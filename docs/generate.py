"""The pages that MkDocs makes from the code: settings, REST API and command line. Nothing of them is committed.

MkDocs loads this file as a hook (``hooks`` in mkdocs.yml); the tests read the same functions.
"""

from __future__ import annotations

import inspect
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from retllm.cli.main import cli
from retllm.settings import Settings, settings_table
from retllm_web.app import create_app

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
Json = dict[str, Any]

_REFERENCE = "#/components/schemas/"
_METHODS = ("get", "post", "put", "patch", "delete")
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_UNNAMED = "other"
_MADE_OF = {
    "platform/retllm/settings.py": "reference/settings.md",
    "web/retllm_web/api": "reference/api.md",
    "platform/retllm/cli": "reference/cli.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages by what they are made of, relative to the repository."""
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)((?:#[^)\s]*)?)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, and the two documents that stand at the top of the repository."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to files of the repository lead to the pages that are made of them.

    So a link works for readers of the repository and of the pages.
    """
    folder = (DOCS / page.file.src_uri).parent

    def to_page(link: re.Match[str]) -> str:
        made = _MADE_OF.get(os.path.relpath(folder / link[1], ROOT))
        return link[0] if made is None else f"]({os.path.relpath(DOCS / made, folder)}{link[2]})"

    return _LINK.sub(to_page, markdown)


def pages() -> dict[str, str]:
    """Each generated page by its path below docs/."""
    return {
        "reference/settings.md": settings_page(),
        "reference/api.md": api_page(api_document()),
        "reference/cli.md": cli_page(),
        "security.md": (ROOT / "SECURITY.md").read_text("utf-8"),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text("utf-8"),
    }


def settings_page() -> str:
    """Every setting with its default and its help text."""
    return (
        "# Settings\n\n"
        "Settings are environment variables. A process reads them once, when it starts, and refuses to start with a "
        "value that is not valid. `python -m retllm.settings` prints this table.\n\n"
        f"{settings_table()}\n"
    )


def api_document() -> Json:
    """The OpenAPI document of the app, which connects to nothing until it is asked."""
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(
            home=Path(home),
            database_url="postgresql+psycopg://localhost/none",
            redis_url="redis://localhost/0",
            secret_key=secrets.token_hex(32),
        )
        document: Json = create_app(settings).api_doc
    return document


def api_page(document: Json) -> str:
    """Every operation by its group, then every schema."""
    groups: dict[str, list[str]] = {}
    for path, operations in sorted(document["paths"].items()):
        for method in _METHODS:
            if method in operations:
                operation = operations[method]
                group = (operation.get("tags") or [_UNNAMED])[0]
                groups.setdefault(group, []).append(_operation(method, path, operation))
    parts = [f"# REST API\n\n{document['info']['description']}\n"]
    parts.append("The server describes itself at `/api/v1/openapi.json`.\n")
    parts.append(document["components"]["securitySchemes"]["bearer"]["description"] + "\n")
    parts += [f"## {group.capitalize()}\n\n" + "\n".join(entries) for group, entries in sorted(groups.items())]
    parts.append("## Schemas\n")
    parts += [_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    return "\n".join(parts)


def _operation(method: str, path: str, operation: Json) -> str:
    lines = [f"### `{method.upper()} {path}`\n", f"{operation.get('summary', '')}\n"]
    if operation.get("description"):
        lines.append(f"{operation['description']}\n")
    parameters = [
        (
            f"`{one['name']}`",
            one["in"],
            _type(one["schema"]),
            "yes" if one.get("required") else "",
            one.get("description") or one["schema"].get("description", ""),
        )
        for one in operation.get("parameters", [])
    ]
    if parameters:
        lines.append(_table(("parameter", "in", "type", "required", "meaning"), parameters))
    body = operation.get("requestBody")
    if body:
        kinds = ", ".join(
            f"`{media}`" + (f" ({_type(content['schema'])})" if content.get("schema") else "")
            for media, content in body["content"].items()
        )
        lines.append(f"Body: {kinds}. {body.get('description', '')}\n")
    answers = [
        (status, ", ".join(_type(content.get("schema", {})) or media for media, content in _content(response)))
        for status, response in sorted(operation["responses"].items())
        if status < "400"
    ]
    lines.append(_table(("status", "answer"), answers))
    refusals = ", ".join(status for status in sorted(operation["responses"]) if status >= "400")
    lines.append(f"Errors: {refusals}.\n" if refusals else "")
    return "\n".join(lines)


def _content(response: Json) -> list[tuple[str, Json]]:
    return list(response.get("content", {}).items())


def _schema(name: str, schema: Json) -> str:
    lines = [f"### {name}\n", f"{schema.get('description', '')}\n"]
    if "enum" in schema:
        lines.append("One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + ".\n")
    needed = schema.get("required", [])
    rows = [
        (f"`{field}`", _type(one), "yes" if field in needed else "", one.get("description", ""))
        for field, one in schema.get("properties", {}).items()
    ]
    if rows:
        lines.append(_table(("field", "type", "required", "meaning"), rows))
    return "\n".join(lines)


def _type(schema: Json) -> str:
    """A schema in a few words, with a link to the one that it names."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_REFERENCE)
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[several]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = str(schema.get("type", ""))
    if kind == "array":
        return f"list of {_type(schema.get('items', {})) or 'values'}"
    if "format" in schema:
        kind = f"{kind} ({schema['format']})"
    return ", ".join([kind, *(f"{sign} {schema[bound]:g}" for bound, sign in _BOUNDS.items() if bound in schema)])


def cli_page() -> str:
    """Every command with its arguments and options."""
    root = click.Context(cli, info_name="retllm")
    intro = (
        "# Command line\n\n"
        "Every command has `--help`; those that answer something have `--json`. Exit status: 0 success; 1 partial "
        "success (a file was rejected, a job did not succeed); 2 failure, with one sentence that says what to do.\n\n"
        "`retllm upload`, `search`, `collections` and `jobs` use the REST API, like any other client. They find the "
        "server of `retllm up` by `RETLLM_HOME/client.json`; `RETLLM_URL` and `RETLLM_TOKEN` name another. The other "
        "commands work on the machine of the platform.\n"
    )
    return intro + "\n" + "\n".join(_command(cli, root))


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    if context.parent is not None:
        level = "##" if context.parent.parent is None else "###"
        yield f"{level} `{context.command_path}`\n"
        yield f"{_paragraphs(command.help or '')}\n"
        usage = " ".join(command.collect_usage_pieces(context))
        yield f"```text\n{context.command_path} {usage}\n```\n"
        options = [one for one in command.get_params(context) if isinstance(one, click.Option)]
        records = filter(None, (one.get_help_record(context) for one in options))
        rows = [(f"`{names}`", meaning) for names, meaning in records]
        yield _table(("option", "meaning"), rows)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _command(inner, click.Context(inner, info_name=name, parent=context))


def _paragraphs(text: str) -> str:
    """A help text without the marks that only click reads, and without line breaks within a paragraph."""
    clean = inspect.cleandoc(text).replace("\b", "")
    return "\n\n".join(re.sub(r"\s*\n\s*", " ", one.strip()) for one in clean.split("\n\n"))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines) + "\n"


def _cell(value: str) -> str:
    # within backquotes a bar separates no cells
    parts = " ".join(value.split()).split("`")
    return "`".join(part if number % 2 else part.replace("|", "\\|") for number, part in enumerate(parts))
