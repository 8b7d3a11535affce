"""The files of other packages that are copied into the console and the JavaScript client."""

import json
import re
from pathlib import Path

import pytest

from development.cfn import ROOT

TABLES = [ROOT / "web" / "vendor" / "README.md", ROOT / "clients" / "javascript" / "vendor" / "README.md"]
ROW = re.compile(r"^\| (\S+) \| (\S+) \| (\d\S+) \| (\S+) \| (\S+) \|$", re.MULTILINE)
ROWS = [(table.parent, *row) for table in TABLES for row in ROW.findall(table.read_text())]
LOCK = json.loads((ROOT / "local" / "requirements" / "node" / "package-lock.json").read_text())["packages"]


@pytest.mark.parametrize(
    ("folder", "name", "package", "version", "path", "licence"), ROWS, ids=lambda it: str(it)[-20:]
)
def test_each_file_is_that_of_the_package(
    node_tools: Path, folder: Path, name: str, package: str, version: str, path: str, licence: str
) -> None:
    """npm has compared the package with the integrity in the lock file."""
    locked = LOCK[f"node_modules/{package}"]
    assert locked["version"] == version
    assert licence in locked["license"]
    assert locked["integrity"].startswith("sha512-")
    assert (folder / name).read_bytes() == (node_tools.parent / package / path).read_bytes()


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.parent.parent.name)
def test_no_file_is_without_its_row(table: Path) -> None:
    listed = {name for folder, name, *_ in ROWS if folder == table.parent}
    assert {str(file.relative_to(table.parent)) for file in table.parent.rglob("*") if file.is_file()} - {
        "README.md"
    } == listed
