#!/bin/bash
# check.sh LOG COMMAND...: run the tests; what failed is said once more at the
# end, which is the part of a long run that is read, and kept.
log=$1
shift
set -o pipefail
"$@" 2>&1 | tee "$log" && exit
status=$?

printf '\n---- what failed, once more; all of it is in %s\n' "$log"
awk '
	/^#[ \t]+Failed test/ { left = 9 }
	/^# Looks like/ { left = 0; print }
	!/^#/ { left = 0 }
	left > 0 { left--; print substr($0, 1, 400) }' "$log" | tail -n 100
exit "$status"
