"""Reads template.yaml as plain data: `!Ref X` becomes {"Ref": "X"}, `!GetAtt A.B` becomes {"Fn::GetAtt": "A.B"}, and so
on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent


class _Loader(yaml.CSafeLoader):
    pass


def _intrinsic(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _intrinsic)


def template() -> dict[str, Any]:
    document: dict[str, Any] = yaml.load((ROOT / "template.yaml").read_text(), Loader=_Loader)
    return document


def resolved(value: Any, document: dict[str, Any]) -> Any:
    """A copy of the value. Each `!FindInMap` is replaced by its result, which is found with the defaults of the
    parameters."""
    if isinstance(value, list):
        return [resolved(each, document) for each in value]
    if not isinstance(value, dict):
        return value
    if list(value) != ["Fn::FindInMap"]:
        return {name: resolved(each, document) for name, each in value.items()}
    name, *keys = value["Fn::FindInMap"]
    found: Any = document["Mappings"][name]
    for key in keys:
        found = found[document["Parameters"][key["Ref"]]["Default"] if isinstance(key, dict) else key]
    return found


def resources(kind: str) -> dict[str, dict[str, Any]]:
    """The properties of all resources of a type, by logical id. Each `!FindInMap` is resolved, with the parameters'
    defaults."""
    document = template()
    return {
        name: resolved(resource.get("Properties", {}), document)
        for name, resource in document["Resources"].items()
        if resource["Type"] == kind
    }


def environment() -> dict[str, str]:
    """The environment variables of all functions in the template. A parameter is replaced by its default (or ""), a
    resource by its logical id."""
    document = template()
    kinds = [each for each in document["Resources"].values() if each["Type"] == "AWS::Serverless::Function"]
    functions = [document["Globals"]["Function"], *(function["Properties"] for function in kinds)]
    given = {
        name: value
        for function in functions
        for name, value in function.get("Environment", {}).get("Variables", {}).items()
    }

    def value_of(value: Any) -> str:
        if not isinstance(value, dict):
            return str(value)
        # the template chooses between its own issuer and the deployer's; take the deployer's
        if "Fn::If" in value:
            return value_of(value["Fn::If"][2])
        parameter = document["Parameters"].get(value["Ref"])
        return str(value["Ref"] if parameter is None else parameter.get("Default", ""))

    return {name: value_of(value) for name, value in given.items()}


def role(function: str) -> str:
    """The logical id of a function's role, by the function's logical id."""
    name: str = resources("AWS::Serverless::Function")[function]["Role"]["Fn::GetAtt"].partition(".")[0]
    return name


def permissions(role: str) -> set[tuple[str, str]]:
    """The permissions of the role with this logical id: pairs of an action and a resource's logical id."""
    return {
        (action, target(resource))
        for statement in statements(resources("AWS::IAM::Role")[role])
        for action in listed(statement["Action"])
        for resource in listed(statement["Resource"])
    }


def statements(properties: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The statements of a role or a policy, from its properties."""
    for policy in properties.get("Policies", [properties]):
        yield from policy["PolicyDocument"]["Statement"]


def target(reference: dict[str, Any]) -> str:
    """The logical id X in `!Ref X`, `!Ref X.Alias`, `!GetAtt X.Y` or `!Sub ${X.Y}/…`."""
    if "Fn::Sub" in reference:
        return str(reference["Fn::Sub"]).removeprefix("${").partition(".")[0]
    name: str = reference["Ref"] if "Ref" in reference else reference["Fn::GetAtt"]
    return name.partition(".")[0]


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
