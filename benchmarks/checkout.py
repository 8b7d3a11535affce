"""Checks out the project at an earlier commit, to measure the present version beside it."""

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local.tools import ROOT


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A temporary folder with the files of `commit` and the tools of this checkout."""
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        root = Path(folder)
        archive.extractall(root, filter="data")
        (root / ".tools").symlink_to((ROOT / ".tools").resolve())
        yield root
