"""Runs all benchmarks, or the named ones, and writes benchmarks/results.md: `python -m benchmarks [name ...]`."""

import argparse
import importlib
import time

from benchmarks.report import NotMeasured

NAMES: tuple[str, ...] = ("streaming", "scale")
"""Modules of this package with a function `run() -> Section`, in the order of the report."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help="all if none is named")
    names = parser.parse_args().names
    if unknown := set(names) - set(NAMES):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}, only {', '.join(NAMES)}")
    for name in names or NAMES:
        started = time.monotonic()
        print(f"{name} ...", flush=True)
        try:
            section = importlib.import_module(f"benchmarks.{name}").run()
        except NotMeasured as reason:
            print(f"{name} was not measured, its section is as it was: {reason}\n", flush=True)
            continue
        section.write()
        print("\n\n".join([f"## {section.title}", *section.body]))
        print(f"\n{name} took {time.monotonic() - started:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
