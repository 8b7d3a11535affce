"""Estimates a function's time on Lambda from its CPU time and calls on this machine."""

MB_OF_A_CPU = 1769
"""docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html: at 1,769 MB a function has one vCPU, and with less
memory a proportional share."""

NETWORK_SECONDS = 0.005
"""The wait for one call of DynamoDB or SQS. An assumption: AWS promises single-digit milliseconds."""


def seconds(cpu: float, calls: float, megabytes: int) -> float:
    """The seconds of an invocation with this CPU time and this number of calls to AWS."""
    return cpu * MB_OF_A_CPU / megabytes + calls * NETWORK_SECONDS
