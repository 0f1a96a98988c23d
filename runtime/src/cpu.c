/* Which instruction sets the CPU and its operating system offer. */
#define _DEFAULT_SOURCE

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
    const unsigned counts = bit_AVX512VPOPCNTDQ | bit_AVX512BITALG | bit_AVX512VNNI;
    return (b & wanted) == wanted && (c & counts) == counts;
}
#endif

#if defined(__ARM_NEON)
#if defined(__linux__)
#include <sys/auxv.h>
#endif

#if defined(__linux__) && !defined(__aarch64__)
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

#if defined(__riscv_zbb)
/* A compiler that may use Zbb everywhere has been told that every CPU has it. */
static int has_zbb(void) {
    return 1;
}
#elif defined(__riscv) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

/* Linux tells of extensions of several letters by the system call riscv_hwprobe alone, from 6.4 on; one that does not
 * know the call or the key leaves the value as it is, or the key at -1. */
static int has_zbb(void) {
    const long riscv_hwprobe = 258;
    const int64_t extensions_key = 4;
    const uint64_t zbb = UINT64_C(1) << 4;
    struct {
        int64_t key;
        uint64_t value;
    } pair = {extensions_key, 0};
    return syscall(riscv_hwprobe, &pair, (size_t)1, (size_t)0, NULL, 0u) == 0 && pair.key == extensions_key &&
           (pair.value & zbb) != 0;
}
#elif defined(__riscv)
static int has_zbb(void) {
    return 0;
}
#endif

#if defined(__aarch64__)
/* Whether the core reorders instructions, or may: those of ARM that do not are known by their numbers. Which core is
 * asked is chance where there are two sorts; both rows are right on both. */
static int is_wide(void) {
#if defined(__linux__)
    const unsigned long hwcap_cpuid = 1ul << 11;
    static const unsigned in_order[] = {0xd02, 0xd03, 0xd04, 0xd05, 0xd46, 0xd80}; /* A34 A53 A35 A55 A510 A520 */
    uint64_t id = 0;
    if (!(getauxval(AT_HWCAP) & hwcap_cpuid))
        return 0;
    __asm__ volatile("mrs %0, midr_el1" : "=r"(id));
    for (size_t i = 0; i < sizeof in_order / sizeof in_order[0]; i++)
        if (id >> 24 == 0x41 && (id >> 4 & 0xfff) == in_order[i])
            return 0;
#endif
    return 1;
}

static int has_dotprod(void) {
#if defined(__linux__)
    const unsigned long hwcap_asimddp = 1ul << 20;
    return (getauxval(AT_HWCAP) & hwcap_asimddp) != 0;
#elif defined(__ARM_FEATURE_DOTPROD)
    return 1;
#else
    return 0;
#endif
}
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
#if defined(__riscv)
    if (!strcmp(isa, "zbb"))
        return has_zbb();
#endif
#if defined(__wasm_simd128__)
    if (!strcmp(isa, "simd128"))
        return 1;
#endif

#if defined(__aarch64__)
    if (!strcmp(isa, "neon_wide"))
        return is_wide();
    if (!strcmp(isa, "neon_dotprod"))
        return has_dotprod();
#endif
    return 0;
}
