#include "slotd_test.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void parses_to(const char *text, const char *written) {
    const char *why = "";
    const slotd_json *value = slotd_parse(text, &why);
    if (!value) slotd_failed(__FILE__, __LINE__, "%s: %s", text, why);
    slotd_check_text(__FILE__, __LINE__, text, slotd_write(value), slotd_str_of(written));
}

/* Every message comes through here: what is misread is handled wrongly, in silence. */
TEST(what_is_json_is_read_and_written) {
    parses_to(" \t\r\n null \n", "null");
    parses_to("true", "true");
    parses_to("[false,[],{},\"\",0]", "[false,[],{},\"\",0]");
    parses_to("{ \"a\" : 1 , \"\" : [ 2 , 3 ] }", "{\"a\":1,\"\":[2,3]}");
    /* Numbers stay what they are, however long. */
    static const char *const numbers[] = {
        "0",   "-0",      "18446744073709551615", "-9223372036854775808", "123456789012345678901234",
        "0.5", "-1.5e+9", "1E-300",               "2.50",                 "1e400",
    };
    for (size_t i = 0; i < COUNT(numbers); i++) parses_to(numbers[i], numbers[i]);
    parses_to("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\\"\\\\/\\b\\f\\n\\r\\t\"");
    parses_to("\"\\u0041\\u00e4\\u20AC\\ud83d\\uDE00\"", "\"Aä€😀\"");
    parses_to("\"\\u0000\\u001f\\u007f\"", "\"\\u0000\\u001f\x7f\"");
    parses_to("\"ä€😀\"", "\"ä€😀\"");
    parses_to("\"\xf4\x8f\xbf\xbf\xee\x80\x80\"", "\"\xf4\x8f\xbf\xbf\xee\x80\x80\"");
}

/* What other languages reject must not be taken here, nor the other way about. */
TEST(what_is_no_json_is_refused) {
    static const char *const none[] = {
        /* clang-format off */
        "", " ", "nul", "True", "nulll", "[1,]", "[,1]", "[1 2]", "[1", "]", "{", "{\"a\"}",
        "{\"a\":}", "{\"a\":1,}", "{a:1}", "{1:1}", "{\"a\":1 \"b\":2}", "{\"a\" 1}", "1 2", "01",
        "-", "+1", ".5", "1.", "1.e1", "1e", "1e+", "0x1", "NaN", "Infinity", "-Infinity", "'a'",
        "\"", "\"a", "\"\\\"", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"", "\"\n\"", "\"\t\"", "\"\x01\"",
        "\"\\ud800\"", "\"\\udc00\"", "\"\\ud800\\u0041\"", "\"\\ud800\\ud800\"", "\"\\ud800",
        "\"\xff\"", "\"\xc3\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"",
        "\"\xe2\x82\"", "\"\xf8\x88\x80\x80\x80\"", "\xef\xbb\xbf\x31", "// c\n1", "[1]]", "\"\\", "-a",
        /* clang-format on */
    };
    for (size_t i = 0; i < COUNT(none); i++) {
        const char *why = NULL;
        if (slotd_parse(none[i], &why))
            slotd_failed(__FILE__, __LINE__, "%s (number %zu) is JSON", none[i], i);
        CHECK(why && strstr(why, " at byte ") != NULL);
    }
    CHECK(!slotd_parse(slotd_bytes("\0", 1), NULL));
    CHECK(!slotd_parse(slotd_bytes("1\0", 2), NULL));
}

/* A message of brackets must not end the stack. */
TEST(nesting_is_bounded) {
    enum { DEEP = 100000 };
    char *text = malloc(2 * DEEP);
    for (int depth = 127; depth <= 129; depth++) {
        memset(text, '[', (size_t)depth), memset(text + depth, ']', (size_t)depth);
        bool read = slotd_parse(slotd_bytes(text, 2 * (size_t)depth), NULL) != NULL;
        if (read != (depth <= 128)) free(text);
        CHECK(read == (depth <= 128));
    }
    memset(text, '[', 2 * DEEP);
    bool read = slotd_parse(slotd_bytes(text, 2 * DEEP), NULL) != NULL;
    free(text);
    CHECK(!read);
}

/* A rounded id is another's. */
TEST(integers_are_exact) {
    static const struct {
        const char *text;
        bool is_u64, is_i64;
        uint64_t u64;
        int64_t i64;
    } numbers[] = {
        {"0", true, true, 0, 0},
        {"9007199254740993", true, true, 9007199254740993, 9007199254740993},
        {"9223372036854775807", true, true, INT64_MAX, INT64_MAX},
        {"9223372036854775808", true, false, 9223372036854775808u, 0},
        {"18446744073709551615", true, false, UINT64_MAX, 0},
        {"18446744073709551616", false, false, 0, 0},
        {"99999999999999999999999", false, false, 0, 0},
        {"-1", false, true, 0, -1},
        {"-9223372036854775808", false, true, 0, INT64_MIN},
        {"-9223372036854775809", false, false, 0, 0},
        {"1.0", false, false, 0, 0},
        {"1e3", false, false, 0, 0},
        {"\"1\"", false, false, 0, 0},
    };
    for (size_t i = 0; i < COUNT(numbers); i++) {
        const slotd_json *value = slotd_parse(numbers[i].text, NULL);
        uint64_t u64 = 0;
        int64_t i64 = 0;
        CHECK(slotd_as_u64(value, &u64) == numbers[i].is_u64 && u64 == numbers[i].u64);
        CHECK(slotd_as_i64(value, &i64) == numbers[i].is_i64 && i64 == numbers[i].i64);
    }
    CHECK_TEXT(slotd_write(slotd_u64(UINT64_MAX)), "18446744073709551615");
    CHECK_TEXT(slotd_write(slotd_i64(INT64_MIN)), "-9223372036854775808");
    CHECK_TEXT(slotd_write(slotd_i64(-1)), "-1");
    CHECK_TEXT(slotd_write(slotd_u64(0)), "0");
}

static uint64_t chance(void) {
    static uint64_t state = 1;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

/* A number that is stored and read again must be the same. */
TEST(doubles_come_back) {
    static const double few[] = {0.1, 1e21, 1e-7, 5e-324, 1.7976931348623157e308, -0.0, 1.0 / 3};
    for (size_t i = 0; i < 20000; i++) {
        uint64_t bits = chance();
        double number, back = 0;
        memcpy(&number, &bits, sizeof number);
        if (i < COUNT(few)) number = few[i];
        /* These end the call: `what_would_not_come_back_is_not_stored`. */
        if (!isfinite(number)) continue;
        slotd_mark mark = slotd_mark_here();
        const slotd_json *value = slotd_parse(slotd_write(slotd_f64(number)), NULL);
        bool same = slotd_as_f64(value, &back) && !memcmp(&number, &back, sizeof number);
        if (!same) slotd_failed(__FILE__, __LINE__, "%.17g came back as %.17g", number, back);
        slotd_release(mark);
    }
    CHECK_TEXT(slotd_write(slotd_f64(0.1)), "0.1");
    CHECK_TEXT(slotd_write(slotd_f64(100)), "100");
    double none;
    CHECK(!slotd_as_f64(slotd_parse("1e400", NULL), &none));
}

/* ---- properties ----------------------------------------------------------------------------- */

static const slotd_json *any_text(void) {
    static const char *const pieces[] = {"a", "\"", "\\", "/", "\n", "\x01", "ä", "€", "😀", "\x7f"};
    char text[200];
    size_t size = 0;
    for (uint64_t n = chance() % 12; n; n--) {
        uint64_t which = chance() % (COUNT(pieces) + 1);
        if (which == COUNT(pieces)) {
            text[size++] = 0;
        } else {
            size_t piece = strlen(pieces[which]);
            memcpy(text + size, pieces[which], piece);
            size += piece;
        }
    }
    return slotd_text(slotd_bytes(text, size));
}

static const slotd_json *any(int depth) {
    switch (chance() % (depth ? 9 : 7)) {
    case 0: return slotd_null();
    case 1: return slotd_bool(chance() % 2);
    case 2: return slotd_u64(chance() >> chance() % 64);
    case 3: return slotd_i64((int64_t)chance());
    case 4: return slotd_f64((double)(int64_t)chance() / 1e9);
    case 5:
    case 6: return any_text();
    case 7: {
        slotd_json *array = slotd_array();
        for (uint64_t n = chance() % 6; n; n--) slotd_push(array, any(depth - 1));
        return array;
    }
    default: {
        slotd_json *object = slotd_object();
        for (uint64_t n = chance() % 6; n; n--) {
            slotd_str name = {NULL, 0};
            slotd_as_text(any_text(), &name);
            slotd_put(object, name, any(depth - 1));
        }
        return object;
    }
    }
}

/* What is written must be read as the same, whatever it is; and once more, to the byte. */
TEST(what_is_written_is_read_as_the_same) {
    for (int i = 0; i < 20000; i++) {
        slotd_mark mark = slotd_mark_here();
        const slotd_json *value = any(4);
        slotd_str text = slotd_write(value);
        const slotd_json *back = slotd_parse(text, NULL);
        if (!back || !slotd_same(value, back))
            slotd_failed(__FILE__, __LINE__, "not the same: %s", text.data);
        CHECK_TEXT(slotd_write(back), text);
        slotd_release(mark);
    }
}

/* Damaged texts come from anybody: with the sanitizers on, this finds what reads too far. */
TEST(damaged_texts_do_no_harm) {
    size_t read = 0;
    for (int i = 0; i < 40000; i++) {
        slotd_mark mark = slotd_mark_here();
        slotd_str text = slotd_write(any(4));
        /* On its own, so that a byte too far is noticed. */
        char *copy = malloc(text.size ? text.size : 1);
        size_t size = text.size;
        memcpy(copy, text.data, size);
        for (uint64_t n = chance() % 4; n && size; n--) {
            size_t at = chance() % size;
            switch (chance() % 3) {
            case 0: copy[at] = (char)chance(); break;
            case 1: copy[at] = "[]{}\",:\\u0de-+."[chance() % 15]; break;
            default: size = at; break;
            }
        }
        const slotd_json *value = slotd_parse(slotd_bytes(copy, size), NULL);
        free(copy);
        if (value) {
            read++;
            CHECK(slotd_same(value, slotd_parse(slotd_write(value), NULL)));
        }
        slotd_release(mark);
    }
    /* Were nearly all refused, little was tried. */
    CHECK(read > 8000 && read < 36000);
}

/* ---- building and looking -------------------------------------------------------------------- */

/* A look-up that crashed on what a message does not have would be a trap for anybody to set. */
TEST(what_is_not_there_is_nothing) {
    const slotd_json *value = slotd_parse("{\"a\": [1, {\"b\": 2}], \"a\": [3]}", NULL);
    CHECK_JSON(slotd_at(slotd_member(value, "a"), 0), "3");
    CHECK(slotd_count(value) == 2);
    CHECK_TEXT(slotd_name_at(value, 1), "a");
    CHECK(!slotd_at(slotd_member(value, "a"), 1));
    CHECK(!slotd_member(slotd_at(slotd_member(value, "none"), 7), "x"));
    CHECK(!slotd_member(slotd_parse("[]", NULL), "x") && !slotd_at(slotd_parse("1", NULL), 0));
    CHECK(slotd_type_of(NULL) == SLOTD_NOTHING && slotd_count(NULL) == 0);
    CHECK(!slotd_name_at(value, 2).data && !slotd_name_at(NULL, 0).data);
    uint64_t number = 7;
    CHECK(!slotd_as_u64(NULL, &number) && number == 7);
}

TEST(large_objects_are_built_and_found) {
    slotd_json *object = slotd_object("first", slotd_null());
    for (uint64_t round = 0; round < 2; round++)
        for (uint64_t i = 0; i < 5000; i++)
            slotd_put(object, slotd_format("key-%" PRIu64, i), slotd_u64(i + round));
    CHECK(slotd_count(object) == 5001);
    const slotd_json *back = slotd_parse(slotd_write(object), NULL);
    CHECK(slotd_same(object, back) && slotd_same(back, object));
    for (uint64_t i = 0; i < 5000; i += 99) {
        const char *name = slotd_format("key-%" PRIu64, i);
        uint64_t number = 0;
        CHECK(slotd_as_u64(slotd_member(object, name), &number) && number == i + 1);
        CHECK(slotd_as_u64(slotd_member(back, name), &number) && number == i + 1);
    }
    CHECK(!slotd_member(object, "key-5000"));
    slotd_put(object, "first", slotd_u64(1));
    CHECK(!slotd_same(object, back));
}

TEST(sameness_is_by_value) {
    static const struct {
        const char *a, *b;
        bool same;
    } pairs[] = {
        {"{\"a\":1,\"b\":2}", "{\"b\":2,\"a\":1}", true},
        {"1", "1.0", true},
        {"100", "1e2", true},
        {"0", "-0", true},
        {"18446744073709551615", "18446744073709551614", false},
        {"9007199254740993", "9007199254740992", false},
        {"[1,2]", "[2,1]", false},
        {"[1]", "[1,1]", false},
        {"\"a\"", "\"b\"", false},
        {"null", "false", false},
        {"{\"a\":1}", "{\"b\":1}", false},
    };
    for (size_t i = 0; i < COUNT(pairs); i++)
        CHECK(slotd_same(slotd_parse(pairs[i].a, NULL), slotd_parse(pairs[i].b, NULL)) ==
              pairs[i].same);
}
