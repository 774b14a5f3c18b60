#include "tables/list.h"

#include "base/mem.h"
#include "mail/address.h"
#include "mail/cidr.h"
#include "tables/strtab.h"

#include <stdlib.h>

enum {
	ENTRIES,
	NAMES, /* the parts of a copy */
};

/*
 * A key is four bytes, the list's number and the entry's kind, and then the
 * folded text, or of a network its prefix and its 4 or 16 bytes.  Nothing
 * stands in its value.
 */
enum {
	HEAD_BYTES = sizeof(uint32_t),
	KIND_BITS = 2,
	NAME_MAX_BYTES = LOCAL_MAX_BYTES, /* longer than a domain: a login */
	KEY_MAX_BYTES = HEAD_BYTES + LOCAL_MAX_BYTES + sizeof("@.") +
	    NAME_MAX_BYTES,
	DEPTH_MAX = 63,
};

struct key {
	char bytes[KEY_MAX_BYTES];
	size_t n;
};

/* The forms of entries, beside networks and domains above. */
enum {
	FORM_MAIL = 1,   /* user@domain */
	FORM_USER = 2,   /* user@ */
	FORM_DOMAIN = 4, /* @domain */
	FORM_NAME = 8,
};

/* What occurs in a list; what no longer does stays marked until it is read. */
struct list {
	uint32_t entries;
	uint32_t forms;
	uint64_t depths[LIST_NAME + 1]; /* of @.domain and of .domain: labels */
	uint64_t v4;                    /* prefix lengths */
	uint64_t v6[3];
};

/* All lists at one time; list[id]. */
struct edition {
	struct strtab *table;
	struct list *list;
	uint32_t lists;
};

struct lists {
	struct edition now;  /* the one that answers */
	struct edition next; /* being filled, or none */
	struct edition paused;
	struct strtab *names; /* name -> number, from 1 */
	struct strtab *copied; /* a copy's number -> ours, or NULL */
};

/* ---- making and swapping ---- */

static void
edition_free(struct edition *e)
{
	strtab_free(e->table);
	free(e->list);
	*e = (struct edition){0};
}

struct lists *
lists_new(void)
{
	struct lists *l = mem_zalloc(sizeof(*l));

	l->now.table = strtab_new();
	l->names = strtab_new();
	return l;
}

void
lists_free(struct lists *l)
{
	if (l == NULL)
		return;
	lists_abandon(l);
	edition_free(&l->now);
	strtab_free(l->names);
	free(l);
}

void
lists_begin(struct lists *l)
{
	lists_abandon(l);
	l->next.table = strtab_new();
}

void
lists_swap(struct lists *l)
{
	if (l->next.table != NULL) {
		edition_free(&l->now);
		l->now = l->next;
		l->next = (struct edition){0};
	}
	lists_abandon(l);
}

void
lists_abandon(struct lists *l)
{
	edition_free(&l->next);
	strtab_free(l->copied);
	l->copied = NULL;
}

void
lists_pause(struct lists *l)
{
	l->paused = l->next;
	l->next = (struct edition){0};
}

void
lists_resume(struct lists *l)
{
	l->next = l->paused;
	l->paused = (struct edition){0};
}

/* The number of a list that there is, else 0. */
static uint32_t
id_of(const struct lists *l, struct str name)
{
	struct str value;
	uint32_t id = 0;

	if (strtab_get(l->names, name, &value))
		memcpy(&id, value.p, sizeof(id));
	return id;
}

uint32_t
lists_id(struct lists *l, struct str name)
{
	uint32_t id = id_of(l, name);

	if (id != 0)
		return id;
	id = (uint32_t)strtab_count(l->names) + 1;
	strtab_set(l->names, name,
	    (struct str){(const char *)&id, sizeof(id)});
	return id;
}

static struct list *
list_at(struct edition *e, uint32_t id)
{
	if (id >= e->lists) {
		uint32_t n = id + 1 + e->lists / 2;

		e->list = mem_realloc(e->list, n * sizeof(e->list[0]));
		memset(e->list + e->lists, 0,
		    (n - e->lists) * sizeof(e->list[0]));
		e->lists = n;
	}
	return &e->list[id];
}

/* ---- keys ---- */

static void
put_head(char *p, uint32_t id, enum list_kind kind)
{
	uint32_t head = id << KIND_BITS | (uint32_t)kind;

	memcpy(p, &head, sizeof(head));
}

static struct str
without_dots(struct str name)
{
	while (name.n > 0 && name.p[name.n - 1] == '.')
		name.n--;
	return name;
}

/*
 * A name or the domain of an address, folded, to where the key ends; what was
 * folded once stays as it is.  A login may be no domain at all.
 */
static bool
add_name(struct key *key, struct str name)
{
	char domain[DOMAIN_MAX_BYTES + 1], login[NAME_MAX_BYTES + 1];
	struct str folded;

	name = without_dots(name);
	if (!domain_fold(name, domain, &folded) &&
	    !local_fold(name, true, login, &folded))
		return false;
	folded = without_dots(folded);
	if (folded.n == 0)
		return false;
	memcpy(key->bytes + key->n, folded.p, folded.n);
	key->n += folded.n;
	return true;
}

/* user@domain, with either side empty, or @.domain. */
static bool
mail_key(struct str value, struct key *key)
{
	const char *at = memrchr(value.p, '@', value.n);
	char buf[LOCAL_MAX_BYTES + 1];
	struct str local, domain;

	if (at == NULL)
		return false;
	local = (struct str){value.p, (size_t)(at - value.p)};
	domain = str_from(value, local.n + 1);
	if (!local_fold(local, true, buf, &local))
		return false;
	if (local.n > 0)
		memcpy(key->bytes + key->n, local.p, local.n);
	key->n += local.n;
	key->bytes[key->n++] = '@';
	if (domain.n == 0)
		return local.n > 0;
	if (domain.p[0] == '.') {
		if (local.n > 0)
			return false;
		key->bytes[key->n++] = '.';
		domain = str_from(domain, 1);
	}
	return add_name(key, domain);
}

static void
address_key(const struct cidr *c, struct key *key)
{
	size_t n = c->family == 4 ? 4 : 16;

	key->bytes[key->n++] = (char)c->prefix;
	memcpy(key->bytes + key->n, c->bytes, n);
	key->n += n;
}

static bool
name_key(struct str value, struct key *key)
{
	if (value.n > 0 && value.p[0] == '.') {
		key->bytes[key->n++] = '.';
		value = str_from(value, 1);
	}
	return add_name(key, value);
}

static enum list_kind
kind_of(struct str value)
{
	struct cidr unused;

	if (value.n > 0 && memchr(value.p, '@', value.n) != NULL)
		return LIST_MAIL;
	return cidr_parse(value, &unused) == NULL ? LIST_ADDRESS : LIST_NAME;
}

static bool
key_as(enum list_kind kind, uint32_t id, struct str value, struct key *key)
{
	struct cidr c;

	key->n = HEAD_BYTES;
	put_head(key->bytes, id, kind);
	switch (kind) {
	case LIST_MAIL:
		return mail_key(value, key);
	case LIST_ADDRESS:
		if (cidr_parse(value, &c) != NULL)
			return false;
		address_key(&c, key);
		return true;
	case LIST_NAME:
		return name_key(value, key);
	}
	return false;
}

/* ---- what occurs ---- */

static unsigned
labels(struct str domain)
{
	unsigned n = 1;

	for (size_t i = 0; i < domain.n; i++)
		n += domain.p[i] == '.';
	return n;
}

static uint64_t
depth_bit(unsigned n)
{
	return 1ULL << (n < DEPTH_MAX ? n : DEPTH_MAX);
}

static void
mark_mail(struct list *list, struct str text)
{
	/* A local part may begin with an '@' of its own. */
	const char *at = memrchr(text.p, '@', text.n);

	if (at != text.p)
		list->forms |= at == text.p + text.n - 1 ? FORM_USER :
							   FORM_MAIL;
	else if (text.p[1] != '.')
		list->forms |= FORM_DOMAIN;
	else
		list->depths[LIST_MAIL] |= depth_bit(labels(str_from(text, 2)));
}

static void
mark(struct list *list, enum list_kind kind, struct str text)
{
	uint8_t prefix = (uint8_t)text.p[0];

	switch (kind) {
	case LIST_MAIL:
		mark_mail(list, text);
		break;
	case LIST_ADDRESS:
		if (text.n == 1 + 4)
			list->v4 |= 1ULL << prefix;
		else
			list->v6[prefix / 64] |= 1ULL << prefix % 64;
		break;
	case LIST_NAME:
		if (text.p[0] != '.')
			list->forms |= FORM_NAME;
		else
			list->depths[LIST_NAME] |=
			    depth_bit(labels(str_from(text, 1)));
		break;
	}
}

/* ---- a request's questions ---- */

static bool
is_there(const struct lists *l, const char *p, size_t n)
{
	struct str unused;

	return strtab_get(l->now.table, (struct str){p, n}, &unused);
}

/*
 * The domains above the one that the key ends with.  The key of each is made
 * in front of it, over the labels that are no longer needed: of `a.b`,
 * behind a head of four bytes at least, `HEAD@.b` or `HEAD.b`.
 */
static bool
has_above(const struct lists *l, uint32_t id, enum list_kind kind,
    struct key *key, size_t at)
{
	uint64_t depths = l->now.list[id].depths[kind];
	struct str domain = {key->bytes + at, key->n - at};
	unsigned depth = labels(domain);

	while ((domain = domain_parent(domain)).n > 0) {
		char *p = key->bytes + (key->n - domain.n) - 1;

		if ((depth_bit(--depth) & depths) == 0)
			continue;
		if (kind == LIST_MAIL)
			*--p = '@';
		p -= HEAD_BYTES;
		put_head(p, id, kind);
		if (is_there(l, p, (size_t)(key->bytes + key->n - p)))
			return true;
	}
	return false;
}

static bool
has_name(const struct lists *l, uint32_t id, struct str value, bool above)
{
	const struct list *list = &l->now.list[id];
	struct key key;

	if (!(list->forms & FORM_NAME) && list->depths[LIST_NAME] == 0)
		return false;
	key.n = HEAD_BYTES;
	put_head(key.bytes, id, LIST_NAME);
	if (!add_name(&key, value))
		return false;
	/* What begins with a dot is no name, but equal to an entry that is none. */
	if (list->forms & FORM_NAME && key.bytes[HEAD_BYTES] != '.' &&
	    is_there(l, key.bytes, key.n))
		return true;
	return above && list->depths[LIST_NAME] != 0 &&
	    has_above(l, id, LIST_NAME, &key, HEAD_BYTES);
}

static bool
has_mail(const struct lists *l, uint32_t id, struct str value)
{
	const struct list *list = &l->now.list[id];
	const char *at = memrchr(value.p, '@', value.n);
	struct key key;
	char local_buf[LOCAL_MAX_BYTES + 1], *p;
	struct str local;

	if (at == NULL)
		return has_name(l, id, value, false);
	local = (struct str){value.p, (size_t)(at - value.p)};
	/* Whose local part is too long is in no list, but its domain may be. */
	if (!local_fold(local, true, local_buf, &local))
		local.n = 0;
	key.n = HEAD_BYTES;
	put_head(key.bytes, id, LIST_MAIL);
	if (local.n > 0)
		memcpy(key.bytes + key.n, local.p, local.n);
	key.n += local.n;
	key.bytes[key.n++] = '@';
	if (local.n > 0 && list->forms & FORM_USER &&
	    is_there(l, key.bytes, key.n))
		return true;
	if (!add_name(&key, str_from(value, (size_t)(at - value.p) + 1)))
		return false;
	if (local.n > 0 && list->forms & FORM_MAIL &&
	    is_there(l, key.bytes, key.n))
		return true;
	p = key.bytes + local.n; /* the head of @domain, over the local part */
	put_head(p, id, LIST_MAIL);
	if (list->forms & FORM_DOMAIN && is_there(l, p, key.n - local.n))
		return true;
	return list->depths[LIST_MAIL] != 0 &&
	    has_above(l, id, LIST_MAIL, &key, HEAD_BYTES + local.n + 1);
}

static bool
has_address(const struct lists *l, uint32_t id, struct str value)
{
	const struct list *list = &l->now.list[id];
	const uint64_t *prefixes;
	struct cidr c, net;
	struct key key;

	if (cidr_parse(value, &c) != NULL)
		return false;
	prefixes = c.family == 4 ? &list->v4 : list->v6;
	put_head(key.bytes, id, LIST_ADDRESS);
	for (unsigned word = 0; word <= c.prefix / 64U; word++)
		for (uint64_t w = prefixes[word]; w != 0; w &= w - 1) {
			unsigned prefix =
			    word * 64 + (unsigned)__builtin_ctzll(w);

			if (prefix > c.prefix)
				return false;
			cidr_mask(&c, (uint8_t)prefix, &net);
			key.n = HEAD_BYTES;
			address_key(&net, &key);
			if (is_there(l, key.bytes, key.n))
				return true;
		}
	return false;
}

bool
lists_has(const struct lists *l, uint32_t id, enum list_kind kind,
    struct str value)
{
	if (value.n == 0 || lists_entries(l, id) == 0)
		return false;
	switch (kind) {
	case LIST_MAIL:
		return has_mail(l, id, value);
	case LIST_ADDRESS:
		return has_address(l, id, value);
	case LIST_NAME:
		return has_name(l, id, value, true);
	}
	return false;
}

/* ---- entries ---- */

static bool
put_key(struct edition *e, uint32_t id, enum list_kind kind,
    const struct key *key)
{
	struct list *list = list_at(e, id);

	if (!strtab_set(e->table, (struct str){key->bytes, key->n}, STR("")))
		return false;
	list->entries++;
	mark(list, kind, (struct str){key->bytes + HEAD_BYTES,
		    key->n - HEAD_BYTES});
	return true;
}

bool
lists_put(struct lists *l, struct str list, struct str value)
{
	uint32_t id = lists_id(l, list);
	enum list_kind kind = kind_of(value);
	struct key key;

	if (!key_as(kind, id, value, &key))
		return false;
	put_key(l->next.table != NULL ? &l->next : &l->now, id, kind, &key);
	return true;
}

void
lists_forget(struct lists *l, struct str list, struct str value)
{
	/* Whoever may notify names lists that there are not. */
	uint32_t id = id_of(l, list);
	struct key key;

	if (id != 0 && key_as(kind_of(value), id, value, &key) &&
	    strtab_delete(l->now.table, (struct str){key.bytes, key.n}))
		l->now.list[id].entries--;
}

size_t
lists_count(const struct lists *l)
{
	return strtab_count(l->now.table);
}

size_t
lists_entries(const struct lists *l, uint32_t id)
{
	return id < l->now.lists ? l->now.list[id].entries : 0;
}

size_t
lists_bytes(const struct lists *l)
{
	return sizeof(*l) + strtab_bytes(l->now.table) +
	    strtab_bytes(l->names) + l->now.lists * sizeof(l->now.list[0]);
}

bool
lists_wasteful(const struct lists *l)
{
	enum { LEAST_BYTES = 4 << 20 };
	size_t waste = strtab_waste(l->now.table);

	return waste > LEAST_BYTES && waste > lists_bytes(l) / 2;
}

/* ---- copies ---- */

const struct strtab *
lists_part(const struct lists *l, int part)
{
	return part == NAMES ? l->names : l->now.table;
}

static bool
restore_name(struct lists *l, struct str name, struct str number)
{
	struct str unused;
	uint32_t id;

	if (l->copied == NULL)
		l->copied = strtab_new();
	if (number.n != sizeof(id) || strtab_get(l->copied, number, &unused))
		return false;
	id = lists_id(l, name);
	return strtab_set(l->copied, number,
	    (struct str){(const char *)&id, sizeof(id)});
}

/* A copied network as text; what is none gives an empty one. */
static struct str
network_text(struct str bytes, char buf[CIDR_TEXT_MAX_BYTES])
{
	struct cidr c = {.family = bytes.n == 1 + 4 ? 4 : 6};

	if (bytes.n != 1 + 4 && bytes.n != 1 + 16)
		return STR("");
	c.prefix = (uint8_t)bytes.p[0];
	memcpy(c.bytes, bytes.p + 1, bytes.n - 1);
	return cidr_format(&c, buf);
}

/* It is one if its text makes the same key again. */
static bool
restore_entry(struct lists *l, struct str copied)
{
	char buf[CIDR_TEXT_MAX_BYTES];
	enum list_kind kind;
	struct str text, ours;
	uint32_t head, id;
	struct key key;

	if (copied.n <= sizeof(head))
		return false;
	memcpy(&head, copied.p, sizeof(head));
	text = str_from(copied, sizeof(head));
	kind = (enum list_kind)(head & ((1U << KIND_BITS) - 1));
	id = head >> KIND_BITS;
	if (l->copied == NULL ||
	    !strtab_get(l->copied, (struct str){(const char *)&id, sizeof(id)},
		&ours))
		return false;
	memcpy(&id, ours.p, sizeof(id));
	return key_as(kind, id,
		   kind == LIST_ADDRESS ? network_text(text, buf) : text,
		   &key) &&
	    str_eq((struct str){key.bytes + HEAD_BYTES, key.n - HEAD_BYTES},
		text) &&
	    put_key(&l->next, id, kind, &key);
}

bool
lists_restore(struct lists *l, int part, struct str key, struct str value)
{
	if (l->next.table == NULL)
		return false;
	if (part == NAMES)
		return restore_name(l, key, value);
	return part == ENTRIES && value.n == 0 && restore_entry(l, key);
}
