#!/usr/bin/perl

# A real Postfix asks policyd, over a unix socket and over TCP: what its
# clients see, and what arrives.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Time::HiRes qw(time);

use PolicydTest qw(free_port site soon wait_for);
use PostfixTest;

my $missing = PostfixTest::missing();
plan skip_all => $missing if defined $missing;

my $pg = site(<<'SQL');
INSERT INTO policyd.domain (name, recipients) VALUES
  ('example.com', 'listed'), ('any.example', 'any');
INSERT INTO policyd.domain_alias (name, target) VALUES
  ('example.org', 'example.com');
INSERT INTO policyd.address (address, reply) VALUES
  ('bob@example.com', NULL), ('alice@example.com', NULL),
  ('moved@example.com', '550 5.1.6 New address: moved@example.net');
INSERT INTO policyd.alias (address, destination) VALUES
  ('team@example.com', 'bob@example.com');
SQL

my %ini = (rcpt => { errors_total => 4, errors_wait => '0s',
		max_recipients => 3 });

# A Postfix that leaves every decision about recipients to policyd: whatever
# policyd lets through would be relayed.
sub postfix {
	my ($service, %main) = @_;
	return PostfixTest->new(
		%main,
		main => {
			smtpd_relay_restrictions =>
				"check_policy_service $service, permit_auth_destination,"
				. ' reject',
			smtpd_data_restrictions => "check_policy_service $service",
			relay_domains           => 'static:all',
			disable_vrfy_command    => 'no',
		}
	);
}

sub accepted {
	my ($got, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return like($got // 'no reply', qr/^250 2\.1\.5 /, $name);
}

sub sent {
	my $pf = shift;
	my @lines = $pf->log =~ /^.*status=sent.*$/mg;
	return scalar @lines;
}

sub sessions {
	my ($pf, $how) = @_;

	my $c = $pf->smtp;
	my @got = $c->mail('sender@example.net', 'bob@example.com');
	accepted($got[1], "$how: a known user");
	like($got[-1], qr/^250 2\.0\.0 .*queued/, "$how: the message is taken");
	soon { sent($pf) == 1 } "$how: and delivered";

	@got = $c->mail(
		'sender@example.net', 'nobody@example.com',
		'who@other.example', 'moved@example.com'
	);
	is(
		$got[1],
		'550 5.1.1 <nobody@example.com>: Recipient address rejected:'
			. ' User unknown',
		"$how: an unknown user"
	);
	like(
		$got[2],
		qr/^550 5\.7\.1 <who\@other\.example>: Recipient address rejected: \S/,
		"$how: relay denied"
	);
	is(
		$got[3],
		'550 5.1.6 <moved@example.com>: Recipient address rejected:'
			. ' New address: moved@example.net',
		"$how: the reply of a row"
	);

	@got = $c->mail(
		'', 'BOB+ext@Example.COM', 'team@example.org',
		'nobody@example.com', 'any.body@any.example'
	);
	accepted($got[1], "$how: extension, capitals, null sender");
	accepted($got[2], "$how: an alias through a domain alias");
	like($got[3], qr/^550 5\.1\.1 /, "$how: an unknown user among them");
	accepted($got[4], "$how: every local part");
	like($got[-1], qr/^250 .*queued/, "$how: the message is taken");
	soon { sent($pf) == 4 } "$how: and goes to three";

	like($c->quit, qr/^221 /, "$how: the end");

	# The errors of this session are over with it.
	$c = $pf->smtp;
	like($c->cmd('VRFY bob@example.com') // '',
		qr/^502 5\.5\.1 /, "$how: VRFY is switched off");
	$c->cmd('MAIL FROM:<sender@example.net>');
	accepted($c->cmd("RCPT TO:<r$_\@any.example>"), "$how: recipient $_")
		for 1 .. 3;
	like($c->cmd('RCPT TO:<r4@any.example>'),
		qr/^452 4\.5\.3 <r4\@any\.example>: \S/, "$how: one too many");
	accepted($c->cmd('RCPT TO:<r2@any.example>'), "$how: one that is in");
	like($c->cmd('RSET'), qr/^250 /, "$how: RSET");
	$c->cmd('MAIL FROM:<sender@example.net>');
	accepted($c->cmd('RCPT TO:<r4@any.example>'), "$how: in the next message");
	$c->cmd('RSET');
	$c->cmd('MAIL FROM:<sender@example.net>');
	like($c->cmd("RCPT TO:<no$_\@example.com>"),
		qr/^550 5\.1\.1 /, "$how: error $_")
		for 1 .. 4;
	like($c->cmd('RCPT TO:<bob@example.com>'),
		qr/^421 4\.7\.0 \S/, "$how: too many errors");
	ok($c->closed(5), "$how: Postfix hangs up");

	$c = $pf->smtp;
	@got = $c->mail('sender@example.net', '"quoted one"@any.example',
		'x@example.com.', '""@example.com', 'bare');
	accepted($got[1], "$how: a quoted local part");
	like($got[2], qr/^550 5\.1\.1 /, "$how: a trailing dot");
	like($got[3], qr/^550 5\.1\.3 /, "$how: an empty local part");
	like($got[4], qr/^550 5\.1\.3 /, "$how: no domain");
	soon { sent($pf) == 5 } "$how: delivered";
	$c->quit;

	# Several at once, each its own session.
	my @c = map { $pf->smtp } 1 .. 8;
	$_->cmd('MAIL FROM:<sender@example.net>') for @c;
	$c[$_]->put("RCPT TO:<" . ($_ % 2 ? 'bob' : 'no') . '@example.com>')
		for 0 .. $#c;
	my @reply = map { substr $_->reply, 0, 3 } @c;
	is("@reply", '550 250 550 250 550 250 550 250', "$how: eight sessions");
	$_->quit for @c;
	return;
}

# ---- over a unix socket in the queue folder, as a chrooted smtpd needs it;
# policyd has given up root ----

{
	my $pf     = postfix('unix:policyd/policyd.sock');
	my $home   = $pf->queue . '/policyd';
	my @nobody = (getpwnam 'nobody')[ 2, 3 ];
	mkdir $home, 0755;
	my $d = PolicydTest->new(
		conninfo => $pg->conninfo(user => 'policyd'),
		socket   => "$home/policyd.sock",
		ini      => {
			%ini, policyd => { user => 'nobody', socket_group => 'postfix' }
		}
	);
	# What systemd and tmpfiles do for a real one.
	chmod 0755, $d->{dir};
	chown @nobody, $home, $d->{dir}, $d->{statedir};
	$d->start;
	my ($uid) = PolicydTest::slurp('/proc/' . $d->pid . '/status')
		=~ /^Uid:\s+(\d+)/m;
	is($uid, $nobody[0], 'policyd has given up root');
	$pf->start;
	sessions($pf, 'unix');

	# policyd restarts under a Postfix that keeps its connection.
	my $c = $pf->smtp;
	$c->cmd('MAIL FROM:<sender@example.net>');
	accepted($c->cmd('RCPT TO:<bob@example.com>'), 'before a restart');
	is($d->stop, 0, 'exit status');
	$d->start;
	accepted($c->cmd('RCPT TO:<alice@example.com>'), 'after a restart');
	like($c->cmd('RCPT TO:<no@example.com>'), qr/^550 5\.1\.1 /, 'and refused');
	$c->quit;

	# A change is in force for the next command.
	$c = $pf->smtp;
	$c->cmd('MAIL FROM:<sender@example.net>');
	like($c->cmd('RCPT TO:<new@example.com>'), qr/^550 /, 'before a change');
	$pg->psql(q{INSERT INTO policyd.address (address)
		VALUES ('new@example.com')});
	# (Postfix hangs up where it is asked too often before.)
	soon { ($d->ask(recipient => 'new@example.com') // '') eq 'DUNNO' }
	'a change is in force', 20;
	$c->cmd('RSET');
	$c->cmd('MAIL FROM:<s@example.net>');
	like($c->cmd('RCPT TO:<new@example.com>'), qr/^250 /, 'for Postfix, too');
	$c->quit;

	$pg->stop;
	$c = $pf->smtp;
	$c->cmd('MAIL FROM:<sender@example.net>');
	accepted($c->cmd('RCPT TO:<new@example.com>'), 'PostgreSQL is away');
	like($c->cmd('RCPT TO:<no@example.com>'), qr/^550 5\.1\.1 /, 'and refused');
	$c->quit;
	$pg->start;
	is($d->stop, 0, 'exit status');
	unlike($pf->log, qr/warning:.*policy|4\.3\.5/i,
		'Postfix has no complaint about policyd')
		or diag join "\n", grep {/warning|4\.3\.5/} split /\n/, $pf->log;
	$pf->stop;
}

# ---- over TCP ----

{
	my $d = PolicydTest->new(
		conninfo => $pg->conninfo(user => 'policyd'),
		inet     => 1,
		ini      => \%ini
	)->start;
	my $pf = postfix("inet:127.0.0.1:$d->{port}")->start;
	sessions($pf, 'inet');
	is($d->stop, 0, 'exit status');
	unlike($pf->log, qr/warning:.*policy|4\.3\.5/i,
		'Postfix has no complaint about policyd');
	$pf->stop;
}

# ---- unavailable = close: Postfix's own default_action decides ----

{
	my $none = PolicydTest->new(
		conninfo => "host=/nonexistent dbname=policyd",
		inet     => 1,
		ini      => { reply => { unavailable => 'close' } }
	)->start(until => 'socket');
	my $pf = postfix("{ inet:127.0.0.1:$none->{port},"
			. ' default_action=DUNNO, retry_delay=1s }')->start;
	my $c = $pf->smtp;
	$c->cmd('MAIL FROM:<sender@example.net>');
	accepted($c->cmd('RCPT TO:<bob@example.com>'), 'default_action=DUNNO');
	$c->quit;
	$none->write_ini(reply => {});
	$none->{ini}{reply} = {};
	$none->write_ini;
	$none->restart(until => 'reply');
	$c = $pf->smtp;
	$c->cmd('MAIL FROM:<sender@example.net>');
	like($c->cmd('RCPT TO:<bob@example.com>'),
		qr/^450 4\.3\.0 <bob\@example\.com>: \S/, 'unavailable');
	$c->quit;
	is($none->stop, 0, 'exit status');
	$pf->stop;
}

done_testing();
