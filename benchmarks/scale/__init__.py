"""Computes and simulates which limit is reached first as load grows. docs/scale.md has the results."""

from benchmarks import on_lambda
from benchmarks.report import Section
from benchmarks.scale import demand, overhead, scenarios

LOADS = (1, 5, 10, 20, 31, 60, 100)


def run() -> Section:
    section = Section("scale", "Scale")
    _say_overhead(section)
    section.say("What a load asks for: small asynchronous chats, polled as the JavaScript client does with `wait: 0`.")
    section.table(demand.HEAD, [demand.row(rate) for rate in demand.RATES])
    section.say("What binds first, by AWS's defaults (docs/scale.md has their sources):")
    section.table(demand.BINDING_HEAD, demand.binding_rows())
    section.say(
        f"Simulated: the model lognormal, mean {demand.MEAN:g} s, sigma {demand.SIGMA:g}; the event source begins with "
        "5 pollers and has 5 more each second while messages wait; each chat is of a session of its own. Waits and "
        "times are of the answered, from the submit. *Before* is the design of commit a557647, by the same simulation."
    )
    section.say("The most that a queue which is never empty gets from the workers:")
    section.table(scenarios.CAPACITY_HEAD, [scenarios.capacity_row(count) for count in scenarios.CAPACITIES])
    section.say(
        "GB-seconds of the worker for 1,000 chats. Worst, middle and best are three rules for who gets a message that "
        "several polls wait for: the event source always, any of them, a worker always."
    )
    section.table(scenarios.EFFICIENCY_HEAD, [scenarios.efficiency_row(rate) for rate in scenarios.EFFICIENT_LOADS])
    section.table(scenarios.SLOW_HEAD, [scenarios.slow_row(name, own) for name, own in scenarios.SLOW.items()])
    loads = [scenarios.steady(rate) for rate in LOADS]
    before = [scenarios.steady_before(rate) for rate in (5, 20, 31)]
    trouble = [scenarios.outage(kind, reply) for kind, reply in scenarios.OUTAGES.items()]
    trouble += [scenarios.quota(known) for known in (0, scenarios.GRANTED)]
    other = [scenarios.burst(own, name) for own, name in scenarios.BURSTS.values()]
    days = [scenarios.day(count) for count in (5, 10)]
    others = [*before, *loads, *other, *trouble, *days, scenarios.one_session()]
    section.table(scenarios.HEAD, [scenarios.row(scenario) for scenario in others])
    section.say(
        "What trouble at the model costs. It ends when the model is back, or when the chats ask for no more than it "
        "grants. The last answer is that of the chats submitted before. The dollars are an upper bound: each delivery "
        "counts as an invocation."
    )
    section.table(scenarios.TROUBLE_HEAD, [scenarios.trouble_row(scenario) for scenario in trouble])
    return section


def _say_overhead(section: Section) -> None:
    measured = overhead.measured()
    section.say(
        "What our functions take beside the model, measured here under the real runtime client with services that "
        "answer at once; the simulation has it rounded, so that it is the same each time. A function of 256 MB has "
        f"256/{on_lambda.MB_OF_A_CPU:,} of a vCPU, and a call of AWS is taken to last "
        f"{on_lambda.NETWORK_SECONDS * 1000:g} ms."
    )
    section.table(
        ["function", "start, s", "assumed", "CPU each, ms", "assumed"],
        [
            [place, f"{cost.init:.2f}", f"{assumed.init:.1f}", f"{1000 * cost.cpu:.1f}", f"{1000 * assumed.cpu:g}"]
            for place, assumed in overhead.ASSUMED.items()
            for cost in [measured[place]]
        ],
    )
