"""Draws comments and sentences at random, so that readers can count how many they must read twice.

`python -m development.sentences [--seed SEED] [--number 100]` prints 100 comments and docstrings of the product, each
below the line of code that it describes, and 100 sentences of the documents. The default seed is the hash of the head
commit, which nobody knows before the work is done. `--avoid` prints each text with a word that CONTRIBUTING.md, "Rules
of language", excludes.
"""

import argparse
import ast
import io
import random
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from typing import NamedTuple

from development.links import ROOT, documents

PRODUCT = ("functions", "layers", "operations", "local", "bundle", "development", "clients/javascript", "web")
_IGNORED = re.compile(r"/(node_modules|vendor|test|consumers)/|\.min\.|turnqueue\.cjs|\.d\.cts")
_DOCUMENTS_OF_THE_PAST = ("CHANGELOG.md", "results.md", "pull_request_template.md")
_AVOID = re.compile(
    r"^(What|Who|Whoever|Whose|That which|Those who|One that) (?!.*\?$)|^Should "
    r"|\b(of (its|one's|their) own|ours|so many|so much|mends?|is none|none is|he|him|his|for the sake|in vain)\b"
    r"|, for (?:a|an|the|no|it|they|there|each|SQS|AWS|its|what|who)\b"
)
_COMMENT = re.compile(r"^(?:/\*|\*|//|#(?!\w)).*")  # not a private field of JavaScript, such as #id
_DIRECTIVE = re.compile(r"noqa|type: ignore|^# fmt: ")
_CODE = re.compile(r"^```(?:.|\n)*?^```|^(?: {4}|\t)(?! *- ).*$", re.MULTILINE)


class Text(NamedTuple):
    place: str
    """The file and the line."""
    text: str
    code: str = ""
    """The line of code that a comment or docstring describes."""


def comments() -> Iterator[Text]:
    """The comments and docstrings of the product, and the descriptions of template.yaml."""
    for folder in PRODUCT:
        for path in sorted((ROOT / folder).rglob("*")):
            name = path.relative_to(ROOT).as_posix()
            if _IGNORED.search(f"/{name}") or "__pycache__" in name:
                continue
            if path.suffix == ".py":
                yield from _of_python(name, path.read_text())
            elif path.suffix in (".js", ".mjs", ".ts"):
                yield from _of_javascript(name, path.read_text())
    template = (ROOT / "template.yaml").read_text()
    yield from _of_hashes("template.yaml", template)
    for match in re.finditer(
        r"^ +Description: (?:>-?\n)?((?:[^\n]+)(?:\n {6,}(?![A-Z]\w+:)[^\n]+)*)", template, re.MULTILINE
    ):
        if not match[1].startswith("!"):
            key = re.findall(r"^ {2}\w+:$", template[: match.start()], re.MULTILINE)[-1:]
            yield _at("template.yaml", template, match.start(), match[1])._replace(code="".join(key).strip())


def sentences() -> Iterator[Text]:
    """The sentences of the documents, without code. A cell of a table counts if it has four words or more."""
    for path in documents():
        if path.name in _DOCUMENTS_OF_THE_PAST:
            continue
        name, text = path.relative_to(ROOT).as_posix(), path.read_text()
        text = re.sub(_CODE, lambda code: "\n" * code[0].count("\n"), text)
        for block in re.finditer(r"(?:^(?!\s*$|#).+\n?)+", text, re.MULTILINE):
            pieces = block[0].replace("\n", "|\n").split("|") if block[0].startswith("|") else [block[0]]
            for piece in pieces:
                for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z`\"*\[(])|\n(?:- |\d+\. )", piece):
                    if len(sentence.split()) >= 4:
                        yield _at(name, text, text.index(sentence[:20].strip() or sentence, block.start()), sentence)


def _of_python(name: str, source: str) -> Iterator[Text]:
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        described = getattr(node, "lineno", 0)
        for child in getattr(node, "body", []) if isinstance(getattr(node, "body", []), list) else []:
            if (
                isinstance(child, ast.Expr)
                and isinstance(child.value, ast.Constant)
                and isinstance(child.value.value, str)
            ):
                code = lines[described - 1].strip() if described else ""
                yield Text(f"{name}:{child.lineno}", _flat(child.value.value), code)
            described = child.lineno
    run: list[str] = []
    last, is_alone = 0, False
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or _DIRECTIVE.search(token.string):
            continue
        line, alone = token.start[0], not token.line[: token.start[1]].strip()
        if run and not (alone and is_alone and line == last + 1):
            yield _comment(name, lines, last - len(run) + 1, last, run)
            run = []
        run.append(token.string.lstrip("# "))
        last, is_alone = line, alone
    if run:
        yield _comment(name, lines, last - len(run) + 1, last, run)


def _comment(name: str, lines: list[str], first: int, last: int, texts: list[str]) -> Text:
    return Text(f"{name}:{first}", _flat(" ".join(texts)), _described(lines, first, last))


def _described(lines: list[str], first: int, last: int) -> str:
    """The code beside a comment, or else the first line of code below it. Empty for a comment that describes a file."""
    if first == 1 and not lines[last].strip():
        return ""
    beside = _COMMENT.sub("", lines[first - 1].strip())
    below = (line.strip() for line in lines[last:] if _COMMENT.sub("", line.strip()))
    return re.sub(r"(#|//) .*$", "", beside).strip() or next(below, "")


def _of_javascript(name: str, source: str) -> Iterator[Text]:
    for match in re.finditer(r"/\*\*?((?:.|\n)*?)\*/|((?:^[ \t]*//.*\n)+|(?<=[;{},)]) // .*$)", source, re.MULTILINE):
        text = re.sub(r"^\s*(?:\*|//) ?", "", match[1] or match[2], flags=re.MULTILINE)
        yield _at(name, source, match.start(), text, match.end())


def _of_hashes(name: str, source: str) -> Iterator[Text]:
    for match in re.finditer(r"(?:^ *# .*\n)+|(?<= )# .*$", source, re.MULTILINE):
        text = re.sub(r"^\s*# ?", "", match[0], flags=re.MULTILINE)
        yield _at(name, source, match.start(), text, match.end())


def _at(name: str, source: str, start: int, text: str, end: int = 0) -> Text:
    """The text at `start` in `source`. `end`: the end of a comment, to find the code that it describes; 0 for a text
    without code."""
    first, last = (source.count("\n", 0, place) + 1 for place in (start, max(end - 1, start)))
    return Text(f"{name}:{first}", _flat(text), _described(source.splitlines(), first, last) if end else "")


def _flat(text: str) -> str:
    return " ".join(re.sub(r"-{5,}", " ", text).split())


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed")
    parser.add_argument("--number", type=int, default=100)
    parser.add_argument("--avoid", action="store_true")
    options = parser.parse_args(arguments)
    kinds = {"comments": list(comments()), "sentences": list(sentences())}
    if options.avoid:
        found = [text for texts in kinds.values() for text in texts if _AVOID.search(text.text)]
        for text in found:
            print(f"{text.place}: {text.text}")
        return int(bool(found))
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    seed = options.seed or head.stdout.strip()
    for kind, texts in kinds.items():
        print(f"\n{kind}, {options.number} of {len(texts)}, seed {seed}\n")
        drawn = random.Random(f"{seed} {kind}").sample(texts, options.number)
        for number, text in enumerate(drawn, 1):
            code = f" {text.code}\n   " if text.code else ""
            print(f"{number}. {text.place}:{code} {text.text}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
