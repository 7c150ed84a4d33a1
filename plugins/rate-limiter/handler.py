"""Rate limits and quotas. A session is one whose use is limited (a customer, an API key), and in it
each key (an endpoint, a resource) has a token bucket, fixed windows or both. See README.md."""

from dataclasses import dataclass
from typing import Literal

from limits import NUMBER_MAX, Bucket, Meter, Rule, Usage, Window
from slotd_guest import Context, Handler, MigrateContext, QueryContext, Rejection, StateView

KEY_BYTES_MAX = 512


@dataclass
class Configure:
    do: Literal["configure"]
    #: Without one it is the rule of all keys that have none of their own.
    key: str | None = None
    bucket: Bucket | None = None
    windows: list[Window] | None = None


@dataclass
class Unset:
    do: Literal["unset"]
    key: str | None = None


@dataclass
class Take:
    do: Literal["take"]
    key: str
    n: int = 1


@dataclass
class Refund:
    do: Literal["refund"]
    key: str
    n: int = 1


@dataclass
class Peek:
    key: str
    n: int = 1


class RateLimiter(Handler):
    def handle(self, cx: Context, message: Configure | Unset | Take | Refund) -> object:
        match message:
            case Configure():
                rule = Rule(message.bucket, message.windows or [])
                if problem := rule.problem():
                    raise Rejection("bad-rule", f"{problem}.")
                cx.state.set(rule_key(message.key), rule)
                cx.emit("configured", {"key": message.key, "rule": rule})
                return {"key": message.key, "rule": rule}
            case Unset():
                cx.state.delete(rule_key(message.key))
                cx.emit("configured", {"key": message.key, "rule": None})
                return {"key": message.key, "rule": None}
            case Take():
                return take(cx, message)
            case Refund():
                meter = meter_of(cx, message.key, message.n)
                meter.refund(message.n)
                cx.state.set(usage_key(message.key), meter.usage())
                return {"key": message.key, "remaining": meter.remaining()}

    def query(self, cx: QueryContext, query: Peek) -> object:
        meter = meter_of(cx, query.key, query.n)
        return answer(meter, query.key, query.n, meter.remaining() >= query.n)

    def migrate(self, cx: MigrateContext, from_version: str) -> str | None:
        if from_version.split(".")[0] == "1":
            return None
        return f"rate-limiter 1 knows no way from {from_version}"


def take(cx: Context, message: Take) -> object:
    meter = meter_of(cx, message.key, message.n)
    allowed = meter.take(message.n)
    # Once each time that it runs dry: who is told needs no event for each request that is turned
    # away after that.
    first = not allowed and not meter.exhausted
    reply = answer(meter, message.key, message.n, allowed)
    if first:
        cx.emit("exhausted", {"key": message.key, "retry_after_ms": reply["retry_after_ms"]})
    if allowed or first:
        meter.exhausted = not allowed
        cx.state.set(usage_key(message.key), meter.usage())
    return reply


def answer(meter: Meter, key: str, n: int, allowed: bool) -> dict[str, object]:
    return {
        "key": key,
        "allowed": allowed,
        "remaining": meter.remaining(),
        "retry_after_ms": 0 if allowed else meter.retry_after_ms(n),
    }


def meter_of(cx: Context | QueryContext, key: str, n: int) -> Meter:
    if not 1 <= len(key.encode()) <= KEY_BYTES_MAX:
        raise Rejection("bad-key", f"A key has 1 to {KEY_BYTES_MAX} bytes.")
    if not 1 <= n <= NUMBER_MAX:
        raise Rejection("bad-number", f"`n` is 1 to {NUMBER_MAX}.")
    rule = rule_of(cx.state, key)
    if n > rule.most():
        raise Rejection("too-much", f"The rule of {key} never allows {n} at once.")
    usage = cx.state.get(usage_key(key), type=Usage)
    return Meter(rule, usage or Usage(), cx.time_ms)


def rule_of(state: StateView, key: str) -> Rule:
    for name in (rule_key(key), rule_key(None)):
        rule = state.get(name, type=Rule)
        if rule is not None:
            return rule
    raise Rejection("no-rule", f"There is no rule for {key}: configure one.")


def rule_key(key: str | None) -> str:
    if key is not None and not 1 <= len(key.encode()) <= KEY_BYTES_MAX:
        raise Rejection("bad-key", f"A key has 1 to {KEY_BYTES_MAX} bytes.")
    return "rule" if key is None else f"rule/{key}"


def usage_key(key: str) -> str:
    return f"usage/{key}"
