"""API keys. Each is an item of the guards table, under a hash of the key."""

from typing import NamedTuple

from turnqueue import aws
from turnqueue.turn import guard_key

API_KEY_PREFIX = "tq_"
"""The beginning of every API key, so that no JWT looks like a key. 43 random characters follow."""


def api_key_guard(key: str) -> str:
    """The key of an API key's item in the guards table. It is a hash, so that readers of the table do not learn the API
    key."""
    return guard_key("api-key", key)


class ApiKey(NamedTuple):
    """The owner of an API key, and the owner's group for limits (empty for the default)."""

    owner: str
    group: str


class ApiKeys:
    """The API keys that `python -m operations keys` has made."""

    def __init__(self, table: str, *, attempts: int) -> None:
        self._table = table
        self._client = aws.client("dynamodb", attempts=attempts)

    def find(self, key: str, now: float) -> ApiKey | None:
        """The owner and the group of an API key. None if there is no such key, or if it has expired. Raises botocore's
        ClientError or BotoCoreError."""
        guard = {"guard": {"S": api_key_guard(key)}}
        item = self._client.get_item(TableName=self._table, Key=guard, ConsistentRead=True).get("Item")
        if item is None or ("expires_at" in item and float(item["expires_at"]["N"]) <= now):
            return None
        return ApiKey(item["owner"]["S"], item["group"]["S"] if "group" in item else "")
