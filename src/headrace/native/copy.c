/* Arrow batches as the rows of a COPY in PostgreSQL's binary form: what would be a loop over rows. */
#include <stdint.h>
#include <string.h>

#include "arrow.h"

#define EXPORT __attribute__((visibility("default")))
#define DAYS 10957                   /* from 1970 to 2000, when PostgreSQL's time begins */
#define MICROSECONDS 946684800000000 /* as well */
#define GROUP 10000                  /* numeric has four digits in each of its own */
#define GROUPS_MAX 12
#define QUICK_SCALE 16 /* a fraction of so many digits, in whole groups, fits 64 bits */

enum type {
    TEXT, LARGE_TEXT, JSON, LARGE_JSON, NUMERIC, SHORT_NUMERIC, BIGINT, DATE, DOUBLE, TIMESTAMP, TIME,
    BOOLEAN
};

struct form {
    int32_t type, scale;
};

static uint8_t *put16(uint8_t *out, uint32_t value) {
    out[0] = (uint8_t)(value >> 8);
    out[1] = (uint8_t)value;
    return out + 2;
}

static uint8_t *put32(uint8_t *out, uint32_t value) {
    value = __builtin_bswap32(value);
    memcpy(out, &value, 4);
    return out + 4;
}

static uint8_t *put64(uint8_t *out, uint64_t value) {
    value = __builtin_bswap64(value);
    memcpy(out, &value, 8);
    return out + 8;
}

/* Write a decimal, at most 12 and 2 * GROUPS_MAX bytes with its length. */
static uint8_t *numeric(uint8_t *out, __int128 value, int scale) {
    static const uint64_t powers[] = {
        1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000, 10000000000,
        100000000000, 1000000000000, 10000000000000, 100000000000000, 1000000000000000,
        10000000000000000};
    uint16_t groups[GROUPS_MAX]; /* from the last */
    int count = 0, behind = (scale + 3) / 4, pad = 4 * behind - scale;
    unsigned __int128 left = value < 0 ? -(unsigned __int128)value : (unsigned __int128)value;
    if (scale <= QUICK_SCALE && left <= UINT64_MAX) {
        uint64_t size = (uint64_t)left, whole = size / powers[scale];
        uint64_t fraction = (size - whole * powers[scale]) * powers[pad];
        for (; count < behind; fraction /= GROUP) groups[count++] = (uint16_t)(fraction % GROUP);
        for (; whole; whole /= GROUP) groups[count++] = (uint16_t)(whole % GROUP);
    } else {
        if (scale) { /* the last group is short of `pad` digits */
            uint64_t some = powers[4 - pad];
            groups[count++] = (uint16_t)((uint64_t)(left % some) * powers[pad]);
            left /= some;
        }
        for (; left || count < behind; left /= GROUP) groups[count++] = (uint16_t)(left % GROUP);
    }
    int first = 0;
    while (count > first && !groups[count - 1]) count--;
    while (first < count && !groups[first]) first++;
    int digits = count - first;
    out = put32(out, (uint32_t)(8 + 2 * digits));
    out = put16(out, (uint32_t)digits);
    out = put16(out, (uint32_t)(digits ? count - behind - 1 : 0));
    out = put16(out, value < 0 ? 0x4000 : 0);
    out = put16(out, (uint32_t)scale);
    for (int place = count - 1; place >= first; place--) out = put16(out, groups[place]);
    return out;
}

/* DuckDB's infinite days and moments are the greatest number and its opposite. */
static uint32_t days(int32_t value) {
    if (value == INT32_MAX) return INT32_MAX;
    return value == -INT32_MAX ? (uint32_t)INT32_MIN : (uint32_t)value - DAYS;
}

static uint64_t moment(int64_t value) {
    if (value == INT64_MAX) return INT64_MAX;
    return value == -INT64_MAX ? (uint64_t)INT64_MIN : (uint64_t)value - MICROSECONDS;
}

static uint8_t *text(uint8_t *out, const uint8_t *from, int64_t size, int json) {
    out = put32(out, (uint32_t)(size + json));
    if (json) *out++ = 1; /* the version of jsonb */
    if (size) memcpy(out, from, (size_t)size);
    return out + size;
}

static int64_t place_of(const struct ArrowArray *column, const struct form *form, int64_t row) {
    const void *places = column->buffers[1];
    row += column->offset;
    return form->type == TEXT || form->type == JSON ? ((const int32_t *)places)[row]
                                                    : ((const int64_t *)places)[row];
}

/* Return how many bytes some rows of a batch take at most, from `first` on. */
EXPORT int64_t headrace_pg_room(
    const struct ArrowArray *batch, const struct form *form, int64_t first, int64_t count) {
    int64_t most = 2 * count;
    for (int64_t n = 0; n < batch->n_children; n++) {
        const struct ArrowArray *column = batch->children[n];
        if (form[n].type <= LARGE_JSON)
            most += 5 * count + place_of(column, form + n, first + count) -
                    place_of(column, form + n, first);
        else
            most += (form[n].type <= SHORT_NUMERIC ? 12 + 2 * GROUPS_MAX : 12) * count;
    }
    return most;
}

/* Write some rows of a batch to `out`, which has room for them; return the bytes.
 *
 * The columns are of these forms, and the batch begins where its columns do. */
EXPORT int64_t headrace_pg_rows(
    const struct ArrowArray *batch, const struct form *form, int64_t first, int64_t count,
    uint8_t *out) {
    uint8_t *begun = out;
    for (int64_t row = first; row < first + count; row++) {
        out = put16(out, (uint32_t)batch->n_children);
        for (int64_t n = 0; n < batch->n_children; n++) {
            const struct ArrowArray *column = batch->children[n];
            int64_t at = row + column->offset;
            const uint8_t *valid = column->null_count ? column->buffers[0] : 0;
            const void *values = column->buffers[1];
            if (valid && !(valid[at / 8] >> at % 8 & 1)) {
                out = put32(out, UINT32_MAX);
                continue;
            }
            switch (form[n].type) {
            case TEXT:
            case LARGE_TEXT:
            case JSON:
            case LARGE_JSON: {
                int64_t from = place_of(column, form + n, row), end = place_of(column, form + n, row + 1);
                out = text(
                    out, (const uint8_t *)column->buffers[2] + from, end - from,
                    form[n].type >= JSON);
                break;
            }
            case BIGINT:
            case TIME:
            case DOUBLE:
                out = put64(put32(out, 8), ((const uint64_t *)values)[at]);
                break;
            case TIMESTAMP:
                out = put64(put32(out, 8), moment(((const int64_t *)values)[at]));
                break;
            case DATE:
                out = put32(put32(out, 4), days(((const int32_t *)values)[at]));
                break;
            case BOOLEAN:
                out = put32(out, 1);
                *out++ = ((const uint8_t *)values)[at / 8] >> at % 8 & 1;
                break;
            case NUMERIC: {
                __int128 value;
                memcpy(&value, (const uint8_t *)values + 16 * at, 16);
                out = numeric(out, value, form[n].scale);
                break;
            }
            case SHORT_NUMERIC:
                out = numeric(out, ((const int64_t *)values)[at], form[n].scale);
            }
        }
    }
    return out - begun;
}
