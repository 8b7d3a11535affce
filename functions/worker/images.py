"""Fetches the conversation's images that are in S3. The model gets them as data URLs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from modelerror import ModelError
from room import Room
from turnqueue.attachments import references
from turnqueue.media import MAX_UPLOAD_BYTES, MediaUrls, Unusable, Uploads
from turnqueue.turn import Turn

MAX_EARLIER_UPLOADS = 4
"""The maximum number of uploads of earlier turns that the model gets again, the latest first. The tokens of an image
are paid for each time."""

MAX_EARLIER_DATA_URLS = 32
"""The maximum number of data URLs of earlier turns that are read from S3. Each read takes some 30 ms."""


@asynccontextmanager
async def loaded(room: Room, uploads: Uploads, history: Sequence[Turn], turn: Turn) -> AsyncIterator[dict[str, str]]:
    """The result of `load`. The memory of the images stays reserved until the `with` block ends."""
    if not any(_uploaded(each) or references(each.request) for each in (*history, turn)):
        yield {}
        return
    async with room.for_images() as keep:
        shown = await asyncio.to_thread(load, uploads, history, turn)
        keep(sum(map(len, shown.values())) * 3 // 4)  # base64 makes 4 characters of 3 bytes
        yield shown


def load(uploads: Uploads, history: Sequence[Turn], turn: Turn) -> dict[str, str]:
    """The data URLs of the images for the model, by upload id: all images of the request, and the latest earlier images
    that still exist and fit. Raises ModelError if an image of the turn's message is missing, too large or not an image.
    Raises botocore's ClientError or BotoCoreError if S3 refuses or does not answer.
    """
    owner, found, left = turn.key.owner, dict[str, str](), MAX_UPLOAD_BYTES

    def fetch(upload_id: str) -> None:
        nonlocal left
        if upload_id not in found:
            image = uploads.read(owner, upload_id, left)
            left -= len(image.content)
            found[upload_id] = image.data_url

    def fetch_moved(upload_id: str) -> None:
        if upload_id not in found:
            found[upload_id] = uploads.data_url(owner, upload_id)

    try:
        for upload_id in _uploaded(turn):
            fetch(upload_id)
        for upload_id in _moved(turn):
            fetch_moved(upload_id)  # not counted in `left`, because `submit` already limits the request's data URLs
    except Unusable as unusable:
        raise ModelError(unusable.code) from unusable
    for upload_id in references(turn.request):
        with suppress(Unusable):  # Leave out an image of the context whose turn was deleted.
            fetch_moved(upload_id)
    for upload_id in _latest(history, _uploaded)[:MAX_EARLIER_UPLOADS]:
        with suppress(Unusable):  # If the image is gone, a note tells the model that there was one.
            fetch(upload_id)
    for upload_id in _latest(history, lambda past: references(past.request))[:MAX_EARLIER_DATA_URLS]:
        with suppress(Unusable):
            if left > 0:
                fetch_moved(upload_id)
                left -= len(found[upload_id]) * 3 // 4
    return found


def _latest(history: Sequence[Turn], images: Callable[[Turn], list[str]]) -> list[str]:
    return [upload_id for past in reversed(history) for upload_id in images(past)]


def allowed(turn: Turn, urls: MediaUrls) -> Turn:
    """The turn without the URLs that the model's server must not fetch. MediaUrls can be stricter now than when the
    turn was submitted. In place of each removed image, a note tells the model that there was an image."""
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
    """The uploads that the message names."""
    return [item["upload_id"] for item in _media(turn) if "upload_id" in item and "data_url" not in item]


def _moved(turn: Turn) -> list[str]:
    """The message's data URLs that `submit` moved to S3."""
    return [item["upload_id"] for item in _media(turn) if "data_url" in item]


def _media(turn: Turn) -> Sequence[dict[str, Any]]:
    return turn.request.get("media") or ()
