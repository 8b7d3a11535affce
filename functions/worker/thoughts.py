"""Takes the thoughts away that some servers leave at the beginning of an answer, between <think> and </think>."""

_OPEN, _CLOSE = "<think>", "</think>"


class LeadingThoughts:
    """Reads an answer as it comes. Only a block at its very beginning is thoughts: later the tag is what it says."""

    def __init__(self) -> None:
        self._held = ""
        self._inside = self._behind = False
        self.over = False
        """Whether all that follows is text, so that it need not come through here."""

    def feed(self, text: str) -> tuple[str, str]:
        """The next piece of the answer, divided into what is text and what is thoughts. It may hold back a little."""
        text, self._held = self._held + text, ""
        thoughts = ""
        if not (self._inside or self._behind):
            begun = text.lstrip()
            if not begun.startswith(_OPEN):
                if _OPEN.startswith(begun):  # It may become the tag.
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
        text = text.lstrip()  # The block is followed by blank lines.
        self.over = bool(text)
        return text, thoughts

    def rest(self) -> str:
        """The text that was held back, when nothing more comes."""
        held, self._held = self._held, ""
        return "" if self._inside else held
