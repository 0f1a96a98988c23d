/* Functions of floats, written once: an ISA file says what a vector is and includes this.
 *
 *   MAP_NAME, SOFTMAX_NAME, LAYER_NORM_NAME       the functions
 *   vector, LANES                   the vector type and its number of floats
 *   set(value), load(from), store(to, v)
 *   load_some(from, count, rest)    count < LANES floats, and `rest` in the lanes after them
 *   store_some(to, count, v)
 *   add, subtract, multiply, divide
 *   multiply_add(a, b, c)           a * b + c, fused where the ISA does
 *   least(a, b), greatest(a, b)     b where either is NaN
 *   nearest(v)                      to the nearest integer
 *   times_power(v, n)               v * 2^n for integers -126 <= n <= 127
 *   sum(v), largest(v)              over the lanes
 *   inverse_root(value)             1 / sqrt of one float
 *
 * The polynomials are minimax fits; each function is right to 4e-7 of its largest value near the argument. */
#include <string.h>

#define COEFFICIENTS(name) sizeof(name) / sizeof(name)[0], name

/* c[0] + c[1] x + c[2] x^2 + ... */
BD_INLINE vector polynomial(size_t count, const float *coefficients, vector x) {
    vector value = set(coefficients[count - 1]);
    BD_UNROLL
    for (size_t i = count - 1; i > 0; i--)
        value = multiply_add(value, x, set(coefficients[i - 1]));
    return value;
}

/* 2^n e^r, where n is an integer and |r| at most half of ln 2, which is subtracted in two parts. What would be no
 * normal float is the smallest or largest one. */
BD_INLINE vector exponential(vector x) {
    static const float series[] = {1.0f,         1.0f,           0.499999934f,  0.166665206f,
                                   0.041668388f, 0.00836871696f, 0.00138145993f};
    x = least(set(88.0f), greatest(set(-87.0f), x));
    vector n = nearest(multiply(x, set(1.44269504f)));
    vector r = multiply_add(n, set(-0.693359375f), x);
    r = multiply_add(n, set(2.12194440e-4f), r);
    return times_power(polynomial(COEFFICIENTS(series), r), n);
}

/* x P(x^2) / Q(x^2) within [-limit, limit], and no further from 0 than 1. */
BD_INLINE vector odd_ratio(vector x, float limit, size_t above, const float *numerator, size_t below,
                           const float *denominator) {
    x = least(set(limit), greatest(set(-limit), x));
    vector square = multiply(x, x);
    vector ratio = divide(multiply(x, polynomial(above, numerator, square)), polynomial(below, denominator, square));
    return least(set(1.0f), greatest(set(-1.0f), ratio));
}

BD_INLINE vector error_function(vector x) {
    static const float above[] = {1.12837915f,    0.190404062f,    0.0527484069f,
                                  0.00376551309f, 0.000284880295f, 2.05010533e-06f};
    static const float below[] = {1.0f, 0.502073948f, 0.114108119f, 0.0149690104f, 0.00116251004f, 3.80917731e-05f};
    return odd_ratio(x, 3.92f, COEFFICIENTS(above), COEFFICIENTS(below));
}

BD_INLINE vector hyperbolic_tangent(vector x) {
    static const float above[] = {0.99999998f, 0.133810339f, 0.00349559753f, 2.06092241e-05f, 1.33548352e-08f};
    static const float below[] = {1.0f, 0.467143495f, 0.0258770189f, 0.000328564962f, 7.77663413e-07f};
    return odd_ratio(x, 9.0f, COEFFICIENTS(above), COEFFICIENTS(below));
}

BD_INLINE vector sigmoid(vector x) {
    return divide(set(1.0f), add(set(1.0f), exponential(subtract(set(0.0f), x))));
}

BD_INLINE vector silu(vector x) {
    return multiply(x, sigmoid(x));
}

BD_INLINE vector gelu(vector x) {
    vector half = multiply(set(0.5f), x);
    return multiply_add(half, error_function(multiply(set(0.707106781f), x)), half);
}

/* x (1 + tanh(u)) / 2 = x / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3) */
BD_INLINE vector gelu_tanh(vector x) {
    vector twice = multiply(x, multiply_add(multiply(x, x), set(0.0713548163f), set(1.59576912f)));
    return multiply(x, sigmoid(twice));
}

BD_INLINE vector hard_swish(vector x) {
    vector gate = multiply_add(x, set(1.0f / 6.0f), set(0.5f));
    return multiply(x, least(set(1.0f), greatest(set(0.0f), gate)));
}

typedef vector function_of_one(vector x);

BD_INLINE void map(function_of_one *function, size_t count, const float *x, float *y) {
    for (; count >= LANES; count -= LANES, x += LANES, y += LANES)
        store(y, function(load(x)));
    if (count > 0)
        store_some(y, count, function(load_some(x, count, 0.0f)));
}

void MAP_NAME(enum bd_function function, size_t count, const float *x, float *y) {
    switch (function) {
    case BD_GELU:
        map(gelu, count, x, y);
        break;
    case BD_GELU_TANH:
        map(gelu_tanh, count, x, y);
        break;
    case BD_SILU:
        map(silu, count, x, y);
        break;
    case BD_HARD_SWISH:
        map(hard_swish, count, x, y);
        break;
    case BD_SIGMOID:
        map(sigmoid, count, x, y);
        break;
    case BD_TANH:
        map(hyperbolic_tangent, count, x, y);
        break;
    case BD_ERF:
        map(error_function, count, x, y);
        break;
    }
}

BD_INLINE float row_largest(size_t count, const float *x) {
    size_t i = LANES;
    if (count < LANES)
        return largest(load_some(x, count, x[0]));
    vector most = load(x);
    for (; i + LANES <= count; i += LANES)
        most = greatest(most, load(x + i));
    return largest(i < count ? greatest(most, load_some(x + i, count - i, x[0])) : most);
}

/* y = e^(factor x + shift); their sum. */
BD_INLINE float row_exponentials(size_t count, float factor, float shift, const float *x, float *y) {
    vector factors = set(factor), shifts = set(shift), sums = set(0.0f), other_sums = set(0.0f);
    size_t i = 0;
    for (; i + 2 * LANES <= count; i += 2 * LANES) {
        vector first = exponential(multiply_add(load(x + i), factors, shifts));
        vector second = exponential(multiply_add(load(x + i + LANES), factors, shifts));
        store(y + i, first);
        store(y + i + LANES, second);
        sums = add(sums, first);
        other_sums = add(other_sums, second);
    }
    for (; i < count; i += LANES) {
        size_t some = count - i < LANES ? count - i : LANES;
        vector values = some == LANES ? load(x + i) : load_some(x + i, some, x[0]);
        values = exponential(multiply_add(values, factors, shifts));
        if (some == LANES) {
            store(y + i, values);
            sums = add(sums, values);
        } else {
            store_some(y + i, some, values);
            other_sums = add(other_sums, load_some(y + i, some, 0.0f));
        }
    }
    return sum(add(sums, other_sums));
}

/* y = factor x + shift; y may be x. */
BD_INLINE void row_affine(size_t count, float factor, float shift, const float *x, float *y) {
    vector factors = set(factor), shifts = set(shift);
    size_t i = 0;
    for (; i + LANES <= count; i += LANES)
        store(y + i, multiply_add(load(x + i), factors, shifts));
    if (i < count)
        store_some(y + i, count - i, multiply_add(load_some(x + i, count - i, 0.0f), factors, shifts));
}

/* The root of e^l = value, by Newton's method from a logarithm to base 2 that is linear between powers. */
BD_INLINE float logarithm(float value) {
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    vector root = set(((float)bits - 0x1.fcp29f) * 8.26295829e-8f);
    for (int i = 0; i < 3; i++)
        root = add(root, multiply_add(set(value), exponential(subtract(set(0.0f), root)), set(-1.0f)));
    float lanes[LANES];
    store(lanes, root);
    return lanes[0];
}

void SOFTMAX_NAME(size_t rows, size_t channels, float factor, int logarithmic, const float *x, float *y) {
    for (size_t row = 0; row < rows; row++, x += channels, y += channels) {
        float shift = -factor * row_largest(channels, x);
        float total = row_exponentials(channels, factor, shift, x, y);
        if (logarithmic)
            row_affine(channels, factor, shift - logarithm(total), x, y);
        else
            row_affine(channels, 1.0f / total, 0.0f, y, y);
    }
}

BD_INLINE float row_sum(size_t count, const float *x) {
    vector sums = set(0.0f), other_sums = set(0.0f);
    size_t i = 0;
    for (; i + 2 * LANES <= count; i += 2 * LANES) {
        sums = add(sums, load(x + i));
        other_sums = add(other_sums, load(x + i + LANES));
    }
    for (; i + LANES <= count; i += LANES)
        sums = add(sums, load(x + i));
    if (i < count)
        other_sums = add(other_sums, load_some(x + i, count - i, 0.0f));
    return sum(add(sums, other_sums));
}

BD_INLINE float row_squares(size_t count, float mean, const float *x) {
    vector means = set(mean), sums = set(0.0f), other_sums = set(0.0f);
    size_t i = 0;
    for (; i + 2 * LANES <= count; i += 2 * LANES) {
        vector first = subtract(load(x + i), means), second = subtract(load(x + i + LANES), means);
        sums = multiply_add(first, first, sums);
        other_sums = multiply_add(second, second, other_sums);
    }
    for (; i < count; i += LANES) {
        size_t some = count - i < LANES ? count - i : LANES;
        vector part = subtract(some == LANES ? load(x + i) : load_some(x + i, some, mean), means);
        sums = multiply_add(part, part, sums);
    }
    return sum(add(sums, other_sums));
}

/* y = (x - mean) * inverse * scale + bias */
BD_INLINE void row_normalized(size_t count, float mean, float inverse, const float *x, const float *scale,
                              const float *bias, float *y) {
    vector means = set(mean), inverses = set(inverse);
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vector part = multiply(subtract(load(x + i), means), inverses);
        store(y + i, multiply_add(part, load(scale + i), load(bias + i)));
    }
    if (i < count) {
        size_t some = count - i;
        vector part = multiply(subtract(load_some(x + i, some, 0.0f), means), inverses);
        part = multiply_add(part, load_some(scale + i, some, 0.0f), load_some(bias + i, some, 0.0f));
        store_some(y + i, some, part);
    }
}

void LAYER_NORM_NAME(size_t rows, size_t channels, const float *x, const float *scale, const float *bias, float epsilon,
                     float *y) {
    float count = (float)channels;
    for (size_t row = 0; row < rows; row++, x += channels, y += channels) {
        float mean = row_sum(channels, x) / count;
        float variance = row_squares(channels, mean, x) / count;
        row_normalized(channels, mean, inverse_root(variance + epsilon), x, scale, bias, y);
    }
}
