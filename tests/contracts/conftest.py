"""Clients that generators make from docs/openapi.yaml, against the functions of this repository."""

from pathlib import Path

import pytest

from development.cfn import ROOT
from tests.unit.conftest import account, clock, functions, model, model_url, only_loopback, simulated_aws, wire

__all__ = ["account", "clock", "functions", "model", "model_url", "only_loopback", "simulated_aws", "wire"]


def _tool(path: str, needs: str) -> Path:
    if not (ROOT / path).exists():
        pytest.skip(f"there is no {path}: `make test` installs it{needs}")
    return ROOT / path


@pytest.fixture(scope="session")
def openapi_tools() -> Path:
    """The folder of openapi-python-client and datamodel-codegen, and of a Python that can run what they make."""
    return _tool(".tools/openapi/bin", "")


@pytest.fixture(scope="session")
def node_tools() -> Path:
    """The folder of redocly, openapi-typescript and tsc."""
    return _tool(".tools/node/node_modules/.bin", " where there is Node")
