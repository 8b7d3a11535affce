"""Finds the version and its release notes. The version is `__version__` of layers/shared/turnqueue, and is written
nowhere else.

`python -m development.release` prints the notes of the next release. If the changelog has no dated section for the
version, or has entries under "Unreleased", the command prints the reason and ends with 1. `--version` prints only the
version.

This file needs only Python, because the release workflow installs nothing.
"""

import re
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class NotReady(Exception):
    """The release is not ready. The message names the missing part."""


def version(root: Path = ROOT) -> str:
    text = (root / "layers/shared/turnqueue/__init__.py").read_text()
    found = re.search(r'^__version__ = "(\d+\.\d+\.\d+)"$', text, re.MULTILINE)
    if not found:
        raise NotReady("layers/shared/turnqueue/__init__.py has no __version__ of three numbers")
    return found[1]


def notes(root: Path = ROOT) -> str:
    """The changelog's notes for the version, without the heading. Raises NotReady."""
    wanted = version(root)
    sections = _sections((root / "CHANGELOG.md").read_text())
    if left := sections.get("Unreleased", ("", ""))[1]:
        raise NotReady(
            f'CHANGELOG.md has entries under "Unreleased": move them below {wanted}, or release later\n{left}'
        )
    if wanted not in sections:
        raise NotReady(f'CHANGELOG.md has no section "## [{wanted}] - {date.today()}"')
    when, text = sections[wanted]
    if not when or not text:
        raise NotReady(f"CHANGELOG.md: the section of {wanted} needs a date and entries")
    return text


def _sections(text: str) -> dict[str, tuple[str, str]]:
    """The date and the entries of each section of the changelog, by version or "Unreleased"."""
    parts = re.split(r"^## \[([^\]]+)\](?: - (\d{4}-\d\d-\d\d))?$", text, flags=re.MULTILINE)
    return {
        name: (when or "", re.sub(r"^\[[^\]]+\]: .*$", "", body, flags=re.MULTILINE).strip())
        for name, when, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    }


def main() -> int:
    try:
        print(version() if "--version" in sys.argv else notes())
    except NotReady as reason:
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
