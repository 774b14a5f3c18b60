#include "tables/directory.h"

#include "base/mem.h"
#include "mail/address.h"
#include "tables/strtab.h"

#include <stdlib.h>

enum {
	NAMES = DIRECTORY_TABLES, /* the part of a copy that is the names */
	KEY_MAX_BYTES = sizeof(uint32_t) + LOCAL_MAX_BYTES,
	TEXT_MAX_BYTES = 2048, /* of a reply or a destination */
	ROWS_MAX_BYTES = 16384, /* of an alias: EXPN tells 500 bytes of them */
	LABELS_MAX = 128,      /* of a domain of 255 bytes */
};

struct directory {
	struct strtab *table[DIRECTORY_TABLES]; /* those that answer */
	struct strtab *next[DIRECTORY_TABLES];  /* being filled, or NULL */
	struct strtab *paused[DIRECTORY_TABLES];
	struct strtab *names; /* domain name -> its number, from 1 */
	struct strtab *next_names; /* those of a copy being read, or NULL */
	bool fold;
	bool next_fold;
	bool subdomains; /* may there be a domain with subdomains? */
	bool ready;
};

/* What stands in the tables: fixed structs, copied in and out. */
struct domain_row {
	uint32_t id;
	uint32_t max_recipients;
	int16_t greylist;
	uint8_t recipients;
	uint8_t subdomains;
	uint8_t enabled;
};

struct domain_alias_row {
	uint32_t id;
	uint32_t target;
	/* then the target's name */
};

/* An address: flags, its expiry if it has one, its reply if it has one. */
enum {
	ROW_ENABLED = 1,
	ROW_EXPIRES = 2,
	ROW_GREYLIST_SET = 4,
	ROW_GREYLIST_YES = 8,
	ROW_NONE = 16, /* of an alias: no more rows, but room for some */
};

/* ---- making and swapping ---- */

struct directory *
directory_new(bool fold_local_part)
{
	struct directory *d = mem_zalloc(sizeof(*d));

	for (int t = 0; t < DIRECTORY_TABLES; t++)
		d->table[t] = strtab_new();
	d->names = strtab_new();
	d->fold = d->next_fold = fold_local_part;
	return d;
}

void
directory_free(struct directory *d)
{
	if (d == NULL)
		return;
	directory_abandon(d);
	for (int t = 0; t < DIRECTORY_TABLES; t++)
		strtab_free(d->table[t]);
	strtab_free(d->names);
	free(d);
}

void
directory_begin(struct directory *d, enum directory_table table)
{
	strtab_free(d->next[table]);
	d->next[table] = strtab_new();
}

void
directory_begin_restore(struct directory *d)
{
	for (int t = 0; t < DIRECTORY_TABLES; t++)
		directory_begin(d, (enum directory_table)t);
	strtab_free(d->next_names);
	d->next_names = strtab_new();
}

void
directory_swap(struct directory *d)
{
	if (d->next_names != NULL) {
		strtab_free(d->names);
		d->names = d->next_names;
		d->next_names = NULL;
	}
	for (int t = 0; t < DIRECTORY_TABLES; t++) {
		if (d->next[t] == NULL)
			continue;
		strtab_free(d->table[t]);
		d->table[t] = d->next[t];
		d->next[t] = NULL;
	}
	d->fold = d->next_fold;
	d->ready = true;
}

void
directory_abandon(struct directory *d)
{
	strtab_free(d->next_names);
	d->next_names = NULL;
	for (int t = 0; t < DIRECTORY_TABLES; t++) {
		strtab_free(d->next[t]);
		d->next[t] = NULL;
	}
}

void
directory_pause(struct directory *d)
{
	memcpy(d->paused, d->next, sizeof(d->paused));
	memset(d->next, 0, sizeof(d->next));
}

void
directory_resume(struct directory *d)
{
	memcpy(d->next, d->paused, sizeof(d->next));
	memset(d->paused, 0, sizeof(d->paused));
}

void
directory_set_fold(struct directory *d, bool fold_local_part)
{
	d->next_fold = fold_local_part;
}

bool
directory_folds(const struct directory *d)
{
	return d->fold;
}

bool
directory_ready(const struct directory *d)
{
	return d->ready;
}

static struct strtab *
writable(struct directory *d, enum directory_table t)
{
	return d->next[t] != NULL ? d->next[t] : d->table[t];
}

/* ---- names and keys ---- */

static uint32_t
name_id(const struct directory *d, struct str name)
{
	struct str value;
	uint32_t id;

	if (!strtab_get(d->names, name, &value))
		return 0;
	memcpy(&id, value.p, sizeof(id));
	return id;
}

static uint32_t
name_number(struct directory *d, struct str name)
{
	uint32_t id = name_id(d, name);

	if (id == 0) {
		id = (uint32_t)strtab_count(d->names) + 1;
		strtab_set(d->names, name,
		    (struct str){(const char *)&id, sizeof(id)});
	}
	return id;
}

/* The key of an address: its domain's number, then its local part. */
static struct str
key_of(uint32_t id, struct str local, char buf[KEY_MAX_BYTES])
{
	memcpy(buf, &id, sizeof(id));
	if (local.n > 0)
		memcpy(buf + sizeof(id), local.p, local.n);
	return (struct str){buf, sizeof(id) + local.n};
}

/*
 * The key of an address as an administrator wrote it; `@domain` is that of the
 * catch-all.  In a table that is being filled, its fold holds already.  Only a
 * row to be written makes its domain a name: anybody may notify of anything.
 */
static bool
key_of_text(struct directory *d, bool fold, bool make, struct str text,
    char buf[KEY_MAX_BYTES], struct str *key)
{
	const char *at = text.n > 0 ? memrchr(text.p, '@', text.n) : NULL;
	char domain_buf[DOMAIN_MAX_BYTES + 1], local_buf[LOCAL_MAX_BYTES + 1];
	struct str local, domain;
	uint32_t id;

	if (at == NULL)
		return false;
	local = (struct str){text.p, (size_t)(at - text.p)};
	if (!domain_fold(str_from(text, local.n + 1), domain_buf, &domain) ||
	    !local_fold(local, fold, local_buf, &local))
		return false;
	id = make ? name_number(d, domain) : name_id(d, domain);
	*key = key_of(id, local, buf);
	return id != 0;
}

static bool
fold_for(const struct directory *d, enum directory_table t)
{
	return d->next[t] != NULL ? d->next_fold : d->fold;
}

/* ---- a request's questions ---- */

static bool
get_domain(const struct directory *d, struct str name, struct domain_row *row)
{
	struct str value;

	if (!strtab_get(d->table[DIRECTORY_DOMAIN], name, &value))
		return false;
	memcpy(row, value.p, sizeof(*row));
	return true;
}

static bool
get_parent(const struct directory *d, struct str name, struct domain_row *row)
{
	if (!d->subdomains)
		return false;
	for (int i = 0; i < LABELS_MAX; i++) {
		name = domain_parent(name);
		if (name.n == 0)
			return false;
		/* Every subdomain: also one below a domain of its own. */
		if (get_domain(d, name, row) && row->enabled &&
		    row->subdomains)
			return true;
	}
	return false;
}

/* The target's row, where the name is an alias of a domain that is local. */
static bool
get_domain_alias(const struct directory *d, struct str name,
    struct domain_alias_row *alias, struct domain_row *target)
{
	struct str value;

	if (!strtab_get(d->table[DIRECTORY_DOMAIN_ALIAS], name, &value))
		return false;
	memcpy(alias, value.p, sizeof(*alias));
	name = str_from(value, sizeof(*alias));
	if (get_domain(d, name, target))
		return target->enabled;
	return get_parent(d, name, target);
}

static void
take_settings(struct domain *out, const struct domain_row *row)
{
	out->recipients = row->recipients;
	out->greylist = row->greylist;
	out->max_recipients = row->max_recipients;
}

bool
directory_domain(const struct directory *d, struct str name,
    struct domain *out)
{
	struct domain_alias_row alias;
	struct domain_row row, target;
	bool own = get_domain(d, name, &row);

	if (own && !row.enabled)
		return false;
	*out = (struct domain){0};
	if (own) {
		out->id = row.id;
		take_settings(out, &row);
	}
	if (get_domain_alias(d, name, &alias, &target)) {
		out->id = alias.id;
		out->target = alias.target;
		if (!own)
			take_settings(out, &target);
		else if (row.recipients == RECIPIENTS_LISTED)
			out->recipients = target.recipients;
		return true;
	}
	if (own)
		return true;
	if (!get_parent(d, name, &row))
		return false;
	out->id = name_id(d, name);
	take_settings(out, &row);
	return true;
}

/* One row of an address or an alias, at the head of the bytes. */
static size_t
row_head(struct str value, uint8_t *flags, int64_t *expires_at)
{
	size_t n = 1;

	*flags = (uint8_t)value.p[0];
	*expires_at = NEVER_EXPIRES;
	if (*flags & ROW_EXPIRES) {
		memcpy(expires_at, value.p + n, sizeof(*expires_at));
		n += sizeof(*expires_at);
	}
	return n;
}

static bool
is_alive(uint8_t flags, int64_t expires_at, int64_t now)
{
	return (flags & ROW_ENABLED) != 0 && now < expires_at;
}

static enum address_state
read_address(struct str value, int64_t now, struct address *out)
{
	uint8_t flags;
	int64_t expires_at;
	size_t n = row_head(value, &flags, &expires_at);

	if (!is_alive(flags, expires_at, now))
		return ADDRESS_DEAD;
	out->reply = str_from(value, n);
	out->greylist = !(flags & ROW_GREYLIST_SET) ? UNSET :
	    flags & ROW_GREYLIST_YES		    ? YES :
						      NO;
	return ADDRESS_ALIVE;
}

/*
 * Cut the first row off *rest: an alias has one for each destination.  Room
 * behind the last is cut off as a row that is not enabled and leads nowhere.
 */
static struct str
alias_row(struct str *rest, uint8_t *flags, int64_t *expires_at)
{
	size_t n = row_head(*rest, flags, expires_at);
	struct str destination;
	uint16_t len;

	if (*flags & ROW_NONE) {
		*flags = 0;
		*rest = str_from(*rest, rest->n);
		return STR("");
	}
	memcpy(&len, rest->p + n, sizeof(len));
	destination = (struct str){rest->p + n + sizeof(len), len};
	*rest = str_from(*rest, n + sizeof(len) + len);
	return destination;
}

static enum address_state
read_alias(struct str value, int64_t now, struct address *out)
{
	while (value.n > 0) {
		uint8_t flags;
		int64_t expires_at;

		alias_row(&value, &flags, &expires_at);
		if (is_alive(flags, expires_at, now)) {
			*out = (struct address){.greylist = UNSET};
			return ADDRESS_ALIVE;
		}
	}
	return ADDRESS_DEAD;
}

static enum address_state
look(const struct directory *d, enum directory_table table, uint32_t id,
    struct str local, int64_t now, struct address *out, struct str *value)
{
	char buf[KEY_MAX_BYTES];

	if (id == 0 ||
	    !strtab_get(d->table[table], key_of(id, local, buf), value))
		return ADDRESS_NONE;
	return (table == DIRECTORY_ADDRESS ? read_address : read_alias)(*value,
	    now, out);
}

/* The local part and its base, as an address and as an alias, in one name. */
static enum address_state
look_under(const struct directory *d, uint32_t id, struct str local,
    struct str base, int64_t now, struct address *out,
    enum directory_table *table, struct str *value)
{
	static const enum directory_table order[] = {DIRECTORY_ADDRESS,
	    DIRECTORY_ALIAS};

	for (size_t i = 0; i < 2; i++) {
		enum address_state s;

		*table = order[i];
		s = look(d, *table, id, local, now, out, value);
		if (s == ADDRESS_NONE && base.n < local.n)
			s = look(d, *table, id, base, now, out, value);
		if (s != ADDRESS_NONE)
			return s;
	}
	return ADDRESS_NONE;
}

/* As directory_address(), and which row it was. */
static enum address_state
find(const struct directory *d, const struct domain *domain, struct str local,
    struct str delimiters, int64_t now, struct address *out,
    enum directory_table *table, struct str *value)
{
	char buf[LOCAL_MAX_BYTES + 1];
	uint32_t ids[2] = {domain->id, domain->target};
	enum address_state s = ADDRESS_NONE;
	struct str base;

	*out = (struct address){.greylist = UNSET};
	if (local_fold(local, d->fold, buf, &local)) {
		base = local_base(local, delimiters);
		for (int i = 0; i < 2 && s == ADDRESS_NONE; i++)
			s = look_under(d, ids[i], local, base, now, out, table,
			    value);
	}
	/* The catch-all is the address with an empty local part. */
	for (int i = 0; i < 2 && s == ADDRESS_NONE; i++)
		s = look_under(d, ids[i], STR(""), STR(""), now, out, table,
		    value);
	return s;
}

enum address_state
directory_address(const struct directory *d, const struct domain *domain,
    struct str local, struct str delimiters, int64_t now, struct address *out)
{
	enum directory_table table;
	struct str value;

	return find(d, domain, local, delimiters, now, out, &table, &value);
}

void
directory_expand(const struct directory *d, const struct domain *domain,
    struct str local, struct str delimiters, struct str address, int64_t now,
    struct sbuf *out)
{
	static const struct str more = STR_INIT(" ...");
	enum directory_table table;
	struct address unused;
	struct str value;

	if (find(d, domain, local, delimiters, now, &unused, &table, &value) !=
		ADDRESS_ALIVE ||
	    table != DIRECTORY_ALIAS) {
		sbuf_add(out, address);
		return;
	}
	while (value.n > 0) {
		uint8_t flags;
		int64_t expires_at;
		struct str to = alias_row(&value, &flags, &expires_at);

		if (!is_alive(flags, expires_at, now))
			continue;
		if (out->n + 1 + to.n + more.n >= out->cap) {
			sbuf_add(out, more);
			return;
		}
		if (out->n > 0)
			sbuf_addc(out, ' ');
		sbuf_add(out, to);
	}
}

/* ---- rows ---- */

bool
directory_put_domain(struct directory *d, struct str name,
    enum domain_recipients recipients, enum tristate greylist,
    int64_t max_recipients, bool subdomains, bool enabled)
{
	char buf[DOMAIN_MAX_BYTES + 1];
	struct domain_row row;

	if (!domain_fold(name, buf, &name))
		return false;
	memset(&row, 0, sizeof(row));
	row.id = name_number(d, name);
	row.max_recipients = max_recipients < 0 ? 0 :
	    max_recipients > UINT32_MAX		? UINT32_MAX :
						  (uint32_t)max_recipients;
	row.recipients = (uint8_t)recipients;
	row.greylist = (int16_t)greylist;
	row.subdomains = subdomains;
	row.enabled = enabled;
	strtab_set(writable(d, DIRECTORY_DOMAIN), name,
	    (struct str){(const char *)&row, sizeof(row)});
	d->subdomains = d->subdomains || subdomains;
	return true;
}

bool
directory_put_domain_alias(struct directory *d, struct str name,
    struct str target)
{
	char name_buf[DOMAIN_MAX_BYTES + 1];
	char buf[sizeof(struct domain_alias_row) + DOMAIN_MAX_BYTES + 1];
	struct domain_alias_row row;

	if (!domain_fold(name, name_buf, &name) ||
	    !domain_fold(target, buf + sizeof(row), &target))
		return false;
	row.id = name_number(d, name);
	row.target = name_number(d, target);
	memcpy(buf, &row, sizeof(row));
	strtab_set(writable(d, DIRECTORY_DOMAIN_ALIAS), name,
	    (struct str){buf, sizeof(row) + target.n});
	return true;
}

static void
put_head(struct sbuf *b, uint8_t flags, int64_t expires_at)
{
	if (expires_at != NEVER_EXPIRES)
		flags |= ROW_EXPIRES;
	sbuf_addc(b, (char)flags);
	if (expires_at != NEVER_EXPIRES)
		sbuf_add(b, (struct str){(const char *)&expires_at,
				sizeof(expires_at)});
}

bool
directory_put_address(struct directory *d, struct str address,
    enum tristate greylist, struct str reply, int64_t expires_at, bool enabled)
{
	char key_buf[KEY_MAX_BYTES], buf[TEXT_MAX_BYTES + 16];
	struct sbuf b = sbuf_over(buf, sizeof(buf));
	uint8_t flags = enabled ? ROW_ENABLED : 0;
	struct str key;

	if (reply.n > TEXT_MAX_BYTES ||
	    !key_of_text(d, fold_for(d, DIRECTORY_ADDRESS), true, address,
		key_buf, &key))
		return false;
	if (greylist != UNSET)
		flags |= ROW_GREYLIST_SET;
	if (greylist == YES)
		flags |= ROW_GREYLIST_YES;
	put_head(&b, flags, expires_at);
	sbuf_add(&b, reply);
	strtab_set(writable(d, DIRECTORY_ADDRESS), key, sbuf_str(&b));
	return true;
}

/*
 * An alias' rows lie one behind the other, and behind the last there may be
 * room, so that a list that grows row by row is not written anew for each.
 */
struct alias_rows {
	size_t len;  /* of the rows */
	size_t last; /* where the last of them begins */
	bool dead;   /* at that time: none of them is enabled and lasts */
};

static struct alias_rows
measure(struct str value, int64_t at)
{
	struct alias_rows rows = {.dead = true};
	struct str rest = value;

	while (rest.n > 0) {
		size_t begin = value.n - rest.n;
		int64_t expires_at;
		uint8_t flags;

		if (alias_row(&rest, &flags, &expires_at).n == 0)
			break;
		rows.last = begin;
		rows.len = value.n - rest.n;
		if ((flags & ROW_ENABLED) != 0 && expires_at >= at)
			rows.dead = false;
	}
	return rows;
}

/*
 * Put a row behind the others.  Where there are too many it counts only if the
 * alias lives longer by it, and takes the last one's place.
 */
static void
append_row(struct strtab *t, struct str key, struct str old, struct str row,
    int64_t expires_at, bool enabled)
{
	struct alias_rows rows = measure(old, expires_at);
	size_t n, room;
	char *all;

	if (rows.len + row.n > ROWS_MAX_BYTES) {
		if (!enabled || !rows.dead)
			return;
		rows.len = rows.last;
	}
	n = rows.len + row.n;
	room = n <= old.n ? old.n - n : n;
	all = mem_zalloc(n + room);
	memcpy(all, old.p, rows.len);
	memcpy(all + rows.len, row.p, row.n);
	if (room > 0)
		all[n] = ROW_NONE;
	strtab_set(t, key, (struct str){all, n + room});
	free(all);
}

bool
directory_put_alias(struct directory *d, struct str address,
    struct str destination, int64_t expires_at, bool enabled)
{
	char key_buf[KEY_MAX_BYTES], row[TEXT_MAX_BYTES + 16];
	struct sbuf b = sbuf_over(row, sizeof(row));
	struct strtab *t = writable(d, DIRECTORY_ALIAS);
	uint16_t len = (uint16_t)destination.n;
	struct str key, old;

	if (destination.n == 0 || destination.n > TEXT_MAX_BYTES ||
	    !key_of_text(d, fold_for(d, DIRECTORY_ALIAS), true, address,
		key_buf, &key))
		return false;
	put_head(&b, enabled ? ROW_ENABLED : 0, expires_at);
	sbuf_add(&b, (struct str){(const char *)&len, sizeof(len)});
	sbuf_add(&b, destination);
	if (strtab_get(t, key, &old))
		append_row(t, key, old, sbuf_str(&b), expires_at, enabled);
	else
		strtab_set(t, key, sbuf_str(&b));
	return true;
}

void
directory_forget(struct directory *d, enum directory_table table,
    struct str key)
{
	char buf[KEY_MAX_BYTES], name[DOMAIN_MAX_BYTES + 1];
	struct str k;

	if (table == DIRECTORY_DOMAIN || table == DIRECTORY_DOMAIN_ALIAS) {
		if (domain_fold(key, name, &k))
			strtab_delete(d->table[table], k);
	} else if (key_of_text(d, d->fold, false, key, buf, &k)) {
		strtab_delete(d->table[table], k);
	}
}

size_t
directory_count(const struct directory *d, enum directory_table table)
{
	return strtab_count(d->table[table]);
}

size_t
directory_bytes(const struct directory *d)
{
	size_t n = strtab_bytes(d->names);

	for (int t = 0; t < DIRECTORY_TABLES; t++)
		n += strtab_bytes(d->table[t]);
	return n;
}

bool
directory_wasteful(const struct directory *d)
{
	enum { LEAST_BYTES = 4 << 20 };
	size_t waste = 0;

	for (int t = 0; t < DIRECTORY_TABLES; t++)
		waste += strtab_waste(d->table[t]);
	return waste > LEAST_BYTES && waste > directory_bytes(d) / 2;
}

/* ---- copies ---- */

const struct strtab *
directory_part(const struct directory *d, int part)
{
	return part == NAMES ? d->names : d->table[part];
}

static bool
is_id(const struct directory *d, uint32_t id)
{
	return id >= 1 && id <= strtab_count(d->next_names);
}

static bool
restore_name(struct directory *d, struct str key, struct str value)
{
	if (key.n == 0 || key.n > DOMAIN_MAX_BYTES ||
	    value.n != sizeof(uint32_t))
		return false;
	return strtab_set(d->next_names, key, value);
}

static bool
is_domain_row(const struct directory *d, struct str value)
{
	struct domain_row row;

	if (value.n != sizeof(row))
		return false;
	memcpy(&row, value.p, sizeof(row));
	return is_id(d, row.id) && row.recipients <= RECIPIENTS_VERIFY &&
	    row.greylist >= UNSET && row.greylist <= YES;
}

static bool
is_domain_alias_row(const struct directory *d, struct str value)
{
	struct domain_alias_row row;

	if (value.n <= sizeof(row) ||
	    value.n > sizeof(row) + DOMAIN_MAX_BYTES)
		return false;
	memcpy(&row, value.p, sizeof(row));
	return is_id(d, row.id) && is_id(d, row.target);
}

static bool
is_head(struct str value)
{
	return value.n >= 1 &&
	    (!((uint8_t)value.p[0] & ROW_EXPIRES) ||
		value.n >= 1 + sizeof(int64_t));
}

static bool
are_alias_rows(struct str value)
{
	if (value.n == 0)
		return false;
	while (value.n > 0) {
		uint8_t flags;
		int64_t expires_at;
		uint16_t len;
		size_t n;

		if (!is_head(value))
			return false;
		n = row_head(value, &flags, &expires_at);
		if (flags & ROW_NONE)
			return true;
		if (value.n - n < sizeof(len))
			return false;
		memcpy(&len, value.p + n, sizeof(len));
		if (value.n - n - sizeof(len) < len)
			return false;
		value = str_from(value, n + sizeof(len) + len);
	}
	return true;
}

static bool
is_key(const struct directory *d, struct str key)
{
	uint32_t id;

	if (key.n < sizeof(id) || key.n > KEY_MAX_BYTES)
		return false;
	memcpy(&id, key.p, sizeof(id));
	return is_id(d, id);
}

bool
directory_restore(struct directory *d, int part, struct str key,
    struct str value)
{
	bool good = false;

	switch (part) {
	case NAMES:
		return restore_name(d, key, value);
	case DIRECTORY_DOMAIN:
		good = key.n <= DOMAIN_MAX_BYTES && is_domain_row(d, value);
		if (good)
			d->subdomains = true;
		break;
	case DIRECTORY_DOMAIN_ALIAS:
		good = key.n <= DOMAIN_MAX_BYTES &&
		    is_domain_alias_row(d, value);
		break;
	case DIRECTORY_ADDRESS:
		good = is_key(d, key) && is_head(value);
		break;
	case DIRECTORY_ALIAS:
		good = is_key(d, key) && are_alias_rows(value);
		break;
	default:
		break;
	}
	return good && d->next[part] != NULL &&
	    strtab_set(d->next[part], key, value);
}
