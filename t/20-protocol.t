#!/usr/bin/perl

# The policy protocol: every request gets exactly one answer, whatever way its
# bytes come in; what is no request harms nobody but its sender.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Select;
use Test::More;
use Time::HiRes qw(time);

use PolicydTest qw(block site slurp top wait_for);

my $pg = site(<<'SQL');
INSERT INTO policyd.domain (name, recipients) VALUES
  ('example.com', 'listed'), ('any.example.com', 'any');
INSERT INTO policyd.address (address) VALUES
  ('bob@example.com'), ('alice@example.com');
SQL

my $d = PolicydTest->new(
	conninfo => $pg->conninfo(user => 'policyd'),
	inet     => 1,
	ini      => { policyd => { request_timeout => '1s', max_clients => 300 } }
)->start;

# Everything else works while something odd goes on.
sub unharmed {
	my $name = shift;
	is($d->ask(recipient => 'bob@example.com'),
		'DUNNO', "$name: others are answered");
	return;
}

# What was sent on the connection before this has been read: the daemon has
# turned its loop since.
sub turn { return $d->ask(recipient => 'bob@example.com') }

# A valid action, as far as Postfix is concerned.
my $ACTION = qr/^(?:DUNNO|(?:550|421|452|502)[ ]\d\.\d\.\d[ ]\S.*)$/x;

# ---- recorded requests ----

my ($recordings) =
	grep { -d } ($ENV{RECORDINGS} || (), top() . '/../shared/recordings',
	"$FindBin::Bin/data/requests");
my @recorded = sort glob "$recordings/*.req";

ok(@recorded >= 40, 'there are recorded requests: ' . @recorded);
{
	my @bad;
	my $conn = $d->connect;
	for my $file (@recorded) {
		$conn->send(slurp($file));
		my $got = $conn->reply(5);
		push @bad, "$file: " . ($got // 'no answer')
			if !defined $got || $got !~ $ACTION;
		last if !defined $got;
	}
	is("@bad", '', 'each recorded request gets one valid answer');
	is($conn->pending, '', 'and nothing more');

	$conn = $d->connect(inet => 1);
	$conn->send(join '', map { slurp($_) } @recorded);
	my @got = map { scalar $conn->reply(5) } @recorded;
	is(scalar(grep { defined && $_ =~ $ACTION } @got),
		scalar @recorded, 'the same all at once, over TCP');
	is($conn->pending, '', 'and nothing more');
}

# ---- splits ----

{
	my $request = block(recipient => 'nobody@example.com');
	my $want    = qr/^550 5\.1\.1 /;
	my $conn    = $d->connect;
	my @bad;

	for my $at (1 .. length($request) - 1) {
		my $fresh = block(recipient => 'nobody@example.com');
		$conn->send(substr $fresh, 0, $at);
		turn();
		$conn->send(substr $fresh, $at);
		my $got = $conn->reply(5) // 'nothing';
		push @bad, $at if $got !~ $want;
	}
	is("@bad", '', 'a request split in two at every byte');

	# The machine may not let that many turns happen within request_timeout.
	my $got = wait_for {
		$conn = $d->connect;
		$conn->send($_), turn() for split //, $request;
		$conn->reply(5);
	} 60;
	like($got, $want, 'a request byte by byte');
	is($conn->pending, '', 'one answer');
}

# ---- pipelining ----

{
	my $conn = $d->connect;
	my @want = map { $_ % 3 ? 'DUNNO' : '550' } 1 .. 300;

	$conn->send(
		join '',
		map {
			block(recipient => $_ eq 'DUNNO' ? 'bob@example.com' : 'no@example.com')
		} @want
	);
	my @got = map { substr $conn->reply(5) // 'none', 0, 5 } @want;
	s/^550.*/550/ for @got;
	is_deeply(\@got, \@want, '300 requests at once are answered in order');
}

# Nobody reads: the daemon must not gather answers without bound, and must go
# on when they are read.
{
	my $conn    = $d->connect;
	my $request = block(recipient => 'bob@example.com');
	my $count   = 20000;
	my $bytes   = $request x $count;
	my $sent    = 0;
	my $before  = rss($d->pid);
	my $answers = 0;

	$conn->sock->blocking(0);
	# As much as goes in while nothing is read.
	while ($sent < length $bytes) {
		my $n = syswrite $conn->sock, $bytes, 65536, $sent;
		if (!defined $n) {
			last if !IO::Select->new($conn->sock)->can_write(0.2);
			next;
		}
		$sent += $n;
	}
	cmp_ok($sent, '<', length $bytes, 'who does not read is not read from');
	cmp_ok(rss($d->pid) - $before, '<', 4096, 'and takes little memory');
	unharmed('who does not read');
	my $end = time + 20;
	while ($answers < $count && time < $end) {
		my $sel = IO::Select->new($conn->sock);
		if ($sent < length $bytes && $sel->can_write(0)) {
			my $n = syswrite $conn->sock, $bytes, 65536, $sent;
			$sent += $n if $n;
		}
		next if !$sel->can_read(0.01);
		my $n = sysread $conn->sock, my $some, 262144;
		last if !$n;
		$answers += () = $some =~ /^action=DUNNO$/mg;
	}
	is($answers, $count, 'all its answers are there once it reads');
}

sub rss {
	my $pid = shift;
	my ($kb) = slurp("/proc/$pid/status") =~ /^VmRSS:\s+(\d+)/m;
	return $kb;
}

# ---- bounds ----

sub filler { my $n = shift; return 'x' x $n }

# A request of exactly this many bytes, in unknown attributes with short lines.
sub request_of {
	my $bytes = shift;
	my $text  = block(recipient => 'no@example.com');
	my $i     = 0;

	chop $text;
	while (length($text) + 1 < $bytes) {
		my $left = $bytes - length($text) - 1;
		my $name = sprintf 'unknown%03d=', $i++;
		my $take = $left <= 8000 ? $left : $left >= 8100 ? 8000 : 4000;
		$text .= $name . filler($take - length($name) - 1) . "\n";
	}
	return "$text\n";
}

sub answered {
	my ($bytes, $name) = @_;
	my $conn = $d->connect;
	$conn->send($bytes);
	like($conn->reply(5), qr/^550 5\.1\.1 /, "$name is answered");
	return;
}

sub refused {
	my ($bytes, $name) = @_;
	my $conn = $d->connect;
	$conn->send($bytes);
	ok($conn->closed(5), "$name: the connection is closed");
	is($conn->pending, '', "$name: without an answer");
	return;
}

sub with_lines {
	my $text = block(recipient => 'no@example.com');
	chop $text;
	return $text . join('', map {"$_\n"} @_) . "\n";
}

answered(with_lines('unknown=' . filler(16383 - 8)), 'a line of 16 KiB');
refused(with_lines('unknown=' . filler(16384 + 2 - 8)), 'a line beyond 16 KiB');
unharmed('a line beyond 16 KiB');

is(length request_of(65536), 65536, 'the right length');
answered(request_of(65536), 'a request of 64 KiB');
refused(request_of(65537), 'a request beyond 64 KiB');
unharmed('a request beyond 64 KiB');

{
	my $have = () = block() =~ /\n(?!\z)/g;
	answered(with_lines(map {"unknown$_=1"} 1 .. 64 - $have),
		'64 attributes');
	refused(with_lines(map {"unknown$_=1"} 1 .. 65 - $have),
		'65 attributes');
	unharmed('65 attributes');
}
{
	my $conn = $d->connect;
	my $sent = $conn->send(filler(4 << 20));
	cmp_ok($sent, '<', 4 << 20, 'an endless line is not read to its end');
	ok($conn->closed(5), 'it is closed');
	unharmed('an endless line');
}
{
	my $conn = $d->connect;
	my $sent = $conn->send("a=b\n" x (1 << 20));
	cmp_ok($sent, '<', 4 << 20, 'an endless request is not read to its end');
	ok($conn->closed(5), 'it is closed');
	unharmed('an endless request');
}

# ---- what is no request ----

{
	my $crlf = block(recipient => 'no@example.com');
	$crlf =~ s/\n/\r\n/g;
	refused($crlf, 'lines that end in CRLF');
}
refused(with_lines('no equals sign'), 'a line without =');
refused("GET / HTTP/1.0\n\n",         'HTTP');
refused("EHLO me\n",                  'SMTP');
unharmed('lines that are no attributes');

{
	my $conn = $d->connect;
	is($conn->ask(request => 'something_else'),
		'DUNNO', 'a request of another kind');
	is($conn->ask(request => undef), 'DUNNO', 'a request of no kind');
	is($conn->ask(recipient => 'bob@example.com'),
		'DUNNO', 'the connection is good for more');
	like($conn->ask(recipient => 'no@example.com'),
		qr/^550 /, 'and judges as before');
}
{
	my $conn = $d->connect;
	my @lines = split /^/, block(recipient => 'no@example.com');
	my $end   = pop @lines;
	$conn->send(join '', reverse(@lines), $end);
	like($conn->reply, qr/^550 5\.1\.1 /, 'attributes in any order');
	$conn->send(with_lines('tls_sni=', 'compatibility_level=3.12',
		'mail_version=3.12', 'from_the_future=yes'));
	like($conn->reply, qr/^550 5\.1\.1 /, 'unknown attributes');
	like(
		$conn->ask(recipient => 'no@example.com', sender => 'a=b=c@example.net'),
		qr/^550 /, 'values may have ='
	);
	like(
		$conn->ask(
			recipient => 'no@example.com',
			helo_name => "\xff\xfe\x80\x01\x7f",
			sender    => "\xc3\x28\@example.net"
		),
		qr/^550 /,
		'values may have any bytes'
	);
}
{
	srand 20;
	my @odd;
	for my $i (1 .. 100) {
		my $conn = $d->connect;
		$conn->send(join('', map { chr int rand 256 } 1 .. 1 + rand 4000)
				. "\n\n");
		my $got = $conn->reply(0.05);
		push @odd, $got if defined $got && $got ne 'DUNNO';
		push @odd, $conn->{malformed} if defined $conn->{malformed};
	}
	is("@odd", '', 'random bytes get no answer that judges');
	unharmed('random bytes');
	my $conn = $d->connect;
	$conn->send(block(recipient => "bob\0\@example.com"));
	my $got = $conn->reply(1);
	unlike($got // 'none', qr/^(?:250|OK)/, 'NUL in a value');
	unharmed('NUL in a value');
}

# ---- hanging clients ----

{
	my @idle = map { $d->connect } 1 .. 200;
	is(scalar(grep {$_} @idle), 200, '200 connections that say nothing');
	unharmed('200 idle connections');
	my $began   = time;
	my @partial = map { $d->connect } 1 .. 20;
	$_->send("request=smtpd_access_policy\nprotocol_state=RC") for @partial;
	my $slow = $d->connect;
	my @bytes = split //, block();
	my $gone;
	# One byte every 50 ms: that is more than a second for a request.
	while (@bytes && !$gone) {
		$gone = !$slow->send(shift @bytes) || $slow->closed(0.05);
		last if time - $began > 5;
	}
	ok($gone, 'a request that takes longer than request_timeout is cut');
	cmp_ok(time - $began, '>', 0.9, 'not before the time');
	is(scalar(grep { $_->closed(3) } @partial),
		20, 'so are unfinished ones');
	cmp_ok(time - $began, '<', 4, 'in time');
	is($idle[0]->ask(recipient => 'bob@example.com'),
		'DUNNO', 'a connection without a request stays open');
	unharmed('slow requests');
}
{
	my $conn = $d->connect;
	$conn->send(block(recipient => 'no@example.com'));
	$conn->half_close;
	like($conn->reply(5), qr/^550 /, 'a half-closed connection is answered');
	ok($conn->closed(5), 'and closed');
}
{
	for my $i (1 .. 50) {
		my $conn = $d->connect;
		$conn->send(block(recipient => 'bob@example.com') x $i);
		$conn->close;
	}
	my $conn = $d->connect;
	$conn->send("request=smtpd_access_policy\n");
	$conn->close;
	unharmed('clients that hang up at once');
}

# ---- the log ----

{
	my $mark = $d->log_mark;
	refused("nonsense\n\n", 'nonsense') for 1 .. 5;
	my $lines = () = $d->log_since($mark) =~ /\n/g;
	cmp_ok($lines, '<=', 3, 'bad clients do not fill the log');
	like($d->log, qr/no|without|malformed|bad|=/i, 'but are in it');
}

# ---- max_clients ----

{
	my $small = PolicydTest->new(
		conninfo => $pg->conninfo(user => 'policyd'),
		ini      => { policyd => { max_clients => 3 } }
	)->start;
	my @in;
	my $full = wait_for {
		@in = map { $small->connect } 1 .. 3;
		return 3 == grep {
			($_->ask(recipient => 'bob@example.com', timeout => 1) // '') eq
				'DUNNO'
		} @in;
	};
	ok($full, 'max_clients connections are served');
	my $late = $small->connect;
	ok($late, 'one more can connect');
	$late->send(block(recipient => 'bob@example.com'));
	is($late->reply(0.3), undef, 'and waits');
	is($_->ask(recipient => 'bob@example.com'), 'DUNNO', 'the others go on')
		for @in;
	(shift @in)->close;
	is($late->reply(5), 'DUNNO', 'it is served when one leaves');
	is($small->stop, 0, 'exit status');
}

is($d->stop, 0, 'exit status');
unlike($d->log, qr/AddressSanitizer|runtime error/, 'no sanitizer report');
done_testing();
