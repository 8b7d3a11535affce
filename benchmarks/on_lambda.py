"""What is taken of Lambda, where there is none: how long a function lasts there, by what it used here."""

MB_OF_A_CPU = 1769
"""docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html: at 1,769 MB a function has one vCPU, with less its
share."""

NETWORK_SECONDS = 0.005
"""What a function waits for one call of DynamoDB or SQS. Assumed: AWS promises single-digit milliseconds."""


def seconds(cpu: float, calls: float, megabytes: int) -> float:
    """Of an invocation with so many CPU seconds, and so many calls of AWS that it waits for."""
    return cpu * MB_OF_A_CPU / megabytes + calls * NETWORK_SECONDS
