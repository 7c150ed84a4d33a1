/* A handler that does what the test says. */
#include "slotd.h"

extern slotd_result (*on_message)(slotd_cx *cx, const slotd_json *message);
extern slotd_result (*on_query)(const slotd_cx *cx, const slotd_json *query);
extern slotd_result (*on_answer)(slotd_cx *cx, const slotd_arrival *answer,
                                const slotd_json *reply);
extern const char *(*on_migrate)(slotd_cx *cx, const char *from);
