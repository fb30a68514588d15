/* Rows as databases send them, as CSV text: what would be a loop over rows in Python. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define BUFFER (1 << 20)

static int written(int file, const char *from, size_t size) {
    while (size) {
        ssize_t done = write(file, from, size);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return errno;
        from += done;
        size -= (size_t)done;
    }
    return 0;
}

/* Write one cell, at most twice its size and two more; return its end. */
static uint8_t *cell(uint8_t *out, const uint8_t *text, uint64_t size) {
    int plain = size > 0;
    for (uint64_t place = 0; plain && place < size; place++) {
        uint8_t sign = text[place];
        plain = sign != ',' && sign != '"' && sign != '\n' && sign != '\r';
    }
    if (plain) {
        memcpy(out, text, size);
        return out + size;
    }
    *out++ = '"';
    for (uint64_t place = 0; place < size; place++) {
        if (text[place] == '"') *out++ = '"';
        *out++ = text[place];
    }
    *out++ = '"';
    return out;
}

static uint8_t unescaped(uint8_t sign) {
    switch (sign) {
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    case 'v': return '\v';
    default: return sign;
    }
}

/* Write a row of COPY's text form as CSV where only its delimiters differ; tell whether it is so.
 * Most rows are; this way the compiler takes sixteen bytes at once. */
static int pg_plain(uint8_t *out, const uint8_t *row, size_t size) {
    uint8_t odd = size == 0 || row[0] == '\t' || row[size - 1] == '\t';
    for (size_t n = 0; n < size; n++) {
        uint8_t sign = row[n];
        odd |= (sign == '\\') | (sign == ',') | (sign == '"') | (sign == '\r');
        out[n] = sign == '\t' ? ',' : sign;
    }
    for (size_t n = 1; n < size; n++)
        odd |= (row[n] == '\t') & (row[n - 1] == '\t');
    return !odd;
}

/* Turn a row of COPY's text form into CSV, in place of its escapes; return the end of what was
 * written: at most twice its size, and two for each cell. Where a NULL stands is nothing, an empty
 * text is in quotes. */
static uint8_t *pg_row(uint8_t *out, uint8_t *at, const uint8_t *end) {
    static const uint8_t stops[256] = {
        ['\t'] = 1, ['\n'] = 1, ['\\'] = 1, [','] = 1, ['"'] = 1, ['\r'] = 1};
    end -= end > at && end[-1] == '\n';
    if (pg_plain(out, at, (size_t)(end - at))) {
        out += end - at;
        *out++ = '\n';
        return out;
    }
    for (;;) {
        uint8_t *from = at;
        while (at < end && !stops[*at]) at++;
        if (at < end && *at != '\t') {
            int null = at == from && end - at >= 2 && at[0] == '\\' && at[1] == 'N' &&
                       (end - at == 2 || at[2] == '\t');
            uint8_t *to = at; /* escapes make it shorter, never longer */
            for (; at < end && *at != '\t'; at++) {
                int escape = *at == '\\' && at + 1 < end;
                at += escape;
                *to++ = escape ? unescaped(*at) : *at;
            }
            if (!null) out = cell(out, from, (uint64_t)(to - from));
        } else if (at == from)
            out = cell(out, from, 0);
        else {
            memcpy(out, from, (size_t)(at - from));
            out += at - from;
        }
        if (at == end) break;
        *out++ = ',';
        at++;
    }
    *out++ = '\n';
    return out;
}

/* PostgreSQL: take every row of a COPY in its text form from libpq and append it to `file` as CSV.
 *
 * It is what `format csv` would be, and costs the server less. Rows are gathered and written whole,
 * so that several connections can append to one file that was opened with O_APPEND. `bytes` grows
 * while it goes on; nonzero `stop` ends it.
 * Returns 0 at the end of the COPY, -1 where libpq has an error, -2 if stopped, else errno. */
EXPORT int32_t headrace_pg_drain(
    void *connection, int (*get)(void *, char **, int), void (*let_go)(void *), int32_t file,
    volatile int64_t *bytes, volatile int64_t *stop) {
    size_t room = BUFFER, held = 0;
    uint8_t *buffer = malloc(room);
    char *row;
    int32_t told = buffer ? 0 : ENOMEM;
    while (!told) {
        int size = get(connection, &row, 0);
        if (size <= 0) {
            told = size == -1 ? 0 : -1;
            break;
        }
        size_t most = 4 * (size_t)size + 4; /* a cell has a byte behind it */
        if (held && held + most > room) {
            told = written(file, (const char *)buffer, held);
            *bytes += (int64_t)held;
            held = 0;
            if (!told && *stop) told = -2;
        }
        if (!told && most > room) {
            uint8_t *grown = realloc(buffer, most);
            if (grown) {
                buffer = grown;
                room = most;
            } else
                told = ENOMEM;
        }
        if (!told)
            held = (size_t)(
                pg_row(buffer + held, (uint8_t *)row, (uint8_t *)row + size) - buffer);
        let_go(row);
    }
    if (!told && held) {
        told = written(file, (const char *)buffer, held);
        *bytes += (int64_t)held;
    }
    free(buffer);
    return told;
}

enum status { MORE, END, ERROR, BROKEN };

struct rows {
    int64_t taken, made, records; /* bytes taken and made, rows among them */
    int64_t wanted;               /* bytes in all that the next row needs, if they are known */
    int32_t status;
};

static uint64_t number(const uint8_t *at, int bytes) {
    uint64_t value = 0;
    for (int place = bytes - 1; place >= 0; place--) value = value << 8 | at[place];
    return value;
}

/* MySQL: turn the rows of a text result, as far as they are in `in`, into CSV in `out`.
 *
 * `out` has three times as much room: an empty text of one byte becomes two quotes and a comma.
 * Rows that span packets are put together in place. Status: MORE bytes are needed, the END of the
 * rows was met (and taken), an ERROR packet stands at `taken`, or nonsense came: BROKEN. */
EXPORT void headrace_mysql_rows(
    uint8_t *in, int64_t size, int32_t columns, uint8_t *out, struct rows *told) {
    uint8_t *to = out;
    int64_t at = 0;
    told->records = 0;
    told->wanted = 0;
    told->status = MORE;
    for (;;) {
        /* How long is the row, and is it all there? */
        int64_t next = at, whole = 0, packets = 0;
        uint64_t length;
        do {
            if (size - next < 4) goto more;
            length = number(in + next, 3);
            if (size - next < (int64_t)length + 4) {
                told->wanted = next - at + (int64_t)length + 4;
                goto more;
            }
            next += (int64_t)length + 4;
            whole += (int64_t)length;
            packets++;
        } while (length == 0xffffff);
        uint8_t first = whole ? in[at + 4] : 0;
        if (whole && first == 0xff) {
            told->status = ERROR;
            break;
        }
        if (whole && first == 0xfe && whole < 9) {
            at = next;
            told->status = END;
            break;
        }
        uint8_t *row = in + at + 4, *last = row;
        if (packets > 1) { /* payloads side by side */
            int64_t from = at;
            for (int64_t packet = 0; packet < packets; packet++) {
                uint64_t part = number(in + from, 3);
                memmove(last, in + from + 4, part);
                last += part;
                from += (int64_t)part + 4;
            }
        } else
            last = row + whole;
        uint8_t *begun = to;
        for (int32_t column = 0; column < columns; column++) {
            if (row >= last) goto broken;
            if (column) *to++ = ',';
            uint64_t bytes = *row++;
            if (bytes == 0xfb) continue; /* NULL */
            int more = bytes == 0xfc ? 2 : bytes == 0xfd ? 3 : bytes == 0xfe ? 8 : 0;
            if (last - row < more) goto broken;
            if (more) bytes = number(row, more);
            row += more;
            if ((uint64_t)(last - row) < bytes) goto broken;
            to = cell(to, row, bytes);
            row += bytes;
        }
        if (row != last) goto broken;
        *to++ = '\n';
        told->records++;
        at = next;
        continue;
    broken:
        to = begun;
        told->status = BROKEN;
        break;
    }
more:
    told->taken = at;
    told->made = to - out;
}
