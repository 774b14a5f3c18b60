#ifndef T_FUZZ_H
#define T_FUZZ_H

/*
 * fuzz - one entry point for two lives: libFuzzer drives it to find inputs,
 * and replay.c runs every input of the corpus through it in `make test`.
 */

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#endif
