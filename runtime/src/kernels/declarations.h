/* Every row of kernels.inc as a function of its op's type, so that a definition that differs does not compile. */
#ifndef BD_KERNELS_DECLARATIONS_H
#define BD_KERNELS_DECLARATIONS_H

#include "../kernel.h"

#define BD_KERNEL(op, out, mr, nr, isa, name) bd_##op##_##out##_function name;
#include "../kernels.inc"
#undef BD_KERNEL

#endif
