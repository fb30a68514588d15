/* Plain JSON objects, one a line or as the elements of one array: a part of text.c.
 *
 * Strict on purpose: at what RFC 8259 does not allow, at a key with escapes, at two keys alike, at
 * a value that is not plainly one of its column's type, the reader gives up. */

#define JSON_DEPTH_MAX 200
#define JSON_RECORD_MAX 8000000 /* bytes; as in json_text.py */
#define JSON_EXACT_DIGITS 15    /* of a number that a double keeps */
#define JSON_NAMES_MAX 2001
#define JSON_MEMBERS_MAX 8192 /* of one record, when it is surveyed */

struct name {
    const uint8_t *text;
    size_t size;
    int32_t next;           /* of those with the same hash; -1: none */
    int32_t sampled, kinds; /* bits of enum value */
    int64_t record, place;  /* where it was seen first: the record, and the member there */
    int64_t row;            /* the last record that has it */
    int plain;              /* a key in quotes says it as it is */
};

struct names {
    struct name *list;
    int32_t count, capacity, *first;
    uint32_t mask;
};

enum value { NOTHING = 1, TRUTH = 2, WHOLE = 4, BROKEN = 8, STRING = 16, NESTED = 32 };
enum state { START, FIRST, BEFORE, BEHIND, CLOSED };

/* What a member of the record at hand has changed in a survey. */
struct undo {
    int32_t name, sampled, kinds;
};

struct json {
    struct undo *undo;
    int32_t undos, known; /* names that were known before the record */
    int lines; /* else the elements of an array */
    enum state state;
    struct names names;
    int64_t *seen; /* by column: the row that has set it, from 1; counted over the stream */
    int64_t row;
    int32_t last; /* column that was found last: the next one is likely behind it */
    int strange;  /* the record at hand has a member that is no column */
};

/* Where a parser stands. One that fails leaves `at` where it did: at `end`, if more bytes might
 * have helped. */
struct cursor {
    const uint8_t *at, *end;
    int lines;
};

static uint32_t hash(const uint8_t *text, size_t size) {
    uint32_t value = 2166136261u;
    for (size_t n = 0; n < size; n++)
        value = (value ^ text[n]) * 16777619u;
    return value;
}

static int names_init(struct names *names, int32_t capacity) {
    uint32_t slots = 16;
    while (slots < (uint32_t)capacity * 2)
        slots *= 2;
    names->list = calloc((size_t)capacity + 1, sizeof *names->list);
    names->first = malloc(slots * sizeof *names->first);
    if (names->first)
        memset(names->first, 0xFF, slots * sizeof *names->first);
    names->capacity = capacity;
    names->mask = slots - 1;
    return names->list && names->first;
}

static int32_t names_find(const struct names *names, const uint8_t *text, size_t size, uint32_t *at) {
    *at = hash(text, size) & names->mask;
    int32_t n = names->first[*at];
    while (n >= 0 && (names->list[n].size != size || memcmp(names->list[n].text, text, size)))
        n = names->list[n].next;
    return n;
}

static void names_add(struct names *names, const uint8_t *text, size_t size, uint32_t at) {
    int plain = 1;
    for (size_t n = 0; n < size; n++)
        plain &= text[n] >= 0x20 && text[n] != '"' && text[n] != '\\';
    names->list[names->count] =
        (struct name){text, size, names->first[at], 0, 0, 0, 0, 0, plain && size};
    names->first[at] = names->count++;
}

static void blank(struct cursor *c) {
    while (c->at < c->end &&
           (*c->at == ' ' || *c->at == '\t' || *c->at == '\r' || (*c->at == '\n' && !c->lines)))
        c->at++;
}

static int give_up(struct cursor *c, const uint8_t *at) {
    c->at = at;
    return 0;
}

static int32_t hex(const uint8_t *at) {
    int32_t value = 0;
    for (int n = 0; n < 4; n++) {
        uint8_t sign = at[n] | 0x20;
        int digit = at[n] >= '0' && at[n] <= '9' ? at[n] - '0'
                    : sign >= 'a' && sign <= 'f' ? sign - 'a' + 10
                                                 : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* The code point of an escape \uXXXX or of a pair of them; 0 where there is none to use. */
static int32_t escaped_point(const uint8_t *at, const uint8_t *end, int *size) {
    int32_t point = end - at >= 6 ? hex(at + 2) : 0;
    *size = 6;
    if (point >= 0xD800 && point <= 0xDBFF) {
        int32_t low = end - at >= 12 && at[6] == '\\' && at[7] == 'u' ? hex(at + 8) : 0;
        *size = 12;
        return low >= 0xDC00 && low <= 0xDFFF ? 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00) : 0;
    }
    return point > 0 && (point < 0xDC00 || point > 0xDFFF) ? point : 0;
}

/* To the first byte of a text that is no plain one: a control, a quote, a backslash, or not ASCII. */
static const uint8_t *plain_end(const uint8_t *at) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    const uint64_t ones = 0x0101010101010101u, tops = ones * 0x80;
    for (;; at += 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        /* The lowest bit that is set tells the first byte: borrows go upwards only. */
        uint64_t stops = holds(word, ones * '"') | holds(word, ones * '\\') |
                         ((word - ones * 0x20) & tops) | (word & tops);
        if (stops)
            return at + (__builtin_ctzll(stops) >> 3);
    }
#else
    while (*at >= 0x20 && *at < 0x80 && *at != '"' && *at != '\\')
        at++;
    return at;
#endif
}

/* A string, from behind its opening quote to behind the closing one. */
static int string(struct cursor *c, int *escaped) {
    const uint8_t *at = c->at, *end = c->end;
    for (;;) {
        at = plain_end(at);
        if (*at == '"') {
            c->at = at + 1;
            return 1;
        }
        if (at >= end || *at < 0x20)
            return give_up(c, at);
        int size = 2;
        if (*at == '\\') {
            *escaped = 1;
            if (end - at < 12 && memchr(at, '"', (size_t)(end - at)) == 0)
                return give_up(c, end); /* it may go on */
            if (at[1] == 'u') {
                if (!escaped_point(at, end, &size))
                    return give_up(c, at);
            } else if (at[1] == 0 || !strchr("\"\\/bfnrt", at[1]))
                return give_up(c, at);
        } else {
            size = *at >= 0xF0 ? 4 : *at >= 0xE0 ? 3 : 2;
            if (end - at < size)
                return give_up(c, end);
            if (!is_utf8(at, at + size))
                return give_up(c, at);
        }
        at += size;
    }
}

static int some_digits(struct cursor *c) {
    const uint8_t *begin = c->at;
    while ((unsigned)*c->at - '0' <= 9)
        c->at++;
    return c->at > begin;
}

static int json_number(struct cursor *c, enum value *kind) {
    const uint8_t *begin = c->at;
    c->at += *c->at == '-';
    const uint8_t *first = c->at;
    if (!some_digits(c) || (*first == '0' && c->at - first > 1))
        return c->at >= c->end ? 0 : give_up(c, begin);
    *kind = WHOLE;
    if (*c->at == '.') {
        *kind = BROKEN;
        c->at++;
        if (!some_digits(c))
            return 0;
    }
    if (*c->at == 'e' || *c->at == 'E') {
        *kind = BROKEN;
        c->at++;
        c->at += *c->at == '+' || *c->at == '-';
        if (!some_digits(c))
            return 0;
    }
    if (*kind == WHOLE) { /* beyond 64 bits it is a double */
        const uint8_t *from = begin + (*begin == '-');
        const char *most = *begin == '-' ? "9223372036854775808" : "18446744073709551615";
        int64_t figures = c->at - from, limit = (int64_t)strlen(most);
        if (figures > limit || (figures == limit && memcmp(from, most, (size_t)limit) > 0))
            *kind = BROKEN;
    }
    return 1;
}

static int word(struct cursor *c, const char *said) {
    for (; *said; said++, c->at++)
        if (*c->at != (uint8_t)*said)
            return 0;
    return 1;
}

/* Any value, looked at from end to end. */
static int any_value(struct cursor *c, int depth, enum value *kind) {
    int escaped = 0;
    enum value inner;
    switch (*c->at) {
    case '"':
        *kind = STRING;
        c->at++;
        return string(c, &escaped);
    case 't':
        *kind = TRUTH;
        return word(c, "true");
    case 'f':
        *kind = TRUTH;
        return word(c, "false");
    case 'n':
        *kind = NOTHING;
        return word(c, "null");
    case '{':
    case '[':
        break;
    default:
        return json_number(c, kind);
    }
    *kind = NESTED;
    if (depth >= JSON_DEPTH_MAX)
        return 0;
    uint8_t close = *c->at == '{' ? '}' : ']';
    c->at++;
    blank(c);
    if (*c->at == close && c->at < c->end) {
        c->at++;
        return 1;
    }
    for (;;) {
        if (close == '}') {
            if (*c->at != '"')
                return 0;
            c->at++;
            if (!string(c, &escaped))
                return 0;
            blank(c);
            if (*c->at != ':')
                return 0;
            c->at++;
            blank(c);
        }
        if (!any_value(c, depth + 1, &inner))
            return 0;
        blank(c);
        if (*c->at == close) {
            c->at++;
            return 1;
        }
        if (*c->at != ',')
            return 0;
        c->at++;
        blank(c);
    }
}

static int add_unescaped(struct filling *into, int64_t row, const uint8_t *at, const uint8_t *end) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    size_t used = into->used;
    int ok = 1;
    while (ok && at < end) {
        const uint8_t *slash = memchr(at, '\\', (size_t)(end - at));
        const uint8_t *until = slash ? slash : end;
        ok = add_text(into, row, at, (size_t)(until - at));
        at = until;
        if (!ok || !slash)
            continue;
        uint8_t bytes[4];
        size_t count = 1;
        int size = 2;
        if (slash[1] == 'u') {
            int32_t point = escaped_point(slash, end, &size);
            count = point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
            if (count == 1)
                bytes[0] = (uint8_t)point;
            else {
                static const uint8_t lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
                for (size_t n = count; n-- > 1; point >>= 6)
                    bytes[n] = (uint8_t)(0x80 | (point & 0x3F));
                bytes[0] = (uint8_t)(lead[count] | point);
            }
        } else
            bytes[0] = (uint8_t)to[strchr(from, slash[1]) - from];
        ok = add_text(into, row, bytes, count);
        at += size;
    }
    if (!ok)
        into->used = used;
    else if (into->used == used)
        ok = add_text(into, row, at, 0);
    return ok;
}

static int digits_in(const uint8_t *at, const uint8_t *end) {
    int count = 0;
    for (; at < end; at++)
        count += (unsigned)*at - '0' <= 9;
    return count;
}

/* A number as most are: figures and a point, no sign, no exponent, and something behind it that is
 * there already. Returns where it ends; 0 where it is another one, or none. */
static const uint8_t *simple_number(
    const uint8_t *at, const uint8_t *end, const struct column *column, struct filling *into,
    int64_t row) {
    const uint8_t *begin = at;
    uint64_t mantissa = digits(&at);
    int64_t figures = at - begin, places = 0;
    if (!figures || (*begin == '0' && figures > 1))
        return 0;
    if (*at == '.' && column->kind == FLOAT) {
        const uint8_t *point = ++at;
        unsigned digit;
        for (; (digit = (unsigned)*at - '0') <= 9; at++)
            mantissa = mantissa * 10 + digit;
        places = at - point;
        if (!places)
            return 0;
    }
    if (figures + places > JSON_EXACT_DIGITS || at >= end || (*at != ',' && *at != '}'))
        return 0;
    if (column->kind == INTEGER)
        ((int64_t *)into->values)[row] = (int64_t)mantissa;
    else
        ((double *)into->values)[row] = (double)mantissa / exact_powers[places];
    return at;
}

/* One value into its column. */
static int json_cell(
    struct cursor *c, const struct column *column, struct filling *into, int64_t row) {
    const uint8_t *begin = c->at;
    enum value kind;
    int escaped = 0;
    if (column->kind == JSON)
        return any_value(c, 1, &kind) && (add_text(into, row, begin, (size_t)(c->at - begin)) ||
                                          give_up(c, begin));
    if (*begin == 'n') {
        if (!word(c, "null"))
            return 0;
        add_null(into, row, column);
        return 1;
    }
    if (*begin == '"') {
        c->at++;
        if (!string(c, &escaped))
            return 0;
        const uint8_t *first = begin + 1, *last = c->at - 1;
        int fits = column->kind == TEXT
                       ? (escaped ? add_unescaped(into, row, first, last)
                                  : add_padded(into, row, first, (size_t)(last - first)))
                       : !escaped && first < last &&
                             (column->kind == DATE || column->kind == TIMESTAMP ||
                              column->kind == DECIMAL) &&
                             typed(first, column, into, row) == last;
        return fits || give_up(c, begin);
    }
    if (column->kind == BOOLEAN) {
        int value = *begin == 't';
        if (!word(c, value ? "true" : "false"))
            return 0;
        set_bit(into, row, value);
        return 1;
    }
    if (column->kind != INTEGER && column->kind != FLOAT && column->kind != DECIMAL)
        return 0;
    const uint8_t *behind =
        column->kind == DECIMAL ? 0 : simple_number(begin, c->end, column, into, row);
    if (behind) {
        c->at = behind;
        return 1;
    }
    if (!json_number(c, &kind) || c->at >= c->end)
        return 0;
    int fits = typed(begin, column, into, row) == c->at;
    if (column->kind == INTEGER)
        fits = fits && kind == WHOLE && (*begin != '-' || begin[1] != '0');
    else if (column->kind == FLOAT) /* -0 is the whole number 0, -0.0 is not */
        fits = fits && (kind != WHOLE || *begin != '-' || begin[1] != '0');
    else if (column->kind == DECIMAL)
        fits = fits && digits_in(begin, c->at) <= JSON_EXACT_DIGITS;
    return fits || give_up(c, begin);
}

static uint64_t word_at(const uint8_t *at, size_t size) {
    uint64_t word = 0;
    memcpy(&word, at, size);
    return word;
}

/* memcmp, without a call for what is as short as a name. */
static int same(const uint8_t *one, const uint8_t *other, size_t size) {
    if (size < 4)
        return !memcmp(one, other, size);
    if (size < 8)
        return word_at(one, 4) == word_at(other, 4) &&
               word_at(one + size - 4, 4) == word_at(other + size - 4, 4);
    for (size_t n = 0; n + 8 < size; n += 8)
        if (word_at(one + n, 8) != word_at(other + n, 8))
            return 0;
    return word_at(one + size - 8, 8) == word_at(other + size - 8, 8);
}

/* The column that follows the last one, if its name is what stands at a key's quote: most records
 * have their members in one order. Goes behind the key then; else returns -1. */
static int32_t likely_column(struct json *json, struct cursor *c) {
    int32_t next = json->last + 1 < json->names.count ? json->last + 1 : 0;
    const struct name *likely = json->names.list + next;
    const uint8_t *text = c->at + 1;
    if (!likely->plain || (size_t)(c->end - c->at) < likely->size + 2 ||
        text[likely->size] != '"' || !same(likely->text, text, likely->size))
        return -1;
    c->at = text + likely->size + 1;
    return json->last = next;
}

static int32_t column_of(struct json *json, const uint8_t *text, size_t size) {
    uint32_t at;
    int32_t found = names_find(&json->names, text, size, &at);
    return found < 0 ? -1 : (json->last = found);
}

/* Over the members of an object. With `fill` they go into their columns, else their names and
 * kinds are collected. */
static int members(
    struct cursor *c, struct reader *reader, struct filling *fill, int64_t row, int sampled) {
    struct json *json = reader->json;
    if (*c->at != '{')
        return 0;
    c->at++;
    blank(c);
    if (*c->at == '}' && c->at < c->end) {
        c->at++;
        return 1;
    }
    for (int64_t place = 0;; place++) {
        const uint8_t *key = c->at;
        int escaped = 0;
        int32_t n = -1;
        if (*key != '"')
            return 0;
        if (!fill || (n = likely_column(json, c)) < 0) {
            c->at++;
            if (!string(c, &escaped))
                return 0;
        }
        size_t size = (size_t)(c->at - key) - 2;
        blank(c);
        if (*c->at != ':')
            return 0;
        c->at++;
        blank(c);
        if (escaped)
            return give_up(c, key);
        if (fill) {
            n = n < 0 ? column_of(json, key + 1, size) : n;
            json->strange |= n < 0;
            if (n < 0 || json->seen[n] == json->row)
                return give_up(c, key);
            json->seen[n] = json->row;
            if (!json_cell(c, reader->column + n, fill + n, row))
                return 0;
        } else {
            uint32_t slot;
            enum value kind;
            if (!any_value(c, 1, &kind))
                return 0;
            n = names_find(&json->names, key + 1, size, &slot);
            if (n < 0) {
                uint8_t *copy = json->names.count < json->names.capacity ? malloc(size + 1) : 0;
                if (!copy)
                    return give_up(c, key);
                memcpy(copy, key + 1, size);
                n = json->names.count;
                names_add(&json->names, copy, size, slot);
                json->names.list[n].record = row;
                json->names.list[n].place = place;
            }
            struct name *name = json->names.list + n;
            if (json->undos == JSON_MEMBERS_MAX || name->row == json->row)
                return give_up(c, key); /* too many, or the same twice */
            name->row = json->row;
            json->undo[json->undos++] = (struct undo){n, name->sampled, name->kinds};
            name->kinds |= (int32_t)kind;
            if (sampled)
                name->sampled |= (int32_t)kind;
        }
        blank(c);
        if (*c->at == '}') {
            c->at++;
            return 1;
        }
        if (*c->at != ',')
            return 0;
        c->at++;
        blank(c);
    }
}

static enum outcome failed_at(const struct reader *reader, const struct cursor *c) {
    return c->at >= c->end && !reader->at_end ? MORE : ODD;
}

/* To where the next record begins: DONE, or ENDED behind the last one. */
static enum outcome to_record(struct reader *reader, struct cursor *c, enum state *state) {
    struct json *json = reader->json;
    for (;;) {
        c->lines = 0;
        blank(c);
        c->lines = json->lines;
        if (c->at >= c->end) {
            if (!reader->at_end)
                return MORE;
            return json->lines || *state == CLOSED ? ENDED : ODD;
        }
        if (json->lines)
            return DONE;
        if (*state == BEFORE)
            return DONE;
        uint8_t sign = *c->at;
        if (*state == START && sign == '[')
            *state = FIRST;
        else if ((*state == FIRST || *state == BEHIND) && sign == ']')
            *state = CLOSED;
        else if (*state == BEHIND && sign == ',')
            *state = BEFORE;
        else
            return *state == FIRST ? DONE : ODD;
        c->at++;
    }
}

/* Forget what a record has told that is none. */
static void take_back(struct json *json) {
    while (json->undos) {
        const struct undo *undo = json->undo + --json->undos;
        json->names.list[undo->name].sampled = undo->sampled;
        json->names.list[undo->name].kinds = undo->kinds;
    }
    while (json->names.count > json->known) {
        struct name *last = json->names.list + --json->names.count;
        json->names.first[hash(last->text, last->size) & json->names.mask] = last->next;
        free((void *)last->text);
    }
}

/* The next record, from what stands before it. Takes nothing unless it is DONE or ENDED. */
static enum outcome json_record(
    struct reader *reader, struct filling *fill, int64_t row, int sampled, const uint8_t **from,
    const uint8_t *end, int64_t *began) {
    struct json *json = reader->json;
    struct cursor c = {*from, end, json->lines};
    enum state state = json->state;
    enum outcome outcome = to_record(reader, &c, &state);
    if (outcome == DONE && reader->offset + (c.at - reader->buffer) >= reader->end) {
        const uint8_t *until = reader->buffer + (reader->end - reader->offset);
        if (json->lines && *from <= until)
            c.at = until; /* blank lines behind it are the next one's */
        outcome = ENDED;
    }
    if (outcome != DONE) {
        *from = outcome == ENDED ? c.at : *from;
        return outcome;
    }
    const uint8_t *begin = c.at;
    json->row++;
    json->undos = json->strange = 0;
    json->known = json->names.count;
    int fits = members(&c, reader, fill, row, sampled);
    if (fits && json->lines) {
        blank(&c);
        fits = c.at >= end ? reader->at_end : *c.at == '\n';
    }
    if (!fits || c.at - begin > JSON_RECORD_MAX) {
        if (!fill)
            take_back(json);
        return fits ? ODD : failed_at(reader, &c);
    }
    c.at += json->lines && c.at < end;
    for (int32_t n = 0; fill && n < reader->cells; n++)
        if (json->seen[n] != json->row)
            add_null(fill + n, row, reader->column + n);
    json->state = BEHIND;
    *began = reader->offset + (begin - reader->buffer);
    *from = c.at;
    return DONE;
}

static void free_json(struct json *json, int own_names) {
    if (!json)
        return;
    for (int32_t n = 0; own_names && n < json->names.count; n++)
        free((void *)json->names.list[n].text);
    free(json->names.list);
    free(json->names.first);
    free(json->seen);
    free(json->undo);
    free(json);
}
