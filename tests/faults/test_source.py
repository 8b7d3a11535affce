"""Each simulated process has the state of its modules for itself, although processes share modules."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import source
from tests.faults.runs import run
from tests.faults.scheduler import Group, Scheduler


def _containers() -> Iterator[tuple[str, Any]]:
    """The dicts, lists and sets of all shared modules and their classes."""
    for module in list(source._shared.values()):
        classes = [each for each in vars(module).values() if isinstance(each, type)]
        for owner in [module, *(each for each in classes if each.__module__ == module.__name__)]:
            for name, value in vars(owner).items():
                if isinstance(value, dict | list | set) and not name.startswith("__"):
                    yield f"{module.__name__} {owner} {name}", value


def test_no_story_changes_a_shared_module() -> None:
    for name in ("run_with_uploads", "create_with_key", "answered_again"):
        assert not run(name).broken
    before = {name: copy.copy(value) for name, value in _containers()}
    for name in ("submit_with_key_and_replay", "run_by_the_fallback", "retried", "watched", "create_and_be_cut"):
        assert not run(name).broken
    assert len(before) > 20
    assert before == dict(_containers())


@pytest.mark.parametrize(
    ("statement", "is_shared"),
    [("KNOWN = {}", True), ("_known: dict[str, str] = {}", False), ("a, _b = [], []", False)],
)
def test_each_process_has_the_variables_of_its_modules_anew(
    statement: str, is_shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "ROOT", tmp_path)
    monkeypatch.setattr(source, "_shared", {})
    monkeypatch.setattr(source, "_finder", source._Finder)
    folder = tmp_path / "functions" / "main"
    folder.mkdir(parents=True)
    (tmp_path / "layers" / "shared").mkdir(parents=True)
    (folder / "main.py").write_text("import middle\n")
    (folder / "middle.py").write_text("def late():\n    from inner import __name__\n    return __name__\n")
    (folder / "inner.py").write_text(f"{statement}\n")
    modules: list[Any] = []
    scheduler = Scheduler()
    for number in range(2):
        scheduler.spawn("process", lambda: modules.append(source.load("main")), Group(f"main{number}"))
    scheduler.run()
    first, second = modules
    assert (first.middle is second.middle) is is_shared
    assert first.middle.late() == "inner"
