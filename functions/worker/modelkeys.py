"""The API keys of the models, from Secrets Manager."""

import asyncio
import time
from collections import defaultdict

from turnqueue import aws

KEPT_SECONDS = 300
"""How long a key that was exchanged, but not yet withdrawn, may be used on."""


class ModelKeys:
    """Each is a secret whose string is the key. For one event loop."""

    def __init__(self, *, attempts: int) -> None:
        self._client = aws.client("secretsmanager", attempts=attempts)
        self._kept: dict[str, tuple[str, float]] = {}
        self._fetching: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def get(self, arn: str, *, fresh: bool = False) -> str:
        """The key in the secret `arn`, as it is or, unless `fresh`, was KEPT_SECONDS ago. Raises botocore's ClientError
        or BotoCoreError; KeyError if the secret is no string."""
        if not fresh and (key := self._known(arn)):
            return key
        async with self._fetching[arn]:  # Ten turns that begin together fetch it once.
            if not fresh and (key := self._known(arn)):
                return key
            secret = await asyncio.to_thread(self._client.get_secret_value, SecretId=arn)
            key = str(secret["SecretString"]).strip()
            self._kept[arn] = key, time.time() + KEPT_SECONDS
            return key

    def _known(self, arn: str) -> str | None:
        key, until = self._kept.get(arn, ("", 0.0))
        return key if time.time() < until else None
