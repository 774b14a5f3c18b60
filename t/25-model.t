#!/usr/bin/perl

# Thousands of random changes, and after each transaction the daemon's answers
# against those of a model: a few lines of Perl that read the same rows.
#
# SEED=N repeats a run, ROUNDS=N makes it longer.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Time::HiRes qw(time);

use PolicydTest qw(block site soon wait_for);

my $SEED   = $ENV{SEED}   || time * 1000 % 1_000_000;
my $ROUNDS = $ENV{ROUNDS} || 80;
srand $SEED;

my $pg  = site('');
my $dbh = $pg->dbh;
my $d   = PolicydTest->new(
	conninfo => $pg->conninfo(user => 'policyd'),
	ini      => {
		database => { reconnect_max => '200ms' },
		rcpt     => { errors_total  => 0 },
		log      => { decisions     => 'none' }
	}
)->start;

# ---- names to choose from; few, so that rows meet ----

# d: plain, s: with subdomains, a: aliases of the plain ones
my @PLAIN  = map {"d$_.example"} 0 .. 7;
my @SUB    = map {"s$_.example"} 0 .. 2;
my @ALIAS  = map {"a$_.example"} 0 .. 4;
my @LOCAL  = map {"u$_"} 0 .. 60;

sub pick { return $_[ rand @_ ] }
sub chance { return rand() < $_[0] }

sub local_part {
	my $local = pick(@LOCAL);
	$local .= '+' . pick(qw(a b ab c+d)) if chance(0.3);
	$local = ucfirst $local               if chance(0.1);
	return $local;
}

# In the first plain domains addresses have the catch-all, in the others
# aliases: what both of them say together is not laid down.
sub address_to_write {
	return '@' . pick(@PLAIN[ 0 .. 3 ]) if chance(0.04);
	return local_part() . '@' . domain_of_rows();
}

sub alias_to_write {
	return '@' . pick(@PLAIN[ 4 .. 7 ]) if chance(0.04);
	return local_part() . '@' . domain_of_rows();
}

sub domain_of_rows {
	return pick(@PLAIN) if chance(0.7);
	return pick(@SUB)   if chance(0.5);
	return pick('x.', 'x.y.') . pick(@SUB);
}

sub domain_to_ask {
	my $name = chance(0.25) ? pick(@ALIAS) : domain_of_rows();
	$name = uc $name if chance(0.1);
	$name .= '.'     if chance(0.05);
	return $name;
}

# ---- the model ----

my (%domain, %domain_alias, %address, %alias);

sub model_read {
	%domain = %domain_alias = %address = %alias = ();
	$domain{ $_->[0] } = $_
		for @{ $dbh->selectall_arrayref(
			'SELECT lower(name), recipients, subdomains FROM policyd.domain
				WHERE enabled') };
	$domain_alias{ $_->[0] } = $_->[1]
		for @{ $dbh->selectall_arrayref('SELECT lower(name), lower(target)
				FROM policyd.domain_alias') };
	$address{ $_->[0] } = $_
		for @{ $dbh->selectall_arrayref('SELECT lower(address), reply,
				enabled AND (expires_at IS NULL OR expires_at > now())
				FROM policyd.address') };
	$alias{ $_->[0] } = $_->[1]
		for @{ $dbh->selectall_arrayref('SELECT lower(address), bool_or(
				enabled AND (expires_at IS NULL OR expires_at > now()))
				FROM policyd.alias GROUP BY 1') };
	return;
}

# The domain's row, and the name under which its addresses are listed.
sub model_domain {
	my $name = shift;
	return ($domain{$name}, $name) if $domain{$name};
	if (defined(my $target = $domain_alias{$name})) {
		return ($domain{$target}, $target);
	}
	for (my $up = $name; $up =~ s/^[^.]*\.//;) {
		return ($domain{$up}, $name) if $domain{$up} && $domain{$up}[2];
	}
	return;
}

sub model {
	my $recipient = lc shift;
	my ($local, $name) = $recipient =~ /^(.*)\@([^@]*)$/;
	$name =~ s/\.$//;
	my ($row, $at) = model_domain($name);
	return '550 5.7.1' if !$row;
	my $good = $row->[1] eq 'verify' ? 'reject_unverified_recipient' : 'DUNNO';
	my ($base) = $local =~ /^([^+]+)/;
	my @names = $base eq $local ? ($local) : ($local, $base);

	for my $who (@names) {
		my $found = $address{"$who\@$at"} or next;
		return '550 5.1.1' if !$found->[2];
		return $found->[1] // $good;
	}
	for my $who (@names) {
		next if !exists $alias{"$who\@$at"};
		return $alias{"$who\@$at"} ? $good : '550 5.1.1';
	}
	return $good if $row->[1] ne 'listed';
	if (my $all = $address{"\@$at"}) {
		return '550 5.1.1' if !$all->[2];
		return $all->[1] // $good;
	}
	return $alias{"\@$at"} ? $good : '550 5.1.1';
}

# ---- changes ----

my @EXPIRY = ('NULL', 'NULL', 'NULL', q{now() - interval '1 hour'},
	q{now() + interval '1 day'});
my @REPLY = (undef, undef, undef, '550 5.2.1 Closed', '452 4.2.2 Full', 'DISCARD x');

my %CHANGE = (
	domain => sub {
		my $name = pick(@PLAIN, @SUB);
		if (chance(0.2)) {
			$dbh->do('DELETE FROM policyd.domain WHERE lower(name) = ?',
				undef, $name);
			return;
		}
		$dbh->do(
			q{INSERT INTO policyd.domain AS d
				(name, recipients, subdomains, enabled)
				VALUES (?, ?, ?, ?)
				ON CONFLICT (lower(name)) DO UPDATE SET
				recipients = excluded.recipients, enabled = excluded.enabled},
			undef, $name,
			# Where there may be a catch-all there is no "any".
			$name =~ /^s/ ? pick(qw(listed any verify)) : 'listed',
			$name =~ /^s/ ? 't' : 'f',
			chance(0.85) ? 't' : 'f'
		);
	},
	domain_alias => sub {
		my $name = pick(@ALIAS);
		return $dbh->do('DELETE FROM policyd.domain_alias WHERE name = ?',
			undef, $name)
			if chance(0.3);
		$dbh->do(
			q{INSERT INTO policyd.domain_alias (name, target) VALUES (?, ?)
				ON CONFLICT (lower(name)) DO UPDATE
				SET target = excluded.target},
			undef, $name, pick(@PLAIN)
		);
	},
	address => sub {
		my $address = address_to_write();
		return $dbh->do(
			'DELETE FROM policyd.address WHERE lower(address) = lower(?)',
			undef, $address)
			if chance(0.35);
		my $expires = pick(@EXPIRY);
		$dbh->do(
			qq{INSERT INTO policyd.address (address, reply, enabled, expires_at)
				VALUES (?, ?, ?, $expires)
				ON CONFLICT (lower(address)) DO UPDATE SET
				reply = excluded.reply, enabled = excluded.enabled,
				expires_at = excluded.expires_at},
			undef, $address, pick(@REPLY), chance(0.8) ? 't' : 'f'
		);
	},
	alias => sub {
		my $address = alias_to_write();
		my $to      = pick(@LOCAL) . '@' . pick(@PLAIN);
		return $dbh->do(
			'DELETE FROM policyd.alias WHERE lower(address) = lower(?)'
				. (chance(0.5) ? ' AND destination < ' . $dbh->quote($to) : ''),
			undef, $address)
			if chance(0.35);
		my $expires = pick(@EXPIRY);
		$dbh->do(
			qq{INSERT INTO policyd.alias
				(address, destination, enabled, expires_at)
				VALUES (?, ?, ?, $expires)
				ON CONFLICT (lower(address), lower(destination)) DO UPDATE SET
				enabled = excluded.enabled, expires_at = excluded.expires_at},
			undef, $address, $to, chance(0.8) ? 't' : 'f'
		);
	},
	move => sub {
		my $new = address_to_write();
		$dbh->do(
			q{UPDATE policyd.address SET address = ?
				WHERE lower(address) = lower(?) AND NOT EXISTS (
					SELECT FROM policyd.address WHERE lower(address) = lower(?))},
			undef, $new, address_to_write(), $new
		);
	},
	many => sub {
		return if !chance(0.05);
		$dbh->do(
			q{INSERT INTO policyd.address (address)
				SELECT 'u' || i || '@' || ? FROM generate_series(0, ?) AS i
				ON CONFLICT DO NOTHING}, undef, pick(@PLAIN), int rand 3000
		);
	},
	fewer => sub {
		return if !chance(0.05);
		$dbh->do(q{DELETE FROM policyd.address
				WHERE address LIKE '%@' || ? AND length(address) > 13},
			undef, pick(@PLAIN));
	},
	truncate => sub {
		$dbh->do('TRUNCATE policyd.' . pick(qw(alias domain_alias address)))
			if chance(0.01);
	},
);

# ---- rounds ----

my $mark   = 0;
my $asked  = 0;
my $wrong  = 0;
my $change = 0;
my %answers;

$dbh->do(q{INSERT INTO policyd.domain (name) VALUES ('mark.example')});

# In force: the same transaction moves a mark that can be asked for.
sub settle {
	return wait_for {
		($d->ask(recipient => "m$mark\@mark.example") // '') eq 'DUNNO';
	} 10;
}

sub compare {
	my $what = shift;
	my @who  = map { local_part() . '@' . domain_to_ask() } 1 .. 400;
	my $conn = $d->connect;

	$conn->send(join '', map { block(recipient => $_) } @who);
	for my $who (@who) {
		my $got  = $conn->reply // 'none';
		my $want = model($who);
		$asked++;
		$answers{$want}++;
		next if $got eq $want || $got =~ /^\Q$want\E /;
		diag "$what: $who: got \"$got\", the model says \"$want\"\n"
			if $wrong++ < 10;
	}
	return;
}

for my $round (1 .. $ROUNDS) {
	my $how = '';

	$dbh->begin_work;
	for (1 .. 1 + rand 40) {
		my $what = pick(qw(domain domain_alias address address address alias
				alias move many fewer truncate));
		$CHANGE{$what}->();
		$change++;
	}
	$mark++;
	$dbh->do(q{DELETE FROM policyd.address WHERE address LIKE '%@mark.example'});
	$dbh->do(q{INSERT INTO policyd.address (address) VALUES (?)},
		undef, "m$mark\@mark.example");
	$dbh->commit;
	model_read();
	if ($round % 20 == 7) {
		$how = ', connections cut';
		$dbh->do(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE usename = 'policyd'});
	} elsif ($round % 20 == 13) {
		$how = ', restarted';
		$d->restart;
	} elsif ($round % 20 == 18) {
		$how = ', restarted from the copy';
		settle();
		$d->stop;
		$dbh->disconnect;
		$pg->stop;
		$d->start(until => 'reply');
	}
	if (!settle()) {
		fail("round $round$how is in force");
		last;
	}
	compare("round $round$how");
	if ($how =~ /copy/) {
		$pg->start;
		$dbh = $pg->dbh;
	}
	last if $wrong > 10;
}

is($wrong, 0, "$asked answers after $change changes are those of the model")
	or diag "SEED=$SEED prove -v $0";
cmp_ok(scalar keys %answers, '>=', 6, 'of every kind');
is($d->stop, 0, 'exit status');
done_testing();
