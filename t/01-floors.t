#!/bin/sh
# An #include "…" names a header of a lower floor, or of its own folder.
# The floors, lowest first; main.c and ctl stand above all of them, and the
# administrator's tool, which judges requests by itself, has no use for net.
cd "$(dirname "$0")/.." || exit 1
exec awk '
BEGIN {
	n = split("base mail config db tables policy net", name)
	for (i = 1; i <= n; i++) floor[name[i]] = i
	top = n + 1
	generated["schema_version.h"] = 1
	good = 1
	tests = 0
}
function room(path) {
	sub(/^policyd\//, "", path)
	return path ~ /\// ? substr(path, 1, index(path, "/") - 1) : "main"
}
/^#include "/ {
	dep = $2
	gsub(/"/, "", dep)
	if (dep in generated) next
	mine = room(FILENAME)
	theirs = room(dep)
	if (mine == "ctl")
		bad = theirs != "ctl" && floor[theirs] > floor["policy"]
	else if (mine == "main")
		bad = !(theirs in floor)
	else
		bad = theirs != mine && (!(theirs in floor) || floor[theirs] >= floor[mine])
	if (bad) good = 0
	printf "%sok %d - %s uses %s\n", bad ? "not " : "", ++tests, FILENAME, dep
}
END { printf "1..%d\n", tests; exit !good }
' policyd/*.[ch] policyd/*/*.[ch]
