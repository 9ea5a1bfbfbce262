"""The documentation matches the code: commands, settings, modules, states, and headings named in comments."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace

import click
import pytest
from tests.documents import DOCS, HOW_TO, ROOT, TUTORIAL, Block, blocks, headings

from retllm.cli.main import cli
from retllm.db.enums import AttemptOutcome, JobState, UnitState
from retllm.operations.workers import WorkerStatus
from retllm.settings import Settings
from retllm.stack import commands

PAGES = sorted(DOCS.rglob("*.md"))
WRITTEN = [*PAGES, *(ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md"))]
DESIGN, METHOD = DOCS / "explanation" / "design.md", DOCS / "explanation" / "method.md"

# environment variables that are not settings
_OF_CLIENTS = {"RETLLM_URL", "RETLLM_TOKEN"}

NOT_RUN = [
    ("docs/tutorial.md", "installs the project and starts a platform of its own; CI runs it as a step"),
    ("docs/tutorial.md", "starts the platform, which the test has running already"),
    ("docs/tutorial.md", "downloads models from a hub"),
    ("docs/how-to/deploy.md", "names servers that you have"),
    ("docs/how-to/deploy.md", "names servers that you have"),
    ("docs/how-to/deploy.md", "starts the platform's processes against servers that you have"),
    ("docs/how-to/deploy.md", "names models and a server that you have"),
    ("docs/how-to/deploy.md", "starts a worker"),
    ("docs/how-to/deploy.md", "installs packages and downloads models from a hub"),
    ("docs/how-to/evaluate.md", "five minutes; the run above takes the same way"),
    ("docs/how-to/evaluate.md", "needs the benchmarks' files and a GPU"),
    ("docs/how-to/import.md", "names a bucket that you have"),
    ("docs/how-to/import.md", "the server of this page was started without RETLLM_IMPORT_ROOTS"),
    ("docs/how-to/import.md", "the server of this page was started without RETLLM_IMPORT_ROOTS"),
    ("docs/how-to/profiles.md", "names a model that you have"),
    ("docs/how-to/remote-scorers.md", "needs a GPU, and vLLM is no part of this project"),
    ("docs/how-to/remote-scorers.md", "needs a GPU, and vLLM is no part of this project"),
    ("docs/how-to/remote-scorers.md", "names a server that you have"),
    ("docs/how-to/search.md", "needs a second collection"),
    ("docs/how-to/search.md", "needs a second embedder in RETLLM_EXTRA_EMBEDDERS when the platform starts"),
    ("docs/how-to/upgrade.md", "asks a source of advisories over the network"),
    ("docs/how-to/upgrade.md", "needs pictures of an earlier release"),
    ("docs/how-to/upgrade.md", "needs a collection whose embedder has changed"),
]
"""The blocks of commands that no test runs; they are only parsed here."""


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    """The generated pages by path."""
    return _generator().pages()  # type: ignore[no-any-return]


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _every_block() -> Iterator[Block]:
    for page in WRITTEN:
        yield from blocks(page)


def _names(pattern: str) -> set[str]:
    return {name for page in WRITTEN for name in re.findall(pattern, page.read_text("utf-8"))}


def test_the_blocks_that_are_not_run_are_listed_with_the_reason() -> None:
    skipped = [(block.page, block.not_run) for page in (TUTORIAL, *HOW_TO) for block in blocks(page) if block.not_run]
    assert skipped == NOT_RUN


def test_every_block_of_commands_has_a_known_language() -> None:
    """In the tutorial and the how-to pages a block is run (console, python) or is a file to write (ini)."""
    kinds = {block.language for page in (TUTORIAL, *HOW_TO) for block in blocks(page)}
    assert kinds == {"console", "python", "ini"}
    for page in (TUTORIAL, *HOW_TO):
        assert any(block.commands for block in blocks(page) if block.language == "console"), page


def test_every_retllm_command_exists_with_its_options() -> None:
    lines = [line for line in _command_lines() if "retllm " in line]
    found = [found for line in lines for found in re.findall(r"(?:^|[\s($])retllm ([^|;&>)\n]*)", line)]
    assert len(found) > 40
    for words in found:
        _parse(shlex.split(words, comments=True))


def _command_lines() -> Iterator[str]:
    """The command lines of all blocks, including the indented ones of the README."""
    for block in _every_block():
        if block.language == "console":
            yield from (line for command in block.commands for line in command.text.splitlines())
        elif block.language == "text":
            yield from (line for line in block.text.splitlines())
    yield from (
        line.strip() for line in (ROOT / "README.md").read_text("utf-8").splitlines() if line.startswith("    retllm ")
    )


def _parse(words: list[str]) -> None:
    """Parse the words as click does, without opening files or calling a server."""
    command: click.Command = cli
    context = click.Context(cli, info_name="retllm")
    while isinstance(command, click.Group):
        inner = command.get_command(context, words[0]) if words and not words[0].startswith("-") else None
        if inner is None:
            break
        command, words = inner, words[1:]
        context = click.Context(command, info_name=command.name, parent=context)
    values, rest, _ = command.make_parser(context).parse_args(list(words))
    assert not rest, f"{command.name} takes no {rest}"
    for parameter in command.params:
        value = values.get(parameter.name or "")
        if isinstance(parameter.type, click.Choice | click.types.IntParamType) and value not in (None, (), []):
            for one in value if parameter.multiple else [value]:
                if not str(one).startswith("$") and not str(one).isupper():
                    parameter.type.convert(one, parameter, context)


def test_parsing_refuses_unknown_commands_options_and_arguments() -> None:
    for words in (["upload", "--nothing", "a", "b"], ["nothing"], ["jobs", "--state", "done"], ["doctor", "more"]):
        with pytest.raises((click.ClickException, AssertionError)):
            _parse(words)


def test_every_documented_setting_exists() -> None:
    known = {f"RETLLM_{name.upper()}" for name in Settings.model_fields} | _OF_CLIENTS
    assert _names(r"\bRETLLM_[A-Z_]+\b") - known == set()


def test_the_variables_of_the_command_line_are_where_newcomers_look() -> None:
    for page in (ROOT / "README.md", DOCS / "how-to" / "upload.md"):
        named = set(re.findall(r"\bRETLLM_[A-Z_]+\b", page.read_text("utf-8")))
        assert named >= _OF_CLIENTS, page
    source = " ".join(path.read_text("utf-8") for path in sorted((ROOT / "platform" / "retllm" / "cli").glob("*.py")))
    assert set(re.findall(r'os\.environ\.get\("(RETLLM_[A-Z_]+)"', source)) >= _OF_CLIENTS


def test_every_documented_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    offered = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert _names(r"(?:`|^\$ |^    |^)make ([a-z]+)") - offered == set()


def test_every_documented_module_exists() -> None:
    named = {name.rstrip(".") for name in _names(r"\b(retllm(?:_web|_workers|_tools)?\.[a-z_.]*[a-z])")}
    assert len(named) > 20
    assert {name for name in named if not _exists(name)} == set()


def _exists(name: str) -> bool:
    """Whether a module of that name exists; an ending such as ``.txt`` makes it a file and not a module."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_the_documented_service_runs_the_command_of_the_stack() -> None:
    (unit,) = (block.text for block in blocks(DOCS / "how-to" / "deploy.md") if "[Unit]" in block.text)
    (started,) = re.findall(r"^ExecStart=\S+/python (.+)$", unit, re.MULTILINE)
    # systemd interprets a single %
    assert tuple(shlex.split(started.replace("%%", "%"))) == commands.PROCFILE["score"]


def test_the_readme_is_short_and_its_links_work() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 120
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_links_of_the_pages_work_in_the_repository_and_on_the_site() -> None:
    generator = _generator()
    made = generator.pages()
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text("utf-8")
        links = re.findall(r"\]\((?!\w+:)([^)#\s]+)[^)]*\)", text)
        assert [link for link in links if not (page.parent / link).exists()] == [], page
        opened = SimpleNamespace(file=SimpleNamespace(src_uri=str(page.relative_to(DOCS))))
        shown = generator.on_page_markdown(text, page=opened, config=None, files=None)
        for link in re.findall(r"\]\((?!\w+:)([^)#\s]+)[^)]*\)", shown):
            target = Path(os.path.normpath(page.parent / link))
            assert target.is_relative_to(DOCS), (page, link)
            assert target.exists() or str(target.relative_to(DOCS)) in made, (page, link)


def _sources() -> Iterator[tuple[Path, str]]:
    """Each source file joined to one line, since a reference may span two."""
    for folder in ("platform", "workers", "web", "tools", "migrations"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".html", ".toml"):
                yield path, " ".join(path.read_text("utf-8").replace("\n#", "\n").split())


def _anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def test_every_reference_to_the_design_has_its_heading() -> None:
    there = {_anchor(heading) for heading in headings(DESIGN)}
    named = {name: path for path, text in _sources() for name in re.findall(r"\(design[:,] ([^)]+)\)", text)}
    assert named
    assert {name: str(path) for name, path in named.items() if _anchor(name) not in there} == {}


def test_every_reference_to_the_method_has_its_heading() -> None:
    titles = headings(METHOD)
    sections = {title.partition(".")[0] for title in titles}
    equations = {number for title in titles for number in _numbers(title.partition("eq.")[2])}
    references, formulas = [], []
    for path, text in _sources():
        references += [(path, n) for found in re.findall(_SECTIONS, text) for n in _numbers(found)]
        formulas += [(path, n) for found in re.findall(_EQUATIONS, text) for n in _numbers(found)]
    assert references
    assert formulas
    assert [(str(path), number) for path, number in references if number not in sections] == []
    # equation 7 is the entropy, which the decision uses too
    assert [(str(path), number) for path, number in formulas if number not in equations] == []


_LIST = r"\d+(?:(?:,| and) \d+)*"
_SECTIONS = rf"\b[Mm]ethod,? sec(?:tions?|\.) ({_LIST})"
_EQUATIONS = rf"\beq\. ({_LIST})"


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+", text)


@pytest.mark.parametrize(
    ("heading", "states"),
    [
        ("States of a job", JobState),
        ("States of a unit", UnitState),
        ("States of a worker", WorkerStatus),
        ("Outcomes of an attempt", AttemptOutcome),
    ],
)
def test_the_glossary_lists_every_state(heading: str, states: type[StrEnum]) -> None:
    text = (DOCS / "glossary.md").read_text("utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    listed = {value.strip("`"): name for name, value, _ in rows[2:]}
    assert list(listed) == [state.value for state in states]
    assert all(name == value or value == "partial" for value, name in listed.items())


def test_the_reference_lists_every_setting_with_its_help(generated: dict[str, str]) -> None:
    page = generated["reference/settings.md"]
    for name, field in Settings.model_fields.items():
        assert f"`{'' if name in ('database_url', 'redis_url') else 'RETLLM_'}{name.upper()}`" in page
        assert str(field.description) in page


def test_the_reference_lists_every_operation_and_field_of_the_api(generated: dict[str, str]) -> None:
    document = _generator().api_document()
    page = generated["reference/api.md"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert f"### `{method.upper()} {path}`\n" in page
            assert operation["summary"] in page
    for name, schema in document["components"]["schemas"].items():
        entry = page.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        assert all(f"| `{field}` |" in entry for field in schema.get("properties", {})), name


def test_the_reference_lists_every_command_and_option(generated: dict[str, str]) -> None:
    page = generated["reference/cli.md"]
    seen = 0
    for context, command in _every_command(cli, click.Context(cli, info_name="retllm")):
        assert f"# `{context.command_path}`\n" in page, context.command_path
        entry = page.partition(f"# `{context.command_path}`\n")[2].partition("\n##")[0]
        options = [one for parameter in command.params for one in parameter.opts if one.startswith("-")]
        assert [one for one in options if one not in entry] == []
        seen += 1
    assert seen > 30


def _every_command(group: click.Group, context: click.Context) -> Iterator[tuple[click.Context, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        yield inner, command
        if isinstance(command, click.Group):
            yield from _every_command(command, inner)
