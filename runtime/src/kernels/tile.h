/* How a tile of accumulators stays in registers: every loop over the tile is unrolled whole, at any -O level. */
#ifndef BD_KERNELS_TILE_H
#define BD_KERNELS_TILE_H

#define BD_INLINE static inline __attribute__((always_inline))

#if defined(__clang__)
#define BD_UNROLL _Pragma("clang loop unroll(full)")
#else
#define BD_UNROLL _Pragma("GCC unroll 64")
#endif

#endif
