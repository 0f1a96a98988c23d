/* How a tile of accumulators stays in registers: every loop over the tile is unrolled whole, at any -O level. */
#ifndef BD_KERNELS_TILE_H
#define BD_KERNELS_TILE_H

#include <stddef.h>
#include <stdint.h>

#define BD_INLINE static inline __attribute__((always_inline))

#if defined(__clang__)
#define BD_UNROLL _Pragma("clang loop unroll(full)")
#else
#define BD_UNROLL _Pragma("GCC unroll 64")
#endif

/* Makes a register something that the compiler knows nothing of: what is computed from it is computed again. */
#define BD_FORGET(value, constraint) __asm__ volatile("" : "+" constraint(value))

/* Puts `field` at bit `first` of a word that is written from its lowest bit on. */
BD_INLINE void bd_put_field(uint64_t *word, size_t first, uint64_t field) {
    *word = first == 0 ? field : *word | field << first;
}

#endif
