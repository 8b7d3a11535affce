"""A DynamoDB table in memory: PutItem, GetItem, UpdateItem and Query with the expressions that Turnqueue writes, and a
transaction of puts and updates.

It raises an error for an unknown expression, so that it cannot misread a new expression of the product. test_table.py
compares it with moto. It reports every committed change to `on_commit`, and an eventually consistent read may get an
older version.
"""

import copy
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

type Item = dict[str, Any]
type JsonObject = dict[str, Any]

MOST_ITEM_BYTES = 409_600


class Refusal(Exception):
    """DynamoDB refuses: `code` as on the wire, `members` beside it."""

    def __init__(self, code: str, text: str, **members: Any) -> None:
        super().__init__(text)
        self.code = code
        self.members = members


type Change = tuple[Item | None, Item]
"""An item before and after a write."""


class Version(NamedTuple):
    at: float
    item: Item | None


@dataclass
class Table:
    name: str
    keys: tuple[str, ...]  # partition key, then the sort key if there is one
    clock: Callable[[], float]
    on_commit: Callable[["Table", Item | None, Item], None] = lambda table, old, new: None
    staleness: Callable[[], float] = lambda: 0.0  # how old an eventually consistent read is
    versions: dict[tuple[str, ...], list[Version]] = field(default_factory=dict)

    def call(self, operation: str, request: JsonObject) -> JsonObject:
        """One API call, as JSON in and out. Raises Refusal."""
        try:
            method = {
                "PutItem": self._put,
                "GetItem": self._get,
                "UpdateItem": self._update,
                "Query": self._query,
            }[operation]
        except KeyError:
            raise NotImplementedError(f"the table of the simulation does not know {operation}") from None
        answer: JsonObject = method(request)
        return answer

    def items(self) -> list[Item]:
        return [versions[-1].item for versions in self.versions.values() if versions[-1].item is not None]

    def item(self, key: Item) -> Item | None:
        versions = self.versions.get(self._key(key))
        return versions[-1].item if versions else None

    # ---- operations

    def _put(self, request: JsonObject) -> JsonObject:
        self._commit(*self._planned_put(request))
        return {}

    def _planned_put(self, request: JsonObject) -> Change:
        item = request["Item"]
        names = _Names(request, "ConditionExpression")
        old = self.item(item)
        self._require(request, names, old)
        return old, copy.deepcopy(item)

    def _get(self, request: JsonObject) -> JsonObject:
        _only(request, "TableName", "Key", "ConsistentRead")
        item = self.item(request["Key"])
        if not request.get("ConsistentRead"):
            item = self._older(self._key(request["Key"]), self.clock() - self.staleness())
        return {"Item": copy.deepcopy(item)} if item else {}

    def _update(self, request: JsonObject) -> JsonObject:
        old, new = self._planned_update(request)
        self._commit(old, new)
        wanted = request.get("ReturnValues", "NONE")
        if wanted not in ("NONE", "ALL_NEW"):
            raise NotImplementedError(wanted)
        return {"Attributes": copy.deepcopy(new)} if wanted == "ALL_NEW" else {}

    def _planned_update(self, request: JsonObject) -> Change:
        names = _Names(request, "ConditionExpression", "UpdateExpression")
        old = self.item(request["Key"])
        self._require(request, names, old)
        new = copy.deepcopy(old or request["Key"])
        _assign(request["UpdateExpression"])(new, old or {}, names)
        names.check_used()
        if any(new.get(name) != request["Key"][name] for name in self.keys):
            raise Refusal("ValidationException", "This attribute is part of the key")
        return old, new

    def _query(self, request: JsonObject) -> JsonObject:
        _only(
            request,
            "TableName",
            "KeyConditionExpression",
            "ExpressionAttributeNames",
            "ExpressionAttributeValues",
            "ConsistentRead",
            "ScanIndexForward",
            "Limit",
            "ExclusiveStartKey",
        )
        names = _Names(request, "KeyConditionExpression")
        wanted = _condition(request["KeyConditionExpression"])
        items = self.items()
        if not request.get("ConsistentRead"):  # each item as it was at a moment of its own: no order between them
            known = [self._older(key, self.clock() - self.staleness()) for key in self.versions]
            items = [item for item in known if item is not None]
        found = [item for item in items if wanted(item, names)]
        names.check_used()
        found.sort(key=self._sort_key, reverse=not request.get("ScanIndexForward", True))
        if start := request.get("ExclusiveStartKey"):
            found = found[[self._key(item) for item in found].index(self._key(start)) + 1 :]
        limit = request.get("Limit", len(found))
        answer: JsonObject = {"Items": copy.deepcopy(found[:limit])}
        # A page that is full tells where it ended, though nothing may follow.
        if found and len(found) >= limit and "Limit" in request:
            answer["LastEvaluatedKey"] = {name: found[limit - 1][name] for name in self.keys}
        return answer

    def planned(self, kind: str, request: JsonObject) -> Change:
        """The item before and after a part of a transaction. Raises Refusal if the part's condition does not hold."""
        return {"Put": self._planned_put, "Update": self._planned_update}[kind](request)

    def batch_get(self, request: JsonObject) -> list[Item]:
        """What BatchGetItem finds of its keys, each as an eventually consistent GetItem does."""
        _only(request, "Keys", "ProjectionExpression")
        names = re.split(", *", request["ProjectionExpression"])
        found = (self._older(self._key(key), self.clock() - self.staleness()) for key in request["Keys"])
        return [{name: item[name] for name in names if name in item} for item in found if item is not None]

    # ---- inside

    def _key(self, item: Item) -> tuple[str, ...]:
        return tuple(next(iter(item[name].values())) for name in self.keys)

    def _sort_key(self, item: Item) -> str | float:
        kind, value = next(iter(item[self.keys[1]].items()))
        return float(value) if kind == "N" else str(value)

    def _older(self, key: tuple[str, ...], at: float) -> Item | None:
        known = [version for version in self.versions.get(key, []) if version.at <= at]
        return known[-1].item if known else None

    def _require(self, request: JsonObject, names: "_Names", old: Item | None) -> None:
        condition = request.get("ConditionExpression")
        holds = condition is None or _condition(condition)(old or {}, names)
        if "UpdateExpression" not in request:
            names.check_used()
        if holds:
            return
        returned = request.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD" and old
        members = {"Item": copy.deepcopy(old)} if returned else {}
        raise Refusal("ConditionalCheckFailedException", "The conditional request failed", **members)

    def _commit(self, old: Item | None, new: Item) -> None:
        if sum(len(name) + _size(value) for name, value in new.items()) > MOST_ITEM_BYTES:
            raise Refusal("ValidationException", "Item size has exceeded the maximum allowed size")
        self.versions.setdefault(self._key(new), []).append(Version(self.clock(), new))
        self.on_commit(self, old, new)


def transact(tables: Callable[[str], Table], request: JsonObject) -> JsonObject:
    """TransactWriteItems: all of its parts, or nothing. Raises Refusal, with the reason of each part."""
    _only(request, "TransactItems", "ClientRequestToken")
    planned, reasons = [], []
    for part in request["TransactItems"]:
        [(kind, asked)] = part.items()
        table = tables(asked["TableName"])
        try:
            planned.append((table, *table.planned(kind, asked)))
            reasons.append({"Code": "None"})
        except Refusal as refusal:
            if refusal.code != "ConditionalCheckFailedException":
                raise
            reasons.append({"Code": "ConditionalCheckFailed", "Message": str(refusal), **refusal.members})
    if len(planned) < len(reasons):
        raise Refusal("TransactionCanceledException", "Transaction cancelled", CancellationReasons=reasons)
    for table, old, new in planned:
        table._commit(old, new)
    return {}


def _only(request: JsonObject, *known: str) -> None:
    if unknown := request.keys() - set(known):
        raise NotImplementedError(f"the table of the simulation does not know {unknown}")


def _size(value: JsonObject) -> int:
    kind, content = next(iter(value.items()))
    return len(content.encode()) if kind == "S" else 21 if kind == "N" else 1


class _Names:
    """The placeholders of a request. DynamoDB refuses one that is not defined, and one that is not used."""

    def __init__(self, request: JsonObject, *expressions: str) -> None:
        _only(
            request,
            "TableName",
            "Item",
            "Key",
            "ConsistentRead",
            "ReturnValues",
            "ReturnValuesOnConditionCheckFailure",
            "ExpressionAttributeNames",
            "ExpressionAttributeValues",
            "ScanIndexForward",
            "Limit",
            "ExclusiveStartKey",
            *expressions,
        )
        self.defined = request.get("ExpressionAttributeNames", {}) | request.get("ExpressionAttributeValues", {})
        self.used: set[str] = set()
        for expression in expressions:
            self.used |= _placeholders(request.get(expression, ""))
        if missing := self.used - self.defined.keys():
            raise Refusal("ValidationException", f"not defined: {sorted(missing)}")

    def name(self, token: str) -> str:
        return str(self.defined[token]) if token.startswith("#") else token

    def value(self, token: str) -> JsonObject:
        found: JsonObject = self.defined[token]
        return found

    def check_used(self) -> None:
        if unused := self.defined.keys() - self.used:
            raise Refusal("ValidationException", f"unused in expressions: {sorted(unused)}")


@functools.cache
def _placeholders(expression: str) -> frozenset[str]:
    return frozenset(re.findall(r"[#:]\w+", expression))


# ---- Expressions: each is read once, into a function

type _Operand = Callable[[Item, _Names], JsonObject | None]
type _Condition = Callable[[Item, _Names], bool]
type _Change = Callable[[Item, Item, _Names], None]

_TOKEN = re.compile(r"\s*([#:]?\w+|<=|>=|<>|[()=<>,+-])")


class _Reader:
    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        end = 0
        while match := _TOKEN.match(text, end):
            self.tokens.append(match[1])
            end = match.end()
        if text[end:].strip():
            raise NotImplementedError(f"cannot read {text[end:]!r}")

    def next(self) -> str:
        return self.tokens.pop(0)

    def peek(self) -> str:
        return self.tokens[0] if self.tokens else ""

    def take(self, *wanted: str) -> bool:
        if self.peek().upper() in wanted:
            self.next()
            return True
        return False

    def need(self, wanted: str) -> None:
        if not self.take(wanted):
            raise NotImplementedError(f"{wanted} was expected before {self.tokens}")


@functools.cache
def _condition(text: str) -> _Condition:
    reader = _Reader(text)
    condition = _either(reader)
    if reader.tokens:
        raise NotImplementedError(f"cannot read {reader.tokens}")
    return condition


def _either(reader: _Reader) -> _Condition:
    options = [_both(reader)]
    while reader.take("OR"):
        options.append(_both(reader))
    return lambda item, names: any(option(item, names) for option in options)


def _both(reader: _Reader) -> _Condition:
    parts = [_single(reader)]
    while reader.take("AND"):
        parts.append(_single(reader))
    return lambda item, names: all(part(item, names) for part in parts)


def _single(reader: _Reader) -> _Condition:
    if reader.take("NOT"):
        negated = _single(reader)
        return lambda item, names: not negated(item, names)
    if reader.take("("):
        inner = _either(reader)
        reader.need(")")
        return inner
    if reader.peek() in ("attribute_exists", "attribute_not_exists"):
        wanted = reader.next() == "attribute_exists"
        reader.need("(")
        token = reader.next()
        reader.need(")")
        return lambda item, names: (names.name(token) in item) is wanted
    left, sign = _operand(reader), reader.next()
    if sign.upper() == "IN":
        reader.need("(")
        listed = [_operand(reader)]
        while reader.take(","):
            listed.append(_operand(reader))
        reader.need(")")
        return lambda item, names: any(_compare(left(item, names), "=", each(item, names)) for each in listed)
    right = _operand(reader)
    return lambda item, names: _compare(left(item, names), sign, right(item, names))


def _operand(reader: _Reader) -> _Operand:
    token = reader.next()
    if token.startswith(":"):
        return lambda item, names: names.value(token)
    if token == "if_not_exists":
        reader.need("(")
        place = reader.next()
        reader.need(",")
        other = _operand(reader)
        reader.need(")")
        return lambda item, names: item.get(names.name(place)) or other(item, names)
    if not re.fullmatch(r"#?\w+", token):
        raise NotImplementedError(f"cannot read the operand {token!r}")
    return lambda item, names: item.get(names.name(token))


def _compare(left: JsonObject | None, sign: str, right: JsonObject | None) -> bool:
    """False if an attribute is missing, or of another type; `<>` is true then."""
    if left is None or right is None or left.keys() != right.keys():
        return sign == "<>"
    kind = next(iter(left))
    one, other = (Decimal(left[kind]), Decimal(right[kind])) if kind == "N" else (left[kind], right[kind])
    match sign:
        case "=":
            return bool(one == other)
        case "<>":
            return bool(one != other)
        case "<" | "<=" | ">" | ">=" if kind in ("N", "S"):
            return bool({"<": one < other, "<=": one <= other, ">": one > other, ">=": one >= other}[sign])
    raise NotImplementedError(f"cannot compare by {sign}")


@functools.cache
def _assign(text: str) -> _Change:
    """SET and REMOVE; every value is read from the item as it was."""
    reader = _Reader(text)
    changes: list[_Change] = []
    while reader.tokens:
        clause = reader.next().upper()
        if clause not in ("SET", "REMOVE"):
            raise NotImplementedError(f"an update by {clause}")
        while True:
            changes.append(_set(reader) if clause == "SET" else _remove(reader))
            if not reader.take(","):
                break

    def apply(new: Item, old: Item, names: _Names) -> None:
        for change in changes:
            change(new, old, names)

    return apply


def _set(reader: _Reader) -> _Change:
    token = reader.next()
    reader.need("=")
    value = _sum(reader)

    def change(new: Item, old: Item, names: _Names) -> None:
        found = value(old, names)
        if found is None:
            raise Refusal("ValidationException", "The provided expression refers to an attribute that does not exist")
        new[names.name(token)] = copy.deepcopy(found)

    return change


def _sum(reader: _Reader) -> _Operand:
    left = _operand(reader)
    if reader.peek() not in ("+", "-"):
        return left
    sign = 1 if reader.next() == "+" else -1
    right = _operand(reader)

    def added(item: Item, names: _Names) -> JsonObject | None:
        one, other = left(item, names), right(item, names)
        if one is None:
            return None
        if other is None or "N" not in one or "N" not in other:
            raise Refusal("ValidationException", "An operand in the update expression has an incorrect data type")
        return {"N": str(Decimal(one["N"]) + sign * Decimal(other["N"]))}

    return added


def _remove(reader: _Reader) -> _Change:
    token = reader.next()

    def change(new: Item, old: Item, names: _Names) -> None:
        new.pop(names.name(token), None)

    return change
