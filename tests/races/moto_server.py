"""`python -m tests.races.moto_server`: moto as an AWS endpoint on loopback, one call of a service at a time.

moto has no locks: concurrent threads lose acknowledged writes. Behind a lock it works correctly. It runs in a separate
process, because its state is global, and the unit tests use it too.
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
    """moto's answer to an AWS call. Long polls of SQS are shortened, because they would hold the lock."""
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
