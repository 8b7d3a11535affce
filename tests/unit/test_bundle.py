"""The build's changes to libraries work with the pinned versions, and fail if a library has changed. tests/build checks
a whole build; these tests take seconds, and name the change that no longer works.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import botocore.loaders
import openai
import pytest

from bundle import aws_data, bundle, lazy_types
from development.cfn import ROOT

SITE = Path(openai.__file__).parents[1]
BOTOCORE = next((ROOT / ".tools/runtime/lib").glob("python*/site-packages/botocore"))
"""That of the runtime: the layer's pin is no newer."""


# ---- openai's types


@pytest.fixture(scope="module")
def lazy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with openai as it is shipped."""
    folder = tmp_path_factory.mktemp("lazy")
    shutil.copytree(SITE / "openai", folder / "openai", ignore=shutil.ignore_patterns("__pycache__"))
    bundle.leave_out_unused(folder)
    lazy_types.make_lazy(folder)
    return folder


LOADED = """
import json, sys
sys.path.insert(0, sys.argv[1])
import openai.types.chat as chat
before = {name for name in sys.modules if name.startswith("openai.types.")}
names = sorted(name for name in dir(chat) if name[0].isupper())
values = {name: getattr(chat, name) for name in names}
homes = {name: getattr(value, "__module__", "") for name, value in values.items()}
print(json.dumps({"before": len(before), "homes": homes}))
"""


def _loaded(folder: Path) -> dict[str, Any]:
    ran = subprocess.run([sys.executable, "-c", LOADED, folder], capture_output=True, text=True, check=True)
    loaded: dict[str, Any] = json.loads(ran.stdout)
    return loaded


def test_a_lazy_package_has_the_names_of_the_eager_one_and_imports_less(lazy: Path) -> None:
    eager, late = _loaded(SITE), _loaded(lazy)
    assert late["homes"] == eager["homes"]
    assert len(late["homes"]) > 50
    assert late["before"] < eager["before"] / 4


def test_every_package_of_types_that_ships_is_made_lazy(lazy: Path) -> None:
    """A package that a new openai puts elsewhere would be imported as a whole."""
    shipped = [path for path in (lazy / "openai/types").rglob("__init__.py") if path.stat().st_size]
    assert len(shipped) > 5
    assert [path for path in shipped if "_MODULES" not in path.read_text()] == []


@pytest.mark.parametrize("statement", ["import os", "x = 1", "from .a import b as c", "from ..a import b", "print()"])
def test_a_package_that_does_more_fails_the_build(tmp_path: Path, statement: str) -> None:
    init = tmp_path / "openai/types/__init__.py"
    init.parent.mkdir(parents=True)
    init.write_text(f"from __future__ import annotations\nfrom .model import Model as Model\n{statement}\n")
    with pytest.raises(SystemExit, match=r"__init__\.py:3 does more"):
        lazy_types.make_lazy(tmp_path)


# ---- What is left out


def test_what_is_left_out_is_there() -> None:
    for package, unused in bundle.UNUSED.items():
        assert [name for name in unused.split() if not (SITE / package / name).exists()] == []


def test_a_name_that_is_gone_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "httpx2").mkdir()
    with pytest.raises(SystemExit, match="httpx2/websockets is no longer there"):
        bundle.leave_out_unused(tmp_path)


# ---- botocore's data


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cut") / "aws_data"
    aws_data.cut(BOTOCORE, folder)
    return folder


@pytest.mark.parametrize("service", aws_data.OPERATIONS)
def test_an_operation_is_described_as_botocore_describes_it(cut: Path, service: str) -> None:
    def described(folder: Path) -> dict[str, Any]:
        loader = botocore.loaders.Loader(extra_search_paths=[str(folder)], include_default_search_paths=False)
        model: dict[str, Any] = loader.load_service_model(service, "service-2")
        return model

    whole, part = described(BOTOCORE / "data"), described(cut)
    assert list(part["operations"]) == aws_data.OPERATIONS[service].split()
    assert part["metadata"] == whole["metadata"]
    for kind in ("operations", "shapes"):
        for name, content in part[kind].items():
            assert content == aws_data.without_documentation(whole[kind][name]), name
    assert set(aws_data.references(part)) <= set(part["shapes"])


def test_an_operation_that_botocore_no_longer_has_fails_the_build(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="sqs no longer has SendPost: change OPERATIONS"):
        aws_data.cut_service(BOTOCORE / "data/sqs", tmp_path / "sqs", ["SendMessage", "SendPost"])


def test_the_authorities_are_amazons_and_digicerts(cut: Path) -> None:
    certificates = re.findall(
        r"-----BEGIN CERTIFICATE-----\n.*?-----END", (cut / "authorities.pem").read_text(), re.DOTALL
    )
    every = (BOTOCORE / "cacert.pem").read_text().count("-----BEGIN")
    assert 6 <= len(certificates) < every / 4


def test_a_list_that_no_longer_names_amazon_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "cacert.pem").write_text((BOTOCORE / "cacert.pem").read_text().replace("O=Amazon", "O=Nile"))
    with pytest.raises(SystemExit, match="no longer names Amazon"):
        aws_data.cut_authorities(tmp_path / "cacert.pem", tmp_path / "authorities.pem")


def test_a_change_of_any_module_of_the_build_makes_the_wheels_anew() -> None:
    """The folder of unpacked wheels is kept under a hash of what made it."""
    source = Path(bundle.__file__).read_text()
    assert importlib.util.find_spec("bundle.aws_data")
    modules = {path.stem for path in (ROOT / "bundle").glob("*.py")} - {"bundle", "personas"}
    assert {name for name in modules if f"{name}.__file__" in source} == modules
