"""The personas, one TOML file a role: submit accepts their names, the worker does what they say."""

import hashlib
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent

DEFAULT_ROLE = "general"

ROLES = frozenset(file.stem for file in FOLDER.glob("*.toml"))
"""The names of the roles there are."""


@cache
def version(role: str) -> str:
    """Names the content of a persona: another one, another name."""
    return hashlib.sha256((FOLDER / f"{role}.toml").read_bytes()).hexdigest()[:16]
