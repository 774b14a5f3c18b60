#!/bin/sh
# packages.sh PACKAGE... - see to it that these Debian packages are installed.
#
# Nothing is missing: nothing happens, and no package manager runs.  Otherwise
# root installs what is missing, and anybody else is told the command.
#
# A machine that only builds or tests policyd must not come out of it with
# services that it had not before.  So nothing is started, Postfix gets no
# main.cf, and PostgreSQL no "main" cluster: the tests make clusters of their own.
set -eu

if ! command -v dpkg-query >/dev/null; then
	echo "packages.sh: no Debian; the equivalents of these are needed: $*" >&2
	exit 0
fi

installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 2>/dev/null |
	sed -n 's/^installed //p')
missing=
for p; do
	case "
$installed
" in
	*"
$p
"*) ;;
	*) missing="$missing $p" ;;
	esac
done
[ -n "$missing" ] || exit 0

# Has apt ever been told what there is to install?
update=
# shellcheck disable=SC2086
apt-cache show --no-all-versions $missing >/dev/null 2>&1 || update=yes

if [ "$(id -u)" != 0 ]; then
	command="apt-get install -y --no-install-recommends$missing"
	[ -z "$update" ] || command="sh -c 'apt-get update && $command'"
	cat >&2 <<-END
	Packages are missing.  This command installs them:

	    sudo $command

	END
	exit 1
fi

undo=
# shellcheck disable=SC2329 # called by the traps
clean() {
	eval "$undo"
	undo=
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# What invoke-rc.d and deb-systemd-invoke ask before they start anything.
if [ ! -e /usr/sbin/policy-rc.d ]; then
	undo="rm -f /usr/sbin/policy-rc.d; $undo"
	printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
	chmod 755 /usr/sbin/policy-rc.d
fi

export DEBIAN_FRONTEND=noninteractive

log=$(mktemp)
undo="rm -f $log; $undo"

# What apt says is of interest only where it failed.
apt() {
	apt-get -q -y -o Dpkg::Use-Pty=0 "$@" </dev/null >"$log" 2>&1 && return
	cat "$log" >&2
	echo "packages.sh: apt-get $* failed" >&2
	exit 1
}

echo "packages.sh: installing$missing"
[ -z "$update" ] || apt update

case " $missing " in
*' postfix '*)
	echo 'postfix postfix/main_mailer_type select No configuration' |
		debconf-set-selections
	;;
esac

# Whether postgresql-15 makes a cluster is said in a file of postgresql-common's,
# which therefore comes first; the file gets its old contents back.
case " $missing " in
*' postgresql-'[0-9]*)
	conf=/etc/postgresql-common/createcluster.conf
	apt install --no-install-recommends postgresql-common
	[ -e $conf.policyd ] || cp -p $conf $conf.policyd
	undo="mv -f $conf.policyd $conf; $undo"
	echo 'create_main_cluster = false' >>$conf
	echo "packages.sh: PostgreSQL comes without a cluster;" \
		"\`pg_createcluster 15 main --start' makes one"
	;;
esac

# shellcheck disable=SC2086
apt install --no-install-recommends $missing

# These are here to be read from: they do not start with the machine, either.
for p in postgrey sqlgrey; do
	case " $missing " in
	*" $p "*) update-rc.d "$p" disable >"$log" 2>&1 || cat "$log" >&2 ;;
	esac
done
