#ifndef T_FUZZ_H
#define T_FUZZ_H

/*
 * fuzz - one entry point for two lives: libFuzzer drives it to find inputs,
 * and replay.c runs every input of the corpus through it in `make test`.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* What must hold for every input.  Says what did not: stacks are merged. */
#define CHECK(good) \
	((good) ? (void)0 : fuzz_failed(__FILE__, __LINE__, #good))

_Noreturn static inline void
fuzz_failed(const char *file, int line, const char *what)
{
	fprintf(stderr, "%s:%d: %s\n", file, line, what);
	abort();
}

#endif
