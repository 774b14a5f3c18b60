package BootedTest;

# policyd under a real systemd, booted in a container by with-systemd.sh (beside
# the project, in shared/tools).
#
#   plan skip_all => BootedTest::why_not() if BootedTest::why_not();
#   BootedTest::boot($script);
#
# The script runs as root in the booted system, after prelude(), and prints
# `ok - NAME` or `not ok - NAME`.
#
# That needs root, and about a minute the first time, for a tree that is kept.
# So it is done where that tree is there already, or where
# POLICYD_SYSTEMD_TEST=1 asks for it (make test-systemd), and never with 0.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Temp qw(tempdir);
use Test::More;

use PolicydTest qw(policyd_path slurp spew top);

my $BOOT = top() . '/../shared/tools/with-systemd.sh';
my @PACKAGES = qw(libev4 libidn2-0 libiniparser1 libpq5 libpsl5 libsystemd0
    libxxhash0 perl postfix postgresql-15 publicsuffix);

sub is_asked_for { return ($ENV{POLICYD_SYSTEMD_TEST} // '') !~ /^0?$/ }

# Why not to boot, or nothing.
sub why_not {
	return 'POLICYD_SYSTEMD_TEST=0'
	    if ($ENV{POLICYD_SYSTEMD_TEST} // '') eq '0';
	return "no $BOOT" if !-x $BOOT;
	return 'only root can boot a container' if $> != 0;
	return if is_asked_for();
	# with-systemd.sh leaves a list of its packages with each tree.
	my $cache = $ENV{WSD_CACHE} || '/var/tmp/with-systemd';
	my $list = join "\n", sort(@PACKAGES), '';
	return if -e "$cache/base.stamp" &&
	    grep { slurp($_) eq $list } glob "$cache/layers/*.ok";
	return 'no tree to boot from yet: make test-systemd makes it';
}

# Boot, run the script, and have what it checks as tests of ours.  t/lib is
# /t/lib there, and what make install installs is below /stage.
sub boot {
	my ($script, @args) = @_;
	my $dir = tempdir(CLEANUP => 1);
	my @make = ('make', '-s', '-C', top(), 'install',
	    "DESTDIR=$dir/stage", 'B=' . abs_path(dirname(policyd_path())));

	is(system("@make >$dir/log 2>&1"), 0, 'make install') or
	    diag(slurp("$dir/log"));
	spew("$dir/script", prelude() . $script);
	open my $out, '-|', $BOOT, '--timeout', 240, '--packages', "@PACKAGES",
	    '--copy', "$dir/stage:/stage", '--copy', top() . '/t/lib:/t/lib',
	    '--journal', "$dir/journal", "$dir/script", @args or
	    die "$BOOT: $!";
	while (<$out>) {
		chomp;
		if (/^(not )?ok - (.*)/) {
			ok(!$1, $2);
		} elsif (/^note (.*)/) {
			note($1);
		} else {
			diag($_);
		}
	}
	close $out;
	my $status = $? >> 8;
	SKIP: {
		skip 'no container can be booted here', 1
		    if $status == 125 && !is_asked_for();
		is($status, 0, 'the script came to its end');
	}
	diag(grep { /policyd/ } split /^/, slurp("$dir/journal"))
	    if !Test::More->builder->is_passing && -e "$dir/journal";
	return;
}

sub prelude { return <<'END' }
#!/bin/bash
cd /
check() { # check NAME COMMAND...
	local name=$1 out
	shift
	if out=$("$@" 2>&1); then echo "ok - $name"; else
		echo "not ok - $name"
		echo "$* said: $out"
	fi
}
is() { # is NAME GOT EXPECTED
	if [ "$2" = "$3" ]; then echo "ok - $1"; else
		echo "not ok - $1"
		echo "got: $2"
		echo "expected: $3"
	fi
}
soon() { # soon COMMAND...: true within twenty seconds
	local end=$((SECONDS + 20))
	while [ $SECONDS -lt $end ]; do "$@" >/dev/null 2>&1 && return; sleep 0.05; done
	return 1
}
show() { systemctl show -P "$1" policyd.service; }
as_postgres() { runuser -u postgres -- "$@"; }
sql() { as_postgres psql -qXAt -d policyd -c "$1"; }

# ask RECIPIENT [USER]: the answer, asked as Debian's smtpd asks: chrooted to the
# queue directory, its user and primary group and no other.
ask() { perl /wsd/ask "$@" 2>&1; }
cat >/wsd/ask <<'ASK'
use Socket;
my ($recipient, $user) = (@ARGV, 'postfix');
my ($uid, $gid) = (getpwnam $user)[2, 3];
chroot '/var/spool/postfix' or die "chroot: $!";
chdir '/';
$) = "$gid $gid";
$( = $gid;
$< = $> = $uid;
$SIG{ALRM} = sub { die "no answer\n" };
alarm 20;
socket my $s, PF_UNIX, SOCK_STREAM, 0 or die $!;
connect $s, sockaddr_un('policyd/policyd.sock') or die "connect: $!\n";
syswrite $s, join "\n", qw(request=smtpd_access_policy protocol_state=RCPT
    protocol_name=ESMTP client_address=192.0.2.1 client_name=unknown
    sender=s@example.net sasl_username= recipient_count=0 size=0 queue_id=),
    "client_port=" . (1024 + $$ % 60000), "instance=$$.0", "recipient=$recipient",
    '', '';
sysread $s, my $answer, 1000 or die "closed\n";
print $answer =~ s/\n\n\z//r;
ASK
unknown='action=550 5.1.1 User unknown'

# As policyd(8) has it.  (The default holds every refusal back for five seconds.)
cp -r /stage/. /
sed -i 's/^#errors_wait = .*/errors_wait = 100ms/' /etc/policyd/policyd.ini
check 'sysusers' systemd-sysusers
check 'tmpfiles' systemd-tmpfiles --create policyd.conf
check 'daemon-reload' systemctl daemon-reload
check 'createdb' as_postgres createdb -E UTF8 -T template0 policyd
check 'schema' as_postgres policyctl schema install
check 'domain' as_postgres policyctl domain add example.org
check 'address' as_postgres policyctl address add alice@example.org
END

1;
