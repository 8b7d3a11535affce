"""The repository's community files, links, version and release."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from development import links, release
from development.cfn import ROOT
from tests.unit.test_requirements import locks, pins
from turnqueue import __version__

MAKEFILE = (ROOT / "Makefile").read_text()
CHANGELOG = """# Changelog

## [Unreleased]
{unreleased}
## [{version}] - 2026-12-01

### Added
- A thing.

## [0.0.1] - 2026-01-01

### Added
- An older thing.
"""


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile."""
    [text] = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    return [line.strip().replace("$(PYTHON)", ".tools/dev/bin/python") for line in text.splitlines()]


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("dependabot", [".github/dependabot.yml"]),
        ("github-workflows", [str(file) for file in (ROOT / ".github/workflows").glob("*.yml")]),
        ("github-issue-forms", [".github/ISSUE_TEMPLATE/bug.yml", ".github/ISSUE_TEMPLATE/feature.yml"]),
        ("github-issue-config", [".github/ISSUE_TEMPLATE/config.yml"]),
    ],
)
def test_a_file_has_the_form_that_github_demands(schema: str, files: list[str]) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *files]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_dependabot_looks_at_every_folder_with_pins() -> None:
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    looked_at = {
        (update["package-ecosystem"], folder)
        for update in updates
        for folder in update.get("directories", [update.get("directory")])
    }
    inputs = [lock.with_suffix(".in") for lock in locks() if lock.with_suffix(".in").exists()]
    pinned = {f"/{path.relative_to(ROOT).parent}" for path in inputs if pins(path.read_text())}
    assert {("pip", folder) for folder in pinned} <= looked_at
    assert {("pip", "/"), ("github-actions", "/"), ("npm", "/local/requirements/node")} <= looked_at


def test_the_hooks_are_the_linters_of_ci() -> None:
    """As `make lint` and `make types` run them, but that ruff changes what it can."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert all(hook["language"] == "system" for hook in hooks)  # those of .tools: no second place for versions
    commands = [re.sub(r" --(no-cache|check)$", "", command) for command in recipe("lint") + recipe("types")]
    assert [hook["entry"].removesuffix(" --fix") for hook in hooks] == commands


# ---- Links


def test_no_link_is_dead() -> None:
    assert [problem for document in links.documents() for problem in links.dead(document)] == []


@pytest.mark.parametrize(
    "text",
    [
        "[a page](absent.md)",
        "[a heading](other.md#absent)",
        "[a heading here](#absent)",
        '`docs/operations.md`, "Absent"',
        "see `docs/absent.md`",
    ],
)
def test_a_dead_link_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "other.md").write_text("# Here\n")
    page = tmp_path / "page.md"
    page.write_text(
        f'# Page\n\n[good](other.md#here) `docs/operations.md`, "Deploy" `README.md`\n\n{text}\n\n    [code](x)\n'
    )

    [problem] = links.dead(page)

    assert problem.startswith("page.md:5: ")


# ---- The version


def test_the_version_is_written_in_one_place() -> None:
    assert release.version() == __version__
    document = yaml.load((ROOT / "docs/openapi.yaml").read_text(), Loader=yaml.CSafeLoader)
    assert document["info"]["version"] == __version__
    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text()).get("project", {})


def test_the_clients_version_is_that_of_its_package() -> None:
    package = json.loads((ROOT / "clients/javascript/package.json").read_text())["version"]
    for page in ("clients/javascript/README.md", "docs/javascript.md"):
        assert set(re.findall(r"turnqueue-([\d.]+)\.tgz", (ROOT / page).read_text())) == {package}, page
    assert f"\n## {package}\n" in (ROOT / "clients/javascript/CHANGELOG.md").read_text()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of what the release script reads, ready to be released."""
    for name in ("development/__init__.py", "development/release.py", ".github/release"):
        copied = tmp_path / name
        copied.parent.mkdir(exist_ok=True)
        copied.write_bytes((ROOT / name).read_bytes())
        copied.chmod((ROOT / name).stat().st_mode)
    init = tmp_path / "layers/shared/turnqueue/__init__.py"
    init.parent.mkdir(parents=True)
    init.write_text('__version__ = "0.3.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG.format(version="0.3.0", unreleased=""))
    return tmp_path


def test_the_notes_are_those_of_the_version(repository: Path) -> None:
    assert release.notes(repository) == "### Added\n- A thing."


@pytest.mark.parametrize(
    ("changelog", "why"),
    [
        (CHANGELOG.format(version="0.2.0", unreleased=""), "no section"),
        (CHANGELOG.format(version="0.3.0", unreleased="\n### Fixed\n- A bug.\n"), "Unreleased"),
        (CHANGELOG.format(version="0.3.0", unreleased="").replace(" - 2026-12-01", ""), "date"),
    ],
)
def test_a_changelog_that_is_not_ready_stops_the_release(repository: Path, changelog: str, why: str) -> None:
    (repository / "CHANGELOG.md").write_text(changelog)
    with pytest.raises(release.NotReady, match=why):
        release.notes(repository)


GH = """#!/bin/sh
printf '%s\\n' "$*" >> "$CALLS"
[ "$1 $2" = "release view" ] && exit "$UNKNOWN"
exit 0
"""


@pytest.mark.parametrize("released", [False, True])
def test_the_script_tags_the_tested_commit_once_and_has_it_deployed(repository: Path, released: bool) -> None:
    calls, program = repository / "calls", repository / "bin/gh"
    program.parent.mkdir()
    program.write_text(GH)
    program.chmod(0o755)
    environment: dict[str, Any] = {
        "PATH": f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GITHUB_SHA": "c0ffee",
        "CALLS": str(calls),
        "UNKNOWN": "0" if released else "1",
    }

    ran = subprocess.run([repository / ".github/release"], env=environment, capture_output=True, text=True, check=False)

    asked = calls.read_text()
    assert (ran.returncode == 0) == (not released)
    assert ("release create v0.3.0 --target c0ffee" in asked) == (not released)
    assert ("workflow run deploy.yml --ref v0.3.0" in asked) == (not released)


def test_what_the_tag_starts_is_there() -> None:
    deploy = yaml.load((ROOT / ".github/workflows/deploy.yml").read_text(), Loader=yaml.BaseLoader)
    assert "workflow_dispatch" in deploy["on"]
    assert all("required" not in given for given in deploy["on"]["workflow_dispatch"]["inputs"].values())
