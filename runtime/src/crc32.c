#include "crc32.h"

#include <string.h>

enum { SLICES = 8 };

/* table[0][b] is the remainder of byte b; table[s][b] that of b followed by s zero bytes, so that the remainders of
 * eight bytes are looked up side by side and added (M. Kounavis and F. Berry, slicing-by-8, 2005). */
static void fill_table(uint32_t table[SLICES][256]) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t remainder = byte;
        for (int bit = 0; bit < 8; bit++)
            remainder = (remainder >> 1) ^ ((remainder & 1) ? 0xEDB88320u : 0);
        table[0][byte] = remainder;
    }
    for (int slice = 1; slice < SLICES; slice++)
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t shorter = table[slice - 1][byte];
            table[slice][byte] = (shorter >> 8) ^ table[0][shorter & 255];
        }
}

/* The table is rebuilt at each call: it costs microseconds, and two threads may load at once. */
uint32_t bd_crc32(const void *data, size_t bytes) {
    uint32_t table[SLICES][256];
    fill_table(table);
    const unsigned char *next = data;
    uint32_t crc = ~0u;
    for (; bytes >= SLICES; bytes -= SLICES, next += SLICES) {
        uint64_t eight;
        memcpy(&eight, next, sizeof eight);
        eight ^= crc;
        crc = 0;
        for (int i = 0; i < SLICES; i++)
            crc ^= table[SLICES - 1 - i][(eight >> (8 * i)) & 255];
    }
    for (; bytes > 0; bytes--, next++)
        crc = (crc >> 8) ^ table[0][(crc ^ *next) & 255];
    return ~crc;
}
