/*
 * slotd_test.h: tests of a handler, run natively by `slotd plugin test`, no WebAssembly needed.
 *
 *     #include "slotd_test.h"
 *
 *     TEST(counts) {
 *         slotd_session *room = slotd_new_session("room");
 *         CHECK_JSON(slotd_send(room, "ann", "{}").json, "1");
 *         CHECK_TEXT(slotd_send(room, "ann", "no JSON").code, "bad-message");
 *         CHECK(room->seq == 1);
 *     }
 *
 * What the host promises holds here too: a message is applied whole or not at all (a rejection, a
 * trap or a passed limit leaves no write and no event behind), the number rises only on success, a
 * query can't change anything, a call sees its own writes, a scan is in order of the keys' bytes,
 * time stands at the session's. Not modelled: the deadline, the memory limit, the limit of a
 * session's whole state, the limit of messages that were given up, cron expressions, the checks of
 * names at the edge, which services may send to which, which hosts and secrets they may use, the
 * timeouts and deadlines of requests, and what is on its way for too long.
 *
 * All that a test is given lives until the test ends.
 */
#ifndef SLOTD_TEST_H
#define SLOTD_TEST_H

#include "slotd.h"

/* A session: all that is left of it between two calls, and what was logged. */
typedef struct slotd_session {
    slotd_str name;
    /* The last message's number. */
    uint64_t seq;
    /* The clock. Set it as the test needs. */
    uint64_t time_ms;
    /* The idempotency key of the messages that follow; NULL: none. */
    const char *id;
    /* Who the client is shown to be of the messages and queries that follow; see slotd_set_client. */
    slotd_client client;
    /* Lines that were logged since the test last set this to 0; by failed calls too. */
    size_t log_count;
    struct slotd_line *log;
    /* The events of all messages so far. */
    size_t event_count;
    struct slotd_event *events;
    /* What they sent in passing (`slotd_notify`); a real session keeps nothing of it. */
    size_t notified_count;
    struct slotd_event *notified;
    /* The timers that are set, in order of their names' bytes. */
    size_t timer_count;
    struct slotd_set_timer *timers;
    /* When it is deleted; 0: not at all. */
    uint64_t expires_ms;
    /* The messages of timers that slotd_advance and slotd_fire gave to the handler, in order, since
     * the test last set this to 0; those that failed too. */
    size_t fired_count;
    struct slotd_fired *fired;
    /* Those of them that were given up, and wait for an operator. */
    size_t dead_count;
    struct slotd_fired *dead;
    /* The messages to other sessions so far, in order. Nothing takes them there: what comes of them
     * is the test's, by slotd_answer and slotd_refuse. */
    size_t sent_count;
    struct slotd_sent *sent;
    /* The requests over HTTP so far, in order. There is no network: what comes of them is the test's,
     * by slotd_respond, slotd_fail_request and slotd_part. */
    size_t request_count;
    struct slotd_requested *requests;
    /* It takes no more messages: they are rejected as `session-closed`, as by a node. */
    bool closed;
    /* The handler is told of its subscribers; see slotd_tell_presence. */
    bool watches;
    struct slotd_store *store;
} slotd_session;

typedef struct slotd_line {
    slotd_level level;
    slotd_str text;
} slotd_line;

typedef struct slotd_event {
    uint64_t seq;
    slotd_str kind, content_type, body;
    /* The body, if it is JSON. */
    const slotd_json *json;
} slotd_event;

/* A message that was sent to another session. */
typedef struct slotd_sent {
    /* The number of the message that sent it. */
    uint64_t seq;
    slotd_address to;
    slotd_str content_type, body;
    /* The body, if it is JSON. */
    const slotd_json *json;
    /* The name that its outcome comes back under; without data: it does not. */
    slotd_str reply_as;
    /* Whether that has come back and is done with: it was handled, or given up. */
    bool answered;
    /* How often the handler has failed it. */
    uint32_t failures;
} slotd_sent;

/* A request over HTTP that was made. */
typedef struct slotd_requested {
    /* The number of the message that asked for it. */
    uint64_t seq;
    slotd_str id;
    /* As the handler has put it together. */
    slotd_request details;
    /* The body, if it is JSON. */
    const slotd_json *json;
    /* Its answer has not come, or is not done with: it was handled, or given up. What was cancelled or
     * replaced is not open, either. */
    bool open;
    /* How often it was made: one more with each slotd_restart. */
    uint32_t attempts;
    /* What was shown of the answer since it was made last. */
    size_t part_count;
    slotd_str *parts;
    /* Something was shown of an attempt that came to nothing. */
    bool is_void;
    /* How often the handler has failed its answer. */
    uint32_t failures;
} slotd_requested;

/* What came of a call. Nothing that it did was kept unless it replied. */
typedef struct slotd_outcome {
    enum slotd_ended {
        SLOTD_REPLIED,
        SLOTD_REJECTED,
        SLOTD_REFUSED, /* by `migrate`; `message` says why */
        SLOTD_TRAPPED  /* `message` says why */
    } ended;
    slotd_str content_type, body;
    /* The reply's body, if it is JSON. */
    const slotd_json *json;
    slotd_str code, message;
    bool retriable;
} slotd_outcome;

/* A timer that is set. */
typedef struct slotd_set_timer {
    slotd_str name, content_type, body;
    /* The body, if it is JSON. */
    const slotd_json *json;
    slotd_moment when;
    /* The time that it is for next, and when that is tried: later, where it has failed. */
    uint64_t due_ms, next_ms;
    uint32_t failures;
} slotd_set_timer;

/* A timer's message, and what came of it. */
typedef struct slotd_fired {
    slotd_str name;
    slotd_firing firing;
    /* When it was tried. */
    uint64_t time_ms;
    slotd_outcome outcome;
} slotd_fired;

/* A new session, at a fixed time. */
slotd_session *slotd_new_session(const char *name);
/* Forgets all of a session but its name: a test begins with a new one. */
void slotd_reset(slotd_session *session);
/* Sends a message whose body is `json`; `sender` may be NULL. */
slotd_outcome slotd_send(slotd_session *session, const char *sender, const char *json);
slotd_outcome slotd_send_bytes(slotd_session *session, const char *sender,
                               const char *content_type, slotd_str body);
/* Gives the handler a message of another session, "service/session", whose body is `json`; for the
 * first time, and nobody waits for a reply. */
slotd_outcome slotd_deliver(slotd_session *session, const char *from, const char *json);
/* As slotd_deliver, with any body, attempt, and a sender that waits for the outcome or does not. */
slotd_outcome slotd_deliver_bytes(slotd_session *session, const char *from,
                                  const char *content_type, slotd_str body, uint32_t attempt,
                                  bool reply_wanted);
/* Brings a reply to a message that the session has sent under a name: to the first that still waits;
 * the test fails if none does. Where the handler fails it, unless by a rejection that is final, the
 * next call brings it again, as the next attempt: 20 times in all. */
slotd_outcome slotd_answer(slotd_session *session, const char *name, const char *json);
slotd_outcome slotd_answer_bytes(slotd_session *session, const char *name,
                                 const char *content_type, slotd_str body);
/* As slotd_answer: the message was not handled, and will not be. */
slotd_outcome slotd_refuse(slotd_session *session, const char *name, const char *code,
                           const char *message);

/* Has the answer of the open request of this id come, with a body of JSON; the test fails if there is
 * none. Where the handler fails it, unless by a rejection that is final, the next call brings it
 * again, as the next attempt: 20 times in all. */
slotd_outcome slotd_respond(slotd_session *session, const char *id, uint16_t status,
                            const char *json);
/* As slotd_respond, with any body, and headers (names in lower case) that the answer keeps. */
slotd_outcome slotd_respond_bytes(slotd_session *session, const char *id, uint16_t status,
                                  const slotd_pair *headers, size_t header_count,
                                  const char *content_type, slotd_str body);
/* As slotd_respond: there is no answer, and will be none. */
slotd_outcome slotd_fail_request(slotd_session *session, const char *id, const char *code,
                                 const char *reason);
/* A part of the answer comes, and is shown to subscribers: an event, which has a number of its own,
 * without a call of the handler. Where the text at a path is shown it is that, where data is, the data
 * of one event. The test fails if the answer is not shown. */
void slotd_part(slotd_session *session, const char *id, const char *text);
/* The request has to be made again, since the connection broke, or the node: what was shown of it is
 * void, which the next part says first. */
void slotd_restart(slotd_session *session, const char *id);
/* The answer whose parts were shown comes to its end: as slotd_respond, with the status 200 and what
 * was shown as the body. */
slotd_outcome slotd_end(slotd_session *session, const char *id);
/* The first subscriber has come, or the last one has been gone for some seconds, and the handler is
 * told; the test fails if it does not watch them. On a node what fails is not tried again. */
slotd_outcome slotd_tell_presence(slotd_session *session, bool present);

/* Says who the client is shown to be of the messages and queries that follow; `subject` may be NULL: nobody
 * in particular. Without claims. With a `kind` of NULL, as at first, it is shown to be nobody. */
void slotd_set_client(slotd_session *session, const char *kind, const char *subject);
/* Adds a claim to it. */
void slotd_add_claim(slotd_session *session, const char *name, const char *value);

/* Asks a query. */
slotd_outcome slotd_ask(slotd_session *session, const char *json);
slotd_outcome slotd_ask_bytes(slotd_session *session, const char *content_type, slotd_str body);
/* Runs the handler's `migrate`, as the host does before a session's first message under this
 * version. */
slotd_outcome slotd_migrate(slotd_session *session, const char *from);

/* Moves the session's clock by `ms`, and gives the handler the messages of the timers that become
 * due on the way, each at its time, in order. One that fails is tried again as slotd does, after 1
 * second, 2, 4, up to 5 minutes, 20 times in all, if the clock comes so far. Gives how many messages
 * there were. A session that is to expire meanwhile is deleted at that time, after what is due by
 * then: nothing is left of it but its name, the clock, and what the test has of it (`id`, `log`,
 * `fired`); the next message is its first. What cron expressions mean is not known here: with a timer
 * of that kind set it fails the test; use slotd_fire. */
size_t slotd_advance(slotd_session *session, uint64_t ms);
/* Gives the handler the message of a timer now, as if it were due; the test fails if none is set. */
slotd_outcome slotd_fire(slotd_session *session, const char *name);
/* A timer that is set; NULL: there is none of that name. */
const slotd_set_timer *slotd_timer_of(const slotd_session *session, const char *name);

/* The state, to look at and to change under the handler. `data` is NULL where there is none. */
slotd_str slotd_state(const slotd_session *session, const char *key);
size_t slotd_state_count(const slotd_session *session);
void slotd_put_state(slotd_session *session, const char *key, const char *value);

/* A test; its name is what `slotd plugin test NAME` looks for. */
#define TEST(name)                                                                             \
    static void name(void);                                                                    \
    __attribute__((constructor)) static void name##_is_a_test(void) {                          \
        slotd_add_test(#name, name);                                                           \
    }                                                                                          \
    static void name(void)

/* Each ends the test if it does not hold. */
#define CHECK(condition) \
    ((condition) ? (void)0 : slotd_failed(__FILE__, __LINE__, "%s", #condition))
/* That a text (slotd_str or C string) is another. */
#define CHECK_TEXT(text, expected) \
    slotd_check_text(__FILE__, __LINE__, #text, SLOTD_STR(text), SLOTD_STR(expected))
/* That a slotd_json * is the JSON that a C string says. */
#define CHECK_JSON(value, expected) \
    slotd_check_json(__FILE__, __LINE__, #value, value, expected)

void slotd_add_test(const char *name, void (*test)(void));
_Noreturn void slotd_failed(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void slotd_check_text(const char *file, int line, const char *what, slotd_str text,
                      slotd_str expected);
void slotd_check_json(const char *file, int line, const char *what, const slotd_json *value,
                      const char *expected);

#endif
