"""`python -m tests.races.moto_server`: moto as an AWS endpoint on loopback, one call of a service at a time.

moto has no locks: with threads in it at once it loses writes that it has acknowledged. Behind a lock it is right. It
runs in a process of its own, for its state is the process's and the unit tests have it too.
"""

import threading
from collections import defaultdict

from botocore.awsrequest import AWSPreparedRequest, HTTPHeaders
from moto.core.botocore_stubber import BotocoreStubber

from local.account import REGION
from local.loopback import LoopbackServer, Request, Response

_SERVICES = {"DynamoDB_20120810": "dynamodb", "AmazonSQS": "sqs", "secretsmanager": "secretsmanager"}
_moto = BotocoreStubber()
_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


def answer(request: Request) -> Response:
    """What moto answers to a call of AWS. SQS must not be asked to wait: nobody else would get in."""
    service = _SERVICES[request.headers["X-Amz-Target"].partition(".")[0]]
    headers = HTTPHeaders.from_dict(dict(request.headers.items()))
    url = f"https://{service}.{REGION}.amazonaws.com/"
    with _locks[service]:
        answered = _moto.process_request(AWSPreparedRequest("POST", url, headers, request.body, False))
    assert answered is not None, "moto knows these services"
    status, fields, body = answered
    return Response(status, body.encode() if isinstance(body, str) else body, list(fields.items()))


def main() -> None:
    print(LoopbackServer(answer).url, flush=True)  # noqa: T201
    threading.Event().wait()


if __name__ == "__main__":
    main()
