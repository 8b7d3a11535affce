"""The table double behaves like DynamoDB: the tests compare it with moto on Turnqueue's items and expressions."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto import mock_aws

from tests.faults.table import Refusal, Table, transact

KEYS = [{"session": {"S": session}, "turn": {"S": turn}} for session in ("a#s", "b#s") for turn in ("1", "2", "3")]
CONDITIONS = [
    "attribute_not_exists(#session)",
    "attribute_exists(#session)",
    "(#status = :pending OR (#status = :started AND #lease < :now)) AND #attempt < :most",
    "#status = :started AND #attempt = :one",
    "#status = :started AND #attempt = :one AND attribute_not_exists(#mark)",
    "(#status = :pending OR #status = :started) AND #lease <= :now",
    "#status = :pending AND NOT #lease > :now",
    "#status <> :pending",
    "#lease >= :one",
    "attribute_exists(#session) AND (attribute_not_exists(#status) OR #status IN (:pending, :started))",
]
UPDATES = [
    "SET #status = :started, #attempt = #attempt + :one, #lease = :most REMOVE #mark",
    "SET #status = :pending, #attempt = :one, #lease = :now",
    "SET #status = :started, #attempt = :one, #lease = :one",
    "SET #mark = :true",
    "SET #mark = if_not_exists(#mark, :now), #status = :pending",
    "REMOVE #lease, #mark",
    "SET #lease = if_not_exists(#lease, :now) + :one REMOVE #mark",
]
VALUES = {
    ":pending": {"S": "PENDING"},
    ":started": {"S": "STARTED"},
    ":now": {"N": "1.5"},
    ":one": {"N": "1"},
    ":most": {"N": "3"},
    ":true": {"BOOL": True},
}


@pytest.fixture(scope="module")
def moto() -> Iterator[Any]:
    with mock_aws():
        yield boto3.client("dynamodb", region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test")


def fresh(moto: Any) -> Table:
    for name in moto.list_tables()["TableNames"]:
        moto.delete_table(TableName=name)
    schema = [{"AttributeName": "session", "KeyType": "HASH"}, {"AttributeName": "turn", "KeyType": "RANGE"}]
    kinds = [{"AttributeName": key["AttributeName"], "AttributeType": "S"} for key in schema]
    moto.create_table(TableName="turns", KeySchema=schema, AttributeDefinitions=kinds, BillingMode="PAY_PER_REQUEST")
    return Table("turns", ("session", "turn"), lambda: 0.0)


def placeholders(*expressions: str | None) -> dict[str, Any]:
    text = " ".join(filter(None, expressions))
    names = {f"#{name}": name for name in ("session", "status", "attempt", "lease", "mark") if f"#{name}" in text}
    values = {name: value for name, value in VALUES.items() if name in text}
    members = {"ExpressionAttributeNames": names, "ExpressionAttributeValues": values}
    return {name: found for name, found in members.items() if found}


def puts(key: dict[str, Any], condition: str | None, status: str) -> tuple[str, dict[str, Any]]:
    item = key | {"status": {"S": status}, "attempt": {"N": "0"}, "lease": {"N": "1.25"}}
    request = {"TableName": "turns", "Item": item, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
    if condition:
        request |= {"ConditionExpression": condition}
    return "PutItem", request | placeholders(condition)


def updates(key: dict[str, Any], update: str, condition: str | None, returns: str) -> tuple[str, dict[str, Any]]:
    request = {
        "TableName": "turns",
        "Key": key,
        "UpdateExpression": update,
        "ReturnValues": returns,
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    if condition:
        request |= {"ConditionExpression": condition}
    return "UpdateItem", request | placeholders(update, condition)


def queries(session: str, sign: str, turn: str, forward: bool, limit: int | None) -> tuple[str, dict[str, Any]]:
    request = {
        "TableName": "turns",
        "KeyConditionExpression": f"#session = :session AND #turn {sign} :turn",
        "ExpressionAttributeNames": {"#session": "session", "#turn": "turn"},
        "ExpressionAttributeValues": {":session": {"S": session}, ":turn": {"S": turn}},
        "ConsistentRead": True,
        "ScanIndexForward": forward,
    }
    return "Query", request | ({"Limit": limit} if limit else {})


key = st.sampled_from(KEYS)
maybe = st.sampled_from([None, *CONDITIONS])
CALLS = st.lists(
    st.one_of(
        st.builds(puts, key, maybe, st.sampled_from(["PENDING", "STARTED", "SUCCESS"])),
        st.builds(updates, key, st.sampled_from(UPDATES), maybe, st.sampled_from(["NONE", "ALL_NEW"])),
        st.builds(lambda key: ("GetItem", {"TableName": "turns", "Key": key, "ConsistentRead": True}), key),
        st.builds(
            queries,
            st.sampled_from(["a#s", "b#s", "c#s"]),
            st.sampled_from(["<", ">", "<=", ">=", "="]),
            st.sampled_from(["0", "1", "2", "3", "4"]),
            st.booleans(),
            st.sampled_from([None, 1, 2, 9]),
        ),
    ),
    min_size=1,
    max_size=12,
)


def plain(value: Any) -> Any:
    """Numbers as numbers: DynamoDB and moto write them differently."""
    if isinstance(value, dict):
        return {name: Decimal(inner) if name == "N" else plain(inner) for name, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def outcome_of_moto(moto: Any, operation: str, request: dict[str, Any]) -> Any:
    method = {"PutItem": "put_item", "GetItem": "get_item", "UpdateItem": "update_item", "Query": "query"}[operation]
    try:
        answer = getattr(moto, method)(**request)
    except ClientError as error:
        return error.response["Error"]["Code"], plain(error.response.get("Item"))
    wanted = ("Item", "Items", "Attributes", "LastEvaluatedKey")
    return plain({name: answer[name] for name in wanted if answer.get(name)})


def outcome(table: Table, operation: str, request: dict[str, Any]) -> Any:
    try:
        answer = table.call(operation, request)
    except Refusal as refusal:
        return refusal.code, plain(refusal.members.get("Item"))
    return plain({name: value for name, value in answer.items() if value})


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=CALLS)
def test_it_answers_as_moto_does(moto: Any, calls: list[tuple[str, dict[str, Any]]]) -> None:
    table = fresh(moto)
    for operation, request in calls:
        ours, theirs = outcome(table, operation, request), outcome_of_moto(moto, operation, request)
        if operation == "Query" and len(theirs.get("Items", [])) == request.get("Limit"):
            # DynamoDB tells where a full page ends even if nothing follows; moto knows that nothing follows.
            assert "LastEvaluatedKey" in ours
            ours.pop("LastEvaluatedKey"), theirs.pop("LastEvaluatedKey", None)
        assert ours == theirs, (operation, request)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.lists(st.tuples(key, st.sampled_from(["PENDING", "SUCCESS"])), max_size=3),
    put=st.sampled_from(KEYS[:3]),
    if_absent=st.booleans(),
    mark=st.sampled_from(KEYS[3:]),
    condition=maybe,
)
def test_a_transaction_does_all_or_nothing_as_motos_does(
    moto: Any, before: Any, put: Any, if_absent: bool, mark: Any, condition: str | None
) -> None:
    table = fresh(moto)
    for place, status in before:
        outcome(table, *puts(place, None, status)), outcome_of_moto(moto, *puts(place, None, status))
    _, first = puts(put, CONDITIONS[0] if if_absent else None, "STARTED")
    _, second = updates(mark, "SET #mark = :true", condition, "NONE")
    del second["ReturnValues"]
    request = {"TransactItems": [{"Put": first}, {"Update": second}]}

    def reasons(refused: list[dict[str, Any]]) -> list[Any]:
        return [(reason["Code"], plain(reason.get("Item"))) for reason in refused]

    ours = theirs = None
    try:
        transact(lambda name: table, request)
    except Refusal as refusal:
        ours = reasons(refusal.members["CancellationReasons"])
    try:
        moto.transact_write_items(**request)
    except moto.exceptions.TransactionCanceledException as error:
        theirs = reasons(error.response["CancellationReasons"])
    assert ours == theirs
    for place in KEYS:
        read = "GetItem", {"TableName": "turns", "Key": place, "ConsistentRead": True}
        assert outcome(table, *read) == outcome_of_moto(moto, *read)


def test_a_placeholder_must_be_defined_and_used() -> None:
    table = Table("turns", ("session", "turn"), lambda: 0.0)
    _, request = updates(KEYS[0], "SET #status = :started", None, "NONE")
    unused = request | {"ExpressionAttributeValues": VALUES}
    missing = request | {"ExpressionAttributeNames": {"#other": "other"}}
    for wrong in (unused, missing):
        with pytest.raises(Refusal) as refused:
            table.call("UpdateItem", wrong)
        assert refused.value.code == "ValidationException"


def test_what_it_does_not_know_is_refused_aloud() -> None:
    table = Table("turns", ("session", "turn"), lambda: 0.0)
    for operation, request in (
        ("Scan", {}),
        updates(KEYS[0], "ADD #attempt :one", None, "NONE"),
        updates(KEYS[0], "SET #status = :started", "begins_with(#status, :started)", "NONE"),
        ("GetItem", {"Key": KEYS[0], "ProjectionExpression": "turn"}),
    ):
        with pytest.raises(NotImplementedError):
            table.call(operation, request)


def test_an_item_has_a_size() -> None:
    table = Table("turns", ("session", "turn"), lambda: 0.0)
    table.call("PutItem", {"TableName": "turns", "Item": KEYS[0] | {"text": {"S": "x" * 409_000}}})
    with pytest.raises(Refusal, match="size"):
        table.call("PutItem", {"TableName": "turns", "Item": KEYS[0] | {"text": {"S": "x" * 409_600}}})


def test_every_write_is_told_and_an_eventual_read_may_be_older() -> None:
    now, told = [0.0], []
    table = Table(
        "turns",
        ("session", "turn"),
        lambda: now[0],
        lambda table, old, new: told.append((old, new)),
        staleness=lambda: 2.0,
    )
    table.call(*puts(KEYS[0], None, "PENDING"))
    now[0] = 1.0
    table.call(*updates(KEYS[0], "SET #status = :started", None, "NONE"))
    assert [(old and old["status"]["S"], new["status"]["S"]) for old, new in told] == [
        (None, "PENDING"),
        ("PENDING", "STARTED"),
    ]
    read = {"TableName": "turns", "Key": KEYS[0]}
    assert table.call("GetItem", read) == {}
    now[0] = 2.5
    assert table.call("GetItem", read)["Item"]["status"] == {"S": "PENDING"}
    assert table.call("GetItem", read | {"ConsistentRead": True})["Item"]["status"] == {"S": "STARTED"}
    now[0] = 3.0
    assert table.call("GetItem", read)["Item"]["status"] == {"S": "STARTED"}
