#!/usr/bin/perl
# The units, and policyd under a real systemd.
#
# The second part boots one in a container, by with-systemd.sh (beside the
# project, in shared/tools).  That needs root, and about a minute the first time,
# for a tree that it keeps.  So it is done where that tree is there already, or
# where POLICYD_SYSTEMD_TEST=1 asks for it (make test-systemd), and never with 0.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Temp qw(tempdir);
use Test::More;

my $TOP = abs_path(dirname(__FILE__) . '/..');
my $BOOT = "$TOP/../shared/tools/with-systemd.sh";
my @PACKAGES = qw(libev4 libidn2-0 libiniparser1 libpq5 libpsl5 libsystemd0
    libxxhash0 perl postfix postgresql-15 publicsuffix);
my $wanted = $ENV{POLICYD_SYSTEMD_TEST} // '';
my $dir = tempdir(CLEANUP => 1);

chdir $TOP or die $!;
my $policyd = $ENV{POLICYD} || 'build/policyd';

sub slurp {
	my ($file) = @_;
	open my $in, '<', $file or die "$file: $!";
	local $/;
	return scalar <$in>;
}

sub spew {
	my ($file, $text) = @_;
	open my $out, '>', $file or die "$file: $!";
	print {$out} $text;
	close $out or die "$file: $!";
	return;
}

subtest 'units' => sub {
	plan skip_all => 'no systemd-analyze' if !qx(which systemd-analyze);

	my $said = qx(systemd-analyze security --offline=true --no-pager \\
	    --threshold=15 init/policyd.service 2>&1);
	my ($score) = $said =~ /exposure level .*: ([\d.]+)/;
	is($?, 0, 'exposure is at most 1.5') or diag($said);
	note("exposure: $score") if defined $score;

	# The programs need not be installed here, nor the other units.
	my $unit = slurp('init/policyd.service');
	my $program = abs_path($policyd) // '/bin/true';
	$unit =~ s{^ExecStart=\S+}{ExecStart=$program}m;
	spew("$dir/policyd.service", $unit);
	spew("$dir/policyd.socket", slurp('init/policyd.socket'));
	$said = qx(systemd-analyze verify --man=no --recursive-errors=no \\
	    $dir/policyd.service $dir/policyd.socket 2>&1);
	is($said, '', 'systemd-analyze verify has nothing to say');
};

# Why not to boot, or nothing.
sub reason {
	return 'POLICYD_SYSTEMD_TEST=0' if $wanted eq '0';
	return "no $BOOT" if !-x $BOOT;
	return 'only root can boot a container' if $> != 0;
	return if $wanted;
	# with-systemd.sh leaves a list of its packages with each tree.
	my $cache = $ENV{WSD_CACHE} || '/var/tmp/with-systemd';
	my $list = join "\n", sort(@PACKAGES), '';
	return if -e "$cache/base.stamp" &&
	    grep { slurp($_) eq $list } glob "$cache/layers/*.ok";
	return 'no tree to boot from yet: make test-systemd makes it';
}

my $why_not = reason();
SKIP: {
	skip $why_not, 1 if defined $why_not;

	my @make = ('make', '-s', 'install', "DESTDIR=$dir/stage",
	    'B=' . dirname($policyd));
	is(system("@make >$dir/log 2>&1"), 0, 'make install') or
	    diag(slurp("$dir/log"));
	spew("$dir/script", do { local $/; <DATA> });
	open my $out, '-|', $BOOT, '--timeout', 120, '--packages', "@PACKAGES",
	    '--copy', "$dir/stage:/stage", '--journal', "$dir/journal",
	    "$dir/script" or die "$BOOT: $!";
	while (<$out>) {
		chomp;
		if (/^(not )?ok - (.*)/) {
			ok(!$1, $2);
		} else {
			diag($_);
		}
	}
	close $out;
	my $status = $? >> 8;
	skip 'no container can be booted here', 1 if $status == 125 && !$wanted;
	is($status, 0, 'the script came to its end');
	if (!Test::More->builder->is_passing && -e "$dir/journal") {
		diag(grep { /policyd/ } split /^/, slurp("$dir/journal"));
	}
}

done_testing;

__DATA__
#!/bin/bash
# Runs as root in the booted system.  Prints `ok - NAME` or `not ok - NAME`.
cd /
name=
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
soon() { # soon COMMAND...: true within ten seconds
	for _ in {1..200}; do "$@" >/dev/null 2>&1 && return; sleep 0.05; done
	return 1
}
show() { systemctl show -P "$1" policyd.service; }
as_postgres() { runuser -u postgres -- "$@"; }
sql() { as_postgres psql -qXAt -d policyd -c "$1"; }

# ask RECIPIENT [USER]: the answer, asked as Debian's smtpd asks: chrooted to the
# queue directory, its user and primary group and no other.
ask() { perl /wsd/ask "$@" 2>&1; }
cat >/wsd/ask <<'END'
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
END

answered() { [ "$(ask alice@example.org)" = action=DUNNO ]; }
known_recipient() { case "$(ask alice@example.org)" in
	action=DUNNO | *Greylisted*) ;; *) false ;; esac; }
carol_exists() { [ "$(ask carol@example.org)" = action=DUNNO ]; }
unknown='action=550 5.1.1 User unknown'

# ---- as policyd(8) has it

cp -r /stage/. /
# (The default holds every refusal back for five seconds.)
sed -i 's/^#errors_wait = .*/errors_wait = 100ms/' /etc/policyd/policyd.ini
check 'sysusers' systemd-sysusers
check 'tmpfiles' systemd-tmpfiles --create policyd.conf
check 'daemon-reload' systemctl daemon-reload
is 'verify, with the other units there' \
	"$(systemd-analyze verify --man=no policyd.service policyd.socket 2>&1)" ''
is 'the directory of the socket' \
	"$(stat -c '%U:%G %a' /var/spool/postfix/policyd)" 'policyd:postfix 710'
check 'createdb' as_postgres createdb -E UTF8 -T template0 policyd
check 'schema' as_postgres policyctl schema install
check 'domain' as_postgres policyctl domain add example.org
check 'address' as_postgres policyctl address add alice@example.org
check 'enable --now' systemctl enable --now policyd.socket policyd.service
is 'active' "$(show ActiveState)" active
is 'the socket' "$(stat -c '%U:%G %a' /var/spool/postfix/policyd/policyd.sock)" \
	'policyd:postfix 660'
is 'runs as' "$(ps -o user:16=,group:16= -p "$(show MainPID)" | xargs)" \
	'policyd policyd'
is 'a known recipient, greylisted' "$(ask alice@example.org)" \
	'action=DEFER_IF_PERMIT 4.2.0 Greylisted, please try again in 60 seconds'
is 'one row of it' "$(sql 'SELECT count(*) FROM policyd.greylist')" 1
check 'a client that need not wait' as_postgres policyctl greylist allow 192.0.2.0/24
check 'it need not' soon answered
check 'the client that Postfix will have' \
	as_postgres policyctl greylist allow 127.0.0.1
is 'an unknown one' "$(ask nobody@example.org)" "$unknown"
is 'who is not Postfix may not ask' "$(ask alice@example.org nobody)" \
	'connect: Permission denied'

# ---- a real Postfix

postconf -e mydestination=localhost relay_domains=example.org \
	'smtpd_recipient_restrictions=check_policy_service unix:policyd/policyd.sock' \
	smtpd_reject_unlisted_recipient=no
systemctl restart postfix
smtp=$(printf '%s\n' 'EHLO wsd' 'MAIL FROM:<s@example.net>' \
	'RCPT TO:<alice@example.org>' 'RCPT TO:<nobody@example.org>' QUIT |
	perl -MIO::Socket::INET -e '
	alarm 30;
	my $s = IO::Socket::INET->new("127.0.0.1:25") or die "smtp: $@";
	my $reply = sub { while (<$s>) { last if /^\d{3} /; } print };
	$reply->();
	while (my $line = <STDIN>) { chomp $line; print $s "$line\r\n"; $reply->() }' 2>&1)
is 'Postfix: accepted' "$(sed -n 4p <<<"$smtp" | cut -c-9)" '250 2.1.5'
is 'Postfix: refused' "$(sed -n 5p <<<"$smtp" | tr -d '\r')" \
	'550 5.1.1 <nobody@example.org>: Recipient address rejected: User unknown'
is 'postfix check has nothing to say' "$(postfix check 2>&1)" ''

# ---- reload

pid=$(show MainPID)
strace -qq -s 200 -o /wsd/trace -e trace=sendto,sendmsg -p "$pid" &
tracer=$!
soon grep -q TracerPid:.*[1-9] "/proc/$pid/status"
check 'reload' systemctl reload policyd.service
soon grep -q 'RELOADING=1.*' /wsd/trace
soon grep -q READY=1 /wsd/trace
kill $tracer
wait $tracer 2>/dev/null
is 'RELOADING, then READY' \
	"$(grep -Eo 'RELOADING=1|READY=1' /wsd/trace | xargs)" 'RELOADING=1 READY=1'
is 'active' "$(show ActiveState)" active
cp -p /etc/policyd/policyd.ini /wsd/ini
echo 'nonsense = 1' >>/etc/policyd/policyd.ini
systemctl reload policyd.service
check 'a bad file is complained of' soon sh -c \
	'journalctl -q -u policyd.service -p err | grep nonsense'
soon [ "$(show ActiveState)" = active ]
cp -p /wsd/ini /etc/policyd/policyd.ini
is 'the same process goes on' "$(show MainPID) $(show ActiveState)" "$pid active"
is 'and answers' "$(ask nobody@example.org)" "$unknown"

# ---- kill

is 'no start limit' "$(show StartLimitIntervalUSec)" 0
for _ in {1..7}; do
	kill -KILL "$(show MainPID)"
	ask nobody@example.org
	echo
done >/wsd/answers 2>&1
is 'killed seven times, and no question was refused' "$(uniq -c /wsd/answers | xargs)" \
	"7 $unknown"
is 'restarted' "$(show NRestarts)" 7

# ---- watchdog

is 'the watchdog is set' "$(show WatchdogUSec)" 30s
mkdir -p /run/systemd/system/policyd.service.d
printf '[Service]\nWatchdogSec=1s\n' >/run/systemd/system/policyd.service.d/test.conf
systemctl daemon-reload
systemctl restart policyd.service
pid=$(show MainPID)
sleep 2.5
is 'it is fed' "$(show MainPID)" "$pid"
kill -STOP "$pid"
other() { [ "$(show MainPID)" != "$pid" ] && [ "$(show SubState)" = running ]; }
check 'a process that hangs is replaced' soon other
rm -r /run/systemd/system/policyd.service.d
systemctl daemon-reload

# ---- PostgreSQL goes away

check 'a copy of the tables' \
	soon sh -c '[ "$(find /var/lib/policyd -type f -size +0 -user policyd)" ]'
systemctl stop postgresql@15-main.service
is 'without PostgreSQL' "$(ask nobody@example.org)" "$unknown"
check 'restart without PostgreSQL' systemctl restart policyd.service
is 'from the copy' "$(ask nobody@example.org)" "$unknown"
check 'also the known one' soon known_recipient
systemctl start postgresql@15-main.service
check 'PostgreSQL is back' as_postgres policyctl address add carol@example.org
check 'and what it says now is in force' soon carol_exists

# ---- stop

check 'stop' systemctl stop policyd.service
is 'exit' "$(show Result) $(show ExecMainCode) $(show ExecMainStatus)" 'success 1 0'
is 'the socket stays, and starts it again' "$(ask nobody@example.org)" "$unknown"
check 'stop both' systemctl stop policyd.socket policyd.service
is 'the socket is gone' "$(ls -A /var/spool/postfix/policyd)" ''

# ---- the journal

journalctl -q -u policyd.service _COMM=policyd -o json |
	perl -MJSON::PP -ne '
	BEGIN { @level{qw(emerg alert crit error warning notice info debug)} = 0 .. 7 }
	my $e = decode_json($_);
	my ($level) = $e->{MESSAGE} =~ /^level=(\w+) msg="/;
	$n++;
	print $_ if !defined $level || $level{$level} != $e->{PRIORITY} ||
	    $e->{SYSLOG_IDENTIFIER} ne "policyd";
	END { print "no lines" if !$n }' >/wsd/odd
is 'lines have their priorities' "$(cat /wsd/odd)" ''
exit 0
