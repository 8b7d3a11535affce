"""Passes requests on to the other functions of the API."""

import json

from turnqueue import aws
from turnqueue.http import Event, Response, unavailable

_SECONDS = 32  # longer than the timeouts of the called functions


class Functions:
    """Calls functions by their ARNs. Repeats no call: only the client knows whether a second request is safe."""

    def __init__(self) -> None:
        self._client = aws.client("lambda", attempts=1, read_timeout=_SECONDS)

    def call(self, arn: str, event: Event) -> Response:
        """The function's response. Raises a 503 Problem if the function failed, and botocore's ClientError or
        BotoCoreError if the call failed."""
        answer = self._client.invoke(FunctionName=arn, Payload=json.dumps(event).encode())
        if "FunctionError" in answer:
            raise unavailable()
        response: Response = json.load(answer["Payload"])
        return response
