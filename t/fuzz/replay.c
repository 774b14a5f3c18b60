#include "fuzz.h"

#include "../unit/tap.h"

#include <dirent.h>
#include <stdlib.h>

/* replay FOLDER: every file in it through the target, which must survive. */
int
main(int argc, char **argv)
{
	static uint8_t data[1 << 20];
	char path[4096];
	struct dirent *e;
	int files = 0;
	DIR *d = argc == 2 ? opendir(argv[1]) : NULL;

	if (d == NULL) {
		fprintf(stderr, "usage: replay FOLDER\n");
		return 2;
	}
	while ((e = readdir(d)) != NULL) {
		FILE *f;
		size_t n;

		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", argv[1], e->d_name);
		f = fopen(path, "rb");
		if (f == NULL)
			continue;
		n = fread(data, 1, sizeof(data), f);
		fclose(f);
		LLVMFuzzerTestOneInput(data, n);
		files++;
	}
	closedir(d);
	ok(files > 0, "%d inputs of %s", files, argv[1]);
	return tap_done();
}
