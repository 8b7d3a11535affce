"""The personas, one TOML file a role: submit accepts their names, the worker does what they say."""

from pathlib import Path

FOLDER = Path(__file__).parent

DEFAULT_ROLE = "general"

ROLES = frozenset(file.stem for file in FOLDER.glob("*.toml"))
"""The names of the roles there are."""
