package SoakSite;

# SPDX-License-Identifier: MIT
#
# The site of the soak (t/80-soak.t): its names, its rows, and an administrator
# who changes them at random.
#
#   my $dbh = site(SoakSite::sql())->dbh;
#   SoakSite::change($dbh) for 1 .. 5;    # within a transaction
#   my %rows = SoakSite::rows($dbh);      # as Oracle::world takes them
#   my $ini = SoakSite::settings(3);      # [relay => ...] of the 3rd reload
#
# A small world, so that changes and questions meet.  What the contract leaves
# open is not in it: a catch-all where every local part is good, an address that
# is an alias too and a catch-all of both kinds, rules about recipients where
# there may be none.

use strict;
use warnings;

use constant {
	DELAY_S         => 3,      # of greylisting
	QUERY_TIMEOUT_S => 2,
	ERRORS_WAIT_S   => 0.06,
};

our @PLAIN  = map {"d$_.example"} 0 .. 3;
our @SUB    = map {"s$_.example"} 0, 1;
our @ALIAS  = map {"a$_.example"} 0 .. 2;
our @ANY    = qw(any.example ver.example few.example);
our @GREY   = qw(grey.example greyver.example);   # greylisted, never changed
our @OTHER  = qw(foreign.example off.example d0.example.net);
our $BOOKS  = "b\xc3\xbccher.example";
our @LOCAL  = map {"u$_"} 0 .. 24;
our @SENDER = map { my $d = $_; map {"$_\@$d"} qw(ann ben list cy.d) }
	qw(out.example sub.out.example spam.example);
our @HELO   = qw(mx.one.example mx.two.example relay.two.example [192.0.2.7]
	localhost friend-of-a-friend);
our @LOGIN  = qw(ann@out.example clerk Boss@d0.example);
our @CONTEXT = qw(submission relay rcpt);

sub pick { return $_[ rand @_ ] }
sub chance { return rand() < $_[0] }

# ---- rows to begin with ----

sub sql {
	my @domains = (
		(map {"('$_', 'listed', false, false, NULL)"} @PLAIN, $BOOKS),
		(map {"('$_', 'listed', false, true, NULL)"} @SUB),
		"('any.example', 'any', false, false, NULL)",
		"('ver.example', 'verify', false, false, NULL)",
		"('few.example', 'any', false, false, 2)",
		"('grey.example', 'any', true, false, 50)",
		"('greyver.example', 'verify', true, false, 50)",
	);
	return 'INSERT INTO policyd.domain
		(name, recipients, greylist, subdomains, max_recipients) VALUES '
		. join(', ', @domains) . ";\n" . <<'SQL' . <<"SQL";
INSERT INTO policyd.domain (name, recipients, enabled)
  VALUES ('off.example', 'any', false);
INSERT INTO policyd.domain_alias (name, target)
  VALUES ('a0.example', 'd0.example');
INSERT INTO policyd.address (address)
  SELECT 'u' || i || '@d' || i % 4 || '.example' FROM generate_series(0, 24) AS i;
INSERT INTO policyd.rule (priority, state, conditions, action) VALUES
  (-1000, 'ETRN', ARRAY['etrn_domain = mark.example'], '450 4.0.0 mark 0'),
  (-998, NULL, ARRAY['policy_context = probe'], 'script said'),
  (-997, NULL, ARRAY['policy_context = grey'], 'greylist');
CREATE FUNCTION policyd_script.said(request jsonb) RETURNS text LANGUAGE sql
  AS $$ SELECT '450 4.9.1 said ' || (request->>'recipient') $$;
CREATE FUNCTION policyd_script.silent(request jsonb) RETURNS text LANGUAGE sql
  AS $$ SELECT NULL::text $$;
CREATE FUNCTION policyd_script.fails(request jsonb) RETURNS text
  LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'that went wrong'; END $$;
CREATE FUNCTION policyd_script.sleeps(request jsonb) RETURNS text
  LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;
SQL
INSERT INTO policyd.address (address) VALUES
  ('u1\@$BOOKS'), ('u2\@xn--bcher-kva.example');
SQL
}

# ---- what is in the tables ----

my %COLUMNS = (
	domain => 'name, recipients, greylist, max_recipients, subdomains, enabled',
	domain_alias => 'name, target',
	address => 'address, greylist, reply, enabled,
		extract(epoch FROM expires_at)::float8 AS expires_at',
	alias => 'address, destination, enabled,
		extract(epoch FROM expires_at)::float8 AS expires_at',
	list_entry => 'list, value',
	rule => 'id, priority, state, conditions, action, shadow, enabled',
);

sub rows {
	my $dbh = shift;
	my %rows;

	for my $table (keys %COLUMNS) {
		$rows{$table} = $dbh->selectall_arrayref(
			"SELECT $COLUMNS{$table} FROM policyd.$table", { Slice => {} });
	}
	$rows{allowed} = { map { $_ => 1 } @{ $dbh->selectcol_arrayref(
		'SELECT client FROM policyd.client WHERE allowed_at IS NOT NULL') } };
	# Bytes, as they are on the wire.
	for my $row (map {@$_} grep { ref eq 'ARRAY' } values %rows) {
		utf8::encode($_) for grep { defined && !ref } values %$row;
	}
	return %rows;
}

# ---- an administrator ----

sub local_part {
	my $local = pick(@LOCAL);
	$local .= '+' . pick(qw(a b c+d)) if chance(0.2);
	$local = ucfirst $local           if chance(0.1);
	return $local;
}

sub domain_of_rows {
	return pick(@PLAIN) if chance(0.7);
	return pick(@ANY)   if chance(0.3);
	return pick('', 'x.', 'x.y.') . pick(@SUB);
}

my @EXPIRY = ('NULL', 'NULL', 'NULL', q{now() - interval '1 hour'},
	q{now() + interval '4 s'}, q{now() + interval '1 day'});
my @REPLY = (undef, undef, undef, undef, '550 5.2.1 Closed', '452 4.2.2 Full',
	'DISCARD nobody reads this');

# Conditions that hold now and then, and what goes with them.
my @CONDITION = (
	(map {"helo_name = $_"} @HELO[ 0 .. 3 ]),
	'helo_name like mx.*.example', 'helo_name like *-of-[a-c]-*',
	'helo_name matches ^\[?[0-9.]+\]?$', 'helo_name in list:names',
	'not helo_name like *.example',
	'sender is empty', 'sender in list:senders', 'sender under spam.example',
	'sender_domain = sub.out.example', 'sender_localpart like ??',
	'sender like l?st@*', 'sender matches ^(ann|ben)@s',
	'not sender_domain in out.example, spam.example',
	'sasl_username is not empty', 'sasl_username in list:logins',
	'sasl_username = {sender}', 'sasl_username under d0.example',
	'sender != {sasl_username}',
	'size > 20M', 'size >= 30000', 'size < 101', 'encryption_keysize < 128',
	'client_address in 10.3.0.0/16, 10.4.0.0/15', 'client_address in list:nets',
	'client_address = 10.1.2.3', 'client = 10.2.1.0/24',
	'client_name under mail-a.example', 'client_name = unknown',
	'protocol_name = SMTP', 'policy_context in relay, rcpt',
	'policy_context != submission', 'encryption_cipher is not empty',
);
my @RCPT_CONDITION = (
	(map {"recipient_localpart = $_"} @LOCAL[ 0 .. 2 ]),
	'recipient in list:rcpts', 'recipient under d1.example',
	'recipient_domain = any.example', 'recipient_localpart like u1[0-4]*',
	'recipient matches ^u[2-4]@', 'recipient_is_local = no',
	'recipient under {sender_domain}', 'recipient_localpart matches [+]',
);
my @ANSWER = (
	'DUNNO', 'OK', 'REJECT', 'REJECT 5.7.1 Not wanted, {sender}',
	'450 4.7.1 Later for {recipient}', '550 5.7.1 No mail from {helo_name}',
	'421 4.7.0 Too much', 'DEFER 4.7.1 Not today', 'DEFER_IF_PERMIT 4.2.0 Wait',
	'HOLD suspicious', 'DISCARD silently', 'REDIRECT box@d1.example',
	'BCC box@d2.example', 'FILTER smtp:[127.0.0.1]:10025',
	'PREPEND X-Client: {client_name} [{client_address}]', 'INFO seen {size}',
	'WARN look', 'reject_unknown_sender_domain', 'DEFER_IF_REJECT 4.7.1 We?',
);
my @ANY_SET = ('set vrfy yes', 'set vrfy no', 'set expn yes',
	'set relay yes', 'set relay no', 'set relay authenticated');
my @RCPT_SET = (
	@ANY_SET, 'set max_recipients 2', 'set max_recipients 7',
	'set script said', 'set script silent', 'set script none',
	'set script fails', 'set greylist no', 'set greylist yes',
	'set errors_total 2', 'set errors_total 7', 'set errors_wait 0ms',
	'set errors_wait 90ms', 'script said', 'script silent', 'script fails',
	'greylist', 'greylist',
);
my @STATE = qw(ANY DATA END-OF-MESSAGE MAIL EHLO CONNECT VRFY EXPN);

sub rule {
	my $state = chance(0.7) ? undef : pick(@STATE);
	my $rcpt  = !defined $state || $state =~ /^(?:VRFY|EXPN)$/;
	my @if    = map { $rcpt && chance(0.4) ? pick(@RCPT_CONDITION)
			: pick(@CONDITION) } 1 .. 1 + int rand 3;
	my $action = chance(0.5) ? pick(@ANSWER)
		: pick(defined $state ? @ANY_SET : @RCPT_SET);
	# Hardly anybody waits for the one that takes too long.
	if (!defined $state && chance(0.02)) {
		$action = 'script sleeps';
		@if = ('stress = sleep');
	}
	return ($state, \@if, $action);
}

my %LIST = (
	names   => [ 'mx.one.example', '.two.example', 'localhost' ],
	senders => [ 'ann@out.example', 'list@', '@spam.example', '@.out.example' ],
	logins  => [ 'clerk', 'somebody' ],
	nets    => [ '10.1.0.0/16', '10.2.2.3', '2001:db8:3::/48' ],
	rcpts   => [ 'u3@', 'u5@d1.example', '@any.example', '@.s0.example' ],
);

my %CHANGE = (
	domain => sub {
		my $dbh  = shift;
		my $name = pick(@PLAIN, @SUB, @ANY);
		my $what = pick('enabled = NOT enabled', 'greylist = NULL',
			'greylist = true', 'greylist = false', 'greylist = false',
			'max_recipients = NULL', 'max_recipients = 2',
			'max_recipients = 4');
		return $dbh->do("UPDATE policyd.domain SET enabled = true,
			greylist = false WHERE name = ?", undef, $name) if chance(0.4);
		return $dbh->do("UPDATE policyd.domain SET $what WHERE name = ?",
			undef, $name);
	},
	domain_alias => sub {
		my $dbh  = shift;
		my $name = pick(@ALIAS);
		return $dbh->do('DELETE FROM policyd.domain_alias WHERE name = ?',
			undef, $name)
			if chance(0.3);
		$dbh->do('INSERT INTO policyd.domain_alias (name, target) VALUES (?, ?)
				ON CONFLICT (lower(name)) DO UPDATE
				SET target = excluded.target', undef, $name, pick(@PLAIN));
	},
	# In the first plain domains addresses have the catch-all, in the others
	# aliases.
	address => sub {
		my $dbh = shift;
		my $address = chance(0.05) ? '@' . pick(@PLAIN[ 0, 1 ])
			: local_part() . '@' . domain_of_rows();
		return $dbh->do(
			'DELETE FROM policyd.address WHERE lower(address) = lower(?)',
			undef, $address)
			if chance(0.4);
		my $expires = pick(@EXPIRY);
		$dbh->do("INSERT INTO policyd.address
				(address, reply, greylist, enabled, expires_at)
				VALUES (?, ?, ?, ?, $expires)
				ON CONFLICT (lower(address)) DO UPDATE SET
				reply = excluded.reply, enabled = excluded.enabled,
				greylist = excluded.greylist, expires_at = excluded.expires_at",
			undef, $address, pick(@REPLY), pick(undef, undef, 't', 'f'),
			chance(0.85) ? 't' : 'f');
	},
	alias => sub {
		my $dbh = shift;
		my $address = chance(0.05) ? '@' . pick(@PLAIN[ 2, 3 ])
			: local_part() . '@' . domain_of_rows();
		return $dbh->do(
			'DELETE FROM policyd.alias WHERE lower(address) = lower(?)',
			undef, $address)
			if chance(0.4);
		my $expires = pick(@EXPIRY);
		$dbh->do("INSERT INTO policyd.alias
				(address, destination, enabled, expires_at)
				VALUES (?, ?, ?, $expires)
				ON CONFLICT (lower(address), lower(destination)) DO UPDATE SET
				enabled = excluded.enabled, expires_at = excluded.expires_at",
			undef, $address, pick(@LOCAL) . '@' . pick(@PLAIN),
			chance(0.85) ? 't' : 'f');
	},
	list => sub {
		my $dbh   = shift;
		my $list  = pick(sort keys %LIST);
		my $value = pick(@{ $LIST{$list} });
		return $dbh->do('DELETE FROM policyd.list_entry
				WHERE list = ? AND value = ?', undef, $list, $value)
			if chance(0.5);
		$dbh->do('INSERT INTO policyd.list_entry (list, value) VALUES (?, ?)
				ON CONFLICT DO NOTHING', undef, $list, $value);
	},
	rule => sub {
		my $dbh = shift;
		my ($n) = $dbh->selectrow_array(
			'SELECT count(*) FROM policyd.rule WHERE priority >= 0');
		if (chance($n / 16)) {
			return $dbh->do('DELETE FROM policyd.rule WHERE id = (
				SELECT id FROM policyd.rule WHERE priority >= 0
				ORDER BY id OFFSET ? LIMIT 1)', undef, int rand $n);
		}
		my ($state, $if, $action) = rule();
		$dbh->do('INSERT INTO policyd.rule
				(priority, state, conditions, action, shadow, enabled)
				VALUES (?, ?, ?, ?, ?, ?)', undef, int rand 20, $state, $if,
			$action, chance(0.1) ? 't' : 'f', chance(0.9) ? 't' : 'f');
	},
	allowed => sub {
		my $dbh = shift;
		my $client = sprintf '10.%d.200.0/24', rand 10;
		$dbh->do('INSERT INTO policyd.client (client, allowed_at)
				VALUES (?, now()) ON CONFLICT (client) DO UPDATE
				SET allowed_at = CASE WHEN policyd.client.allowed_at IS NULL
					THEN now() END', undef, $client);
	},
);
my @CHANGES = qw(domain domain_alias address address address alias alias list
	list rule rule rule allowed);

sub change {
	my $dbh = shift;
	$CHANGE{ pick(@CHANGES) }->($dbh);
	return;
}

# ---- settings ----

# Those of the nth reload: as Oracle knows them, and as policyd.ini has them.
sub settings {
	my ($n, %more) = @_;
	my %reply = (
		relay_denied        => '550 5.7.1 Relaying denied for {client}',
		unknown_user        => "550 5.1.1 Unknown {recipient} ($n)",
		bad_address         => '550 5.1.3 Bad recipient address',
		too_many_errors     => '421 4.7.0 Too many errors',
		too_many_recipients => '452 4.5.3 Too many recipients',
		greylisted =>
			'DEFER_IF_PERMIT 4.2.0 Greylisted, please wait {seconds} seconds',
		vrfy_disabled       => '502 5.5.1 VRFY is disabled',
		expn_disabled       => "502 5.7.0 EXPN is disabled ($n)",
		unavailable         => 'DEFER_IF_PERMIT 4.3.0 Temporarily unavailable',
	);
	my %now = $n == 0 ? (
		relay => 'authenticated', max_recipients => 6, errors_total => 4,
		vrfy => 'yes', expn => 'yes', greylist => 1, header => 1, script => '',
		) : (
		relay          => pick(qw(authenticated authenticated no yes)),
		max_recipients => 3 + int rand 4,
		errors_total   => pick(0, 3 .. 6),
		vrfy           => pick(qw(no authenticated yes)),
		expn           => pick(qw(no authenticated yes)),
		greylist       => chance(0.8) ? 1 : 0,
		header         => chance(0.8) ? 1 : 0,
		script         => chance(0.15) ? 'silent' : '',
		);
	my %ini = (
		database => { reconnect_max => '500ms',
			query_timeout => QUERY_TIMEOUT_S . 's' },
		rcpt => { errors_wait => 1000 * ERRORS_WAIT_S . 'ms',
			map { $_ => $now{$_} } qw(relay max_recipients errors_total script) },
		lookup   => { map { $_ => $now{$_} } qw(vrfy expn) },
		greylist => { enabled => $now{greylist} ? 'yes' : 'no',
			header => $now{header} ? 'yes' : 'no', delay => DELAY_S . 's',
			auto_allow_after => 2, %{ $more{greylist} || {} } },
		reply => \%reply,
		log   => { decisions => $ENV{SOAK_LOG} || 'none' },
	);
	my %oracle = (%now, errors_wait => ERRORS_WAIT_S, delay => DELAY_S,
		query_timeout => QUERY_TIMEOUT_S, auto_allow_after => 2,
		reply => \%reply);
	return (\%ini, \%oracle);
}

1;
