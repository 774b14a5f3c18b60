#!/usr/bin/perl

# policyd -t: every mistake in the configuration is reported with its file and
# key, and the line where it can be had; all of them at once.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;

use PolicydTest qw(policyd_path site spew top);

my $pg = site(<<'SQL');
INSERT INTO policyd.domain (name, recipients) VALUES ('example.com', 'listed');
SQL

my $d = PolicydTest->new(conninfo => $pg->conninfo(user => 'policyd'));
my $good = $d->ini_text;

sub check_text {
	my $text = shift;
	spew($d->{inifile}, $text);
	return $d->run('-t');
}

# ---- good ----

{
	my ($status, $said) = check_text($good);
	is($status, 0, 'a good configuration') or diag $said;
	ok(!-e $d->{socket}, '-t makes no socket');
	ok(!-e "$d->{dir}/control.sock", 'nor a control socket');
}
{
	my $all = PolicydTest->new(
		conninfo => $pg->conninfo(user => 'policyd'),
		ini      => {
			policyd => {
				max_clients     => '4k',
				idle_timeout    => '20m',
				request_timeout => '1500ms',
				socket_mode     => '0600',
			},
			database => {
				connections        => 3,
				script_connections => 1,
				query_timeout      => '2s',
				reconnect_max      => '1m',
				prepared           => 'no',
				listen_conninfo    => $pg->conninfo(user => 'policyd'),
			},
			rcpt => {
				relay               => 'no',
				max_recipients      => 50,
				script              => '',
				errors_total        => 0,
				errors_wait         => '250ms',
				recipient_delimiter => '+-',
				fold_local_part     => 'no',
			},
			lookup   => { vrfy => 'yes', expn => 'authenticated', refresh => '1h' },
			greylist => {
				enabled          => 'no',
				delay            => '5m',
				retry_window     => '2d',
				max_age          => '5w',
				ipv4_prefix      => 32,
				ipv6_prefix      => 48,
				pools            => 'no',
				auto_allow_after => 0,
				header           => 'no',
				cache_entries    => '10k',
			},
			reply => {
				unavailable  => 'close',
				unknown_user => '550 5.1.1 No {recipient} at {domain}',
				greylisted   => 'DEFER_IF_PERMIT 4.2.0 In {seconds} s',
			},
			metrics => { listen => '127.0.0.1:0' },
			log => { target => 'stderr', level => 'debug', decisions => 'none' },
		}
	);
	# Port 0 may be refused: nobody could find it.
	$all->{ini}{metrics} = { listen => '' };
	$all->write_ini;
	my ($status, $said) = $all->run('-t');
	is($status, 0, 'every key') or diag $said;
}

# ---- mistakes, one by one ----

# The text with a section's key set (undef: with a line of its own).
sub with_line {
	my ($section, $line) = @_;
	my $text = $good;
	my ($key) = $line =~ /^(\w+)\s*=/;

	$text =~ s/^$key = .*\n//m
		if defined $key && $text =~ /^\[$section\]\n(?:\w.*\n)*$key = /m;
	$text =~ s/^\[$section\]\n/[$section]\n$line\n/m
		or $text .= "[$section]\n$line\n";
	return $text;
}

sub line_of {
	my ($text, $line) = @_;
	my $n = 0;
	for my $have (split /\n/, $text) {
		$n++;
		return $n if $have eq $line;
	}
	return;
}

my @wrong = (
	# section, line, what the message must name
	[ policyd  => 'nonsense = 1',             'nonsense' ],
	[ policyd  => 'listen = "unix:relative"', 'listen' ],
	[ policyd  => 'listen = "inet:127.0.0.1"', 'listen' ],
	[ policyd  => 'listen = "inet:127.0.0.1:70000"', 'listen' ],
	[ policyd  => 'listen = "tcp:127.0.0.1:25"', 'listen' ],
	[ policyd  => 'listen = "unix:/' . 'x' x 200 . '"', 'listen' ],
	[ policyd  => 'listen = ""',              'listen' ],
	[ policyd  => 'socket_mode = 0999',       'socket_mode' ],
	[ policyd  => 'socket_mode = rw',         'socket_mode' ],
	[ policyd  => 'socket_group = no-such-group-here', 'socket_group' ],
	[ policyd  => 'user = no-such-user-here', 'user', $> != 0 ],
	[ policyd  => 'control = relative.sock',  'control' ],
	[ policyd  => 'state_dir = relative',     'state_dir' ],
	[ policyd  => 'max_clients = 0',          'max_clients' ],
	[ policyd  => 'max_clients = -1',         'max_clients' ],
	[ policyd  => 'max_clients = 1.5',        'max_clients' ],
	[ policyd  => 'max_clients = many',       'max_clients' ],
	[ policyd  => 'max_clients = 99999999999999999999', 'max_clients' ],
	[ policyd  => 'max_clients =',            'max_clients' ],
	[ policyd  => 'idle_timeout = 300s',      'idle_timeout' ],
	[ policyd  => 'request_timeout = 30 sec', 'request_timeout' ],
	[ policyd  => 'request_timeout = -1s',    'request_timeout' ],
	[ policyd  => 'request_timeout = 30y',    'request_timeout' ],
	[ database => 'conninfo = "no such thing"', 'conninfo' ],
	[ database => 'conninfo = "nosuchoption=1"', 'conninfo' ],
	[ database => 'connections = 0',          'connections' ],
	[ database => 'query_timeout = 0',        'query_timeout' ],
	[ database => 'prepared = perhaps',       'prepared' ],
	[ database => 'listen_conninfo = "nosuchoption=1"', 'listen_conninfo' ],
	[ rcpt     => 'relay = maybe',            'relay' ],
	[ rcpt     => 'max_recipients = 0',       'max_recipients' ],
	[ rcpt     => 'max_recipients = 0x10',    'max_recipients' ],
	[ rcpt     => 'errors_total = -5',        'errors_total' ],
	[ rcpt     => 'errors_wait = 5 minutes',  'errors_wait' ],
	[ rcpt     => 'fold_local_part = 2',      'fold_local_part' ],
	[ rcpt     => 'script = "drop table x"',  'script' ],
	[ rcpt     => 'script = no_such_function', 'script: .*no_such_function' ],
	[ lookup   => 'domains = "SELECT nothing FROM nowhere"', 'domains' ],
	[ lookup   => 'addresses = "this is no SQL"', 'addresses' ],
	[ lookup   => 'vrfy = sometimes',         'vrfy' ],
	[ lookup   => 'refresh = 0',              'refresh' ],
	[ greylist => 'enabled = 3',              'enabled' ],
	[ greylist => 'ipv4_prefix = 33',         'ipv4_prefix' ],
	[ greylist => 'ipv6_prefix = 129',        'ipv6_prefix' ],
	[ greylist => 'retry_window = 1s',        'retry_window' ],
	[ reply    => 'unknown_user = 550',       'unknown_user' ],
	[ reply    => 'unknown_user = "550 5.1.1"', 'unknown_user' ],
	[ reply    => 'unknown_user = ""',        'unknown_user' ],
	[ reply    => 'unknown_user = "650 no"',  'unknown_user' ],
	[ reply    => 'unknown_user = "NONSENSE now"', 'unknown_user' ],
	[ reply    => 'unknown_user = "550 5.1.1 ' . 'x' x 600 . '"',
		'unknown_user' ],
	[ reply    => "unknown_user = \"550 5.1.1 a\tb\"", 'unknown_user', 1 ],
	[ reply    => "unknown_user = \"550 5.1.1 \xff\"", 'unknown_user' ],
	[ reply    => 'unknown_user = "550 5.1.1 {nothing}"', 'unknown_user' ],
	[ reply    => 'relay_denied = close',     'relay_denied' ],
	[ reply    => 'no_such_reply = "550 5.1.1 x"', 'no_such_reply' ],
	[ metrics  => 'listen = nowhere',         'listen' ],
	[ log      => 'target = printer',         'target' ],
	[ log      => 'level = loud',             'level' ],
	[ log      => 'decisions = some',         'decisions' ],
	[ nonsense => 'key = 1',                  'nonsense' ],
);

for my $case (@wrong) {
	my ($section, $line, $name, $skip) = @$case;
	next if $skip;
	my $text = with_line($section, $line);
	my ($status, $said) = check_text($text);
	my $shown = length $line > 50 ? substr($line, 0, 50) . '...' : $line;

	$shown =~ s/[^ -~]/?/g;
	is($status, 1, "[$section] $shown: refused") or diag $said;
	like($said, qr/$name/, "[$section] $shown: by name");
	like($said, qr/\Q$d->{inifile}\E/, "[$section] $shown: with the file")
		or diag $said;
}

# The line, for mistakes that stand in one.
{
	my $text = with_line(rcpt => 'max_recipients = many');
	my $n = line_of($text, 'max_recipients = many');
	my ($status, $said) = check_text($text);
	like($said, qr/\Q$d->{inifile}\E\W+(?:line )?$n\b/, 'the line is named');
}

# ---- the form of the file ----

for my $case (
	[ 'a key twice', with_line(rcpt => "relay = no\nrelay = yes"), 'relay' ],
	[
		'a section twice with the same key',
		with_line(rcpt => 'relay = no') . "[rcpt]\nrelay = yes\n", 'relay'
	],
	[
		'a line too long', with_line(reply => 'unknown_user = "550 5.1.1 '
				. 'x' x 2000 . '"'), 'unknown_user|line'
	],
	[ 'a key before any section', "relay = no\n$good", 'relay' ],
	[ 'a line without =',         with_line(rcpt => 'relay'), 'relay|rcpt|line' ],
	[ 'an open bracket',          "[policyd\n$good", 'policyd|line' ],
	[ 'no quote at the end', with_line(reply => 'unknown_user = "550 5.1.1 x'),
		'unknown_user|line' ],
) {
	my ($name, $text, $want) = @$case;
	my ($status, $said) = check_text($text);
	is($status, 1, "$name: refused") or diag $said;
	like($said, qr/$want/, "$name: by name");
	like($said, qr/\Q$d->{inifile}\E/, "$name: with the file");
}

# ---- all at once ----

{
	my $text = $good;
	my @keys = qw(relay errors_total unknown_user level refresh);
	$text .= "[extra]\nwhat = ever\n";
	my %bad  = (
		rcpt   => "relay = maybe\nno_such_key = 1",
		reply  => 'unknown_user = 550',
		lookup => 'refresh = never',
	);
	for my $section (sort keys %bad) {
		$text =~ s/^\[$section\]\n/[$section]\n$bad{$section}\n/m
			or $text .= "[$section]\n$bad{$section}\n";
	}
	my ($status, $said) = check_text($text);
	is($status, 1, 'many mistakes');
	like($said, qr/\b$_\b/, "one run names $_")
		for qw(relay no_such_key unknown_user refresh extra);
}

# ---- the file, the database, the command line ----

{
	unlink $d->{inifile};
	my ($status, $said) = $d->run('-t');
	is($status, 1, 'no file');
	like($said, qr/\Q$d->{inifile}\E/, 'by name');
	mkdir $d->{inifile};
	($status, $said) = $d->run('-t');
	is($status, 1, 'a folder');
	like($said, qr/\Q$d->{inifile}\E/, 'by name');
	rmdir $d->{inifile};
	($status, $said) = check_text('');
	# Its defaults (user, socket_group, conninfo) need not work here.
	unlike($said, qr/\Q$d->{inifile}\E:\d+/, 'an empty file has no mistakes');
}
{
	my $nobody = PolicydTest->new(conninfo => "host=$d->{dir} dbname=x");
	my ($status, $said) = $nobody->run('-t');
	is($status, 1, 'no database there');
	like($said, qr/\Q$d->{dir}\E/, 'by name');
	my $refused
		= PolicydTest->new(conninfo => $pg->conninfo(dbname => 'nosuchdb'));
	($status, $said) = $refused->run('-t');
	is($status, 1, 'no such database');
	like($said, qr/nosuchdb/, 'by name');
}

# ---- as whom it asks PostgreSQL ----

SKIP: {
	skip 'another user takes root', 5 if $> != 0;
	my $who = PolicydTest->new(
		conninfo => $pg->conninfo(user => ''),
		ini      => { policyd => { user => 'nobody' } }
	);
	my ($status, $said) = $who->run('-t');

	is($status, 1, 'user may not connect');
	like($said, qr/role "nobody" does not exist/, 'as the daemon will be told');
	$pg->psql('CREATE ROLE nobody LOGIN; GRANT policyd TO nobody');
	($status, $said) = $who->run('-t');
	is($status, 0, 'it may, and root need not') or diag($said);

	local $ENV{HOME} = $who->{dir};
	chmod 0755, $who->{dir};
	spew("$who->{dir}/.pg_service.conf",
		"[here]\nhost=$pg->{dir}\ndbname=postgres\nuser=policyd\n");
	$who->write_ini(database => { conninfo => 'service=here' });
	($status, $said) = $who->run('-t');
	is($status, 1, 'a file in the home of root');
	like($said, qr/definition of service "here" not found/, 'is not its own');
}

# ---- the daemon, the command line ----

{
	$d->write_ini(rcpt => { relay => 'maybe' });
	my $mark = $d->log_mark;
	$d->spawn;
	my $status = $d->wait_end(10);
	ok(defined $status && $status >> 8 != 0 && ($status & 127) == 0,
		'a daemon with a bad configuration does not start');
	like($d->log_since($mark), qr/^<3>level=error .*\brelay\b/m, 'and says why');
	$d->write_ini;

	my ($code, $said) = $d->run('-V');
	is($code, 0, '-V');
	like($said, qr/\d+\.\d+/, 'shows versions');
	($code, $said) = $d->run('-Z');
	isnt($code, 0, 'an unknown option');
	($code, $said) = $d->run('-t', 'more');
	isnt($code, 0, 'an argument too many');
}

# ---- the reference file ----

SKIP: {
	my $reference = top() . '/conf/policyd.ini';
	skip 'conf/policyd.ini is not there', 1 if !-e $reference;
	my $copy = PolicydTest->new(conninfo => 'x');
	my $text = PolicydTest::slurp($reference);
	# Its paths and users need not exist here.
	spew($copy->{inifile}, $text);
	my ($status, $said) = $copy->run('-t');
	unlike($said, qr/\Q$copy->{inifile}\E:\d+: \[\w+\] (?!socket_group|user)/,
		'conf/policyd.ini has no mistake in it');
}

done_testing();
