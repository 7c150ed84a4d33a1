#include "handler.h"

slotd_result (*on_message)(slotd_cx *cx, const slotd_json *message);
slotd_result (*on_query)(const slotd_cx *cx, const slotd_json *query);
const char *(*on_migrate)(slotd_cx *cx, const char *from);

static slotd_result handle(slotd_cx *cx, const slotd_json *message) {
    return on_message(cx, message);
}
static slotd_result query(const slotd_cx *cx, const slotd_json *query) {
    return on_query(cx, query);
}
static const char *migrate(slotd_cx *cx, const char *from) { return on_migrate(cx, from); }

SLOTD_HANDLER(.handle = handle, .query = query, .migrate = migrate)
