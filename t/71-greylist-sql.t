#!/usr/bin/perl

# SPDX-License-Identifier: MIT
#
# The functions that the daemon writes the state of greylisting with: what each
# makes of a row as it is, what is announced, and that many may call them at
# once.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use PgCluster;
use POSIX ();
use PolicydTest qw(install_schema);
use Test::More;
use Time::HiRes qw(sleep time);

my $pg     = install_schema(PgCluster->new);
my $db     = $pg->dbh;
my $daemon = $pg->dbh(user => 'policyd');

my $DAY = 86400;
my %OPTIONS = (delay => 60, retry_window => $DAY, max_age => 35 * $DAY,
	auto_allow_after => 0);

# ---- helpers ----

# As an array of PostgreSQL.
sub column {
	my ($i, @rows) = @_;
	return [ map { $_->[$i] } @rows ];
}

# greylist_see of keys [client, network, sender, recipient, count]: what came
# back, by "client sender recipient" or, where it is not greylisted, "client".
sub see_as {
	my ($dbh, $keys, %opt) = @_;
	my %o    = (%OPTIONS, %opt);
	my $rows = $dbh->selectall_arrayref(
		'SELECT * FROM policyd.greylist_see(?, ?, ?, ?, ?, ?, ?, ?, ?)',
		{ Slice => {} }, (map { column($_, @$keys) } 0 .. 4),
		@o{qw(delay retry_window max_age auto_allow_after)});
	my %by = map {
		join(' ', grep {defined} @{$_}{qw(client sender recipient)}) => $_
	} @$rows;
	is(scalar keys %by, scalar @$rows, 'no key comes back twice')
		if keys %by != @$rows;
	return \%by;
}
sub see { return see_as($daemon, @_) }

# Rows of greylist as [client, sender, recipient, seconds since first_seen, since
# last_seen, since passed_at, attempts].
sub put {
	for my $row (@_) {
		$db->do('INSERT INTO policyd.greylist VALUES (?, ?, ?,
			now() - make_interval(secs => ?), now() - make_interval(secs => ?),
			now() - make_interval(secs => ?), ?)', undef, @$row);
	}
	return;
}

# A row, its times in seconds since 1970, or undef.
sub row {
	my @key = @_;
	return $db->selectrow_hashref(q{SELECT
			extract(epoch FROM first_seen)::float8 AS first_seen,
			extract(epoch FROM last_seen)::float8 AS last_seen,
			extract(epoch FROM passed_at)::float8 AS passed_at, attempts
		FROM policyd.greylist
		WHERE (client, sender, recipient) = (?, ?, ?)}, undef, @key);
}

sub client {
	return $db->selectrow_hashref(q{SELECT passes,
			extract(epoch FROM last_seen)::float8 AS last_seen,
			allowed_at IS NOT NULL AS allowed
		FROM policyd.client WHERE client = ?}, undef, @_);
}

sub value { return scalar $db->selectrow_array(@_) }
sub empty {
	$db->do('TRUNCATE policyd.greylist, policyd.client');
	$db->do('TRUNCATE policyd.greylist_forgotten');
	return;
}

# Which of the moments with a name is this?
sub moment {
	my ($t, %named) = @_;
	return 'null' if !defined $t;
	for my $name (sort keys %named) {
		return $name
			if defined $named{$name} && abs($named{$name} - $t) < 2e-6;
	}
	return $t;
}

# ---- greylist_see: one key, whatever its row says ----

# Name, the row before (as for put), options and count of this attempt, and the
# row after: first_seen, last_seen, passed_at, each null, kept or clock, and
# attempts.
for my $case (
	[ 'nobody knows it', undef, {}, 'clock clock null 1' ],
	[ 'nobody knows it, three attempts', undef, { count => 3 },
		'clock clock null 3' ],
	[ 'nobody knows it, no delay', undef, { delay => 0 },
		'clock clock null 1' ],
	[ 'it waits', [ 30, 30, undef, 1 ], {}, 'kept clock null 2' ],
	[ 'it tries again and again', [ 40, 1, undef, 17 ], { count => 4 },
		'kept clock null 21' ],
	[ 'it has waited', [ 61, 61, undef, 1 ], {}, 'kept clock clock 2' ],
	[ 'the first attempt is what counts', [ 61, 1, undef, 5 ], {},
		'kept clock clock 6' ],
	[ 'no delay, the second attempt', [ 0, 0, undef, 1 ], { delay => 0 },
		'kept clock clock 2' ],
	[ 'a fraction of a second', [ 0.3, 0.3, undef, 1 ], { delay => 0.25 },
		'kept clock clock 2' ],
	[ 'just in time', [ $DAY - 100, 10, undef, 2 ], {},
		'kept clock clock 3' ],
	[ 'too late', [ $DAY + 1, 10, undef, 2 ], {}, 'clock clock null 1' ],
	[ 'too late, twice at once', [ $DAY + 1, 10, undef, 2 ], { count => 2 },
		'clock clock null 2' ],
	[ 'another retry_window', [ 700, 10, undef, 2 ], { retry_window => 600 },
		'clock clock null 1' ],
	[ 'it has passed', [ 1000, 500, 900, 2 ], {}, 'kept clock kept 2' ],
	[ 'it has passed, and comes often', [ 1000, 500, 900, 2 ],
		{ count => 9 }, 'kept clock kept 2' ],
	[ 'it has passed, a delay that is longer now', [ 100, 20, 40, 2 ],
		{ delay => 3600 }, 'kept clock kept 2' ],
	[ 'passed long ago, used since', [ 400 * $DAY, 3 * $DAY, 399 * $DAY, 2 ],
		{}, 'kept clock kept 2' ],
	[ 'passed, almost too long unused', [ 40 * $DAY, 35 * $DAY - 100,
			40 * $DAY, 2 ], {}, 'kept clock kept 2' ],
	[ 'passed, unused for too long', [ 40 * $DAY, 35 * $DAY + 1, 40 * $DAY,
			2 ], {}, 'clock clock null 1' ],
	[ 'another max_age', [ 800, 700, 750, 2 ], { max_age => 600 },
		'clock clock null 1' ],
	[ 'max_age is nothing to one that waits', [ 800, 700, undef, 2 ],
		{ max_age => 600 }, 'kept clock clock 3' ],
	[ 'seen first in the future', [ -5000, -5000, undef, 1 ], {},
		'clock clock null 2' ],
) {
	my ($name, $before, $opt, $want) = @$case;
	my %opt   = (count => 1, %$opt);
	my $count = delete $opt{count};
	my @key   = ('example.net', 'a@example.net', 'b@example.com');

	empty();
	put([ @key, @$before ]) if $before;
	my $old = row(@key) || {};
	my $got = see([ [ 'example.net', '192.0.2.0/24', @key[ 1, 2 ], $count ] ],
		%opt);
	my $new = row(@key);
	my $r   = $got->{"@key"};
	is(join(' ', (map { moment($new->{$_}, kept => $old->{$_},
				clock => $r->{clock}) } qw(first_seen last_seen passed_at)),
			$new->{attempts}),
		$want, $name);
	is(join(' ', map { moment($r->{$_}, row => $new->{$_}) }
			qw(first_seen last_seen)), 'row row', "$name: and so it is told");
	is($r->{passed_at}, $new->{passed_at}, "$name: passed_at, too")
		if !defined $new->{passed_at};
	cmp_ok(abs($r->{passed_at} - $new->{passed_at}), '<', 2e-6,
		"$name: passed_at, too") if defined $new->{passed_at};
	my $now = $want =~ /clock \d+$/ ? 1 : 0;
	is(scalar keys %$got, 1, "$name: nothing else is");
	is(value('SELECT count(*) FROM policyd.greylist'), 1, "$name: one row");
	is((client('example.net') || { passes => 0 })->{passes}, $now,
		"$name: passes of its client");
}

# ---- a name where there was a network ----

for my $case (
	# The row of the network, that of the name, the row of the name after.
	[ 'nothing', undef, undef, 'clock clock null 1' ],
	[ 'the network waits', [ 30, 20, undef, 2 ], undef, 'net clock null 1' ],
	[ 'the network has waited', [ 70, 20, undef, 2 ], undef,
		'net clock clock 1' ],
	[ 'the network has passed', [ 90, 20, 50, 4 ], undef,
		'net clock net 1' ],
	[ 'the network waited in vain', [ $DAY + 1, 20, undef, 2 ], undef,
		'clock clock null 1' ],
	[ 'the network passed too long ago', [ 36 * $DAY, 36 * $DAY, 36 * $DAY, 2
		], undef, 'clock clock null 1' ],
	[ 'both wait', [ 70, 20, undef, 2 ], [ 30, 20, undef, 3 ],
		'kept clock null 4' ],
	[ 'the network waits, the name has passed', [ 30, 20, undef, 2 ],
		[ 90, 20, 50, 2 ], 'kept clock kept 2' ],
	[ 'the name is old, the network is not', [ 70, 20, undef, 2 ],
		[ $DAY + 1, 20, undef, 3 ], 'net clock clock 1' ],
) {
	my ($name, $net, $before, $want) = @$case;
	my @rest  = ('a@example.net', 'b@example.com');
	my ($net_key, $name_key) = ('192.0.2.0/24', 'example.net');

	empty();
	put([ $net_key, @rest, @$net ]) if $net;
	put([ $name_key, @rest, @$before ]) if $before;
	put([ '192.0.3.0/24', @rest, 500, 500, undef, 1 ],
		[ $net_key, 'other@example.net', $rest[1], 500, 500, undef, 1 ]);
	my $old_net = row($net_key,  @rest) || {};
	my $old     = row($name_key, @rest) || {};
	my $got = see([ [ $name_key, $net_key, @rest, 1 ] ]);
	my $new = row($name_key, @rest);
	my $r   = $got->{"$name_key @rest"};
	is(join(' ', (map { moment($new->{$_}, kept => $old->{$_},
				net => $old_net->{$_}, clock => $r->{clock}) }
				qw(first_seen last_seen passed_at)), $new->{attempts}),
		$want, "first a network, then a name: $name");
	is_deeply(row($net_key, @rest) || {}, $old_net,
		'the row of the network stays');
	is((client($name_key) || { passes => 0 })->{passes},
		$want =~ /clock \d+$/ ? 1 : 0, 'passes');
}

# ---- many keys at once ----

empty();
put(map { [ 'c', 's', "r$_", 70, 70, undef, 1 ] } 1 .. 3);
put([ 'd', 's', 'r', 70, 70, undef, 1 ], [ 'e', 's', 'r', 30, 30, undef, 1 ]);
{
	my @keys = ((map { [ 'c', 'c', 's', "r$_", 1 ] } 3, 4, 1, 5, 2),
		[ 'd', 'd', 's', 'r', 2 ], [ 'e', 'n', 's', 'r', 3 ],
		[ 'f', 'n', 's', 'r', 4 ]);
	my $got = see(\@keys);
	is(join(', ', sort keys %$got), 'c s r1, c s r2, c s r3, c s r4, c s r5,'
		. ' d s r, e s r, f s r', 'eight keys at once');
	is(join(' ', map { defined $got->{$_}{passed_at} ? 'passed' : 'waits' }
			sort keys %$got),
		'passed passed passed waits waits passed waits waits',
		'each is judged for itself');
	is(join(' ', map { row(split / /)->{attempts} } sort keys %$got),
		'2 2 2 1 1 3 4 4', 'attempts');
	is(join(' ', map { (client($_) || { passes => 0 })->{passes} } qw(c d e f)),
		'3 1 0 0', 'passes of each client');
	my %clock = map { $_->{clock} => 1 } values %$got;
	is(keys %clock, 1, 'one clock for all');
	is_deeply(see([]), {}, 'no keys, no rows');
}

# ---- clients that are not greylisted ----

sub allow {
	my ($client, $passes, $age, $allowed) = @_;
	$db->do('INSERT INTO policyd.client (client, passes, last_seen, allowed_at)
		VALUES (?, ?, now() - make_interval(secs => ?), ?)', undef,
		$client, $passes, $age, $allowed ? '2020-01-01' : undef);
	return;
}

for my $case (
	# The row of client, auto_allow_after, is it greylisted?
	[ 'one pass of one', [ 1, 100, 0 ], 1, 0 ],
	[ 'two passes of three', [ 2, 100, 0 ], 3, 1 ],
	[ 'three passes of three', [ 3, 100, 0 ], 3, 0 ],
	[ 'four passes of three', [ 4, 100, 0 ], 3, 0 ],
	[ 'no pass of one', [ 0, 100, 0 ], 1, 1 ],
	[ 'never allowed', [ 1000, 100, 0 ], 0, 1 ],
	[ 'almost forgotten', [ 1, 35 * $DAY - 100, 0 ], 1, 0 ],
	[ 'forgotten', [ 1, 35 * $DAY + 1, 0 ], 1, 1 ],
	[ 'by an administrator', [ 0, 100, 1 ], 1, 0 ],
	[ 'by an administrator, long ago', [ 0, 900 * $DAY, 1 ], 1, 0 ],
	[ 'by an administrator, nobody else', [ 0, 100, 1 ], 0, 0 ],
) {
	my ($name, $row, $after, $greylisted) = @$case;
	for my $who ('example.net', '192.0.2.0/24') {
		empty();
		allow($who, @$row);
		my $before = client($who);
		my $got = see([ [ 'example.net', '192.0.2.0/24', 's', 'r', 1 ],
			[ 'x', 'y', 's', 'r', 1 ] ], auto_allow_after => $after);
		my $want = $greylisted ? 'example.net s r, x s r' : "$who, x s r";
		is(join(', ', sort keys %$got), $want, "$name: $who");
		is(value('SELECT count(*) FROM policyd.greylist'), 1 + $greylisted,
			"$name: no row of greylist without need");
		is_deeply(client($who), $before, "$name: client stays as it is");
		next if $greylisted;
		my $r = $got->{$who};
		is($r->{$_}, undef, "$name: no $_")
			for qw(sender recipient first_seen passed_at);
		$row->[2]
			? like($r->{last_seen}, qr/^inf/i, "$name: for good")
			: is(moment($r->{last_seen}, client => $before->{last_seen}),
				'client', "$name: last_seen");
	}
}
{
	# The pass that makes it one; the other keys of the same call do not yet
	# profit, or do: they have answers in any case.
	empty();
	put([ 'c', 's', 'r1', 70, 70, undef, 1 ]);
	see([ [ 'c', 'c', 's', 'r1', 1 ] ], auto_allow_after => 1);
	is(join(',', sort keys %{ see([ [ 'c', 'c', 's', 'r2', 1 ],
			[ 'd.example', 'c', 's', 'r2', 1 ] ], auto_allow_after => 1) }),
		'c', 'after one pass all keys pass');
	is(client('c')->{passes}, 1, 'what is not greylisted counts no passes');
	my $long = 'x' x 255;
	put([ $long, 's', 'r', 70, 70, undef, 1 ]);
	see([ [ $long, $long, 's', 'r', 1 ] ]);
	is(client($long)->{passes}, 1, 'the longest client');
}

# ---- greylist_merge ----

my $NOW = value('SELECT extract(epoch FROM now())::float8');

# [client, sender, recipient, first, last, passed, attempts], ages as in put.
sub merge_as {
	my ($dbh, $known, $rows, %opt) = @_;
	my %o = (%OPTIONS, %opt);
	my @r = map {
		my @r = @$_;
		$_ = defined $_ ? sprintf('%.6f', $NOW - $_) : undef for @r[ 3 .. 5 ];
		\@r
	} @$rows;
	$dbh->do('SELECT policyd.greylist_merge(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)',
		undef, $known ? 't' : 'f', (map { column($_, @r) } 0 .. 6),
		@o{qw(retry_window max_age)});
	return;
}
sub merge { return merge_as($daemon, @_) }

for my $case (
	# The row before, what is merged, known, and the row after: kept or mine.
	[ 'a new one', undef, [ 50, 40, undef, 2 ], 0, 'mine mine null 2' ],
	[ 'a new one that has passed', undef, [ 50, 30, 40, 2 ], 0,
		'mine mine mine 2' ],
	[ 'earlier here', [ 30, 20, undef, 3 ], [ 50, 40, undef, 2 ], 0,
		'mine kept null 5' ],
	[ 'earlier there', [ 50, 40, undef, 3 ], [ 30, 20, undef, 2 ], 0,
		'kept mine null 5' ],
	[ 'passed there', [ 90, 10, 20, 3 ], [ 50, 40, undef, 2 ], 0,
		'kept kept kept 5' ],
	[ 'passed here', [ 90, 10, undef, 3 ], [ 50, 5, 40, 2 ], 0,
		'kept mine mine 5' ],
	[ 'passed here earlier', [ 90, 10, 20, 3 ], [ 99, 5, 40, 2 ], 0,
		'mine mine mine 5' ],
	[ 'passed there earlier', [ 90, 10, 60, 3 ], [ 99, 5, 40, 2 ], 0,
		'mine mine kept 5' ],
	[ 'too late there', [ $DAY + 200, 10, undef, 3 ], [ 50, 40, undef, 2 ], 0,
		'mine kept null 2' ],
	[ 'passed there too long ago', [ 50 * $DAY, 40 * $DAY, 45 * $DAY, 3 ],
		[ 50, 40, 30, 2 ], 0, 'mine mine mine 2' ],
	[ 'known, and there', [ 50, 40, undef, 2 ], [ 30, 20, 10, 3 ], 1,
		'kept mine mine 5' ],
	[ 'too late here', [ 50, 40, undef, 3 ],
		[ $DAY + 200, $DAY + 100, undef, 2 ], 0, 'kept kept null 3' ],
	[ 'too late here, but passed in time', [ 50, 40, undef, 3 ],
		[ $DAY + 200, 100, $DAY, 2 ], 0, 'mine kept mine 5' ],
	[ 'known, and used later there', [ 50, 10, undef, 2 ],
		[ 20, 20, undef, 3 ], 1, 'kept kept null 5' ],
	[ 'known, and passed there', [ 90, 40, 50, 2 ], [ 60, 20, 30, 3 ], 1,
		'kept mine kept 2' ],
	[ 'known, but lost', undef, [ 50, 40, undef, 2 ], 1, 'mine mine null 2' ],
	[ 'known, but purged', undef, [ $DAY + 200, 40, $DAY, 2 ], 1,
		'mine mine mine 2' ],
	# The last of these: when somebody deleted it.
	[ 'known, but deleted since it began', undef, [ 50, 10, 20, 2 ], 1,
		undef, 30 ],
	[ 'known, and deleted before it began', undef, [ 50, 10, 20, 2 ], 1,
		'mine mine mine 2', 60 ],
	[ 'known, deleted and there again', [ 20, 20, undef, 1 ],
		[ 50, 10, 30, 2 ], 1, 'kept kept null 1', 25 ],
	[ 'known, lost and there again', [ 20, 20, undef, 1 ],
		[ 50, 30, undef, 2 ], 1, 'mine kept null 3' ],
	[ 'a new one, deleted since', undef, [ 50, 40, undef, 2 ], 0, undef, 30 ],
	[ 'a new one, and an older one was deleted', undef,
		[ 50, 40, undef, 2 ], 0, 'mine mine null 2', 60 ],
) {
	my ($name, $before, $mine, $known, $want, $forgotten) = @$case;
	my @key = ('example.net', 'a@example.net', 'b@example.com');
	my %named;

	empty();
	put([ @key, @$before ]) if $before;
	$db->do('INSERT INTO policyd.greylist_forgotten VALUES (?, ?, ?,
		now() - make_interval(secs => ?))', undef, @key, $forgotten)
		if $forgotten;
	my $old = row(@key) || {};
	merge($known, [ [ @key, @$mine ] ]);
	my $new = row(@key);
	if (!defined $want) {
		is($new, undef, "merge: $name");
		next;
	}
	my %mine = map { my $age = $mine->[$_];
		(qw(first_seen last_seen passed_at))[$_] =>
			defined $age ? $NOW - $age : undef } 0 .. 2;
	is(join(' ', (map { moment($new->{$_}, kept => $old->{$_},
				mine => $mine{$_}) } qw(first_seen last_seen passed_at)),
			$new->{attempts}), $want, "merge: $name");
}
empty();
merge(0, [ map { [ 'c', 's', "r$_", 9, 9, undef, $_ ] } 1 .. 1000 ]);
is(value('SELECT count(*) FROM policyd.greylist'), 1000, 'a thousand at once');
is(value('SELECT sum(attempts) FROM policyd.greylist'), 500500, 'and theirs');
$db->do(q{DELETE FROM policyd.greylist WHERE attempts % 2 = 0});
merge(1, [ map { [ 'c', 's', "r$_", 9, 5, 7, 1 ] } reverse 1 .. 1000 ]);
is(value('SELECT count(*) FROM policyd.greylist WHERE passed_at IS NOT NULL'),
	500, 'those that are left, known');
is(value('SELECT count(*) FROM policyd.greylist'), 500, 'and no others');
merge($_, []) for 0, 1;
is(value('SELECT count(*) FROM policyd.greylist'), 500, 'none at all');

# ---- greylist_forgotten ----

sub forgotten {
	return join ', ', @{ $db->selectcol_arrayref(q{SELECT concat_ws(' ', client,
		sender, recipient) || CASE WHEN forgotten_at BETWEEN
			now() - interval '1 min' AND clock_timestamp() THEN '' ELSE '?' END
		FROM policyd.greylist_forgotten ORDER BY 1}) };
}

# A daemon waits half a second for a lock, and then tries again.
sub patiently {
	my $code = shift;
	my @got;
	until (eval { @got = $code->(); 1 }) {
		die $@ if $@ !~ /lock timeout/;
	}
	return @got;
}

sub keys_r { return map { [ 'c', 's', "r$_", 9, 9, undef, 1 ] } 1 .. shift }

empty();
put(keys_r(5));
is(forgotten(), '', 'nothing is forgotten');
$db->do(q{DELETE FROM policyd.greylist WHERE recipient IN ('r1', 'r2')});
is(forgotten(), 'c s r1, c s r2', 'what is deleted is');
$db->do(q{UPDATE policyd.greylist SET first_seen = now()});
is(forgotten(), 'c s r1, c s r2', 'not what is changed');
$db->do(q{UPDATE policyd.greylist SET recipient = 'r9'
	WHERE recipient = 'r3'});
is(forgotten(), 'c s r1, c s r2, c s r3', 'but what has another key is');
$db->do(q{UPDATE policyd.greylist_forgotten SET forgotten_at = '2001-01-01'});
put(keys_r(1));
$db->do(q{DELETE FROM policyd.greylist WHERE recipient = 'r1'});
is(forgotten(), 'c s r1, c s r2?, c s r3?', 'and again, with the later time');
empty();
put(keys_r(3));
$db->do('TRUNCATE policyd.greylist');
is(forgotten(), '  ', 'all of them');
merge(1, [ keys_r(2), [ 'c', 's', 'r3', -9, -9, undef, 1 ] ]);
is(value(q{SELECT string_agg(recipient, ' ') FROM policyd.greylist}), 'r3',
	'and merged is what began later');
empty();
put(map { [ 'c', 's', "r$_", 9, 9, undef, 1 ] } 1 .. 1001);
$db->do('DELETE FROM policyd.greylist');
is(forgotten(), '  ', 'a thousand, and one');
empty();
put(keys_r(2));
$daemon->do(q{SELECT policyd.purge('greylist', 0, 1000, 0, 0)});
is(forgotten() . value('SELECT count(*) FROM policyd.greylist'), 0,
	'what is purged is not forgotten');
{
	# Whoever may delete need not know of it.
	put(keys_r(1));
	$db->do('CREATE ROLE site');
	$db->do('GRANT USAGE ON SCHEMA policyd TO site');
	$db->do('GRANT SELECT, DELETE ON policyd.greylist TO site');
	$db->do('SET ROLE site');
	$db->do('DELETE FROM policyd.greylist');
	$db->do('RESET ROLE');
	is(forgotten(), 'c s r1', 'whoever deletes it');
	ok(!eval { $daemon->do('CREATE TEMPORARY TABLE mine (client text)');
			$daemon->do('CREATE TRIGGER f AFTER TRUNCATE ON mine
				EXECUTE FUNCTION policyd.forget()'); 1 },
		'who may not delete makes no other use of it');
	$daemon->do('DROP TABLE IF EXISTS mine');
}
{
	# Where PostgreSQL writes times that it does not read.
	empty();
	put(keys_r(1));
	$db->do(q{SET datestyle = 'SQL'});
	$db->do(q{SET timezone = 'Asia/Jakarta'});
	$db->do('DELETE FROM policyd.greylist');
	$db->do('RESET datestyle');
	$db->do('RESET timezone');
	is(forgotten(), 'c s r1', 'whatever the style of dates');
}
{
	# The later time counts, whoever has had to wait.
	empty();
	$db->do(q{INSERT INTO policyd.greylist_forgotten
		VALUES ('c', 's', 'r1', now() + interval '1 h')});
	put(keys_r(1));
	$db->do('DELETE FROM policyd.greylist');
	is(forgotten(), 'c s r1?', 'forgotten_at does not go back');
}
{
	# Many rows after one, in the same session: by the square it would be a
	# minute.
	empty();
	put(keys_r(1));
	my $own = $pg->dbh;
	$own->do(q{SET statement_timeout = '20s'});
	$own->do('UPDATE policyd.greylist SET attempts = 2');
	put(map { [ 'c', 's', "q$_", 9, 9, undef, 1 ] } 1);
	$own->do(q{INSERT INTO policyd.greylist (client, sender, recipient)
		SELECT 'd', 's', i::text FROM generate_series(1, 20000) AS i});
	ok(eval { $own->do('UPDATE policyd.greylist SET attempts = 3'); 1 },
		'many are changed after one') or diag $@;
	$own->disconnect;
}
{
	# What the site keeps out stays out.
	empty();
	$db->do(q{CREATE FUNCTION pg_temp.out() RETURNS trigger LANGUAGE plpgsql
		AS 'BEGIN RETURN NULL; END'});
	$db->do(q{CREATE TRIGGER out BEFORE INSERT ON policyd.greylist FOR EACH ROW
		EXECUTE FUNCTION pg_temp.out()});
	merge($_, [ keys_r(2) ]) for 0, 1;
	is(value('SELECT count(*) FROM policyd.greylist'), 0,
		'a trigger of the site ends no merge');
	$db->do('DROP TRIGGER out ON policyd.greylist');
}
{
	# A host whose clock was wrong when it started.
	empty();
	put([ 'c', 's', 'r1', 9, 9, 9, 1 ]);
	$db->do(q{INSERT INTO policyd.client (client) VALUES ('c')});
	merge(0, [ [ 'c', 's', 'r2', -$DAY, -$DAY, -$DAY, 2 ] ]);
	touch([ 'c', 's', 'r1', -$DAY, 0 ]);
	client_merge([ 'c', -$DAY ]);
	is(value('SELECT count(*) FROM policyd.greylist
		WHERE greatest(first_seen, last_seen, passed_at)
			<= clock_timestamp()'), 2, 'nothing is of tomorrow');
	is(value('SELECT count(*) FROM policyd.client
		WHERE last_seen <= clock_timestamp()'), 1, 'nor is a client');
}
{
	# Somebody is just deleting what is merged.
	empty();
	put(keys_r(1));
	my $other = $pg->dbh;
	$other->begin_work;
	$other->do('DELETE FROM policyd.greylist');
	my $pid = fork;
	if (!$pid) {
		$_->{AutoInactiveDestroy} = 1 for $db, $daemon, $other;
		my $mine = $pg->dbh;
		patiently(sub { merge_as($mine, 1, [ keys_r(1) ]) });
		POSIX::_exit(0);
	}
	PolicydTest::wait_for(sub {
		value(q{SELECT count(*) FROM pg_stat_activity
			WHERE wait_event_type = 'Lock'})
	});
	$other->commit;
	waitpid $pid, 0;
	is($? . value('SELECT count(*) FROM policyd.greylist'), '00',
		'what is being deleted is not merged');
	$other->disconnect;
}

# ---- greylist_touch ----

sub touch_as {
	my ($dbh, @rows) = @_;
	my @r = map { [ @{$_}[ 0 .. 2 ], sprintf('%.6f', $NOW - $_->[3]), $_->[4] ] }
		@rows;
	$dbh->do('SELECT policyd.greylist_touch(?, ?, ?, ?, ?)', undef,
		map { column($_, @r) } 0 .. 4);
	return;
}
sub touch { return touch_as($daemon, @_) }

for my $case (
	# Ages and attempts before, age and attempts of the touch.
	[ 'waits', [ 50, 40, undef, 2 ], [ 30, 3 ], 'kept mine null 5' ],
	[ 'has passed', [ 90, 40, 50, 2 ], [ 30, 3 ], 'kept mine kept 2' ],
	[ 'used later', [ 90, 10, 50, 2 ], [ 30, 3 ], 'kept kept kept 2' ],
	[ 'is gone', undef, [ 30, 3 ], undef ],
) {
	my ($name, $before, $mine, $want) = @$case;
	my @key = ('example.net', 'a@example.net', 'b@example.com');

	empty();
	put([ @key, @$before ]) if $before;
	my $old = row(@key) || {};
	touch([ @key, @$mine ]);
	my $new = row(@key);
	my $got = $new && join ' ',
		(map { moment($new->{$_}, kept => $old->{$_},
				mine => $NOW - $mine->[0]) }
			qw(first_seen last_seen passed_at)), $new->{attempts};
	is($got, $want, "touch: $name");
}

# ---- client_merge ----

sub client_merge_as {
	my ($dbh, @rows) = @_;
	my @r = map { [ $_->[0], sprintf('%.6f', $NOW - $_->[1]) ] } @rows;
	$dbh->do('SELECT policyd.client_merge(?, ?)', undef,
		map { column($_, @r) } 0, 1);
	return;
}
sub client_merge { return client_merge_as($daemon, @_) }

empty();
allow('earlier', 2, 100, 0);
allow('later', 2, 10, 0);
allow('admin', 0, 100, 1);
my %was = map { $_ => client($_)->{last_seen} } qw(earlier later admin);
client_merge([ 'admin', 50 ], [ 'earlier', 50 ], [ 'gone', 50 ],
	[ 'later', 50 ]);
is(join(' ', map { my $c = client($_); $c ? $c->{passes} : 'none' }
		qw(admin earlier gone later)), '0 2 none 2', 'nothing is counted');
is(moment(client($_)->{last_seen}, mine => $NOW - 50, kept => $was{$_}),
	$_ eq 'later' ? 'kept' : 'mine', "last_seen of $_")
	for qw(admin earlier later);
ok(client('admin')->{allowed}, 'who is allowed stays allowed');

# ---- each pass is counted once ----

sub passes { return (client('c') || { passes => 'none' })->{passes} }

for my $known (0, 1) {
	my @waits  = ('c', 's', 'r', 90, 80, undef, 1);
	my @passed = ('c', 's', 'r', 90, 10, 20, 1);
	my $what   = $known ? 'known' : 'new';

	empty();
	put([@waits]) if $known;
	merge($known, [ [@passed] ]);
	is(passes(), 1, "$what: a pass that is merged counts");
	merge($known, [ [@passed] ]);
	is(passes(), 1, "$what: once, however often it is merged");
	see([ [ 'c', 'n', 's', 'r', 1 ] ]);
	is(passes(), 1, "$what: and not again when it is tried");
	client_merge([ 'c', 5 ]);
	is(passes(), 1, "$what: nor when the client is heard of");
	$db->do('DELETE FROM policyd.client');
	merge($known, [ [@passed] ]);
	client_merge([ 'c', 5 ]);
	is(passes(), 'none', "$what: one that is deleted stays deleted");

	empty();
	put([@waits]);
	see([ [ 'c', 'n', 's', 'r', 1 ] ]);
	merge($known, [ [@passed] ]);
	is(passes(), 1, "$what: a pass here and there is one");
	merge($known, [ [ 'c', 's', 'r', 90, 10, undef, 1 ] ]);
	is(passes(), 1, "$what: what waits does not count");
}
empty();
merge(0, [ [ 'c', 's', 'r', 20, 10, 20, 1 ] ]);
is(passes(), 'none', 'what was taken over from a network does not');
merge(0, [ map { [ 'c', 's', "r$_", 30, 10, 20, 1 ] } 1 .. 3 ]);
is(passes(), 3, 'three keys are three');
is(moment(client('c')->{last_seen}, mine => $NOW - 20), 'mine',
	'last heard of when they passed');

# ---- what is announced ----

my $listener = $pg->dbh;
$listener->do('LISTEN policyd');

sub announced {
	my ($code) = @_;
	my @got;
	$code->();
	$db->do(q{NOTIFY policyd, 'end'});
	my $end = time + 20;
	while (time < $end) {
		my $note = $listener->pg_notifies or sleep(0.005), next;
		return join ', ', sort @got if $note->[2] eq 'end';
		push @got, $note->[2];
	}
	return 'never ended';
}

sub by_sql {
	my @sql = @_;
	return announced(sub { $db->do($_) for @sql });
}

announced(\&empty);
is(announced(sub { see([ [ 'c', 'n', 's', 'r', 1 ] ]) }), '',
	'the first attempt is not announced');
is(announced(sub { see([ [ 'c', 'n', 's', 'r', 1 ] ]) }), '',
	'nor is one that waits');
is(by_sql(q{UPDATE policyd.greylist SET first_seen = now() - interval '2 min'}),
	'greylist:c s r', 'an update of greylist is');
is(announced(sub { see([ [ 'c', 'n', 's', 'r', 1 ] ]) }), 'client:c',
	'a client that passes is announced');
is(announced(sub { see([ [ 'c', 'n', 's', 'r', 1 ] ]) }), '',
	'not every time');
is(announced(sub {
		merge(0, [ map { [ 'c', 's', "m$_", 9, 9, undef, 1 ] } 1 .. 1000 ]) }),
	'', 'what is merged, and new, is not');
is(announced(sub { merge(0, [ map { [ 'c', 's', "m$_", 9, 8, undef, 1 ] }
				1 .. 1000 ]) }), '', 'nor is what changes for nobody');
is(announced(sub { merge(0, [ [ 'c', 's', 'm1', 10, 9, undef, 1 ],
			[ 'c', 's', 'm2', 8, 7, undef, 1 ] ]) }),
	'greylist_merged:c s m1', 'one that is older now is');
is(announced(sub { merge(1, [ [ 'c', 's', 'm2', 9, 7, 6, 1 ],
			[ 'c', 's', 'm3', 9, 7, 6, 1 ] ]) }),
	'client:c, greylist_merged:c s m2, greylist_merged:c s m3',
	'and those that have passed, and their client, once');
is(announced(sub { merge(1, [ [ 'c', 's', 'm2', 9, 7, 6, 1 ] ]);
		touch([ 'c', 's', 'm3', 1, 1 ], [ 'c', 's', 'm4', 1, 1 ]);
		client_merge([ 'c', 1 ]) }), '', 'not twice, and no use is');
is(announced(sub { $daemon->do(q{SELECT policyd.purge('greylist', 0, 1000, 0, 0)});
	$daemon->do(q{SELECT policyd.purge('client', 0, 10, 0, 0)}) }), '',
	'the purge is not announced');
is(value('SELECT count(*) FROM policyd.greylist'), 0, 'though it deletes');
is(by_sql(q{INSERT INTO policyd.greylist VALUES ('c', 's', 'r'), ('c', 's', 't')}),
	'', 'a row of greylist that somebody adds');
is(by_sql(q{DELETE FROM policyd.greylist WHERE recipient = 'r'}),
	'greylist:c s r', 'one deleted');
is(by_sql(q{UPDATE policyd.greylist SET recipient = 'u'}),
	'greylist:c s t, greylist:c s u', 'another key');
is(by_sql(q{DELETE FROM policyd.greylist WHERE false}), '', 'none deleted');
is(by_sql('TRUNCATE policyd.greylist'), 'greylist', 'all gone');
is(by_sql(q{INSERT INTO policyd.greylist SELECT 'c', 's', i::text
		FROM generate_series(1, 1001) i},
		'DELETE FROM policyd.greylist'), 'greylist', 'a thousand deleted');
{
	my $long = 'l' x 2000;
	is(by_sql(qq{INSERT INTO policyd.greylist VALUES ('c', '$long', 'r')},
		'DELETE FROM policyd.greylist'), 'greylist', 'a very long key');
}
is(by_sql(q{INSERT INTO policyd.client (client, allowed_at) VALUES ('x', now())}),
	'client:x', 'a client that somebody adds');
is(by_sql(q{UPDATE policyd.client SET allowed_at = NULL}), 'client:x', 'changes');
is(by_sql(q{DELETE FROM policyd.client}), 'client:x', 'deletes');
is(by_sql('TRUNCATE policyd.client'), 'client', 'all of them');
is(announced(sub {
		$daemon->begin_work;
		$daemon->do('SELECT policyd.begin_as_daemon()');
		$daemon->do(q{INSERT INTO policyd.client (client) VALUES ('x')});
		$daemon->commit;
		$daemon->do(q{DELETE FROM policyd.client});
	}), 'client:x', 'silence ends with its transaction');
is($daemon->selectrow_array('SHOW synchronous_commit'),
	$db->selectrow_array('SHOW synchronous_commit'), 'so does the haste');

# ---- what the tables take ----

for my $case ([ '', 'empty' ], [ 'Example.net', 'capitals' ],
	[ 'a b', 'blank' ], [ "a\tb", 'blank' ], [ 'x' x 256, 'too long' ]) {
	my ($client, $why) = @$case;
	ok(!eval { $db->do('INSERT INTO policyd.client (client) VALUES (?)', undef,
			$client); 1 }, "a client that is $why");
	like($@, qr/\Q$why\E.*HINT: .*192\.0\.2\.0/s, 'and is told so');
}
{
	my $admin = $pg->dbh;
	$admin->do('SET ROLE policyd_admin');
	ok(eval { $admin->do($_); 1 }, "an administrator may: $_") or diag $@
		for q{INSERT INTO policyd.client (client, allowed_at, reason)
			VALUES ('a.example', now(), 'they asked')},
		q{INSERT INTO policyd.greylist (client, sender, recipient)
			VALUES ('a', 'b', 'c')},
		q{UPDATE policyd.greylist SET passed_at = now()},
		'DELETE FROM policyd.greylist', 'TRUNCATE policyd.client',
		'TRUNCATE policyd.greylist';
	$admin->disconnect;
	$db->do('CREATE ROLE stranger LOGIN');
	my $stranger = $pg->dbh(user => 'stranger');
	ok(!eval { see_as($stranger, [ [ 'c', 'n', 's', 'r', 1 ] ]); 1 },
		'a stranger may not');
	$stranger->disconnect;
}

# ---- odd bytes ----

empty();
{
	my @odd = ('', '"', "'", '\\', '{', '}', '{}', ',', 'NULL', 'null', "\t",
		' ', '  x', '\\"', '%s', '$1', "a\nb", "\x01\x7f", 'x' x 2000);
	see([ map { [ 'c', 'n', $_, $_, 1 ] } @odd ]);
	my $got = $db->selectcol_arrayref('SELECT sender FROM policyd.greylist
		WHERE sender = recipient');
	is_deeply([ sort @$got ], [ sort @odd ], 'senders of all kinds');
	$db->do(q{UPDATE policyd.greylist SET first_seen = now() - interval '1 h'});
	my $passed = see([ map { [ 'c', 'n', $_, $_, 1 ] } @odd ]);
	is(scalar(grep { defined $_->{passed_at} } values %$passed), scalar @odd,
		'all of them pass');
	is(client('c')->{passes}, scalar @odd, 'and count');
}

# ---- purge ----

# One whole round, so many blocks at a time: (steps, deleted).
sub purge {
	my ($what, $blocks, %opt) = @_;
	my %o = (%OPTIONS, %opt);
	my ($from, $steps, $sum) = (0, 0, 0);
	do {
		my $r = $daemon->selectrow_hashref(
			'SELECT * FROM policyd.purge(?, ?, ?, ?, ?)', undef, $what, $from,
			$blocks, @o{qw(retry_window max_age)});
		return ('locked', $r->{deleted}) if !defined $r->{next_block};
		$from = $r->{next_block};
		$sum += $r->{deleted};
		$steps++;
	} while ($from && $steps < 1000);
	return ($steps, $sum);
}

empty();
is(join(' ', purge($_, 10)), '1 0', "nothing to purge in $_")
	for qw(greylist client greylist_forgotten);
put([ 'c', 's', 'waits', $DAY - 100, 50 * $DAY, undef, 1 ],
	[ 'c', 's', 'late', $DAY + 1, 10, undef, 1 ],
	[ 'c', 's', 'passed', 99 * $DAY, 35 * $DAY - 100, 99 * $DAY, 1 ],
	[ 'c', 's', 'old', 99 * $DAY, 35 * $DAY + 1, 99 * $DAY, 1 ]);
allow('fresh',   1, 35 * $DAY - 100, 0);
allow('old',     9, 35 * $DAY + 1,   0);
allow('allowed', 0, 99 * $DAY,       1);
is(join(' ', purge('greylist', 10)), '1 2', 'two old rows of greylist');
is_deeply($db->selectcol_arrayref('SELECT recipient FROM policyd.greylist
	ORDER BY 1'), [qw(passed waits)], 'the others stay');
is(join(' ', purge('client', 10)), '1 1', 'one old client');
is_deeply($db->selectcol_arrayref('SELECT client FROM policyd.client
	ORDER BY 1'), [qw(allowed fresh)], 'the others stay');
$db->do(q{INSERT INTO policyd.greylist_forgotten
	SELECT 'c', 's', d::text, now() - make_interval(days => d)
	FROM generate_series(34, 37) AS d WHERE d <> 36});
is(join(' ', purge('greylist_forgotten', 10, retry_window => 36 * $DAY)), '1 1',
	'one forgotten, which no window is as wide as');
is(join(' ', purge('greylist_forgotten', 10)), '1 1', 'and one by max_age');

empty();
$db->do(q{INSERT INTO policyd.greylist (client, sender, recipient, first_seen)
	SELECT 'c', repeat('x', 200), i::text,
	CASE WHEN i % 3 = 0 THEN now() ELSE now() - interval '3 d' END
	FROM generate_series(1, 3000) AS i});
my ($size) = value(q{SELECT pg_relation_size('policyd.greylist') / 8192});
{
	my $other = $pg->dbh;
	$other->do('SELECT pg_advisory_lock(1886350457, 1)');
	is(join(' ', purge('greylist', 10)), 'locked 0', 'another host is at it');
	$other->disconnect;
	ok(PolicydTest::wait_for(sub {
		!value(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'})
	}), 'its lock goes with it');
}
{
	my $other = $pg->dbh;
	$other->begin_work;
	$other->do(q{SELECT FROM policyd.greylist WHERE recipient IN ('1', '3001')
		FOR UPDATE});
	my ($steps, $deleted) = purge('greylist', 7);
	is($steps, POSIX::ceil($size / 7), "$size blocks, seven at a time");
	is($deleted, 1999, 'all old rows, but for one that somebody has locked');
	$other->rollback;
	is(join(' ', (purge('greylist', 1e6))), '1 1', 'that the next time');
	$other->disconnect;
}
is(value('SELECT count(*) FROM policyd.greylist'), 1000, 'the fresh ones stay');

# ---- many at once ----

# Several hosts with keys in common, in any order; merges, purges and an
# administrator between them.  Each attempt is in the table in the end.
empty();
{
	my ($hosts, $rounds) = (6, 60);
	my @keys = map {
		my $i = $_;
		map { [ "c$i", "n$i", 's', $_ ] } 1 .. 8
	} 1 .. 10;
	my @pids;
	$_->{AutoInactiveDestroy} = 1 for $db, $daemon, $listener;
	for my $host (1 .. $hosts) {
		defined(my $pid = fork) or die "fork: $!";
		push(@pids, $pid), next if $pid;
		eval {
			my $own = $pg->dbh(user => 'policyd');
			srand $host;
			my $pick = sub {
				my %seen;
				return map { $keys[$_] } grep { !$seen{$_}++ }
					map { int rand @keys } 1 .. 20;
			};
			my @do = (
				sub { see_as($own, [ map { [ @$_, 1 ] } $pick->() ],
					delay => 0) },
				sub { merge_as($own, 0, [ map { [ @{$_}[ 0, 2, 3 ], 1, 1, undef,
					1 ] } $pick->() ]) },
				sub { merge_as($own, 1, [ map { [ @{$_}[ 0, 2, 3 ], 2, 1, 1, 1 ] }
					$pick->() ]) },
				sub {
					my %one = map { $_->[0] => 1 } $pick->();
					client_merge_as($own, map { [ $_, 1 ] } sort keys %one);
				},
				sub { touch_as($own, map { [ @{$_}[ 0, 2, 3 ], 1, 1 ] }
					sort { "@$a" cmp "@$b" } $pick->()) },
				map {
					my $what = $_;
					sub { $own->do("SELECT policyd.purge('$what', 0, 100, 9999,
						9999)") }
				} qw(greylist client),
			);
			for my $round (1 .. $rounds) {
				patiently($_) for @do;
			}
			1;
		} or do { print STDERR $@; POSIX::_exit(1) };
		POSIX::_exit(0);
	}
	is(scalar(grep { waitpid $_, 0; $? } @pids), 0,
		"$hosts hosts with keys in common");
	unlike($pg->log_text, qr/deadlock/, 'no deadlock');
	is(value('SELECT count(*) FROM policyd.greylist'), scalar @keys,
		'one row for each key');
	is(value('SELECT count(*) FROM policyd.greylist WHERE passed_at IS NULL'),
		0, 'all have passed');
}

# The same keys at the same moments: attempts are counted once each, and so are
# passes.
empty();
{
	my ($hosts, $rounds) = (4, 50);
	my @keys = map { [ "c$_", "n$_", 's', 'r', 1 ] } 1 .. 30;
	my @pids;
	for my $host (1 .. $hosts) {
		defined(my $pid = fork) or die "fork: $!";
		push(@pids, $pid), next if $pid;
		eval {
			my $own = $pg->dbh(user => 'policyd');
			for my $round (1 .. $rounds) {
				patiently(sub { see_as($own,
					[ $host % 2 ? @keys : reverse @keys ], delay => 3600) });
			}
			1;
		} or do { print STDERR $@; POSIX::_exit(1) };
		POSIX::_exit(0);
	}
	is(scalar(grep { waitpid $_, 0; $? } @pids), 0,
		"$hosts hosts with the same keys");
	is(value('SELECT string_agg(DISTINCT attempts::text, $$ $$)
		FROM policyd.greylist'), $hosts * $rounds, 'attempts add up');
	$db->do(q{UPDATE policyd.greylist SET first_seen = now() - interval '2 h'});
	@pids = ();
	for my $host (1 .. $hosts) {
		defined(my $pid = fork) or die "fork: $!";
		push(@pids, $pid), next if $pid;
		eval {
			my $own = $pg->dbh(user => 'policyd');
			patiently(sub { see_as($own, [@keys], delay => 3600) });
			1;
		} or do { print STDERR $@; POSIX::_exit(1) };
		POSIX::_exit(0);
	}
	is(scalar(grep { waitpid $_, 0; $? } @pids), 0, 'they pass');
	is(value('SELECT string_agg(DISTINCT passes::text, $$ $$)
		FROM policyd.client'), 1, 'each pass counts once');
	is(value('SELECT string_agg(DISTINCT attempts::text, $$ $$)
		FROM policyd.greylist'), $hosts * $rounds + 1,
		'attempts are counted until it passed');
	unlike($pg->log_text, qr/deadlock/, 'no deadlock');
}

# Errors that a server would log; ours were asked for.
my @errors = grep { /ERROR|FATAL|PANIC/
	&& !/is empty|has capitals|has a blank|is too long|permission denied|lock timeout/ }
	split /\n/, $pg->log_text;
is("@errors", '', 'no other error in the log of PostgreSQL');

$_->disconnect for $db, $daemon, $listener;
done_testing;
