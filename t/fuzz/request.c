#include "base/mem.h"
#include "mail/action.h"
#include "mail/address.h"
#include "mail/request.h"

#include "fuzz.h"

/*
 * The bytes of a connection, through the request parser and all that is done
 * with them: the slices lie within the buffer, requests mean the same however
 * their bytes arrive and in whichever order their attributes stand, and what
 * would go on the wire is safe.
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

static void
check_same(const struct request *r, const struct request *s)
{
	CHECK(r->present == s->present);
	for (int a = 0; a < ATTRIBUTES; a++)
		CHECK(str_eq(r->value[a], s->value[a]));
}

/* Written out in another order, it is the same request. */
static void
check_again(const struct request *r)
{
	struct request s;
	size_t room = 2, n = 0, scanned = 0, used;
	const char *why;
	char *buf;

	for (int a = 0; a < ATTRIBUTES; a++)
		room += attribute_name((enum attribute)a).n + r->value[a].n + 2;
	buf = mem_alloc(room);
	for (int a = ATTRIBUTES - 1; a >= 0; a--) {
		struct str name = attribute_name((enum attribute)a);

		CHECK(attribute_named(name) == (enum attribute)a);
		if (!request_has(r, (enum attribute)a)) {
			CHECK(r->value[a].n == 0);
			continue;
		}
		n += (size_t)sprintf(buf + n, "%s=", name.p);
		memcpy(buf + n, r->value[a].p, r->value[a].n);
		n += r->value[a].n;
		buf[n++] = '\n';
	}
	buf[n++] = '\n';
	CHECK(request_parse(&s, buf, n, &scanned, &used, &why) ==
	    REQUEST_DONE);
	CHECK(used == n);
	check_same(r, &s);
	free(buf);
}

/*
 * Byte by byte it ends as it does at once; but what is wrong in a line may be
 * seen only when the empty line is there.
 */
static void
check_pieces(const char *buf, size_t n, enum request_status want,
    const struct request *r, size_t want_used)
{
	struct request s;
	size_t scanned = 0, used = 0, i = 0;
	const char *why = NULL;
	enum request_status status = REQUEST_MORE;

	while (i < n && status == REQUEST_MORE)
		status = request_parse(&s, buf, ++i, &scanned, &used, &why);
	CHECK(status == want ||
	    (status == REQUEST_MORE && want == REQUEST_BAD &&
		memmem(buf, n, "\n\n", 2) == NULL));
	if (status == REQUEST_DONE) {
		CHECK(used == want_used && used == i);
		check_same(r, &s);
	} else if (status == REQUEST_BAD) {
		CHECK(why != NULL);
	} else {
		CHECK(n < REQUEST_MAX_BYTES);
	}
}

static void
check_request(const char *buf, const struct request *r, size_t used)
{
	CHECK(used <= REQUEST_MAX_BYTES);
	for (int a = 0; a < ATTRIBUTES; a++) {
		struct str v = r->value[a];

		CHECK(v.n == 0 || (v.p >= buf && v.p + v.n < buf + used));
		CHECK(v.n <= REQUEST_LINE_MAX_BYTES);
		CHECK(v.n == 0 || memchr(v.p, '\n', v.n) == NULL);
		CHECK(v.n == 0 || memchr(v.p, '\0', v.n) == NULL);
	}
	check_again(r);
	check_address(r->value[ATTR_recipient]);
	check_wire(r);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	/* A buffer of its own, so that a read past its end is seen. */
	char *buf = mem_alloc(n);
	enum request_status status = REQUEST_DONE;

	memcpy(buf, data, n);
	/* One request after the other, as they come down a connection. */
	for (size_t at = 0, used = 0; status == REQUEST_DONE; at += used) {
		struct request r;
		size_t scanned = 0;
		const char *why = NULL;

		if (at == n)
			break;
		status = request_parse(&r, buf + at, n - at, &scanned, &used,
		    &why);
		check_pieces(buf + at, n - at, status, &r, used);
		if (status == REQUEST_DONE) {
			CHECK(used > 0 && used <= n - at);
			check_request(buf + at, &r, used);
		} else {
			CHECK((status == REQUEST_BAD) == (why != NULL));
		}
	}
	free(buf);
	return 0;
}
