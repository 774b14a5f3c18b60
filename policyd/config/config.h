#ifndef POLICYD_CONFIG_H
#define POLICYD_CONFIG_H

/*
 * config - policyd.ini as one immutable struct, or every mistake in it.
 *
 * Floor 2.  One table (config.c) says each option's section, key, kind,
 * default and bounds; the reference file and the manual are tested against it.
 * A reload makes a second struct and the pointer is swapped; whoever keeps
 * something of a config longer than one turn of the loop copies it.
 */

#include "base/str.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum relay { RELAY_NO, RELAY_AUTHENTICATED, RELAY_YES };

/* The answers policyd gives by itself; each is a key of [reply]. */
#define CONFIG_REPLIES(X)      \
	X(relay_denied)        \
	X(unknown_user)        \
	X(bad_address)         \
	X(too_many_errors)     \
	X(too_many_recipients) \
	X(greylisted)          \
	X(vrfy_disabled)       \
	X(expn_disabled)       \
	X(unavailable)

enum reply_name {
#define X(name) REPLY_##name,
	CONFIG_REPLIES(X)
#undef X
	    REPLIES
};

enum log_decisions { DECISIONS_NONE, DECISIONS_REJECTS, DECISIONS_ALL };

/* Strings are owned by the config and never NULL; durations are seconds. */
struct config {
	struct {
		char *listen;
		int64_t socket_mode;
		char *socket_group;
		char *user;
		char *control;
		char *state_dir;
		int64_t max_clients;
		double idle_timeout_s;
		double request_timeout_s;
	} policyd;
	struct {
		char *conninfo;
		int64_t connections;
		int64_t script_connections;
		double query_timeout_s;
		double reconnect_max_s;
		int64_t prepared;
		char *listen_conninfo; /* conninfo, where it is not set */
	} database;
	struct {
		int64_t relay; /* enum relay */
		int64_t max_recipients;
		char *script;
		int64_t errors_total; /* 0: no limit */
		double errors_wait_s;
		char *recipient_delimiter;
		int64_t fold_local_part;
	} rcpt;
	struct {
		char *domains;   /* empty: the tables of our schema */
		char *addresses; /* the same */
		int64_t vrfy;    /* enum relay, for who may */
		int64_t expn;
		double refresh_s;
	} lookup;
	struct {
		int64_t enabled;
		double delay_s;
		double retry_window_s;
		double max_age_s;
		int64_t ipv4_prefix;
		int64_t ipv6_prefix;
		int64_t pools;
		int64_t auto_allow_after;
		int64_t header;
		int64_t cache_entries;
	} greylist;
	char *reply[REPLIES];
	struct {
		char *listen;
	} metrics;
	struct {
		int64_t target; /* enum log_target */
		int64_t level;  /* LOG_* of syslog(3) */
		int64_t decisions; /* enum log_decisions */
	} log;
};

/* What is wrong, one line each: "FILE:LINE: [section] key: what". */
struct config_errors {
	char **text;
	size_t count;
};

/*
 * Read the file.  NULL if anything in it is wrong: errors then has all of it.
 * errors must be zeroed before and freed after.
 */
struct config *config_load(const char *path, struct config_errors *errors);

/* NULL is allowed. */
void config_free(struct config *config);

void config_errors_free(struct config_errors *errors);

/* The option table, a line each: section, key, default, kind, least, most. */
void config_print_options(FILE *to);

struct str reply_key(enum reply_name name);

/* May this client do what is set to `relay`: no, authenticated, yes? */
static inline bool
relay_allows(int64_t relay, bool authenticated)
{
	return relay == RELAY_YES ||
	    (relay == RELAY_AUTHENTICATED && authenticated);
}

/* One place to listen on, or to connect to. */
struct endpoint {
	bool is_unix;
	char path[108]; /* unix: sun_path's size */
	char host[256];
	char port[6];
};

/*
 * Cut the next endpoint off *rest, blanks between them.  0, or 1 at the end,
 * or -1 with *why set where the text is none.
 */
int endpoint_next(struct str *rest, struct endpoint *out, const char **why);

#endif
