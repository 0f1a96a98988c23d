/* Which instruction sets the CPU and its operating system offer. */
#include <string.h>

#include "kernel.h"

#if defined(__x86_64__)
#include <cpuid.h>

/* XCR0: the register state that the operating system saves, which it must before a register may be used. */
static uint64_t saved_state(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return 0;
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static int saves(uint64_t state) {
    return (saved_state() & state) == state;
}

static int has_popcnt(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_POPCNT);
}

static int has_avx2(void) {
    const uint64_t xmm_ymm = 0x6;
    unsigned a, b, c, d;
    if (!saves(xmm_ymm) || !__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_FMA))
        return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2);
}

static int has_avx512(void) {
    const uint64_t xmm_ymm_zmm_masks = 0xe6;
    const unsigned wanted = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
    unsigned a, b, c, d;
    if (!has_avx2() || !saves(xmm_ymm_zmm_masks) || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return 0;
    return (b & wanted) == wanted && (c & bit_AVX512VPOPCNTDQ);
}
#endif

#if defined(__ARM_NEON)
#if defined(__linux__) && !defined(__aarch64__)
#include <sys/auxv.h>
static int has_neon(void) {
    const unsigned long hwcap_neon = 1ul << 12;
    return (getauxval(AT_HWCAP) & hwcap_neon) != 0;
}
#else
static int has_neon(void) {
    return 1;
}
#endif
#endif

int bd_cpu_has(const char *isa) {
    if (!strcmp(isa, "scalar"))
        return 1;
#if defined(__x86_64__)
    if (!strcmp(isa, "popcnt"))
        return has_popcnt();
    if (!strcmp(isa, "avx2"))
        return has_avx2();
    if (!strcmp(isa, "avx512"))
        return has_avx512();
#endif
#if defined(__ARM_NEON)
    if (!strcmp(isa, "neon"))
        return has_neon();
#endif
    return 0;
}
