"""The template after the transforms of AWS, for each set of parameters, and for a change of each parameter alone.

AWS::LanguageExtensions and SAM run as in the SAM CLI's package, once for all tests here (local/transform.py).
"""

import collections
import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from development import cfn
from local import transform
from tests import parameters
from tests.unit import template_rules as rules

SAM_PYTHON = cfn.ROOT / ".tools/sam/bin/python"
EFFECTS = cfn.ROOT / "docs/configuration.md"
ROLLBACK_ALARMS = {"WorkerErrorAlarm", "FailureRateAlarm", "Api5xxAlarm"}

# What Lambda keeps with each version. SAM hashes every property of a function into the version's logical id, these and
# others; but a version is refused if none of these changed ("A version for this Lambda function exists").
HELD_BY_A_VERSION = {
    *("Architectures", "Code", "Description", "Environment", "EphemeralStorage", "Handler", "KmsKeyArn", "Layers"),
    *("LoggingConfig", "MemorySize", "Role", "Runtime", "SnapStart", "Timeout", "TracingConfig", "VpcConfig"),
}
# A function and its alias change with each new version.
OF_A_VERSION = ("AWS::Lambda::Function", "AWS::Lambda::Version", "AWS::Lambda::Alias", "AWS::Lambda::LayerVersion")

pytestmark = pytest.mark.timeout(180)

type Resources = dict[str, dict[str, Any]]


# ---- The jobs


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Numbers as numbers: whether AWS hands a parameter of type Number to a transform as text is not documented."""
    declared = cfn.template()["Parameters"]
    return {name: int(value) if declared[name]["Type"] == "Number" else value for name, value in values.items()}


DEFAULTS = parameters.defaults()
SETS = {
    "defaults": DEFAULTS,
    "a JwtIssuer": DEFAULTS | {"JwtIssuer": "https://issuer.example", "JwtAudience": "chat"},
    "everything on": DEFAULTS | parameters.ON | parameters.LONGEST,
    "everything off": DEFAULTS | parameters.OFF,
}
AS_NUMBERS = {f"{name}, as numbers": plain(values) for name, values in SETS.items()}
CHANGES = {
    (base, name): SETS[base] | {name: parameters.another(name, than=SETS[base][name])}
    for base in ("defaults", "everything on")
    for name in DEFAULTS
}


def new_code(template: dict[str, Any]) -> None:
    template["Resources"]["WorkerFunction"]["Properties"]["CodeUri"] = "s3://bucket/WorkerFunction-2"


def new_layer(template: dict[str, Any]) -> None:
    template["Resources"]["SharedLayer"]["Properties"]["ContentUri"] = "s3://bucket/SharedLayer-2"


def new_timeout(template: dict[str, Any]) -> None:
    template["Resources"]["WorkerFunction"]["Properties"]["Timeout"] = 401


def new_memory(template: dict[str, Any]) -> None:
    template["Globals"]["Function"]["MemorySize"] += 1


ABOUT_PARAMETERS = {
    rules.a_condition_compares_text_with_text,
    rules.every_folder_is_a_function,  # streams if StreamFunction is true
    rules.each_role_may_use_the_deployers_key_for_what_it_does_and_while_there_is_one,
    rules.every_alarm_tells_the_deployer_when_it_rings_and_when_it_is_over,
    rules.every_resource_has_its_settings,
    rules.the_deployer_says_what_becomes_of_the_data,
    rules.the_description_changes_with_what_a_version_does_not_hold,
    rules.the_worker_may_use_the_fallback_while_there_is_one,
    rules.what_is_reserved_for_the_worker_is_what_it_may_use,
    rules.what_the_emulated_account_cannot_hold_is_under_a_condition,
    rules.who_is_waited_for_starts_from_a_snapshot_if_asked_to,
    rules.cors_lets_the_browser_see_and_send_our_headers,
    rules.the_dashboard_shows_every_alarm_that_tells,
}
"""Rules of which parameter decides: they hold for the template as it is written, where references are left."""

EDITS: dict[Callable[[dict[str, Any]], None], set[str] | None] = {
    new_code: {"WorkerFunction"},
    new_timeout: {"WorkerFunction"},
    new_layer: None,
    new_memory: None,
}
"""Changes of the template, and the functions of which they make a new version; None: of all."""


@pytest.fixture(scope="module")
def outcomes() -> dict[Any, dict[str, Any]]:
    jobs: dict[Any, dict[str, Any]] = {
        **{name: {"parameters": values, "until": "linted"} for name, values in SETS.items()},
        **{name: {"parameters": values, "until": "transformed"} for name, values in (AS_NUMBERS | CHANGES).items()},
        **{edit: {"parameters": DEFAULTS, "until": "transformed"} for edit in EDITS},
        **{(name, "extended"): {"parameters": values, "until": "extended"} for name, values in SETS.items()},
    }
    template = cfn.template()
    for key, job in jobs.items():
        job["template"] = template
        if key in EDITS:
            job["template"] = copy.deepcopy(template)
            key(job["template"])
    return dict(zip(jobs, transform.run(SAM_PYTHON, list(jobs.values())), strict=True))


def resources_of(outcome: dict[str, Any]) -> Resources:
    assert "refused" not in outcome, outcome["refused"]
    resources: Resources = outcome["transformed"]["Resources"]
    return resources


# ---- Each set of parameters


def test_every_parameter_is_switched_on() -> None:
    """Add what is missing to tests/parameters.py, with a value that is not its default."""
    assert set(parameters.ON) | {"ModelKeySecretArn"} == set(DEFAULTS)
    assert [name for (_, name), values in CHANGES.items() if values[name] is None] == []


@pytest.mark.parametrize("name", SETS)
def test_the_values_are_ones_that_the_template_allows(name: str) -> None:
    for parameter, declared in cfn.template()["Parameters"].items():
        value = SETS[name][parameter]
        assert re.fullmatch(declared.get("AllowedPattern", r"[^\n]*"), value), parameter
        assert len(value) <= declared.get("MaxLength", 4096), parameter
        assert value in map(str, declared.get("AllowedValues", [value])), parameter


@pytest.mark.parametrize("name", SETS)
def test_aws_takes_the_template(outcomes: dict[Any, dict[str, Any]], name: str) -> None:
    assert outcomes[name].get("refused") is None
    assert outcomes[name]["problems"] == []


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(
    "rule", [rule for rule in rules.RULES if rule not in ABOUT_PARAMETERS], ids=lambda rule: rule.__name__
)
def test_the_template_keeps_the_rule_with_values_in_it(
    outcomes: dict[Any, dict[str, Any]], rule: rules.Rule, name: str
) -> None:
    outcome = outcomes[name, "extended"]
    assert "refused" not in outcome, outcome["refused"]

    assert list(rule(as_written(outcome["effective"]))) == []


def as_written(template: dict[str, Any]) -> dict[str, Any]:
    """With attributes as text, and the dashboard as what it was before it became text."""

    def restored(value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("Fn::GetAtt"), list):
            return {"Fn::GetAtt": ".".join(value["Fn::GetAtt"])}
        return value

    template = transform.mapped(template, restored)
    text, values = template["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    names = {f"${{{name}}}": value for name, value in values.items()}
    body = transform.mapped(json.loads(text), lambda part: names.get(part, part) if isinstance(part, str) else part)
    template["Resources"]["Dashboard"]["Properties"]["DashboardBody"] = {"Fn::ToJsonString": body}
    return template


@pytest.mark.parametrize("name", SETS)
def test_a_number_means_the_same_as_its_text(outcomes: dict[Any, dict[str, Any]], name: str) -> None:
    def reserved(outcome: dict[str, Any]) -> dict[str, str]:
        functions = of_type(resources_of(outcome), "AWS::Lambda::Function")
        return {each: str(given["Properties"].get("ReservedConcurrentExecutions")) for each, given in functions.items()}

    assert reserved(outcomes[name]) == reserved(outcomes[f"{name}, as numbers"])
    assert "0" not in reserved(outcomes[name]).values()


@pytest.mark.parametrize("name", SETS)
def test_the_dashboard_is_json_without_nulls(outcomes: dict[Any, dict[str, Any]], name: str) -> None:
    body = resources_of(outcomes[name])["Dashboard"]["Properties"]["DashboardBody"]
    text, values = body["Fn::Sub"]
    # CloudFormation puts the value of each name into the text as it is.
    for each, value in values.items():
        if "Fn::Sub" in value:
            assert not re.search(r'["\\\x00-\x1f]', value["Fn::Sub"]), f"{each} would break the JSON: {value}"

    assert None not in list(parts(json.loads(text)))


def parts(value: Any) -> Any:
    yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from parts(part)


# ---- A change of one parameter alone


def of_type(resources: Resources, kind: str) -> Resources:
    return {name: resource for name, resource in resources.items() if resource["Type"] == kind}


def versions(resources: Resources) -> dict[str, str]:
    """The logical id of each function's version: another id is another version."""
    return {
        resource["Properties"]["FunctionName"]["Ref"]: name
        for name, resource in of_type(resources, "AWS::Lambda::Version").items()
    }


def renewed(before: Resources, after: Resources) -> set[str]:
    """The functions that are there before and after, and get a new version."""
    was, is_now = versions(before), versions(after)
    return {name for name in was.keys() & is_now.keys() if was[name] != is_now[name]}


def held(resources: Resources, function: str) -> dict[str, Any]:
    return {name: value for name, value in resources[function]["Properties"].items() if name in HELD_BY_A_VERSION}


@pytest.mark.parametrize(("base", "name"), CHANGES)
def test_a_changed_parameter_makes_new_versions_of_the_functions_that_use_it(
    outcomes: dict[Any, dict[str, Any]], base: str, name: str
) -> None:
    before, after = resources_of(outcomes[base]), resources_of(outcomes[base, name])

    kept = versions(before).keys() & versions(after).keys()
    differ = {function for function in kept if held(before, function) != held(after, function)}

    assert renewed(before, after) == differ


def effects(outcomes: dict[Any, dict[str, Any]], name: str) -> str:
    """A row of the table in docs/configuration.md, of changes from the defaults and from everything on."""
    new: set[str] = set()
    kinds: dict[str, str] = {}
    others: dict[str, set[str]] = {"made or removed": set(), "replaced": set(), "changed": set()}
    create_only = outcomes["everything on"]["create_only"] | outcomes["defaults"]["create_only"]
    for base in ("defaults", "everything on"):
        before, after = resources_of(outcomes[base]), resources_of(outcomes[base, name])
        layers = [set(of_type(each, "AWS::Lambda::LayerVersion")) for each in (before, after)]
        new |= {"layer"} if layers[0] != layers[1] else renewed(before, after)
        for each in before.keys() | after.keys():
            kinds[each] = (before | after)[each]["Type"]
            if kinds[each] in OF_A_VERSION:
                continue
            if each not in before or each not in after:
                others["made or removed"].add(each)
            elif differing := changed_properties(before[each], after[each]):
                replaced = differing & set(create_only[kinds[each]])
                others["replaced" if replaced else "changed"].add(each)
    assert not others["changed"] & others["replaced"]
    short = ", ".join(sorted(each.removesuffix("Function").lower() for each in new)) or "none"
    besides = "; ".join(f"{how}: {listed(ids, kinds)}" for how, ids in others.items() if ids) or "nothing"
    return f"| `{name}` | {'all, because the layer changes' if 'layer' in new else short} | {besides} |"


def listed(ids: set[str], kinds: dict[str, str]) -> str:
    """The logical ids, or if they are many the types with their numbers."""
    if len(ids) <= 3:
        return ", ".join(sorted(ids))
    counts = collections.Counter(kinds[each].partition("::")[2].replace("::", " ") for each in ids)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def changed_properties(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """The names of the properties and attributes that differ, but for the names of versions."""

    def settled(resource: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps({**resource, **resource.get("Properties", {}), "Properties": None})
        done: dict[str, Any] = json.loads(re.sub(r"(Version|SharedLayer)[0-9a-f]{10}", r"\1", text))
        return done

    was, is_now = settled(before), settled(after)
    return {name for name in was.keys() | is_now.keys() if was.get(name) != is_now.get(name)}


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_documentation_says_what_a_changed_parameter_replaces(
    outcomes: dict[Any, dict[str, Any]], name: str
) -> None:
    """If this fails: put the row on the left into docs/configuration.md, if it is what you want."""
    assert effects(outcomes, name) in EFFECTS.read_text().splitlines()


# ---- A change of the template


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_a_changed_template_makes_new_versions(
    outcomes: dict[Any, dict[str, Any]], edit: Callable[[dict[str, Any]], None]
) -> None:
    before = resources_of(outcomes["defaults"])

    assert renewed(before, resources_of(outcomes[edit])) == (EDITS[edit] or set(versions(before)))


# ---- Traffic


def test_requests_and_messages_go_to_the_alias(outcomes: dict[Any, dict[str, Any]]) -> None:
    resources = resources_of(outcomes["defaults"])
    aliases = set(of_type(resources, "AWS::Lambda::Alias"))
    called = {
        "AWS::ApiGatewayV2::Integration": "IntegrationUri",
        "AWS::Lambda::EventSourceMapping": "FunctionName",
        "AWS::Lambda::Permission": "FunctionName",
    }
    callers = [each["Properties"][called[each["Type"]]] for each in resources.values() if each["Type"] in called]

    assert len(aliases) == len(of_type(resources, "AWS::Lambda::Function")) == 5
    assert {caller["Ref"] for caller in callers} == aliases


def test_by_default_all_traffic_goes_over_at_once(outcomes: dict[Any, dict[str, Any]]) -> None:
    resources = resources_of(outcomes["defaults"])

    assert not [name for name, resource in resources.items() if "CodeDeploy" in resource["Type"]]


def test_a_gradual_deployment_covers_every_function(outcomes: dict[Any, dict[str, Any]]) -> None:
    resources = resources_of(outcomes["everything on"])

    groups = of_type(resources, "AWS::CodeDeploy::DeploymentGroup")
    assert len(groups) == 6
    for group in groups.values():
        config = group["Properties"]["DeploymentConfigName"]["Fn::Sub"]
        assert (
            config[0].replace("${ConfigName}", config[1]["ConfigName"])
            == "CodeDeployDefault.LambdaCanary10Percent5Minutes"
        )
        assert "DEPLOYMENT_STOP_ON_ALARM" in group["Properties"]["AutoRollbackConfiguration"]["Events"]
        alarms = group["Properties"]["AlarmConfiguration"]
        assert alarms["Enabled"]
        assert {alarm["Name"]["Ref"] for alarm in alarms["Alarms"]} == ROLLBACK_ALARMS
    for alias in of_type(resources, "AWS::Lambda::Alias").values():
        assert alias["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]["DeploymentGroupName"]["Ref"] in groups
