"""All installed packages are pinned, and the pins can be checked against advisories."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PINS = {
    canonicalize_name(name): version
    for name, _, version in (line.partition("==") for line in (ROOT / "constraints.txt").read_text().split())
}
# replaces pip-audit: its output and status for pins with a well-known advisory, and for others
AUDIT = """#!/bin/sh
for last; do :; done
if grep -q jinja2==2.10 "$last"; then {known}; else {pins}; fi
"""
FINDS = "printf 'Name   Version ID\\n------ ------- ---\\n{name} {version}    PYSEC-1\\n'; exit 1"


def _needed(name: str, extras: frozenset[str] = frozenset()) -> Iterator[Requirement]:
    """The requirements of a distribution on this machine; none if it is not installed."""
    try:
        wanted = distribution(name).requires or []
    except PackageNotFoundError:
        return
    for text in wanted:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            yield requirement


def _all_requirements() -> dict[str, Requirement]:
    """All direct and indirect requirements of the project."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    optional = [text for extra in project["project"]["optional-dependencies"].values() for text in extra]
    built = project["build-system"]["requires"]
    ahead = [Requirement(text) for text in [*project["project"]["dependencies"], *optional, *built]]
    found: dict[tuple[str, frozenset[str]], Requirement] = {}
    while ahead:
        one = ahead.pop()
        key = (canonicalize_name(one.name), frozenset(one.extras))
        if key not in found:
            found[key] = one
            ahead += _needed(one.name, frozenset(one.extras))
    return {name: one for (name, _), one in found.items()}


def test_all_dependencies_are_pinned_and_installed_in_the_pinned_version() -> None:
    requirements = _all_requirements()
    # torch and its libraries are among them
    assert len(requirements) > 100
    assert {name for name in requirements if name not in PINS} == set()
    installed = {}
    for name in requirements:
        try:
            installed[name] = distribution(name).version
        except PackageNotFoundError:
            continue
    assert {name: found for name, found in installed.items() if found != PINS[name]} == {}
    assert len(installed) > 100


def test_each_pin_satisfies_the_requirements() -> None:
    requirements = _all_requirements().items()
    assert {str(one) for name, one in requirements if not one.specifier.contains(PINS[name], prereleases=True)} == set()


def test_pins_are_exact_versions_without_urls() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if "==" not in line or set(line) & set("/:@ ;*")] == []
    assert lines == sorted(lines, key=str.lower)


@pytest.mark.parametrize(
    ("known", "pins", "status"),
    [
        # the source has the well-known advisory and none for the pins
        (FINDS.format(name="jinja2", version="2.10"), "exit 0", 0),
        (FINDS.format(name="jinja2", version="2.10"), FINDS.format(name="flask", version="3.0"), 1),
        # the source is unreachable
        ("echo refused; exit 1", "echo refused; exit 1", 3),
        # the source has no data
        ("exit 0", "exit 0", 3),
    ],
)
def test_an_audit_without_findings_counts_only_if_the_source_has_advisories(
    tmp_path: Path, known: str, pins: str, status: int
) -> None:
    program = tmp_path / "pip-audit"
    program.write_text(AUDIT.format(known=known, pins=pins))
    program.chmod(0o755)
    done = subprocess.run([ROOT / ".ci/audit", program], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert ("advisories are unreachable" in done.stderr) == (status == 3)
    assert ("flask 3.0" in done.stdout) == (status == 1)
