"""The API keys of the models, from Secrets Manager."""

import asyncio
import time
from collections import defaultdict
from typing import NamedTuple

from turnqueue import aws

KEPT_SECONDS = 300
"""How long a key that was exchanged, but not yet withdrawn, may be used on."""


class _Fetched(NamedTuple):
    """What came of the fetch of that `number` of a secret: the key, to be kept `until` then, or why there is none."""

    number: int = 0
    key: str = ""
    until: float = 0
    error: Exception | None = None


class ModelKeys:
    """Each is a secret whose string is the key. For one event loop."""

    def __init__(self, *, attempts: int) -> None:
        self._client = aws.client("secretsmanager", attempts=attempts)
        self._last: dict[str, _Fetched] = defaultdict(_Fetched)
        self._fetching: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def get(self, arn: str, *, fresh: bool = False) -> str:
        """The key in the secret `arn`, as it is or, unless `fresh`, was KEPT_SECONDS ago. Raises botocore's ClientError
        or BotoCoreError; KeyError if the secret is no string."""
        if not fresh and time.time() < self._last[arn].until:
            return self._last[arn].key
        # Ten turns that begin together, or are refused together, fetch it once, also in vain: one after the other they
        # would wait ten times as long. A fetch that has begun before may bring the key that was refused.
        fetching = self._fetching[arn]
        number = self._last[arn].number + (2 if fresh and fetching.locked() else 1)
        async with fetching:
            if self._last[arn].number < number:
                self._last[arn] = await self._fetch(arn, self._last[arn].number + 1)
            last = self._last[arn]
        if last.error:
            raise last.error
        return last.key

    async def _fetch(self, arn: str, number: int) -> _Fetched:
        try:
            secret = await asyncio.to_thread(self._client.get_secret_value, SecretId=arn)
            return _Fetched(number, str(secret["SecretString"]).strip(), time.time() + KEPT_SECONDS)
        except Exception as error:
            return _Fetched(number, error=error)
