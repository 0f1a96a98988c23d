/* y = clamp(scale * x + bias), never fused. */
#ifndef BD_AFFINE_H
#define BD_AFFINE_H

#include <stddef.h>

/* A product that goes through memory is rounded to float32: no compiler can contract it with the sum that follows into
 * a fused multiply-add, with whatever flags it was called, and both loops around this line still vectorize. */
static inline void bd_round_products(float *products) {
    __asm__ volatile("" : : "r"(products) : "memory");
}

/* The same for one vector in a register of the class that `constraint` names: mul and add intrinsics are contracted as
 * operators are, but not through an instruction that may have changed the product. */
#define BD_ROUND_PRODUCT(product, constraint) __asm__("" : "+" constraint(product))

static inline float bd_clamp(float value, float minimum, float maximum) {
    value = value < minimum ? minimum : value;
    return value > maximum ? maximum : value;
}

/* y[i] = clamp(products[i] + bias[i]) */
static inline void bd_add_bias(size_t count, const float *products, const float *bias, float minimum, float maximum,
                               float *y) {
    for (size_t i = 0; i < count; i++)
        y[i] = bd_clamp(products[i] + bias[i], minimum, maximum);
}

#endif
