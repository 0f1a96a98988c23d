#ifndef BD_CRC32_H
#define BD_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* CRC-32 of ISO 3309 (reflected polynomial 0xEDB88320, as zlib's crc32). */
uint32_t bd_crc32(const void *data, size_t bytes);

#endif
