"""Who a client was shown to be, against what the interface promises of a node."""

import unittest
from typing import Any

from slotd_guest import Client, Context, Handler, QueryContext
from slotd_guest.testing import Harness

ANN = Client("accounts", "ann", {"role": "staff", "org": "tea"})


def says(client: Client | None) -> Any:
    return client and [client.kind, client.subject, client.claims.get("role")]


class Desk(Handler):
    def handle(self, cx: Context, message: Any) -> object:
        cx.timers.after("later", "1s", "now")
        return says(cx.client)

    def query(self, cx: QueryContext, query: Any) -> object:
        return says(cx.client)


class ClientTest(unittest.TestCase):
    def test_a_client_is_who_the_test_says(self) -> None:
        """A test could not say who its client is; and a handler would take a timer's message for
        that client's."""
        desk = Harness(Desk)
        ann = ["accounts", "ann", "staff"]
        self.assertIsNone(desk.send({}, sender="zoe").parse())
        self.assertEqual(desk.send({}, sender="zoe", client=ANN).parse(), ann)
        self.assertEqual(desk.query(client=ANN).parse(), ann)
        self.assertEqual(desk.query(client=Client("root")).parse(), ["root", None, None])
        self.assertIsNone(desk.query().parse())
        self.assertEqual([fired.parse() for fired in desk.advance("1s")], [None])
        self.assertIsNone(desk.deliver("a/b", {}).parse())


if __name__ == "__main__":
    unittest.main()
