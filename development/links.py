"""Checks the links of the documents. `python -m development.links` prints each dead link, and exits with 1 if there is
one.

It knows `[text](path#heading)`; names of sections such as `docs/operations.md`, "Deploy"; and names of files such as
`events/submit.json`. It does not check links to other sites, because other sites can be down.
"""

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_CODE = re.compile(r"^(?: {4}|\t).*$|^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?\)")
_SECTION = re.compile(r"`?((?:[\w-]+/)*[\w-]+\.md)`?,\s\"([^\"]+)\"")
_FILE = re.compile(
    r"`((?:\.github|benchmarks|bundle|clients|development|docs|events|functions|layers|local|operations|tests|web)/[\w./-]+)"
)
_IGNORED = re.compile(r"(^|/)(\.(?!github/)|node_modules/)")
_OF_THE_PAST = ("CHANGELOG.md", "results.md")
"""Pages about the past may refer to deleted files."""


def documents() -> list[Path]:
    """Every Markdown file of the repository."""
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*.md"))
    return [ROOT / path for path in sorted(found) if not _IGNORED.search(str(path))]


def dead(document: Path) -> Iterator[str]:
    """The dead links of a document, one line each."""
    text = _CODE.sub(lambda code: "\n" * code[0].count("\n"), document.read_text())
    for link in _LINK.finditer(text):
        path, _, anchor = link[1].partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = document.parent / path if path else document
        if not target.exists():
            yield _at(document, text, link, f"the file {path} does not exist")
        elif anchor and target.suffix == ".md" and anchor not in {_anchor(title) for title in _headings(target)}:
            yield _at(document, text, link, f"{path or 'this page'} has no heading for #{anchor}")
    for named in _SECTION.finditer(text):
        pages = [page for page in (ROOT / named[1], document.parent / named[1]) if page.exists()]
        title = " ".join(named[2].split())
        if not pages:
            yield _at(document, text, named, f"the file {named[1]} does not exist")
        elif title not in _headings(pages[0]):
            yield _at(document, text, named, f'{named[1]} has no section "{title}"')
    if document.name not in _OF_THE_PAST:
        for named in _FILE.finditer(text):
            if not (ROOT / named[1]).exists():
                yield _at(document, text, named, f"the file {named[1]} does not exist")


def _at(document: Path, text: str, match: re.Match[str], problem: str) -> str:
    return f"{document.name}:{text.count('\n', 0, match.start()) + 1}: {problem}"


@cache
def _headings(document: Path) -> frozenset[str]:
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    return frozenset(re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE))


def _anchor(title: str) -> str:
    """The anchor that GitHub makes: small letters, no punctuation, hyphens for blanks."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def main() -> int:
    problems = [problem for document in documents() for problem in dead(document)]
    print("\n".join(problems), end="\n" if problems else "")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
