/* bd_peak [ISA]: multiplications of one bit by one bit that the kernels' loop could do at most, as JSON. */
#include "../include/bindeploy.h"

#include <stdio.h>

int main(int count, char **words) {
    const char *isa = count > 1 ? words[1] : bd_isa();
    double rate = bd_peak(isa);
    if (count > 2 || rate == 0) {
        fprintf(stderr, "bd_peak: `%s` is no instruction set of this CPU: bd_peak [ISA], as `%s`\n", isa, bd_isa());
        return 2;
    }
    printf("{\"isa\": \"%s\", \"gmacs\": %.1f}\n", isa, rate / 1e9);
    return 0;
}
