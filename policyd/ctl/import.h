#ifndef POLICYD_IMPORT_H
#define POLICYD_IMPORT_H

/*
 * import - what another greylisting program knows, brought into our tables.
 *
 * A reader (postgrey.c, databases.c) hands over all that it finds between
 * import_begin() and import_end(); these fold it as policyd does, write it in
 * one transaction and say what became of it.  Handed over again, it changes
 * nothing.
 */

#include "ctl/ctl.h"
#include "ctl/foreign.h"
#include "ctl/key.h"

enum import_what { IMPORT_KEYS, IMPORT_CLIENTS, IMPORT_ALLOWED, IMPORT_WHATS };

/* Why something was not taken. */
enum import_skip {
	SKIP_OLD,
	SKIP_UNKNOWN,
	SKIP_HASHED,
	SKIP_CLIENT,
	SKIP_WIDE,
	SKIP_RECIPIENT,
	SKIP_SOME,
	SKIP_SENDERS,
	SKIP_NAME,
	SKIPS,
};

struct import {
	struct ctl *ctl;
	struct config *config;
	struct key_options key;
	double now; /* the clock of our database */
	uint64_t read[IMPORT_WHATS];
	uint64_t skipped[IMPORT_WHATS][SKIPS];
	bool failed; /* and complained of */
};

/* A sender's visits. */
struct import_key {
	struct cidr client;
	struct str sender, recipient;
	double first, last;
	bool passed;
	int attempts;
};

/* Complains and returns false; then there is nothing to end. */
bool import_begin(struct import *im, struct ctl *ctl);

void import_key(struct import *im, const struct import_key *key);

/* A client that has come back so often. */
void import_client(struct import *im, const struct cidr *client, int64_t passes,
    double last);

/* A client that an administrator exempted, as key_clients() takes it. */
void import_allowed(struct import *im, struct str client, struct str reason);

/* Something that was read cannot be taken. */
void import_skip(struct import *im, enum import_what what,
    enum import_skip why);

/* Write it and print the report; or undo it all, if the reader failed. */
enum ctl_status import_end(struct import *im, bool read_all);

#endif
