#include "parameters.h"

int bd_check_vector(const struct bd_step *step, int index, int length, char *error) {
    const int *shape = step->in[index]->shape;
    if (shape[0] != length || shape[1] != 1 || shape[2] != 1 || shape[3] != 1)
        return bd_fail_at(step, error, "`%.60s` has shape [%d,%d,%d,%d], and [%d,1,1,1] is needed",
                          step->in[index]->name, shape[0], shape[1], shape[2], shape[3], length);
    return 0;
}

int bd_check_directions(const struct bd_step *step, int index, int length, char *error) {
    if (bd_check_vector(step, index, length, error))
        return 1;
    const int8_t *directions = step->in[index]->data;
    for (int i = 0; i < length; i++)
        if (directions[i] != 1 && directions[i] != -1)
            return bd_fail_at(step, error, "direction %d is %d: 1 and -1 are possible", i, directions[i]);
    return 0;
}

int bd_check_clamp(const struct bd_step *step, char *error) {
    float minimum = step->node->minimum, maximum = step->node->maximum;
    if (!(minimum <= maximum))
        return bd_fail_at(step, error, "clamps to [%g, %g], which is empty", (double)minimum, (double)maximum);
    return 0;
}

int bd_check_same_shape(const struct bd_step *step, const struct bd_tensor *input, char *error) {
    const int *in = input->shape, *out = step->out->shape;
    for (int i = 0; i < 4; i++)
        if (in[i] != out[i])
            return bd_fail_at(step, error, "input `%.60s` is [%d,%d,%d,%d], its output [%d,%d,%d,%d]", input->name,
                              in[0], in[1], in[2], in[3], out[0], out[1], out[2], out[3]);
    return 0;
}

int bd_check_same_channels(const struct bd_step *step, char *error) {
    int in = step->in[0]->shape[3], out = step->out->shape[3];
    return in == out ? 0 : bd_fail_at(step, error, "input has %d channels, its output %d", in, out);
}

void bd_pack_directions(size_t count, const int8_t *directions, uint64_t *words) {
    for (size_t word = 0; word < (count + 63) / 64; word++) {
        words[word] = 0;
        for (size_t i = word * 64; i < count && i < word * 64 + 64; i++)
            words[word] |= (uint64_t)(directions[i] < 0) << (i % 64);
    }
}
