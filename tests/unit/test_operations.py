"""docs/operations.md agrees with the template: an entry for each alarm, with commands that name what is there; what is
counted in the costs; and a picture of the dashboard as it is."""

import re

import pytest

from development import cfn
from operations.verify import CHECKS
from tests.unit import template_rules as rules
from turnqueue.telemetry import METRICS
from turnqueue.turn import FAILURES

OPERATIONS = (cfn.ROOT / "docs/operations.md").read_text()


def section(title: str) -> str:
    return OPERATIONS.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def entries(text: str) -> dict[str, str]:
    """What stands below each heading of the third level."""
    _, *parts = re.split(r"^### (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


ALARMS = entries(section("Alarms"))


def test_every_alarm_has_an_entry_and_every_entry_an_alarm() -> None:
    named = {alarm["AlarmName"]["Fn::Sub"] for alarm in rules.alarms(cfn.template()).values()}
    assert {name.removeprefix("${AWS::StackName}-") for name in named} == set(ALARMS)


def test_every_check_of_verify_has_an_entry_and_every_entry_a_check() -> None:
    assert list(entries(section("Verify"))) == list(CHECKS)


@pytest.mark.parametrize("name", ALARMS)
def test_an_entry_says_what_it_means_what_to_run_first_and_how_to_repair(name: str) -> None:
    meaning, _, rest = re.split(r"^ {4}((?:aws|logs) .*(?:\n {4}.*)*)$", ALARMS[name], maxsplit=1, flags=re.MULTILINE)
    assert meaning.strip()
    assert "Repair" in rest


def test_the_commands_name_resources_of_the_template() -> None:
    named = set(re.findall(r"\$\(id (\w+)\)|logs (\w+) \d|`(\w+LogGroup)`", OPERATIONS))
    named = {name for names in named for name in names if name}
    assert named
    assert named <= set(cfn.template()["Resources"]) | event_sources()


def event_sources() -> set[str]:
    """The logical ids that SAM makes of the queues that functions are called for."""
    return {
        name + event
        for name, function in cfn.resources("AWS::Serverless::Function").items()
        for event, source in function.get("Events", {}).items()
        if source["Type"] == "SQS"
    }


def test_an_event_source_is_named_by_its_id() -> None:
    """The CLI takes no other name."""
    commands = re.findall(r"aws lambda update-event-source-mapping.*", OPERATIONS)
    assert commands
    for command in commands:
        [name] = re.findall(r'--uuid "\$\(id (\w+)\)"', command)
        assert name in event_sources()


def test_the_codes_of_failed_tasks_are_ours() -> None:
    codes = set(re.findall(r"`((?:model|output|prompt|context|worker)_\w+)`", section("Alarms")))
    assert {"model_auth", "model_quota"} <= codes <= set(FAILURES)


def test_the_costs_are_those_of_what_is_there() -> None:
    template = cfn.template()
    costs = entries(section("Costs"))["Watching"]
    rows = re.findall(r"^\| ([\w ]+) \| (\d+) \| \$([\d.]+) \| \$([\d.]+) \|$", costs, re.MULTILINE)
    counted = {
        "dashboard": len(rules.properties(template, "AWS::CloudWatch::Dashboard")),
        "custom metrics": len(METRICS),
        "alarms": len(rules.properties(template, "AWS::CloudWatch::Alarm")),
        "composite alarm": len(rules.composites(template)),
    }
    assert {name: int(number) for name, number, _, _ in rows} == counted
    for _, number, each, together in rows:
        assert int(number) * float(each) == pytest.approx(float(together))
    assert f"${sum(float(together) for *_, together in rows):.2f}" in costs
    titles = {widget["properties"]["title"] for widget in rules.widgets(template)}
    shown = {(*metric[1:3], str(metric.dimensions)) for metric in rules.watched(template) if metric.where in titles}
    assert f"(Turnqueue's dashboard shows {len(shown)})" in " ".join(costs.split())
