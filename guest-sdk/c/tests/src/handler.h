/* A handler that does what the test says. */
#include "slotd.h"

extern slotd_result (*on_message)(slotd_cx *cx, const slotd_json *message);
extern slotd_result (*on_query)(const slotd_cx *cx, const slotd_json *query);
extern slotd_result (*on_answer)(slotd_cx *cx, const slotd_arrival *answer,
                                const slotd_json *reply);
extern slotd_result (*on_http_answer)(slotd_cx *cx, const slotd_http_answer *answer,
                                     slotd_str body);
extern slotd_result (*on_presence)(slotd_cx *cx, bool present);
extern const char *(*on_migrate)(slotd_cx *cx, const char *from);
