"""The documents name only what exists, and each is a page of the site."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from development import links
from development.cfn import ROOT
from local.model_server import directives

DOCUMENTS = [ROOT / "README.md", ROOT / "local/README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_test_that_a_document_names_exists(document: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+(?:\.py)?)(?:::(\w+))?`", document.read_text())

    for path, test in named:
        assert (ROOT / path).exists(), path
        if test:
            functions = {
                node.name
                for node in ast.walk(ast.parse((ROOT / path).read_text()))
                if isinstance(node, ast.FunctionDef)
            }
            assert test in functions, f"{path} has no {test}"


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
