"""The cache of replies: identical first messages are answered without queue and model. The guards table stores only the
key of the answered turn. The answer stays in that turn, and is gone when the turn is deleted."""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from turnqueue import aws
from turnqueue.attachments import comparable
from turnqueue.personas import version
from turnqueue.turn import Key, guard_key

_NOT_SEEN = ("metadata", "stream")
"""The fields of a request that never reach the model. All other fields are part of the cache key. If a new field is
missing in this list, the cache misses more often, but no answer is wrong."""


def reply_key(owner: str, request: Mapping[str, Any], model: tuple[str, str], *, shared: bool) -> str:
    """The cache key of a request {message, role, media?, ...} of `owner`. Two owners have different keys, unless
    `shared`. `model`: the base URL of the model's server and the model's name, because two servers can use one name for
    two models. Two requests share a key if their model, their persona and the model's whole input are equal. A request
    with an upload never shares a key with other owners, because for others the upload does not exist.
    """
    seen = {name: value for name, value in request.items() if value and name not in _NOT_SEEN}
    media = comparable(request.get("media") or ())
    if media:
        seen["media"] = media
    identity = json.dumps([*model, version(request["role"]), seen], sort_keys=True)
    own = not shared or any("upload_id" in item for item in media)
    whose = guard_key("reply", owner) if own else "reply#shared"
    return f"{whose}#{hashlib.sha256(identity.encode()).hexdigest()}"


class KeptReplies:
    """The cached replies of all owners. Every method raises botocore's ClientError or BotoCoreError."""

    def __init__(self, table: str, *, attempts: int, read_timeout: float = 3) -> None:
        self._table = table
        self._attempts = attempts
        self._read_timeout = read_timeout

    @cached_property
    def _client(self) -> Any:
        # The client is made at its first use, because many stacks cache no replies.
        return aws.client("dynamodb", attempts=self._attempts, read_timeout=self._read_timeout)

    def keep(self, reply: str, key: Key, seconds: int, now: float) -> None:
        """Cache the answer of the turn `key` for `seconds`. `reply`: the cache key of requests that get this answer."""
        self._client.update_item(
            TableName=self._table,
            Key={"guard": {"S": reply}},
            UpdateExpression="SET task_id = :task_id, #owner = :owner, expires_at = :expires_at",
            ExpressionAttributeNames={"#owner": "owner"},
            ExpressionAttributeValues={
                ":task_id": {"S": key.task_id},
                ":owner": {"S": key.owner},
                ":expires_at": {"N": str(int(now) + seconds)},
            },
        )

    def find(self, reply: str) -> Key | None:
        """The key of the turn that is cached under `reply`. The read is eventually consistent. The caller must check
        that the turn still exists, and that its answer is recent enough."""
        item = self._client.get_item(TableName=self._table, Key={"guard": {"S": reply}}).get("Item")
        return Key.of_task(item["owner"]["S"], item["task_id"]["S"]) if item else None
