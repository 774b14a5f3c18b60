#include "policy/see.h"

#include "base/hash.h"
#include "base/mem.h"

#include <stdlib.h>

const char SEE_SQL[] =
    "SELECT client, sender, recipient, first_seen, last_seen, passed_at, clock "
    "FROM policyd.greylist_see($1, $4, $2, $3, $5, $6, $7, $8, $9)";

/* Of the result. */
enum field {
	FIELD_CLIENT,
	FIELD_SENDER,
	FIELD_RECIPIENT,
	FIELD_FIRST_SEEN,
	FIELD_LAST_SEEN,
	FIELD_PASSED_AT,
	FIELD_CLOCK,
};

static const char *
field(const PGresult *res, int row, enum field f)
{
	return PQgetvalue(res, row, (int)f);
}

static double
number(const PGresult *res, int row, enum field f)
{
	return strtod(field(res, row, f), NULL);
}

/* One moment has one text. */
static bool
is_now(const PGresult *res, int row, enum field f)
{
	return strcmp(field(res, row, f), field(res, row, FIELD_CLOCK)) == 0;
}

struct see_row
see_row(const PGresult *res, int row)
{
	return (struct see_row){
	    .client = field(res, row, FIELD_CLIENT),
	    .is_client = PQgetisnull(res, row, FIELD_SENDER) != 0,
	    .has_passed = PQgetisnull(res, row, FIELD_PASSED_AT) == 0,
	    .is_new = is_now(res, row, FIELD_FIRST_SEEN),
	    .passes = is_now(res, row, FIELD_PASSED_AT),
	    .first_seen = number(res, row, FIELD_FIRST_SEEN),
	    .last_seen = number(res, row, FIELD_LAST_SEEN),
	    .clock = number(res, row, FIELD_CLOCK),
	};
}

/* ---- clients that are not greylisted ---- */

struct exempt {
	uint64_t hash;
	int row;
};

static int
compare_exempt(const void *left, const void *right)
{
	const struct exempt *l = left, *r = right;

	return (l->hash > r->hash) - (l->hash < r->hash);
}

static int
exempt_row(const struct exempt *exempt, size_t n, uint64_t client)
{
	struct exempt wanted = {client, -1};
	const struct exempt *e = n == 0 ? NULL :
	    bsearch(&wanted, exempt, n, sizeof(wanted), compare_exempt);

	return e != NULL ? e->row : -1;
}

/* ---- which row is whose ---- */

static struct batch_item *
item_of(struct batch_item *const *items, size_t n, const PGresult *res, int row)
{
	const char *key[SEE_KEY_COLUMNS] = {field(res, row, FIELD_CLIENT),
	    field(res, row, FIELD_SENDER), field(res, row, FIELD_RECIPIENT)};
	size_t low = 0, high = n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int rc = batch_compare(items[mid], key, SEE_KEY_COLUMNS);

		if (rc == 0)
			return items[mid];
		if (rc < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

static void
match_client(struct batch_item *item, const struct exempt *exempt, size_t n,
    const struct see_handlers *on)
{
	uint64_t client = hash_text(item->column[SEE_CLIENT]);
	uint64_t network = hash_text(item->column[SEE_NETWORK]);
	int row = exempt_row(exempt, n, client);

	if (row == -1)
		row = exempt_row(exempt, n, network);
	if (row != -1) {
		item->row = row;
		return;
	}
	on->stranger(on->arg, client);
	if (network != client)
		on->stranger(on->arg, network);
}

void
see_match(struct batch_item *const *items, size_t n, const PGresult *res,
    const struct see_handlers *on)
{
	int rows = PQntuples(res);
	struct exempt *exempt = mem_alloc((size_t)rows * sizeof(exempt[0]));
	size_t exempts = 0;

	for (int i = 0; i < rows; i++) {
		struct see_row row = see_row(res, i);
		struct batch_item *item;

		if (row.is_client) {
			uint64_t h = hash_text(row.client);

			exempt[exempts++] = (struct exempt){h, i};
			on->client(on->arg, h, &row);
			continue;
		}
		item = item_of(items, n, res, i);
		if (item != NULL) {
			item->row = i;
			on->key(on->arg, item, &row);
		}
	}
	qsort(exempt, exempts, sizeof(exempt[0]), compare_exempt);
	for (size_t i = 0; i < n; i++)
		match_client(items[i], exempt, exempts, on);
	free(exempt);
}
