"""The documents name only what exists, and each is a page of the site."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from development import links
from development.cfn import ROOT
from local.model_server import directives

TESTS = {
    name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"\bdef (test_\w+)", path.read_text())
}
DOCUMENTS = [ROOT / "README.md", ROOT / "local/README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_test_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text()

    for path, test in re.findall(r"`(tests/[\w/]+(?:\.py)?)(?:::(\w+))?`", text):
        assert (ROOT / path).exists(), path
        assert not test or f"\ndef {test}(" in (ROOT / path).read_text(), f"{path} has no {test}"
    assert set(re.findall(r"`(test_\w+)`", text)) <= TESTS | {"test_json_mode"}  # that one is of LangChain


def test_the_page_on_security_names_its_proofs() -> None:
    assert len(re.findall(r"::test_\w+`", (ROOT / "docs/security.md").read_text())) > 10


def test_the_stand_in_model_knows_the_orders_that_the_documents_name() -> None:
    orders = re.findall(r"`(\[\[[^`]+\]\])`", (ROOT / "local/README.md").read_text())
    assert len(orders) > 10
    for order in orders:
        assert directives(order), order


def test_each_document_is_a_page_of_the_site_once() -> None:
    """MkDocs checks this too, but `make test` does not run it."""
    site = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)
    pages = [page for entry in site["nav"] for page in pages_of(entry)]

    documents = {path.relative_to(ROOT).as_posix() for path in links.documents()}
    assert sorted(pages) == sorted(name for name in documents if not name.startswith(".github/"))


def pages_of(entry: dict[str, Any]) -> list[str]:
    [value] = entry.values()
    return [value] if isinstance(value, str) else [page for each in value for page in pages_of(each)]
