#ifndef POLICYD_MEM_H
#define POLICYD_MEM_H

/*
 * mem - allocation that does not return NULL.
 *
 * Floor 0.  When memory is out the process says so and ends with EX_OSERR;
 * systemd starts it again.  What keeps that from happening are the bounds on
 * clients, requests, sessions and queues, not checks after malloc; and, where an
 * administrator's tables grow beyond what there is, a reserve: it is given up
 * first, and whoever fills a table that can be done without looks whether it
 * is still there.
 */

#include <stdbool.h>
#include <stddef.h>

void *mem_alloc(size_t size) __attribute__((malloc, returns_nonnull));
void *mem_zalloc(size_t size) __attribute__((malloc, returns_nonnull));
void *mem_realloc(void *p, size_t size) __attribute__((returns_nonnull));
char *mem_strdup(const char *s) __attribute__((malloc, returns_nonnull));
char *mem_strndup(const char *s, size_t n)
    __attribute__((malloc, returns_nonnull));
char *mem_printf(const char *fmt, ...)
    __attribute__((malloc, returns_nonnull, format(printf, 1, 2)));

/* As mem_realloc, for who can do without: NULL, and p stays as it is. */
void *mem_try(void *p, size_t size) __attribute__((warn_unused_result));

/* The same, for who has none of the reserve: NULL also where it is gone. */
void *mem_spare(void *p, size_t size) __attribute__((warn_unused_result));

/* Set the reserve aside, unless it is.  false: memory is short. */
bool mem_reserve(void);

/* What a library allocated: p, unless it is NULL for want of memory. */
void *mem_must(void *p) __attribute__((returns_nonnull));

#endif
