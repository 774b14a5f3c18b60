package GreylistTest;

# A site to greylist at, and what its answers look like.
#
#   my $pg = greylist_site();
#   my $d  = greylister($pg, delay => '1h');
#   like($d->ask(recipient => 'bob@example.com'), $GREYLISTED);
#   older(3601);			# as if all had happened that long ago
#   settle($d);				# it knows
#   like($d->ask(recipient => 'bob@example.com'), $PASSED);

use strict;
use warnings;

use Exporter qw(import);
use Scalar::Util qw(weaken);
use Test::More ();
use Time::HiRes qw(time);

use PolicydTest qw(site wait_for);

our @EXPORT = qw($GREYLISTED $PASSED $OK ask_is column count_is errors_of
	greylister greylist_site known no_row older quiet row settle
	value);

our $GREYLISTED =
	qr/^DEFER_IF_PERMIT 4\.2\.0 Greylisted, please try again in (\d+) seconds$/;
our $PASSED = qr/^PREPEND X-Greylist: delayed (\d+) seconds by policyd/;
our $OK     = qr/^DUNNO$/;

my $dbh;
my $mark = 0;
my @daemons;

# A server with the schema, some recipients, and these rows besides.
sub greylist_site {
	my ($sql, %opt) = @_;
	my $pg = site(<<'SQL' . ($sql // ''), %opt);
INSERT INTO policyd.domain (name, recipients) VALUES
  ('example.com', 'listed'), ('any.example', 'any'),
  ('verify.example', 'verify');
INSERT INTO policyd.address (address) VALUES
  ('bob@example.com'), ('alice@example.com'), ('mark@example.com');
SQL
	$dbh ||= $pg->dbh;
	return $pg;
}

# A daemon with these keys of [greylist], and other sections as hashes.  Keys are
# judged one by one, and nothing passes without somebody's doing.  PostgreSQL may
# take six seconds before memory judges, unless the test says otherwise: machines
# are slow.
sub greylister {
	my ($pg, %ini) = @_;
	my %greylist = (enabled => 'yes', delay => '1m', auto_allow_after => 0);
	my %other;

	for my $key (keys %ini) {
		if (ref $ini{$key}) { $other{$key} = $ini{$key} }
		else                { $greylist{$key} = $ini{$key} }
	}
	$other{database} = { reconnect_max => '300ms', query_timeout => '60s',
		%{ $other{database} || {} } };
	$other{log} = { level => 'debug', %{ $other{log} || {} } };
	push @daemons, PolicydTest->new(
		conninfo => $pg->conninfo(user => 'policyd', connect_timeout => 2),
		ini      => { greylist => \%greylist, %other }
	)->start;
	my $d = $daemons[-1];
	weaken($daemons[-1]);
	return $d;
}

# The connection that the rest goes over; tests that stop the server give a new
# one.
sub known { $dbh = shift if @_; return $dbh }

sub value { return scalar known()->selectrow_array(@_) }
sub column { return @{ known()->selectcol_arrayref(@_) } }

# What these daemons have judged is in PostgreSQL: they write nothing more by
# themselves.  All that there are, if none is named.
sub quiet {
	my @d = @_ ? @_ : grep { $_ && $_->alive } @daemons;
	for my $d (@d) {
		wait_for {
			my ($last) = $d->log =~
				/.*msg="greylisting: (all is written|something is)/s;
			return ($last // '') eq 'all is written';
		} 20;
	}
	return;
}

# All that is in greylist happened so many seconds earlier; or what is in the
# rows that a condition holds for.  There are some: where PostgreSQL took longer
# than policyd waits for it, they come a moment after the answer.  Uses of before
# are written before, as if so much time had gone by.
sub older {
	my ($seconds, $where, @bind) = @_;
	quiet();
	my $sql = 'UPDATE policyd.greylist SET
		first_seen = first_seen - make_interval(secs => ?),
		last_seen = last_seen - make_interval(secs => ?),
		passed_at = passed_at - make_interval(secs => ?)'
		. ($where ? " WHERE $where" : '');
	return wait_for { known()->do($sql, undef, ($seconds) x 3, @bind) > 0 };
}

# What was committed before is known to these daemons: a later change is, to both
# of their ears.
sub settle {
	my @d = @_;
	$mark++;
	for my $d (grep { ($_->{ini}{log}{level} // '') eq 'debug' } @d) {
		my $from = $d->log_mark;
		wait_for {
			# One that is connected anew has not heard the one before.
			known()->do(q{SELECT pg_notify('policyd', ?)}, undef,
				"greylist:mark $mark");
			wait_for { $d->log_since($from) =~
				/msg="announced" what="greylist:mark $mark"/ } 0.5;
		} 20 or die "what is announced is not heard\n";
	}
	known()->do(q{UPDATE policyd.address SET reply = ?
		WHERE address = 'mark@example.com'}, undef, "450 4.9.9 mark $mark");
	for my $d (@d) {
		wait_for {
			($d->ask(recipient => 'mark@example.com') // '') =~
				/^450 4\.9\.9 mark $mark$/;
		} 20 or die "a change is not noticed\n";
	}
	return;
}

# The only row that a condition holds for, times as seconds ago and in
# microseconds since 1970; undef where there is none or more than one.  As older
# does, it waits a moment for it.
sub row {
	my ($where, @bind) = @_;
	return wait_for { find_row($where, @bind) } 3;
}

# There is none now.
sub no_row {
	my ($where, @bind) = @_;
	return !value("SELECT count(*) FROM policyd.greylist WHERE $where", undef,
		@bind);
}

# A test of its own: so many rows.
sub count_is {
	my ($want, $name, $where, @bind) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $got;
	wait_for {
		($got = value('SELECT count(*) FROM policyd.greylist'
			. ($where ? " WHERE $where" : ''), undef, @bind)) >= $want;
	} 5;
	return Test::More::is($got, $want, $name);
}

sub find_row {
	my ($where, @bind) = @_;
	my $rows = known()->selectall_arrayref("SELECT client, sender, recipient,
			attempts, extract(epoch FROM now() - first_seen)::float8 AS first,
			extract(epoch FROM now() - last_seen)::float8 AS last,
			extract(epoch FROM now() - passed_at)::float8 AS passed,
			(extract(epoch FROM first_seen) * 1e6)::bigint AS first_us,
			(extract(epoch FROM last_seen) * 1e6)::bigint AS last_us,
			(extract(epoch FROM passed_at) * 1e6)::bigint AS passed_us
		FROM policyd.greylist WHERE $where", { Slice => {} }, @bind);
	return @$rows == 1 ? $rows->[0] : undef;
}

# A test of its own: one question, one answer.
sub ask_is {
	my ($d, $want, $name, %attr) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return Test::More::like($d->ask(%attr) // 'no answer', $want, $name);
}

# What the server has logged that no test asked for.  (A daemon that ends may
# leave while it is being notified.)
sub errors_of {
	my ($pg, $but) = @_;
	return join "\n", grep { /\b(?:ERROR|FATAL|PANIC|deadlock)\b/
			&& !/connection to client lost/
			&& (!$but || $_ !~ $but) } split /\n/, $pg->log_text;
}

1;
