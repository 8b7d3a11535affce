"""Makes openai's type packages import a module only when one of its names is first used (PEP 562). As shipped, the
__init__.py of each package imports all modules of the package. The packages have 700 modules.

If an __init__.py does more than import names, the build fails, because such code would run late or never.
"""

import ast
import sys
from pathlib import Path

# Packages that only re-export the definitions of their modules: helpers and hundreds of types. The worker needs hardly
# any of them.
LAZY = ("openai/lib", "openai/types", "openai/types/*", "openai/types/*/*")


def make_lazy(folder: Path) -> None:
    """Rewrite the packages in LAZY, in a folder of installed packages."""
    for init in sorted(init for packages in LAZY for init in folder.glob(f"{packages}/__init__.py")):
        if modules := reexports(init):
            init.write_text(LAZY_INIT.format(modules=modules), encoding="utf-8")


LAZY_INIT = """\
# Made by Turnqueue's build of an __init__.py that imported all of these.
from importlib import import_module

_MODULES = {modules!r}


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {{__name__!r}} has no attribute {{name!r}}")
    value = globals()[name] = getattr(import_module(f".{{_MODULES[name]}}", __name__), name)
    return value


def __dir__():
    return [*globals(), *_MODULES]
"""


def reexports(init: Path) -> dict[str, str]:
    """The imports of a package's __init__.py: the module of each name. Fails if the file does anything else."""
    modules: dict[str, str] = {}
    for statement in ast.parse(init.read_text(encoding="utf-8")).body:
        match statement:
            case ast.ImportFrom(module="__future__"):
                continue
            case ast.ImportFrom(module=str(module), names=names, level=1) if all(n.asname == n.name for n in names):
                modules |= {name.name: module for name in names}
            case _:
                sys.exit(f"{init}:{statement.lineno} does more than import names: see LAZY in bundle/lazy_types.py")
    return modules
