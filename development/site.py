"""A hook of MkDocs. Every document keeps its path in the repository, so that links between documents work."""

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from development.links import ROOT, documents


def on_files(_: Files, config: MkDocsConfig) -> Files:
    """The Markdown files of the repository, and the other files to which they link."""
    beside = [*(ROOT / "docs").glob("*.*"), *(ROOT / "benchmarks/plots").glob("*.svg"), ROOT / "LICENSE"]
    paths = sorted({path.relative_to(ROOT).as_posix() for path in [*documents(), *beside]})
    return Files([File.generated(config, path, abs_src_path=str(ROOT / path)) for path in paths])
