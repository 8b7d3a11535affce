"""`python -m operations restore` copies missing turns, and leaves existing turns unchanged."""

from collections.abc import Iterator

import pytest

from operations.restore import restore
from operations.stack import Stack
from tests.unit.conftest import Account, Clock

BACKUP = "backup"


@pytest.fixture
def backup(account: Account) -> Iterator[None]:
    """A copy of three turns, one of them bob's, of which two are gone since."""
    account.dynamodb.create_table(
        TableName=BACKUP,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "session", "KeyType": "HASH"}, {"AttributeName": "turn", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("session", "turn")],
    )
    account.queued("[[refuse]]", session_id="kept")
    account.queued("I need a haircut", session_id="gone", role="booking")
    account.queued(session_id="gone", owner="bob")
    account.work()
    for item in account.items():
        account.dynamodb.put_item(TableName=BACKUP, Item=item)
        if "gone" in item["session"]["S"]:
            account.dynamodb.delete_item(TableName="TurnsTable", Key={name: item[name] for name in ("session", "turn")})
    yield
    account.dynamodb.delete_table(TableName=BACKUP)


def by_session(account: Account, table: str = "TurnsTable") -> dict[str, object]:
    return {item["session"]["S"]: item for item in account.items(table)}


def test_what_is_missing_is_put_back_as_it_was(account: Account, stack: Stack, backup: None) -> None:
    done = restore(stack, BACKUP)

    assert (done.turns, done.present, done.expired) == (2, 1, 0)
    assert by_session(account) == by_session(account, BACKUP)
    assert account.session("gone")["json"]["turns"][0]["result"]["draft"]["service"] == "haircut"
    again = restore(stack, BACKUP)
    assert (again.turns, again.present) == (0, 3)


def test_what_is_there_is_newer_and_stays(account: Account, stack: Stack, backup: None) -> None:
    [item] = account.items()
    account.dynamodb.put_item(TableName="TurnsTable", Item=item | {"later": {"S": "x"}})

    restore(stack, BACKUP)

    assert "later" in by_session(account)["alice#kept"]  # type: ignore[operator]


def test_of_one_owner(account: Account, stack: Stack, backup: None) -> None:
    assert restore(stack, BACKUP, owner="bob").turns == 1
    assert set(by_session(account)) == {"alice#kept", "bob#gone"}


def test_a_dry_run_only_counts(account: Account, stack: Stack, backup: None) -> None:
    done = restore(stack, BACKUP, dry_run=True)

    assert (done.turns, done.present) == (2, 1)
    assert set(by_session(account)) == {"alice#kept"}


def test_what_has_expired_stays_gone(account: Account, stack: Stack, backup: None, clock: Clock) -> None:
    clock.forward(7 * 86_400 + 1)

    assert restore(stack, BACKUP).expired == 3
    assert set(by_session(account)) == {"alice#kept"}
