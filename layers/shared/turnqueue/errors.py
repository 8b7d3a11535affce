"""The table of all refusals of a request. The code raises each refusal as a `Problem`, and docs/openapi.yaml is
generated from this table. Errors of accepted tasks are in `turn.FAILURES`. The title of a problem document is the name
of its status.
"""

from typing import NamedTuple

from turnqueue.turn import MAX_REQUEST_BYTES

MAX_BODY_BYTES = 512 * 1024
"""The maximum number of bytes in a request's body. A body with 32,000 escaped characters and 200 KB of media is
smaller."""


class Refusal(NamedTuple):
    """A refusal of a request. `meaning`: the detail for the user, unless the code that raises the refusal gives a more
    exact detail."""

    status: int
    meaning: str


REFUSALS = {
    "invalid_body": Refusal(400, "The body could not be decoded. Send JSON in UTF-8."),
    "invalid_json": Refusal(400, "The body is not valid JSON."),
    "unauthenticated": Refusal(401, "The request needs a bearer token with a `sub` claim of 1 to 255 characters."),
    "no_such_route": Refusal(404, "The API has no such path or method."),
    "session_not_found": Refusal(404, "There is no such session, or it has expired."),
    "task_not_found": Refusal(404, "There is no such task, or it has expired."),
    "not_failed": Refusal(409, "Only a failed task can be sent again."),
    "body_too_large": Refusal(413, f"The body may have at most {MAX_BODY_BYTES:,} bytes."),
    "request_too_large": Refusal(
        413,
        f"The request may have at most {MAX_REQUEST_BYTES:,} bytes as JSON, without its large data URLs; `error.param` "
        "names its largest field.",
    ),
    "unsupported_media_type": Refusal(415, "Content-Type must be application/json."),
    "idempotency_key_reused": Refusal(
        422, "Another request had this Idempotency-Key within the last 24 hours. Use a new key."
    ),
    "invalid_idempotency_key": Refusal(422, "Idempotency-Key must be 1 to 255 visible ASCII characters."),
    "invalid_parameter": Refusal(422, "A parameter or preference has a malformed value; `error.param` names it."),
    "invalid_request": Refusal(422, "The body does not match its schema; `errors` names the wrong fields."),
    "media_url_not_allowed": Refusal(
        422, "An image has a URL that this service does not allow; `error.param` names the image."
    ),
    "rate_limited": Refusal(429, "The caller has exceeded a limit of the deployment. Wait for `Retry-After` seconds."),
    "internal_error": Refusal(500, "Something went wrong on our side. Please try again."),
    "unavailable": Refusal(503, "The service is unavailable. Please try again in a moment."),
    "already_continued": Refusal(
        409, "The function calls are answered already, or the conversation has continued without their results."
    ),
    "tool_outputs_mismatch": Refusal(400, "The results of function calls do not match the calls."),
    # Only the OpenAI API has the refusals below. It answers 400 to a wrong body, as OpenAI does, while /chat answers
    # 422.
    "unsupported": Refusal(400, "This service does not support this part of the OpenAI API."),
    "unsupported_parameter": Refusal(
        400, "This service does not support a parameter of the request; `error.param` names it."
    ),
    "conversation_not_found": Refusal(404, "There is no such conversation, or it has expired."),
    "item_not_found": Refusal(404, "There is no such item, or it has expired."),
    "model_not_found": Refusal(404, "There is no such model."),
    "response_not_found": Refusal(404, "There is no such response, or it has expired."),
    "response_in_progress": Refusal(
        409, "The previous response is not final yet. Wait for it, or send both in one conversation."
    ),
}
