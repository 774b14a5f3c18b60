#ifndef POLICYD_LOG_H
#define POLICYD_LOG_H

/*
 * log - one line an event, `key=value` pairs, never in anybody's way.
 *
 * Floor 0.  A line is built in a fixed buffer and handed over without waiting:
 * where the reader of stderr or the syslog socket does not keep up, the line is
 * dropped and counted, and the next one that gets through says how many were.
 *
 *	log_line(LOG_INFO, "database up");
 *	log_begin(&e, LOG_NOTICE, "request refused");
 *	log_str(&e, "client", address);
 *	log_end(&e);
 *
 * Values come from strangers: log_str quotes them where they hold anything but
 * plain letters, and writes control bytes and bad UTF-8 as \xNN, so that no
 * value can look like a line or a pair of its own.
 */

#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>
#include <syslog.h> /* LOG_ERR and the other levels */

struct log_entry {
	struct sbuf text;
	bool wanted; /* false: below the level, nothing is built */
	int level;
	char buf[4096];
};

enum log_target { LOG_TO_STDERR, LOG_TO_SYSLOG };

/* level: the least important LOG_* that is still written. */
void log_init(enum log_target target, int level);

bool log_wants(int level);

void log_line(int level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

void log_begin(struct log_entry *e, int level, const char *what);
void log_str(struct log_entry *e, const char *key, struct str value);
void log_int(struct log_entry *e, const char *key, int64_t value);
void log_real(struct log_entry *e, const char *key, double value);
void log_end(struct log_entry *e);

/*
 * At most one line a minute for each kind of event.  Says whether this one may
 * be written, and in *suppressed how many were not since the last that was.
 */
struct log_limit {
	double next_s;
	uint64_t suppressed;
};

bool log_allowed(struct log_limit *limit, double now_s, uint64_t *suppressed);

#endif
