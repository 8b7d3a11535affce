"""`sam build` runs this for each function and for the layer, instead of SAM's Python builder. SAM's builder ships no
bytecode, and Lambda's folders are read-only, so every cold start would compile every module again. For the template's
architecture this builder ships:

- the wheels of requirements.txt, with hashes. It leaves out files that are never imported, and makes openai import its
  types lazily (lazy_types.py); - the folder's own files; - in the layer, botocore's data files for the called services
  (botocore.txt, aws_data.py); - unchecked-hash bytecode of Python 3.13 for all modules, which stays valid if a zip
  changes the files' times.

SAM gives the artefacts' folder in ARTIFACTS_DIR and a copy of CodeUri (ContentUri) as the working directory. SAM does
not give the architecture: the template's ContextPath selects arm64/Makefile or x86_64/Makefile, and this Makefile
passes the architecture. The unpacked and compiled wheels stay in .aws-sam/bundles, so a build without changes only
links them.
"""

import compileall
import hashlib
import importlib.util
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

# The build runs this file with `python -I`, so the file cannot import its neighbours without this.
sys.path.append(str(Path(__file__).resolve().parent.parent))
from bundle import aws_data, lazy_types

# The platforms of the wheels: the machine's name for each of Lambda's architectures, and the minor versions of glibc.
# Lambda's python3.13 runs on Amazon Linux 2023, whose glibc is 2.34.
MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}
GLIBC_MINORS = range(34, 16, -1)

# The folders of the bundles in Lambda. The build writes these paths into the bytecode, so that tracebacks show them.
FUNCTION_ROOT, LAYER_ROOT = "/var/task", "/opt/python"

# Files of packages that no function needs. tests/build imports every handler without these files, and tests/e2e runs
# every handler without them. The build fails if one of the files no longer exists.
UNUSED = {
    "aws_lambda_powertools": """
        event_handler utilities/auth_alpha utilities/batch utilities/circuit_breaker utilities/data_classes
        utilities/data_masking utilities/feature_flags utilities/idempotency utilities/kafka utilities/parser
        utilities/parameters utilities/streaming utilities/validation
    """,
    # The worker needs only Chat Completions. Keep `openai.types.responses`: modules of Chat Completions import it.
    "openai": """
        types/admin types/audio types/beta types/containers types/conversations types/evals types/fine_tuning
        types/live types/realtime types/safety types/skills types/uploads types/vector_stores types/webhooks
        resources/admin resources/audio resources/beta resources/containers resources/conversations
        resources/evals resources/fine_tuning resources/live resources/realtime resources/responses
        resources/safety resources/skills resources/uploads resources/vector_stores resources/webhooks
        lib/beta lib/live lib/responses_websocket
    """,
    "httpx2": "websockets",
    "pydantic": "v1 mypy.py",
}
NOT_SHIPPED = shutil.ignore_patterns(
    "__pycache__", "tests", ".*", "Makefile", "*.txt", "*.in", "py.typed", "*.pyc", "*.pyi", "*.md"
)


def main(architecture: str, logical_id: str) -> None:
    os.umask(0o022)  # Make the files readable for all, because Lambda reads them as another user.
    into = Path(os.environ["ARTIFACTS_DIR"])
    root = FUNCTION_ROOT
    if logical_id.endswith("Layer"):
        into, root = into / "python", LAYER_ROOT
        check_personas()

    requirements, botocore = Path("requirements.txt"), Path("botocore.txt")
    if requirements.exists():
        wheels = packages(requirements.read_text(), architecture, root)
        shutil.copytree(wheels, into, copy_function=link, dirs_exist_ok=True)
    if botocore.exists():
        shutil.copytree(botocore_data(botocore.read_text()), into / "turnqueue" / "aws_data", copy_function=link)
    own = Path(tempfile.mkdtemp()) / "own"
    try:
        shutil.copytree(".", own, ignore=NOT_SHIPPED)
        compile_all(own, root)
        shutil.copytree(own, into, dirs_exist_ok=True)
    finally:
        shutil.rmtree(own.parent)


def check_personas() -> None:
    """Check the personas that the layer ships, so that a mistake fails the build and not a task."""
    check = Path(__file__).with_name("personas.py")
    if subprocess.run([sys.executable, "-I", check, "turnqueue/personas"]).returncode:
        sys.exit("correct the persona; `python bundle/personas.py` checks it again")


def packages(requirements: str, architecture: str, root: str) -> Path:
    """The folder with the packages of `requirements`, unpacked and compiled."""

    def make(new: Path) -> None:
        install("requirements.txt", new, architecture)
        leave_out_unused(new)
        lazy_types.make_lazy(new)
        compile_all(new, root, workers=0)  # 0 means one process per core

    return made(make, requirements, architecture, root)


def botocore_data(requirements: str) -> Path:
    """The folder with the data that aws_data.py selects from botocore. `requirements` pins botocore's version."""

    def make(new: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            install("botocore.txt", Path(scratch), "x86_64", "--no-deps")
            aws_data.cut(Path(scratch) / "botocore", new)

    return made(make, requirements)


def made(make: Callable[[Path], None], *parts: str) -> Path:
    """The folder that `make` fills, with read-only files. Later builds use this folder too, until one of `parts`, the
    Python version or this builder changes."""
    key = hashlib.sha256()
    code = [Path(module).read_text() for module in (__file__, aws_data.__file__, lazy_types.__file__)]
    for part in (*parts, sys.version, *code):
        key.update(part.encode() + b"\0")
    bundles = Path(__file__).resolve().parent.parent / ".aws-sam" / "bundles"
    done = bundles / key.hexdigest()[:16]
    if not done.exists():
        bundles.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=bundles, prefix="new-") as scratch:
            new = Path(scratch) / "new"
            make(new)
            for path in new.rglob("*.*"):
                if path.is_file():
                    # Read-only: the build folder has hard links to these files, so an edit there would change them.
                    path.chmod(0o444)
            try:
                new.rename(done)
            except OSError:
                if not done.exists():  # otherwise, another build has just made it
                    raise
    return done


def link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a link to another file system fails
        shutil.copy2(source, target)


def install(requirements: str, into: Path, architecture: str, *options: str) -> None:
    if importlib.util.find_spec("pip") is None:
        sys.exit(f"{sys.executable} has no pip. Install it, or put .tools/sam/bin on PATH after `make setup`.")
    platforms = [f"manylinux_2_{minor}_{MACHINES[architecture]}" for minor in GLIBC_MINORS]
    command = [sys.executable, "-I", "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input"]
    command += ["--root-user-action", "ignore", "--no-warn-conflicts", "--no-compile"]
    command += ["--require-hashes", "--only-binary", ":all:"]
    command += ["--implementation", "cp", "--python-version", "3.13"]
    for platform in (*platforms, f"manylinux2014_{MACHINES[architecture]}"):
        command += ["--platform", platform]
    if subprocess.run([*command, *options, "--target", into, "-r", requirements]).returncode:
        sys.exit(f"pip could not install {requirements} for {architecture}")


def leave_out_unused(folder: Path) -> None:
    shutil.rmtree(folder / "bin", ignore_errors=True)
    for package, unused in UNUSED.items():
        if (folder / package).exists():
            for path in map((folder / package).joinpath, unused.split()):
                if not path.exists():
                    sys.exit(f"{path.relative_to(folder)} is no longer there: change UNUSED in bundle/bundle.py")
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    for info in folder.glob("*.dist-info"):
        # httpx2 and httpcore2 read their version from the headers of this file. They do not need its README.
        headers = (info / "METADATA").read_text(encoding="utf-8").partition("\n\n")[0] + "\n"
        shutil.rmtree(info)
        info.mkdir()
        (info / "METADATA").write_text(headers, encoding="utf-8")
    for path in [path for path in folder.rglob("*") if path.name in NOT_SHIPPED(".", [path.name])]:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def compile_all(folder: Path, root: str, workers: int = 1) -> None:
    compiled = compileall.compile_dir(
        folder,
        maxlevels=99,
        stripdir=folder,
        prependdir=root,
        quiet=1,
        optimize=0,
        workers=workers,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    if not compiled:
        sys.exit("some installed files do not compile under Python 3.13")


if __name__ == "__main__":
    main(*sys.argv[1:])
