#!/usr/bin/perl

# Greylisting: which hosts are one client, which addresses one sender, and that
# several daemons on one database agree at all times.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Select;
use POSIX ();
use Test::More;
use Time::HiRes qw(time);

use GreylistTest;
use PolicydTest qw(block policyctl_path soon spew wait_for);

# The contract says 100 ms; a machine that does other things as well gets more.
my $LIMIT_S = 0.1 * ($ENV{POLICYD_TEST_PATIENCE} || 100);

my $pg  = greylist_site();
my $dbh = known();
my $d   = greylister($pg);

my $sender = 0;

# A sender that nobody has seen.
sub fresh {
	my $name = join '', map { chr(ord('a') + $_) } ++$sender =~ /\d/g;
	return "new$name\@sender.example";
}

# ---- clients ----

# The first attempt by one host, the second by another: is it the same client,
# and who is it?
sub comes_back {
	my ($daemon, $name, $first, $second, $same, $client) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $from = fresh();
	my @key  = (sender => $from, recipient => 'bob@example.com');
	my @host = map { my ($address, $host) = split / /;
		[ client_address => $address, client_name => $host,
			reverse_client_name => $host ] } $first, $second;

	ask_is($daemon, $GREYLISTED, "$name: the first attempt", @key,
		@{ $host[0] });
	my $r = row('sender = ?', $from) || {};
	is($r->{client}, $client, "$name: the client") if defined $client;
	older(61, 'sender = ?', $from);
	settle($daemon);
	ask_is($daemon, $same ? $PASSED : $GREYLISTED,
		"$name: the second, from another host", @key, @{ $host[1] });
	return;
}

comes_back($d, 'another host of its domain', '192.0.2.10 mail1.example.net',
	'198.51.100.20 mail2.example.net', 1, 'example.net');
comes_back($d, 'whatever stands below it',
	'192.0.2.10 a.b.out.mail.example.net', '2001:db8::1 example.net', 1,
	'example.net');
comes_back($d, 'letter case', '192.0.2.10 MAIL1.Example.NET',
	'198.51.100.20 mail2.example.net', 1, 'example.net');
comes_back($d, 'a public suffix of two labels', '192.0.2.10 mx1.firm.co.uk',
	'198.51.100.20 mx2.firm.co.uk', 1, 'firm.co.uk');
comes_back($d, 'another firm below it', '192.0.2.10 mx1.firm.co.uk',
	'198.51.100.20 mx1.other.co.uk', 0, 'firm.co.uk');
comes_back($d, 'another domain', '192.0.2.10 mx.example.net',
	'192.0.2.10 mx.example.org', 0, 'example.net');
comes_back($d, 'no name, the same /24', '192.0.2.10 unknown',
	'192.0.2.200 unknown', 1, '192.0.2.0/24');
comes_back($d, 'no name, another /24', '192.0.2.10 unknown',
	'192.0.3.10 unknown', 0, '192.0.2.0/24');
comes_back($d, 'no name, the same /64', '2001:db8:1:2::5 unknown',
	'2001:db8:1:2:ffff::6 unknown', 1, '2001:db8:1:2::/64');
comes_back($d, 'no name, another /64', '2001:db8:1:2::5 unknown',
	'2001:db8:1:3::5 unknown', 0, '2001:db8:1:2::/64');
comes_back($d, 'an end user, the same /24',
	'198.51.100.49 ip-198-051-100-049.um198.pools.unityline.de',
	'198.51.100.58 host-198-51-100-58.customer.unityline.de', 1,
	'198.51.100.0/24');
comes_back($d, 'an end user, another network',
	'198.51.100.49 ip-198-051-100-049.um198.pools.unityline.de',
	'203.0.113.86 ip-203-000-113-086.um198.pools.unityline.de', 0,
	'198.51.100.0/24');
comes_back($d, 'an end user, then a server of the provider',
	'198.51.100.49 dslb-198-051-100-049.pools.unityline.de',
	'203.0.113.86 mail.unityline.de', 0, '198.51.100.0/24');
comes_back($d, 'first no name, then one, in the same network',
	'192.0.2.10 unknown', '192.0.2.77 mail.example.net', 1, '192.0.2.0/24');
comes_back($d, 'first no name, then one, in another network',
	'192.0.2.10 unknown', '198.51.100.77 mail.example.net', 0,
	'192.0.2.0/24');
comes_back($d, 'an address that is none', 'unknown unknown',
	'unknown unknown', 1);

{
	# What a network had, its name keeps.
	my $from = fresh();
	my @key  = (sender => $from, recipient => 'bob@example.com',
		client_address => '192.0.2.10');
	ask_is($d, $GREYLISTED, 'unverified', @key, client_name => 'unknown');
	older(61, 'sender = ?', $from);
	settle($d);
	ask_is($d, $PASSED, 'passes', @key, client_name => 'unknown');
	ask_is($d, $OK, 'and is known by its name from then on', @key,
		client_name => 'mx.keeps.example');
	ask_is($d, $OK, 'wherever it comes from', @key,
		client_name => 'mx2.keeps.example', client_address => '203.0.113.9');
	ask_is($d, $OK, 'and still without', @key, client_name => 'unknown');
}
{
	my $own = greylister($pg, ipv4_prefix => 16, ipv6_prefix => 48);
	comes_back($own, 'ipv4_prefix=16', '198.18.1.10 unknown',
		'198.18.200.10 unknown', 1, '198.18.0.0/16');
	comes_back($own, 'ipv4_prefix=16, beyond', '198.18.1.10 unknown',
		'198.19.1.10 unknown', 0, '198.18.0.0/16');
	comes_back($own, 'ipv6_prefix=48', '2001:db8:7:1::1 unknown',
		'2001:db8:7:ffff::1 unknown', 1, '2001:db8:7::/48');
	comes_back($own, 'ipv6_prefix=48, beyond', '2001:db8:7:1::1 unknown',
		'2001:db8:8:1::1 unknown', 0, '2001:db8:7::/48');
	is($own->stop, 0, 'exit status');
	$own = greylister($pg, ipv4_prefix => 32, ipv6_prefix => 128);
	comes_back($own, 'ipv4_prefix=32', '198.18.1.10 unknown',
		'198.18.1.11 unknown', 0);
	comes_back($own, 'ipv6_prefix=128', '2001:db8:7:1::1 unknown',
		'2001:db8:7:1::2 unknown', 0);
	comes_back($own, 'the very same', '198.18.1.10 unknown',
		'198.18.1.10 unknown', 1);
	is($own->stop, 0, 'exit status');
	$own = greylister($pg, pools => 'no');
	comes_back($own, 'pools=no', '192.0.2.10 mail1.example.net',
		'198.51.100.20 mail2.example.net', 0, '192.0.2.0/24');
	comes_back($own, 'pools=no, the same network',
		'192.0.2.10 mail1.example.net', '192.0.2.20 mail2.example.org', 1,
		'192.0.2.0/24');
	is($own->stop, 0, 'exit status');
}

# ---- senders ----

for my $case (
	[ 'letter case', 'Alice@Sender.Example', 'aLICE@sender.example', 1 ],
	[ 'BATV', 'prvs=0817fd5bfa=alice@batv.example',
		'prvs=20260c9aa1=alice@batv.example', 1 ],
	[ 'BATV, with no key at first', 'alice@batv2.example',
		'prvs=1234567890=alice@batv2.example', 1 ],
	[ 'BATV, another sender', 'prvs=0817fd5bfa=alice@batv.example',
		'prvs=0817fd5bfa=carol@batv.example', 0 ],
	[ 'SRS', 'SRS0=HHH0=TT=orig.example=alice@forward.example',
		'SRS0=xYz9=AB=orig.example=alice@forward.example', 1 ],
	[ 'SRS, another sender', 'SRS0=HHH0=TT=orig.example=alice@forward.example',
		'SRS0=HHH0=TT=orig.example=carol@forward.example', 0 ],
	[ 'SRS twice', 'SRS1=aaaa=hop.example==HHH0=TT=orig.example=al@forward.example',
		'SRS1=bbbb=hop.example==xYz9=AB=orig.example=al@forward.example', 1 ],
	[ 'VERP, numbered', 'list-return-1234-bob=example.com@lists.example',
		'list-return-99-bob=example.com@lists.example', 1 ],
	[ 'VERP, with a plus', 'owner+m123=bob=example.com@lists.example',
		'owner+m7345=bob=example.com@lists.example', 1 ],
	[ 'digits', 'news-20241231-9@shop.example',
		'news-20250101-10@shop.example', 1 ],
	[ 'no digits', 'news-a@shop.example', 'news-b@shop.example', 0 ],
	[ 'other domains', 'news-1@shop1.example', 'news-1@shop.example', 0 ],
	[ 'null sender', '', '', 1 ],
	[ 'null sender and another', '', 'postmaster@sender.example', 0 ],
	[ 'no domain', 'root', 'ROOT', 1 ],
) {
	my ($name, $first, $second, $same) = @$case;
	my @key = (recipient => 'bob@example.com',
		client_name => 'mx.folds.example');
	quiet();
	$dbh->do('DELETE FROM policyd.greylist');
	settle($d);
	ask_is($d, $GREYLISTED, "$name: the first attempt", @key,
		sender => $first);
	older(61);
	settle($d);
	ask_is($d, $same ? $PASSED : $GREYLISTED,
		$same ? "$name: the same sender" : "$name: another sender", @key,
		sender => $second);
}

# ---- odd bytes ----

# Next to a long address there is less room for the text.
my $GREYLISTED_LONG = qr/^DEFER_IF_PERMIT 4\.2\.0 Greylisted, /;

quiet();
$dbh->do('DELETE FROM policyd.greylist');
settle($d);
{
	srand 72;
	my $noise = sub { join '', map { chr(ord('a') + rand 26) } 1 .. shift };
	my @odd = ("\xff\xfe\@x.example", "a\x80b\@x.example", "\xc3\xa9\@x.example",
		"\xc0\xaf\@x.example", "\xed\xa0\x80\@x.example",
		"\xf4\x90\x80\x80\@x.example", "\x01\x02\x7f\@x.example",
		"tab\tx\@x.example", 'two words@x.example', ' lead@x.example',
		'trail @x.example', '"quoted"@x.example', q{it's@x.example},
		'back\\slash@x.example', '{brace}@x.example', '{a,b}@x.example',
		'{"a"@x.example', '\\x41@x.example', 'NULL', 'null', '{}', '"', '\\',
		'%s%n@x.example', '$1@x.example', 'a@b@x.example', '@', '@x.example',
		'x@', "\xe2\x80\xa8\@x.example", 'a=b=c@x.example',
		$noise->(2000) . '@x.example', 'x' x 2000, $noise->(1000) . '@'
		. join('.', map { $noise->(60) } 1 .. 4),
		join('', map { chr(128 + rand 128) } 1 .. 1500));
	for my $i (0 .. $#odd) {
		my $shown = substr $odd[$i] =~ s/([^ -~])/sprintf '\\x%02x', ord $1/ger,
			0, 40;
		my $to  = $noise->(12) . "$i\@any.example";
		my @key = (sender => $odd[$i], recipient => $to,
			client_name => 'mx.odd.example');
		ask_is($d, $GREYLISTED_LONG, "sender $shown", @key);
		my $r = row('recipient = ?', $to);
		ok($r, 'one row') or next;
		older(61, 'recipient = ?', $to);
		settle($d);
		ask_is($d, $PASSED, 'comes back and passes', @key);
		soon { defined row('recipient = ?', $to)->{passed_us} } 'its row';
	}
	# Long ones on both sides, which no compression makes short.
	my $before = value('SELECT count(*) FROM policyd.greylist');
	my @long = (sender => $noise->(1990) . '@x.example',
		recipient => $noise->(1990) . '@any.example',
		client_name => 'mx.odd.example');
	ask_is($d, $GREYLISTED_LONG, 'a long sender to a long recipient', @long);
	count_is($before + 1, 'one row');
	ask_is($d, $GREYLISTED_LONG, 'in a batch with others', @long, sender =>
		$noise->(1900) . '@x.example');
	older(61);
	settle($d);
	ask_is($d, $PASSED, 'comes back and passes', @long);
	my $odd_to = "\xff\x80'\"{\\\@any.example";
	ask_is($d, $GREYLISTED, 'a recipient of odd bytes', sender => fresh(),
		recipient => $odd_to);
	ask_is($d, $GREYLISTED, 'a client of odd bytes', sender => fresh(),
		recipient => 'bob@example.com', client_name => "\xff\x80'\"{\\.example",
		client_address => "\xff'{");
	ask_is($d, $GREYLISTED, 'an empty one', sender => fresh(),
		recipient => 'bob@example.com', client_name => '',
		client_address => '');
	is(errors_of($pg), '', 'PostgreSQL had no complaint');
}

# ---- two daemons ----

quiet();
$dbh->do('TRUNCATE policyd.greylist, policyd.client');
my $other = greylister($pg);
my @d = ($d, $other);

# Commit this; how long until each daemon answers so?
sub felt {
	my ($name, $want, $attr, $sql, @bind) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return felt_after($name, $want, $attr,
		sub { $dbh->do($sql, undef, @bind) });
}

sub felt_after {
	my ($name, $want, $attr, $change) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @conn = map { $_->connect } @d;

	quiet();
	$change->();
	my $since = time;
	for my $i (0 .. $#conn) {
		my $got;
		my $ok = wait_for {
			($got = $conn[$i]->ask(@$attr) // 'no answer') =~ $want;
		} 10;
		my $took = time - $since;
		ok($ok && $took <= $LIMIT_S, "$name: felt by daemon $i")
			or diag sprintf '%.1f ms, %s', 1000 * $took, $got;
	}
	return;
}

# A key that has passed, and which both daemons know.
sub passed_key {
	my $from = fresh();
	my @key  = (sender => $from, recipient => 'bob@example.com', @_);
	$d->ask(@key);
	older(61, 'sender = ?', $from);
	settle(@d);
	ask_is($d, $PASSED, 'a key passes', @key);
	ask_is($other, $OK, 'and is known to both', @key);
	ask_is($_, $OK, 'is it', @key) for @d;
	return @key;
}

{
	my @key = passed_key();
	felt('DELETE', $GREYLISTED, \@key,
		'DELETE FROM policyd.greylist WHERE sender = ?', $key[1]);
	my $r = row('sender = ?', $key[1]);
	is($r->{passed_us}, undef, 'it is new');
	cmp_ok($r->{first}, '<', 60, 'from now');

	felt('release', qr/^(?:DUNNO$|PREPEND X-Greylist:)/, \@key,
		'UPDATE policyd.greylist SET passed_at = now() WHERE sender = ?',
		$key[1]);
	felt('taken back', $GREYLISTED, \@key,
		'UPDATE policyd.greylist SET passed_at = NULL, first_seen = now()
		WHERE sender = ?', $key[1]);
	felt('made older', qr/^(?:DUNNO$|PREPEND X-Greylist:)/, \@key,
		q{UPDATE policyd.greylist SET first_seen = now() - interval '70 s'
		WHERE sender = ?}, $key[1]);
	my $daemon = $pg->dbh(user => 'policyd');
	felt('TRUNCATE', $GREYLISTED, \@key, 'TRUNCATE policyd.greylist');
	settle(@d);
	my @seen = (@key, client_name => 'mx.merged.example');
	ask_is($_, $GREYLISTED, 'a client that nobody has changed', @seen) for @d;
	felt_after('merged by a host that saw it earlier',
		qr/^(?:DUNNO$|PREPEND X-Greylist:)/, \@seen, sub {
			$daemon->do(q{SELECT policyd.greylist_merge(false,
				'{merged.example}', ARRAY[?], '{bob@example.com}', ARRAY[at], ARRAY[at], '{NULL}',
				'{1}', 86400, 86400 * 35)
				FROM date_part('epoch', now() - interval '70 s') AS at},
				undef, $key[1]);
		});
	$daemon->disconnect;

	my @who = (client_name => 'mx.felt.example',
		client_address => '198.51.100.7');
	ask_is($_, $GREYLISTED, 'a stranger', @key, @who) for @d;
	felt('allow', $OK, [ @key, @who ],
		q{INSERT INTO policyd.client (client, allowed_at)
		VALUES ('felt.example', now())});
	felt('allow no longer', $GREYLISTED, [ @key, @who ],
		q{DELETE FROM policyd.client WHERE client = 'felt.example'});
	felt('allow its network', $OK, [ @key, @who ],
		q{INSERT INTO policyd.client (client, allowed_at)
		VALUES ('198.51.100.0/24', now())});
	felt('disallow', $GREYLISTED, [ @key, @who ],
		q{UPDATE policyd.client SET allowed_at = NULL});
	felt('allow again', $OK, [ @key, @who ],
		q{UPDATE policyd.client SET allowed_at = now()});
	felt('TRUNCATE of client', $GREYLISTED, [ @key, @who ],
		'TRUNCATE policyd.client');

	@key = passed_key(client_name => 'mx.many.example');
	$dbh->do(q{INSERT INTO policyd.greylist (client, sender, recipient)
		SELECT 'many.example', 's', i::text FROM generate_series(1, 3000) i});
	felt('a DELETE of thousands', $GREYLISTED, \@key,
		q{DELETE FROM policyd.greylist WHERE client = 'many.example'});
	@key = passed_key(client_name => 'mx.notify.example');
	$dbh->begin_work;
	quiet();
	$dbh->do('DELETE FROM policyd.greylist');
	ask_is($_, $OK, 'nothing before COMMIT', @key) for @d;
	$dbh->rollback;
	settle(@d);
	ask_is($_, $OK, 'nothing after ROLLBACK', @key) for @d;
}
{
	# The same by policyctl.
	my $ini = spew("$d->{dir}/ctl.ini", sprintf qq{[database]\nconninfo = "%s"\n},
		$pg->conninfo);
	my $ctl = sub {
		my @args = @_;
		return sub {
			is(system(policyctl_path(), '-c', $ini, 'greylist', @args), 0,
				"policyctl greylist $args[0]");
		};
	};
	my $from = fresh();
	my @key = (sender => $from, recipient => 'bob@example.com',
		client_name => 'mx.told.example');
	my @is = ('told.example', $from, 'bob@example.com');
	ask_is($_, $GREYLISTED, 'a stranger', @key) for @d;
	open my $out, '>&', \*STDOUT or die "dup: $!";
	open STDOUT, '>', '/dev/null' or die "/dev/null: $!";
	felt_after('policyctl: release', qr/^(?:DUNNO$|PREPEND X-Greylist:)/,
		\@key, $ctl->('release', @is));
	felt_after('policyctl: forget', $GREYLISTED, \@key,
		$ctl->('forget', @is));
	felt_after('policyctl: allow', $OK, \@key, $ctl->('allow', $is[0]));
	felt_after('policyctl: forget the client', $GREYLISTED, \@key,
		$ctl->('forget', $is[0]));
	open STDOUT, '>&', $out or die "dup: $!";
}
{
	my $from = fresh();
	my @key  = (sender => $from, recipient => 'alice@example.com');
	ask_is($d, $GREYLISTED, 'the first attempt here', @key);
	my $got = $other->ask(@key);
	like($got, $GREYLISTED, 'the second there');
	my $left = ($got =~ $GREYLISTED)[0] // -1;
	ok($left <= 60 && $left > 30, 'with the seconds left');
	older(30, 'sender = ?', $from);
	settle(@d);
	for my $daemon (@d) {
		$got  = $daemon->ask(@key);
		$left = ($got =~ $GREYLISTED)[0] // -1;
		ok($left <= 30 && $left > 5, "both know the seconds left ($left)");
	}
	older(31, 'sender = ?', $from);
	settle(@d);
	ask_is($other, $PASSED, 'it passes there', @key);
	ask_is($d, $OK, 'and here it has passed', @key);
	count_is(1, 'one row', 'sender = ?', $from);
}
$_->stop for @d;

# ---- one shows that it retries, the other one knows ----

{
	my @auto = map { greylister($pg, auto_allow_after => 1) } 1, 2;
	my @who  = (client_name => 'mx.proven.example',
		recipient => 'bob@example.com');
	ask_is($_, $GREYLISTED, 'a stranger', @who, sender => fresh()) for @auto;
	my $from = fresh();
	ask_is($auto[1], $GREYLISTED, 'one key', @who, sender => $from);
	older(61, 'sender = ?', $from);
	settle(@auto);
	ask_is($auto[1], $PASSED, 'passes', @who, sender => $from);
	my $since = time;
	my $conn  = $auto[0]->connect;
	my $ok = wait_for { $conn->ask(@who, sender => fresh()) =~ $OK } 10;
	my $took = time - $since;
	ok($ok && $took <= $LIMIT_S, 'the other daemon lets its client in')
		or diag sprintf '%.1f ms', 1000 * $took;
	ask_is($_, $OK, 'both do', @who, sender => fresh()) for @auto;

	# A key that one daemon knows as waiting passes at the other.
	$from = fresh();
	@who  = (client_name => 'mx.second.example',
		recipient => 'bob@example.com');
	ask_is($_, $GREYLISTED, 'a key', @who, sender => $from) for @auto;
	older(61, 'sender = ?', $from);
	settle($auto[1]);
	ask_is($auto[1], $PASSED, 'passes at one', @who, sender => $from);
	settle(@auto);
	ask_is($auto[0], $OK, 'and at the other', @who, sender => $from);
	is($_->stop, 0, 'exit status') for @auto;
}

# ---- two hosts of one client in one statement ----

{
	my $d = greylister($pg);
	$dbh->do(q{INSERT INTO policyd.client (client, allowed_at)
		VALUES ('198.18.44.0/24', now())});
	settle($d);
	my @key  = (sender => fresh(), recipient => 'bob@example.com');
	my @host = map { [ client_name => "mx$_->[0].same.example",
			client_address => $_->[1] ] }
		[ 1, '198.18.43.1' ], [ 2, '198.18.44.2' ], [ 3, '198.18.45.3' ];
	my @conn = map { $d->connect } 0 .. 3;
	quiet();
	$dbh->begin_work;
	$dbh->do('LOCK policyd.client IN ACCESS EXCLUSIVE MODE');
	$conn[3]->send(block(sender => fresh(), recipient => 'bob@example.com'));
	$pg->wait_for_lock;
	for my $i (0 .. 2) {
		$conn[$i]->send(block(@key, @{ $host[$i] }));
		# It has been read once another is answered.
		$d->connect->ask(protocol_state => 'CONNECT');
	}
	$dbh->commit;
	my @got = map { $_->reply(20) // 'no answer' } @conn;
	like($got[$_], $GREYLISTED, 'two hosts of a client: one') for 0, 2;
	like($got[1], $OK, 'and one whose network is allowed');
	count_is(1, 'one row', 'sender = ?', $key[1]);
	is($d->stop, 0, 'exit status');
}

# ---- many at once ----

{
	my @two   = map { greylister($pg, delay => '1h',
			database => { connections => 4 }) } 1, 2;
	my @keys = map {
		my $i = $_;
		map { [ client_name => "mx.many$i.example", sender => 's@x.example',
			recipient => "r$_\@any.example" ] } 'a' .. 'h';
	} 'a' .. 'f';
	my ($askers, $rounds) = (6, 4);

	# Everyone asks for each key in an order of its own, eight at a time over as
	# many connections.  Returns how many answers were of each kind.
	my $all = sub {
		my ($rounds) = @_;
		my (@pids, @from);
		$dbh->{AutoInactiveDestroy} = 1;
		for my $asker (1 .. $askers) {
			pipe my $from, my $to or die "pipe: $!";
			defined(my $pid = fork) or die "fork: $!";
			if ($pid) { push @pids, $pid; push @from, $from; next }
			my %got = (DUNNO => 0, PREPEND => 0, DEFER_IF_PERMIT => 0, bad => 0);
			srand $asker;
			my @conn = map { $two[ $_ % 2 ]->connect } 1 .. 8;
			for my $round (1 .. $rounds) {
				my @order = sort { $a->[0] <=> $b->[0] }
					map { [ rand, $_ ] } @keys;
				while (my @some = map { $_->[1] } splice @order, 0, 8) {
					# In a child of its own: PID and count make instances
					# that nobody else has.
					$conn[$_]->send(block(@{ $some[$_] })) for 0 .. $#some;
					for my $i (0 .. $#some) {
						my $got = $conn[$i]->reply(30) // 'bad';
						$got{ $got =~ /^(DUNNO|PREPEND|DEFER_IF_PERMIT)\b/
							? $1 : 'bad' }++;
					}
				}
			}
			syswrite $to, join ' ', @got{ sort keys %got };
			POSIX::_exit(0);
		}
		my @sum = (0) x 4;
		for my $i (0 .. $#pids) {
			my @n = split / /, readline($from[$i]) // '';
			$sum[$_] += $n[$_] // 0 for 0 .. 3;
			waitpid $pids[$i], 0;
		}
		my %sum;
		@sum{qw(DEFER_IF_PERMIT DUNNO PREPEND bad)} = @sum;
		return \%sum;
	};

	quiet();
	$dbh->do('TRUNCATE policyd.greylist, policyd.client');
	settle(@two);
	my $n = $askers * $rounds;
	is_deeply($all->($rounds), { DEFER_IF_PERMIT => $n * @keys, DUNNO => 0,
			PREPEND => 0, bad => 0 }, 'many at two daemons: all greylisted');
	count_is(scalar @keys, 'one row for each key');
	soon { value('SELECT sum(attempts) FROM policyd.greylist') == $n * @keys }
	'attempts add up', 20
		or diag value('SELECT sum(attempts) FROM policyd.greylist') . ' of '
		. $n * @keys;
	is(value('SELECT count(*) FROM policyd.greylist WHERE attempts <> ?', undef,
		$n), 0, "$n attempts of each");

	older(3601);
	settle(@two);
	my $got = $all->(1);
	is($got->{bad} + $got->{DEFER_IF_PERMIT}, 0, 'all pass');
	cmp_ok($got->{PREPEND}, '>=', scalar @keys, 'each with a header');
	count_is(scalar @keys, 'one row for each key', 'passed_at IS NOT NULL');
	soon {
		value('SELECT bool_and(passes = 8) AND count(*) = 6
			FROM policyd.client')
	}
	'each pass is counted once', 20
		or diag join ' ', column('SELECT passes FROM policyd.client');
	is($_->stop, 0, 'exit status') for @two;
}

unlike($_->log, qr/level=error|AddressSanitizer|runtime error/,
	'no error in the log') for @d;
is(errors_of($pg), '', 'nor in that of PostgreSQL');
done_testing();
