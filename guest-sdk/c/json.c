/* JSON: read, built, written. Numbers stay the text that they are until somebody asks for one. */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* As deep as a value that is read may be nested: 128, which bounds the parser's stack. */
#define DEPTH_MAX 128
/* As deep as one that is written may be; only one that holds itself is deeper. */
#define WRITE_DEPTH_MAX 1000
/* An object with more members than this gets an index when it is built. */
#define INDEX_FROM 32
/* So that a pointer to something else is not taken for a value. */
#define MAGIC 0x6a736f00u

typedef struct member {
    slotd_str name;
    const slotd_json *value;
} member;

struct slotd_json {
    uint32_t kind; /* MAGIC and the type */
    uint32_t count;
    union {
        bool truth;
        const char *text; /* `count` bytes: of a text, or a number's digits */
        struct {
            union {
                member *members;
                const slotd_json **items;
            };
            uint32_t capacity;
            uint32_t *index; /* places + 1 by hash; `capacity` * 2 of them */
        };
    };
};

slotd_type slotd_type_of(const slotd_json *value) {
    if (!value) return SLOTD_NOTHING;
    if ((value->kind & ~0xffu) != MAGIC) slotd_misused("what was given as slotd_json * is none");
    return (slotd_type)(value->kind & 0xff);
}

static slotd_json *make(slotd_arena *arena, slotd_type type) {
    slotd_json *value = slotd_arena_get(arena, sizeof *value, _Alignof(slotd_json));
    memset(value, 0, sizeof *value);
    value->kind = MAGIC | (uint32_t)type;
    return value;
}

/* ---- UTF-8 ---------------------------------------------------------------------------------- */

/* The bytes of the character at `at`; 0 where there is none. */
static size_t utf8_at(const unsigned char *at, size_t room) {
    unsigned char first = at[0];
    if (first < 0x80) return 1;
    size_t bytes = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || room < bytes) return 0;
    for (size_t i = 1; i < bytes; i++)
        if ((at[i] & 0xc0) != 0x80) return 0;
    /* Longer than need be, a surrogate, or past the last character. */
    if ((first == 0xe0 && at[1] < 0xa0) || (first == 0xed && at[1] > 0x9f) ||
        (first == 0xf0 && at[1] < 0x90) || (first == 0xf4 && at[1] > 0x8f))
        return 0;
    return bytes;
}

bool slotd_is_utf8(slotd_str text) {
    const unsigned char *bytes = (const unsigned char *)text.data;
    for (size_t at = 0; at < text.size;) {
        size_t size = utf8_at(bytes + at, text.size - at);
        if (!size) return false;
        at += size;
    }
    return true;
}

static char *put_utf8(char *out, uint32_t c) {
    if (c < 0x80) {
        *out++ = (char)c;
    } else if (c < 0x800) {
        *out++ = (char)(0xc0 | c >> 6);
        *out++ = (char)(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        *out++ = (char)(0xe0 | c >> 12);
        *out++ = (char)(0x80 | (c >> 6 & 0x3f));
        *out++ = (char)(0x80 | (c & 0x3f));
    } else {
        *out++ = (char)(0xf0 | c >> 18);
        *out++ = (char)(0x80 | (c >> 12 & 0x3f));
        *out++ = (char)(0x80 | (c >> 6 & 0x3f));
        *out++ = (char)(0x80 | (c & 0x3f));
    }
    return out;
}

/* ---- reading -------------------------------------------------------------------------------- */

typedef struct parser {
    slotd_arena *arena;
    char *start, *at, *end;
    const char *why; /* NULL: all is well so far */
    char *where;
    /* The members of the objects and items of the arrays that are being read, of all levels. */
    member *stack;
    size_t used, capacity;
} parser;

static slotd_json *wrong(parser *p, const char *why) {
    if (!p->why) p->why = why, p->where = p->at;
    return NULL;
}

static void skip_space(parser *p) {
    while (p->at < p->end &&
           (*p->at == ' ' || *p->at == '\n' || *p->at == '\r' || *p->at == '\t'))
        p->at++;
}

static bool take(parser *p, char c) {
    if (p->at == p->end || *p->at != c) return false;
    p->at++;
    return true;
}

static bool take_word(parser *p, const char *word) {
    size_t size = strlen(word);
    if ((size_t)(p->end - p->at) < size || memcmp(p->at, word, size) != 0) return false;
    p->at += size;
    return true;
}

static bool is_digit(parser *p) { return p->at < p->end && *p->at >= '0' && *p->at <= '9'; }

static bool take_digits(parser *p) {
    if (!is_digit(p)) return false;
    while (is_digit(p)) p->at++;
    return true;
}

static slotd_json *read_number(parser *p) {
    char *start = p->at;
    take(p, '-');
    if (!take(p, '0') && !take_digits(p)) return wrong(p, "a value was expected");
    if (take(p, '.') && !take_digits(p)) return wrong(p, "a digit was expected");
    if (take(p, 'e') || take(p, 'E')) {
        if (!take(p, '+')) take(p, '-');
        if (!take_digits(p)) return wrong(p, "a digit was expected");
    }
    slotd_json *value = make(p->arena, SLOTD_NUMBER);
    value->text = start;
    value->count = (uint32_t)(p->at - start);
    return value;
}

static bool read_hex(parser *p, uint32_t *out) {
    if (p->end - p->at < 4) return false;
    uint32_t code = 0;
    for (int i = 0; i < 4; i++) {
        char c = *p->at++;
        uint32_t digit;
        if (c >= '0' && c <= '9')
            digit = (uint32_t)(c - '0');
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            digit = (uint32_t)((c | 0x20) - 'a') + 10;
        else
            return false;
        code = code << 4 | digit;
    }
    *out = code;
    return true;
}

static bool read_escape(parser *p, char **out) {
    if (p->at == p->end) return wrong(p, "the text does not end"), false;
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = *p->at++;
    const char *found = c ? strchr(from, c) : NULL;
    if (found) {
        *(*out)++ = to[found - from];
        return true;
    }
    uint32_t code, low;
    if (c != 'u' || !read_hex(p, &code)) return wrong(p, "no such escape"), false;
    if (code >= 0xd800 && code < 0xe000) {
        if (code >= 0xdc00 || !take_word(p, "\\u") || !read_hex(p, &low) || low < 0xdc00 ||
            low >= 0xe000)
            return wrong(p, "half of a surrogate pair"), false;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    *out = put_utf8(*out, code);
    return true;
}

/* Behind its quote. What it becomes is never longer than what it was, and goes into its place. */
static bool read_text(parser *p, slotd_str *text) {
    char *start = p->at, *out = start;
    for (;;) {
        if (p->at == p->end) return wrong(p, "the text does not end"), false;
        unsigned char c = (unsigned char)*p->at;
        if (c == '"') break;
        if (c == '\\') {
            p->at++;
            if (!read_escape(p, &out)) return false;
            continue;
        }
        if (c < 0x20) return wrong(p, "a control character in a text"), false;
        size_t bytes = utf8_at((unsigned char *)p->at, (size_t)(p->end - p->at));
        if (!bytes) return wrong(p, "a text that is not UTF-8"), false;
        if (out != p->at) memmove(out, p->at, bytes);
        out += bytes, p->at += bytes;
    }
    p->at++;
    /* In the place of the quote, or before it. */
    *out = 0;
    *text = (slotd_str){start, (size_t)(out - start)};
    return true;
}

static void keep(parser *p, slotd_str name, const slotd_json *value) {
    if (p->used == p->capacity) {
        size_t capacity = p->capacity ? p->capacity * 2 : 32;
        member *stack = realloc(p->stack, capacity * sizeof *stack);
        if (!stack) slotd_misused("out of memory for a JSON value");
        p->stack = stack, p->capacity = capacity;
    }
    p->stack[p->used++] = (member){name, value};
}

static slotd_json *read_value(parser *p, int depth);

static slotd_json *read_items(parser *p, int depth, bool named) {
    if (depth == DEPTH_MAX) return wrong(p, "nested too deep");
    size_t base = p->used;
    char closing = named ? '}' : ']';
    skip_space(p);
    if (!take(p, closing)) {
        do {
            slotd_str name = {NULL, 0};
            if (named) {
                skip_space(p);
                if (!take(p, '"')) return wrong(p, "a member's name was expected");
                if (!read_text(p, &name)) return NULL;
                skip_space(p);
                if (!take(p, ':')) return wrong(p, "a colon was expected");
            }
            const slotd_json *value = read_value(p, depth + 1);
            if (!value) return NULL;
            keep(p, name, value);
            skip_space(p);
        } while (take(p, ','));
        if (!take(p, closing)) return wrong(p, named ? "`,` or `}` was expected" : "`,` or `]` was expected");
    }
    slotd_json *made = make(p->arena, named ? SLOTD_OBJECT : SLOTD_ARRAY);
    size_t count = p->used - base;
    made->count = made->capacity = (uint32_t)count;
    if (count && named) {
        made->members = slotd_arena_get(p->arena, count * sizeof(member), _Alignof(member));
        memcpy(made->members, p->stack + base, count * sizeof(member));
    } else if (count) {
        made->items = slotd_arena_get(p->arena, count * sizeof *made->items, _Alignof(void *));
        for (size_t i = 0; i < count; i++) made->items[i] = p->stack[base + i].value;
    }
    p->used = base;
    return made;
}

static slotd_json *read_value(parser *p, int depth) {
    skip_space(p);
    if (p->at == p->end) return wrong(p, "a value was expected");
    if (take(p, '{')) return read_items(p, depth, true);
    if (take(p, '[')) return read_items(p, depth, false);
    if (take(p, '"')) {
        slotd_str text;
        if (!read_text(p, &text)) return NULL;
        slotd_json *value = make(p->arena, SLOTD_TEXT);
        value->text = text.data;
        value->count = (uint32_t)text.size;
        return value;
    }
    if (take_word(p, "null")) return make(p->arena, SLOTD_NULL);
    if (take_word(p, "true") || take_word(p, "false")) {
        slotd_json *value = make(p->arena, SLOTD_BOOL);
        value->truth = p->at[-2] == 'u';
        return value;
    }
    return read_number(p);
}

slotd_json *slotd_parse_here(slotd_arena *arena, char *text, size_t size, const char **why) {
    parser p = {.arena = arena, .start = text, .at = text, .end = text + size};
    slotd_json *value = size > UINT32_MAX ? wrong(&p, "too long") : read_value(&p, 0);
    if (value) {
        skip_space(&p);
        if (p.at != p.end) value = wrong(&p, "nothing more was expected");
    }
    free(p.stack);
    if (!value && why) *why = slotd_format("%s at byte %zu", p.why, (size_t)(p.where - p.start));
    return value;
}

const slotd_json *slotd_parse(slotd_str text, const char **why) {
    slotd_str own = slotd_copy(text.data ? text : (slotd_str){"", 0});
    return slotd_parse_here(&slotd_call_arena, (char *)own.data, own.size, why);
}

/* ---- looking -------------------------------------------------------------------------------- */

/* FNV-1a. */
static uint32_t hash(slotd_str name) {
    uint32_t hash = 0x811c9dc5;
    for (size_t i = 0; i < name.size; i++) hash = (hash ^ (unsigned char)name.data[i]) * 0x01000193;
    return hash ^ hash >> 15;
}

static member *find(const slotd_json *object, slotd_str name) {
    if (object->index) {
        uint32_t places = object->capacity * 2;
        for (uint32_t at = hash(name) % places; object->index[at]; at = (at + 1) % places) {
            member *found = &object->members[object->index[at] - 1];
            if (slotd_equal(found->name, name)) return found;
        }
        return NULL;
    }
    for (uint32_t i = object->count; i-- > 0;)
        if (slotd_equal(object->members[i].name, name)) return &object->members[i];
    return NULL;
}

const slotd_json *slotd_member(const slotd_json *object, slotd_str name) {
    if (slotd_type_of(object) != SLOTD_OBJECT) return NULL;
    member *found = find(object, name);
    return found ? found->value : NULL;
}

size_t slotd_count(const slotd_json *value) {
    slotd_type type = slotd_type_of(value);
    return type == SLOTD_ARRAY || type == SLOTD_OBJECT ? value->count : 0;
}

const slotd_json *slotd_at(const slotd_json *value, size_t index) {
    if (index >= slotd_count(value)) return NULL;
    return slotd_type_of(value) == SLOTD_OBJECT ? value->members[index].value : value->items[index];
}

slotd_str slotd_name_at(const slotd_json *object, size_t index) {
    if (slotd_type_of(object) != SLOTD_OBJECT || index >= object->count)
        return (slotd_str){NULL, 0};
    return object->members[index].name;
}

bool slotd_as_bool(const slotd_json *value, bool *out) {
    if (slotd_type_of(value) != SLOTD_BOOL) return false;
    *out = value->truth;
    return true;
}

bool slotd_as_text(const slotd_json *value, slotd_str *out) {
    if (slotd_type_of(value) != SLOTD_TEXT) return false;
    *out = (slotd_str){value->text, value->count};
    return true;
}

static bool digits(const char *text, size_t size, uint64_t max, uint64_t *out) {
    uint64_t number = 0;
    for (size_t i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        uint64_t digit = (uint64_t)(text[i] - '0');
        if (number > (max - digit) / 10) return false;
        number = number * 10 + digit;
    }
    *out = number;
    return true;
}

bool slotd_as_u64(const slotd_json *value, uint64_t *out) {
    return slotd_type_of(value) == SLOTD_NUMBER &&
           digits(value->text, value->count, UINT64_MAX, out);
}

bool slotd_as_i64(const slotd_json *value, int64_t *out) {
    if (slotd_type_of(value) != SLOTD_NUMBER) return false;
    bool negative = value->text[0] == '-';
    uint64_t number;
    if (!digits(value->text + negative, value->count - negative,
                (uint64_t)INT64_MAX + negative, &number))
        return false;
    *out = negative ? (int64_t)(0 - number) : (int64_t)number;
    return true;
}

bool slotd_as_f64(const slotd_json *value, double *out) {
    if (slotd_type_of(value) != SLOTD_NUMBER) return false;
    char few[64], *text = few;
    if (value->count >= sizeof few) text = slotd_arena_get(&slotd_call_arena, value->count, 1);
    memcpy(text, value->text, value->count);
    text[value->count] = 0;
    double number = strtod(text, NULL);
    if (!isfinite(number)) return false;
    *out = number;
    return true;
}

static bool same(const slotd_json *a, const slotd_json *b, int depth) {
    slotd_type type = slotd_type_of(a);
    if (type != slotd_type_of(b)) return false;
    if (depth == WRITE_DEPTH_MAX) slotd_misused("a JSON value that is nested too deep");
    switch (type) {
    case SLOTD_NOTHING:
    case SLOTD_NULL:
        return true;
    case SLOTD_BOOL:
        return a->truth == b->truth;
    case SLOTD_TEXT:
        return a->count == b->count && (!a->count || !memcmp(a->text, b->text, a->count));
    case SLOTD_NUMBER: {
        if (a->count == b->count && !memcmp(a->text, b->text, a->count)) return true;
        uint64_t u, v;
        int64_t i, j;
        /* Of two different texts for integers only `-0` is the same. */
        if (slotd_as_u64(a, &u) && slotd_as_u64(b, &v)) return u == v;
        if (slotd_as_i64(a, &i) && slotd_as_i64(b, &j)) return i == j;
        double x, y;
        return slotd_as_f64(a, &x) && slotd_as_f64(b, &y) && x == y;
    }
    case SLOTD_ARRAY:
        if (a->count != b->count) return false;
        for (uint32_t n = 0; n < a->count; n++)
            if (!same(a->items[n], b->items[n], depth + 1)) return false;
        return true;
    case SLOTD_OBJECT:
        if (a->count != b->count) return false;
        for (uint32_t n = 0; n < a->count; n++) {
            member *other = find(b, a->members[n].name);
            if (!other || !same(a->members[n].value, other->value, depth + 1)) return false;
        }
        return true;
    }
    return false;
}

bool slotd_same(const slotd_json *a, const slotd_json *b) { return same(a, b, 0); }

/* ---- building ------------------------------------------------------------------------------- */

const slotd_json *slotd_null(void) {
    static const slotd_json null = {.kind = MAGIC | SLOTD_NULL};
    return &null;
}

const slotd_json *slotd_bool(bool value) {
    static const slotd_json truth[2] = {{.kind = MAGIC | SLOTD_BOOL, .truth = false},
                                        {.kind = MAGIC | SLOTD_BOOL, .truth = true}};
    return &truth[value];
}

static const slotd_json *text_of(slotd_type type, const char *text, size_t size) {
    if (size > UINT32_MAX) slotd_misused("a text of more than 4 GiB");
    slotd_json *value = make(&slotd_call_arena, type);
    value->text = slotd_copy((slotd_str){text ? text : "", size}).data;
    value->count = (uint32_t)size;
    return value;
}

const slotd_json *slotd_u64(uint64_t value) {
    char text[20], *at = text + sizeof text;
    do *--at = (char)('0' + value % 10);
    while (value /= 10);
    return text_of(SLOTD_NUMBER, at, (size_t)(text + sizeof text - at));
}

const slotd_json *slotd_i64(int64_t value) {
    char text[21], *at = text + sizeof text;
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    do *--at = (char)('0' + rest % 10);
    while (rest /= 10);
    if (value < 0) *--at = '-';
    return text_of(SLOTD_NUMBER, at, (size_t)(text + sizeof text - at));
}

const slotd_json *slotd_f64(double value) {
    if (!isfinite(value)) slotd_misused("a number that is not finite: JSON has no form for it");
    char text[40];
    /* The shortest that is read as the same number. */
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    return text_of(SLOTD_NUMBER, text, strlen(text));
}

const slotd_json *slotd_text(slotd_str text) {
    if (!slotd_is_utf8(text)) slotd_misused("a JSON text that is not UTF-8");
    return text_of(SLOTD_TEXT, text.data, text.size);
}

slotd_json *slotd_object(const char *name, ...) {
    slotd_json *object = make(&slotd_call_arena, SLOTD_OBJECT);
    va_list args;
    va_start(args, name);
    for (; name; name = va_arg(args, const char *))
        slotd_put(object, slotd_str_of(name), va_arg(args, const slotd_json *));
    va_end(args);
    return object;
}

slotd_json *slotd_array(void) { return make(&slotd_call_arena, SLOTD_ARRAY); }

static void *more_room(slotd_json *value, void *old, size_t size) {
    uint32_t capacity = value->capacity ? value->capacity * 2 : 4;
    if (value->capacity > UINT32_MAX / 64) slotd_misused("a JSON value with too many members");
    void *room = slotd_arena_grow(&slotd_call_arena, old, value->capacity * size, capacity * size,
                                  _Alignof(max_align_t));
    value->capacity = capacity;
    return room;
}

static void index_one(slotd_json *object, uint32_t place) {
    uint32_t places = object->capacity * 2;
    uint32_t at = hash(object->members[place].name) % places;
    while (object->index[at]) at = (at + 1) % places;
    object->index[at] = place + 1;
}

static void index_all(slotd_json *object) {
    size_t size = object->capacity * 2 * sizeof *object->index;
    object->index = slotd_arena_get(&slotd_call_arena, size, _Alignof(uint32_t));
    memset(object->index, 0, size);
    for (uint32_t i = 0; i < object->count; i++) index_one(object, i);
}

static void must_be(const slotd_json *value, slotd_type type, const slotd_json *item) {
    if (slotd_type_of(value) != type)
        slotd_misused(type == SLOTD_OBJECT ? "slotd_put into what is no object"
                                           : "slotd_push onto what is no array");
    if (slotd_type_of(item) == SLOTD_NOTHING)
        slotd_misused("a NULL as a member or item: slotd_null() is JSON's null");
}

void slotd_put(slotd_json *object, slotd_str name, const slotd_json *value) {
    must_be(object, SLOTD_OBJECT, value);
    member *found = find(object, name);
    if (found) {
        found->value = value;
        return;
    }
    if (!slotd_is_utf8(name)) slotd_misused("a member's name that is not UTF-8");
    bool grew = object->count == object->capacity;
    if (grew) object->members = more_room(object, object->members, sizeof(member));
    object->members[object->count++] = (member){slotd_copy(name), value};
    if (object->count <= INDEX_FROM) return;
    if (grew || !object->index)
        index_all(object);
    else
        index_one(object, object->count - 1);
}

void slotd_push(slotd_json *array, const slotd_json *value) {
    must_be(array, SLOTD_ARRAY, value);
    if (array->count == array->capacity)
        array->items = more_room(array, array->items, sizeof *array->items);
    array->items[array->count++] = value;
}

/* ---- writing -------------------------------------------------------------------------------- */

typedef struct writer {
    char *text;
    size_t used, size;
} writer;

static char *room(writer *w, size_t wanted) {
    if (w->size - w->used < wanted) {
        size_t size = w->size ? w->size : 240;
        while (size - w->used < wanted) {
            if (size > SIZE_MAX / 4) slotd_misused("a JSON value too long to write");
            size *= 2;
        }
        w->text = slotd_arena_grow(&slotd_call_arena, w->text, w->size, size, 1);
        w->size = size;
    }
    return w->text + w->used;
}

static void write_bytes(writer *w, const char *bytes, size_t size) {
    if (size) memcpy(room(w, size), bytes, size);
    w->used += size;
}

static void write_char(writer *w, char c) { write_bytes(w, &c, 1); }

static void write_text(writer *w, const char *text, size_t size) {
    write_char(w, '"');
    size_t done = 0;
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        write_bytes(w, text + done, i - done);
        done = i + 1;
        static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt", hex[] = "0123456789abcdef";
        const char *found = c ? strchr(from, c) : NULL;
        char *out = room(w, 6);
        if (found) {
            out[0] = '\\', out[1] = to[found - from];
            w->used += 2;
        } else {
            memcpy(out, "\\u00", 4);
            out[4] = hex[c >> 4], out[5] = hex[c & 15];
            w->used += 6;
        }
    }
    write_bytes(w, text + done, size - done);
    write_char(w, '"');
}

static void write_value(writer *w, const slotd_json *value, int depth) {
    slotd_type type = slotd_type_of(value);
    switch (type) {
    case SLOTD_NOTHING:
        slotd_misused("a NULL was to be written as JSON: slotd_null() is JSON's null");
    case SLOTD_NULL:
        return write_bytes(w, "null", 4);
    case SLOTD_BOOL:
        return value->truth ? write_bytes(w, "true", 4) : write_bytes(w, "false", 5);
    case SLOTD_NUMBER:
        return write_bytes(w, value->text, value->count);
    case SLOTD_TEXT:
        return write_text(w, value->text, value->count);
    case SLOTD_ARRAY:
    case SLOTD_OBJECT:
        break;
    }
    /* What is deeper could not be read again. */
    if (depth == DEPTH_MAX) slotd_misused("a JSON value that is nested too deep, or holds itself");
    bool named = type == SLOTD_OBJECT;
    write_char(w, named ? '{' : '[');
    for (uint32_t i = 0; i < value->count; i++) {
        if (i) write_char(w, ',');
        if (named) {
            write_text(w, value->members[i].name.data, value->members[i].name.size);
            write_char(w, ':');
        }
        write_value(w, named ? value->members[i].value : value->items[i], depth + 1);
    }
    write_char(w, named ? '}' : ']');
}

slotd_str slotd_write(const slotd_json *value) {
    writer w = {NULL, 0, 0};
    write_value(&w, value, 0);
    write_char(&w, 0);
    return (slotd_str){w.text, w.used - 1};
}
