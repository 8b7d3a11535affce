"""The reasons why a call to the model gave no answer."""

from turnqueue.turn import FAILURES


class ModelError(Exception):
    """The model gave no answer.

    `code`: one of turnqueue.turn.FAILURES. `retry_after`: seconds that the provider asks to wait, or None. `refused`:
    whether the server refused the call before any token, so that the server is the cause and not the turn.
    `request_id`: the provider's id for the call, at most 100 printable ASCII characters, or None.
    """

    def __init__(
        self, code: str, *, retry_after: float | None = None, refused: bool = False, request_id: str | None = None
    ) -> None:
        super().__init__(code)
        self.code = code
        self.retry_after = retry_after
        self.refused = refused
        self.request_id = request_id

    @property
    def retryable(self) -> bool:
        return FAILURES[self.code].retryable
