#!/usr/bin/perl
# The units, and policyd under a real systemd.
# (t/lib/BootedTest.pm has when, and how.)

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Temp qw(tempdir);
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use BootedTest;
use PolicydTest qw(policyd_path slurp spew top);

my $dir = tempdir(CLEANUP => 1);

chdir top() or die $!;
my $policyd = policyd_path();

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

my $why_not = BootedTest::why_not();
SKIP: {
	skip $why_not, 1 if defined $why_not;
	BootedTest::boot(do { local $/; <DATA> });
}

done_testing;

__DATA__
answered() { [ "$(ask alice@example.org)" = action=DUNNO ]; }
carol_exists() { [ "$(ask carol@example.org)" = action=DUNNO ]; }

# ---- as policyd(8) has it

is 'verify, with the other units there' \
	"$(systemd-analyze verify --man=no policyd.service policyd.socket 2>&1)" ''
is 'the directory of the socket' \
	"$(stat -c '%U:%G %a' /var/spool/postfix/policyd)" 'policyd:postfix 710'
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

# ---- the control socket

is 'its folder' "$(stat -c '%U:%G %a' /run/policyd)" 'policyd:policyd 750'
is 'the socket' "$(stat -c '%U:%G %a' /run/policyd/control.sock)" \
	'policyd:policyd 660'
well() { [ "$(policyctl status | head -1)" = well ]; }
check 'root asks, and all is well' soon well
is 'its own user' "$(runuser -u policyd -- policyctl status | head -1)" well
is 'others cannot even connect' "$(runuser -u postfix -- policyctl status 2>&1 |
	head -1)" "policyctl: policyd does not answer at /run/policyd/control.sock: \
Permission denied"
# Whom a mistake lets through is still told nothing (and PrivateUsers, which
# shows the daemon no other users, makes nobody look like root).
chmod 755 /run/policyd
chmod 666 /run/policyd/control.sock
for user in postfix postgres nobody; do
	is "told nothing: $user" "$(runuser -u $user -- policyctl status 2>&1 | head -1)" \
		"policyctl: policyd does not answer at /run/policyd/control.sock: \
it closed the connection"
done
check 'which is logged' soon sh -c \
	'journalctl -q -u policyd.service | grep "control connection refused"'

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
# (Whom it had asked about was killed with it: that is written every five minutes.)
check 'asked about once more' soon answered
systemctl stop postgresql@15-main.service
is 'without PostgreSQL' "$(ask nobody@example.org)" "$unknown"
check 'restart without PostgreSQL' systemctl restart policyd.service
is 'from the copy' "$(ask nobody@example.org)" "$unknown"
check 'also the known one, whose client is allowed' soon answered
systemctl start postgresql@15-main.service
check 'PostgreSQL is back' as_postgres policyctl address add carol@example.org
check 'and what it says now is in force' soon carol_exists

# ---- stop

check 'stop' systemctl stop policyd.service
is 'exit' "$(show Result) $(show ExecMainCode) $(show ExecMainStatus)" 'success 1 0'
is 'the socket stays, and starts it again' "$(ask nobody@example.org)" "$unknown"
check 'policyctl can ask it' soon well
check 'stop both' systemctl stop policyd.socket policyd.service
is 'nothing to ask' "$(policyctl status 2>/dev/null; echo $?)" 1
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
