"""Conversations of the OpenAI API. A conversation is a session. Sessions have no metadata, so the metadata of a
conversation is an item of the guards table."""

import json
from typing import Any, NamedTuple, Self

from turnqueue import aws
from turnqueue.turn import RETENTION_SECONDS, Turn, guard_key, session_key
from turnqueue.v1.items import conversation_id


class Conversation(NamedTuple):
    """A conversation. `created_at`: in seconds since the epoch."""

    session_id: str
    created_at: int
    metadata: dict[str, str]

    @classmethod
    def of_first(cls, turn: Turn) -> Self:
        """The conversation that began with this turn. No request had created it, so it has no metadata."""
        return cls(turn.key.session_id, int(turn.created_at), {})

    def shown(self) -> dict[str, Any]:
        return {
            "id": conversation_id(self.session_id),
            "object": "conversation",
            "created_at": self.created_at,
            "metadata": self.metadata,
        }


class Conversations:
    """The conversations of all owners. Every method raises botocore's ClientError or BotoCoreError."""

    def __init__(self, table: str, *, attempts: int) -> None:
        self._table = table
        self._client = aws.client("dynamodb", attempts=attempts)

    def create(self, owner: str, made: Conversation) -> None:
        self._client.put_item(
            TableName=self._table,
            Item={
                **_key(owner, made.session_id),
                "owner": {"S": owner},
                "created_at": {"N": str(made.created_at)},
                "metadata": {"S": json.dumps(made.metadata, ensure_ascii=False)},
                "expires_at": {"N": str(made.created_at + RETENTION_SECONDS)},
            },
        )

    def find(self, owner: str, session_id: str, now: float) -> Conversation | None:
        item = self._client.get_item(TableName=self._table, Key=_key(owner, session_id)).get("Item")
        if item is None or int(item["expires_at"]["N"]) <= now:
            return None
        return Conversation(session_id, int(item["created_at"]["N"]), json.loads(item["metadata"]["S"]))


def _key(owner: str, session_id: str) -> dict[str, Any]:
    return {"guard": {"S": guard_key("conversation", session_key(owner, session_id))}}
