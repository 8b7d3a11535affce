"""What the documents name is there."""

import ast
import re
from pathlib import Path

import pytest

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
