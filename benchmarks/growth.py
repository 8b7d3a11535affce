"""What a turn costs as everything around it grows: its conversation, the sessions, the queue, and its own answer."""

import statistics
from collections.abc import Callable, Mapping, Sequence

from benchmarks.answers import (
    TOKENS,
    TOKENS_A_SECOND,
    USUAL_TOKENS_A_SECOND,
    Answer,
    answer,
    cpu_of_chunks,
    progress_units,
    tell_answers,
    tell_chunks,
)
from benchmarks.chats import Chats
from benchmarks.conversations import Talk, conversations, tell_conversations
from benchmarks.crowds import Side, crowds, sessions_of_a_batch, tell_crowds
from benchmarks.meter import Meter
from benchmarks.report import Chart, Section, draw
from local.stack import LocalStack

type Points = list[tuple[float, float]]


def run() -> Section:
    section = Section("growth", "What a turn costs as everything around it grows")
    with LocalStack(record=True, parameters={"WorkerConcurrency": "2"}) as stack:
        chats = Chats(stack, Meter(stack))
        turn = chats.a_turn()
        megabytes = stack.functions["WorkerFunction"].memory
        talks = conversations(chats, turn)
        sides = crowds(chats, turn)
        shares = sessions_of_a_batch(stack)
        answers = [answer(chats, tokens) for tokens in TOKENS]
        chunks = cpu_of_chunks(chats)

    section.say(
        "CPU time is that of the functions' processes on the local stack, under Lambda's runtime client; units are "
        "counted from the items that the calls move. Small and large were measured in turns; what is in brackets are "
        "quartiles."
    )
    tell_conversations(section, talks)
    tell_crowds(section, sides, shares)
    tell_answers(section, answers)
    tell_chunks(section, chunks, megabytes)
    draw("growth.svg", *_charts(talks, sides, answers))
    section.plot("growth.svg", "what grows, and what does not")
    return section


def _charts(
    talks: Mapping[str, Mapping[int, Talk]], sides: Mapping[str, Side], answers: Sequence[Answer]
) -> list[Chart]:
    def of_talks(value: Callable[[Talk], float]) -> dict[str, Points]:
        return {f"{kind} turns": [(turns, value(talk)) for turns, talk in talks[kind].items()] for kind in talks}

    cpu = of_talks(lambda talk: 1000 * statistics.median(talk.cpu))
    tokens = of_talks(lambda talk: statistics.median(talk.prompt_tokens))
    crowd = {
        name.replace(", ", "\n"): {
            "submit": 1000 * statistics.median(side.submit_cpu),
            "status": 1000 * statistics.median(side.status_cpu),
        }
        for name, side in sides.items()
    }
    usual = [(tokens, progress_units(tokens, USUAL_TOKENS_A_SECOND)) for tokens in range(0, TOKENS[-1] + 1, 500)]
    units: dict[str, Points] = {
        f"reckoned at {USUAL_TOKENS_A_SECOND} tokens/s": [(float(tokens), float(units)) for tokens, units in usual],
        f"measured at {TOKENS_A_SECOND} tokens/s": [(each.tokens, each.write_units) for each in answers],
    }
    return [
        Chart("worker's CPU by the turns before", "turns", "ms a turn", cpu, log=True),
        Chart("prompt by the turns before", "turns", "tokens", tokens, log=True),
        Chart("CPU of a submit and a poll", "", "ms", stacks=crowd),
        Chart("units of progress by the answer", "tokens", "write units", units),
    ]
