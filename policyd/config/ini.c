#include "config/ini.h"

#include "base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <iniparser/iniparser.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	LINE_MAX_BYTES = 1000,       /* iniparser's buffer is 1024 */
	FILE_MAX_BYTES = 1024 * 1024,
};

struct entry {
	char *section;
	char *key; /* "" for the section's own line */
	int line;
	bool asked;
};

struct ini {
	dictionary *values;
	struct entry *entries;
	size_t count;
	bool mistaken; /* lines were blanked */
};

/* What reading goes on with: where it is, and whom to tell. */
struct reader {
	struct ini *ini;
	ini_error_fn *error;
	void *arg;
	char section[LINE_MAX_BYTES + 1];
	int line;
};

static struct entry *
find(struct ini *ini, const char *section, const char *key)
{
	for (size_t i = 0; i < ini->count; i++)
		if (strcmp(ini->entries[i].section, section) == 0 &&
		    strcmp(ini->entries[i].key, key) == 0)
			return &ini->entries[i];
	return NULL;
}

static const char *
add(struct reader *r, const char *key)
{
	struct ini *ini = r->ini;
	const struct entry *first = find(ini, r->section, key);
	static char what[80];

	if (first != NULL) {
		snprintf(what, sizeof(what), "stands a second time (first: line %d)",
		    first->line);
		return what;
	}
	ini->entries = mem_realloc(ini->entries,
	    (ini->count + 1) * sizeof(ini->entries[0]));
	ini->entries[ini->count++] = (struct entry){
	    mem_strdup(r->section), mem_strdup(key), r->line, false};
	return NULL;
}

/* Lower case, as iniparser makes it. */
static void
copy_name(char *out, struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		out[i] = (char)tolower((unsigned char)s.p[i]);
	out[s.n] = '\0';
}

static bool
is_comment(struct str s)
{
	return s.n == 0 || s.p[0] == '#' || s.p[0] == ';';
}

/* What iniparser would silently drop of this value, or NULL. */
static const char *
value_error(struct str v)
{
	if (v.n > 0 && (v.p[0] == '"' || v.p[0] == '\'')) {
		const char *end = memchr(v.p + 1, v.p[0], v.n - 1);

		if (end == NULL)
			return "the quote is not closed";
		if (!is_comment(str_trim(str_from(v, (size_t)(end - v.p) + 1))))
			return "text after the closing quote";
		return NULL;
	}
	for (size_t i = 0; i < v.n; i++)
		if ((v.p[i] == ';' || v.p[i] == '#') && i > 0 &&
		    v.p[i - 1] != ' ' && v.p[i - 1] != '\t')
			return "a value with ';' or '#' in it must be quoted";
	return NULL;
}

/*
 * A line without its ends; NULL if iniparser may have it as it is.  key is
 * empty, and filled where there is one.
 */
static const char *
read_line(struct reader *r, struct str line, char *key)
{
	const char *eq;
	const char *why;

	if (is_comment(line))
		return NULL;
	if (line.n > LINE_MAX_BYTES)
		return "a line of over 1000 bytes";
	if (line.p[0] == '[') {
		if (line.p[line.n - 1] != ']')
			return "a section's line ends in ']'";
		copy_name(r->section,
		    str_trim((struct str){line.p + 1, line.n - 2}));
		return add(r, "");
	}
	eq = memchr(line.p, '=', line.n);
	if (eq == NULL)
		return "neither [section] nor key = value";
	copy_name(key, str_trim((struct str){line.p, (size_t)(eq - line.p)}));
	if (key[0] == '\0')
		return "no key before '='";
	if (strchr(key, ':') != NULL)
		return "a key has no ':'";
	why = value_error(str_trim(str_from(line, (size_t)(eq - line.p) + 1)));
	if (why == NULL)
		why = add(r, key);
	return why;
}

/* Read all of it; lines with a mistake become blank. */
static void
read_lines(struct reader *r, char *text, size_t n)
{
	char key[LINE_MAX_BYTES + 1];

	for (size_t at = 0; at < n;) {
		const char *lf = memchr(text + at, '\n', n - at);
		size_t len = lf == NULL ? n - at : (size_t)(lf - (text + at));
		struct str line = str_trim((struct str){text + at, len});
		const char *why;

		if (line.n > 0 && line.p[line.n - 1] == '\r')
			line = str_trim((struct str){line.p, line.n - 1});
		r->line++;
		key[0] = '\0';
		if (memchr(line.p, '\0', line.n) != NULL)
			why = "a NUL byte";
		else if (line.n > 0 && line.p[line.n - 1] == '\\')
			why = "a value stands on one line";
		else
			why = read_line(r, line, key);
		if (why != NULL) {
			r->error(r->arg, r->line, r->section, key, why);
			r->ini->mistaken = true;
			memset(text + at, ' ', len);
		}
		at += len + 1;
	}
}

static int
quiet(const char *fmt, ...)
{
	(void)fmt;
	return 0;
}

/*
 * iniparser reads a named file only: give it what is left of ours.  It does not
 * look whether there is memory for its first tables, but there is: what we have
 * just let go.
 */
static dictionary *
parse(const char *text, size_t n)
{
	enum { TABLES_BYTES = 16 * 1024 };
	char name[64];
	dictionary *d = NULL;
	int fd = memfd_create("policyd.ini", MFD_CLOEXEC);

	if (fd == -1)
		return NULL;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	iniparser_set_error_callback(quiet);
	if (write(fd, text, n) == (ssize_t)n) {
		free(mem_alloc(TABLES_BYTES));
		d = iniparser_load(name);
	}
	close(fd);
	return d;
}

static char *
read_file(const char *path, size_t *n)
{
	FILE *f = fopen(path, "re");
	char *text;

	if (f == NULL)
		return NULL;
	text = mem_alloc(FILE_MAX_BYTES + 1);
	*n = fread(text, 1, FILE_MAX_BYTES, f);
	text[*n] = '\0';
	if (ferror(f) != 0 || fgetc(f) != EOF) {
		if (ferror(f) == 0)
			errno = EFBIG;
		free(text);
		text = NULL;
	}
	fclose(f);
	return text;
}

struct ini *
ini_load(const char *path, ini_error_fn *error, void *arg)
{
	struct ini *ini;
	struct reader *r;
	size_t n;
	char *text = read_file(path, &n);

	if (text == NULL) {
		error(arg, 0, "", "", strerror(errno));
		return NULL;
	}
	ini = mem_zalloc(sizeof(*ini));
	r = mem_zalloc(sizeof(*r));
	*r = (struct reader){.ini = ini, .error = error, .arg = arg};
	read_lines(r, text, n);
	free(r);
	ini->values = parse(text, n);
	if (ini->values == NULL)
		error(arg, 0, "", "", "iniparser cannot read it");
	free(text);
	return ini;
}

void
ini_free(struct ini *ini)
{
	if (ini == NULL)
		return;
	for (size_t i = 0; i < ini->count; i++) {
		free(ini->entries[i].section);
		free(ini->entries[i].key);
	}
	free(ini->entries);
	if (ini->values != NULL)
		iniparser_freedict(ini->values);
	free(ini);
}

const char *
ini_value(struct ini *ini, const char *section, const char *key, int *line)
{
	char name[128];
	struct entry *own = find(ini, section, "");
	struct entry *e = find(ini, section, key);
	const char *value;

	*line = 0;
	if (own != NULL)
		own->asked = true;
	if (e == NULL || ini->values == NULL)
		return NULL;
	e->asked = true;
	*line = e->line;
	snprintf(name, sizeof(name), "%s:%s", section, key);
	value = iniparser_getstring(ini->values, name, NULL);
	/* What it has no memory for iniparser leaves out. */
	if (value == NULL && !ini->mistaken)
		mem_must(NULL);
	return value;
}

void
ini_report_unknown(struct ini *ini, ini_error_fn *error, void *arg)
{
	for (size_t i = 0; i < ini->count; i++) {
		const struct entry *e = &ini->entries[i];

		if (!e->asked)
			error(arg, e->line, e->section, e->key,
			    e->key[0] == '\0' ? "no such section" :
						"no such key");
	}
}
