/* y = clamp(scale * x + bias + residual), never fused. */
#ifndef BD_AFFINE_H
#define BD_AFFINE_H

#include <stddef.h>

/* Products that are rounded at once. */
enum { BD_PRODUCTS = 64 };

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

/* y[i] = clamp((products[i] + bias[i]) + residual[i]): what bd_add_bias without limits, then a sum would give. No
 * residual is NULL. */
static inline void bd_add_both(size_t count, const float *products, const float *bias, const float *residual,
                               float minimum, float maximum, float *y) {
    if (residual == NULL)
        bd_add_bias(count, products, bias, minimum, maximum, y);
    else
        for (size_t i = 0; i < count; i++)
            y[i] = bd_clamp((products[i] + bias[i]) + residual[i], minimum, maximum);
}

/* y[i] = clamp((scale[i] * x[i] + bias[i]) + residual[i]); y may be x. */
static inline void bd_affine(size_t count, const float *scale, const float *x, const float *bias, const float *residual,
                             float minimum, float maximum, float *y) {
    float products[BD_PRODUCTS];
    for (size_t first = 0; first < count; first += BD_PRODUCTS) {
        size_t some = count - first < BD_PRODUCTS ? count - first : BD_PRODUCTS;
        for (size_t i = 0; i < some; i++)
            products[i] = scale[first + i] * x[first + i];
        bd_round_products(products);
        bd_add_both(some, products, bias + first, residual == NULL ? NULL : residual + first, minimum, maximum,
                    y + first);
    }
}

#endif
