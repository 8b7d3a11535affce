"""What a turn costs as its conversation grows."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from benchmarks.bill import CHATS, dollars
from benchmarks.chats import Chats, Item, conversation, in_large, message_of
from benchmarks.paired import alternate, ratio, spread
from benchmarks.report import Section

_TURNS = (1, 5, 20, 100, 500)
_ROUNDS = 7


@dataclass
class Talk:
    """What a turn behind so many others used, in each round."""

    cpu: list[float] = field(default_factory=list)  # seconds of the worker
    read_units: list[float] = field(default_factory=list)  # of the history
    prompt_tokens: list[float] = field(default_factory=list)


def conversations(chats: Chats, turn: Item) -> dict[str, dict[int, Talk]]:
    """By the kind of the turns before, and their number."""
    kinds = {"small": turn, "large": in_large(turn)}
    talks = {kind: {turns: Talk() for turns in _TURNS} for kind in kinds}
    for kind, before in kinds.items():
        for turns in _TURNS:
            chats.write(conversation(before, f"{kind}-{turns}", turns))

    def measure(kind: str, turns: int) -> float:
        talk = talks[kind][turns]
        with chats.meter.measured() as use:
            task = chats.say(message_of(), f"{kind}-{turns}")
        chats.forget(task["task_id"])
        talk.cpu.append(use["CPU seconds", "WorkerFunction"])
        talk.read_units.append(use["read units", "Query"])
        talk.prompt_tokens.append(task["usage"]["prompt_tokens"])
        return talk.cpu[-1]

    sides = {f"{kind} {turns}": partial(measure, kind, turns) for kind in kinds for turns in _TURNS}
    alternate(sides, _ROUNDS)
    return talks


def tell_conversations(section: Section, talks: Mapping[str, Mapping[int, Talk]]) -> None:
    section.say(
        "**The conversation grows to 500 turns: bounded.** The worker reads 20 turns and gives the model those of them "
        "that are 16,000 tokens together. Small turns have 100 characters of message and 300 of answer, large ones "
        "2,000 and 16,000."
    )
    rows = []
    for kind, by_turns in talks.items():
        few = by_turns[20]
        for turns, talk in by_turns.items():
            rows.append(
                [
                    f"{turns} {kind}",
                    f"{spread([1000 * seconds for seconds in talk.cpu])} ms",
                    str(ratio(talk.cpu, few.cpu)),
                    f"{statistics.median(talk.read_units):g}",
                    f"{statistics.median(talk.prompt_tokens):,.0f}",
                    f"${dollars('model_prompt_token', statistics.median(talk.prompt_tokens) * CHATS):,.0f}",
                ]
            )
    head = ["turns before", "worker's CPU", "to 20 turns", "read units of the history", "prompt tokens"]
    section.table([*head, "prompts of a million such turns"], rows)
