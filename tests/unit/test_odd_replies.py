"""docs/model-servers.md says what becomes of each odd reply, and so it does."""

import asyncio
import re
from collections.abc import Iterator

import pytest

from benchmarks.odd_replies import outcome
from development.cfn import ROOT
from local.odd_replies import ODD
from turnqueue import telemetry

ROW = re.compile(r"\| `(\w+)` \| [^|]+ \| [^|]+ \| ([^|]+) \|")
SECTION = (ROOT / "docs/model-servers.md").read_text().partition("## What a server may do")[2].partition("\n## ")[0]
TOLD = dict(ROW.findall(SECTION))


@pytest.fixture(autouse=True)
def no_metrics() -> Iterator[None]:
    yield
    telemetry._metrics.clear_metrics()


def test_the_document_has_every_odd_reply() -> None:
    assert list(TOLD) == list(ODD)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_reply_becomes_what_the_document_says(name: str, model_url: str) -> None:
    assert asyncio.run(outcome(model_url, name)) == TOLD[name]
