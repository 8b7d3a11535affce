"""What each owner has used on a day (UTC): one item of the guards table, to which every answer is added."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from turnqueue import aws
from turnqueue.turn import guard_key

RETENTION_DAYS = 40
"""How long a day can be asked for: past the end of the month after it."""

COUNTS = ("answers", "prompt_tokens", "completion_tokens", "cached_tokens")

_COST = "cost_micros"  # of a dollar: whole numbers add up exactly


def day_of(now: float) -> str:
    """The day in UTC, YYYY-MM-DD."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


class UsageStore:
    """The days of all owners. Every method raises botocore's ClientError or BotoCoreError."""

    def __init__(self, table: str, *, attempts: int, read_timeout: float = 3) -> None:
        self._table = table
        self._client = aws.client("dynamodb", attempts=attempts, read_timeout=read_timeout)

    def add(self, owner: str, usage: Mapping[str, Any], now: float) -> None:
        """Add an answer. It may be added twice if the reply of DynamoDB is lost, and not at all if we die before."""
        counts = {"answers": 1, **{name: usage.get(name) or 0 for name in COUNTS[1:]}}
        if usage.get("cost_usd") is not None:
            counts[_COST] = round(usage["cost_usd"] * 1_000_000)
        self._client.update_item(
            TableName=self._table,
            Key=self._key(owner, day_of(now)),
            UpdateExpression="SET expires_at = :expires_at, "
            + ", ".join(f"{name} = if_not_exists({name}, :zero) + :{name}" for name in counts),
            ExpressionAttributeValues={
                ":zero": {"N": "0"},
                ":expires_at": {"N": str(int(now) + RETENTION_DAYS * 86_400)},
                **{f":{name}": {"N": str(count)} for name, count in counts.items()},
            },
        )

    def read(self, owner: str, day: str) -> dict[str, Any]:
        """The counts of a day, by the names in COUNTS, and `cost_usd`, None if no answer had a price; those of the last
        second may be missing."""
        item = self._client.get_item(TableName=self._table, Key=self._key(owner, day)).get("Item", {})
        cost_usd = int(item[_COST]["N"]) / 1_000_000 if _COST in item else None
        return {**{name: int(item.get(name, {"N": "0"})["N"]) for name in COUNTS}, "cost_usd": cost_usd}

    @staticmethod
    def _key(owner: str, day: str) -> dict[str, Any]:
        return {"guard": {"S": f"{guard_key('usage', owner)}#{day}"}}
