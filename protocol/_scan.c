/* The msgpack scanner: where does each message of a batch end?
 *
 * The broker never unpacks a message, yet it must know that a batch holds as many well-formed ones as its head says,
 * and where it may be cut. So this file walks heads and skips bodies. It builds nothing, allocates nothing and does not
 * recurse; its time is linear in the bytes walked, since each step passes at least one byte and each open container is
 * closed once. No Python in here: cffi wraps it (see _scan_build.py), and scan.py holds a twin in Python, which is the
 * oracle in the tests. What text strings contain, or whether a map's keys can be hashed, is not looked at.
 *
 * The layout of an object, by its first byte (numbers are big-endian):
 *
 *     00-7f  e0-ff  c0 c2 c3     | head |                                  small int, nil, false, true
 *     cc-cf  d0-d3  ca cb        | head | 1, 2, 4 or 8 bytes |             int, float
 *     a0-bf                      | head | (head & 1f) bytes |              fixstr
 *     c4 c5 c6  d9 da db         | head | length: 1, 2, 4 | bytes |        bin, str
 *     90-9f                      | head | (head & 0f) objects |            fixarray
 *     80-8f                      | head | 2 * (head & 0f) objects |        fixmap
 *     dc dd                      | head | n: 2, 4 | n objects |            array
 *     de df                      | head | n: 2, 4 | 2 * n objects |        map
 *     d6                         | head | ff | 4 bytes |                   timestamp 32
 *     d7                         | head | ff | 8 bytes |                   timestamp 64
 *     c7                         | head | 0c | ff | 12 bytes |             timestamp 96
 *     d4 d5 d8 c8 c9, and any d6 d7 c7 unlike the three above              another ext: refused
 *     c1                                                                   never used: refused
 */

#include <stdint.h>

enum { MOST_DEPTH = 255 };

/* Why a walk ended; the numbers are known to scan.py. */
enum { CUT_SHORT = -1, NEVER_USED = -2, OTHER_EXT = -3, TOO_DEEP = -4, BAD_ARGUMENT = -5 };

/* What stands in LAYOUT: up to MOST_FIXED, the bytes that the whole object takes; above, what follows its head. */
enum {
    MOST_FIXED = 33,
    L1, L2, L4,         /* a length of so many bytes, then that many bytes */
    FA, A2, A4,         /* array: the number of objects is in the head, in 2 bytes, in 4 */
    FM, M2, M4,         /* map: the same, of pairs */
    T4, T8, TX,         /* an ext that may be a timestamp: fixext 4, fixext 8, ext 8 */
    XX,                 /* an ext that cannot be one */
    NO                  /* 0xc1 */
};

static const uint8_t LAYOUT[256] = {
    /*         0   1   2   3   4   5   6   7   8   9   a   b   c   d   e   f */
    /* 0 */    1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,
    /* 1 */    1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,
    /* 2 */    1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,
    /* 3 */    1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,
    /* 4 */    1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,
    /* 5 */    1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,
    /* 6 */    1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,
    /* 7 */    1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,
    /* 8 */   FM, FM, FM, FM, FM, FM, FM, FM, FM, FM, FM, FM, FM, FM, FM, FM,
    /* 9 */   FA, FA, FA, FA, FA, FA, FA, FA, FA, FA, FA, FA, FA, FA, FA, FA,
    /* a */    1,  2,  3,  4,  5,  6,  7,  8,  9, 10, 11, 12, 13, 14, 15, 16,
    /* b */   17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32,
    /* c */    1, NO,  1,  1, L1, L2, L4, TX, XX, XX,  5,  9,  2,  3,  5,  9,
    /* d */    2,  3,  5,  9, XX, XX, T4, T8, XX, L1, L2, L4, A2, A4, M2, M4,
    /* e */    1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,
    /* f */    1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,
};

/* What vanilla_scan returns. */
struct vanilla_scanned {
    int64_t passed;     /* messages passed, or one of the negative numbers above */
    int64_t at;         /* the offset after them, or, on an error, of the object that is wrong */
};

static uint64_t big2(const uint8_t *p)
{
    return (uint64_t)p[0] << 8 | p[1];
}

static uint64_t big4(const uint8_t *p)
{
    return (uint64_t)p[0] << 24 | (uint64_t)p[1] << 16 | (uint64_t)p[2] << 8 | p[3];
}

/* Read a head at p, of which `room` bytes (at least one) may be read.
 * *bytes becomes what the head and, in a scalar, the content take: it may be more than `room`. It is at most
 * 5 + 2^32 - 1, and *objects at most 2 * (2^32 - 1), so 64 bits never overflow.
 * Returns 0 for a scalar; 1 for a container, of *objects; or an error. */
static int read_head(const uint8_t *p, uint64_t room, uint64_t *bytes, uint64_t *objects)
{
    const uint8_t layout = LAYOUT[*p];

    switch (layout) {
    case L1: if (room < 2) return CUT_SHORT; *bytes = 2 + (uint64_t)p[1];   return 0;
    case L2: if (room < 3) return CUT_SHORT; *bytes = 3 + big2(p + 1);      return 0;
    case L4: if (room < 5) return CUT_SHORT; *bytes = 5 + big4(p + 1);      return 0;

    case FA:                                 *bytes = 1; *objects = *p & 0x0f;           return 1;
    case A2: if (room < 3) return CUT_SHORT; *bytes = 3; *objects = big2(p + 1);         return 1;
    case A4: if (room < 5) return CUT_SHORT; *bytes = 5; *objects = big4(p + 1);         return 1;
    case FM:                                 *bytes = 1; *objects = 2 * (*p & 0x0f);     return 1;
    case M2: if (room < 3) return CUT_SHORT; *bytes = 3; *objects = 2 * big2(p + 1);     return 1;
    case M4: if (room < 5) return CUT_SHORT; *bytes = 5; *objects = 2 * big4(p + 1);     return 1;

    case T4: if (room < 2) return CUT_SHORT; *bytes = 6;  return p[1] == 0xff ? 0 : OTHER_EXT;
    case T8: if (room < 2) return CUT_SHORT; *bytes = 10; return p[1] == 0xff ? 0 : OTHER_EXT;
    case TX: if (room < 3) return CUT_SHORT; *bytes = 15; return p[1] == 12 && p[2] == 0xff ? 0 : OTHER_EXT;
    case XX: return OTHER_EXT;
    case NO: return NEVER_USED;

    default: *bytes = layout; return 0;
    }
}

/* Walk one message: the object at *at and all that it contains. *at becomes the offset after it, or, on an error, that
 * of the object at fault. Returns 0 or an error.
 *
 * `left` counts the objects still to come in the innermost open container, `outer` those of the containers around it
 * (each of which still counts the container inside it), so an object that ends may end several containers. */
static int walk(const uint8_t *body, uint64_t size, uint64_t *at, unsigned depth)
{
    uint64_t outer[MOST_DEPTH];
    uint64_t left = 1;
    unsigned level = 0;

    for (;;) {
        uint64_t room = size - *at, bytes, objects = 0;
        int kind;

        if (room == 0)
            return CUT_SHORT;
        kind = read_head(body + *at, room, &bytes, &objects);
        if (kind < 0)
            return kind;
        if (bytes > room)
            return CUT_SHORT;
        if (kind == 1 && level == depth)
            return TOO_DEEP;
        *at += bytes;
        if (objects > 0) {
            outer[level++] = left;
            left = objects;
            continue;
        }
        while (--left == 0) {
            if (level == 0)
                return 0;
            left = outer[--level];
        }
    }
}

/* Pass over up to `count` messages from `offset`, ending early with the one with which the bytes passed reach
 * `max_bytes`. Every argument is checked, so that no number from Python can make it read outside body[0:size]. */
static struct vanilla_scanned vanilla_scan(const uint8_t *body, int64_t size, int64_t offset, int64_t count,
                                           int64_t max_bytes, int64_t depth)
{
    struct vanilla_scanned result = {BAD_ARGUMENT, offset};
    uint64_t at, end;

    if (size < 0 || offset < 0 || offset > size || count < 0 || depth < 0 || depth > MOST_DEPTH)
        return result;
    at = (uint64_t)offset;
    /* From `end` on no message starts; when max_bytes reaches past the body, it ends nothing. */
    end = max_bytes <= 0 ? at : max_bytes > size - offset ? UINT64_MAX : at + (uint64_t)max_bytes;
    for (result.passed = 0; result.passed < count && at < end; result.passed++) {
        uint64_t room = (uint64_t)size - at;
        int why;

        /* Most messages are one small object: those that need no walk are passed here. */
        if (room > 1) {
            const uint8_t layout = LAYOUT[body[at]];
            const uint64_t bytes = layout <= MOST_FIXED ? layout
                                 : layout == L1 ? 2 + (uint64_t)body[at + 1]
                                 : UINT64_MAX;

            if (bytes <= room) {
                at += bytes;
                continue;
            }
        }
        why = walk(body, (uint64_t)size, &at, (unsigned)depth);
        if (why != 0) {
            result.passed = why;
            break;
        }
    }
    result.at = (int64_t)at;
    return result;
}

/* Is body[offset:size] just `count` well-formed messages? 1 or 0; vanilla_scan says what is wrong. */
static int vanilla_holds(const uint8_t *body, int64_t size, int64_t offset, int64_t count, int64_t depth)
{
    const struct vanilla_scanned found = vanilla_scan(body, size, offset, count, INT64_MAX, depth);

    return found.passed == count && found.at == size;
}
