"""The personas, one TOML file a role. The function `submit` accepts their names, `status` lists them, and the worker
follows them. bundle/personas.py defines the content of a file, and checks the files at the build."""

import hashlib
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent

DEFAULT_ROLE = "general"

ROLES = frozenset(file.stem for file in FOLDER.glob("*.toml"))
"""The names of all roles."""


@cache
def version(role: str) -> str:
    """The first 12 hex digits of the SHA-256 of the role's file. Raises FileNotFoundError for an unknown role."""
    return hashlib.sha256((FOLDER / f"{role}.toml").read_bytes()).hexdigest()[:12]
