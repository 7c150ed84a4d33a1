/*
 * What a handler's C library asks of the world outside, answered from the call that is under way:
 * clocks stand at the message's time, random bytes come from the session and the message's number,
 * what is printed goes to the log, and there are no files, arguments and environment.
 *
 * wasi-libc asks by functions of `wasi_snapshot_preview1`. They are imports only as long as nobody
 * defines them: here somebody does, and so no component needs an adapter, and none imports WASI.
 * What a handler does not use is not linked.
 *
 * Below that: where undefined behaviour ends, with the place in the handler's source.
 */
#ifdef __wasm__
#include "internal.h"

#include <string.h>

/* ---- how a program ends ---------------------------------------------------------------------- */

_Noreturn void __assert_fail(const char *expression, const char *file, int line,
                             const char *function) {
    slotd_trap_at(file, line, function, "assertion failed: %s", expression);
}

/* Ends the call from code that can't say where it is, but where it was. */
static _Noreturn void ended(const char *what) {
    const char *after = slotd_here;
    slotd_here = NULL;
    slotd_misused(after ? slotd_format("%s, after %s", what, after) : what);
}

/* From code that does not include slotd.h, which would say where. */
_Noreturn void abort(void) { ended("abort() was called"); }

/* ---- WASI ------------------------------------------------------------------------------------ */

#define WASI(name) __imported_wasi_snapshot_preview1_##name
enum { SUCCESS = 0, BAD_FILE = 8, INVALID = 28, NOT_SUPPORTED = 58 };

static void *at(int32_t address) { return (void *)(uintptr_t)(uint32_t)address; }
static void put_u32(int32_t address, uint32_t value) { memcpy(at(address), &value, sizeof value); }
static void put_u64(int32_t address, uint64_t value) { memcpy(at(address), &value, sizeof value); }

int32_t WASI(clock_time_get)(int32_t clock, int64_t precision, int32_t out) {
    (void)clock, (void)precision;
    uint64_t ms;
    /* Without a message there is no time: `time` then gives -1. */
    if (!slotd_call_time(&ms)) return NOT_SUPPORTED;
    put_u64(out, ms * 1000000);
    return SUCCESS;
}

int32_t WASI(clock_res_get)(int32_t clock, int32_t out) {
    (void)clock;
    put_u64(out, 1000000);
    return SUCCESS;
}

int32_t WASI(random_get)(int32_t out, int32_t size) {
    slotd_call_random(at(out), (uint32_t)size);
    return SUCCESS;
}

/* stdout and stderr, line by line. */
#define PRINTED_MAX 2048
static struct printed {
    char text[PRINTED_MAX];
    size_t size;
} printed[2];

static void end_line(int stream) {
    slotd_make_utf8(printed[stream].text, printed[stream].size);
    slotd_host_log(stream ? SLOTD_WARN : SLOTD_INFO,
                   (slotd_str){printed[stream].text, printed[stream].size});
    printed[stream].size = 0;
}

void slotd_end_lines(void) {
    for (int stream = 0; stream < 2; stream++)
        if (printed[stream].size) end_line(stream);
}

static void print(int stream, const char *text, size_t size) {
    struct printed *line = &printed[stream];
    for (size_t i = 0; i < size; i++) {
        if (text[i] == '\n')
            end_line(stream);
        else if (line->size < PRINTED_MAX)
            line->text[line->size++] = text[i];
    }
}

int32_t WASI(fd_write)(int32_t fd, int32_t pieces, int32_t count, int32_t written) {
    if (fd != 1 && fd != 2) return BAD_FILE;
    struct {
        const char *text;
        size_t size;
    } piece;
    uint32_t total = 0;
    for (int32_t i = 0; i < count; i++) {
        memcpy(&piece, (const char *)at(pieces) + i * (int32_t)sizeof piece, sizeof piece);
        print(fd - 1, piece.text, piece.size);
        total += piece.size;
    }
    put_u32(written, total);
    return SUCCESS;
}

int32_t WASI(fd_fdstat_get)(int32_t fd, int32_t out) {
    if ((uint32_t)fd > 2) return BAD_FILE;
    memset(at(out), 0, 24);
    /* A character device that can be written: libc then prints line by line. */
    *(char *)at(out) = 2;
    put_u64(out + 8, 1 << 6);
    return SUCCESS;
}

int32_t WASI(fd_read)(int32_t fd, int32_t pieces, int32_t count, int32_t read) {
    (void)pieces, (void)count;
    if (fd != 0) return BAD_FILE;
    put_u32(read, 0);
    return SUCCESS;
}

_Noreturn void WASI(proc_exit)(int32_t code) {
    ended(slotd_format("exit(%d) was called", (int)code));
}

int32_t WASI(sched_yield)(void) { return SUCCESS; }

static int32_t none(int32_t count, int32_t size) {
    put_u32(count, 0);
    put_u32(size, 0);
    return SUCCESS;
}
int32_t WASI(args_sizes_get)(int32_t count, int32_t size) { return none(count, size); }
int32_t WASI(environ_sizes_get)(int32_t count, int32_t size) { return none(count, size); }
int32_t WASI(args_get)(int32_t a, int32_t b) { return (void)a, (void)b, SUCCESS; }
int32_t WASI(environ_get)(int32_t a, int32_t b) { return (void)a, (void)b, SUCCESS; }

/* No files, no sockets, and nothing to wait for. */
#define REFUSE(name, error, ...) \
    int32_t WASI(name)(__VA_ARGS__) { return error; }
#pragma clang diagnostic ignored "-Wunused-parameter"
#define I int32_t
#define L int64_t
REFUSE(fd_advise, BAD_FILE, I a, L b, L c, I d)
REFUSE(fd_allocate, BAD_FILE, I a, L b, L c)
REFUSE(fd_close, BAD_FILE, I a)
REFUSE(fd_datasync, BAD_FILE, I a)
REFUSE(fd_fdstat_set_flags, BAD_FILE, I a, I b)
REFUSE(fd_fdstat_set_rights, BAD_FILE, I a, L b, L c)
REFUSE(fd_filestat_get, BAD_FILE, I a, I b)
REFUSE(fd_filestat_set_size, BAD_FILE, I a, L b)
REFUSE(fd_filestat_set_times, BAD_FILE, I a, L b, L c, I d)
REFUSE(fd_pread, BAD_FILE, I a, I b, I c, L d, I e)
REFUSE(fd_prestat_dir_name, BAD_FILE, I a, I b, I c)
REFUSE(fd_prestat_get, BAD_FILE, I a, I b)
REFUSE(fd_pwrite, BAD_FILE, I a, I b, I c, L d, I e)
REFUSE(fd_readdir, BAD_FILE, I a, I b, I c, L d, I e)
REFUSE(fd_renumber, BAD_FILE, I a, I b)
REFUSE(fd_seek, BAD_FILE, I a, L b, I c, I d)
REFUSE(fd_sync, BAD_FILE, I a)
REFUSE(fd_tell, BAD_FILE, I a, I b)
REFUSE(path_create_directory, BAD_FILE, I a, I b, I c)
REFUSE(path_filestat_get, BAD_FILE, I a, I b, I c, I d, I e)
REFUSE(path_filestat_set_times, BAD_FILE, I a, I b, I c, I d, L e, L f, I g)
REFUSE(path_link, BAD_FILE, I a, I b, I c, I d, I e, I f, I g)
REFUSE(path_open, BAD_FILE, I a, I b, I c, I d, I e, L f, L g, I h, I i)
REFUSE(path_readlink, BAD_FILE, I a, I b, I c, I d, I e, I f)
REFUSE(path_remove_directory, BAD_FILE, I a, I b, I c)
REFUSE(path_rename, BAD_FILE, I a, I b, I c, I d, I e, I f)
REFUSE(path_symlink, BAD_FILE, I a, I b, I c, I d, I e)
REFUSE(path_unlink_file, BAD_FILE, I a, I b, I c)
REFUSE(poll_oneoff, NOT_SUPPORTED, I a, I b, I c, I d)
REFUSE(sock_accept, BAD_FILE, I a, I b, I c)
REFUSE(sock_recv, BAD_FILE, I a, I b, I c, I d, I e, I f)
REFUSE(sock_send, BAD_FILE, I a, I b, I c, I d, I e)
REFUSE(sock_shutdown, BAD_FILE, I a, I b)
#undef I
#undef L

/* ---- undefined behaviour ---------------------------------------------------------------------- */

/* What clang calls, with -fsanitize=..., instead of letting undefined behaviour go on: above all a
 * null pointer, which WebAssembly would read and write without a word. */
typedef struct place {
    const char *file;
    uint32_t line, column;
} place;

static _Noreturn void undefined(const place *at, const char *what) {
    slotd_trap_at(at->file, (int)at->line, NULL, "%s", what);
}

#define UNDEFINED(name, what, ...) \
    _Noreturn void __ubsan_handle_##name(const place *at __VA_ARGS__) { undefined(at, what); }
#define V , uintptr_t
UNDEFINED(add_overflow_abort, "an addition overflows", V a V b)
UNDEFINED(sub_overflow_abort, "a subtraction overflows", V a V b)
UNDEFINED(mul_overflow_abort, "a multiplication overflows", V a V b)
UNDEFINED(negate_overflow_abort, "a negation overflows", V a)
UNDEFINED(divrem_overflow_abort, "a division by zero, or one that overflows", V a V b)
UNDEFINED(shift_out_of_bounds_abort, "a shift by too many bits, or of what is negative", V a V b)
UNDEFINED(out_of_bounds_abort, "an index out of bounds", V a)
UNDEFINED(local_out_of_bounds_abort, "an index out of bounds", )
UNDEFINED(builtin_unreachable, "what was declared unreachable was reached", )
UNDEFINED(missing_return, "a function ended without its result", )
UNDEFINED(vla_bound_not_positive_abort, "an array of no or a negative length", V a)
UNDEFINED(load_invalid_value_abort, "a value that its type does not have", V a)
UNDEFINED(float_cast_overflow_abort, "a number too large for its type", V a)
UNDEFINED(invalid_builtin_abort, "a builtin called with 0", )
UNDEFINED(nonnull_arg_abort, "a null pointer as an argument that may be none", )

_Noreturn void __ubsan_handle_nonnull_return_v1_abort(const void *data, const place *at) {
    (void)data;
    undefined(at, "a null pointer is returned that may be none");
}
_Noreturn void __ubsan_handle_type_mismatch_v1_abort(const place *at, uintptr_t pointer) {
    undefined(at, pointer ? "a bad pointer" : "a null pointer is used");
}
#endif
