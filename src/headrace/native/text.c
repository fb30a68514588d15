/* Plain CSV as Arrow batches, and an independent count of a text's records.
 *
 * The reader knows plain files only: every record has every cell, quotes stand where they belong,
 * the text is UTF-8, and each typed cell is plainly a value of its type. At the first record that
 * is not plain it gives up; headrace then goes the slow and exact way. So it never has to decide
 * what an odd record means, and a file that it went through holds no odd record.
 *
 * All memory that the input can size is bounded: a record by RECORD_MAX, a batch by ROWS_MAX and
 * BATCH_MAX. Nothing is read behind the end of `buffer`: its last byte but PADDING is a newline.
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RECORD_MAX 2000000 /* bytes; as in csv_text.py */
#define PADDING 32
#define ROWS_MAX 16384
#define BATCH_MAX (4 << 20) /* bytes of the file in one batch, but for its last record */
#define POOL_MAX 4
#define DIGITS_MAX 18       /* of a decimal of 64 bits; one of 128 has more */
#define WIDE_MAX 38
#define FLOAT_TEXT_MAX 64 /* bytes of a number that only the C library can round */
#define EXPORT __attribute__((visibility("default")))

#include "arrow.h"

enum kind { TEXT, INTEGER, DECIMAL, DATE, FLOAT, TIMESTAMP, BOOLEAN, JSON };

struct column {
    int32_t kind, precision, scale;
};

/* A record that was passed over: where it is in which file, and which one of that file's records
 * that the reader reads; each from 0. */
struct left {
    int64_t offset, size, record, file;
};

/* A file that is read while it is written: it grows, is whole, or its writer has given up. */
enum growth { GROWN, GROWING, CUT };

/* What a reader tells when it has ended. */
struct report {
    int64_t records, place;        /* so far */
    int64_t stopped_at, odd_at;    /* -1: not (yet) */
    int64_t stop;                  /* set from outside: end now */
    int64_t left, left_max;        /* records that were passed over; how many may be */
    struct left *lefts;            /* room for so many */
    int64_t closed;                /* a member that is no column ends it all */
    int64_t *growing;              /* how the file is, while it is written; 0: it is whole */
};

struct reader {
    int fd, at_end, error_number;
    int64_t offset; /* of buffer[0] in the file */
    int64_t end;    /* records that begin here or later are somebody else's */
    uint8_t *buffer;
    size_t capacity, length, place, chunk;
    uint8_t delimiter, quote, stops[256];
    int32_t columns, cells; /* where they differ, the last column is the number of the file */
    struct column *column;
    struct report *report;
    struct pool *pool;
    char *paths; /* of all files that are read one after the other, each ended by 0 */
    const char *path; /* of the one that is open */
    int32_t files, file, heads;
    int64_t before;    /* bytes of the files before */
    int64_t base;      /* records of the files before, those passed over too */
    struct json *json; /* 0: a reader of CSV */
    uint8_t *text;     /* of the names of its columns */
    char error[96];
};

static const int64_t POWER[DIGITS_MAX + 1] = {
    1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000, 10000000000,
    100000000000, 1000000000000, 10000000000000, 100000000000000, 1000000000000000,
    10000000000000000, 100000000000000000, 1000000000000000000,
};

/* A column of the batch that is being made. */
struct filling {
    uint8_t *valid; /* a bit a row */
    void *values;   /* by kind: 64 or 128 bits, int32 for dates, bits, or int32 offsets */
    uint8_t *text;
    size_t used, capacity;
    int64_t nulls;
};

/* The memory of one batch. Whoever holds one of its arrays holds it whole. */
struct block {
    struct pool *pool;
    atomic_int held;
    struct filling fill[];
};

/* Blocks to use again, which spares page faults and fragments. It ends with its last user: the
 * reader, or a block that outlives it. */
struct pool {
    pthread_mutex_t lock;
    int users, count;
    int32_t columns;
    struct block *spare[POOL_MAX];
};

enum outcome { DONE, MORE, ODD, NO_MEMORY, ENDED };

static int is_utf8(const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        uint8_t first = *at;
        if (first < 0x80) {
            at++;
            continue;
        }
        int more;
        uint32_t point, least;
        if (first >= 0xC2 && first <= 0xDF)
            more = 1, point = first & 0x1F, least = 0x80;
        else if ((first & 0xF0) == 0xE0)
            more = 2, point = first & 0x0F, least = 0x800;
        else if (first >= 0xF0 && first <= 0xF4)
            more = 3, point = first & 0x07, least = 0x10000;
        else
            return 0;
        if (end - at <= more)
            return 0;
        for (int n = 1; n <= more; n++) {
            if ((at[n] & 0xC0) != 0x80)
                return 0;
            point = point << 6 | (at[n] & 0x3F);
        }
        if (point < least || point > 0x10FFFF || (point >= 0xD800 && point <= 0xDFFF))
            return 0;
        at += more + 1;
    }
    return 1;
}

static int add_text(struct filling *into, int64_t row, const uint8_t *text, size_t size) {
    if (into->used + size > into->capacity) {
        size_t wanted = into->capacity * 2 + size;
        uint8_t *grown = realloc(into->text, wanted);
        if (!grown)
            return 0;
        into->text = grown;
        into->capacity = wanted;
    }
    memcpy(into->text + into->used, text, size);
    into->used += size;
    ((int32_t *)into->values)[row + 1] = (int32_t)into->used;
    return 1;
}

/* The same of a text in a reader's buffer, behind which PADDING bytes may be read. */
static int add_padded(struct filling *into, int64_t row, const uint8_t *text, size_t size) {
    if (size > 16 || into->used + 16 > into->capacity)
        return add_text(into, row, text, size);
    memcpy(into->text + into->used, text, 16);
    into->used += size;
    ((int32_t *)into->values)[row + 1] = (int32_t)into->used;
    return 1;
}

static int is_wide(const struct column *column) {
    return column->kind == DECIMAL && column->precision > DIGITS_MAX;
}

static int is_text(const struct column *column) {
    return column->kind == TEXT || column->kind == JSON;
}

static void set_bit(struct filling *into, int64_t row, int value) {
    uint8_t *byte = (uint8_t *)into->values + (row >> 3), bit = (uint8_t)(1u << (row & 7));
    *byte = value ? *byte | bit : *byte & (uint8_t)~bit;
}

static void add_null(struct filling *into, int64_t row, const struct column *column) {
    into->valid[row >> 3] &= (uint8_t)~(1u << (row & 7));
    into->nulls++;
    if (is_text(column))
        ((int32_t *)into->values)[row + 1] = (int32_t)into->used;
    else if (column->kind == DATE)
        ((int32_t *)into->values)[row] = 0;
    else if (column->kind == BOOLEAN)
        set_bit(into, row, 0);
    else if (is_wide(column))
        ((__int128 *)into->values)[row] = 0;
    else
        ((int64_t *)into->values)[row] = 0;
}

static uint64_t digits(const uint8_t **at) {
    uint64_t value = 0;
    unsigned digit;
    while ((digit = (unsigned)**at - '0') <= 9) {
        value = value * 10 + digit;
        (*at)++;
    }
    return value;
}

/* The value parsers: from `at` over a whole value, to where it ends; 0 if it is not plain. They
 * stop at any byte that is no digit, and a newline stands behind the buffer's end. */

static const uint8_t *integer(const uint8_t *at, int64_t *value) {
    int negative = *at == '-';
    const uint8_t *begin = at += negative;
    uint64_t whole = digits(&at);
    if (at == begin || at - begin > DIGITS_MAX + 1 || whole > INT64_MAX)
        return 0;
    *value = negative ? -(int64_t)whole : (int64_t)whole;
    return at;
}

static const uint8_t *decimal(const uint8_t *at, const struct column *column, int64_t *value) {
    int negative = *at == '-';
    const uint8_t *begin = at += negative;
    uint64_t whole = digits(&at), fraction = 0;
    if (at == begin || at - begin > DIGITS_MAX)
        return 0;
    if (whole >= (uint64_t)POWER[column->precision - column->scale])
        return 0;
    int64_t places = 0;
    if (*at == '.') {
        begin = ++at;
        fraction = digits(&at);
        places = at - begin;
        if (places == 0 || places > column->scale)
            return 0;
    }
    int64_t found = (int64_t)whole * POWER[column->scale] +
                    (int64_t)fraction * POWER[column->scale - places];
    *value = negative ? -found : found;
    return at;
}

static __int128 power(int64_t places) {
    return places <= DIGITS_MAX ? POWER[places] : (__int128)POWER[DIGITS_MAX] * power(places - DIGITS_MAX);
}

static unsigned __int128 wide_digits(const uint8_t **at) {
    unsigned __int128 value = 0;
    unsigned digit;
    for (int n = 0; n <= WIDE_MAX && (digit = (unsigned)**at - '0') <= 9; n++) {
        value = value * 10 + digit;
        (*at)++;
    }
    return value;
}

static const uint8_t *wide(const uint8_t *at, const struct column *column, __int128 *value) {
    int negative = *at == '-';
    const uint8_t *begin = at += negative;
    unsigned __int128 whole = wide_digits(&at), fraction = 0;
    if (at == begin || at - begin > WIDE_MAX)
        return 0;
    if (whole >= (unsigned __int128)power(column->precision - column->scale))
        return 0;
    int64_t places = 0;
    if (*at == '.') {
        begin = ++at;
        fraction = wide_digits(&at);
        places = at - begin;
        if (places == 0 || places > column->scale)
            return 0;
    }
    __int128 found = (__int128)whole * power(column->scale) +
                     (__int128)fraction * power(column->scale - places);
    *value = negative ? -found : found;
    return at;
}

static const double exact_powers[] = {
    1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
};

/* A number with a point, an exponent, both or none; NaN and Infinity as PostgreSQL writes them. */
static const uint8_t *floating(const uint8_t *at, double *value) {
    const uint8_t *begin = at;
    int negative = *at == '-';
    at += negative;
    if (*at == 'I' || (*at == 'N' && !negative)) {
        const char *word = *at == 'I' ? "Infinity" : "NaN";
        while (*word)
            if (*at++ != (uint8_t)*word++)
                return 0;
        *value = at[-1] == 'y' ? (negative ? -INFINITY : INFINITY) : NAN;
        return at;
    }
    const uint8_t *first = at;
    uint64_t mantissa = digits(&at);
    int64_t figures = at - first, scale = 0;
    if (!figures)
        return 0;
    if (*at == '.') {
        const uint8_t *point = ++at;
        unsigned digit;
        while ((digit = (unsigned)*at - '0') <= 9) {
            mantissa = mantissa * 10 + digit;
            at++;
        }
        scale = point - at;
        figures += at - point;
    }
    if (*at == 'e' || *at == 'E') {
        int minus = *++at == '-';
        at += minus || *at == '+';
        const uint8_t *from = at;
        uint64_t exponent = digits(&at);
        if (at == from || at - from > 4)
            return 0;
        scale += minus ? -(int64_t)exponent : (int64_t)exponent;
    }
    if (figures <= DIGITS_MAX && mantissa <= (1ull << 53) && scale >= -22 && scale <= 22) {
        double found = scale < 0 ? (double)mantissa / exact_powers[-scale]
                                 : (double)mantissa * exact_powers[scale];
        *value = negative ? -found : found;
        return at;
    }
    char text[FLOAT_TEXT_MAX], *end;
    if (at - begin >= FLOAT_TEXT_MAX)
        return 0;
    memcpy(text, begin, (size_t)(at - begin));
    text[at - begin] = 0;
    *value = strtod(text, &end);
    return *end == 0 && isfinite(*value) ? at : 0;
}

static int two(const uint8_t *at) {
    unsigned tens = (unsigned)at[0] - '0', ones = (unsigned)at[1] - '0';
    return tens <= 9 && ones <= 9 ? (int)(tens * 10 + ones) : -1;
}

/* YYYY-MM-DD as days since 1970. Reads nothing behind a byte that does not fit. */
static const uint8_t *date(const uint8_t *at, int32_t *value) {
    static const int8_t lengths[13] = {0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    static const int16_t before[13] = {0, 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    int century = two(at);
    if (century < 0)
        return 0;
    int rest = two(at + 2);
    if (rest < 0 || at[4] != '-')
        return 0;
    int month = two(at + 5);
    if (month < 1 || month > 12 || at[7] != '-')
        return 0;
    int day = two(at + 8), year = century * 100 + rest;
    int leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    if (year < 1 || day < 1 || day > lengths[month] + (leap && month == 2))
        return 0;
    int past = year - 1;
    *value = past * 365 + past / 4 - past / 100 + past / 400 + before[month] +
             (leap && month > 2) + day - 1 - 719162;
    return at + 10;
}

/* YYYY-MM-DD, maybe with HH:MM:SS[.ffffff] and a zone, as microseconds of UTC since 1970. */
static const uint8_t *timestamp(const uint8_t *at, int64_t *value) {
    int32_t days;
    const uint8_t *begin = at;
    if (!(at = date(at, &days)))
        return 0;
    *value = (int64_t)days * 86400000000;
    if (*at != ' ' && *at != 'T')
        return at;
    int hours = two(++at);
    if (hours < 0 || hours > 23 || at[2] != ':')
        return 0;
    int minutes = two(at + 3);
    if (minutes < 0 || minutes > 59 || at[5] != ':')
        return 0;
    int seconds = two(at + 6);
    if (seconds < 0 || seconds > 59)
        return 0;
    *value += ((hours * 60 + minutes) * 60 + seconds) * 1000000ll;
    at += 8;
    if (*at == '.') {
        const uint8_t *point = ++at;
        uint64_t fraction = digits(&at);
        if (at == point || at - point > 6)
            return 0;
        *value += (int64_t)fraction * POWER[6 - (at - point)];
    }
    if (*at == 'Z')
        return at + 1;
    if (*at != '+' && *at != '-')
        return at;
    int west = *at++ == '-', away = two(at);
    if (away < 0 || away > 14)
        return 0;
    at += 2;
    int64_t offset = away * 60;
    if (*at == ':' || (unsigned)*at - '0' <= 9) {
        at += *at == ':';
        away = two(at);
        if (away < 0 || away > 59)
            return 0;
        at += 2;
        offset += away;
    }
    /* The first and the last year may lead out of what others can hold. */
    if (offset && (!memcmp(begin, "0001", 4) || !memcmp(begin, "9999", 4)))
        return 0;
    *value += (west ? offset : -offset) * 60000000;
    return at;
}

static const uint8_t *boolean(const uint8_t *at, struct filling *into, int64_t row) {
    int value = *at == 't' || *at == 'T', upper = *at == 'T' || *at == 'F';
    if (!value && *at != 'f' && *at != 'F')
        return 0;
    set_bit(into, row, value);
    const char *rest = value ? "rue" : "alse";
    const uint8_t *next = at + 1;
    if (*next != 'r' && *next != 'a' && *next != 'R' && *next != 'A')
        return next; /* t and f alone */
    int loud = upper && (*next == 'R' || *next == 'A');
    for (; *rest; rest++, next++)
        if (*next != (uint8_t)(loud ? *rest - 32 : *rest))
            return 0;
    return next;
}

static const uint8_t *typed(
    const uint8_t *at, const struct column *column, struct filling *into, int64_t row) {
    switch (column->kind) {
    case INTEGER:
        return integer(at, (int64_t *)into->values + row);
    case DECIMAL:
        return is_wide(column) ? wide(at, column, (__int128 *)into->values + row)
                               : decimal(at, column, (int64_t *)into->values + row);
    case FLOAT:
        return floating(at, (double *)into->values + row);
    case TIMESTAMP:
        return timestamp(at, (int64_t *)into->values + row);
    case BOOLEAN:
        return boolean(at, into, row);
    default:
        return date(at, (int32_t *)into->values + row);
    }
}

/* True where one of the eight bytes of `word` is `byte`, which is repeated in `pattern`. */
static uint64_t holds(uint64_t word, uint64_t pattern) {
    uint64_t zero = word ^ pattern;
    return (zero - 0x0101010101010101u) & ~zero & 0x8080808080808080u;
}

/* To the first byte of a text without quotes that is no plain one: `stops`, eight at once. */
static const uint8_t *text_end(const struct reader *reader, const uint8_t *at) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    const uint64_t ones = 0x0101010101010101u, tops = ones * 0x80;
    const uint64_t delimiters = ones * reader->delimiter, quotes = ones * reader->quote;
    for (;;) {
        uint64_t word;
        memcpy(&word, at, 8);
        /* The lowest bit tells the first byte that may be one: all below 0x10 are, and tabs are not. */
        uint64_t stops = holds(word, delimiters) | holds(word, quotes) |
                         ((word - ones * 0x10) & tops) | (word & tops);
        if (!stops) {
            at += 8;
            continue;
        }
        at += __builtin_ctzll(stops) >> 3;
        if (reader->stops[*at])
            return at;
        at++;
    }
#else
    while (!reader->stops[*at])
        at++;
    return at;
#endif
}

/* A quoted cell, from behind its quote. Leaves `*at` behind the closing one. */
static enum outcome quoted(
    struct reader *reader, const struct column *column, struct filling *into, int64_t row,
    const uint8_t **at, const uint8_t *end) {
    const uint8_t *begin = *at, *close = begin;
    int doubled = 0;
    for (;;) {
        close = close < end ? memchr(close, reader->quote, (size_t)(end - close)) : 0;
        if (!close)
            return reader->at_end ? ODD : MORE;
        if (close + 1 >= end && !reader->at_end)
            return MORE;
        if (close + 1 >= end || close[1] != reader->quote)
            break;
        doubled = 1;
        close += 2;
    }
    *at = close + 1;
    if (column->kind != TEXT) {
        if (close == begin) {
            add_null(into, row, column);
            return DONE;
        }
        return typed(begin, column, into, row) == close ? DONE : ODD;
    }
    if (memchr(begin, 0, (size_t)(close - begin)) || !is_utf8(begin, close))
        return ODD;
    if (!doubled)
        return add_text(into, row, begin, (size_t)(close - begin)) ? DONE : NO_MEMORY;
    size_t used = into->used;
    while (begin < close) {
        const uint8_t *twin = memchr(begin, reader->quote, (size_t)(close - begin));
        const uint8_t *until = twin ? twin + 1 : close;
        if (!add_text(into, row, begin, (size_t)(until - begin))) {
            into->used = used;
            return NO_MEMORY;
        }
        begin = twin ? twin + 2 : close;
    }
    return DONE;
}

static enum outcome record(
    struct reader *reader, struct filling *fill, int64_t row, const uint8_t **from,
    const uint8_t *end) {
    const uint8_t *at = *from, delimiter = reader->delimiter;
    for (int32_t n = 0; n < reader->cells; n++) {
        const struct column *column = reader->column + n;
        struct filling *into = fill + n;
        if (*at == reader->quote) {
            at++;
            enum outcome outcome = quoted(reader, column, into, row, &at, end);
            if (outcome != DONE)
                return outcome;
        } else if (*at == delimiter || *at == '\n' || *at == '\r') {
            add_null(into, row, column);
        } else if (column->kind == TEXT) {
            const uint8_t *begin = at;
            int high = 0;
            for (;;) {
                at = text_end(reader, at);
                if (*at < 0x80)
                    break;
                high = 1;
                at++;
            }
            if (high && !is_utf8(begin, at))
                return at < end || reader->at_end ? ODD : MORE;
            if (!add_padded(into, row, begin, (size_t)(at - begin)))
                return NO_MEMORY;
        } else {
            const uint8_t *behind = typed(at, column, into, row);
            if (!behind)
                return end - at < PADDING && !reader->at_end ? MORE : ODD;
            at = behind;
        }
        if (at >= end && !reader->at_end)
            return MORE;
        if (n + 1 < reader->cells) {
            if (*at != delimiter)
                return ODD;
            at++;
        }
    }
    if (*at == '\r') {
        if (at + 1 >= end && !reader->at_end)
            return MORE;
        if (at + 1 >= end)
            return ODD;
        at++;
    }
    if (*at != '\n')
        return ODD;
    *from = at < end ? at + 1 : end;
    return DONE;
}

#include "json.h"

/* Move what is left to the front and read on; of a file that grows, wait for more. 0 for an error. */
static int refill(struct reader *reader) {
    struct report *report = reader->report;
    const struct timespec pause = {.tv_nsec = 2000000};
    size_t left = reader->length - reader->place;
    memmove(reader->buffer, reader->buffer + reader->place, left);
    reader->offset += (int64_t)reader->place;
    reader->place = 0;
    reader->length = left;
    while (reader->length + reader->chunk + PADDING <= reader->capacity) {
        /* Looked at first: to what was whole before it was read, nothing is added. */
        int64_t growth =
            report->growing ? __atomic_load_n(report->growing, __ATOMIC_ACQUIRE) : GROWN;
        ssize_t got = pread(
            reader->fd, reader->buffer + reader->length, reader->chunk,
            reader->offset + (int64_t)reader->length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            reader->error_number = errno;
            return 0;
        }
        if (growth == CUT || (growth == GROWING && report->stop)) {
            reader->error_number = growth == CUT ? EPIPE : ECANCELED;
            return 0;
        }
        if (growth == GROWING && got == 0) {
            nanosleep(&pause, 0);
            continue;
        }
        reader->length += (size_t)got;
        reader->at_end = got == 0;
        break;
    }
    memset(reader->buffer + reader->length, 0, PADDING);
    reader->buffer[reader->length] = '\n';
    return 1;
}

static int odd(struct reader *reader) {
    reader->report->odd_at = reader->offset + (int64_t)reader->place;
    strcpy(reader->error, "headrace: a row does not fit");
    return EINVAL;
}

static int failed(struct reader *reader, int number) {
    if (number == EPIPE) /* who gave up tells why to whoever reads the exact way */
        return odd(reader);
    strcpy(
        reader->error,
        number == ECANCELED ? "headrace: stopped" : "headrace: the file cannot be read");
    return number ? number : EIO;
}

static void free_block(struct block *block, int32_t columns) {
    for (int32_t n = 0; n < columns; n++) {
        free(block->fill[n].valid);
        free(block->fill[n].values);
        free(block->fill[n].text);
    }
    free(block);
}

static void leave(struct pool *pool) {
    pthread_mutex_lock(&pool->lock);
    int last = --pool->users == 0;
    pthread_mutex_unlock(&pool->lock);
    if (!last)
        return;
    while (pool->count)
        free_block(pool->spare[--pool->count], pool->columns);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

/* Let go of one of a block's arrays. */
static void let_go(struct block *block) {
    if (atomic_fetch_sub(&block->held, 1) > 1)
        return;
    struct pool *pool = block->pool;
    pthread_mutex_lock(&pool->lock);
    int kept = pool->count < POOL_MAX;
    if (kept)
        pool->spare[pool->count++] = block;
    pthread_mutex_unlock(&pool->lock);
    if (!kept)
        free_block(block, pool->columns);
    leave(pool);
}

static struct block *take_block(const struct reader *reader) {
    struct pool *pool = reader->pool;
    pthread_mutex_lock(&pool->lock);
    struct block *block = pool->count ? pool->spare[--pool->count] : 0;
    pthread_mutex_unlock(&pool->lock);
    int is_new = !block;
    if (is_new)
        block = calloc(1, sizeof *block + (size_t)reader->columns * sizeof *block->fill);
    if (!block)
        return 0;
    for (int32_t n = 0; n < reader->columns; n++) {
        struct filling *fill = block->fill + n;
        int text = is_text(reader->column + n);
        if (is_new) {
            fill->valid = malloc(ROWS_MAX / 8);
            fill->values = malloc((ROWS_MAX + 1) * (size_t)(is_wide(reader->column + n) ? 16 : 8));
            fill->capacity = text ? ROWS_MAX * 8 : 0;
            fill->text = text ? malloc(fill->capacity) : 0;
        }
        if (!fill->valid || !fill->values || (text && !fill->text)) {
            free_block(block, reader->columns);
            return 0;
        }
        memset(fill->valid, 0xFF, ROWS_MAX / 8);
        fill->used = 0;
        fill->nulls = 0;
        if (text)
            *(int32_t *)fill->values = 0;
    }
    pthread_mutex_lock(&pool->lock);
    pool->users++;
    pthread_mutex_unlock(&pool->lock);
    block->pool = pool;
    atomic_store(&block->held, 1);
    return block;
}

static void release_array(struct ArrowArray *array) {
    for (int64_t n = 0; n < array->n_children; n++) {
        struct ArrowArray *child = array->children[n];
        if (child->release)
            child->release(child);
        free(child);
    }
    free(array->children);
    free(array->buffers);
    array->release = 0;
    let_go(array->private_data);
}

/* Show a block's rows as an array of arrays; it holds the block from now on. */
static int to_array(
    const struct reader *reader, struct block *block, int64_t rows, struct ArrowArray *out) {
    struct ArrowArray array = {
        .length = rows, .n_buffers = 1, .release = release_array, .private_data = block};
    array.buffers = calloc(1, sizeof *array.buffers);
    array.children = calloc((size_t)reader->columns, sizeof *array.children);
    int ok = array.buffers && array.children;
    for (int32_t n = 0; ok && n < reader->columns; n++) {
        const struct filling *fill = block->fill + n;
        struct ArrowArray *child = calloc(1, sizeof *child);
        const void **buffers = calloc(3, sizeof *buffers);
        if (!child || !buffers) {
            free(child);
            free(buffers);
            ok = 0;
            break;
        }
        buffers[0] = fill->nulls ? fill->valid : 0;
        buffers[1] = fill->values;
        buffers[2] = fill->text;
        *child = (struct ArrowArray){
            .length = rows, .null_count = fill->nulls, .n_buffers = fill->text ? 3 : 2,
            .buffers = buffers, .release = release_array, .private_data = block};
        atomic_fetch_add(&block->held, 1);
        array.children[array.n_children++] = child;
    }
    if (!ok) {
        release_array(&array);
        return ENOMEM;
    }
    *out = array;
    return 0;
}

/* Pass over a record that is not plain, if there can be no doubt where it ends: at its newline. */
static enum outcome pass_over(struct reader *reader, const uint8_t *begin, const uint8_t *end) {
    struct report *report = reader->report;
    if (report->left >= report->left_max || (reader->json && !reader->json->lines))
        return ODD;
    if (report->closed && reader->json->strange)
        return ODD;
    while (begin < end && reader->json && strchr(" \t\r\n", *begin))
        begin++; /* blank lines before it */
    const uint8_t *newline = begin < end ? memchr(begin, '\n', (size_t)(end - begin)) : 0;
    if (!newline && !reader->at_end)
        return end - begin > (reader->json ? JSON_RECORD_MAX : RECORD_MAX) ? ODD : MORE;
    newline = newline ? newline : end; /* the last line may have none */
    size_t size = (size_t)(newline - begin);
    const uint8_t *behind = newline > begin && newline[-1] == '\r' ? newline - 1 : newline;
    if (!reader->json && (size > RECORD_MAX || memchr(begin, reader->quote, size) ||
                          memchr(begin, '\r', (size_t)(behind - begin))))
        return ODD;
    if (size > JSON_RECORD_MAX)
        return ODD;
    report->lefts[report->left] = (struct left){
        reader->offset + (begin - reader->buffer), (int64_t)size,
        report->records + report->left - reader->base, reader->file};
    report->left++;
    reader->place = (size_t)(newline - reader->buffer) + (newline < end);
    return DONE;
}

static void skip_record(struct reader *reader);

/* Go past a mark of UTF-8 at the beginning of a file. 0 for an error. */
static int past_mark(struct reader *reader) {
    while (reader->length < 3 && !reader->at_end)
        if (!refill(reader))
            return 0;
    if (reader->length >= 3 && !memcmp(reader->buffer, "\xEF\xBB\xBF", 3))
        reader->place = 3;
    return 1;
}

/* Go past the records that name the columns. 0 for an error. */
static int past_heads(struct reader *reader) {
    for (int32_t n = 0; n < reader->heads; n++)
        skip_record(reader);
    return !reader->error_number;
}

/* Go on with the next file; `base` records are behind. 0 for an error. */
static int next_file(struct reader *reader, int64_t base) {
    reader->before += reader->offset + (int64_t)reader->place;
    reader->base = base;
    reader->path += strlen(reader->path) + 1;
    reader->file++;
    close(reader->fd);
    reader->fd = open(reader->path, O_RDONLY | O_CLOEXEC);
    if (reader->fd < 0) {
        reader->error_number = errno;
        return 0;
    }
    reader->offset = 0;
    reader->place = reader->length = 0;
    reader->at_end = 0;
    if (reader->json)
        reader->json->state = START;
    return refill(reader) && past_mark(reader) && past_heads(reader);
}

static int get_next(struct ArrowArrayStream *stream, struct ArrowArray *out) {
    struct reader *reader = stream->private_data;
    struct report *report = reader->report;
    memset(out, 0, sizeof *out);
    if (report->stopped_at >= 0)
        return 0;
    if (report->odd_at >= 0)
        return odd(reader);
    if (report->stop)
        return failed(reader, ECANCELED);
    struct block *block = take_block(reader);
    if (!block)
        return ENOMEM;
    struct filling *fill = block->fill;
    int64_t rows = 0, taken = 0;
    while (rows < ROWS_MAX && taken < BATCH_MAX) {
        const uint8_t *begin = reader->buffer + reader->place, *at = begin;
        const uint8_t *end = reader->buffer + reader->length;
        int64_t began;
        int blank = !reader->json && at < end && *at == '\n';
        if (!reader->json && at + 1 < end && *at == '\r' && at[1] == '\n')
            blank = 2;
        enum outcome outcome = ODD;
        if (reader->json)
            outcome = json_record(reader, fill, rows, 0, &at, end, &began);
        else if (
            reader->offset + (int64_t)reader->place >= reader->end || (at == end && reader->at_end))
            outcome = ENDED;
        if (outcome == ENDED) {
            reader->place = (size_t)(at - reader->buffer);
            if (reader->file + 1 < reader->files) {
                if (next_file(reader, report->records + rows + report->left))
                    continue;
                let_go(block);
                return failed(reader, reader->error_number);
            }
            report->stopped_at = reader->offset + (int64_t)reader->place;
            break;
        }
        if (blank && reader->cells > 1) {
            at += blank;
            reader->place = (size_t)(at - reader->buffer);
            continue;
        }
        if (blank || reader->json)
            ; /* odd, or known */
        else if (at == end || (*at == '\r' && at + 1 == end && !reader->at_end))
            outcome = MORE;
        else
            outcome = record(reader, fill, rows, &at, end);
        if (outcome == DONE) {
            reader->place = (size_t)(at - reader->buffer);
            if (!reader->json && at - begin > RECORD_MAX)
                outcome = ODD;
            taken += at - begin;
            if (reader->columns > reader->cells)
                ((int64_t *)fill[reader->cells].values)[rows] = reader->file;
            rows++;
        } else {
            /* Take back what the record's first cells have left. */
            for (int32_t n = 0; n < reader->columns; n++) {
                uint8_t *byte = fill[n].valid + (rows >> 3), bit = (uint8_t)(1u << (rows & 7));
                if (!(*byte & bit)) {
                    *byte |= bit;
                    fill[n].nulls--;
                }
                if (fill[n].text)
                    fill[n].used = (size_t)((int32_t *)fill[n].values)[rows];
            }
        }
        size_t most = reader->json ? 2 * JSON_RECORD_MAX : RECORD_MAX;
        if (outcome == MORE && (reader->at_end || reader->length - reader->place > most))
            outcome = ODD;
        if (outcome == ODD) {
            report->records += rows; /* as its number needs them */
            outcome = pass_over(reader, begin, end);
            report->records -= rows;
        }
        if (outcome == MORE && !refill(reader)) {
            let_go(block);
            return failed(reader, reader->error_number);
        }
        if (outcome == ODD || outcome == NO_MEMORY) {
            let_go(block);
            return outcome == ODD ? odd(reader) : ENOMEM;
        }
    }
    report->records += rows;
    report->place = reader->before + reader->offset + (int64_t)reader->place;
    if (!rows) {
        let_go(block);
        return 0;
    }
    return to_array(reader, block, rows, out);
}

static void free_schema(struct ArrowSchema *schema) {
    for (int64_t n = 0; n < schema->n_children; n++) {
        schema->children[n]->release(schema->children[n]);
        free(schema->children[n]);
    }
    free(schema->children);
    free(schema->private_data);
    schema->release = 0;
}

/* Columns are named c0, c1, …: `private_data` holds name and format. */
static int fill_schema(const struct column *column, int32_t number, struct ArrowSchema *into) {
    char *text = calloc(2, 32);
    if (!text)
        return 0;
    char *name = text, *format = text + 32, figures[12];
    int size = 0;
    for (int32_t left = number; size == 0 || left; left /= 10)
        figures[size++] = (char)('0' + left % 10);
    *name++ = 'c';
    while (size)
        *name++ = figures[--size];
    if (column->kind == DECIMAL) {
        char *at = format;
        for (const char *from = "d:"; *from;)
            *at++ = *from++;
        int parts[2] = {column->precision, column->scale};
        for (int n = 0; n < 2; n++) {
            if (parts[n] > 9)
                *at++ = (char)('0' + parts[n] / 10);
            *at++ = (char)('0' + parts[n] % 10);
            *at++ = ',';
        }
        memcpy(is_wide(column) ? at - 1 : at, is_wide(column) ? "\0" : "64", 2);
    } else {
        static const char *const formats[] = {"u", "l", "", "tdD", "g", "tsu:", "b", "u"};
        strcpy(format, formats[column->kind]);
    }
    *into = (struct ArrowSchema){
        .format = format, .name = text, .flags = 2, .release = free_schema, .private_data = text};
    return 1;
}

static int get_schema(struct ArrowArrayStream *stream, struct ArrowSchema *out) {
    struct reader *reader = stream->private_data;
    struct ArrowSchema schema = {.format = "+s", .name = "", .release = free_schema};
    schema.children = calloc((size_t)reader->columns, sizeof *schema.children);
    if (!schema.children)
        return ENOMEM;
    for (int32_t n = 0; n < reader->columns; n++) {
        struct ArrowSchema *child = calloc(1, sizeof *child);
        if (!child || !fill_schema(reader->column + n, n, child)) {
            free(child);
            free_schema(&schema);
            return ENOMEM;
        }
        schema.children[schema.n_children++] = child;
    }
    *out = schema;
    return 0;
}

static const char *get_last_error(struct ArrowArrayStream *stream) {
    struct reader *reader = stream->private_data;
    return reader->error[0] ? reader->error : 0;
}

static void close_reader(struct reader *reader) {
    if (reader->fd >= 0)
        close(reader->fd);
    free(reader->buffer);
    free(reader->column);
    free(reader->text);
    free(reader->paths);
    free_json(reader->json, 0);
    if (reader->pool)
        leave(reader->pool);
    free(reader);
}

static void release(struct ArrowArrayStream *stream) {
    close_reader(stream->private_data);
    stream->release = 0;
}

/* Go over one record, and blank lines before it, without looking at its cells. */
static void skip_record(struct reader *reader) {
    int inside = 0, begun = 0;
    for (;;) {
        const uint8_t *begin = reader->buffer + reader->place, *at = begin;
        const uint8_t *end = reader->buffer + reader->length;
        for (; at < end; at++) {
            inside ^= *at == reader->quote;
            if (begun && !inside && *at == '\n')
                break;
            begun |= *at != '\n' && *at != '\r';
        }
        reader->place += (size_t)(at - begin) + (at < end);
        if (at < end || reader->at_end || !refill(reader))
            return;
    }
}

/* Make a reader that stands at `begin`, behind a mark of UTF-8. Returns an errno. */
static int open_reader(
    const char *path, int64_t begin, int64_t end, const struct column *column, int32_t columns,
    size_t chunk, size_t record_max, struct report *report, struct reader **out) {
    struct reader *reader = calloc(1, sizeof *reader);
    if (!reader)
        return ENOMEM;
    reader->chunk = chunk;
    reader->capacity = record_max + 2 * chunk + PADDING;
    reader->buffer = malloc(reader->capacity);
    reader->column = malloc((size_t)columns * sizeof *column + 1);
    reader->pool = calloc(1, sizeof *reader->pool);
    if (reader->pool)
        reader->pool->users = 1;
    if (reader->pool && pthread_mutex_init(&reader->pool->lock, 0)) {
        free(reader->pool);
        reader->pool = 0;
    }
    reader->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (reader->fd < 0 || !reader->buffer || !reader->column || !reader->pool) {
        int number = reader->fd < 0 ? errno : ENOMEM;
        close_reader(reader);
        return number;
    }
    if (columns)
        memcpy(reader->column, column, (size_t)columns * sizeof *column);
    reader->pool->columns = columns;
    reader->columns = reader->cells = columns;
    reader->files = 1;
    reader->offset = begin;
    reader->end = end;
    report->records = report->left = report->stop = 0;
    report->place = begin;
    report->stopped_at = report->odd_at = -1;
    reader->report = report;
    if (!refill(reader) || (begin == 0 && !past_mark(reader))) {
        int number = reader->error_number;
        close_reader(reader);
        return number;
    }
    *out = reader;
    return 0;
}

static int stream_csv(
    struct reader *reader, struct ArrowArrayStream *stream, uint8_t delimiter, uint8_t quote) {
    reader->delimiter = delimiter;
    reader->quote = quote;
    memset(reader->stops, 0, 128);
    memset(reader->stops + 128, 1, 128);
    reader->stops[delimiter] = reader->stops[quote] = reader->stops['\n'] = 1;
    reader->stops['\r'] = reader->stops[0] = 1;
    if (!past_heads(reader)) {
        int number = reader->error_number;
        close_reader(reader);
        free(stream);
        return number;
    }
    *stream = (struct ArrowArrayStream){get_schema, get_next, get_last_error, release, reader};
    return 0;
}

/* Open the records of `path` that begin in [begin, end) as a stream. `begin` is 0, which skips
 * `heads` records, or where a record begins. Returns an errno; `report` must outlive the stream. */
EXPORT int headrace_csv_open(
    const char *path, int64_t begin, int64_t end, int32_t heads, uint8_t delimiter, uint8_t quote,
    const struct column *column, int32_t columns, size_t chunk, struct report *report,
    struct ArrowArrayStream **out) {
    struct reader *reader;
    struct ArrowArrayStream *stream = malloc(sizeof *stream);
    int number = stream ? open_reader(path, begin, end, column, columns, chunk, RECORD_MAX, report, &reader)
                        : ENOMEM;
    if (number) {
        free(stream);
        return number;
    }
    reader->heads = begin ? 0 : heads;
    *out = stream;
    return stream_csv(reader, stream, delimiter, quote);
}

/* Have a reader that has opened the first of `paths` go on with the others. They are each ended by
 * 0, `size` bytes together. Its last column is not in the files: it is the number of the file, from
 * 0. Returns 0 without memory. */
static int read_many(struct reader *reader, const char *paths, size_t size, int32_t files) {
    char *copy = malloc(size + 1);
    if (!copy)
        return 0;
    memcpy(copy, paths, size);
    copy[size] = 0;
    reader->paths = copy;
    reader->path = copy;
    reader->files = files;
    reader->cells = reader->columns - 1;
    return 1;
}

/* Open files of the same form as one stream: see `read_many`. */
EXPORT int headrace_csv_open_many(
    const char *paths, size_t size, int32_t files, int32_t heads, uint8_t delimiter, uint8_t quote,
    const struct column *column, int32_t columns, size_t chunk, struct report *report,
    struct ArrowArrayStream **out) {
    struct reader *reader;
    struct ArrowArrayStream *stream = malloc(sizeof *stream);
    int number = stream ? open_reader(
                              paths, 0, INT64_MAX, column, columns, chunk, RECORD_MAX, report,
                              &reader)
                        : ENOMEM;
    if (!number && !read_many(reader, paths, size, files)) {
        close_reader(reader);
        number = ENOMEM;
    }
    if (number) {
        free(stream);
        return number;
    }
    reader->heads = heads;
    *out = stream;
    return stream_csv(reader, stream, delimiter, quote);
}

/* Open JSON records as a stream, like CSV. `names` are those of the columns, one after the other,
 * `sizes` their bytes. Where `begin` is not 0 a record begins there. `paths` is one path, where
 * `files` is 0; else see `read_many`. */
EXPORT int headrace_json_open(
    const char *paths, size_t size, int32_t files, int64_t begin, int64_t end, int32_t lines,
    const struct column *column, int32_t columns, const uint8_t *names, const int32_t *sizes,
    size_t chunk, struct report *report, struct ArrowArrayStream **out) {
    struct reader *reader;
    struct ArrowArrayStream *stream = malloc(sizeof *stream);
    int number = stream ? open_reader(
                              paths, begin, end, column, columns, chunk, 2 * JSON_RECORD_MAX,
                              report, &reader)
                        : ENOMEM;
    if (!number && files && !read_many(reader, paths, size, files)) {
        close_reader(reader);
        number = ENOMEM;
    }
    if (number) {
        free(stream);
        return number;
    }
    struct json *json = reader->json = calloc(1, sizeof *json);
    size_t bytes = 0;
    columns = reader->cells;
    for (int32_t n = 0; n < columns; n++)
        bytes += (size_t)sizes[n];
    uint8_t *copy = malloc(bytes + 1);
    if (json)
        json->seen = calloc((size_t)columns + 1, sizeof *json->seen);
    if (!json || !copy || !json->seen || !names_init(&json->names, columns)) {
        free(copy);
        close_reader(reader);
        free(stream);
        return ENOMEM;
    }
    memcpy(copy, names, bytes);
    reader->text = copy;
    for (int32_t n = 0; n < columns; copy += sizes[n++]) {
        uint32_t slot;
        names_find(&json->names, copy, (size_t)sizes[n], &slot);
        names_add(&json->names, copy, (size_t)sizes[n], slot);
    }
    json->last = columns - 1;
    json->lines = lines;
    json->state = begin ? BEFORE : START;
    *stream = (struct ArrowArrayStream){get_schema, get_next, get_last_error, release, reader};
    *out = stream;
    return 0;
}

/* What a look at all records of a JSON file has found. */
struct survey {
    int64_t records, odd_at; /* -1: nothing is odd */
    int32_t names, marks;
    struct name *name;
    int64_t *mark; /* where a record begins, every so many bytes */
    struct json *json;
};

/* Look at every record, or the first `most` of them: count them, collect what members they have and
 * of which kinds; `sample`: the first records, whose kinds are told apart. Returns an errno; the
 * rest is in `found`. */
EXPORT int headrace_json_survey(
    const char *path, int32_t lines, int64_t sample, int64_t most, int64_t every, size_t chunk,
    struct report *report, struct survey *found) {
    struct reader *reader;
    *found = (struct survey){.odd_at = -1};
    int number = open_reader(
        path, 0, INT64_MAX, 0, 0, chunk, 2 * JSON_RECORD_MAX, report, &reader);
    if (number)
        return number;
    struct json *json = reader->json = calloc(1, sizeof *json);
    size_t room = 0;
    int64_t next = every;
    if (json)
        json->undo = malloc(JSON_MEMBERS_MAX * sizeof *json->undo);
    if (!json || !json->undo || !names_init(&json->names, JSON_NAMES_MAX))
        number = ENOMEM;
    else
        json->lines = lines;
    while (!number && found->records + report->left < most) {
        const uint8_t *at = reader->buffer + reader->place, *end = reader->buffer + reader->length;
        int64_t began = 0;
        enum outcome outcome =
            json_record(
                reader, 0, found->records + report->left, found->records + report->left < sample, &at, end,
                &began);
        if (outcome == ENDED)
            break;
        if (outcome == DONE) {
            reader->place = (size_t)(at - reader->buffer);
            report->place = reader->offset + (int64_t)reader->place;
            found->records++;
            if (began >= next) {
                if ((size_t)found->marks == room) {
                    room = room * 2 + 16;
                    int64_t *grown = realloc(found->mark, room * sizeof *grown);
                    if (!grown) {
                        number = ENOMEM;
                        break;
                    }
                    found->mark = grown;
                }
                found->mark[found->marks++] = began;
                next = began + every;
            }
            continue;
        }
        int hopeless = reader->at_end || reader->length - reader->place > 2 * JSON_RECORD_MAX;
        if (outcome == MORE && hopeless)
            outcome = ODD;
        if (outcome == ODD) {
            report->records = found->records;
            outcome = pass_over(reader, reader->buffer + reader->place, end);
            if (outcome == DONE)
                continue;
        }
        if (outcome == ODD || report->stop) {
            found->odd_at = reader->offset + (int64_t)reader->place;
            break;
        }
        if (!refill(reader))
            number = reader->error_number;
    }
    reader->json = 0;
    close_reader(reader);
    if (json) {
        found->name = json->names.list;
        found->names = json->names.count;
    }
    found->json = json;
    return number;
}

EXPORT void headrace_json_forget(struct survey *found) {
    free(found->mark);
    free_json(found->json, 1);
}

/* The destructor of a capsule that holds a stream, taken over by then or not. */
extern void *PyCapsule_GetPointer(void *capsule, const char *name); /* of the Python we are in */

EXPORT void headrace_capsule_free(void *capsule) {
    struct ArrowArrayStream *stream = PyCapsule_GetPointer(capsule, "arrow_array_stream");
    if (!stream)
        return;
    if (stream->release)
        stream->release(stream);
    free(stream);
}

/* Count the records of a file by its newlines outside quotes, the header included; blank lines
 * count if `blanks`. -1 where quotes or carriage returns stand where a plain CSV has none;
 * -2 - errno for an error. It shares nothing with the reader above, which it is to prove. */
EXPORT int64_t headrace_csv_count(
    const char *path, uint8_t delimiter, uint8_t quote, int32_t blanks, size_t chunk_bytes) {
    const uint64_t ones = 0x0101010101010101u;
    const uint64_t newlines = ones * '\n', returns = ones * '\r', quotes = ones * quote;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -2 - errno;
    uint8_t *chunk = malloc(chunk_bytes);
    int64_t records = 0, offset = 0;
    enum { OUTSIDE, INSIDE, CLOSED, RETURNED } state = OUTSIDE;
    uint8_t before = '\n';
    int line_is_blank = 1;
    while (chunk) {
        ssize_t got = pread(fd, chunk, chunk_bytes, offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            int number = errno;
            free(chunk);
            close(fd);
            return -2 - number;
        }
        if (got == 0)
            break;
        const uint8_t *at = chunk, *end = chunk + got;
        if (offset == 0 && got >= 3 && !memcmp(chunk, "\xEF\xBB\xBF", 3))
            at += 3; /* a chunk has three bytes at least */
        offset += got;
        while (at < end) {
            if (state == INSIDE) {
                at = memchr(at, quote, (size_t)(end - at));
                if (!at)
                    break;
                state = CLOSED;
                at++;
                continue;
            }
            if (state == OUTSIDE) {
                const uint8_t *begin = at;
                uint64_t word;
                for (; end - at >= 8; at += 8) {
                    memcpy(&word, at, 8);
                    if (holds(word, newlines) | holds(word, returns) | holds(word, quotes))
                        break;
                }
                while (at < end && *at != '\n' && *at != '\r' && *at != quote)
                    at++;
                if (at > begin) {
                    line_is_blank = 0;
                    before = at[-1];
                }
                if (at == end)
                    break;
            }
            uint8_t byte = *at++;
            if (byte == '\n') {
                records += !line_is_blank || blanks;
                line_is_blank = 1;
                state = OUTSIDE;
                before = '\n';
            } else if (state == RETURNED) {
                goto odd;
            } else if (byte == '\r') {
                state = RETURNED;
            } else if (byte == quote) {
                if (state == OUTSIDE && before != delimiter && before != '\n')
                    goto odd;
                line_is_blank = 0;
                state = INSIDE;
            } else {
                if (byte != delimiter)
                    goto odd;
                before = delimiter;
                state = OUTSIDE;
            }
        }
    }
    if (state == INSIDE || state == RETURNED || !chunk) {
    odd:
        records = -1;
        line_is_blank = 1;
    }
    free(chunk);
    close(fd);
    return records + !line_is_blank;
}

/* Count the lines of a file that hold anything but space. -2 - errno for an error. Like the count
 * above it shares nothing with the readers. */
EXPORT int64_t headrace_lines_count(const char *path, size_t chunk_bytes) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -2 - errno;
    uint8_t *chunk = malloc(chunk_bytes);
    int64_t lines = 0, offset = 0;
    int is_blank = 1, number = chunk ? 0 : ENOMEM;
    while (!number) {
        ssize_t got = pread(fd, chunk, chunk_bytes, offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            number = errno;
        if (got <= 0)
            break;
        const uint8_t *at = chunk, *end = chunk + got;
        if (offset == 0 && got >= 3 && !memcmp(chunk, "\xEF\xBB\xBF", 3))
            at += 3; /* a chunk has three bytes at least */
        offset += got;
        while (at < end) {
            while (is_blank && at < end && (*at == ' ' || (*at >= '\t' && *at <= '\r')))
                at++;
            is_blank &= at == end;
            at = is_blank ? end : memchr(at, '\n', (size_t)(end - at));
            if (!at)
                break;
            if (at < end) {
                lines++;
                is_blank = 1;
                at++;
            }
        }
    }
    free(chunk);
    close(fd);
    return number ? -2 - number : lines + !is_blank;
}
