package FaultTest;

# SPDX-License-Identifier: MIT
#
# "Whatever breaks, mail goes on and nothing is lost": one fault of PostgreSQL
# after the other, under load (FaultLoad.pm), with counts.
#
#   my $test = FaultTest->new(pg => $pg, daemon => $d);
#   $test->fault('stopped', break => sub { $pg->stop },
#       mend => sub { $pg->start });
#   FaultTest::table();

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use FaultLoad;
use PolicydTest qw(soon wait_for);

use constant {
	BEFORE_S => 1.2,
	DURING_S => 2,
	AFTER_S  => 0.3,
	DELAY_S  => 0.5,  # of greylisting
	MARGIN_S => 0.3,  # so much later a sender tries again

	# What memory answers is there at once; this much is the machine's, on
	# top of what the load was itself held up for: five times as much where
	# POLICYD_TEST_PATIENCE does not say that it has nothing else to do.
	STEADY_WORST_S => 0.25 * ($ENV{POLICYD_TEST_PATIENCE} || 5),
	STEADY_P99_S   => 0.02 * ($ENV{POLICYD_TEST_PATIENCE} || 5),
	STEADY_RATIO   => 1.5,
	# policyd waits half a second for PostgreSQL and no longer.
	FRESH_WORST_S => 0.6,
};

my @TABLE;
my $ACCOUNT = 'a';
my $NETWORK = 0;

# Rows that the load needs.  Neither rows nor clients of its new keys.
sub rows { return <<'SQL' }
INSERT INTO policyd.domain (name, recipients, greylist) VALUES
  ('example.com', 'listed', false), ('any.example', 'any', NULL);
INSERT INTO policyd.address (address)
  SELECT 'user' || i || '@example.com' FROM generate_series(1, 50) AS i;
INSERT INTO policyd.greylist (client, sender, recipient, first_seen, passed_at)
  SELECT '198.51.100.0/24', 'passed@example.net', 'key' || i || '@any.example',
    now() - interval '1 hour', now() - interval '50 minutes'
  FROM generate_series(1, 10) AS i;
INSERT INTO policyd.client (client, allowed_at) VALUES ('203.0.113.0/24', now());
SQL

sub ini {
	return (
		greylist => { enabled => 'yes', delay => 1000 * DELAY_S . 'ms' },
		database => { reconnect_max => '300ms', query_timeout => '1s' },
		log      => { decisions => 'none' },
	);
}

# What memory can answer.
sub steady {
	my @q;
	my @unnamed = (client_name => 'unknown');

	for my $i (1 .. 10) {
		push @q,
			[ 'a known recipient', { recipient => "user$i\@example.com" },
				'^DUNNO$' ],
			[ 'an unknown recipient', { recipient => "no$i\@example.com" },
				'^550 5\.1\.1 ' ],
			[ 'a key that has passed', { @unnamed,
				client_address => "198.51.100.$i",
				sender => 'passed@example.net',
				recipient => "key$i\@any.example" }, '^DUNNO$' ],
			[ 'a client that is allowed', { @unnamed,
				client_address => "203.0.113.$i",
				recipient => "x$i\@any.example" }, '^DUNNO$' ];
	}
	return \@q;
}

# pg: where the rows are to be found; may be changed by what mends.
sub new {
	my ($class, %opt) = @_;
	my $self = bless {%opt}, $class;
	my $daemon = $self->{daemon};

	$self->{pid} = $daemon->pid;
	# So that they are in memory.
	$daemon->ask(%{ $_->[1] }) for @{ steady() };
	$self->{load} = FaultLoad->new(socket => $daemon->{socket},
		steady => steady(), delay => DELAY_S + MARGIN_S, network => 20_000 * $NETWORK++);
	return $self;
}

# { RECIPIENT => has passed } of a sender.
sub keys_of {
	my ($self, $sender) = @_;
	my $dbh = $self->{pg}->dbh;
	my $rows = $dbh->selectall_arrayref('SELECT recipient,
		passed_at IS NOT NULL FROM policyd.greylist WHERE sender = ?',
		undef, $sender);
	$dbh->disconnect;
	return { map { @$_ } @$rows };
}

# break, mend: subs; seconds: between them; meanwhile: a sub that is called all
# the time instead of sleeping.  Where answers came late, the machine may have been
# busy: prepare, a sub, and all else once more.
sub fault {
	my ($self, $name, %opt) = @_;

	for my $try (1, 2) {
		$opt{prepare}->() if $opt{prepare};
		my @late = late($self->once($name, %opt));
		next if @late && $try == 1;
		ok(!@late, "$name: answers are in time") or diag "$name: @late";
		last;
	}
	return;
}

sub once {
	my ($self, $name, %opt) = @_;
	my $load = $self->{load};
	my $sender = 'list@' . ($name =~ s/\W//gr) . $ACCOUNT++ . '.example';

	$load->phase('before', sender => $sender);
	sleep BEFORE_S;
	my %before = (
		asked => scalar keys %{ $load->report->{keys} },
		there => scalar keys %{ $self->keys_of($sender) }
	);

	my $broken = $load->phase('during');
	$opt{break}->();
	my $until = $broken + ($opt{seconds} || DURING_S);
	while (time < $until) {
		$opt{meanwhile} ? $opt{meanwhile}->() : sleep 0.05;
	}
	$opt{mend}->() if $opt{mend};
	$load->phase('after');
	sleep AFTER_S;
	$load->fresh(0);
	ok(wait_for(sub { !$load->left }, 30), "$name: all are answered");

	my $seen = $load->report;
	my $keys = $seen->{keys};
	my $rows;
	wait_for {
		$rows = $self->keys_of($sender);
		!grep { !$rows->{$_} } keys %$keys
	} 20;
	my @lost  = sort grep { !exists $rows->{$_} } keys %$keys;
	my @anew  = sort grep { $keys->{$_}[2] } keys %$keys;
	my @waits = sort grep { exists $rows->{$_} && !$rows->{$_} } keys %$keys;

	is($seen->{failed}, 0, "$name: no request fails")
		or diag map { "$_\n" } @{ $seen->{why} };
	ok($self->{daemon}->alive && $self->{daemon}->pid == $self->{pid},
		"$name: policyd was not restarted");
	is("@lost", '', "$name: no key is lost");
	is("@anew", '', "$name: who comes back in time passes");
	is("@waits", '', "$name: who has passed has passed in PostgreSQL");
	my $asked = keys %$keys;
	my $there = grep { exists $rows->{$_} } keys %$keys;
	is(scalar(keys %$rows), $there, "$name: and nothing else is there");
	cmp_ok($asked, '>', 20, "$name: there was something to lose");

	$seen->{name}   = $name;
	$seen->{before} = \%before;
	push @TABLE, [
		$name,
		map({ $_->{steady}{count} + $_->{fresh}{count} }
			$seen->{phases}{during}),
		$seen->{failed},
		map({ ms($seen->{phases}{$_}{steady}{p99}) } qw(before during)),
		map({ ms($seen->{phases}{$_}{steady}{worst}) } qw(during after)),
		map({ ms($seen->{phases}{$_}{fresh}{worst}) } qw(during after)),
		ms(stall($seen)),
		"$before{asked}/$before{there}",
		"$asked/$there",
		scalar(@lost),
		scalar(@anew),
	];
	return $seen;
}

sub ms { return sprintf '%.1f', 1000 * $_[0] }

# How long the machine held up the load itself, at worst.
sub stall {
	my $seen = shift;
	my ($worst) = sort { $b <=> $a }
		map { $_->{stall} } @{ $seen->{phases} }{qw(during after)};
	return $worst;
}

# What took longer than it may.
sub late {
	my $seen = shift;
	my %p = %{ $seen->{phases} };
	my $stall = stall($seen);
	my $p99 = $p{before}{steady}{p99} * STEADY_RATIO;
	my @late;

	# Once that all stand still is one in a hundred.
	$p99 = STEADY_P99_S + $stall if $p99 < STEADY_P99_S + $stall;
	push @late, 'p99 of what memory answers: '
		. ms($p{during}{steady}{p99}) . ' ms'
		if $p{during}{steady}{p99} > $p99;
	for my $when (qw(during after)) {
		push @late, "$when, from memory: "
			. ms($p{$when}{steady}{worst}) . ' ms'
			if $p{$when}{steady}{worst} > STEADY_WORST_S + $stall;
		push @late, "$when, new keys: "
			. ms($p{$when}{fresh}{worst}) . ' ms'
			if $p{$when}{fresh}{worst} > FRESH_WORST_S + $stall;
	}
	return @late;
}

sub table {
	my @head = (
		[ '', 'asked', '', 'p99 before', 'p99', 'longest', '',
			'longest', '', 'longest', 'asked/rows', '', '', '' ],
		[ '', 'during', '', 'from', 'from', 'from', 'and', 'new', 'and',
			'of the', '', '', '', 'asked' ],
		[ 'fault', 'it', 'failed', 'memory', 'memory', 'memory', 'after',
			'key', 'after', 'machine', 'before', 'after', 'lost', 'again' ]
	);

	note 'times in ms';
	note sprintf '%-15s %6s %6s %10s' . ' %7s' x 6 . ' %10s %9s %5s %5s', @$_
		for @head, @TABLE;
	return;
}

1;
