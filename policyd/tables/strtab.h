#ifndef POLICYD_STRTAB_H
#define POLICYD_STRTAB_H

/*
 * strtab - a table from bytes to bytes that holds millions of small records.
 *
 * Floor 4; uses base.  Records lie packed in chunks that never move; an index
 * of 5 bytes a slot, in 1024 shards, finds them.  Only a shard grows at a
 * time, so that no insertion stalls the loop; a lookup allocates nothing and
 * touches two cache lines besides the shard.  What is deleted, or replaced by a
 * value of another length, stays behind as waste until the table is freed:
 * whoever fills it from PostgreSQL makes a new one from time to time
 * (strtab_waste says when).  A table has at most 16 GiB.
 *
 * A record of k + v bytes costs k + v + 2 rounded up to 4, and its index 6 to
 * 10 bytes.
 */

#include "base/str.h"

#include <stdint.h>

struct strtab;

struct strtab *strtab_new(void);

/* NULL is allowed. */
void strtab_free(struct strtab *t);

/* *value is borrowed until the record is changed or the table freed. */
bool strtab_get(const struct strtab *t, struct str key, struct str *value);

/*
 * Both are copied, and must not lie in the table.  Returns whether the key is
 * new.
 */
bool strtab_set(struct strtab *t, struct str key, struct str value);

/* Returns whether it was there. */
bool strtab_delete(struct strtab *t, struct str key);

size_t strtab_count(const struct strtab *t);

/* Bytes of records that are no longer in the table. */
size_t strtab_waste(const struct strtab *t);

/* Bytes that the table takes. */
size_t strtab_bytes(const struct strtab *t);

/*
 * Walk all records, in no order: *cursor is 0 at first.  false at the end.
 * The table must not be changed meanwhile.
 */
bool strtab_next(const struct strtab *t, uint64_t *cursor, struct str *key,
    struct str *value);

#endif
