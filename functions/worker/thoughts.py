"""Removes the thoughts that some servers put at the beginning of an answer, between <think> and </think>."""

_OPEN, _CLOSE = "<think>", "</think>"


class LeadingThoughts:
    """Reads an answer piece by piece. Only a <think> block at the beginning of the answer counts as thoughts. A later
    tag is text."""

    def __init__(self) -> None:
        self._held = ""
        self._inside = self._behind = False
        self.over = False
        """Whether only text follows, so that `feed` need not be called again."""

    def feed(self, text: str) -> tuple[str, str]:
        """Split the next piece of the answer into text and thoughts. Holds back characters that can be the beginning of
        a tag."""
        text, self._held = self._held + text, ""
        thoughts = ""
        if not (self._inside or self._behind):
            begun = text.lstrip()
            if not begun.startswith(_OPEN):
                if _OPEN.startswith(begun):  # This piece can be the beginning of the tag, so hold it back.
                    self._held = text
                    return "", ""
                self.over = True
                return text, ""
            self._inside, text = True, begun.removeprefix(_OPEN)
        if self._inside:
            thoughts, closed, text = text.partition(_CLOSE)
            if not closed:
                length = next((size for size in range(len(_CLOSE), 0, -1) if thoughts.endswith(_CLOSE[:size])), 0)
                cut = len(thoughts) - length
                self._held = thoughts[cut:]
                return "", thoughts[:cut]
            self._inside, self._behind = False, True
        text = text.lstrip()  # Leave out the blank lines between the block and the answer.
        self.over = bool(text)
        return text, thoughts

    def rest(self) -> str:
        """The text that was held back. Call this at the end of the answer."""
        held, self._held = self._held, ""
        return "" if self._inside else held
