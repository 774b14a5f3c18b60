#ifndef POLICYD_STEPS_H
#define POLICYD_STEPS_H

/*
 * steps - the files sql/NNN-NAME.sql, built into policyctl.
 *
 * The Makefile writes them with sql/embed.awk.
 */

#include <stddef.h>

struct step {
	int version;
	const char *name;         /* of the file, without .sql */
	const char *const *lines; /* its text; NULL after the last */
};

/* By ascending version. */
extern const struct step steps[];
extern const size_t step_count;

#endif
