#include "mail/action.h"
#include "mail/address.h"
#include "mail/request.h"

#include "fuzz.h"

/*
 * The request parser and all that is done with its bytes: whatever comes, the
 * slices lie within the buffer, a request means the same however its bytes
 * arrive, and what would go on the wire is safe.
 */

static void
check_wire(const struct request *r)
{
	char buf[ACTION_WIRE_MAX_BYTES];
	struct sbuf b = sbuf_over(buf, sizeof(buf));
	const struct action_placeholder with[] = {
	    {STR("recipient"), r->value[ATTR_recipient]}};
	struct str part, text;

	action_format(&b, r->value[ATTR_sender], with, 1,
	    r->value[ATTR_recipient].n, STR("DEFER later"));
	CHECK(!b.full && b.n > sizeof("action=\n\n"));
	CHECK(memcmp(b.p + b.n - 2, "\n\n", 2) == 0);
	text = (struct str){b.p + 7, b.n - 9};
	CHECK(memchr(text.p, '\n', text.n) == NULL);
	CHECK(action_error(text, &part) == NULL);
	CHECK(utf8_valid(text));
}

static void
check_address(struct str s)
{
	char local_buf[LOCAL_MAX_BYTES + 1], domain_buf[DOMAIN_MAX_BYTES + 1];
	char again_buf[DOMAIN_MAX_BYTES + 1];
	struct str local, domain, again;

	if (!address_split(s, &local, &domain))
		return;
	local_fold(local, true, local_buf, &local);
	if (domain_fold(domain, domain_buf, &domain) &&
	    domain_fold(domain, again_buf, &again))
		CHECK(domain.n <= DOMAIN_MAX_BYTES);
	for (int i = 0; i < 300 && domain.n > 0; i++)
		domain = domain_parent(domain);
	CHECK(local_base(local, STR("+-")).n <= local.n);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	/* A buffer of its own, so that a read past its end is seen. */
	char *buf = malloc(n + 1);
	struct request r, s;
	size_t scanned = 0, used = 0, used_slowly = 0;
	const char *why = NULL;
	enum request_status status, slowly = REQUEST_MORE;

	memcpy(buf, data, n);
	status = request_parse(&r, buf, n, &scanned, &used, &why);
	if (status == REQUEST_DONE) {
		CHECK(used > 0 && used <= n && used <= REQUEST_MAX_BYTES);
		for (int a = 0; a < ATTRIBUTES; a++)
			CHECK(r.value[a].n == 0 ||
			    (r.value[a].p >= buf &&
				r.value[a].p + r.value[a].n < buf + used));
		scanned = 0;
		for (size_t i = 0; i < used && slowly == REQUEST_MORE; i++)
			slowly = request_parse(&s, buf, i + 1, &scanned,
			    &used_slowly, &why);
		CHECK(slowly == REQUEST_DONE && used_slowly == used &&
		    r.present == s.present);
		for (int a = 0; a < ATTRIBUTES; a++)
			CHECK(str_eq(r.value[a], s.value[a]));
		check_address(r.value[ATTR_recipient]);
		check_wire(&r);
	} else if (status == REQUEST_BAD) {
		CHECK(why != NULL);
	}
	free(buf);
	return 0;
}
