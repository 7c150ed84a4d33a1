/* What tests of a call share: the next message does what a test says. */
#pragma once
#include "../src/handler.h"
#include "slotd_test.h"

#include <string.h>

static inline slotd_result reply(void) { return slotd_reply(slotd_null()); }

/* What the next message does. */
static slotd_result (*does)(slotd_cx *cx);
static inline slotd_result does_it(slotd_cx *cx, const slotd_json *message) {
    (void)message;
    return does(cx);
}

static inline slotd_outcome told(slotd_session *session, slotd_result (*what)(slotd_cx *)) {
    on_message = does_it;
    does = what;
    return slotd_send(session, NULL, "{}");
}

/* It trapped at a line of the file, `tests/NAME.c:`, and the words are in what it says. */
static inline bool traps_in(slotd_outcome outcome, const char *file, const char *words) {
    return outcome.ended == SLOTD_TRAPPED && strstr(outcome.message.data, words) != NULL &&
           strstr(outcome.message.data, file) == outcome.message.data;
}
