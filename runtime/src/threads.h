/* A pool of threads that run one function together, and the barrier between its parts. No allocation after it starts.
 */
#ifndef BD_THREADS_H
#define BD_THREADS_H

#include <stddef.h>

/* Far above any machine this runs on; a count beyond it is a mistake. */
enum { BD_MAX_THREADS = 256 };

struct bd_pool;

/* What every thread runs, each with its own index; index 0 is the thread that calls bd_pool_run. */
typedef void bd_pool_function(void *context, size_t index);

/* A pool of `threads` > 1 with the caller counted. NULL, with one line in error[BD_ERROR_BYTES], where the system has
 * no more threads. */
struct bd_pool *bd_pool_start(size_t threads, bd_pool_function *function, void *context, char *error);

/* Runs the function in all threads; returns when all are done. */
void bd_pool_run(struct bd_pool *pool);

/* Inside the function: returns when every thread has come here. What one has written before, all see after. */
void bd_pool_wait(struct bd_pool *pool);

/* Ends the threads. NULL is allowed. */
void bd_pool_stop(struct bd_pool *pool);

#endif
