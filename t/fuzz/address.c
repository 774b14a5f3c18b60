#include "mail/address.h"

#include "fuzz.h"

/*
 * A byte for the delimiters, and an address: its parts lie in it, what is
 * folded is folded, what is respelled is the same to whoever folds it.
 */

static void
check_inside(struct str part, struct str s)
{
	CHECK(part.p >= s.p && part.n <= s.n &&
	    part.p + part.n <= s.p + s.n);
}

/* In a buffer of the very size, so that a write past it is seen. */
static char *
fold_domain(struct str domain, struct str *out)
{
	char *buf = malloc(DOMAIN_MAX_BYTES + 1);

	memset(buf, 'X', DOMAIN_MAX_BYTES + 1);
	if (!domain_fold(domain, buf, out)) {
		free(buf);
		return NULL;
	}
	check_inside(*out, (struct str){buf, DOMAIN_MAX_BYTES + 1});
	CHECK(out->n > 0 && out->n <= DOMAIN_MAX_BYTES);
	CHECK(memchr(buf, '\0', DOMAIN_MAX_BYTES + 1) != NULL);
	for (size_t i = 0; i < out->n; i++)
		CHECK(out->p[i] < 'A' || out->p[i] > 'Z');
	return buf;
}

static bool
is_ascii(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		if ((unsigned char)s.p[i] >= 0x80)
			return false;
	return true;
}

/* Of two dots behind a domain only one is dropped: it is none. */
static void
check_domain(struct str domain)
{
	const char *why = domain_error(domain);
	struct str once, twice, parent;
	char *buf = fold_domain(domain, &once), *again;
	int labels = 0;

	CHECK(domain_error(domain) == why);
	if (buf == NULL) { /* a U-label may be long, or nothing, as an A-label */
		CHECK(why != NULL || !is_ascii(domain));
		return;
	}
	again = fold_domain(once, &twice);
	CHECK(once.p[once.n - 1] == '.' ||
	    (again != NULL && str_eq(once, twice)));
	for (parent = once; parent.n > 0; labels++) {
		check_inside(parent, once);
		parent = domain_parent(parent);
	}
	CHECK(labels <= DOMAIN_MAX_BYTES);
	free(again);
	free(buf);
}

static void
check_local(struct str local, struct str delimiters)
{
	struct str base = local_base(local, delimiters), again, out;
	char *buf = malloc(LOCAL_MAX_BYTES + 1);

	CHECK(base.p == local.p && base.n <= local.n);
	CHECK((base.n == 0) == (local.n == 0));
	again = local_base(base, delimiters);
	CHECK(again.n == base.n);
	if (local_fold(local, true, buf, &out)) {
		CHECK(out.p == buf && out.n == local.n && buf[out.n] == '\0');
		CHECK(out.n == 0 ||
		    strncasecmp(out.p, local.p, out.n) == 0 ||
		    memchr(out.p, '\0', out.n) != NULL);
		for (size_t i = 0; i < out.n; i++)
			CHECK(out.p[i] == ascii_lower(local.p[i]));
		CHECK(local_base(out, delimiters).n == base.n);
	} else {
		CHECK(local.n > LOCAL_MAX_BYTES);
	}
	CHECK(local_fold(local, false, buf, &out) ==
	    (local.n <= LOCAL_MAX_BYTES));
	free(buf);
}

static void
check_split(struct str s, struct str delimiters)
{
	struct str local, domain;

	if (!address_split(s, &local, &domain))
		return;
	check_inside(local, s);
	check_inside(domain, s);
	CHECK(local.n > 0 && domain.n > 0 && local.p == s.p);
	CHECK(domain.p == local.p + local.n + 1 && domain.p[-1] == '@');
	CHECK(memchr(domain.p, '@', domain.n) == NULL);
	CHECK(s.n - local.n - 1 - domain.n <= 1);
	check_local(local, delimiters);
	check_domain(domain);
}

static size_t
head_len(struct str s)
{
	size_t n = s.n;

	while (n > 0 && s.p[n - 1] != '@' && s.p[n - 1] != ' ')
		n--;
	return n;
}

/* The same head, a domain in other bytes that folds to the same. */
static void
check_respelled(struct str s, struct str out)
{
	size_t head = head_len(s);
	struct str a, b;
	char *buf_a, *buf_b;

	CHECK(head == head_len(out) && out.n > head);
	CHECK(head == 0 || memcmp(s.p, out.p, head) == 0);
	CHECK(!str_eq(s, out));
	buf_a = fold_domain(str_from(s, head), &a);
	buf_b = fold_domain(str_from(out, head), &b);
	CHECK(buf_a != NULL);
	CHECK(a.p[a.n - 1] == '.' || (buf_b != NULL && str_eq(a, b)));
	free(buf_a);
	free(buf_b);
}

/* Where there is less room than needed, there is none. */
static void
check_respell(struct str s)
{
	enum { ROOM = 4096 };
	char *buf = malloc(ROOM), *small;
	struct str out, unused;

	if (s.n < ROOM / 2 && address_respell(s, buf, ROOM, &out)) {
		CHECK(out.p == buf && buf[out.n] == '\0');
		check_respelled(s, out);
		small = malloc(out.n + 1);
		CHECK(address_respell(s, small, out.n + 1, &unused));
		CHECK(str_eq(unused, out));
		small = realloc(small, out.n);
		CHECK(!address_respell(s, small, out.n, &unused));
		free(small);
	}
	free(buf);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const struct str delimiters[] = {STR_INIT(""), STR_INIT("+"),
	    STR_INIT("+-"), STR_INIT("-."), STR_INIT("@=")};
	struct str s, d;
	char *buf;

	/* No request and no row has a NUL in it. */
	if (n == 0 || memchr(data + 1, '\0', n - 1) != NULL)
		return 0;
	/* A buffer of its own, so that a read past its end is seen. */
	s.n = n - 1;
	s.p = buf = malloc(s.n > 0 ? s.n : 1);
	memcpy(buf, data + 1, s.n);
	d = delimiters[data[0] % (sizeof(delimiters) / sizeof(delimiters[0]))];
	check_split(s, d);
	check_domain(s);
	check_local(s, d);
	check_respell(s);
	free(buf);
	return 0;
}
