#include "mail/cidr.h"

#include "fuzz.h"

/* What is taken can be written, and means the same when it is read again. */

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *text = malloc(n + 1), buf[CIDR_TEXT_MAX_BYTES];
	struct cidr c, again, net;

	memcpy(text, data, n);
	if (cidr_parse((struct str){text, n}, &c) == NULL) {
		CHECK(c.family == 4 || c.family == 6);
		CHECK(c.prefix <= (c.family == 4 ? 32 : 128));
		CHECK(cidr_parse(cidr_format(&c, buf), &again) == NULL);
		CHECK(memcmp(&c, &again, sizeof(c)) == 0);
		CHECK(cidr_contains(&c, &c));
		for (unsigned prefix = 0; prefix <= 130; prefix++) {
			cidr_mask(&c, (uint8_t)prefix, &net);
			CHECK(cidr_contains(&net, &c));
			CHECK(net.prefix <= c.prefix);
			CHECK(cidr_contains(&c, &net) ==
			    (net.prefix == c.prefix));
		}
	}
	free(text);
	return 0;
}
