#include "handler.h"

slotd_result (*on_message)(slotd_cx *cx, const slotd_json *message);
slotd_result (*on_query)(const slotd_cx *cx, const slotd_json *query);
slotd_result (*on_answer)(slotd_cx *cx, const slotd_arrival *answer, const slotd_json *reply);
slotd_result (*on_http_answer)(slotd_cx *cx, const slotd_http_answer *answer, slotd_str body);
slotd_result (*on_presence)(slotd_cx *cx, bool present);
const char *(*on_migrate)(slotd_cx *cx, const char *from);

static slotd_result handle(slotd_cx *cx, const slotd_json *message) {
    return on_message(cx, message);
}
static slotd_result answer(slotd_cx *cx, const slotd_arrival *answer, const slotd_json *reply) {
    return on_answer(cx, answer, reply);
}
static slotd_result http_answer(slotd_cx *cx, const slotd_http_answer *answer, slotd_str body) {
    return on_http_answer(cx, answer, body);
}
static slotd_result presence(slotd_cx *cx, bool present) { return on_presence(cx, present); }
static slotd_result query(const slotd_cx *cx, const slotd_json *query) {
    return on_query(cx, query);
}
static const char *migrate(slotd_cx *cx, const char *from) { return on_migrate(cx, from); }

SLOTD_HANDLER(.handle = handle, .answer = answer, .query = query, .migrate = migrate)
SLOTD_HTTP_ANSWERS(http_answer)
SLOTD_PRESENCE(presence)
