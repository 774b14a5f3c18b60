#!/usr/bin/perl

# PostgreSQL goes away, freezes, comes back; policyd starts without it; the
# copy of the tables is damaged; the schema is another one.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use File::Temp ();
use IO::Socket::UNIX;
use POSIX ();
use Socket qw(SOCK_STREAM);
use Test::More;
use Time::HiRes qw(sleep time);

use PolicydTest qw(in_time site slurp soon spew wait_for);

my $pg = site(<<'SQL');
INSERT INTO policyd.domain (name, recipients) VALUES ('example.com', 'listed');
INSERT INTO policyd.address (address) VALUES ('bob@example.com');
INSERT INTO policyd.address (address)
  SELECT 'many' || i || '@example.com' FROM generate_series(1, 5000) AS i;
SQL

my $OK          = qr/^DUNNO$/;
my $UNKNOWN     = qr/^550 5\.1\.1 /;
my $UNAVAILABLE = qr/^DEFER_IF_PERMIT 4\.3\.0 \S/;
my %database    = (reconnect_max => '300ms', query_timeout => '1s');

sub daemon {
	my %ini = @_;
	return PolicydTest->new(
		conninfo => $pg->conninfo(user => 'policyd', connect_timeout => 2),
		ini      => { database => \%database, %ini }
	);
}

sub judges {
	my ($d, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like($d->ask(recipient => 'bob@example.com') // 'no answer',
		$OK, "$name: known");
	like($d->ask(recipient => 'no@example.com') // 'no answer',
		$UNKNOWN, "$name: unknown");
	return;
}

# The files of the copy; it is written some time after the first answers.
sub copies {
	my $d = shift;
	return grep { -f && -s } glob "$d->{statedir}/*";
}

# Someone who asks all the time, in a process of its own, and checks all
# answers; tell() gives (answers, wrong ones, longest in seconds).
sub asker_start {
	my ($d, $recipient) = @_;
	pipe my $from, my $to    or die "pipe: $!";
	pipe my $wait, my $stop or die "pipe: $!";
	my $pid = fork;

	die "fork: $!" if !defined $pid;
	if ($pid == 0) {
		my ($count, $wrong, $worst) = (0, 0, 0);
		my $conn = $d->connect;
		close $stop;
		my $sel = IO::Select->new($wait);
		my $why = '';
		while (!$sel->can_read(0.0005)) {
			my $began = time;
			my $got   = $conn->ask(recipient => $recipient) // 'none';
			my $took  = time - $began;
			$count++;
			$worst = $took if $took > $worst;
			if ($got !~ $OK) {
				$wrong++;
				$why = $got;
				$conn = $d->connect if $conn->gone;
				last if !$conn;
			}
		}
		syswrite $to, "$count $wrong $worst $why";
		POSIX::_exit(0);
	}
	close $to;
	close $wait;
	return { pid => $pid, from => $from, stop => $stop };
}

sub asker_end {
	my $asker = shift;
	close $asker->{stop};
	my $line = readline $asker->{from};
	waitpid $asker->{pid}, 0;
	return split / /, $line, 4;
}

sub never_wrong {
	my ($asker, $name) = @_;
	my ($count, $wrong, $worst, $why) = asker_end($asker);
	is($wrong, 0, "$name: none of $count answers was wrong") or diag $why;
	cmp_ok($count, '>', 10, "$name: they went on");
	in_time($worst, 0.25, "$name: longest answer");
	return;
}

# ---- while it runs ----

my $d = daemon()->start;
judges($d, 'PostgreSQL is there');
soon { copies($d) } 'a copy is kept in state_dir', 10;

{
	my $asker = asker_start($d, 'bob@example.com');
	$pg->stop('fast');
	sleep 0.3;    # let it run without for a while
	judges($d, 'stopped');
	$pg->start;
	$pg->psql(q{INSERT INTO policyd.address (address)
		VALUES ('new1@example.com')});
	soon { $d->ask(recipient => 'new1@example.com') =~ $OK }
	'it is back, and followed', 10;
	never_wrong($asker, 'stopped');
}
{
	my $asker = asker_start($d, 'bob@example.com');
	$pg->stop('immediate');
	judges($d, 'crashed');
	$pg->start;
	$pg->psql(q{INSERT INTO policyd.address (address)
		VALUES ('new2@example.com')});
	soon { $d->ask(recipient => 'new2@example.com') =~ $OK }
	'it is back, and followed', 10;
	never_wrong($asker, 'crashed');
}
{
	my $asker = asker_start($d, 'bob@example.com');
	$pg->freeze;
	sleep 1.5;    # longer than query_timeout
	judges($d, 'frozen');
	$d->signal('HUP');
	judges($d, 'frozen, and told to reload');
	$pg->thaw;
	$pg->psql(q{INSERT INTO policyd.address (address)
		VALUES ('new3@example.com')});
	soon { $d->ask(recipient => 'new3@example.com') =~ $OK }
	'it is back, and followed', 10;
	never_wrong($asker, 'frozen');
}
{
	$pg->freeze;
	is($d->stop, 0, 'it ends while PostgreSQL is frozen');
	$pg->thaw;
}

# ---- start without ----

$d->start;
$pg->psql(q{INSERT INTO policyd.address (address, expires_at) VALUES
	('short@example.com', now() + interval '1 second'),
	('longer@example.com', now() + interval '5 seconds')});
soon { $d->ask(recipient => 'longer@example.com') =~ $OK } 'rows that expire';
$pg->stop;
soon { $d->ask(recipient => 'short@example.com') =~ $UNKNOWN }
'a row expires while PostgreSQL is away', 5;
like($d->ask(recipient => 'longer@example.com'), $OK, 'not before its time');
is($d->stop, 0, 'exit status');
$d->start(until => 'reply');
judges($d, 'started from the copy');
like($d->ask(recipient => 'short@example.com'), $UNKNOWN,
	'what has expired has expired in the copy too');
soon { $d->ask(recipient => 'longer@example.com') =~ $UNKNOWN }
'and goes on to expire', 8;
like($d->ask(recipient => 'new3@example.com'), $OK, 'the copy is recent');
like($d->log, qr/copy/, 'the log says so');
$pg->start;
$pg->psql(q{INSERT INTO policyd.address (address) VALUES ('new4@example.com')});
soon { $d->ask(recipient => 'new4@example.com') =~ $OK }
'followed once PostgreSQL is there', 10;
is($d->stop, 0, 'exit status');

# A first read that is cut off behind the domains leaves the copy as good.
{
	my ($lock, $watch) = ($pg->dbh, $pg->dbh);
	$lock->begin_work;
	$lock->do('LOCK policyd.address');
	$d->spawn;
	soon {
		$watch->selectrow_array(q{SELECT count(*) FROM pg_stat_activity
			WHERE usename = 'policyd' AND wait_event_type = 'Lock'})
	}
	'the first read waits';
	$pg->stop('immediate');
	$_->{RaiseError} = 0, $_->disconnect for $lock, $watch;
	soon {
		my $c = $d->connect;
		$c && defined $c->ask(protocol_state => 'CONNECT', timeout => 1)
	}
	'PostgreSQL is gone in the middle of it';
	judges($d, 'served from the copy');
	is($d->stop, 0, 'exit status');
	$pg->start;
}

my %saved = map { $_ => slurp($_) } copies($d);

$pg->stop;
{
	my $fresh = daemon()->start(until => 'reply');
	like($fresh->ask(recipient => $_) // 'no answer',
		$UNAVAILABLE, "without a copy, $_")
		for qw(bob@example.com no@example.com x@other.example);
	my $text = '451 4.3.0 Come back later';
	$fresh->write_ini(reply => { unavailable => $text });
	$fresh->restart(until => 'reply');
	is($fresh->ask(recipient => 'bob@example.com'),
		$text, 'with a text of our own');
	$fresh->write_ini(reply => { unavailable => 'close' });
	$fresh->restart(until => 'socket');
	my $conn = $fresh->connect;
	is($conn->ask(recipient => 'bob@example.com', timeout => 5),
		undef, 'unavailable = close: no answer');
	ok($conn->closed(1), 'the connection is closed');
	is($conn->pending, '', 'without a byte');
	$pg->start;
	soon { ($fresh->ask(recipient => 'bob@example.com') // '') =~ $OK }
	'it serves once PostgreSQL is there', 10;
	is($fresh->stop, 0, 'exit status');
	$pg->stop;
}

# ---- several hosts ----

{
	# The first takes the connection and never says a word.
	my $mute = File::Temp->newdir;
	my $port = IO::Socket::UNIX->new(
		Type   => SOCK_STREAM,
		Local  => "$mute/.s.PGSQL.5432",
		Listen => 10
	) or die "$mute: $!";
	$pg->start;
	my $fresh = PolicydTest->new(
		conninfo => $pg->conninfo(
			user => 'policyd',
			host => "$mute,$pg->{dir}"
		),
		ini => { database => \%database }
	)->start(until => 'reply');
	soon { ($fresh->ask(recipient => 'bob@example.com') // '') =~ $OK }
	'a host that hangs gives way to the next', 20;
	is($fresh->stop, 0, 'exit status');
	$pg->stop;
}

# ---- a damaged copy ----

ok(%saved, 'there is a copy to damage');
my ($big) = sort { length $saved{$b} <=> length $saved{$a} } keys %saved;
my $good  = $saved{$big};
my %harm  = (
	'cut in half'        => substr($good, 0, length($good) / 2),
	'one byte short'     => substr($good, 0, -1),
	'one byte too long'  => "$good\0",
	'empty'              => '',
	'something else'     => "this is no copy\n" x 100,
	'one bit off'        => flip($good, int(length($good) / 2)),
	'one bit off, early' => flip($good, 3),
	'one bit off, last'  => flip($good, length($good) - 1),
	'zeros'              => "\0" x length $good,
	'sizes beyond it'    => substr($good, 0, 16)
		. "\xff" x 32
		. substr($good, 48),
);

sub flip {
	my ($text, $at) = @_;
	substr($text, $at, 1) ^= "\x10";
	return $text;
}

for my $name (sort keys %harm) {
	spew($_, $saved{$_}) for keys %saved;
	spew($big, $harm{$name});
	my $mark = $d->log_mark;
	$d->start(until => 'reply');
	like($d->ask(recipient => 'bob@example.com') // 'no answer',
		$UNAVAILABLE, "a copy that is $name is not believed");
	my ($base) = $big =~ m{([^/]+)\z};
	like($d->log_since($mark), qr/\Q$base\E/, 'the log names it');
	is($d->stop, 0, 'exit status');
}
spew($_, $saved{$_}) for keys %saved;
$d->start(until => 'reply');
judges($d, 'the copy restored');
is($d->stop, 0, 'exit status');

spew($big, $harm{'cut in half'});
$pg->start;
$d->start;
judges($d, 'a bad copy, but PostgreSQL is there');

# ---- another schema ----

{
	my $dbh = $pg->dbh;
	my $command = qr/policyctl schema (?:upgrade|install)/;

	$dbh->do('UPDATE policyd.schema_version SET version = version + 1000');
	my ($status, $said) = $d->run('-t');
	is($status, 1, 'a newer schema: policyd -t fails');
	like($said, qr/schema.*: install a policyd of that version$/m,
		'and says why');
	my $mark = $d->log_mark;
	$dbh->do(q{INSERT INTO policyd.address (address)
		VALUES ('another@example.com')});
	soon { $d->log_since($mark) =~ /the schema is of version/ }
	'a running daemon says so when it finds it', 10;
	like($d->ask(recipient => 'another@example.com'), $UNKNOWN,
		'which takes no row from it');
	judges($d, 'a newer schema: the last good state');
	$dbh->do('UPDATE policyd.schema_version SET version = version - 1000');
	$dbh->do(q{INSERT INTO policyd.address (address)
		VALUES ('new5@example.com')});
	soon { $d->ask(recipient => 'new5@example.com') =~ $OK }
	'the right schema again', 10;
	is($d->stop, 0, 'exit status');

	$dbh->do('CREATE TABLE public.kept AS SELECT * FROM policyd.schema_version');
	for my $older ('version = (SELECT max(version) FROM public.kept)', 'true') {
		$dbh->do("DELETE FROM policyd.schema_version WHERE $older");
		($status, $said) = $d->run('-t');
		is($status, 1, "an older schema ($older): policyd -t fails");
		like($said, $command, 'and names the command');
	}
	$dbh->do('INSERT INTO policyd.schema_version SELECT * FROM public.kept');

	# policyd -t waits for nobody: neither for a lock, nor for a server that
	# stops while it waits.
	my $hasty = PolicydTest->new(
		conninfo => $pg->conninfo(user => 'policyd'),
		ini      => { database => { query_timeout => '2s' } }
	);
	my $other = $pg->dbh;
	$dbh->begin_work;
	$dbh->do('LOCK TABLE policyd.rule');
	($status, $said) = $hasty->run('-t');
	is($status, 1, 'a locked table: policyd -t fails');
	like($said, qr/statement timeout/, 'and says why');
	my $pid = open my $out, '-|';
	die "fork: $!" if !defined $pid;
	if ($pid == 0) {
		($status, $said) = $hasty->run('-t');
		print $said;
		POSIX::_exit($status);
	}
	soon {
		$other->selectrow_array(q{SELECT count(*) FROM pg_stat_activity
			WHERE usename = 'policyd' AND wait_event_type = 'Lock'})
	} 'it waits';
	$pg->freeze;
	$said = do { local $/; readline $out };
	close $out;
	is($? >> 8, 1, 'a frozen server: policyd -t fails');
	like($said, qr/did not answer within query_timeout/, 'and says why');
	$pg->thaw;
	$dbh->rollback;

	$dbh->do('CREATE DATABASE empty');
	my $empty = PolicydTest->new(
		conninfo => $pg->conninfo(user => 'policyd', dbname => 'empty'),
		ini      => { database => \%database }
	);
	($status, $said) = $empty->run('-t');
	is($status, 1, 'no schema: policyd -t fails');
	like($said, $command, 'and names the command');
	$empty->start(until => 'reply');
	like($empty->ask(recipient => 'bob@example.com') // 'no answer',
		$UNAVAILABLE, 'no schema: unavailable');
	soon { $empty->log =~ $command } 'the log names the command', 5;
	is($empty->stop, 0, 'exit status');
}

done_testing();
