#include <libpq-fe.h>

/* What goes to PostgreSQL comes here; its answers are of no interest. */
static int take_copy(PGconn *db, const char *p, int n);
#define PQputCopyData take_copy

#include "ctl/databases.c"
#include "ctl/foreign.c"
#include "ctl/import.c"
#include "ctl/key.c"

#include "fuzz.h"

#include <math.h>

/*
 * A byte for the settings, one for where a row is from, and its cells, a NUL
 * behind each: of sqlgrey's and iRedAPD's tables, or a key and a value of
 * postgrey's.  Each is counted once, as read or as skipped, and whatever is
 * written is a row that PostgreSQL takes: one bad row would end it all.
 */

enum { CELLS = 7, COLUMNS = 8, NOW = 1700000000 };
enum { CLIENT, SENDER, RECIPIENT, FIRST, LAST, PASSED, COUNT, REASON };

static const struct {
	row_fn *take;
	int cells;
} tables[] = {{take_connect, 4}, {take_awl, 2}, {take_tracking, 7},
    {take_whitelist, 3}, {take_domain, 2}, {NULL, 2}};

static uint64_t rows;

/* ---- of policyctl, what is not called here ---- */

void
ctl_complain(const char *hint, const char *fmt, ...)
{
	(void)hint;
	fuzz_failed(__FILE__, __LINE__, fmt);
}

void
ctl_complain_of(const PGresult *result)
{
	(void)result;
}

struct config *
ctl_config(const struct ctl *ctl)
{
	(void)ctl;
	return NULL;
}

PGconn *
ctl_open(const struct ctl *ctl, const char *conninfo)
{
	(void)ctl, (void)conninfo;
	return NULL;
}

PGresult *
ctl_query(struct ctl *ctl, const char *sql, size_t n, const char *const *params)
{
	(void)ctl, (void)sql, (void)n, (void)params;
	return NULL;
}

bool
ctl_script(struct ctl *ctl, const char *sql)
{
	(void)ctl, (void)sql;
	return false;
}

/* ---- what is written ---- */

/* A column as COPY reads it; false: it is null. */
static bool
unescape(struct str s, char *buf, struct str *out)
{
	static const struct str null = STR_INIT("\\N");
	size_t n = 0;

	if (str_eq(s, null))
		return false;
	for (size_t i = 0; i < s.n; i++) {
		char c = s.p[i];

		CHECK(c != '\n' && c != '\r' && c != '\0');
		if (c == '\\') {
			CHECK(++i < s.n && strchr("\\tnr", s.p[i]) != NULL);
			c = s.p[i] == 't' ? '\t' :
			    s.p[i] == 'n' ? '\n' :
			    s.p[i] == 'r' ? '\r' :
					    '\\';
		}
		buf[n++] = c;
	}
	*out = (struct str){buf, n};
	CHECK(utf8_valid(*out));
	return true;
}

static void
check_printable(struct str s, size_t max)
{
	CHECK(s.n <= max);
	for (size_t i = 0, len; i < s.n; i += len)
		CHECK((len = utf8_printable_len(s.p + i, s.n - i)) > 0);
}

/* Years 1 to 9999 or so: to_timestamp() fails elsewhere. */
static void
check_time(struct str s)
{
	double t = strtod(s.p, NULL);

	CHECK(isfinite(t) && t >= -62e9 && t <= NOW);
}

static void
check_row(struct str v[COLUMNS], const bool has[COLUMNS])
{
	char *end;

	CHECK(has[CLIENT] && has[SENDER] == has[RECIPIENT]);
	CHECK(has[SENDER] == has[FIRST]);
	check_printable(v[CLIENT], 255);
	CHECK(v[CLIENT].n > 0);
	for (size_t i = 0; i < v[CLIENT].n; i++)
		CHECK(v[CLIENT].p[i] != ' ' &&
		    (v[CLIENT].p[i] < 'A' || v[CLIENT].p[i] > 'Z'));
	if (has[SENDER]) {
		check_printable(v[SENDER], SENDER_MAX_BYTES);
		check_printable(v[RECIPIENT], ADDRESS_MAX_BYTES);
	}
	for (int i = FIRST; i <= PASSED; i++)
		if (has[i])
			check_time(v[i]);
	if (has[COUNT]) {
		long n = strtol(v[COUNT].p, &end, 10);

		CHECK(*end == '\0' && n >= 0 && n <= INT32_MAX);
	}
	CHECK(has[REASON] == (!has[SENDER] && !has[LAST]));
}

static int
take_copy(PGconn *db, const char *p, int n)
{
	char buf[COLUMNS][ROW_MAX_BYTES + 1];
	struct str rest = {p, (size_t)n}, v[COLUMNS] = {{NULL, 0}};
	bool has[COLUMNS];

	(void)db;
	rows++;
	CHECK(n > 0 && n < ROW_MAX_BYTES && p[n - 1] == '\n');
	rest.n--;
	for (int i = 0; i < COLUMNS; i++) {
		const char *tab = memchr(rest.p, '\t', rest.n);
		struct str column = {rest.p,
		    tab != NULL ? (size_t)(tab - rest.p) : rest.n};

		CHECK((tab == NULL) == (i == COLUMNS - 1));
		has[i] = unescape(column, buf[i], &v[i]);
		buf[i][has[i] ? v[i].n : 0] = '\0';
		rest = str_from(rest, column.n + (tab != NULL));
	}
	check_row(v, has);
	return 1;
}

/* ---- what is read ---- */

/* As postgrey.c does. */
static void
take_postgrey(struct import *im, struct str key, struct str value)
{
	struct foreign f;
	struct import_key k;

	switch (foreign_postgrey(key, value, &f)) {
	case FOREIGN_KEY:
		k = (struct import_key){f.client, f.sender, f.recipient,
		    (double)f.first, (double)f.last,
		    (double)(f.last - f.first) >= 300,
		    f.first == f.last ? 1 : 2};
		import_key(im, &k);
		break;
	case FOREIGN_CLIENT:
		import_client(im, &f.client, f.count, (double)f.last);
		break;
	case FOREIGN_HASHED:
	case FOREIGN_NONE:
		import_skip(im, IMPORT_KEYS, SKIP_UNKNOWN);
		break;
	}
}

static void
take_row(struct import *im, row_fn *take, int cells, struct str cell[CELLS])
{
	PGresAttDesc columns[CELLS];
	PGresult *result = PQmakeEmptyPGresult(NULL, PGRES_SINGLE_TUPLE);
	char name[] = "column";

	for (int i = 0; i < cells; i++)
		columns[i] = (PGresAttDesc){.name = name};
	CHECK(PQsetResultAttrs(result, cells, columns));
	for (int i = 0; i < cells; i++) {
		char *text = mem_strndup(cell[i].p, cell[i].n);

		CHECK(PQsetvalue(result, 0, i, text, (int)cell[i].n));
		free(text);
	}
	take(im, result, 0);
	PQclear(result);
}

static uint64_t
counted(const struct import *im)
{
	uint64_t n = 0;

	for (int i = 0; i < IMPORT_WHATS; i++) {
		n += im->read[i];
		CHECK(skipped(im, i) <= im->read[i]);
	}
	return n;
}

static void
check_input(const uint8_t *settings, struct str rest)
{
	static struct config config = {.greylist = {.retry_window_s = 86400,
	    .max_age_s = 35 * 86400., .delay_s = 60}};
	struct ctl ctl = {0};
	struct import im = {.ctl = &ctl, .config = &config, .now = NOW};
	size_t from = settings[1] % (sizeof(tables) / sizeof(tables[0]));
	struct str cell[CELLS] = {{NULL, 0}};
	uint64_t taken;

	im.key = (struct key_options){
	    .host = {settings[0] & 1, settings[0] & 2 ? 24 : 32,
		settings[0] & 4 ? 64 : 56},
	    .fold_local_part = settings[0] & 8};
	for (int i = 0; i < tables[from].cells; i++) {
		const char *end = memchr(rest.p, '\0', rest.n);

		cell[i] = (struct str){rest.p,
		    end != NULL ? (size_t)(end - rest.p) : rest.n};
		rest = str_from(rest, cell[i].n + (end != NULL));
	}
	rows = 0;
	if (tables[from].take != NULL)
		take_row(&im, tables[from].take, tables[from].cells, cell);
	else
		take_postgrey(&im, cell[0], cell[1]);
	CHECK(counted(&im) == 1 && !im.failed);
	taken = im.read[IMPORT_KEYS] + im.read[IMPORT_CLIENTS];
	for (int i = 0; i < IMPORT_WHATS; i++)
		taken -= i == IMPORT_ALLOWED ? 0 : skipped(&im, i);
	if (im.read[IMPORT_ALLOWED] == 0)
		CHECK(rows == taken);
	else
		CHECK((rows > 0) == (skipped(&im, IMPORT_ALLOWED) == 0));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static bool ready;
	char *buf;

	if (!ready)
		CHECK(host_init());
	ready = true;
	if (n < 2)
		return 0;
	/* A buffer of its own, so that a read past its end is seen. */
	buf = memcpy(mem_alloc(n), data, n);
	check_input(data, (struct str){buf + 2, n - 2});
	free(buf);
	return 0;
}
