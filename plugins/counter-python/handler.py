"""The plugin ``counter``, in Python: counts a session's messages.

- A message ``{"add": 3}`` adds 3; a message with any other body (any bytes) adds 1.
- The reply, and the answer to a query, is the count as JSON.
- Rejections: ``bad-add`` where ``add`` is no whole number of 0 or more, ``count-overflow``.
"""

from slotd_guest import Context, QueryContext, RawHandler, Rejection, Reply, StateView, from_json

COUNT = "count"
U64_MAX = 2**64 - 1


class Counter(RawHandler):
    def handle(self, cx: Context, body: bytes) -> Reply:
        count = read(cx.state) + addend(body)
        if count > U64_MAX:
            raise Rejection("count-overflow", "the count is at its end")
        cx.state.set(COUNT, count)
        return Reply.json(count)

    def query(self, cx: QueryContext, body: bytes) -> Reply:
        return Reply.json(read(cx.state))


def read(state: StateView) -> int:
    count = state.get(COUNT, 0, type=int)
    if not 0 <= count <= U64_MAX:
        raise Rejection("bad-state", f"the state under {COUNT!r} is no count: {count}")
    return count


def addend(body: bytes) -> int:
    # Almost every body is no JSON object: don't wake the parser for those.
    if not body.startswith(b"{"):
        return 1
    try:
        message = from_json(body)
    except Rejection:
        return 1
    if "add" not in message:
        return 1
    add = message["add"]
    if type(add) is not int or not 0 <= add <= U64_MAX:
        raise Rejection("bad-add", "`add` is a whole number of 0 or more")
    return add
