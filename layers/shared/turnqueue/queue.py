"""The FIFO queue of turns. A message is the key of a turn and nothing else, so no prompt is ever in a queue."""

import json
from collections.abc import Collection, Mapping
from typing import NamedTuple

from turnqueue import aws
from turnqueue.turn import SESSION_ID, Key, is_ulid, is_utf8

_MAX_KEY_BYTES = 2048
"""The maximum number of bytes in a partition key in DynamoDB. DynamoDB would refuse a longer key in every attempt, and
that would look like an outage of AWS."""


MOST_AT_ONCE = 10
"""The maximum number of messages in one call to SQS."""

_DELETE_TRIES = 2
"""SQS can delete a part of a batch and fail for the rest. botocore does not repeat such a call."""


class Malformed(Exception):
    """The body of a message is not the key of a turn."""


class Message(NamedTuple):
    """A received message. `handle` is valid for this delivery. `deliveries` counts the deliveries of the message, this
    delivery included. `group` names the session."""

    id: str
    handle: str
    body: str
    group: str
    deliveries: int


def encode(key: Key) -> str:
    return json.dumps({"session": key.session, "turn": key.turn}, ensure_ascii=False)


def decode(body: str) -> Key:
    """The key in the body of a message. Raises Malformed. Unknown members are ignored, because a later version can add
    members."""
    try:
        message = json.loads(body)
        key = Key(message["session"], message["turn"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Malformed from error
    if not (isinstance(key.session, str) and isinstance(key.turn, str) and is_utf8(key.session)):
        raise Malformed
    if len(key.session.encode()) > _MAX_KEY_BYTES:
        raise Malformed
    if not (key.owner and SESSION_ID.fullmatch(key.session_id) and is_ulid(key.turn)):
        raise Malformed
    return key


class TurnQueue:
    """The queue at `url`. Raises botocore's ClientError or BotoCoreError when SQS does not answer or refuses."""

    def __init__(self, url: str, *, attempts: int, read_timeout: float = 3) -> None:
        self._url = url
        self._client = aws.client("sqs", attempts=attempts, read_timeout=read_timeout)

    def send(self, key: Key) -> None:
        """Queue the turn behind the other turns of its session. If the turn is sent again within 5 minutes, SQS drops
        the second message. After that, a second message does no harm, because the turn can have only one claim at a
        time."""
        self._client.send_message(
            QueueUrl=self._url,
            MessageBody=encode(key),
            MessageGroupId=key.group,
            MessageDeduplicationId=key.task_id,
        )

    def receive(self, most: int, *, hidden_for: int, wait: int, attempt_id: str) -> list[Message]:
        """Receive up to `most` messages (1 to 10), and hide each message for `hidden_for` seconds. The messages of a
        session are in order. Waits up to `wait` seconds for the first message. If a response was lost, a call with the
        same `attempt_id` gets the messages of that response."""
        answer = self._client.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=most,
            VisibilityTimeout=hidden_for,
            WaitTimeSeconds=wait,
            ReceiveRequestAttemptId=attempt_id,
            MessageSystemAttributeNames=["MessageGroupId", "ApproximateReceiveCount"],
        )
        return [
            Message(
                message["MessageId"],
                message["ReceiptHandle"],
                message["Body"],
                message["Attributes"]["MessageGroupId"],
                int(message["Attributes"]["ApproximateReceiveCount"]),
            )
            for message in answer.get("Messages", [])
        ]

    def change_visibility(self, seconds_by_handle: Mapping[str, int]) -> None:
        """Make up to 10 received messages visible again. `seconds_by_handle`: for each receipt handle, the seconds from
        now (0 to 43,200). If SQS refuses a handle that is too old, the handle's message stays as it is."""
        self._client.change_message_visibility_batch(
            QueueUrl=self._url,
            Entries=[
                {"Id": str(index), "ReceiptHandle": handle, "VisibilityTimeout": seconds}
                for index, (handle, seconds) in enumerate(seconds_by_handle.items())
            ],
        )

    def delete(self, handles: Collection[str]) -> dict[str, str]:
        """Delete up to 10 received messages. Returns SQS's error code for each handle whose message remains, for
        example because the handle is too old."""
        errors: dict[str, str] = {}
        left = list(handles)
        for _ in range(_DELETE_TRIES):
            answer = self._client.delete_message_batch(
                QueueUrl=self._url,
                Entries=[{"Id": str(index), "ReceiptHandle": handle} for index, handle in enumerate(left)],
            )
            errors = {left[int(failed["Id"])]: failed["Code"] for failed in answer.get("Failed", [])}
            if not errors:
                break
            left = list(errors)
        return errors
