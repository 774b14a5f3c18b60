# The steps sql/NNN-NAME.sql as C, for policyctl: see policyd/ctl/steps.h.

BEGIN {
	print "#include \"ctl/steps.h\""
}

FNR == 1 {
	finish()
	name = FILENAME
	sub(/.*\//, "", name)
	sub(/\.sql$/, "", name)
	version = name + 0
	printf "\nstatic const char *const step_%d[] = {\n", version
	row[++steps] = sprintf("{%d, \"%s\", step_%d},", version, name, version)
}

{
	# '?' as well: two of them may begin a trigraph.
	gsub(/[\\"?]/, "\\\\&")
	gsub(/\t/, "\\t")
	printf "    \"%s\\n\",\n", $0
}

END {
	finish()
	print "\nconst struct step steps[] = {"
	for (i = 1; i <= steps; i++)
		print "    " row[i]
	print "};"
	print "const size_t step_count = sizeof(steps) / sizeof(steps[0]);"
}

function finish() {
	if (steps > 0)
		print "    NULL,\n};"
}
