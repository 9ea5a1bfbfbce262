"""The commands of the tutorial and the how-to pages work and print what the pages show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.documents import HOW_TO, TUTORIAL, Command, blocks
from tests.functional.forked import Forks

from retllm.cli.up import Admin
from retllm.demo.world import write_collection
from retllm.stack import LocalStack

# the address of the server in the pages
_SHOWN_URL = "http://127.0.0.1:8080"
_SECONDS = 280
# the largest difference between a number in a page and the one in the output
_TOLERANCE = 0.02
_NUMBER = re.compile(r"-?\d+\.\d+")
_MARK = "@@ "


@dataclass(frozen=True)
class Shell:
    """Runs the commands of pages in one folder with one platform; each page has its own bash process."""

    folder: Path
    environment: dict[str, str]
    url: str

    def run(self, page: Path) -> None:
        """Run the commands of a page: each must print what the page shows and succeed, unless the next shows ``$?``."""
        commands = self._commands(page)
        outputs = self._outputs(commands)
        assert len(outputs) == len(commands), f"{page.name} ended early:\n{outputs[-1:]}"
        for number, (command, (status, output)) in enumerate(zip(commands, outputs, strict=True)):
            shown = f"$ {command.text}\n{output}"
            following = commands[number + 1].text if number + 1 < len(commands) else ""
            assert status == 0 or following == "echo $?", f"{page.name}: status {status}\n{shown}"
            missing = first_missing(command.output, output)
            assert missing is None, f"{page.name}: not in the output: {missing}\n{shown}"

    def _commands(self, page: Path) -> list[Command]:
        found = []
        for block in blocks(page):
            if block.not_run is None and block.language == "console":
                found += block.commands
            elif block.not_run is None and block.language == "python":
                found.append(Command(f"python - <<'END_OF_PYTHON'\n{block.text}\nEND_OF_PYTHON"))
        return found

    def _outputs(self, commands: list[Command]) -> list[tuple[int, str]]:
        lines = ["exec 2>&1", "status=0"]
        for command in commands:
            lines += [f"printf '\\n{_MARK}begin\\n'; (exit $status)", command.text.replace(_SHOWN_URL, self.url)]
            lines.append(f"status=$?; printf '\\n{_MARK}end %d\\n' $status")
        script = self.folder / ".page.sh"
        script.write_text("\n".join(lines) + "\n", "utf-8")
        result = subprocess.run(
            ["bash", str(script)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
        found = re.findall(rf"\n{_MARK}begin\n(.*?)\n{_MARK}end (\d+)\n", result.stdout, re.DOTALL)
        return [(int(status), output) for output, status in found]


def first_missing(shown: list[str], output: str) -> str | None:
    """Return the first line that a page shows and the output lacks; None if all lines occur in this order.

    ``...`` stands for any text, and a line with nothing else for any lines. The output may contain more lines, such as
    progress. Numbers with a decimal point are compared as numbers.
    """
    lines = iter(output.splitlines())
    for line in shown:
        if line.strip() in ("", "..."):
            continue
        if not any(_matches(line, printed) for printed in lines):
            return line
    return None


def _matches(shown: str, printed: str) -> bool:
    parts = [r"\s*".join(_pattern(piece) for piece in part.split()) for part in shown.split("...")]
    found = re.fullmatch(r".*?".join(parts), printed.strip())
    if found is None:
        return False
    expected = [float(number) for number in _NUMBER.findall(shown)]
    return all(abs(float(a) - b) <= _TOLERANCE for a, b in zip(found.groups(), expected, strict=True))


def _pattern(word: str) -> str:
    """Return a pattern for a word in which the numbers with a decimal point are groups."""
    plain = _NUMBER.split(word)
    return rf"({_NUMBER.pattern})".join(re.escape(piece) for piece in plain)


@pytest.fixture(scope="module")
def shell(stack: LocalStack, admin: Admin, forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    folder = tmp_path_factory.mktemp("documents")
    pictures = folder / "Pictures" / "holiday"
    write_collection(pictures, families=1, seed=11)
    (pictures / "captions.jsonl").unlink()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RETLLM_")}
    environment = inherited | {
        "HOME": str(folder),
        "PATH": os.pathsep.join(
            [str(forks.install(folder / ".bin")), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "RETLLM_HOME": str(stack.home),
    }
    environment.pop("DATABASE_URL", None)
    environment.pop("REDIS_URL", None)
    return Shell(folder, environment, stack.url)


@pytest.fixture(scope="module")
def tutorial(shell: Shell) -> Shell:
    """The shell after the tutorial, in which the how-to pages continue."""
    shell.run(TUTORIAL)
    return shell


def test_the_tutorial_works(tutorial: Shell) -> None:
    assert (tutorial.folder / "scenes").is_dir()


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_a_how_to_page_works(page: Path, tutorial: Shell) -> None:
    tutorial.run(page)


@pytest.mark.parametrize(
    ("shown", "output", "missing"),
    [
        (["rank  score", "1     0.9986"], "progress\nrank score\n1 0.9991", None),
        (["rank  score", "1     0.9986"], "rank score\n1 0.9000", "1     0.9986"),
        (["second", "first"], "first\nsecond", "first"),
        (["a ... z", "..."], "a b c z", None),
        (["a ... z"], "a b c", "a ... z"),
        (['{... "rejected":1,... }'], '{"added":0,"rejected":1,"x":2}', None),
    ],
)
def test_shown_output_is_compared_line_by_line(shown: list[str], output: str, missing: str | None) -> None:
    assert first_missing(shown, output) == missing
