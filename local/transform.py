"""Applies the template's transforms as AWS does before CloudFormation gets the template: AWS::LanguageExtensions first,
then SAM. The emulated account applies neither.

AWS::LanguageExtensions replaces each reference to a parameter by its value. So SAM hashes the values, and a changed
value makes a new version of the functions that use it.

The SAM CLI contains both transforms. `transform` and `run` start this file under the SAM CLI's Python (.tools/sam).
"""

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

type Template = dict[str, Any]

EXTENSIONS, SERVERLESS = "AWS::LanguageExtensions", "AWS::Serverless-2016-10-31"
PSEUDO_PARAMETERS = {"region": "us-east-1", "account_id": "123456789012", "stack_name": "turnqueue"}
"""The values of AWS::Region and similar parameters, for tests. In a deployment, CloudFormation sets them."""

# Warnings of cfn-lint that a transformed template may have: unused parameters, mappings and conditions, and comparisons
# with a fixed result.
_DONE = {"W2001", "W7001", "W8001", "W8003"}


class Refused(Exception):
    """A transform refused the template. The exception has the transform's message."""


def transform(python: Path, template: Path, parameters: Mapping[str, Any]) -> Template:
    """Apply AWS::LanguageExtensions with these parameters to the template in a file. Returns the new template, in
    which pseudo parameters are unchanged. `python`: the SAM CLI's Python. Raises Refused."""
    [outcome] = run(python, [{"template": str(template), "parameters": dict(parameters), "until": "extended"}])
    if "refused" in outcome:
        raise Refused(outcome["refused"])
    extended: Template = outcome["extended"]
    return extended


def run(python: Path, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run jobs and return their outcomes. A job has `template` (a template, or the path of its YAML), `parameters`, and
    `until`, which selects the members of its outcome:

    - "extended": `extended`, the template after AWS::LanguageExtensions, and `effective`, the same template without the
      resources and outputs whose conditions are false.
    - "transformed": `transformed`, the template after both transforms, also without these resources and outputs.
    - "linted": in addition `problems`, the findings of cfn-lint, and `create_only`: for each type of resource, the
      properties whose change makes CloudFormation replace the resource.

    If a transform refuses the template, the outcome has only `refused`, the message of the transform.
    """
    environment = {"PATH": os.environ.get("PATH", os.defpath), "AWS_DEFAULT_REGION": PSEUDO_PARAMETERS["region"]}
    command = [python, Path(__file__).resolve()]
    ran = subprocess.run(command, input=json.dumps(jobs), env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"{command} failed:\n{ran.stderr}")
    outcomes: list[dict[str, Any]] = json.loads(ran.stdout.splitlines()[-1])
    return outcomes


# ---- Under the SAM CLI's Python


def main() -> None:
    import logging

    logging.disable()
    jobs = json.load(sys.stdin)
    print(json.dumps([_outcome(**job) for job in jobs]))


def _outcome(template: Template | str, parameters: dict[str, Any], until: str) -> dict[str, Any]:
    if isinstance(template, str):
        from samcli.yamlhelper import yaml_parse  # type: ignore[import-not-found]

        template = json.loads(json.dumps(yaml_parse(Path(template).read_text())))
    try:
        extended, conditions = _extended(mapped(template, _listed_attribute), parameters, pseudo=until != "extended")
        if until == "extended":
            return {"extended": extended, "effective": _without_false_conditions(extended, conditions)}
        transformed = _without_false_conditions(_served(extended, parameters), conditions)
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    outcome: dict[str, Any] = {"transformed": transformed}
    if until == "linted":
        outcome |= {"problems": _problems(transformed), "create_only": _create_only(transformed)}
    return outcome


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of the template, in which `change` has replaced every part, the innermost parts first."""
    if isinstance(value, dict):
        value = {name: mapped(part, change) for name, part in value.items()}
    elif isinstance(value, list):
        value = [mapped(part, change) for part in value]
    return change(value)


def _listed_attribute(value: Any) -> Any:
    """Write `!GetAtt A.B` as the list [A, B], as CloudFormation does when it reads the YAML of `sam deploy`."""
    if isinstance(value, dict) and set(value) == {"Fn::GetAtt"} and isinstance(value["Fn::GetAtt"], str):
        return {"Fn::GetAtt": value["Fn::GetAtt"].split(".", 1)}
    return value


def _extended(template: Template, parameters: dict[str, Any], *, pseudo: bool) -> tuple[Template, dict[str, bool]]:
    from samcli.lib.cfn_language_extensions import api, models, processors  # type: ignore[import-not-found]

    context = models.TemplateProcessingContext(
        fragment=copy.deepcopy(template),
        parameter_values=parameters,
        pseudo_parameters=models.PseudoParameterValues(**PSEUDO_PARAMETERS) if pseudo else None,
    )
    resolver = api.create_default_intrinsic_resolver(context)
    _resolve_as_aws_does(resolver)
    pipeline = api.ProcessingPipeline(
        [
            processors.TemplateParsingProcessor(),
            processors.ForEachProcessor(intrinsic_resolver=resolver),
            api.IntrinsicResolverProcessor(resolver),
            processors.DeletionPolicyProcessor(),
            processors.UpdateReplacePolicyProcessor(),
        ]
    )
    extended = pipeline.process_template(context)
    declared = extended["Transform"]
    left = [each for each in ([declared] if isinstance(declared, str) else declared) if each != EXTENSIONS]
    return {**extended, "Transform": left[0]}, dict(context.resolved_conditions)


def _resolve_as_aws_does(resolver: Any) -> None:
    """Change three things in the SAM CLI's copy of AWS::LanguageExtensions, so that it works as on AWS.

    - Sub: the SAM CLI drops the Fn::Sub of a text that names a resource. AWS keeps the Fn::Sub.
    - ToJsonString: the SAM CLI writes {"Ref": …} into the JSON as text. AWS writes a Fn::Sub. For these two points, see
      github.com/aws-cloudformation/cfn-language-discussion/issues/103.
    - Condition: the SAM CLI treats 0 and "0" as equal. This module treats them as different, because AWS may do so.
    """
    from samcli.lib.cfn_language_extensions import resolvers

    class Sub(resolvers.FnSubResolver):  # type: ignore[misc]
        def resolve(self, value: dict[str, Any]) -> Any:
            text, variables = self._parse_args(value["Fn::Sub"])
            variables = self._resolve_variable_map(variables)
            plain = {name: given for name, given in variables.items() if not isinstance(given, dict)}
            left = {name: given for name, given in variables.items() if isinstance(given, dict)}
            kept = re.sub(r"\$\{!", "${!!", text)  # _substitute removes one "!", so add one
            text_left = str(self._substitute(kept, {**plain, **{name: f"${{{name}}}" for name in left}}))
            if not re.search(r"\$\{[^!]", text_left):
                return text_left.replace("${!", "${")
            return {"Fn::Sub": [text_left, left] if left else text_left}

    class ToJsonString(resolvers.FnToJsonStringResolver):  # type: ignore[misc]
        def resolve(self, value: dict[str, Any]) -> Any:
            body = json.loads(super().resolve(value), object_pairs_hook=dict)
            variables: dict[str, Any] = {}

            def named(part: Any) -> Any:
                if isinstance(part, dict) and len(part) == 1 and ("Ref" in part or next(iter(part)).startswith("Fn::")):
                    variables[f"Part{len(variables)}"] = part
                    return f"${{Part{len(variables) - 1}}}"
                return part.replace("${", "${!") if isinstance(part, str) and not part.startswith("${Part") else part

            # Replace the outermost intrinsics only: one variable stands for an intrinsic with all its parts.
            def replaced(part: Any) -> Any:
                found = named(part)
                if found is not part:
                    return found
                if isinstance(part, dict):
                    return {name: replaced(inner) for name, inner in part.items()}
                return [replaced(inner) for inner in part] if isinstance(part, list) else part

            text = json.dumps(replaced(body), separators=(",", ":"))
            return {"Fn::Sub": [text, variables]} if variables else text

    class Condition(resolvers.ConditionResolver):  # type: ignore[misc]
        def _resolve_equals(self, args: Any) -> bool:
            first, second = map(self._resolve_nested, args)
            return type(first) is type(second) and bool(super()._resolve_equals(args))

    for number, each in enumerate(resolver._resolvers):
        for better in (Sub, ToJsonString, Condition):
            if type(each) in better.__bases__:
                resolver._resolvers[number] = better(each.context, resolver)


def _served(extended: Template, parameters: dict[str, Any]) -> Template:
    from samtranslator.translator.transform import transform as serve  # type: ignore[import-not-found]

    packaged = copy.deepcopy(extended)
    # set the addresses that `sam deploy` sets when it has uploaded the code
    for name, resource in packaged["Resources"].items():
        for uri in {"CodeUri", "ContentUri"} & set(resource.get("Properties", {})):
            if not str(resource["Properties"][uri]).startswith("s3://"):
                resource["Properties"][uri] = f"s3://bucket/{name}"
    no_policies = type("NoPolicies", (), {"load": lambda self: {}})()
    given = {name: declared.get("Default", "") for name, declared in packaged["Parameters"].items()} | parameters
    served: Template = serve(packaged, given, no_policies)
    return served


def _without_false_conditions(template: Template, conditions: dict[str, bool]) -> Template:
    """The template with only the resources and outputs whose conditions are true. Each Fn::If in them is replaced by
    its chosen part."""

    def holds(entry: Any) -> bool:
        return conditions.get(str(entry.get("Condition")), True) if isinstance(entry, dict) else True

    def chosen(value: Any) -> Any:
        if isinstance(value, dict) and set(value) == {"Fn::If"} and value["Fn::If"][0] in conditions:
            return value["Fn::If"][1 if conditions[value["Fn::If"][0]] else 2]
        return value

    def unconditional(entry: Any) -> Any:
        return {name: part for name, part in entry.items() if name != "Condition"} if isinstance(entry, dict) else entry

    kept = {
        section: {name: unconditional(entry) for name, entry in template.get(section, {}).items() if holds(entry)}
        for section in ("Resources", "Outputs")
    }
    return {name: part for name, part in template.items() if name != "Conditions"} | dict(mapped(kept, chosen))


def _problems(template: Template) -> list[str]:
    from cfnlint import ManualArgs  # type: ignore[import-not-found]
    from cfnlint.api import lint  # type: ignore[import-not-found]

    found = lint(json.dumps(template), config=ManualArgs(regions=[PSEUDO_PARAMETERS["region"]]))
    return [f"{each.rule.id} {each.message}" for each in found if each.rule.id not in _DONE]


def _create_only(template: Template) -> dict[str, list[str]]:
    """For each type of resource, the properties whose change makes CloudFormation replace the resource."""
    from cfnlint.schema import PROVIDER_SCHEMA_MANAGER  # type: ignore[import-not-found]

    return {
        kind: [path.split("/")[2] for path in _schema(PROVIDER_SCHEMA_MANAGER, kind).get("createOnlyProperties") or []]
        for kind in sorted({resource["Type"] for resource in template["Resources"].values()})
    }


def _schema(manager: Any, kind: str) -> dict[str, Any]:
    schema: dict[str, Any] = manager.get_resource_schema(PSEUDO_PARAMETERS["region"], kind).schema
    return schema


if __name__ == "__main__":
    main()
