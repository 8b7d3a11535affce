"""Fetches the uploaded images of a conversation. The model gets their bytes as data URLs."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from modelerror import ModelError
from room import Room
from turnqueue.media import MAX_UPLOAD_BYTES, MediaUrls, Unusable, Uploads
from turnqueue.turn import Turn

MAX_EARLIER_IMAGES = 4
"""The most images of earlier turns that the model gets again, the latest first. Each costs its tokens again."""


@asynccontextmanager
async def loaded(room: Room, uploads: Uploads, history: Sequence[Turn], turn: Turn) -> AsyncIterator[dict[str, str]]:
    """The images of `load`. Their memory stays reserved until the block ends."""
    if not any(map(_uploaded, (*history, turn))):
        yield {}
        return
    async with room.for_images() as keep:
        shown = await asyncio.to_thread(load, uploads, history, turn)
        keep(sum(map(len, shown.values())) * 3 // 4)  # base64 makes 4 characters of 3 bytes
        yield shown


def load(uploads: Uploads, history: Sequence[Turn], turn: Turn) -> dict[str, str]:
    """The data URLs of the images for the model, by upload id: all images of the message, and the latest earlier ones
    that still exist and fit.

    Raises ModelError if an image of the message cannot be used; botocore's ClientError or BotoCoreError when S3 does
    not answer or refuses.
    """
    owner, found, left = turn.key.owner, dict[str, str](), MAX_UPLOAD_BYTES

    def fetch(upload_id: str) -> None:
        nonlocal left
        if upload_id not in found:
            image = uploads.read(owner, upload_id, left)
            left -= len(image.content)
            found[upload_id] = f"data:{image.content_type};base64,{base64.b64encode(image.content).decode()}"

    try:
        for upload_id in _uploaded(turn):
            fetch(upload_id)
    except Unusable as unusable:
        raise ModelError(unusable.code) from unusable
    earlier = [upload_id for past in reversed(history) for upload_id in _uploaded(past)]
    for upload_id in earlier[:MAX_EARLIER_IMAGES]:
        try:
            fetch(upload_id)
        except Unusable:
            continue  # a note tells the model that there was an image
    return found


def allowed(turn: Turn, urls: MediaUrls) -> Turn:
    """The turn without the URLs that the model's server must not fetch. MediaUrls may be stricter than when the turn
    was submitted. A note tells the model that there was an image."""
    request = _allowed(turn.request, urls)
    if "context" in request:
        request = request | {"context": [_allowed(entry, urls) for entry in request["context"]]}
    return turn._replace(request=request)


def _allowed(entry: dict[str, Any], urls: MediaUrls) -> dict[str, Any]:
    media = entry.get("media")
    if not media:
        return entry
    kept = [item if urls.allows(item.get("url", "data:")) else {"type": item["type"]} for item in media]
    return entry | {"media": kept}


def _uploaded(turn: Turn) -> list[str]:
    return [item["upload_id"] for item in turn.request.get("media", ()) if "upload_id" in item]
