"""The `aws` commands of docs/tokens.md, run by botocore, because the AWS CLI would pin another version of botocore."""

import json
import sys
from typing import Any

import boto3
import jmespath  # type: ignore[import-untyped]
from botocore import xform_name


def main(service: str, operation: str, *options: str) -> None:
    client: Any = boto3.client(service)  # type: ignore[call-overload]
    method = operation.replace("-", "_")
    members = client.meta.service_model.operation_model(client.meta.method_to_api_mapping[method]).input_shape.members
    names = {xform_name(name, "-"): name for name in members}
    request: dict[str, Any] = {}
    told = {"query": "@", "output": "json"}
    left = list(options)
    while left:
        option = left.pop(0).removeprefix("--")
        if option in told:
            told[option] = left.pop(0)
            continue
        name = names[option]
        kind = members[name].type_name
        if kind == "boolean":
            request[name] = True
        elif kind == "map":
            request[name] = dict(pair.split("=", 1) for pair in left.pop(0).split(","))
        else:
            request[name] = left.pop(0)
    found = jmespath.search(told["query"], getattr(client, method)(**request))
    if told["output"] == "text":
        print("\t".join(found) if isinstance(found, list) else found)  # noqa: T201
    else:
        print(json.dumps(found, default=str))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
