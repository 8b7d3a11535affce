"""Loads the product's code for the simulated processes. A module with variables, such as the one with the handler, runs
again for each process, so its state dies with the process. So does each module that imports one. All processes share
the other modules, because running them anew took half of the simulation's time.
"""

import ast
import builtins
import functools
import importlib
import importlib.machinery
import importlib.util
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any
from unittest import mock

import aws_lambda_powertools
import botocore.retries.quota
import botocore.session
from botocore.retries.quota import RetryQuota

from development import cfn
from tests.faults.scheduler import here

ROOT = Path(os.environ.get("FAULTS_SOURCE") or cfn.ROOT)
"""Whose functions/ and layers/ are run: the repository's, or a copy with a planted bug."""

SPLIT = ("turnqueue.aws", "turnqueue.telemetry", "turnqueue.wait")
"""Shared modules whose state is in a `cache`, a Logger and Metrics: each process gets these anew."""

_compiled: dict[str, CodeType] = {}
_shared: dict[str, ModuleType] = {}


class _Session(botocore.session.Session):
    """Makes the clients of all processes. To make one takes longer than all the rest of a process's start, so the clients
    of a finished run are used again; of what they have learned they keep nothing (the retries they may still afford)."""

    def __init__(self) -> None:
        super().__init__()
        self._idle: dict[str, list[Any]] = defaultdict(list)
        self._used: list[tuple[str, Any]] = []

    def create_client(self, *args: Any, **kwargs: Any) -> Any:
        config = kwargs.get("config")
        others = {name: value for name, value in kwargs.items() if name != "config"}
        kind = repr((args, others, config and sorted(config._user_provided_options.items(), key=str)))
        if self._idle[kind]:
            client, quotas = self._idle[kind].pop()
        else:
            quotas = []

            def quota(*args: Any, **kwargs: Any) -> Any:
                quotas.append(RetryQuota(*args, **kwargs))
                return quotas[-1]

            with mock.patch.object(botocore.retries.quota, "RetryQuota", quota):
                client = super().create_client(*args, **kwargs)
        for known in quotas:
            known._available_capacity = known._max_capacity
        self._used.append((kind, (client, quotas)))
        return client

    def recycle(self) -> None:
        """No process lives any more: their clients are free."""
        for kind, client in self._used:
            self._idle[kind].append(client)
        self._used.clear()


aws_session = _Session()


class _PerProcess:
    """Stands for an object that each process makes for itself, when it first uses it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def own(self) -> Any:
        found = here()
        assert found and found[1].group, "only a process has state"
        memory = found[1].group.memory
        if self not in memory:
            memory[self] = self._make()
        return memory[self]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own(), name)


def _cache(function: Callable[..., Any]) -> Callable[..., Any]:
    cached = _PerProcess(lambda: functools.lru_cache(maxsize=None)(function))
    return lambda *args, **kwargs: cached.own()(*args, **kwargs)


def _logger(**settings: Any) -> Any:
    def make() -> aws_lambda_powertools.Logger:
        logging.Logger.manager.loggerDict.pop(os.environ["POWERTOOLS_SERVICE_NAME"], None)  # what others have set
        return aws_lambda_powertools.Logger(**settings)

    return _PerProcess(make)


def _metrics() -> Any:
    def make() -> aws_lambda_powertools.Metrics:
        # Powertools keeps the values in the class.
        own: dict[str, Any] = {name: {} for name in ("_metrics", "_dimensions", "_metadata", "_default_dimensions")}
        metrics: aws_lambda_powertools.Metrics = type("Metrics", (aws_lambda_powertools.Metrics,), own)()
        return metrics

    return _PerProcess(make)


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles a file once, runs it as often as it is imported. `imported`: the modules that its functions may import
    while they run."""

    def __init__(self, name: str, path: str, imported: dict[str, ModuleType]) -> None:
        super().__init__(name, path)
        self._imported = imported

    def exec_module(self, module: ModuleType) -> None:
        imported = self._imported

        def importing(name: str, *args: Any, **kwargs: Any) -> Any:
            return imported[name] if name in imported else builtins.__import__(name, *args, **kwargs)

        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": importing}
        if module.__name__ in SPLIT:
            with (
                mock.patch.object(functools, "cache", _cache),
                mock.patch.multiple(aws_lambda_powertools, Logger=_logger, Metrics=_metrics),
            ):
                super().exec_module(module)
        else:
            super().exec_module(module)

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        if path not in _compiled:
            _compiled[path] = self.source_to_code(self.get_data(path), path)
        return _compiled[path]


class _Finder:
    """Finds the modules of one function, and the layer's."""

    def __init__(self, function: str) -> None:
        roots = [ROOT / "functions" / function, ROOT / "layers" / "shared"]
        self.files: dict[str, Path] = {}
        self.imported: dict[str, ModuleType] = {}
        for root in roots:
            for file in root.rglob("*.py"):
                parts = file.relative_to(root).with_suffix("").parts
                self.files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
        trees = {name: ast.parse(file.read_text()) for name, file in self.files.items()}
        imports = {name: self._imports(tree) for name, tree in trees.items()}
        self.late = {
            name
            for tree in trees.values()
            for part in tree.body
            if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            for name in self._imports(part)
        }
        """The modules that functions import while they run."""
        self.fresh = {name for name, tree in trees.items() if name not in SPLIT and _has_variables(tree)}
        """The modules that run again for each process."""
        while more := {name for name in imports.keys() - self.fresh if imports[name] & self.fresh}:
            self.fresh |= more

    def _imports(self, tree: ast.AST) -> set[str]:
        """The modules of the product that a piece of code imports."""
        names: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.update((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
        return names & self.files.keys()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        file = self.files.get(name)
        if file is None:
            return None
        places = [str(file.parent)] if file.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(
            name, file, loader=_Loader(name, str(file), self.imported), submodule_search_locations=places
        )


def _has_variables(tree: ast.Module) -> bool:
    """Whether a module assigns to a name that is not written as a constant."""
    targets = [
        target
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    names = (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))
    return any(name.lstrip("_")[:1].islower() and not name.startswith("__") for name in names)


_finder = functools.lru_cache(maxsize=None)(_Finder)


def load(function: str) -> ModuleType:
    """Import a function as a new process does. Its libraries are shared, and its modules without variables."""
    finder = _finder(function)
    finder.imported = {}
    with _alone(finder):
        module = importlib.import_module(function)
        for name in sorted(finder.late):
            importlib.import_module(name)
        finder.imported.update({name: sys.modules[name] for name in finder.files if name in sys.modules})
    return module


@contextmanager
def _alone(finder: _Finder) -> Iterator[None]:
    others = {name: sys.modules.pop(name) for name in finder.files if name in sys.modules}
    sys.meta_path.insert(0, finder)
    sys.modules.update({name: module for name, module in _shared.items() if name in finder.files})
    try:
        with mock.patch.object(botocore.session, "get_session", lambda: aws_session):
            yield
        for name in finder.files.keys() & sys.modules.keys() - finder.fresh:
            _shared[name] = sys.modules[name]
    finally:
        sys.meta_path.remove(finder)
        for name in finder.files:
            sys.modules.pop(name, None)
        sys.modules.update(others)
