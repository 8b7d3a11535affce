"""What `sam build` runs for each function and for the layer, in the place of SAM's own Python builder.

SAM's builder ships no bytecode, and Lambda's folders are read-only, so every cold start would compile every module
again. This one ships, for the architecture that the template names:

- the wheels of requirements.txt, each with a hash that is listed there, without what is never imported;
- the folder's own files;
- in the layer, what botocore reads of its data for the services that we call (botocore.txt);
- unchecked-hash bytecode of Python 3.13 for all of it, good whatever a zip does to the files' times.

SAM gives the artefacts' folder in ARTIFACTS_DIR and a copy of CodeUri (ContentUri) as the working directory. It does
not give the architecture: the template's ContextPath picks arm64/Makefile or x86_64/Makefile, and that gives it.

The wheels, unpacked and compiled, are kept in .aws-sam/bundles: a build with nothing new only links them.
"""

import ast
import compileall
import gzip
import hashlib
import importlib.util
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Lambda's python3.13 runs on Amazon Linux 2023, whose glibc is 2.34.
MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}
GLIBC_MINORS = range(34, 16, -1)

# Where the bundle is unpacked in Lambda, so that tracebacks name the files there.
FUNCTION_ROOT, LAYER_ROOT = "/var/task", "/opt/python"

# What a distribution brings beside the modules we import. tests/build imports every handler without these, tests/e2e
# runs them. A name that is no longer there fails the build.
UNUSED = {
    "aws_lambda_powertools": """
        event_handler utilities/auth_alpha utilities/batch utilities/circuit_breaker utilities/data_classes
        utilities/data_masking utilities/feature_flags utilities/idempotency utilities/kafka utilities/parser
        utilities/parameters utilities/streaming utilities/validation
    """,
    # Chat Completions is the one API that is called; `openai.types.responses` is imported with it.
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

# Packages that only say again what their modules define: helpers and hundreds of types, none of which the worker needs.
LAZY = ("openai/lib", "openai/types", "openai/types/*", "openai/types/*/*")

# What is called of AWS. Of botocore's data, which describes some 400 services, only this is shipped.
OPERATIONS = {
    "dynamodb": "GetItem PutItem Query UpdateItem",
    # CreateBucket: botocore makes the address of a signed form of its description. HeadBucket: it asks that, when S3
    # sends it elsewhere and does not say where.
    "s3": "CreateBucket GetObject HeadBucket",
    "secretsmanager": "GetSecretValue",
    "sqs": "ChangeMessageVisibilityBatch DeleteMessage ReceiveMessage SendMessage",
}
OTHER_DATA = "_retry.json partitions.json sdk-default-configuration.json"

# The authorities that sign the certificates of AWS's endpoints today: Amazon, by its roots or those of Starfield, which
# it bought, and DigiCert. They are tried first; layers/shared/turnqueue/aws.py says why.
AUTHORITIES = re.compile(r"# Subject: .*\bO=(?:Amazon|DigiCert Inc|Starfield Technologies)")


def main(architecture: str, logical_id: str) -> None:
    os.umask(0o022)  # Lambda reads the files as another user.
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
        shutil.copytree(aws_data(botocore.read_text()), into / "turnqueue" / "aws_data", copy_function=link)
    own = Path(tempfile.mkdtemp()) / "own"
    try:
        shutil.copytree(".", own, ignore=NOT_SHIPPED)
        compile_all(own, root)
        shutil.copytree(own, into, dirs_exist_ok=True)
    finally:
        shutil.rmtree(own.parent)


def check_personas() -> None:
    """Those that are about to be shipped. A mistake in one is told now and not by a task that fails."""
    check = Path(__file__).with_name("personas.py")
    if subprocess.run([sys.executable, "-I", check, "turnqueue/personas"]).returncode:
        sys.exit("mend the persona; `python bundle/personas.py` checks it again")


def packages(requirements: str, architecture: str, root: str) -> Path:
    """The folder that holds what `requirements` names, unpacked and compiled."""

    def make(new: Path) -> None:
        install("requirements.txt", new, architecture)
        leave_out_unused(new)
        make_lazy(new)
        compile_all(new, root, workers=0)  # 0: one a core

    return made(make, requirements, architecture, root)


def aws_data(requirements: str) -> Path:
    """The folder that holds what layers/shared/turnqueue/aws.py needs of botocore's data, of the version that is pinned
    in `requirements`, and the authorities that are tried first."""

    def make(new: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            install("botocore.txt", Path(scratch), "x86_64", "--no-deps")
            botocore = Path(scratch) / "botocore"
            new.mkdir()
            for service, operations in OPERATIONS.items():
                cut_service(botocore / "data" / service, new / service, operations.split())
            for name in OTHER_DATA.split():
                shutil.copy(botocore / "data" / name, new)
            endpoints = read_json(botocore / "data", "endpoints")
            for partition in endpoints["partitions"]:
                partition["services"] = {name: partition["services"].get(name, {}) for name in OPERATIONS}
            write_json(new / "endpoints.json", endpoints)
            cut_authorities(botocore / "cacert.pem", new / "authorities.pem")

    return made(make, requirements)


def made(make: Callable[[Path], None], *parts: str) -> Path:
    """The folder that `make` makes of the `parts`, made now if it never was. Its files cannot be written to."""
    key = hashlib.sha256()
    for part in (*parts, sys.version, Path(__file__).read_text()):
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
                    path.chmod(0o444)  # They are linked into the artefacts: no edit there may come to stay here.
            try:
                new.rename(done)
            except OSError:
                if not done.exists():  # else a build beside this one was first
                    raise
    return done


def link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
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
                    sys.exit(f"{path.relative_to(folder)} is no longer there: mend UNUSED in bundle/bundle.py")
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    for info in folder.glob("*.dist-info"):
        # httpx2 and httpcore2 ask importlib.metadata for their version. The headers answer; the README is not needed.
        headers = (info / "METADATA").read_text(encoding="utf-8").partition("\n\n")[0] + "\n"
        shutil.rmtree(info)
        info.mkdir()
        (info / "METADATA").write_text(headers, encoding="utf-8")
    for path in [path for path in folder.rglob("*") if path.name in NOT_SHIPPED(".", [path.name])]:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def make_lazy(folder: Path) -> None:
    """Let the packages below LAZY import a module when a name of it is first asked for (PEP 562), not all at once."""
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
    """The modules of a package by the names that its __init__.py takes from them; it may do nothing else."""
    modules: dict[str, str] = {}
    for statement in ast.parse(init.read_text(encoding="utf-8")).body:
        match statement:
            case ast.ImportFrom(module="__future__"):
                continue
            case ast.ImportFrom(module=str(module), names=names, level=1) if all(n.asname == n.name for n in names):
                modules |= {name.name: module for name in names}
            case _:
                sys.exit(f"{init}:{statement.lineno} does more than to import names: mend LAZY in bundle/bundle.py")
    return modules


def cut_service(data: Path, into: Path, operations: Sequence[str]) -> None:
    """Copy of the newest description of a service these operations, what they take and give, and its endpoints."""
    newest = max(path for path in data.iterdir() if path.is_dir())
    description = read_json(newest, "service-2")
    description["operations"] = {name: description["operations"][name] for name in operations}
    shapes: dict[str, Any] = {}
    wanted = list(references(description["operations"]))
    while wanted:
        name = wanted.pop()
        if name not in shapes:
            shapes[name] = description["shapes"][name]
            wanted += references(shapes[name])
    description["shapes"] = shapes
    # Elsewhere botocore insists on it.
    description |= {part: without_documentation(description[part]) for part in ("operations", "shapes")}
    folder = into / newest.name
    folder.mkdir(parents=True)
    write_json(folder / "service-2.json", description)
    write_json(folder / "endpoint-rule-set-1.json", read_json(newest, "endpoint-rule-set-1"))
    for extra in newest.glob("service-2.*extras.json"):
        shutil.copy(extra, folder)


def references(part: Any) -> Iterator[str]:
    """The name of every shape that `part` refers to."""
    if isinstance(part, dict):
        if isinstance(name := part.get("shape"), str):
            yield name
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def without_documentation(part: Any) -> Any:
    if isinstance(part, dict):
        kept = {name: value for name, value in part.items() if name != "documentation" or not isinstance(value, str)}
        return {name: without_documentation(value) for name, value in kept.items()}
    return [without_documentation(value) for value in part] if isinstance(part, list) else part


def cut_authorities(source: Path, into: Path) -> None:
    """Copy AUTHORITIES. In the list each certificate has comments that name it, and an empty line before them."""
    certificates = [part for part in source.read_text(encoding="utf-8").split("\n\n") if AUTHORITIES.search(part)]
    if sum("O=Amazon" in certificate for certificate in certificates) < 4:
        sys.exit("botocore's cacert.pem no longer names Amazon's four roots: mend AUTHORITIES in bundle/bundle.py")
    bodies = (certificate[certificate.index("-----BEGIN") :].strip() for certificate in certificates)
    into.write_text("".join(f"{body}\n" for body in bodies))


def read_json(folder: Path, name: str) -> Any:
    packed = folder / f"{name}.json.gz"
    return json.loads(gzip.decompress(packed.read_bytes()) if packed.exists() else packed.with_suffix("").read_bytes())


def write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")


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
        sys.exit("not everything compiles under Python 3.13")


if __name__ == "__main__":
    main(*sys.argv[1:])
