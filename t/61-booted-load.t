#!/usr/bin/perl
# Under a real systemd and a real Postfix, with questions all the time: reload,
# restart, kill, hang, with PostgreSQL and without.  Nobody is refused, no answer
# is cut short, no question is asked twice in vain, and what greylisting had seen
# for a second is not lost.
#
# make test-systemd breaks things more often.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use BootedTest;

my $why_not = BootedTest::why_not();
plan skip_all => $why_not if defined $why_not;

# What is on disk may be older where the machine has no time for it.
my $lost_s = $ENV{POLICYD_TEST_PATIENCE} ? 1 : 3;
my @often = BootedTest::is_asked_for() ? (20, 5, 7, 4, 1) : (20, 2, 2, 1, 0);

BootedTest::boot("reloads=$often[0] restarts=$often[1] kills=$often[2] "
    . "kills_away=$often[3] hangs=$often[4] lost_s=$lost_s\n"
    . do { local $/; <DATA> });
done_testing;

__DATA__
load=/wsd/load
check 'a domain without greylisting' \
	as_postgres policyctl domain add example.com greylist=no
check 'address' as_postgres policyctl address add carol@example.com
sed -i 's/^#decisions = .*/decisions = none/' /etc/policyd/policyd.ini
check 'enable --now' systemctl enable --now policyd.socket policyd.service
postconf -e mydestination=localhost relay_domains=example.com \
	'smtpd_recipient_restrictions=check_policy_service unix:policyd/policyd.sock' \
	smtpd_reject_unlisted_recipient=no relay_transport=discard
systemctl restart postfix
answered() { [ "$(ask carol@example.com)" = action=DUNNO ]; }
check 'it answers' soon answered

# ---- the load

perl -I/t/lib -MSmtpdLoad -e 'SmtpdLoad::run(@ARGV)' \
	/var/spool/postfix/policyd/policyd.sock $load 8 &
questions=$!
# (smtp-source ends with an error at the first reply that it does not like.)
while [ ! -e $load/stop ]; do
	smtp-source -s 3 -m 30 -f s@example.net -t carol@example.com 127.0.0.1:25 \
		2>&1 || echo failed
done >/wsd/smtp-source 2>&1 &
letters=$!

now() { date +%s.%3N; }
# since TIME WORD: how often
since() { perl -I/t/lib -MSmtpdLoad -e '
	my ($dir, $since, @words) = @ARGV;
	my $seen = SmtpdLoad::events($dir, $since, 9e9);
	my $n = 0;
	$n += @{ $seen->{$_} || [] } for @words;
	print $n' $load "$@"; }
goes_on() { perl -I/t/lib -MSmtpdLoad -e 'exit !SmtpdLoad::goes_on(@ARGV)' $load 50; }
quiet() { [ -z "$(ls $load/again.* 2>/dev/null)" ]; }
unsaved() { policyctl --json status | sed -n 's/^"greylist_unsaved": \(.*\),/\1/p'; }
saved() { [ "$(unsaved)" = 0 ]; }
other() { [ "$(show MainPID)" != "$1" ] && [ "$(show SubState)" = running ]; }
# Not while anybody asks for the second time, smtpd included; then at random.
broken() { # broken SIGNAL: the daemon gets it; the next one answers
	local pid
	soon quiet
	sleep "1.$((RANDOM % 5 + 5))"
	soon quiet
	pid=$(show MainPID)
	kill "-$1" "$pid"
	echo "$(now) $1" >>/wsd/kills
	soon other "$pid"
	soon answered
}
check 'the load goes on' soon goes_on

# ---- reload, restart

began=$(now)
for ((i = 0; i < reloads; i++)); do systemctl reload policyd.service; done
is "reloaded $reloads times, and no connection was closed" \
	"$(since "$began" stale lost refused truncated failed)" 0
check 'the load goes on' goes_on
began=$(now)
for ((i = 0; i < restarts; i++)); do
	systemctl restart policyd.service
	sleep 1.5
	soon quiet
done
is "restarted $restarts times: nothing failed" \
	"$(since "$began" refused truncated failed wrong)" 0
check 'the load goes on' goes_on

# ---- kill, hang

for ((i = 0; i < kills; i++)); do broken KILL; done
is "killed $kills times" "$(show NRestarts)" "$kills"
check 'the load goes on' goes_on
if [ "$hangs" -gt 0 ]; then
	mkdir -p /run/systemd/system/policyd.service.d
	printf '[Service]\nWatchdogSec=2s\n' >/run/systemd/system/policyd.service.d/test.conf
	systemctl daemon-reload
	systemctl restart policyd.service
	for ((i = 0; i < hangs; i++)); do broken STOP; done
	check 'it hung, and the load goes on' goes_on
	rm -r /run/systemd/system/policyd.service.d
	systemctl daemon-reload
	systemctl restart policyd.service
fi

# ---- kill, while PostgreSQL is away

systemctl stop postgresql@15-main.service
is 'PostgreSQL is away' "$(policyctl status | head -1)" degraded
for ((i = 0; i < kills_away; i++)); do
	check 'the load goes on' goes_on
	broken KILL
done
check 'the load goes on' goes_on
check 'what greylisting saw waits' [ "$(unsaved)" -gt 0 ]
systemctl start postgresql@15-main.service
check 'PostgreSQL is back: all is written' soon saved

# ---- what became of it

soon quiet
touch $load/stop
wait $questions $letters
check 'all is written' soon saved
echo "note questions: $(since 0 answered key), asked again: $(since 0 lost)," \
	"connections closed: $(since 0 stale), keys: $(since 0 key)"
check 'there was a load' [ "$(since 0 answered key)" -gt 300 ]
check 'that felt the kills' [ "$(since 0 lost stale)" -ge "$kills" ]
is 'no connection was refused' "$(since 0 refused)" 0
is 'no answer was truncated' "$(since 0 truncated)" 0
is 'no answer was wrong' "$(since 0 wrong)" 0
is 'no question was in vain' "$(since 0 failed)" 0
is 'no letter was refused' "$(cat /wsd/smtp-source)" ''
check 'letters were taken' [ "$(journalctl -q -t postfix/discard | grep -c status=sent)" -gt 20 ]
is 'Postfix never saw a problem of configuration' \
	"$(journalctl -q -t postfix/smtpd | grep -c 'Server configuration\|4\.3\.5')" 0

# ---- what is lost

sql 'SELECT sender FROM policyd.greylist' >/wsd/rows
perl -I/t/lib -MSmtpdLoad -e '
	my ($dir, $lost_s) = @ARGV;
	open my $in, "<", "/wsd/rows";
	chomp(my @rows = <$in>);
	my %there = map { $_ => 1 } @rows;
	open $in, "<", "/wsd/kills";
	my @kills = map { (split)[0] } <$in>;
	my $keys = SmtpdLoad::events($dir, 0, 9e9)->{key};
	my @lost = grep { !$there{$_->[1]} } @$keys;
	my $oldest = 0;
	my %by;
	for my $key (@lost) {
		# Nobody answers for half a second: what was read then is older.
		my ($kill) = sort { $a <=> $b } grep { $_ + 0.5 >= $key->[0] } @kills;
		my $age = defined $kill ? $kill - $key->[0] : 9e9;
		$oldest = $age if $age > $oldest;
		$by{$kill // "none"}++;
	}
	printf "note of %d keys %d are lost; the oldest was %.2f s old\n",
	    scalar @$keys, scalar @lost, $oldest;
	printf "note %d by the kill at %s\n", $by{$_}, $_ for sort keys %by;
	print $oldest <= $lost_s ? "" : "not ",
	    "ok - what the last second before a kill held is all that is lost\n";
	' $load "$lost_s"
exit 0
