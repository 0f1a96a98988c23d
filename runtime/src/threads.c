#include "threads.h"

#include "executor.h"

#if defined(__wasm__) && !defined(__wasm_atomics__)

/* One thread needs no pool, and more there are not. */
struct bd_pool *bd_pool_start(size_t threads, bd_pool_function *function, void *context, char *error) {
    (void)function;
    (void)context;
    bd_fail(error, "%zu threads: this build has no threads, 1 is possible", threads);
    return NULL;
}

void bd_pool_run(struct bd_pool *pool) {
    (void)pool;
}

void bd_pool_wait(struct bd_pool *pool) {
    (void)pool;
}

void bd_pool_stop(struct bd_pool *pool) {
    (void)pool;
}

#else

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* How often a thread looks again before it sleeps: some tens of microseconds, the length of a step that runs alone. */
enum { SPINS = 4000 };

struct bd_pool {
    bd_pool_function *function;
    void *context;
    atomic_size_t threads; /* with the caller; fewer where one does not start, while others wait already */
    atomic_size_t arrived; /* at the barrier */
    atomic_uint round;     /* of the barrier: how often all have come */
    atomic_int stopping;
    pthread_mutex_t mutex; /* for those who sleep until the round changes */
    pthread_cond_t changed;
    struct member {
        struct bd_pool *pool;
        size_t index;
        pthread_t thread;
    } members[];
};

static void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void sleep_through(struct bd_pool *pool, unsigned round) {
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&pool->round, memory_order_acquire) != round)
            return;
        pause_briefly();
    }
    pthread_mutex_lock(&pool->mutex);
    while (atomic_load_explicit(&pool->round, memory_order_acquire) == round)
        pthread_cond_wait(&pool->changed, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}

/* The last to come starts the next round; under the mutex, or who is about to sleep would miss it. */
void bd_pool_wait(struct bd_pool *pool) {
    unsigned round = atomic_load_explicit(&pool->round, memory_order_acquire);
    if (atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel) + 1 < atomic_load(&pool->threads)) {
        sleep_through(pool, round);
        return;
    }
    atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add_explicit(&pool->round, 1, memory_order_release);
    pthread_cond_broadcast(&pool->changed);
    pthread_mutex_unlock(&pool->mutex);
}

static void *serve(void *argument) {
    struct member *member = argument;
    struct bd_pool *pool = member->pool;
    for (bd_pool_wait(pool); !atomic_load(&pool->stopping); bd_pool_wait(pool)) {
        pool->function(pool->context, member->index);
        bd_pool_wait(pool);
    }
    return NULL;
}

void bd_pool_run(struct bd_pool *pool) {
    bd_pool_wait(pool);
    pool->function(pool->context, 0);
    bd_pool_wait(pool);
}

void bd_pool_stop(struct bd_pool *pool) {
    if (pool == NULL)
        return;
    atomic_store(&pool->stopping, 1);
    bd_pool_wait(pool);
    for (size_t i = 1; i < atomic_load(&pool->threads); i++)
        pthread_join(pool->members[i].thread, NULL);
    pthread_cond_destroy(&pool->changed);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

struct bd_pool *bd_pool_start(size_t threads, bd_pool_function *function, void *context, char *error) {
    struct bd_pool *pool = calloc(1, sizeof *pool + threads * sizeof *pool->members);
    if (pool == NULL) {
        bd_fail(error, "no memory for %zu threads", threads);
        return NULL;
    }
    pool->function = function;
    pool->context = context;
    atomic_store(&pool->threads, threads);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->changed, NULL);
    for (size_t i = 1; i < threads; i++) {
        pool->members[i] = (struct member){.pool = pool, .index = i};
        int failed = pthread_create(&pool->members[i].thread, NULL, serve, &pool->members[i]);
        if (failed) {
            bd_fail(error, "thread %zu of %zu does not start: %s", i + 1, threads, strerror(failed));
            atomic_store(&pool->threads, i);
            bd_pool_stop(pool);
            return NULL;
        }
    }
    return pool;
}

#endif
