#!/usr/bin/perl

# Rules and lists that change in PostgreSQL are in force within 100 ms of COMMIT
# in every daemon, whole or not at all; a list of a million entries as well.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use POSIX ();
use Test::More;
use Time::HiRes qw(time);

use PolicydTest qw(block in_time site soon wait_for);

my $LIMIT_S = 0.100;
my $MANY    = 1_000_000;

my $pg = site(<<'SQL');
INSERT INTO policyd.domain (name, recipients) VALUES ('example.com', 'any');
INSERT INTO policyd.list_entry (list, value) VALUES
  ('mail', 'first@example.net'), ('nets', '203.0.113.0/24'),
  ('names', 'first.example.net');
INSERT INTO policyd.rule (priority, conditions, action) VALUES
  (10, ARRAY['sender in list:mail'], '450 4.9.1 mail'),
  (10, ARRAY['client_address in list:nets'], '450 4.9.2 nets'),
  (10, ARRAY['client_name in list:names'], '450 4.9.3 names');
INSERT INTO policyd.rule (priority, conditions, action)
  SELECT 1000, ARRAY['sender under d' || i || '.example'], 'REJECT'
    FROM generate_series(1, 2000) AS i;
SQL
my $dbh = $pg->dbh;

sub daemon {
	return PolicydTest->new(
		conninfo => $pg->conninfo(user => 'policyd'),
		ini      => { database => { reconnect_max => '500ms' } }
	)->start;
}
my @d = (daemon(), daemon());

# Commit this, and see in each daemon when the question is answered so.
sub change {
	my ($ask, $want, $name, @sql) = @_;
	my @conn = map { $_->connect } @d;

	$dbh->begin_work;
	$dbh->do($_) for @sql;
	$dbh->commit;
	my $since = time;
	for my $i (0 .. $#conn) {
		my $got;
		my $ok = wait_for {
			$got = $conn[$i]->ask(%$ask) // 'none';
			$got =~ $want;
		} 20;
		my $took = time - $since;
		if (!$ok) {
			fail("$name: in force in daemon $i");
			diag $got;
		} else {
			in_time($took, $LIMIT_S, "$name: in force in daemon $i");
		}
	}
	return;
}

my $OK = qr/^DUNNO$/;

# ---- each change of a rule ----

my %ask = (sender => 'new@example.net');
change(\%ask, qr/^450 4\.8\.1 /, 'insert',
	q{INSERT INTO policyd.rule (priority, conditions, action, comment)
		VALUES (20, ARRAY['sender = new@example.net'], '450 4.8.1 new', 'x')});
change(\%ask, qr/^450 4\.8\.2 /, 'another action',
	q{UPDATE policyd.rule SET action = '450 4.8.2 newer' WHERE comment = 'x'});
change(\%ask, $OK, 'another condition',
	q{UPDATE policyd.rule SET conditions = ARRAY['sender = b@example.net']
		WHERE comment = 'x'});
change({ sender => 'b@example.net' }, qr/^450 4\.8\.2 /, 'which holds',
	q{UPDATE policyd.rule SET comment = 'y' WHERE comment = 'x'});
change({ sender => 'b@example.net' }, qr/^450 4\.8\.3 /, 'one before it',
	q{INSERT INTO policyd.rule (priority, action, comment, conditions)
		VALUES (15, '450 4.8.3 before', 'z',
			ARRAY['sender in a@x, b@example.net'])});
change({ sender => 'b@example.net' }, qr/^450 4\.8\.2 /, 'another priority',
	q{UPDATE policyd.rule SET priority = 25 WHERE comment = 'z'});
change({ sender => 'b@example.net' }, qr/^450 4\.8\.3 /, 'switched off',
	q{UPDATE policyd.rule SET enabled = false WHERE comment = 'y'});
change({ sender => 'b@example.net' }, qr/^450 4\.8\.2 /, 'switched on',
	q{UPDATE policyd.rule SET enabled = true WHERE comment = 'y'});
change({ sender => 'b@example.net' }, qr/^450 4\.8\.3 /, 'a shadow',
	q{UPDATE policyd.rule SET shadow = true WHERE comment = 'y'});
change({ sender => 'b@example.net' }, qr/^450 4\.8\.2 /, 'no shadow any more',
	q{UPDATE policyd.rule SET shadow = false WHERE comment = 'y'});
change({ sender => 'b@example.net' }, qr/^450 4\.8\.3 /, 'another state',
	q{UPDATE policyd.rule SET state = 'DATA' WHERE comment = 'y'});
change({ sender => 'b@example.net' }, qr/^450 4\.8\.2 /, 'any state',
	q{UPDATE policyd.rule SET state = 'ANY' WHERE comment = 'y'});
change({ sender => 'b@example.net' }, qr/^450 4\.8\.3 /, 'delete',
	q{DELETE FROM policyd.rule WHERE comment = 'y'});
change({ sender => 'b@example.net' }, $OK, 'delete the other',
	q{DELETE FROM policyd.rule WHERE comment = 'z'});
change({ sender => 'x@d777.example' }, $OK, 'one of many',
	q{DELETE FROM policyd.rule WHERE conditions = ARRAY['sender under d777.example']});

# Two rows that are one name: of the two, one may go.
my %name = (client_name => 'xn--bcher-kva.example');
change(\%name, qr/^450 4\.9\.3 /, 'a name in both spellings',
	q{INSERT INTO policyd.list_entry (list, value) VALUES
		('names', U&'b\00FCcher.example'), ('names', 'xn--bcher-kva.example')});
change({ client_name => 'mark.example.net' }, qr/^450 4\.9\.3 /, 'one goes',
	q{DELETE FROM policyd.list_entry WHERE value = U&'b\00FCcher.example'},
	q{INSERT INTO policyd.list_entry (list, value)
		VALUES ('names', 'mark.example.net')});
like($_->connect->ask(%name), qr/^450 4\.9\.3 /, 'the other stays') for @d;
change(\%name, $OK, 'the other goes, too',
	q{DELETE FROM policyd.list_entry WHERE value LIKE 'xn--%'});
change({ sender => 'x@d778.example' }, qr/^REJECT x$/, 'all of many at once',
	q{UPDATE policyd.rule SET action = 'REJECT x' WHERE action = 'REJECT'});

# ---- each change of a list ----

change({ sender => 'a@list.example' }, qr/^450 4\.9\.1 /, 'mail: insert',
	q{INSERT INTO policyd.list_entry (list, value) VALUES ('mail', 'A@List.example')});
change({ sender => 'a@list.example' }, $OK, 'mail: update of the value',
	q{UPDATE policyd.list_entry SET value = 'b@list.example'
		WHERE value = 'A@List.example'});
change({ sender => 'b@list.example' }, $OK, 'mail: update of the list',
	q{UPDATE policyd.list_entry SET list = 'other' WHERE value = 'b@list.example'});
change({ sender => 'who@list.example' }, qr/^450 4\.9\.1 /, 'mail: a domain',
	q{INSERT INTO policyd.list_entry (list, value) VALUES ('mail', '@list.example')});
change({ sender => 'who@a.list.example' }, qr/^450 4\.9\.1 /, 'mail: subdomains',
	q{INSERT INTO policyd.list_entry (list, value) VALUES ('mail', '@.list.example')});
change({ sender => 'pest@any.example' }, qr/^450 4\.9\.1 /, 'mail: a local part',
	q{INSERT INTO policyd.list_entry (list, value) VALUES ('mail', 'pest@')});
change({ sender => 'who@list.example' }, $OK, 'mail: delete',
	q{DELETE FROM policyd.list_entry WHERE value = '@list.example'});
like($_->ask(sender => 'who@a.list.example'), qr/^450 4\.9\.1 /,
	'the others stay') for @d;
change({ client_address => '198.51.100.9' }, qr/^450 4\.9\.2 /, 'nets: insert',
	q{INSERT INTO policyd.list_entry (list, value) VALUES ('nets', '198.51.100.0/24')});
change({ client_address => '2001:db8::9' }, qr/^450 4\.9\.2 /, 'nets: IPv6',
	q{INSERT INTO policyd.list_entry (list, value) VALUES ('nets', '2001:DB8::/32')});
change({ client_address => '198.51.100.9' }, $OK, 'nets: delete',
	q{DELETE FROM policyd.list_entry WHERE value = '198.51.100.0/24'});
change({ client_address => '2001:db8::9' }, $OK, 'nets: delete IPv6',
	q{DELETE FROM policyd.list_entry WHERE value = '2001:DB8::/32'});
change({ client_name => 'new.example.org' }, qr/^450 4\.9\.3 /, 'names: insert',
	q{INSERT INTO policyd.list_entry (list, value) VALUES ('names', '.Example.org')});
change({ client_name => 'new.example.org' }, $OK, 'names: delete',
	q{DELETE FROM policyd.list_entry WHERE list = 'names' AND value = '.Example.org'});
change({ sender => 'first@example.net' }, $OK, 'a comment is no change, a row is',
	q{UPDATE policyd.list_entry SET comment = 'x'},
	q{DELETE FROM policyd.list_entry WHERE value = 'first@example.net'});

# ---- a rule and its list in one transaction ----

change({ sender => 'member@example.net', stress => 'club' }, $OK,
	'a rule with a new list, of those who may',
	q{INSERT INTO policyd.rule (priority, conditions, action, comment)
		VALUES (30, ARRAY['stress = club', 'not sender in list:club'],
			'550 5.8.1 members only', 'club')},
	q{INSERT INTO policyd.list_entry (list, value) VALUES
		('club', 'member@example.net')});
{
	# Nobody who is a member at all times must ever be refused.
	my $conn = $d[0]->connect;
	my ($refused, $asked) = (0, 0);
	my $writer = fork;
	die "fork: $!" if !defined $writer;
	if ($writer == 0) {
		$dbh->{AutoInactiveDestroy} = 1;
		eval {
			my $own = $pg->dbh;
			for my $i (1 .. 60) {
				my $list = 'club' . $i % 2;
				$own->begin_work;
				$own->do(q{DELETE FROM policyd.list_entry WHERE list LIKE 'club%'});
				$own->do(q{UPDATE policyd.rule SET conditions = ARRAY[
					'stress = club', 'not sender in list:' || ?]
					WHERE comment = 'club'}, undef, $list);
				$own->do(q{INSERT INTO policyd.list_entry (list, value)
					VALUES (?, 'member@example.net')}, undef, $list);
				$own->commit;
			}
			1;
		} or do { print STDERR $@; POSIX::_exit(1) };
		POSIX::_exit(0);
	}
	until (waitpid($writer, POSIX::WNOHANG()) == $writer) {
		my $got = $conn->ask(stress => 'club', sender => 'member@example.net');
		$asked++;
		$refused++ if ($got // 'none') ne 'DUNNO';
	}
	is($?, 0, 'rules and lists are rewritten 60 times');
	is($refused, 0, "a member is never refused ($asked questions)");
	cmp_ok($asked, '>', 200, 'and was asked for often enough');
}

# ---- whole or not at all ----

# Two rules that only log, one of which is enabled: each request finds exactly
# one of them.
my @swap = map { $_->[0] } @{ $dbh->selectall_arrayref(q{INSERT INTO policyd.rule
	(priority, conditions, action, shadow, enabled) VALUES
	(40, ARRAY['stress = swap'], '450 4.7.1 one', true, true),
	(41, ARRAY['stress = swap'], '450 4.7.2 other', true, false)
	RETURNING id}) };
soon {
	my $mark = $d[0]->log_mark;
	$d[0]->ask(stress => 'swap');
	$d[0]->log_since($mark) =~ /\brule=$swap[0]\b/
}
'two rules, one of which is enabled';
{
	my $conn   = $d[0]->connect;
	my $mark   = $d[0]->log_mark;
	my $writer = fork;
	die "fork: $!" if !defined $writer;
	if ($writer == 0) {
		$dbh->{AutoInactiveDestroy} = 1;
		eval {
			my $own = $pg->dbh;
			for my $i (1 .. 80) {
				my @change = ([ 'f', $swap[ 1 - $i % 2 ] ],
					[ 't', $swap[ $i % 2 ] ]);
				# Off first, or on first.
				@change = reverse @change if $i % 4 < 2;
				$own->begin_work;
				$own->do('UPDATE policyd.rule SET enabled = ? WHERE id = ?',
					undef, @$_) for @change;
				$own->commit;
			}
			1;
		} or do { print STDERR $@; POSIX::_exit(1) };
		POSIX::_exit(0);
	}
	my $n = 0;
	until (waitpid($writer, POSIX::WNOHANG()) == $writer) {
		$n++ if $conn->ask(stress => 'swap');
	}
	is($?, 0, 'two rules are swapped 80 times');
	my ($found, $decisions) = ('', 0);
	my %seen;
	for my $line (split /\n/, $d[0]->log_since($mark)) {
		if ($line =~ /msg="?decision/) {
			$decisions++;
			$seen{$found}++;
			$found = '';
		} elsif ($line =~ /\brule=(\d+)/) {
			$found .= $1 == $swap[0] ? 'one' : $1 == $swap[1] ? 'other' : '?';
		}
	}
	is($decisions, $n, "the log has all of $n questions");
	is(join(' ', sort keys %seen), 'one other', 'each found exactly one')
		or diag explain \%seen;
}

# An entry moves from one list to another, and two rules swap: a request that
# sees things of two moments would get to what both or none are for.
$dbh->do(q{INSERT INTO policyd.list_entry (list, value) VALUES
	('left', 'mover@example.net'), ('right', 'other@example.net'),
	('left', 'other2@example.net')});
$dbh->do(q{INSERT INTO policyd.rule (priority, conditions, action, comment,
		enabled) VALUES
	(50, ARRAY['stress = one', 'sender in list:left', 'sender in list:right'],
		'450 4.7.9 both', 'lists', true),
	(51, ARRAY['stress = one', 'not sender in list:left',
		'not sender in list:right'], '450 4.7.8 none', 'lists', true),
	(52, ARRAY['stress = two'], '450 4.7.1 A', 'A', true),
	(52, ARRAY['stress = two'], '450 4.7.2 B', 'B', false)});
soon { $d[0]->ask(stress => 'two') =~ /^450 4\.7\.1/ } 'rules for lists';
{
	my $conn = $d[0]->connect;
	my %got;
	my $writer = fork;
	die "fork: $!" if !defined $writer;
	if ($writer == 0) {
		$dbh->{AutoInactiveDestroy} = 1;
		eval {
			my $own = $pg->dbh;
			for my $i (1 .. 80) {
				my ($to, $a, $b) = $i % 2 ? ('right', 'f', 't')
					: ('left', 't', 'f');
				$own->begin_work;
				if ($i % 3) {
					$own->do(q{UPDATE policyd.list_entry SET list = ?
						WHERE value = 'mover@example.net'}, undef, $to);
				} else {
					$own->do(q{DELETE FROM policyd.list_entry
						WHERE value = 'mover@example.net'});
					$own->do(q{INSERT INTO policyd.list_entry (list, value)
						VALUES (?, 'mover@example.net')}, undef, $to);
				}
				$own->do(q{UPDATE policyd.rule SET enabled = ?
					WHERE comment = 'A'}, undef, $a);
				$own->do(q{UPDATE policyd.rule SET enabled = ?
					WHERE comment = 'B'}, undef, $b);
				$own->commit;
			}
			1;
		} or do { print STDERR $@; POSIX::_exit(1) };
		POSIX::_exit(0);
	}
	my $n = 0;
	until (waitpid($writer, POSIX::WNOHANG()) == $writer) {
		my %ask = $n++ % 2 ? (stress => 'one', sender => 'mover@example.net')
			: (stress => 'two');
		$got{"$ask{stress}: " . ($conn->ask(%ask) // 'none')}++;
	}
	is($?, 0, 'an entry moves and two rules swap 80 times');
	is(join(', ', sort keys %got),
		'one: DUNNO, two: 450 4.7.1 A, two: 450 4.7.2 B',
		"no request sees both or none ($n questions)") or diag explain \%got;
}

# ---- rolled back ----

$dbh->begin_work;
$dbh->do('DELETE FROM policyd.rule');
$dbh->do('DELETE FROM policyd.list_entry');
$dbh->rollback;
change({ sender => 'mark@x.example' }, qr/^450 4\.8\.9 /, 'after a rollback',
	q{INSERT INTO policyd.rule (priority, conditions, action) VALUES
		(5, ARRAY['sender = mark@x.example'], '450 4.8.9 mark')});
like($_->ask(sender => 'pest@x.example'), qr/^450 4\.9\.1 /,
	'what was rolled back never was') for @d;

# ---- a long list ----

{
	my $conn = $d[0]->connect;
	my ($worst, $asked, $odd) = (0, 0, 0);
	my $begin  = time;
	my $writer = fork;
	die "fork: $!" if !defined $writer;
	if ($writer == 0) {
		$dbh->{AutoInactiveDestroy} = 1;
		eval {
			$pg->psql(qq{INSERT INTO policyd.list_entry (list, value)
				SELECT 'mail', 'u' || i || '\@big' || i % 5000 || '.example'
				FROM generate_series(1, $MANY) AS i});
			1;
		} or do { print STDERR $@; POSIX::_exit(1) };
		POSIX::_exit(0);
	}
	my $ask = sub {
		my $begin = time;
		my $got   = $conn->ask(@_) // 'none';
		my $took  = time - $begin;
		$worst = $took if $took > $worst;
		$asked++;
		return $got;
	};
	# Not as fast as it goes: the server needs the processor as well.
	wait_for {
		$odd++ if $ask->() ne 'DUNNO';
		return waitpid($writer, POSIX::WNOHANG()) == $writer;
	} 120;
	is($?, 0, "$MANY entries are written");
	my $since = time;
	my %last  = (sender => "u$MANY\@big" . $MANY % 5000 . '.example');
	soon { $ask->(%last) =~ /^450 4\.9\.1 / } 'and in force', 90;
	diag sprintf '%d entries: written in %.1f s, in force %.1f s later, longest'
		. ' answer %.1f ms', $MANY, $since - $begin, time - $since,
		1000 * $worst;
	is($odd, 0, "$asked others were answered rightly meanwhile");
	in_time($worst, 0.25, 'and none waited for it');
	soon { $d[1]->ask(%last) =~ /^450 4\.9\.1 / } 'in the other daemon too', 90;
	like($_->ask(sender => 'u1@big1.example'), qr/^450 4\.9\.1 /, 'the first')
		for @d;
	like($_->ask(sender => 'u1@big2.example'), $OK, 'and none besides') for @d;

	change(\%last, $OK, 'one of them goes',
		qq{DELETE FROM policyd.list_entry WHERE value = '$last{sender}'});
	change({ sender => 'one@more.example' }, qr/^450 4\.9\.1 /, 'one more',
		q{INSERT INTO policyd.list_entry (list, value) VALUES
			('mail', 'one@more.example')});
	change({ sender => 'u5@big5.example' }, $OK, 'another value',
		q{UPDATE policyd.list_entry SET value = 'five@big5.example'
			WHERE value = 'u5@big5.example'});
	change({ sender => 'b@x.example', stress => 'r' }, qr/^450 4\.8\.7 /,
		'a rule beside it',
		q{INSERT INTO policyd.rule (priority, conditions, action) VALUES
			(3, ARRAY['stress = r'], '450 4.8.7 r')});

	my $restart = time;
	is($d[1]->stop, 0, 'exit status');
	$d[1]->spawn;
	soon { ($d[1]->ask(sender => 'u1@big1.example') // '') =~ /^450 4\.9\.1 / }
	'it is there after a restart', 90;
	diag sprintf 'restart with it: %.1f s', time - $restart;

	$dbh->do(q{DELETE FROM policyd.list_entry WHERE list = 'mail'});
	for my $d (@d) {
		soon { $d->ask(sender => 'u1@big1.example') =~ $OK } 'all deleted', 90;
	}
	change({ sender => 'u1@big1.example' }, qr/^450 4\.9\.1 /, 'one comes back',
		q{INSERT INTO policyd.list_entry (list, value) VALUES
			('mail', 'u1@big1.example')});
}

# ---- TRUNCATE ----

$dbh->do('TRUNCATE policyd.list_entry');
for my $d (@d) {
	soon { $d->ask(sender => 'u1@big1.example') =~ $OK } 'TRUNCATE of lists', 5;
}
$dbh->do('TRUNCATE policyd.rule');
for my $d (@d) {
	soon { $d->ask(sender => 'mark@x.example') =~ $OK } 'TRUNCATE of rules', 5;
}

# ---- a lost connection ----

{
	$dbh->do(q{INSERT INTO policyd.rule (priority, conditions, action) VALUES
		(1, ARRAY['sender in list:kept'], '450 4.6.1 kept'),
		(2, ARRAY['sender = kept@x.example'], '450 4.6.2 rule')});
	for my $d (@d) {
		soon { $d->ask(sender => 'kept@x.example') =~ /^450 4\.6\.2/ }
		'a rule before the connection is lost', 5;
	}
	$dbh->do('ALTER ROLE policyd NOLOGIN');
	$dbh->do(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE usename = 'policyd' AND pid <> pg_backend_pid()});
	wait_for {
		$dbh->selectrow_array(q{SELECT count(*) = 0 FROM pg_stat_activity
			WHERE usename = 'policyd'})
	};
	like($_->ask(sender => 'kept@x.example'), qr/^450 4\.6\.2/,
		'rules stay without PostgreSQL') for @d;
	$dbh->do(q{INSERT INTO policyd.list_entry (list, value) VALUES
		('kept', 'kept@x.example')});
	$dbh->do(q{INSERT INTO policyd.rule (priority, conditions, action) VALUES
		(1, ARRAY['sender = missed@x.example'], '450 4.6.3 missed')});
	like($_->ask(sender => 'missed@x.example'), $OK,
		'what changes is not known') for @d;
	$dbh->do('ALTER ROLE policyd LOGIN');
	for my $d (@d) {
		soon { $d->ask(sender => 'missed@x.example') =~ /^450 4\.6\.3/ }
		'what was missed is read on return', 5;
		like($d->ask(sender => 'kept@x.example'), qr/^450 4\.6\.1/, 'all of it');
	}
	change({ sender => 'kept@x.example' }, qr/^450 4\.6\.2/,
		'and changes are followed again', 'DELETE FROM policyd.list_entry');
}

# A start without PostgreSQL goes by what was there last.
{
	is($d[0]->stop, 0, 'exit status');
	$pg->stop;
	$d[0]->start;
	like($d[0]->ask(sender => 'kept@x.example'), qr/^450 4\.6\.2/,
		'rules from the copy');
	$pg->start;
}

is($_->stop, 0, 'exit status') for @d;
done_testing();
