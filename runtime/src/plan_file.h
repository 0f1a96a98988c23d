/* A plan's file in memory, read-only, at a multiple of BD_ALIGNMENT. */
#ifndef BD_PLAN_FILE_H
#define BD_PLAN_FILE_H

#include <stddef.h>

/* The whole file and its length; NULL with the line in error. */
void *bd_map_file(const char *path, size_t *bytes, char *error);

void bd_unmap_file(void *mapping, size_t bytes);

#endif
