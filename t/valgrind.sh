#!/bin/sh
# valgrind.sh FOLDER COMMAND... - runs the command with $POLICYD and $POLICYCTL
# being programs that run those in FOLDER under $VALGRIND, and $UNDER what does
# so with others; fails if valgrind had anything to say.
#
# Each process, the children that write copies too, leaves a log of its own in
# FOLDER/valgrind (made anew); a clean one is empty.  They alone decide: tests
# that measure time and memory may well fail so.
set -eu

dir=$1
shift
logs=$dir/valgrind
rm -rf "$logs"
mkdir -p -m 1777 "$logs" # who started as root is somebody else soon

UNDER="$VALGRIND --log-file=$logs/%p"
export UNDER
for program in policyd policyctl; do
	cat >"$dir/$program-valgrind" <<EOF
#!/bin/sh
exec $UNDER '$dir/$program' "\$@"
EOF
	chmod +x "$dir/$program-valgrind"
done
POLICYD=$dir/policyd-valgrind POLICYCTL=$dir/policyctl-valgrind "$@" ||
	echo 'valgrind.sh: some tests failed; what valgrind says decides' >&2

all=$(find "$logs" -type f | wc -l)
bad=$(find "$logs" -type f -size +0 | wc -l)
find "$logs" -type f -size +0 -exec sh -c 'echo "== $1"; cat "$1"' sh {} \;
echo "valgrind.sh: $all processes, $bad with errors"
[ "$all" -gt 0 ] && [ "$bad" -eq 0 ]
