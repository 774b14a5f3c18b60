#!/usr/bin/perl

# SPDX-License-Identifier: MIT
#
# What one more attempt makes of a key: PostgreSQL and the memory of the daemon
# agree, over thousands of rows of every age.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use File::Temp;
use PolicydTest qw(site slurp spew top);
use Test::More;

my $tool = ($ENV{TOOLS} || top() . '/build/t/tools') . '/attempt';
-x $tool or plan skip_all => "$tool is not built";

my $pg  = site('');
my $db  = $pg->dbh;
my $dir = File::Temp->newdir;
my ($rows, $rounds) = (1000, 6);
my $seed = $ENV{SEED} || int rand 1e6;
srand $seed;

# Ages close to the bounds, and far from them, before and after now.
sub age {
	my @bounds = @_;
	my $bound  = $bounds[ rand @bounds ];
	return $bound + (rand() < 0.5 ? 1 : -1) * (0.2 + rand 3) if rand() < 0.7;
	return rand(2 * $bound + 10) - 5;
}

# Microseconds, as PostgreSQL has them.
sub us { return "(extract(epoch FROM $_[0]) * 1000000)::bigint" }

my $wrong = 0;
my %seen;
for my $round (1 .. $rounds) {
	my @limit = @{ (
		[60, 86400, 3024000], [1, 10, 20], [0, 5, 5], [30, 31, 3600],
		[300, 3600, 60], [5, 100, 50]
	)[ $round % 6 ] };
	my ($delay, $window, $max_age) = @limit;
	$db->do('TRUNCATE policyd.greylist, policyd.client');
	my $insert = $db->prepare(q{INSERT INTO policyd.greylist
		SELECT 'c' || ?, 's', 'r', now() - make_interval(secs => ?),
		    now() - make_interval(secs => ?),
		    now() - make_interval(secs => ?), ?});
	for my $n (1 .. $rows) {
		$insert->execute($n, age($delay, $window), age($max_age),
			(rand() < 0.5 ? age($delay, $max_age) : undef), 1 + int rand 9)
			if rand() < 0.95;
	}
	my %before = map { $_->[0] => $_ } @{ $db->selectall_arrayref(
		'SELECT client, ' . join(', ', map { us($_) }
			qw(first_seen last_seen passed_at))
		. ', attempts FROM policyd.greylist') };
	my @client = map { "c$_" } 1 .. $rows;
	my @counts = map { int rand 2 } 1 .. $rows;
	my $now = $db->selectrow_array('SELECT min(clock)::text FROM
		policyd.greylist_see(?, ?, ?, ?, ?, ?, ?, ?, 0)', undef, \@client,
		\@client, [('s') x $rows], [('r') x $rows], \@counts, @limit);
	$now = $db->selectrow_array('SELECT (?::float8 * 1000000)::bigint',
		undef, $now);
	my %after = map { $_->[0] => $_ } @{ $db->selectall_arrayref(
		'SELECT client, ' . join(', ', map { us($_) }
			qw(first_seen last_seen passed_at))
		. ', attempts FROM policyd.greylist') };
	spew("$dir/in", join '', map {
		my $b = $before{ $client[$_] } || [undef, 0, 0, undef, 0];
		join(' ', (map { $_ * 1000000 } @limit), $now, $counts[$_],
			map { $_ // '-' } @$b[1 .. 4]) . "\n"
	} 0 .. $#client);
	system("$tool <$dir/in >$dir/out") == 0 or die 'the tool failed';
	my @said = split /\n/, slurp("$dir/out");
	for my $n (0 .. $#client) {
		my ($verdict, @memory) = split ' ', $said[$n];
		my @sql = map { $_ // '-' } @{ $after{ $client[$n] } }[1 .. 4];
		# One that is new was tried as often as it was counted.
		$memory[3] = $sql[3] if $verdict eq 'new';
		$seen{$verdict}++;
		next if "@memory" eq "@sql";
		# The clock is a floating point number of seconds.
		next if !grep { ($memory[$_] eq '-') != ($sql[$_] eq '-')
			|| $sql[$_] ne '-' && abs($memory[$_] - $sql[$_]) > 1 } 0 .. 3;
		diag "limits @limit, now $now, counted $counts[$n], before @{[
			map { $_ // '-' } @{ $before{ $client[$n] } || ['none'] } ]}: "
			. "$verdict @memory, in SQL @sql" if $wrong++ < 5;
	}
}
is($wrong, 0, $rows * $rounds . ' attempts: memory and SQL agree')
	or diag "SEED=$seed";
cmp_ok($seen{$_} || 0, '>', 50, "of which many are $_")
	for qw(new early pass known);

done_testing;
