"""A deployed stack, found by its name: its outputs, and clients of what it is made of."""

import contextlib
from functools import cached_property
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from operations import CommandFailed


class StackNotFound(CommandFailed):
    """There is no such stack in this account and region."""


class Stack:
    """The stack `name` of `region`, or of the region of the environment. AWS_ENDPOINT_URL leads to an emulated account.

    Raises botocore's ClientError or BotoCoreError when AWS does not answer or refuses.
    """

    def __init__(self, name: str, region: str | None = None) -> None:
        self.name = name
        self._session = boto3.Session(region_name=region)
        self._config = Config(retries={"mode": "standard", "total_max_attempts": 6})

    @property
    def region(self) -> str:
        return str(self._session.region_name)

    @cached_property
    def outputs(self) -> dict[str, str]:
        """Raises StackNotFound too."""
        return {output["OutputKey"]: output["OutputValue"] for output in self._described.get("Outputs", [])}

    @cached_property
    def parameters(self) -> dict[str, str]:
        """Raises StackNotFound too."""
        given = self._described.get("Parameters", [])
        return {parameter["ParameterKey"]: parameter["ParameterValue"] for parameter in given}

    @cached_property
    def _described(self) -> dict[str, Any]:
        client: Any = self._session.client("cloudformation", config=self._config)
        try:
            stacks = client.describe_stacks(StackName=self.name)["Stacks"]
        except ClientError as error:
            if "does not exist" in str(error):
                raise StackNotFound(f"there is no stack {self.name} in {self._session.region_name}") from error
            raise
        described: dict[str, Any] = stacks[0]
        return described

    @cached_property
    def turns(self) -> Any:
        return self.table(self.outputs["TurnsTableName"])

    @cached_property
    def guards(self) -> Any:
        return self.table(self.outputs["GuardsTableName"])

    @cached_property
    def sqs(self) -> Any:
        return self._session.client("sqs", config=self._config)

    @cached_property
    def s3(self) -> Any:
        return self._session.client("s3", config=self._config)

    @cached_property
    def cognito(self) -> Any:
        return self._session.client("cognito-idp", config=self._config)

    def table(self, name: str) -> Any:
        return self._session.resource("dynamodb", config=self._config).Table(name)


class Reads:
    """Pages of a Scan or a Query, and what reading them has cost."""

    def __init__(self) -> None:
        self.units = 0.0

    def items(self, read: Any, **request: Any) -> Any:
        """All items that `read`, a table's `scan` or `query`, finds, page after page."""
        while True:
            answer = read(ReturnConsumedCapacity="TOTAL", **request)
            with contextlib.suppress(KeyError):  # an emulator may not tell
                self.units += float(answer["ConsumedCapacity"]["CapacityUnits"])
            yield from answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]
