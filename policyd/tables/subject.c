#include "tables/subject.h"

static const struct str derived_names[DERIVED] = {
#define X(name) STR_INIT(#name),
    DERIVED_ATTRIBUTES(X)
#undef X
};

/* Every other attribute is text. */
static const struct {
	int attribute;
	enum attribute_kind kind;
} kinds[] = {
    {ATTR_sender, KIND_MAIL},
    {ATTR_recipient, KIND_MAIL},
    {ATTR_sasl_username, KIND_MAIL},
    {ATTR_sasl_sender, KIND_MAIL},
    {ATTR_client_address, KIND_ADDRESS},
    {ATTR_server_address, KIND_ADDRESS},
    {ATTR_client_port, KIND_NUMBER},
    {ATTR_server_port, KIND_NUMBER},
    {ATTR_size, KIND_NUMBER},
    {ATTR_recipient_count, KIND_NUMBER},
    {ATTR_encryption_keysize, KIND_NUMBER},
    {DERIVED_recipient_is_local, KIND_YESNO},
};

struct str
subject_name(int attribute)
{
	return attribute < ATTRIBUTES ?
	    attribute_name((enum attribute)attribute) :
	    derived_names[attribute - ATTRIBUTES];
}

int
subject_attribute(struct str name)
{
	for (int a = ATTR_request + 1; a < SUBJECT_ATTRIBUTES; a++)
		if (str_ieq(subject_name(a), name))
			return a;
	return -1;
}

enum attribute_kind
subject_kind(int attribute)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (kinds[i].attribute == attribute)
			return kinds[i].kind;
	return KIND_TEXT;
}

struct str
subject_value(struct subject *s, int attribute)
{
	int d = attribute - ATTRIBUTES;

	if (d < 0)
		return s->request->value[attribute];
	if ((s->known >> d & 1) == 0) {
		s->derived[d] = s->derive(s, attribute);
		s->known |= 1U << d;
	}
	return s->derived[d];
}

const struct cidr *
subject_address(struct subject *s, int attribute, struct cidr *room)
{
	if (attribute != ATTR_client_address)
		return cidr_parse(subject_value(s, attribute), room) == NULL ?
		    room :
		    NULL;
	if (!s->parsed) {
		s->parsed = true;
		s->is_address = cidr_parse(subject_value(s, attribute),
				    &s->address) == NULL;
	}
	return s->is_address ? &s->address : NULL;
}

/* The placeholder at the head of s, which is a '{': its length, or 0. */
static size_t
placeholder_len(struct str s, struct str *name)
{
	size_t n = 1;

	while (n < s.n && (s.p[n] == '_' ||
			      (ascii_lower(s.p[n]) >= 'a' &&
				  ascii_lower(s.p[n]) <= 'z')))
		n++;
	if (n == 1 || n == s.n || s.p[n] != '}')
		return 0;
	*name = (struct str){s.p + 1, n - 1};
	return n + 1;
}

bool
subject_placeholder(struct str s, const char **why, struct str *part)
{
	bool found = false;

	for (size_t i = 0; i < s.n; i++) {
		struct str name;

		if (s.p[i] != '{' ||
		    placeholder_len(str_from(s, i), &name) == 0)
			continue;
		found = true;
		if (subject_attribute(name) == -1) {
			*part = name;
			*why = "no such attribute";
			return true;
		}
	}
	return found;
}

struct str
subject_expand(struct subject *s, struct str text, char *buf, size_t size)
{
	struct sbuf b = sbuf_over(buf, size);

	for (size_t i = 0; i < text.n;) {
		struct str name;
		size_t n = text.p[i] == '{' ?
		    placeholder_len(str_from(text, i), &name) :
		    0;
		int a = n > 0 ? subject_attribute(name) : -1;

		if (a == -1) {
			sbuf_addc(&b, text.p[i++]);
			continue;
		}
		sbuf_add(&b, subject_value(s, a));
		i += n;
	}
	return sbuf_str(&b);
}
