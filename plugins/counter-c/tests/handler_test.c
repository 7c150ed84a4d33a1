#include "slotd_test.h"

#include <stdio.h>
#include <string.h>

static const slotd_json *count(slotd_session *session) {
    return slotd_ask_bytes(session, "", slotd_bytes("", 0)).json;
}

/* The benchmark sends 32 arbitrary bytes: a body that is refused would stop it. */
TEST(any_body_adds_one) {
    slotd_session *session = slotd_new_session("session");
    static const char *const bodies[] = {"", "\xff\xff\xff", "{", "{}", "[1]", "{\"sub\": 1}"};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        slotd_str body = slotd_bytes(bodies[i], strlen(bodies[i]));
        slotd_outcome outcome = slotd_send_bytes(session, NULL, "application/octet-stream", body);
        uint64_t n = 0;
        CHECK(slotd_as_u64(outcome.json, &n) && n == i + 1);
    }
    CHECK_JSON(count(session), "6");
    CHECK(session->event_count == 0);
}

/* A count that wraps around, or a bad `add` that counts as one, would be silently wrong. */
TEST(adds_what_it_is_told_or_refuses) {
    slotd_session *session = slotd_new_session("session");
    CHECK_JSON(slotd_send(session, NULL, "{\"add\": 41}").json, "41");
    CHECK_JSON(slotd_send(session, NULL, "{\"add\": 0}").json, "41");
    CHECK_JSON(slotd_send(session, NULL, "{}").json, "42");
    static const char *const bad[] = {"-1", "1.5", "\"1\"", "null", "18446744073709551616"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char body[64];
        snprintf(body, sizeof body, "{\"add\": %s}", bad[i]);
        CHECK_TEXT(slotd_send(session, NULL, body).code, "bad-add");
    }
    slotd_outcome outcome = slotd_send(session, NULL, "{\"add\": 18446744073709551615}");
    CHECK_TEXT(outcome.code, "count-overflow");
    CHECK_JSON(count(session), "42");
    CHECK(session->seq == 3);
}

/* Sessions come here from `counter` in other languages, and go back. */
TEST(agrees_to_every_version) {
    slotd_session *session = slotd_new_session("session");
    slotd_put_state(session, "count", "18446744073709551614");
    CHECK(slotd_migrate(session, "0.0.1").ended == SLOTD_REPLIED);
    CHECK_JSON(slotd_send(session, NULL, "{}").json, "18446744073709551615");
    slotd_put_state(session, "count", "\"one\"");
    CHECK_TEXT(slotd_send(session, NULL, "{}").code, "bad-state");
}
