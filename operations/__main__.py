"""`python -m operations`: see docs/operations.md. The exit code is 0 on success."""

import argparse
import os
import shlex
import sys
import time

from botocore.exceptions import BotoCoreError, ClientError

from operations import CommandFailed, arguments, breaker, keys
from operations.api import Api
from operations.deploy import TRAFFIC_SHIFTS, deploy
from operations.forget import forget
from operations.output import complain, complain_of_bug, say
from operations.replay import CODES, Wanted, replay
from operations.restore import restore
from operations.smoke import SmokeFailed, sign_in, smoke
from operations.stack import Stack
from operations.verify import CHECKS, verify
from turnqueue.usage import day_of


def main() -> int:
    options = _parser().parse_args()
    try:
        code: int = options.run(options)
        return code
    except (CommandFailed, ClientError, BotoCoreError) as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        complain("Stopped. Safe to run again.")
        return 130
    except Exception as error:
        complain_of_bug(error)
        return 1


def _parser() -> arguments.Parser:
    parser = arguments.Parser(prog="python -m operations", description="Commands for the operator of a stack.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    in_region = arguments.Parser(add_help=False)
    in_region.add_argument(
        "--region", type=arguments.region, help="the stack's region (default: the region of the environment)"
    )
    of_stack = arguments.Parser(add_help=False, parents=[in_region])
    of_stack.add_argument(
        "--stack", required=True, type=arguments.stack_name, metavar="NAME", help="the CloudFormation stack"
    )

    command = commands.add_parser("replay", parents=[of_stack], help="queue failed tasks again")
    command.add_argument(
        "--code", action="append", choices=CODES, help="tasks with this error code; repeatable (worker_lost)"
    )
    command.add_argument(
        "--since", type=arguments.duration, metavar="24h", help="tasks that failed at most this long ago: 90s, 15m, 7d"
    )
    command.add_argument("--owner", type=arguments.owner, metavar="SUB", help="only tasks of this owner")
    command.add_argument("--session", type=arguments.session_id, metavar="ID", help="only tasks of this session")
    command.add_argument("--limit", type=arguments.count, metavar="N", help="at most this many tasks")
    command.add_argument("--dry-run", action="store_true", help="only print the tasks")
    command.add_argument("task_ids", nargs="*", type=arguments.task_id, metavar="TASK_ID", help="only these tasks")
    command.set_defaults(run=_replay)

    command = commands.add_parser("forget", parents=[of_stack], help="delete an owner's data")
    command.add_argument(
        "--owner", required=True, type=arguments.owner, metavar="SUB", help="the `sub` of the owner's tokens"
    )
    command.add_argument("--yes", action="store_true", help="delete; without this, only count")
    command.set_defaults(run=_forget)

    command = commands.add_parser("restore", parents=[of_stack], help="put missing turns back from a restored table")
    command.add_argument(
        "--from", required=True, type=arguments.table_name, dest="source", metavar="TABLE", help="the restored table"
    )
    command.add_argument("--owner", type=arguments.owner, metavar="SUB", help="only turns of this owner")
    command.add_argument("--dry-run", action="store_true", help="only count")
    command.set_defaults(run=_restore)

    command = commands.add_parser("deploy", help="deploy what `sam build` has built")
    command.add_argument(
        "--config-env", default="default", type=arguments.word, metavar="TABLE", help="of samconfig.toml"
    )
    command.add_argument(
        "--traffic-shift", choices=TRAFFIC_SHIFTS, help="replaces samconfig.toml's TrafficShift for this deployment"
    )
    command.add_argument("--yes", action="store_true", help="do not ask whether to execute the change set")
    command.set_defaults(run=_deploy)

    command = commands.add_parser(
        "breaker",
        parents=[of_stack],
        help="show the models' circuit breakers, open them (block calls), or close them (allow calls)",
    )
    command.add_argument("what", choices=("show", "open", "close"))
    command.add_argument(
        "--seconds", type=arguments.count, default=60, metavar="N", help="seconds for which `open` blocks calls (60)"
    )
    command.set_defaults(run=_breaker)

    command = commands.add_parser("keys", help="make, list or revoke API keys for the OpenAI API")
    actions = command.add_subparsers(required=True, metavar="ACTION")
    action = actions.add_parser("create", parents=[of_stack], help="make a key and print it; it is never shown again")
    action.add_argument("--owner", required=True, type=arguments.owner, metavar="SUB", help="the owner of the key")
    action.add_argument("--label", type=arguments.word, help="a word by which you recognise the key")
    action.add_argument("--group", type=arguments.group, help="the owner's group in OwnerLimits")
    action.add_argument(
        "--for", type=arguments.duration, dest="seconds", metavar="90d", help="the time until the key expires"
    )
    action.set_defaults(run=_create_key)
    action = actions.add_parser("list", parents=[of_stack], help="list the ids and owners of the keys")
    action.add_argument("--owner", type=arguments.owner, metavar="SUB", help="only keys of this owner")
    action.set_defaults(run=_list_keys)
    action = actions.add_parser("revoke", parents=[of_stack], help="delete a key")
    action.add_argument(
        "key_id", type=arguments.key_id, metavar="ID", help="the id of the key, as `keys list` shows it"
    )
    action.set_defaults(run=_revoke_key)

    of_api = arguments.Parser(add_help=False, parents=[in_region])
    of_api.add_argument("--url", type=arguments.api_url, help="the URL of the API (default: the stack's output ApiUrl)")
    how = "Set API_TOKEN to a bearer token, or API_USER and API_PASSWORD to a user of the stack's pool."

    command = commands.add_parser("smoke", parents=[of_api], help="send one chat and wait for its answer", epilog=how)
    command.add_argument("--stack", type=arguments.stack_name, metavar="NAME", help="the CloudFormation stack")
    command.set_defaults(run=_smoke)

    command = commands.add_parser("verify", parents=[of_api], help="check a deployed stack from outside", epilog=how)
    command.add_argument(
        "--stack", required=True, type=arguments.stack_name, metavar="NAME", help="the CloudFormation stack"
    )
    command.add_argument(
        "--patience",
        type=arguments.duration,
        default=180,
        metavar="3m",
        help="how long to wait for CloudWatch's data (3m)",
    )
    command.add_argument("--check", action="append", choices=CHECKS, help="only this check; repeatable (all)")
    command.set_defaults(run=_verify)
    return parser


def _replay(options: argparse.Namespace) -> int:
    wanted = Wanted(
        codes=options.code or ("worker_lost",),
        since=0.0 if options.since is None else time.time() - options.since,
        owner=options.owner,
        session_id=options.session,
        task_ids=options.task_ids,
        limit=options.limit,
    )
    done = replay(Stack(options.stack, options.region), wanted, dry_run=options.dry_run)
    verb = "that would be queued" if options.dry_run else "queued"
    say(
        f"tasks {verb}: {len(done.task_ids)}, changed meanwhile: {done.changed}, malformed: {done.malformed},"
        f" read units: {done.units:g}"
    )
    return 1 if done.malformed else 0


def _forget(options: argparse.Namespace) -> int:
    stack = Stack(options.stack, options.region)
    found = forget(stack, options.owner, dry_run=not options.yes)
    sessions = len({key.session for key in found.turns})
    say(
        f"{'deleted' if options.yes else 'would delete'}: {len(found.turns)} turns of {sessions} sessions,"
        f" {len(found.rows)} event rows, {len(found.guards)} guard rows, {len(found.uploads)} uploads;"
        f" {found.units:g} read units"
    )
    if not options.yes:
        say("Nothing is deleted yet. Run it again with --yes.")
        return 0
    say("This remains:")
    say("- turns and images that arrived during the run: run this again until it finds none")
    say("- event rows that the worker of a running turn adds: run this again after the turn's end, or wait a day")
    say("- rows of the guards table for deleted turns (hashes only), until DynamoDB deletes them after 24 hours")
    say("- queued messages of these turns (they hold keys with the owner's id), until a worker receives them")
    say("- the backups of the last 35 days (point-in-time recovery)")
    say("- log lines with the ids of tasks, for LogRetentionDays")
    if pool := stack.outputs.get("UserPoolId"):
        pool, named = shlex.quote(pool), shlex.quote(f'sub = "{options.owner}"')
        say("- the user in the stack's pool. To delete it too:")
        say(f"    aws cognito-idp list-users --user-pool-id {pool} --filter {named} --query 'Users[].Username'")
        say(f"    aws cognito-idp admin-delete-user --user-pool-id {pool} --username USERNAME")
    return 0


def _restore(options: argparse.Namespace) -> int:
    stack = Stack(options.stack, options.region)
    done = restore(stack, options.source, owner=options.owner, dry_run=options.dry_run)
    verb = "that would be put back" if options.dry_run else "put back"
    say(
        f"turns {verb}: {done.turns}, already there: {done.present}, expired: {done.expired},"
        f" malformed: {done.malformed}, read units: {done.units:g}"
    )
    return 1 if done.malformed else 0


def _deploy(options: argparse.Namespace) -> int:
    deploy(options.config_env, traffic_shift=options.traffic_shift, confirm=not options.yes)
    return 0


def _breaker(options: argparse.Namespace) -> int:
    stack = Stack(options.stack, options.region)
    if options.what == "show":
        breaker.show(stack, say)
    else:
        breaker.move(stack, options.seconds if options.what == "open" else None, say)
    return 0


def _create_key(options: argparse.Namespace) -> int:
    stack = Stack(options.stack, options.region)
    given = {"label": options.label or "", "group": options.group or "", "seconds": options.seconds}
    made = keys.create(stack, options.owner, **given)
    say(f"id:  {made.key_id}")
    say(f"key: {made.key}")
    say("Store the key now, because it is not shown again.")
    return 0


def _list_keys(options: argparse.Namespace) -> int:
    def day(seconds: float | None) -> str:
        return "never" if seconds is None else day_of(seconds)

    for key in keys.listed(Stack(options.stack, options.region), options.owner):
        say(
            f"{key.key_id}  owner={key.owner}  label={key.label or '-'}  group={key.group or '-'}"
            f"  made={day(key.created_at)}  expires={day(key.expires_at)}"
        )
    return 0


def _revoke_key(options: argparse.Namespace) -> int:
    keys.revoke(Stack(options.stack, options.region), options.key_id)
    say("revoked; API Gateway may accept the key for up to 60 s more")
    return 0


def _smoke(options: argparse.Namespace) -> int:
    if not options.stack and not (options.url and os.environ.get("API_TOKEN")):
        raise SmokeFailed("give --stack, or --url and API_TOKEN")
    began = time.monotonic()
    with _api(options, Stack(options.stack, options.region)) as api:
        task = smoke(api)
    say(f"{task['task_id']} is SUCCESS after {time.monotonic() - began:.1f} s")
    return 0


def _verify(options: argparse.Namespace) -> int:
    stack = Stack(options.stack, options.region)
    with _api(options, stack) as api:
        only = options.check or list(CHECKS)
        failed = verify(stack, api, only=only, patience=options.patience)
    say(f"{len(only) - len(failed)} of {len(only)} checks passed")
    return 1 if failed else 0


def _api(options: argparse.Namespace, stack: Stack) -> Api:
    """The stack's API, called with the token in API_TOKEN. Without API_TOKEN, the user in API_USER signs in to get a
    token."""
    token, user = os.environ.get("API_TOKEN", ""), os.environ.get("API_USER", "")
    if not token and not user:
        raise SmokeFailed("set API_TOKEN, or API_USER and API_PASSWORD")
    token = token or sign_in(stack, user, os.environ.get("API_PASSWORD", ""))
    return Api(options.url or stack.outputs["ApiUrl"], token)


if __name__ == "__main__":
    sys.exit(main())
