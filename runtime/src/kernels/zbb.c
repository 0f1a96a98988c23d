/* 64-bit RISC-V with the Zbb extension, which counts the bits of a register in one instruction.
 * A tile's sums, one line of its words and four products fit the registers that a compiler may use. */
#include "declarations.h"

#if defined(__riscv) && defined(__riscv_flen) && __riscv_xlen == 64

#include "tile.h"

enum { MR = 4, BATCH = 4 };

/* cpop as its encoding, so that no assembler needs to know of Zbb; volatile, so that counts stay where they stand: a
 * compiler that gathers the loads of a whole tile first has no registers left for its sums. */
BD_INLINE int64_t popcount(uint64_t word) {
    int64_t ones;
    __asm__ volatile(".insn i 0x13, 1, %0, %1, 0x602" : "=r"(ones) : "r"(word));
    return ones;
}

/* sums[n] += ones of pixel ^ filters[n], none of which waits for another one's count */
BD_INLINE void add_ones(uint64_t pixel, const uint64_t filters[BATCH], int64_t sums[BATCH]) {
    int64_t ones[BATCH];
    BD_UNROLL
    for (size_t n = 0; n < BATCH; n++)
        ones[n] = popcount(pixel ^ filters[n]);
    BD_UNROLL
    for (size_t n = 0; n < BATCH; n++)
        sums[n] += ones[n];
}

BD_INLINE void store(int32_t depth, const int64_t sums[BATCH], int32_t *out) {
    BD_UNROLL
    for (size_t n = 0; n < BATCH; n++)
        out[n] = depth - 2 * (int32_t)sums[n];
}

void bd_bgemm_i32_4x4__zbb(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights, int32_t *out,
                           size_t out_stride) {
    int64_t sums[MR][BATCH] = {{0}};
    for (size_t k = 0; k < words; k++, tile += MR, weights += BATCH) {
        uint64_t filters[BATCH];
        BD_UNROLL
        for (size_t n = 0; n < BATCH; n++)
            filters[n] = weights[n];
        BD_UNROLL
        for (size_t m = 0; m < MR; m++)
            add_ones(tile[m], filters, sums[m]);
    }
    BD_UNROLL
    for (size_t m = 0; m < MR; m++)
        store(depth, sums[m], out + m * out_stride);
}

void bd_bgemv_i32_1x8__zbb(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights, int32_t *out,
                           size_t out_stride) {
    int64_t low[BATCH] = {0}, high[BATCH] = {0};
    for (size_t k = 0; k < words; k++, weights += 2 * BATCH) {
        add_ones(tile[k], weights, low);
        add_ones(tile[k], weights + BATCH, high);
    }
    (void)out_stride;
    store(depth, low, out);
    store(depth, high, out + BATCH);
}

#define FGEMM_NAME bd_fgemm_f32_4x4__zbb
#define FGEMM_MR 4
#define FGEMM_REGISTERS 4
#define FGEMM_LANES 1
#define FGEMM_VECTOR float
#define FGEMM_ZERO() 0
#define FGEMM_LOAD(from) (*(from))
#define FGEMM_STORE(to, value) (*(to) = (value))
#define FGEMM_MULTIPLY_ADD(sum, weight, value) __builtin_fmaf(weight, value, sum)
#include "fgemm.h"

#endif
