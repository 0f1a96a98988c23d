#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "bindeploy.h"
#include "tvm/chains.h"

/* A model is called by one thread at a time. */
struct loaded {
    bd_model *model;
    pthread_mutex_t lock;
};

static struct loaded *models;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fail(const char *why) {
    fprintf(stderr, "bindeploy: the plans of this module do not load: %s\n", why);
    abort();
}

static void load(void) {
    char error[BD_ERROR_BYTES];
    models = calloc(bd_chain_count, sizeof *models);
    if (models == NULL)
        fail("no memory");
    for (size_t i = 0; i < bd_chain_count; i++) {
        pthread_mutex_init(&models[i].lock, NULL);
        if (bd_load(bd_chains[i].plan, bd_chains[i].bytes, NULL, &models[i].model, error))
            fail(error);
    }
}

int32_t bd_run_chain(int32_t number, const float *x, float *y) {
    pthread_once(&once, load);
    struct loaded *chain = &models[number];
    pthread_mutex_lock(&chain->lock);
    bd_run(chain->model, x, y);
    pthread_mutex_unlock(&chain->lock);
    return 0;
}

__attribute__((destructor)) static void unload(void) {
    for (size_t i = 0; models != NULL && i < bd_chain_count; i++)
        bd_close(models[i].model);
    free(models);
    models = NULL;
}
