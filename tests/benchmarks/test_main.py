"""The program that runs the benchmarks."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import __main__ as program
from benchmarks.report import NotMeasured, Section


def test_the_section_of_a_benchmark_that_cannot_run_stays_and_the_others_are_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.md"
    monkeypatch.setattr(Section.write, "__defaults__", (results,))

    def measured(name: str, text: str) -> Section:
        section = Section(name, name.title())
        section.say(text)
        return section

    def unable() -> Section:
        raise NotMeasured("there is no redis-server")

    measured("first", "as it was").write()
    names = ("first", "second")
    for name, run in zip(names, (unable, lambda: measured("second", "new")), strict=True):
        module = ModuleType(name)
        vars(module)["run"] = run
        monkeypatch.setitem(sys.modules, f"benchmarks.{name}", module)
    monkeypatch.setattr(program, "NAMES", names)
    monkeypatch.setattr(sys, "argv", ["benchmarks"])

    program.main()

    text = results.read_text()
    assert "as it was" in text
    assert "new" in text
    assert "there is no redis-server" in capsys.readouterr().out
