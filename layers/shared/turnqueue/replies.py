"""Replies that may be given again: an equal message that begins a conversation is answered without queue and model.

What is kept, in the guards table, is where the answered turn is. The answer stays in its one place and is deleted with
its turn; and a turn that is answered never changes.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from turnqueue import aws
from turnqueue.personas import version
from turnqueue.turn import Key, guard_key


def reply_key(owner: str, request: Mapping[str, Any], model: tuple[str, str], *, shared: bool) -> str:
    """The key of the reply to a request {message, role, media?, ...} of `owner`: their own, or all owners' if `shared`.

    `model`: the base URL of its server, and its name there: two servers may give one name to two models. Two requests
    share a key if model, persona, message and media are equal; `metadata` does not count. The key of a request with an
    upload is always the owner's own, because to others the upload does not exist.
    """
    role, media = request["role"], request.get("media") or []
    told = json.dumps([*model, role, version(role), request["message"], media])
    own = not shared or any("upload_id" in item for item in media)
    whose = guard_key("reply", owner) if own else "reply#shared"
    return f"{whose}#{hashlib.sha256(told.encode()).hexdigest()}"


class KeptReplies:
    """The replies of all owners. Every method raises botocore's ClientError or BotoCoreError."""

    def __init__(self, table: str, *, attempts: int, read_timeout: float = 3) -> None:
        self._table = table
        self._attempts = attempts
        self._read_timeout = read_timeout

    @cached_property
    def _client(self) -> Any:
        # Made when it is needed first: many stacks keep no replies.
        return aws.client("dynamodb", attempts=self._attempts, read_timeout=self._read_timeout)

    def keep(self, reply: str, key: Key, seconds: int, now: float) -> None:
        """Keep for so many seconds that the turn `key` is answered, under the key `reply`."""
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
        """The turn that is kept under the key `reply`, as it was a moment ago. It may be too old, or gone."""
        item = self._client.get_item(TableName=self._table, Key={"guard": {"S": reply}}).get("Item")
        return Key.of_task(item["owner"]["S"], item["task_id"]["S"]) if item else None
