"""Every installed package is a wheel with a known hash, so an attacker who controls the registry cannot change it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from development.cfn import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
REQUIREMENT = re.compile(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;]+)", re.MULTILINE)


def locks() -> list[Path]:
    """The files that `make lock` computes."""
    [text] = re.findall(r"^LOCKS := ((?:.*\\\n)*.*)", MAKEFILE, re.MULTILINE)
    plain = re.sub(r"\$\(addprefix ([\w/]+),([^)]*)\)", _with_prefix, text)
    return [ROOT / name for name in plain.replace("\\\n", " ").split()]


def _with_prefix(call: re.Match[str]) -> str:
    return " ".join(call[1] + name for name in call[2].split())


def pins(text: str) -> dict[str, str]:
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in REQUIREMENT.findall(text)}


def inputs(file: Path) -> str:
    """The text of an input, and of those that it includes."""
    text = file.read_text()
    return text + "".join(inputs(file.parent / name) for name in re.findall(r"^-r (.+)", text, re.MULTILINE))


LOCKS = locks()
each_lock = pytest.mark.parametrize("lock", LOCKS, ids=lambda path: str(path.relative_to(ROOT)))


@each_lock
def test_each_requirement_is_pinned_and_has_hashes(lock: Path) -> None:
    logical = lock.read_text().replace("\\\n", " ").splitlines()
    requirements = [line for line in logical if line.strip() and not line.startswith("#")]
    assert requirements
    for line in requirements:
        assert re.fullmatch(r"[\w.-]+==[^\s;]+( ; [^\\]+?)?(\s+--hash=sha256:[0-9a-f]{64})+", line.rstrip()), line[:80]


@each_lock
def test_a_lock_holds_what_its_input_names(lock: Path) -> None:
    source = ROOT / "requirements-dev.txt" if lock.name == "dev.txt" else lock.with_suffix(".in")
    assert pins(inputs(source)).items() <= pins(lock.read_text()).items()


@each_lock
def test_a_lock_names_no_host(lock: Path) -> None:
    assert "://" not in lock.read_text()


def test_the_locks_are_all_that_there_are() -> None:
    found = {
        path
        for folder in ("functions", "layers", "operations", "benchmarks", "local", "bundle")
        for path in (ROOT / folder).rglob("*.txt")
        if REQUIREMENT.search(path.read_text())
    }
    assert found == set(LOCKS)


def test_what_ships_is_what_the_tests_run_with() -> None:
    tested = pins((ROOT / "local/requirements/dev.txt").read_text())
    for lock in LOCKS:
        if lock.is_relative_to(ROOT / "functions") or lock == ROOT / "layers/shared/requirements.txt":
            assert pins(lock.read_text()).items() <= tested.items()


def test_whatever_runs_pip_demands_hashes_and_wheels() -> None:
    """A source distribution runs its own code when it is built."""
    places = [ROOT / "Makefile", *ROOT.glob(".ci/*"), *ROOT.glob(".github/workflows/*")]
    for folder in ("bundle", "local", "operations", "benchmarks"):
        places += (ROOT / folder).rglob("*.py")
    runs = {path: path.read_text() for path in places if re.search(r"-m\W+pip\b|pip3? install", path.read_text())}
    assert {path.relative_to(ROOT).as_posix() for path in runs} == {"Makefile", "bundle/bundle.py"}
    for path, text in runs.items():
        assert text.count("--require-hashes") == 1, path
        assert len(re.findall(r"--only-binary\W+:all:", text)) >= 1, path


PROGRAM = """
import sys
root, *installed = sys.argv[1:]
sys.path.insert(0, root)
known = {"operations", "turnqueue", "dateutil", *sys.stdlib_module_names, *installed}

class Only:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in known:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Only())
import operations.__main__
"""


def test_the_operators_commands_run_with_what_is_installed_for_them() -> None:
    """In the job that deploys there is nothing else."""
    installed = [name.replace("-", "_") for name in pins((ROOT / "operations/requirements.txt").read_text())]
    command = [sys.executable, "-I", "-c", PROGRAM, str(ROOT), *installed]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
