"""The artefacts of `sam build`, for both architectures: they start, and they start fast."""

import importlib.util
import json
import os
import platform
import re
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore import xform_name

from local.processes import locked

ROOT = Path(__file__).resolve().parents[2]
SAM = ROOT / ".tools/sam/bin/sam"
RUNTIME_PYTHON = ROOT / ".tools/runtime/bin/python"
HOST = {"aarch64": "arm64", "arm64": "arm64", "x86_64": "x86_64"}[platform.machine()]
ELF_MACHINES = {"x86_64": 62, "arm64": 183}
UNCHECKED_HASH = 0b01

IMPORT_HANDLER = """
import importlib, sys
module, function = sys.argv[1].split(".")
sys.path[:0] = sys.argv[2:]
assert callable(getattr(importlib.import_module(module), function))
"""


@pytest.fixture(scope="module", params=["arm64", "x86_64"])
def architecture(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def built(architecture: str) -> Path:
    """The folder of the artefacts for `architecture`. Not that of `make build`, which is someone's to deploy."""
    folder = ROOT / ".aws-sam" / "tests" / architecture / "build"
    command = ["build", "--parallel", "--no-cached", "--build-dir", str(folder)]
    command += ["--parameter-overrides", f"Architecture={architecture}"]
    (ROOT / ".aws-sam").mkdir(exist_ok=True)
    with locked(ROOT / ".aws-sam" / "lock"):  # a local stack of another test builds too
        done = subprocess.run([SAM, *command], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def template(built: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((built / "template.yaml").read_text())
    return document


def resources(template: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {name: made["Properties"] for name, made in template["Resources"].items() if made["Type"] == kind}


def code(template: dict[str, Any], built: Path) -> dict[str, Path]:
    """Where the code of each function and of the layer was built, by logical id."""
    functions = resources(template, "AWS::Serverless::Function").items()
    layers = resources(template, "AWS::Serverless::LayerVersion").items()
    folders = {name: built / properties["CodeUri"] for name, properties in functions}
    return folders | {name: built / properties["ContentUri"] / "python" for name, properties in layers}


@pytest.mark.timeout(300)  # the first build on a machine fetches the wheels
def test_every_module_has_bytecode_that_no_timestamp_can_make_stale(built: Path) -> None:
    sources = list(built.rglob("*.py"))
    assert sources
    for source in sources:
        header = Path(importlib.util.cache_from_source(source)).read_bytes()[:8]
        assert header[:4] == importlib.util.MAGIC_NUMBER, source  # the tests run on Lambda's Python
        assert int.from_bytes(header[4:], "little") == UNCHECKED_HASH, source


def test_bytecode_names_the_files_where_lambda_unpacks_them(built: Path) -> None:
    assert b"/var/task/submit.py" in compiled(built / "SubmitFunction" / "submit.py")
    assert b"/opt/python/turnqueue/turn.py" in compiled(built / "SharedLayer/python/turnqueue/turn.py")
    for bytecode in built.rglob("*.pyc"):
        assert os.fsencode(ROOT) not in bytecode.read_bytes(), bytecode


def compiled(source: Path) -> bytes:
    return Path(importlib.util.cache_from_source(source)).read_bytes()


def test_every_extension_module_is_for_the_architecture(built: Path, architecture: str) -> None:
    libraries = list(built.rglob("*.so*"))
    assert libraries
    for library in libraries:
        with library.open("rb") as file:
            header = file.read(20)
        assert header[:4] == b"\x7fELF", library
        assert int.from_bytes(header[18:20], "little") == ELF_MACHINES[architecture], library


def test_only_the_worker_carries_openai(built: Path, template: dict[str, Any]) -> None:
    carriers = {name for name, folder in code(template, built).items() if (folder / "openai").exists()}
    assert carriers == {"WorkerFunction"}


def test_no_function_carries_what_lambda_or_the_layer_brings(built: Path, template: dict[str, Any]) -> None:
    for name, folder in code(template, built).items():
        for package in ("boto3", "botocore", "pip", "pytest"):
            assert not (folder / package).exists(), name
        if name != "SharedLayer":
            assert not (folder / "turnqueue").exists(), name


def test_nothing_is_shipped_that_lambda_does_not_read(built: Path) -> None:
    unread = {".md", ".pyi", ".txt", ".gz"}
    for path in built.rglob("*"):
        assert path.suffix not in unread, path
        assert path.name not in ("tests", "Makefile", "bin", "RECORD"), path
        assert path.stat().st_mode & 0o044 == 0o044, f"{path} can not be read by Lambda's user"


def test_the_layer_carries_what_botocore_reads_for_the_services_that_are_called(built: Path) -> None:
    sources = [path.read_text() for folder in ("functions", "layers") for path in (ROOT / folder).rglob("*.py")]
    called = {service for text in sources for service in re.findall(r'(?:client|_shared)\(\s*"(\w+)"', text)}
    data = built / "SharedLayer/python/turnqueue/aws_data"
    assert called >= {"dynamodb", "sqs"}
    assert {path.name for path in data.iterdir() if path.is_dir()} == called


def test_the_layer_describes_every_call_that_is_made(built: Path) -> None:
    sources = [path.read_text() for folder in ("functions", "layers") for path in (ROOT / folder).rglob("*.py")]
    callers = [text for text in sources if "aws.client(" in text or "aws.form_client(" in text]
    called = {name for text in callers for name in re.findall(r"\b_client\.(\w+)", text)}
    files = (built / "SharedLayer/python/turnqueue/aws_data").glob("*/*/service-2.json")
    described = {xform_name(name) for file in files for name in json.loads(file.read_text())["operations"]}
    assert called >= {"get_item", "send_message", "get_object", "get_secret_value"}
    assert called - {"exceptions", "generate_presigned_post"} <= described
    # What botocore calls by itself: to sign a form, and to follow S3 to where a bucket is.
    assert described >= {"create_bucket", "head_bucket"}


ADDRESSES = """
import itertools, json, os, sys
import botocore.session
from botocore.exceptions import EndpointResolutionError
sys.path.insert(0, sys.argv[1])
from turnqueue import aws

def address(client, operation, parameters):
    try:
        model = client.meta.service_model.operation_model(operation)
        return client._resolve_endpoint_ruleset(model, parameters, {"client_config": client.meta.config})[0]
    except EndpointResolutionError as error:
        return str(error)

def addresses():
    yield address(aws._shared.__wrapped__("dynamodb", 1, 3), "GetItem", {"TableName": "t"})
    yield address(aws._shared.__wrapped__("sqs", 1, 3), "SendMessage", {"QueueUrl": "q"})
    yield address(aws._shared.__wrapped__("secretsmanager", 1, 3), "GetSecretValue", {"SecretId": "s"})
    form = aws._shared.__wrapped__("s3", 1, 3, signs_forms=True)
    yield address(form, "GetObject", {"Bucket": "uploads", "Key": "k"})
    try:
        yield form.generate_presigned_post("uploads", "k")["url"]
    except EndpointResolutionError as error:
        yield str(error)

found = {}
shipped = aws._session.get_component("data_loader")
for data in ("shipped", "botocore's own"):
    for region in ("us-east-1", "eu-south-2", "us-gov-west-1", "cn-north-1", "eusc-de-east-1", "eu-unheard-of-1"):
        for kind in ("", "FIPS", "DUALSTACK"):
            os.environ["AWS_DEFAULT_REGION"] = region
            for name in ("FIPS", "DUALSTACK"):
                os.environ[f"AWS_USE_{name}_ENDPOINT"] = str(name == kind).lower()
            aws._session = botocore.session.get_session()
            if data == "shipped":
                aws._session.register_component("data_loader", shipped)
            found.setdefault(f"{region} {kind}", []).append(list(addresses()))
print(json.dumps(found))
"""


def test_the_address_of_every_service_is_that_which_botocore_itself_would_take(built: Path) -> None:
    """In all partitions, and also where botocore's rules and its older list of endpoints differ."""
    done = subprocess.run(
        [RUNTIME_PYTHON, "-c", ADDRESSES, built / "SharedLayer/python"],
        env={"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["us-east-1 "][0][0] == "https://dynamodb.us-east-1.amazonaws.com"
    assert {case: ours for case, (ours, _) in found.items()} == {case: own for case, (_, own) in found.items()}


def test_the_data_is_no_newer_than_the_botocore_that_reads_it() -> None:
    def pinned(file: str) -> tuple[int, ...]:
        [version] = re.findall(r"^botocore==(\d+)\.(\d+)\.(\d+)\b", (ROOT / file).read_text(), re.MULTILINE)
        return tuple(map(int, version))

    assert pinned("layers/shared/botocore.txt") <= pinned("local/requirements/runtime.txt")


def test_the_layer_tries_amazon_for_aws_first_and_few_besides(built: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(built / "SharedLayer/python/turnqueue/aws_data/authorities.pem")
    subjects: list[Any] = [ca["subject"] for ca in context.get_ca_certs()]
    names = {value for subject in subjects for ((name, value),) in subject if name == "organizationName"}
    assert names == {"Amazon", "DigiCert Inc", "Starfield Technologies, Inc."}


@pytest.mark.parametrize(("bundle", "read"), [(None, "authorities.pem"), ("/opt/own.pem", "own.pem")])
def test_the_few_authorities_are_tried_first_unless_the_deployer_names_others(
    built: Path, bundle: str | None, read: str
) -> None:
    """tests/unit/test_tls.py: all public ones are tried after them."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from turnqueue import aws; print(os.fspath(aws._authorities))"
    )
    environment = {"AWS_CA_BUNDLE": bundle} if bundle else {}
    command = [str(RUNTIME_PYTHON), "-c", code, str(built / "SharedLayer/python")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).name == read


def test_the_worker_imports_of_openai_what_it_needs(built: Path) -> None:
    """And a name that it needs later is there: PEP 562 in the place of an import of everything."""
    code = """
import sys
import openai
before = len([name for name in sys.modules if name.startswith("openai.types.")])
from openai.types.responses import ResponseInputText, response_input_text
assert ResponseInputText is response_input_text.ResponseInputText
assert openai.types.Batch.__module__ == "openai.types.batch" and "Batch" in dir(openai.types)
print(before)
"""
    folder = built / "WorkerFunction"
    if built.parent.name != HOST:
        pytest.skip("not this machine's architecture")
    done = subprocess.run([RUNTIME_PYTHON, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 60  # of some 700


def test_the_layer_carries_the_personas(built: Path) -> None:
    kept = {path.name for path in (ROOT / "layers/shared/turnqueue").rglob("*.toml")}
    assert kept
    assert {path.name for path in (built / "SharedLayer/python/turnqueue").rglob("*.toml")} == kept


def test_the_bundles_leave_room_below_lambdas_limit(built: Path, template: dict[str, Any]) -> None:
    sizes = {
        name: sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        for name, folder in code(template, built).items()
    }
    assert max(sizes.values()) + sizes["SharedLayer"] < 30_000_000, sizes  # Lambda's limit is 250 MB


def test_every_handler_imports_from_its_bundle_alone(built: Path, template: dict[str, Any], architecture: str) -> None:
    if architecture != HOST:
        pytest.skip(f"this machine can not load modules for {architecture}")
    folders = code(template, built)
    shared = template["Globals"]["Function"]["Environment"]["Variables"]
    for name, properties in resources(template, "AWS::Serverless::Function").items():
        own = properties.get("Environment", {}).get("Variables", {})
        environment = {key: value_of(value, template) for key, value in (shared | own).items()}
        environment |= {"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
        environment |= {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
        arguments = [properties["Handler"], folders[name], folders["SharedLayer"]]
        command = [RUNTIME_PYTHON, "-I", "-c", IMPORT_HANDLER, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{name}\n{done.stderr}"


def value_of(value: Any, template: dict[str, Any]) -> str:
    """A stand-in for what CloudFormation would give: a parameter's default, else any text."""
    if isinstance(value, dict):
        parameter = template["Parameters"].get(value.get("Ref"), {})
        return str(parameter.get("Default", "http://127.0.0.1:9/none"))
    return str(value)
