"""Selects the data of botocore that the layer ships: the descriptions of the AWS operations that the functions call,
and the certificates of the authorities that AWS uses.

The botocore in Lambda reads descriptions of about 400 services and trusts all public authorities. The build fails
if this selection no longer fits botocore's files.
"""

import gzip
import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# The AWS operations that the functions call, by service.
OPERATIONS = {
    "dynamodb": "BatchGetItem DeleteItem GetItem PutItem Query TransactWriteItems UpdateItem",
    "lambda": "Invoke",
    # botocore takes the address of a signed form from the description of CreateBucket. It calls HeadBucket if S3
    # redirects without naming the region.
    "s3": "CreateBucket DeleteObject GetObject HeadBucket PutObject",
    "secretsmanager": "GetSecretValue",
    "sqs": "ChangeMessageVisibilityBatch DeleteMessageBatch ReceiveMessage SendMessage",
}
OTHER_DATA = "_retry.json partitions.json sdk-default-configuration.json"

# The authorities that sign the certificates of AWS's endpoints today: DigiCert and Amazon, which also uses the roots of
# Starfield. layers/shared/turnqueue/aws.py says why a new connection tries only their certificates first.
AUTHORITIES = re.compile(r"# Subject: .*\bO=(?:Amazon|DigiCert Inc|Starfield Technologies)")


def cut(botocore: Path, into: Path) -> None:
    """Copy data of an installed botocore into a new folder: only the data that layers/shared/turnqueue/aws.py needs."""
    into.mkdir()
    for service, operations in OPERATIONS.items():
        cut_service(botocore / "data" / service, into / service, operations.split())
    for name in OTHER_DATA.split():
        shutil.copy(botocore / "data" / name, into)
    endpoints = read_json(botocore / "data", "endpoints")
    for partition in endpoints["partitions"]:
        partition["services"] = {name: partition["services"].get(name, {}) for name in OPERATIONS}
    write_json(into / "endpoints.json", endpoints)
    cut_authorities(botocore / "cacert.pem", into / "authorities.pem")


def cut_service(data: Path, into: Path, operations: Sequence[str]) -> None:
    """Copy the endpoints of a service. Of its newest description, copy only these operations and their shapes."""
    newest = max(path for path in data.iterdir() if path.is_dir())
    description = read_json(newest, "service-2")
    if gone := [name for name in operations if name not in description["operations"]]:
        sys.exit(f"botocore's {data.name} no longer has {', '.join(gone)}: change OPERATIONS in bundle/aws_data.py")
    description["operations"] = {name: description["operations"][name] for name in operations}
    shapes: dict[str, Any] = {}
    wanted = list(references(description["operations"]))
    while wanted:
        name = wanted.pop()
        if name not in shapes:
            shapes[name] = description["shapes"][name]
            wanted += references(shapes[name])
    description["shapes"] = shapes
    # Keep the documentation of the other parts, because botocore requires it.
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
    """Copy the certificates of AUTHORITIES. In botocore's file, an empty line and comments with the authority's name
    come before each certificate."""
    certificates = [part for part in source.read_text(encoding="utf-8").split("\n\n") if AUTHORITIES.search(part)]
    if sum("O=Amazon" in certificate for certificate in certificates) < 4:
        sys.exit("botocore's cacert.pem no longer names Amazon's four roots: change AUTHORITIES in bundle/aws_data.py")
    bodies = (certificate[certificate.index("-----BEGIN") :].strip() for certificate in certificates)
    into.write_text("".join(f"{body}\n" for body in bodies))


def read_json(folder: Path, name: str) -> Any:
    packed = folder / f"{name}.json.gz"
    return json.loads(gzip.decompress(packed.read_bytes()) if packed.exists() else packed.with_suffix("").read_bytes())


def write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
