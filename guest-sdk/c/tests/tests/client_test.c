#include "told.h"

static const slotd_json *text_or_null(slotd_str text) {
    return text.data ? slotd_text(text) : slotd_null();
}

static slotd_result says(const slotd_cx *cx) {
    slotd_client client = slotd_client_of(cx);
    return slotd_reply(slotd_object("kind", text_or_null(client.kind), "who",
                                    text_or_null(client.subject), "role",
                                    text_or_null(slotd_claim(&client, "role"))));
}

static slotd_result says_and_sets(slotd_cx *cx) {
    slotd_timer_after(cx, "later", 1000, slotd_null());
    return says(cx);
}

static slotd_result says_to_query(const slotd_cx *cx, const slotd_json *query) {
    (void)query;
    return says(cx);
}

/* A test could not say who its client is; and a handler would take a timer's message for that client's. */
TEST(a_client_is_who_the_test_says) {
    slotd_session *desk = slotd_new_session("desk");
    const char *nobody = "{\"kind\": null, \"who\": null, \"role\": null}";
    on_query = says_to_query;
    CHECK_JSON(told(desk, says_and_sets).json, nobody);
    slotd_set_client(desk, "accounts", "ann");
    slotd_add_claim(desk, "role", "staff");
    slotd_add_claim(desk, "org", "tea");
    const char *ann = "{\"kind\": \"accounts\", \"who\": \"ann\", \"role\": \"staff\"}";
    CHECK_JSON(told(desk, says_and_sets).json, ann);
    CHECK_JSON(slotd_ask(desk, "{}").json, ann);
    CHECK_TEXT(desk->client.claims[0].key, "org");
    CHECK(slotd_advance(desk, 1000) == 1);
    CHECK_JSON(desk->fired[0].outcome.json, nobody);
    CHECK_JSON(slotd_deliver(desk, "a/b", "{}").json, nobody);
    slotd_set_client(desk, "root", NULL);
    CHECK_JSON(slotd_ask(desk, "{}").json,
               "{\"kind\": \"root\", \"who\": null, \"role\": null}");
    slotd_set_client(desk, NULL, NULL);
    CHECK_JSON(slotd_ask(desk, "{}").json, nobody);
}
