/* The runtime from C: load a plan, run one image, print the class.
 *
 *   bindeploy export RUN --target arm --out BUNDLE
 *   zig cc -target aarch64-linux-musl examples/classify.c -I BUNDLE/include BUNDLE/lib/libbindeploy.a -lm -o classify
 *   ./classify BUNDLE/model.bd image.f32          (raw float32, channels first, normalized as in training)
 */
#include <bindeploy.h>
#include <stdio.h>
#include <stdlib.h>

static size_t elements(const uint32_t shape[4]) {
    return (size_t)shape[0] * shape[1] * shape[2] * shape[3];
}

int main(int count, char **arguments) {
    if (count != 3) {
        fprintf(stderr, "usage: classify model.bd image.f32\n");
        return 2;
    }
    bd_model *model;
    char error[BD_ERROR_BYTES];
    if (bd_open(arguments[1], NULL, &model, error)) {
        fprintf(stderr, "%s\n", error);
        return 2;
    }
    bd_description description;
    bd_describe(model, &description);
    size_t pixels = elements(description.input_shape);
    size_t classes = elements(description.output_shape);
    float *image = malloc(pixels * sizeof *image);
    float *logits = malloc(classes * sizeof *logits);
    FILE *file = fopen(arguments[2], "rb");
    if (!image || !logits || !file || fread(image, sizeof *image, pixels, file) != pixels) {
        fprintf(stderr, "`%s` does not hold %zu float32\n", arguments[2], pixels);
        return 2;
    }
    bd_run(model, image, logits);
    size_t best = 0;
    for (size_t k = 1; k < classes; k++)
        if (logits[k] > logits[best])
            best = k;
    printf("class %zu, logit %.3f, on %s\n", best, (double)logits[best], bd_isa());
    fclose(file);
    free(image);
    free(logits);
    bd_close(model);
    return 0;
}
