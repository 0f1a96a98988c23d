/* Every kernel this CPU can run, compared with the scalar one; the scalar one, with loops over bits and doubles.
 * Binarized values carry their bits from the start, and what follows a convolution is computed in double or bit by bit.
 *
 * Integers and bits must be equal. Floats are summed in another order and with fused products, so they may differ by
 * FLOAT_TOLERANCE times the sum of the products' magnitudes; where values are small integers, every sum is exact and
 * floats must be equal too. Operands end where their allocation ends, for AddressSanitizer to see a read beyond. */
#include "check_kernels.h"

/* Every row begins with it, so that its operands do not depend on the rows before. */
#define SEED 88172645463325252u

static uint64_t random_state = SEED;

uint64_t random_bits(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

void *allocate(size_t count, size_t size) {
    void *memory = malloc(count * size);
    if (!memory)
        exit(2);
    return memory;
}

unsigned char *guarded(size_t bytes) {
    unsigned char *memory = allocate(bytes + 2 * GUARD, 1);
    memset(memory, GUARD_BYTE, bytes + 2 * GUARD);
    return memory + GUARD;
}

static int untouched(const unsigned char *from, const unsigned char *to) {
    while (from < to)
        if (*from++ != GUARD_BYTE)
            return 0;
    return 1;
}

int guards_hold(const unsigned char *out, size_t lines, size_t line_bytes, size_t stride_bytes) {
    int hold = untouched(out - GUARD, out);
    for (size_t i = 0; i < lines; i++)
        hold &= untouched(out + i * stride_bytes + line_bytes, out + (i + 1) * stride_bytes);
    return hold & untouched(out + lines * stride_bytes, out + lines * stride_bytes + GUARD);
}

void fill_floats(char *bytes, size_t count, int whole) {
    for (size_t i = 0; i < count; i++) {
        float value = whole ? (float)(random_bits() % 9) - 4.0f : (float)(random_bits() >> 40) * 0x1p-23f - 1.0f;
        memcpy(bytes + i * sizeof value, &value, sizeof value);
    }
}

/* The choice is a row the CPU has; holding to an ISA never gives a later one; an unknown ISA gives none. Of an op that
 * has no row in plain C a CPU may have none at all. */
static struct tally check_choice(const struct bd_kernel *kernels, size_t count) {
    struct tally tally = {0, 0};
    for (size_t i = 0; i < count; i++) {
        const struct bd_kernel *kernel = &kernels[i];
        const struct bd_kernel *best = bd_choose(kernel->op, kernel->out, NULL);
        const struct bd_kernel *held = bd_choose(kernel->op, kernel->out, kernel->isa);
        int has = bd_cpu_has(kernel->isa);
        int fits = kernel->mr <= BD_MAX_MR && kernel->nr <= BD_MAX_NR;
        int chosen = best ? bd_cpu_has(best->isa) : !has && bd_choose(kernel->op, kernel->out, "scalar") == NULL;
        int right = fits && chosen && (has ? held && held >= kernel && held <= best : !held);
        tally.failed += !right || (has && strcmp(held->isa, kernel->isa)) || (has && best < kernel);
        tally.failed += bd_choose(kernel->op, kernel->out, "nonsense") != NULL;
        tally.cases += 2;
    }
    return tally;
}

static int report(const char *name, struct tally tally) {
    if (tally.failed)
        printf("%s FAILED %zu of %zu cases\n", name, tally.failed, tally.cases);
    else
        printf("%s ok %zu cases\n", name, tally.cases);
    fflush(stdout);
    return tally.failed != 0;
}

int main(void) {
    static const struct {
        const char *op;
        check_function *check;
    } checks[] = {{"bgemm", check_bgemm},
                  {"bgemm_edge", check_bgemm},
                  {"edge_tile", check_edge_tile},
                  {"bgemm_threshold", check_bgemm_threshold},
                  {"bgemv", check_bgemm},
                  {"fgemv", check_fgemm},
                  {"fgemm", check_fgemm},
                  {"fgemm_affine", check_fgemm_affine},
                  {"binarize", check_binarize},
                  {"binarize_planes", check_binarize_planes},
                  {"binarize_within", check_binarize_within},
                  {"binarize_planes_within", check_binarize_within},
                  {"affine", check_affine},
                  {"threshold", check_threshold},
                  {"peak", check_peak},
                  {"faffine", check_lines},
                  {"fprelu", check_lines},
                  {"affine_prelu", check_affine_prelu},
                  {"fdepthwise", check_windows},
                  {"bdepthwise", check_bit_windows},
                  {"fmax", check_windows},
                  {"fmean", check_windows},
                  {"wgemm", check_wgemm},
                  {"wgemv", check_wgemm},
                  {"igemm", check_igemm},
                  {"igemv", check_igemm},
                  {"sgemm", check_sgemm},
                  {"sgemv", check_sgemm},
                  {"tables", check_tables},
                  {"slice_tables", check_slices},
                  {"slice_sums", check_slices},
                  {"map", check_map},
                  {"softmax", check_softmax},
                  {"layer_norm", check_layer_norm}};
    size_t count;
    const struct bd_kernel *kernels = bd_kernels(&count);
    int failed = report("bd_choose", check_choice(kernels, count)), passed = !failed;
    for (size_t i = 0; i < count; i++) {
        const struct bd_kernel *kernel = &kernels[i];
        if (!bd_cpu_has(kernel->isa)) {
            printf("%s skipped: this CPU has no %s\n", kernel->name, kernel->isa);
            continue;
        }
        random_state = SEED;
        for (size_t k = 0; k < LENGTH(checks); k++)
            if (!strcmp(checks[k].op, kernel->op)) {
                const char *plain = strcmp(kernel->op, "bgemm_edge") ? kernel->op : "bgemm";
                int bad = report(kernel->name, checks[k].check(kernel, bd_choose(plain, kernel->out, "scalar")));
                failed += bad;
                passed += !bad;
            }
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
