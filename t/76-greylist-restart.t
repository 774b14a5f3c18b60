#!/usr/bin/perl

# SPDX-License-Identifier: MIT
#
# What greylisting saw while PostgreSQL was away survives the daemon: stopped,
# or killed.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use POSIX ();
use PolicydTest qw(block in_time session site slurp soon spew wait_for);
use Test::More;
use Time::HiRes qw(time);

my $pg = site(q{INSERT INTO policyd.domain (name, recipients)
	VALUES ('example.com', 'any')});
my $d = PolicydTest->new(
	conninfo => $pg->conninfo,
	ini      => {
		greylist => { enabled        => 'yes', delay => '1s' },
		database => { reconnect_max => '500ms' }
	}
);
my $file  = "$d->{statedir}/greylist.journal";
my $GREY  = qr/^DEFER_IF_PERMIT 4\.2\.0 /;
my $count = 20;

# A new message from a client that has no name.
sub try {
	my ($net, $to) = @_;
	return $d->ask(
		session(), client_name => 'unknown',
		client_address => "198.51.$net.7",
		recipient      => "$to\@example.com"
	);
}

sub rows {
	return $pg->dbh->selectrow_array('SELECT count(*) FROM policyd.greylist');
}

$d->start;
soon { -e "$d->{statedir}/tables.copy" } 'there is a copy to start from', 60;

for my $how (qw(TERM KILL)) {
	my $net = $how eq 'TERM' ? 1 : 2;

	$pg->stop;
	my $grey = grep { (try($net, "u$_") // '') =~ $GREY } 1 .. $count;
	is($grey, $count, "$how: PostgreSQL is away, keys are judged in memory");
	if ($how eq 'KILL') {
		# Once more after the last of them is on disk.
		soon { -e $file } 'the journal is on disk', 60;
		my $before = (stat $file)[9] . ' ' . (stat _)[1];
		try($net, 'u1');
		soon { -e $file && (stat $file)[9] . ' ' . (stat _)[1] ne $before }
			'and again after a change', 60;
		$d->signal('KILL')->wait_end;
	} else {
		is($d->stop, 0, 'stopped');
		ok(-e $file, 'the journal is on disk');
	}
	ok(rename("$file", "$file.kept"), 'the file')
		&& rename("$file.kept", $file);
	$d->start(until => 'reply');
	like($d->log, qr/\Q$file\E: $count attempts are to be written/,
		'the next process has it');
	like(try($net, 'new'), $GREY, 'it goes on');
	soon { try($net, 'u2') !~ $GREY }
		'a key that waited passes, PostgreSQL or not';
	$pg->start;
	soon { rows() >= $net * ($count + 1) } 'all of it is in PostgreSQL', 20;
	is(rows(), $net * ($count + 1), 'and no more');
	soon { !-e $file } 'the file is gone';
}

# ---- what it knew, it knows ----

my $known = "$d->{statedir}/greylist.known";

# A message from a client that nobody has seen before.
sub named {
	my ($name, $to) = @_;
	return $d->ask(session(), client_name => "mx.$name.example",
		client_address => '198.51.99.7', recipient => "$to\@example.com")
		// 'no answer';
}

# An answer that PostgreSQL has a part in, however slow it is.
sub settled {
	my ($want, $name, @key) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return soon { named(@key) =~ $want } $name, 20;
}

# It hears of changes: its own connection for that has asked for the time.
sub listening {
	return soon { $pg->dbh->selectrow_array(q{SELECT count(*) > 0
		FROM pg_stat_activity WHERE state = 'idle'
		AND query LIKE '%clock_timestamp())'}) } 'policyd listens', 20;
}

my $OK = qr/^DUNNO$/;

$d->write_ini(greylist => { enabled => 'yes', delay => '1s',
		auto_allow_after => 0 });
is($d->stop, 0, 'stopped');
$pg->dbh->do(q{INSERT INTO policyd.client (client, allowed_at)
	VALUES ('friend.example', now()), ('gone.example', now())});
$d->start;
settled($OK, 'a client that is allowed', $_, 'a') for qw(friend gone);
settled($OK, 'a key that passes', 'twice', $_) for qw(a b);
like(named('later', 'a'), $GREY, 'one that waits');
my $later = time;

for my $how (qw(TERM KILL)) {
	if ($how eq 'TERM') {
		is($d->stop, 0, 'stopped while PostgreSQL is there');
		$pg->stop;
	} else {
		my $before = (stat $known)[1];
		$pg->stop;
		soon { -e $known && (stat $known)[1] != $before }
			'it is written when PostgreSQL goes away', 60;
		$d->signal('KILL')->wait_end;
	}
	is(sprintf('%04o', (stat $known)[2] & 07777), '0600',
		"$how: the file is there, and nobody else's");
	$d->start(until => 'reply');
	like(named('friend', "$how$_"), $OK, "$how: a client that is allowed")
		for 1 .. 3;
	like(named('twice', $_), $OK, "$how: a key that has passed") for qw(a b);
	like(named('twice', $how), $GREY, "$how: one that has not");
	soon { time > $later + 1 } 'a second later';
	unlike(named('later', 'a'), $GREY, "$how: one that waited");
	$pg->start;
	listening();
	settled($OK, "$how: PostgreSQL is back, what has passed has passed",
		'twice', 'a');
	settled($OK, "$how: and so has what passed meanwhile", 'later', 'a');
}
{
	# What was deleted while it was not there is not believed when PostgreSQL is.
	is($d->stop, 0, 'stopped');
	my $dbh = $pg->dbh;
	$dbh->do(q{DELETE FROM policyd.greylist
		WHERE client = 'twice.example' AND recipient = 'a@example.com'});
	$dbh->do(q{DELETE FROM policyd.client WHERE client = 'gone.example'});
	$d->start;
	listening();
	settled($GREY, 'deleted meanwhile', 'twice', 'a');
	settled($GREY, 'and a client', 'gone', 'a');
	like(named('twice', 'b'), $OK, 'what was not is known');
	is($d->stop, 0, 'stopped');
}
my $whole = slurp($known);
$pg->stop;
for ([ 'truncated', substr($whole, 0, -1) ],
	[ 'corrupted', substr($whole, 0, -1) . (substr($whole, -1) ^ "\1") ],
	[ 'no copy of what greylisting knows', 'x' x 100 ])
{
	my ($what, $bytes) = @$_;
	my $mark = $d->log_mark;
	spew($known, $bytes);
	$d->start(until => 'reply');
	like($d->log_since($mark), qr/\Q$known\E is left out: it is $what/, $what);
	like(named('twice', 'b'), $GREY, 'nothing of it is believed');
	$d->stop;
	# That attempt would count in the next turn.
	unlink $file;
}
spew($known, $whole);
$d->start(until => 'reply');
like(named('twice', 'b'), $OK, 'the whole one is');
is($d->stop, 0, 'stopped');
my $inode = (stat $known)[1];
$d->start(until => 'reply');
is($d->stop, 0, 'stopped again');
is((stat $known)[1], $inode, 'nothing has happened: it is not written');
unlink $file;
$pg->start;
my $was = rows();
$d->write_ini(greylist => { enabled => 'yes', delay => '1s' });
$d->start;

# A file that is not whole is left out, with a message.
$pg->stop;
try(3, 'x');
$d->stop;
my $text = slurp($file);
for ([ 'truncated', substr($text, 0, -1) ],
	[ 'corrupted', $text =~ s/example/exAmple/r ],
	[ 'no journal', 'x' x 100 ])
{
	my ($what, $bytes) = @$_;
	my $mark = $d->log_mark;
	spew($file, $bytes);
	$d->start(until => 'reply');
	like($d->log_since($mark), qr/\Q$file\E is left out: it is $what/, $what);
	$d->stop;
}
spew($file, $text);
$d->start(until => 'reply');
$pg->start;
soon { rows() == $was + 1 } 'the whole one is taken', 20;
unlike($d->log, qr/level=(?:crit|alert)/, 'nothing bad in the log');
$d->stop;

# Killed under load, when what is on disk is as old as it gets: what was
# answered a second before is there.
$d->start;
$pg->stop;
{
	my ($n, $stall, $seen, $began, %answered) = (0, 0, '');
	my $conn = $d->connect;
	my @net = (client_name => 'unknown', client_address => '198.51.10.7');

	# The more there is, the longer it takes.
	for my $batch (1 .. 100) {
		$conn->send(join '', map { block(session(), @net,
			recipient => "b$batch.$_\@example.com") } 1 .. 200);
		$conn->reply for 1 .. 200;
	}
	$began = time;
	for (my ($now, $change) = ($began) x 2; $now - $began < 3; $n++) {
		my $got = try(10, "n$n") // '';
		last if $got !~ $GREY;
		my $then = $now;
		$now = time;
		$stall = $now - $then if $now - $then > $stall;
		$answered{"n$n\@example.com"} = $now;
		my $file_is = join ' ', (stat $file)[ 1, 9 ];
		($seen, $change) = ($file_is, $now) if $file_is ne $seen;
		last if $now - $change > 1.2;
	}
	my ($kill, $all) = (time, scalar keys %answered);
	$d->signal('KILL')->wait_end;
	cmp_ok($n, '>', 100, 'killed under load');
	$d->start(until => 'reply');
	$pg->start;
	soon { !-e $file } 'what was on disk is written', 30;
	my @there = $pg->dbh->selectcol_arrayref(
		q{SELECT recipient FROM policyd.greylist
			WHERE client = '198.51.10.0/24'})->@*;
	delete @answered{@there};
	my ($oldest) = sort { $a <=> $b } values %answered, $kill;
	# The child that writes gets less of the machine than we.
	cmp_ok($kill - $oldest, '<', 1 + 3 * $stall, sprintf
		'%d of %d keys are lost, the oldest of %.0f ms (our stall: %.0f ms)',
		scalar keys %answered, $all, 1e3 * ($kill - $oldest), 1e3 * $stall);
	$d->stop;
}

# A disk that takes nothing of the tables: it ends in time all the same, and the
# journal, which is written first, is there.
{
	my @stuck = map { "$d->{statedir}/$_.new" } qw(tables.copy greylist.known);
	$d->start;
	unlink @stuck;
	for my $path (@stuck) {
		POSIX::mkfifo($path, 0600) or die "$path: $!";
		chown +(stat $d->{statedir})[4, 5], $path;
	}
	$pg->psql(q{INSERT INTO policyd.domain (name, recipients)
		VALUES ('stuck.example', 'any')});
	soon { try(11, 'a') =~ $GREY } 'a disk that hangs: it goes on';
	$pg->stop;
	try(11, "stuck$_") for 1 .. 20;
	my $began = time;
	is($d->stop, 0, 'and it ends');
	in_time(time - $began, 5, 'within its time');
	unlink @stuck;
	my $mark = $d->log_mark;
	$d->start(until => 'reply');
	like($d->log_since($mark), qr/\Q$file\E: (?:2[01]) attempts/,
		'with the journal on disk');
	$pg->start;
	soon { !-e $file } 'which is written';
	$d->stop;
}

# A reload with another state_dir: there is a journal at any time.
{
	my $moved = "$d->{dir}/moved";
	my $stuck = "$moved/greylist.journal.new";
	$d->start;
	$pg->stop;
	try(12, "m$_") for 1 .. 5;
	soon { -e $file } 'a journal is on disk';
	mkdir $moved;
	POSIX::mkfifo($stuck, 0600) or die "$stuck: $!";
	chown +(stat $d->{statedir})[4, 5], $moved, $stuck;
	$d->write_ini(policyd => { state_dir => $moved });
	my $mark = $d->log_mark;
	$d->signal('HUP');
	soon { $d->log_since($mark) =~ /reloaded/ } 'another state_dir';
	ok(-e $file, 'it stays until there is a new one');
	$d->signal('KILL')->wait_end;
	unlink $stuck;
	$d->write_ini;
	$mark = $d->log_mark;
	$d->start(until => 'reply');
	like($d->log_since($mark), qr/\Q$file\E: 5 attempts/, 'killed: it is there');
	$d->write_ini(policyd => { state_dir => $moved });
	$d->signal('HUP');
	soon { -e "$moved/greylist.journal" } 'the new one';
	$pg->start;
	soon { !-e $file && !-e "$moved/greylist.journal" } 'all is written: none';
	is($d->stop, 0, 'stopped');
	$d->write_ini;
}

# policyd -t tells when the state cannot be written.
is(($d->run('-t'))[0], 0, 'policyd -t: good');
$pg->psql('REVOKE INSERT ON policyd.client FROM policyd');
my $limited = PolicydTest->new(
	conninfo => $pg->conninfo(user => 'policyd'),
	ini      => { greylist => { enabled => 'yes' } }
);
my ($status, $said) = $limited->run('-t');
is($status, 1, 'the role may not write');
like($said, qr/\[greylist\] enabled: .*permission denied for table client/,
	'and it says so');

done_testing;
