"""Finds a deployed stack by its name: its outputs, and clients for its resources."""

import contextlib
import json
from functools import cached_property
from typing import Any, NamedTuple

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from operations import CommandFailed


class StackNotFound(CommandFailed):
    """There is no such stack in this account and region."""


class Resource(NamedTuple):
    kind: str  # the type, for example "AWS::Lambda::Function"
    name: str  # the physical id


class Stack:
    """The stack `name` in `region`, by default the region of the environment. AWS_ENDPOINT_URL selects an emulated
    account.

    Raises botocore's ClientError or BotoCoreError when AWS does not answer or refuses.
    """

    def __init__(self, name: str, region: str | None = None) -> None:
        self.name = name
        self._session = boto3.Session(region_name=region)
        self._config = Config(retries={"mode": "standard", "total_max_attempts": 6})
        self._clients: dict[str, Any] = {}

    @property
    def region(self) -> str:
        return str(self._session.region_name)

    @cached_property
    def description(self) -> dict[str, Any]:
        """The stack as DescribeStacks describes it. Raises StackNotFound."""
        try:
            stacks = self.client("cloudformation").describe_stacks(StackName=self.name)["Stacks"]
        except ClientError as error:
            if "does not exist" in str(error):
                raise StackNotFound(f"there is no stack {self.name} in {self._session.region_name}") from error
            raise
        found: dict[str, Any] = stacks[0]
        return found

    @cached_property
    def outputs(self) -> dict[str, str]:
        """The stack's outputs by name. Raises StackNotFound."""
        return {output["OutputKey"]: output["OutputValue"] for output in self.description.get("Outputs", [])}

    @cached_property
    def parameters(self) -> dict[str, str]:
        """The stack's parameters by name. Raises StackNotFound."""
        return {each["ParameterKey"]: each["ParameterValue"] for each in self.description.get("Parameters", [])}

    @cached_property
    def resources(self) -> dict[str, Resource]:
        """The stack's resources by logical id."""
        pages = self.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=self.name)
        return {
            each["LogicalResourceId"]: Resource(each["ResourceType"], each["PhysicalResourceId"])
            for page in pages
            for each in page["StackResourceSummaries"]
        }

    @cached_property
    def template(self) -> dict[str, Any]:
        """The deployed template after its transforms."""
        answer = self.client("cloudformation").get_template(StackName=self.name, TemplateStage="Processed")
        body = answer["TemplateBody"]
        template: dict[str, Any] = json.loads(body) if isinstance(body, str) else body
        return template

    @cached_property
    def turns(self) -> Any:
        return self.table(self.outputs["TurnsTableName"])

    @cached_property
    def guards(self) -> Any:
        return self.table(self.outputs["GuardsTableName"])

    @cached_property
    def events(self) -> Any:
        return self.table(self.outputs["EventsTableName"])

    @property
    def sqs(self) -> Any:
        return self.client("sqs")

    @property
    def s3(self) -> Any:
        return self.client("s3")

    @property
    def cognito(self) -> Any:
        return self.client("cognito-idp")

    def client(self, service: str) -> Any:
        """The boto3 client of the service; all callers share it."""
        if service not in self._clients:
            self._clients[service] = self._session.client(service, config=self._config)  # type: ignore[call-overload]
        return self._clients[service]

    def table(self, name: str) -> Any:
        return self._session.resource("dynamodb", config=self._config).Table(name)


class Reads:
    """Reads the pages of a Scan or a Query, and counts their read units."""

    def __init__(self) -> None:
        self.units = 0.0

    def items(self, read: Any, **request: Any) -> Any:
        """All items of `read`, which is a table's `scan` or `query`, page after page."""
        while True:
            answer = read(ReturnConsumedCapacity="TOTAL", **request)
            with contextlib.suppress(KeyError):  # AWS always sends ConsumedCapacity; an emulator can leave it out
                self.units += float(answer["ConsumedCapacity"]["CapacityUnits"])
            yield from answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]
