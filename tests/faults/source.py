"""Loads the product's code again for each simulated process, so that module state dies with the process."""

import builtins
import importlib
import importlib.machinery
import importlib.util
import logging
import os
import ssl
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any
from unittest import mock

import aws_lambda_powertools
import botocore.retries.quota
import botocore.session
import httpx2
from botocore.retries.quota import RetryQuota
from httpx2 import create_ssl_context

from development import cfn

ROOT = Path(os.environ.get("FAULTS_SOURCE") or cfn.ROOT)
"""Whose functions/ and layers/ are run: the repository's, or a copy with a planted bug."""

_compiled: dict[str, CodeType] = {}

STATELESS = (
    "turnqueue.turn",
    *("chunks", "decisions", "modelerror", "modelstream", "refusals", "reply", "structured"),
)
"""Modules of constants, values and pure functions, which import only each other. All simulated processes share them,
because to make their classes anew for each process took a fifth of the time."""
_stateless: dict[str, ModuleType] = {}


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


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles a file once, runs it as often as it is imported. `later`: the modules that its functions import while
    they run."""

    def __init__(self, name: str, path: str, later: dict[str, ModuleType] | None) -> None:
        super().__init__(name, path)
        self._later = later

    def exec_module(self, module: ModuleType) -> None:
        if self._later is not None:
            later = self._later

            def importing(name: str, *args: Any, **kwargs: Any) -> Any:
                return later[name] if name in later else builtins.__import__(name, *args, **kwargs)

            module.__dict__["__builtins__"] = {**vars(builtins), "__import__": importing}
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
        self.later: dict[str, ModuleType] | None = None
        for root in roots:
            for file in root.rglob("*.py"):
                parts = file.relative_to(root).with_suffix("").parts
                self.files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        file = self.files.get(name)
        if file is None:
            return None
        places = [str(file.parent)] if file.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(
            name, file, loader=_Loader(name, str(file), self.later), submodule_search_locations=places
        )


_finders: dict[str, _Finder] = {}


@cache
def _trusted() -> ssl.SSLContext:
    """The authorities, read once for all processes: to read them took a third of all the time."""
    return create_ssl_context()


def load(function: str, later: Sequence[str] = ()) -> ModuleType:
    """Import a function as a new process does. What it imports of ours is its own; libraries are shared. `later`: the
    modules that it imports with a request, by `from`."""
    finder = _finders.setdefault(function, _Finder(function))
    finder.later = {} if later else None
    with _alone(finder):
        module = importlib.import_module(function)
        if finder.later is not None:
            # The others come with these.
            finder.later.update({name: importlib.import_module(name) for name in later})
    return module


@contextmanager
def _alone(finder: Any) -> Iterator[None]:
    others = {name: sys.modules.pop(name) for name in finder.files if name in sys.modules}
    metrics, get_session = aws_lambda_powertools.Metrics, botocore.session.get_session
    # These two keep what a process collects in the library: the one in the class, the other in a registry of names.
    own: dict[str, Any] = {name: {} for name in ("_metrics", "_dimensions", "_metadata", "_default_dimensions")}
    aws_lambda_powertools.Metrics = type("Metrics", (metrics,), own)  # type: ignore[misc, assignment]
    logging.Logger.manager.loggerDict.pop(os.environ["POWERTOOLS_SERVICE_NAME"], None)
    botocore.session.get_session = lambda *args, **kwargs: aws_session
    sys.meta_path.insert(0, finder)
    sys.modules.update({name: module for name, module in _stateless.items() if name in finder.files})
    try:
        with mock.patch.object(httpx2, "create_ssl_context", _trusted):
            yield
        fresh = finder.files.keys() & sys.modules.keys()  # a test may have imported the modules of other functions
        _stateless.update({name: sys.modules[name] for name in STATELESS if name in fresh})
    finally:
        sys.meta_path.remove(finder)
        aws_lambda_powertools.Metrics, botocore.session.get_session = metrics, get_session  # type: ignore[misc]
        for name in finder.files:
            sys.modules.pop(name, None)
        sys.modules.update(others)
