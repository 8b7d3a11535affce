"""The personas, one TOML file a role: submit accepts their names, status tells them, the worker does what they say.

What a file may hold, and its limits, is in bundle/personas.py, which checks them when they are built.
"""

import hashlib
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent

DEFAULT_ROLE = "general"

ROLES = frozenset(file.stem for file in FOLDER.glob("*.toml"))
"""The names of the roles there are."""


@cache
def version(role: str) -> str:
    """Twelve hex digits that are others as soon as a byte of the role's file is. Raises FileNotFoundError for a role
    that is none."""
    return hashlib.sha256((FOLDER / f"{role}.toml").read_bytes()).hexdigest()[:12]
