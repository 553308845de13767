/* Trains: datagrams of one length that carry consecutive bytes of a stream, and nothing else, one behind the other.
 *
 *     | KK | NN NN NN NN NN NN NN | TT * 8 | 10 | OO OO OO OO OO OO OO | LL LL | bytes |   the next one ...
 *     kind  number u56             token    type offset u56             length
 *
 * From one to the next the number grows by 1 and the offset by the length. So the heads of a whole train are checked,
 * or written, in one pass that moves the bytes between them as well. packets.py says what they mean, and trains.py holds
 * a twin in Python, which is the oracle in the tests. No Python in here: cffi wraps it (see _scan_build.py). Every
 * argument is checked, so that no number from Python can make it touch what is outside of its buffers.
 */

#include <string.h>

enum { HEAD = 26, DATA_KIND = 3, STREAM_TYPE = 0x10 };

static const uint64_t MOST_NUMBER = ((uint64_t)1 << 56) - 1;

static uint64_t get64(const uint8_t *at)
{
    uint64_t value = 0;
    int i;

    for (i = 0; i < 8; i++)
        value = value << 8 | at[i];
    return value;
}

static void put64(uint8_t *at, uint64_t value)
{
    int i;

    for (i = 7; i >= 0; i--, value >>= 8)
        at[i] = (uint8_t)value;
}

/* Move the bytes of the stream out of train[0:size], datagrams of `segment` bytes each, into bodies[0:room]: 1. Or 0,
 * and nothing of `bodies` means anything: it is no such train, or `room` is not just what its bytes take. */
static int vanilla_strip(const uint8_t *train, int64_t size, int64_t segment, uint8_t *bodies, int64_t room)
{
    const int64_t each = segment - HEAD;
    uint64_t number, token, offset;
    int64_t count, i;

    if (each < 1 || each > 65535 || size < segment || size % segment != 0)
        return 0;
    count = size / segment;
    if (room != count * each)
        return 0;
    number = get64(train);
    token = get64(train + 8);
    offset = get64(train + 16);
    if (number >> 56 != DATA_KIND || offset >> 56 != STREAM_TYPE
        || (number & MOST_NUMBER) + (uint64_t)count - 1 > MOST_NUMBER
        || (offset & MOST_NUMBER) + (uint64_t)room > MOST_NUMBER)
        return 0;
    for (i = 0; i < count; i++, train += segment, bodies += each) {
        if (get64(train) != number + (uint64_t)i || get64(train + 8) != token
            || get64(train + 16) != offset + (uint64_t)(i * each) || (train[24] << 8 | train[25]) != each)
            return 0;
        memcpy(bodies, train + HEAD, (size_t)each);
    }
    return 1;
}

/* Write into train[0:size] `count` datagrams that carry `each` bytes of data[0:length] from `at` on, which are the
 * stream's from `offset` on; they are numbered from `number` on: 1. Or 0: an argument is out of range. */
static int vanilla_fill(uint8_t *train, int64_t size, uint64_t number, uint64_t token, uint64_t offset,
                        const uint8_t *data, int64_t length, int64_t at, int64_t count, int64_t each)
{
    int64_t i;

    if (each < 1 || each > 65535 || count < 1 || count > size || size != count * (each + HEAD)
        || at < 0 || at > length || count * each > length - at
        || number > MOST_NUMBER || (uint64_t)count - 1 > MOST_NUMBER - number
        || offset > MOST_NUMBER || (uint64_t)(count * each) > MOST_NUMBER - offset)
        return 0;
    number |= (uint64_t)DATA_KIND << 56;
    offset |= (uint64_t)STREAM_TYPE << 56;
    for (i = 0; i < count; i++, train += HEAD + each) {
        put64(train, number + (uint64_t)i);
        put64(train + 8, token);
        put64(train + 16, offset + (uint64_t)(i * each));
        train[24] = (uint8_t)(each >> 8);
        train[25] = (uint8_t)each;
        memcpy(train + HEAD, data + at + i * each, (size_t)each);
    }
    return 1;
}
