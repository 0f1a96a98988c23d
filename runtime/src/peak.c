/* How fast this CPU would multiply bits if nothing had to be loaded: what the kernels are measured against. */
#include "executor.h"

/* One timed run takes about a millisecond on any CPU; the fastest of them met no interruption. */
double bd_peak(const char *isa) {
    enum { RUNS = 20, LEAST_NANOSECONDS = 1000000 };
    const struct bd_kernel *kernel = bd_choose("peak", "u64", isa);
    if (kernel == NULL)
        return 0;
    double best = 0;
    size_t rounds = 1 << 10;
    for (int run = 0; run < RUNS;) {
        uint64_t start = bd_nanoseconds(), macs = kernel->run.peak_u64(rounds), took = bd_nanoseconds() - start;
        if (took < LEAST_NANOSECONDS) {
            rounds *= 2;
            continue;
        }
        double rate = (double)macs / (double)took;
        best = rate > best ? rate : best;
        run++;
    }
    return best * 1e9;
}
