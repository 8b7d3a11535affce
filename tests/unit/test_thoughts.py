"""Thoughts at the beginning of an answer are removed, however the answer is cut into pieces."""

import pytest

from thoughts import LeadingThoughts

ANSWERS = {
    "a block": ("<think>hm, <b>\nso</think>\n\nAll is well.", "All is well.", "hm, <b>\nso"),
    "blank lines before it": ("\n <think>hm</think>All is well.", "All is well.", "hm"),
    "an empty block": ("<think></think>All is well.", "All is well.", ""),
    "none": ("All is well.", "All is well.", ""),
    "none, with blank lines": ("\n\nAll is well.\n", "\n\nAll is well.\n", ""),
    "the tag later on": ("The tag <think>x</think> is.", "The tag <think>x</think> is.", ""),
    "a second block": ("<think>a</think>b<think>c</think>", "b<think>c</think>", "a"),
    "a tag that is another": ("<thin>All</thin>", "<thin>All</thin>", ""),
    "half a tag": ("<thi", "<thi", ""),
    "a block without an end": ("<think>hm </thin", "", "hm "),
    "nothing": ("", "", ""),
    "blanks": (" \n", " \n", ""),
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(("said", "text", "thoughts"), ANSWERS.values(), ids=ANSWERS)
def test_a_leading_block_is_thoughts(said: str, text: str, thoughts: str, size: int) -> None:
    leading = LeadingThoughts()
    shown = thought = ""

    for start in range(0, len(said), size):
        piece = said[start : start + size]
        more, thinking = (piece, "") if leading.over else leading.feed(piece)
        shown, thought = shown + more, thought + thinking

    assert (shown + leading.rest(), thought) == (text, thoughts)


def test_an_ordinary_answer_is_shown_at_its_first_letter() -> None:
    leading = LeadingThoughts()

    assert leading.feed("A") == ("A", "")
    assert leading.over
