"""What a million chats cost on AWS: units counted on the local stack, at list prices, beside a conventional design."""

import statistics
from collections.abc import Mapping

from benchmarks.bill import (
    CHATS,
    COLD_SHARE,
    MONTH_SECONDS,
    PRICES,
    Bill,
    Machine,
    dollars,
)
from benchmarks.chats import Chats
from benchmarks.counted import (
    ANSWERS,
    EARLIER_TURNS,
    FUNCTIONS,
    LONG_INSTRUCTIONS,
    Persona,
    Run,
    in_sync_mode,
    many,
    of_personas,
    started,
    with_a_wait,
)
from benchmarks.designs import CONVENTIONAL, batch_seconds, conventional_bill, our_bill, short
from benchmarks.meter import Meter
from benchmarks.on_lambda import MB_OF_A_CPU, NETWORK_SECONDS
from benchmarks.paired import ratio, spread
from benchmarks.report import Chart, Section, draw, goal
from development import cfn
from local.dashboard.metrics import emitted, log_lines
from local.stack import LocalStack

_CHATS_IN_BATCHES = 60
_CHATS_ALONE = 24


def run() -> Section:
    section = Section("cost", "What a million chats cost on AWS")
    with LocalStack(record=True, parameters={"WorkerConcurrency": "8"}) as stack:
        meter = Meter(stack)
        chats = Chats(stack, meter)
        inits = started(chats)
        batched = many(chats, _CHATS_IN_BATCHES, batch_size=10)
        alone = many(chats, _CHATS_ALONE, batch_size=1)
        modes = {"sync mode": in_sync_mode(chats), "one poll with `?wait=20`": with_a_wait(chats)}
        personas = of_personas(chats)
        series = len(emitted(log_lines(stack.logs)).names())
        megabytes = stack.functions["WorkerFunction"].memory

    ours = Machine(megabytes, "lambda_gb_second_arm64")
    bills = {
        "ours, batches of 10": our_bill(batched, 10, ours, inits, series),
        "ours, one at a time": our_bill(alone, 1, ours, inits, series),
        "conventional": conventional_bill(alone, inits),
    }
    smaller = our_bill(alone, 1, ours, inits, series, worker=Machine(128, ours.price)).total
    silent = conventional_bill(alone, inits, log_event=False)
    _tell_the_bills(section, bills, smaller, silent)
    _tell_assumptions(section, batched, alone, inits, series)
    _tell_the_worker(section, batched, alone, ours)
    _tell_the_modes(section, batched, modes, ours, bills)
    _tell_the_model(section, batched, personas)
    _tell_the_prices(section)
    return section


def _tell_the_bills(section: Section, bills: Mapping[str, Bill], smaller: float, silent: Bill) -> None:
    section.say(
        f"Dollars for {CHATS:,} chats in a month, at list prices (below), without free tiers. A chat is a message of "
        f"100 characters and an answer of 300 in a session with {EARLIER_TURNS} such turns before it; the model takes "
        f"{ANSWERS.mean:g} s on average (lognormal, sigma {ANSWERS.sigma:g}) and streams; the client polls twice. "
        "Units are counted on the local stack, where real chats ran, but for the Lambda times (see below)."
    )
    totals = [bill.total for bill in bills.values()]
    names = list(dict.fromkeys(name for bill in bills.values() for name in bill))
    rows = [[name, *(f"{bill[name].units} · ${bill[name].usd:.2f}" for bill in bills.values())] for name in names]
    section.table(["a chat", *bills], [*rows, ["**together**", *(f"**${total:.2f}**" for total in totals)]])
    *ours, conventional = totals
    section.table(
        ["", "of the conventional design", "goal"],
        [
            [name, f"{total / conventional:.3f} (1/{conventional / total:.1f})", goal(total / conventional, 0.2)]
            for name, total in zip(bills, ours, strict=False)
        ],
    )
    section.say(
        "Alone, a turn has to pay for the whole wait for its model, which only less memory makes cheaper (a FIFO queue "
        f"has no batching window): with 128 MB for the worker it would be ${smaller:.2f}, "
        f"1/{conventional / smaller:.1f} of the conventional design. That is not done: images need the memory, and it "
        "halves the worker's share of a CPU. A million chats spread evenly over a month are one each 2.6 s: batches "
        "fill in the hours in which most of them come, and not in the others."
    )
    untraced = silent.total - silent["traces"].usd
    section.say(
        "What the conventional design is blamed for that it could leave off: without the events in its log it is "
        f"${silent.total:.2f} (ours in batches 1/{silent.total / ours[0]:.1f} of it), without Tracer too "
        f"${untraced:.2f} (1/{untraced / ours[0]:.1f})."
    )
    for name, bill in bills.items():
        largest = sorted(bill.items(), key=lambda each: -each[1].usd)[:4]
        parts = ", ".join(f"{line} {100 * part.usd / bill.total:.0f} %" for line, part in largest)
        section.say(f"What dominates, {name}: {parts}.")
    seen = [line for line in names if max(bill[line].usd for bill in bills.values()) > max(totals) / 100]
    stacks = {name: {line: bill[line].usd for line in seen} for name, bill in bills.items()}
    draw("cost.svg", Chart("dollars for a million chats", "", "dollars", stacks=stacks))
    section.plot("cost.svg", "the bills, by their lines")


def _tell_assumptions(section: Section, batched: Run, alone: Run, inits: Mapping[str, float], series: int) -> None:
    section.say("What was counted, a chat:")
    section.table(
        ["", "turns a batch", "writes of turns + usage of the day", "reads", "SQS requests", "log lines"],
        [_counted(batched, "in batches"), _counted(alone, "one at a time")],
    )
    progress = batched.each("writes", "progress")
    section.say(
        "Of the writes of the turns table three are the chat's (recorded, claimed, answered); the other "
        f"{progress:.1f} show the answer as it grows, one a second, and a client that does not look at `partial` pays "
        "for them too. The usage of the day is one write more, of the guards table."
    )
    rows = [
        [
            short(function),
            f"{batched.of_an_invocation('CPU seconds', function) * 1000:.1f} ms",
            f"{batched.of_an_invocation('calls', function):.1f}",
            f"{alone.of_an_invocation('CPU seconds', function) * 1000:.1f} ms",
            f"{inits[function] * 1000:.0f} ms",
        ]
        for function in FUNCTIONS
    ]
    head = ["an invocation", "CPU, in batches", "AWS calls, in batches", "CPU, one at a time", "CPU, init and first"]
    section.table(head, rows)
    fixed = fixed_costs()
    section.say(
        f"Assumed, for there is no AWS here: {NETWORK_SECONDS * 1000:.0f} ms for each AWS call; a core of this machine "
        "is one vCPU, of which Lambda gives a function its memory's share of 1,769 MB; of the invocations "
        f"{100 * COLD_SHARE:.0f} % begin with an init, whose CPU time is billed. The conventional design (REST API, "
        "x86, 512 MB, one message an invocation, Tracer at the default sampling, INFO logs with the event, 5 polls, a "
        "PROCESSING write, 20 metric series) is reckoned, not run: where it is not known it is charged what ours uses, "
        "which flatters it, in the CPU of handlers and inits above all. Its log bytes are those of Powertools' Logger "
        f"on the events in events/. Our {series} metric series are those that this run wrote; they are billed by the "
        "month, so of ten million chats they are a tenth for each million. Not in the bills: storage (a week of "
        "turns), Cognito, KMS, Secrets Manager. Fixed costs of ours a month: "
        + ", ".join(f"{name} ${usd:.2f}" for name, usd in fixed.items())
        + f", together ${sum(fixed.values()):.2f}."
    )


def _counted(run: Run, how: str) -> list[str]:
    """A row of what was counted."""
    queue = {operation: amount for (what, operation), amount in run.use.items() if what == "SQS requests" and amount}
    return [
        f"{run.chats} chats {how}",
        f"{statistics.mean(len(seconds) for seconds, _ in run.batches):.1f}",
        f"{run.each('writes', 'TurnsTable'):.2f} + {run.each('writes', 'GuardsTable'):.2f}",
        f"{run.each('reads', 'Query'):.0f} Query, {run.each('reads', 'GetItem'):.2f} GetItem",
        ", ".join(f"{amount / run.chats:.1f} {operation}" for operation, amount in sorted(queue.items())),
        f"{run.each('log lines'):.1f}, {run.each('metric lines'):.1f} of them metrics; {run.each('log bytes'):.0f} B",
    ]


def fixed_costs() -> dict[str, float]:
    """Dollars a month of what the template makes and what Lambda does while nobody chats."""
    alarms = len(cfn.resources("AWS::CloudWatch::Alarm"))
    return {
        f"{alarms} alarms": dollars("alarm_month", alarms),
        "a composite alarm": dollars("composite_alarm_month", 1),
        "the dashboard": dollars("dashboard_month", 1),
        # Not fewer where the mapping has a MaximumConcurrency (Lambda's developer guide, "Scaling behavior").
        "Lambda's five long polls of 20 s": dollars("sqs_fifo_request", 5 * MONTH_SECONDS / 20),
    }


def _tell_the_worker(section: Section, batched: Run, alone: Run, machine: Machine) -> None:
    section.say(
        "The worker's time is a formula: a batch is billed until its slowest answer is there, E[max of the batch], and "
        "the CPU time of all its turns at the function's share of a CPU is added, as if none of it were spent while "
        "others are waited for, which is more than will be billed. Checked against the batches that were run here, "
        "where a process may have a whole core and calls go to the emulator. An answer of 300 characters comes in some "
        "40 chunks; what more of them take, and with what memory, is told below, where the answer grows."
    )
    rows = []
    whole = Machine(MB_OF_A_CPU, machine.price)
    for run, size in ((batched, 10), (alone, 1)):
        measured = [seconds for _, seconds in run.batches]
        formula = [
            max(each) + whole.seconds(len(each) * run.cpu_of_a_turn, run.calls_of_a_turn) for each, _ in run.batches
        ]
        seconds = batch_seconds(run, machine, size)
        rows.append(
            [
                size,
                len(run.batches),
                f"{ANSWERS.slowest_of(size):.2f} s",
                f"{statistics.mean(max(each) for each, _ in run.batches):.2f} s",
                f"{spread(measured, 2)} s",
                str(ratio(measured, formula)),
                f"{seconds:.2f} s",
                f"{1000 * machine.gigabyte_seconds(seconds) / size:.0f}",
            ]
        )
    head = [
        "turns a batch",
        "batches",
        "E[max]",
        "slowest answer, mean",
        "measured",
        "measured / formula at a whole CPU",
    ]
    section.table([*head, f"formula at {machine.megabytes} MB", "GB-s for 1,000 chats"], rows)
    theirs = CONVENTIONAL.gigabyte_seconds(batch_seconds(alone, CONVENTIONAL, 1))
    in_batches = machine.gigabyte_seconds(batch_seconds(batched, machine, 10)) / 10
    hidden = machine.gigabyte_seconds(ANSWERS.slowest_of(10)) / 10
    by_itself = machine.gigabyte_seconds(batch_seconds(alone, machine, 1))
    section.say(
        f"The conventional worker has {1000 * theirs:.0f} GB-s for 1,000 chats: ours has 1/{theirs / in_batches:.1f} "
        f"of them in batches of 10, and 1/{theirs / by_itself:.1f} alone. If all of the CPU time were hidden in the "
        f"wait, batches would have 1/{theirs / hidden:.1f}."
    )


def _tell_the_modes(
    section: Section, batched: Run, modes: Mapping[str, Run], machine: Machine, bills: Mapping[str, Bill]
) -> None:
    section.say(
        "What the client's way of waiting changes, for a million chats: requests, the Lambda time of submit and status "
        "(who waits there is billed for it: as long as it lasted here), and reads. The worker's part is the same."
    )

    def parts(requests: float, seconds: float, reads: float) -> tuple[float, ...]:
        return (
            dollars("http_api_request", requests * CHATS),
            dollars("lambda_request", requests * CHATS),
            dollars(machine.price, machine.gigabyte_seconds(seconds) * CHATS),
            dollars("dynamodb_read_unit", reads * CHATS),
        )

    def row(name: str, requests: float, seconds: float, reads: float) -> list[str]:
        units = [f"{requests:.0f}", f"{seconds * 1000:,.0f} ms", f"{reads:.1f}"]
        paid = parts(requests, seconds, reads)
        return [name, *units, *(f"${part:.2f}" for part in paid), f"**${sum(paid):.2f}**"]

    submit, poll = (
        machine.seconds(batched.of_an_invocation("CPU seconds", function), batched.of_an_invocation("calls", function))
        for function in FUNCTIONS[:2]
    )
    polled = {polls: (1 + polls, submit + polls * poll, polls) for polls in (1, 2, 5, 10)}
    rows = [row(f"polls: {polls}", *units) for polls, units in polled.items()]
    for name, run in modes.items():
        seconds = run.each("seconds", "SubmitFunction") + run.each("seconds", "StatusFunction")
        rows.append(row(name, run.each("requests"), seconds, run.each("read units", "GetItem")))
    head = ["", "requests", "Lambda time", "read units", "API", "Lambda requests", "Lambda time", "reads", "together"]
    section.table(head, rows)
    in_batches, _, conventional = (bill.total for bill in bills.values())
    seen_growing = in_batches + sum(parts(*polled[5])) - sum(parts(*polled[2]))
    section.say(
        "Our own JavaScript client with `wait: 0` looks some five times at a chat of 3 s, as the conventional "
        f"design's does, to show the answer as it grows: ours, batches of 10, are then ${seen_growing:.2f}, "
        f"1/{conventional / seen_growing:.1f} of the conventional design."
    )


def _tell_the_model(section: Section, run: Run, personas: Mapping[str, Persona]) -> None:
    section.say(
        "The model's own bill, which dwarfs AWS's (gpt-4.1-mini; tokens as the stand-in counts them, 4 characters "
        f"each), and what the length of a persona's instructions changes: {LONG_INSTRUCTIONS:,} characters against the "
        "`general` persona's. Measured in turns of the two, the model taking no time, without history."
    )
    rows = []
    for name, persona in personas.items():
        spoken = dollars("model_completion_token", persona.completion_tokens * CHATS)
        rows.append(
            [
                name,
                f"{persona.prompt_tokens:.0f} + {persona.completion_tokens:.0f}",
                f"{spread([1000 * seconds for seconds in persona.worker_cpu])} ms",
                f"{persona.log_bytes:.0f}",
                f"{persona.write_units:.1f}",
                f"${dollars('gigabyte_out', persona.prompt_tokens * 4 * CHATS / 2**30):.2f}",
                f"${dollars('model_prompt_token', persona.prompt_tokens * CHATS) + spoken:,.0f}",
                f"${dollars('model_cached_prompt_token', persona.prompt_tokens * CHATS) + spoken:,.0f}",
            ]
        )
    head = ["instructions", "tokens", "worker's CPU a turn", "log bytes", "write units", "data to the model"]
    section.table([*head, "model, for a million", "model, if the provider has the prompt cached"], rows)
    with_history = dollars("model_prompt_token", run.prompt_tokens * CHATS)
    with_history += dollars("model_completion_token", run.completion_tokens * CHATS)
    section.say(
        f"Long instructions take {ratio(personas['long'].worker_cpu, personas['short'].worker_cpu)} times the worker's "
        f"CPU time, the same log and the same writes. With the {EARLIER_TURNS} earlier turns of the chats above the "
        f"prompt has {run.prompt_tokens:.0f} tokens: ${with_history:,.0f} for a million chats."
    )


def _tell_the_prices(section: Section) -> None:
    rows = [
        [name.replace("_", " "), f"${price['usd']:g} for {price['per']:,}", price["source"], price["read"]]
        for name, price in PRICES.items()
    ]
    section.say("The prices (benchmarks/prices.toml):")
    section.table(["unit", "price", "read at", "on"], rows)
