#!/usr/bin/perl

# SPDX-License-Identifier: MIT
#
# Rules and lists in the schema: what they take and refuse, and why; that
# policyd's own code (t/tools/judge.c) takes and refuses the same, over a corpus
# made from the grammar and by breaking what was right; what is announced.

use strict;
use warnings;
use utf8;

use FindBin;
use lib "$FindBin::Bin/lib";

use Encode qw(encode_utf8);
use File::Temp;
use PgCluster;
use Test::More;
use Time::HiRes qw(sleep time);

binmode $_, ':encoding(UTF-8)' for map { Test::More->builder->$_ }
    qw(output failure_output todo_output);

my $top = "$FindBin::Bin/..";
my $judge = ($ENV{TOOLS} || "$top/build/t/tools") . '/judge';
my @steps = sort glob "$top/sql/[0-9]*.sql";
my $pg = PgCluster->new;
$pg->load(@steps);
my $db = $pg->dbh;

sub value {
	my ($sql, @bind) = @_;
	return scalar $db->selectrow_array($sql, undef, @bind);
}

sub column {
	my ($sql, @bind) = @_;
	return @{ $db->selectcol_arrayref($sql, undef, @bind) };
}

# The error of a statement as "MESSAGE|HINT", or '' if it has none.
sub fault {
	my ($dbh, $sql, @bind) = @_;
	eval { $dbh->do($sql, undef, @bind); 1 } and return '';
	my ($message, $hint) = map { $dbh->pg_error_field($_) // '' }
	    qw(message_primary message_hint);
	utf8::is_utf8($_) or utf8::decode($_) for $message, $hint;
	return "$message|$hint";
}

sub shown {
	my ($value) = @_;
	$value = substr($value, 0, 50) . '...' if length $value > 53;
	return "'" . ($value =~ s/([^ -~\x{a1}-\x{2fff}])/
	    sprintf '\x{%x}', ord $1/gerx) . "'";
}

# ---- the words of the language, in C and in SQL ----

sub slurp {
	my ($file) = @_;
	open my $in, '<', "$top/$file" or die "$file: $!";
	local $/;
	return scalar <$in>;
}

my %kind;
{
	my ($wire) = slurp('policyd/mail/request.h') =~
	    /define REQUEST_ATTRIBUTES\(X\)(.*?)\n\n/s;
	my ($derived) = slurp('policyd/tables/subject.h') =~
	    /define DERIVED_ATTRIBUTES\(X\)(.*?)\n\n/s;
	my @c = grep { $_ ne 'request' } "$wire$derived" =~ /X\((\w+)\)/g;
	my ($sql) = slurp('sql/004-rules.sql') =~
	    /FUNCTION policyd\.attribute_kind(.*?)\) AS attribute/s;
	%kind = $sql =~ /\('(\w+)', '(\w+)'\)/g;
	is_deeply([sort keys %kind], [sort @c],
	    'attributes of the headers and of the schema');
}

# ---- conditions: right and wrong, and what is said ----

my $b500 = 'x' x 500;
my @good_conditions = ('sender is empty', 'sender is not empty',
    'NOT Sender IS Not   Empty', '  sender  =  a b  ', 'sender=x',
    'sender!=x', 'size<1', 'size >= 20M', 'size > 999999999999999g',
    'size = anything', 'sender == x', 'sender = {sasl_username}',
    'sender = {SENDER} {x1} {', 'sender = {{sender}', "sender = $b500",
    'client_address = 192.0.2.1', 'client_address = ::1',
    'client_address = Unknown', 'client_address != {server_address}',
    'recipient_is_local = YES', 'recipient_is_local != {x}x' =~ s/\{x\}x/{size}/r,
    'recipient_is_local in yes, no', 'client_address in 10.0.0.0/8',
    'client_address in 10.0.0.1,::1 , 2001:db8::/32', 'client_address in 0.0.0.0/0',
    'client_address in ::/0', 'client_address in ::ffff:192.0.2.0/120',
    'client_address in list:a-B_c.1', 'sender in list:' . 'l' x 63,
    'sender in LIST:x', 'client_port in 25, 587', 'sender in a b , c',
    "sender in $b500, $b500" =~ s/(x{490})x*/$1/gr, 'sender in list: x,y' =~
    s/list: //r, 'recipient under example.com', 'recipient under müller.de',
    'sender under [192.0.2.1]', 'helo_name under {client_name}',
    'recipient under a..b{sender}', 'client_name like *.example.[a-z]?[!]x]\\*',
    'client_name like [a-]', 'client_name like [-a\\]', 'size like 1*',
    'client_name matches ^dyn(-[0-9]+){4}[.]', 'size matches \\d', 'stress is empty',
    'sender = ü', 'sender = =', 'sender = in', "sender = \x{1f600}");
my @bad_conditions = (
	['', 'it is empty'], ['   ', 'it is empty'],
	["sender = a\tb", 'a control character'],
	["sender = a\x{85}", 'a control character'],
	['sender = ' . 'x' x 992, 'longer than 1000 bytes'],
	["sender = ${b500}x", 'longer than 500 bytes', 'list:'],
	['sender = ' . 'ü' x 251, 'longer than 500 bytes'],
	['sendr = x', '"sendr" is no attribute', 'policyd.rules'],
	['request = x', '"request" is no attribute'],
	['not', '"not" is no attribute'], ['not not sender is empty',
	'"not" is no attribute'], ['= x', 'no attribute stands'],
	['sender1 = x', '"1" is no operator'], ['notsender = x', '"notsender"'],
	['sender', 'no operator stands'], ['sender equals x',
	'"equals" is no operator', '=, !=, <'], ['sender isempty', '"isempty"'],
	['sender is', '"is" is neither'], ['sender is nothing', '"is nothing"'],
	['sender is empty x', 'neither'], ['sender is notempty', 'neither'],
	['sender =', 'no value stands after "="'], ['sender IN ', 'after "IN"'],
	['sender ~ x', '"~" is no operator'], ['sender in(x)', '"in\(x\)"'],
	['sender > 5', 'not compared by ">"', 'size > 20M'],
	['size > ', 'no value'], ['size > 20MB', '"20MB" is no number', '20M'],
	['size > 1000000000000000', 'is no number'], ['size > -1', '"-1" is no'],
	['size >> 1', '"> 1" is no number'], ['size < {size}', 'is no number'],
	['client_address = 192.0.2.0/24', '"192.0.2.0/24" is no address', 'in'],
	['client_address = nobody', '"nobody" is no IP'],
	['client_address = 192.0.2.01', '"192.0.2.01" is no IP'],
	['client_address in 192.0.2.1/24', 'the network is 192.0.2.0/24'],
	['client_address in 192.0.2.256', '"192.0.2.256" is no IP'],
	['client_address in 10.0.0.0/33', '"/33" is no prefix: .* /32'],
	['client_address in 10.0.0.0/08', '"/08" is no prefix'],
	['client_address in ::/129', 'to /128'],
	['client_address in 10/8', '"10" is no IP'],
	['client_address in fe80::1%eth0', 'is no IP'],
	['client_address in ::1,', 'an item is empty', '192.0.2.0/24'],
	['client_address in unknown', '"unknown" is no IP'],
	['sender in a,,b', 'an item is empty', 'b@example.com'],
	["sender in a, ${b500}x", 'longer than 500'],
	['sender in list:', '"" is no name of a list', 'list:blocked'],
	['sender in list:a b', '"a b" is no name of a list'],
	['sender in list:' . 'l' x 64, 'is no name of a list'],
	['size in list:x', 'can be in no list'],
	['recipient_is_local in list:x', 'can be in no list'],
	['recipient_is_local = maybe', '"maybe" is neither yes nor no', '= yes'],
	['recipient_is_local in yes, maybe', '"maybe" is neither'],
	['recipient under .example.com', 'a dot stands at its', 'without @'],
	['recipient under @example.com', '"@" stands in it'],
	['recipient under *.example.com', '"*" stands in it' =~ s/\*/\\*/r],
	['client_address under example.com', 'has no domain'],
	['size under example.com', 'has no domain'],
	['recipient under {foo}', '"foo" is no attribute'],
	['sender = {sasl_user}', '"sasl_user" is no attribute', 'sasl_username'],
	['sender like [abc', '"\[abc" begins a set', 'like'],
	['sender like []', 'begins a set'], ['sender like [!]', 'begins a set'],
	['sender like [z-a]', '"z-a" runs backwards'],
	['sender like abc\\', 'nothing stands after'],
	['sender matches (', 'parentheses', 'matches'],
	['sender matches [z-a]', 'invalid regular'], ['sender matches a{2,1}',
	'invalid regular'],
);
my $insert = 'INSERT INTO policyd.rule (priority, conditions, action)
    VALUES (1, ?, ?)';
for my $condition (@good_conditions) {
	is(fault($db, $insert, [$condition], 'DUNNO'), '', shown($condition));
}
for (@bad_conditions) {
	my ($condition, $message, $hint) = @$_;
	like(fault($db, $insert, ['size > 1', $condition], 'DUNNO'),
	    qr/is no condition: .*$message.*\|Write .*\Q${\($hint || '')}\E.*\.$/,
	    'no ' . shown($condition));
}
$db->begin_work;
$db->do('SET LOCAL session_replication_role = replica');
like(fault($db, $insert, ['x'], 'DUNNO'), qr/violates check constraint/,
    'nor where triggers are off');
$db->rollback;
for (['{NULL}', 'a condition is null'], ['{{a,b}}', 'are nested'],
    ['{' . join(',', ('size=1') x 101) . '}', 'more than 100 conditions']) {
	my ($conditions, $message) = @$_;
	like(fault($db, 'INSERT INTO policyd.rule (priority, conditions, action)
	    VALUES (1, ?::text[], ?)', $conditions, 'DUNNO'),
	    qr/$message\|Write ARRAY\[/, $message);
}
is(fault($db, 'INSERT INTO policyd.rule (priority, conditions, action)
    VALUES (1, ?::text[], ?)', '{' . join(',', ('size=1') x 100) . '}', 'OK'),
    '', 'a hundred conditions');
like(fault($db, 'UPDATE policyd.rule SET conditions = ARRAY[?]', 'x'),
    qr/"x" is no attribute/, 'UPDATE is checked as well');

# ---- actions of rules ----

my @good_actions = ('REJECT 5.7.1 Not wanted here', 'DUNNO',
    '550 5.1.1 {recipient} is unknown, {not this} {1}', 'set relay yes',
    'SET Relay AUTHENTICATED', 'set  vrfy  no', 'set expn yes',
    'set max_recipients 1', 'set max_recipients 1000000',
    'set errors_total 0', 'set errors_total 1000', 'set errors_wait 60s',
    'set errors_wait 60000ms', 'set errors_wait 1m', 'set errors_wait 0w',
    'set errors_wait 5', 'set greylist no', 'set script none',
    'set script greylist_once', 'script f', 'Script _f1', 'limit A.b-c_1',
    'greylist', 'GREYLIST', 'limit ' . 'l' x 63, 'script ' . 'f' x 63,
    'PREPEND X-Sender: {sender}', 'reject_unverified_recipient');
my @bad_actions = (
	['', 'it is empty'], ['550', 'a text must follow'],
	['550 5.7.1', 'a text must follow'], ['200 OK', 'begins with a number'],
	['bounce', '"bounce" is no action and no restriction', 'set relay'],
	['REDIRECT {sender}', 'one address'], ["OK\nOK", 'control character'],
	['REJECT {user}', '"user" is no attribute', '{sender}'],
	[' DUNNO', 'a blank stands'], [' set relay yes', 'a blank stands'],
	['greylist ', 'a blank stands'], ['set', 'a setting must follow', 'set r'],
	['set relay', 'relay takes no, authenticated or yes'],
	['set relay maybe', '"maybe" is not for relay, which takes no, auth'],
	['set speed 1', '"speed" is no setting', 'max_recipients'],
	['set max_recipients 0', '"0" is not for max_recipients'],
	['set max_recipients 1000001', 'from 1 to 1000000'],
	['set max_recipients 5 5', '"5 5" is not'], ['set errors_total 1001',
	'from 0 to 1000'], ['set errors_wait 61s', 'from 0s to 60s'],
	['set errors_wait 1 m', 'duration'], ['set errors_wait 2m', 'duration'],
	['set greylist authenticated', 'no or yes'],
	['set script A', '"A" is not for script'], ['set script a.b', '"a.b"'],
	['script', '"" is no name of a function', 'policyd_script'],
	['script F', '"F" is no name'], ['script a b', '"a b" is no name'],
	['script ' . 'f' x 64, 'is no name of a function'],
	['limit', '"" is no name of a limit', 'limit NAME'],
	['limit a b', '"a b" is no name'], ['limit ' . 'l' x 64, 'is no name'],
	['greylist no', '"no" stands after greylist', 'set greylist no'],
	["set relay yes\x{7f}", 'control character'],
	['REJECT ' . 'x' x 394, '400 bytes'], ['limit ' . 'x' x 400, '400 bytes'],
);
is(fault($db, $insert, [], $_), '', shown($_)) for @good_actions;
for (@bad_actions) {
	my ($action, $message, $hint) = @$_;
	like(fault($db, $insert, [], $action),
	    qr/is no action: .*$message.*\|Write .*\Q${\($hint || '')}\E.*\.$/,
	    'no ' . shown($action));
}
for my $state (qw(CONNECT EHLO HELO MAIL RCPT DATA END-OF-MESSAGE VRFY ETRN
    EXPN ANY), undef) {
	is(fault($db, "INSERT INTO policyd.rule (priority, state, action)
	    VALUES (1, ?, 'DUNNO')", $state), '', 'state ' . ($state // 'null'));
}
like(fault($db, "INSERT INTO policyd.rule (priority, state, action)
    VALUES (1, ?, 'DUNNO')", $_), qr/^"$_" is no SMTP state\|Write CONNECT, /,
    "no state $_") for 'rcpt', 'QUIT', '';
$db->do('TRUNCATE policyd.rule');

# ---- lists ----

my %good_values = (
	mail => ['user@example.com', 'User@', '@example.com', '@.example.com',
	    'a b@example.com', '@müller.de', 'u@[192.0.2.1]', 'a@b@'],
	address => ['192.0.2.1', '192.0.2.0/24', '::1', '2001:db8::/32',
	    '1:2:3:4:5:6:7:8', '0.0.0.0/0', '::/0', '::ffff:192.0.2.1',
	    '2001:DBA::/32'],
	name => ['host.example.com', '.example.com', 'localhost', 'bob', '12',
	    'müller.de', 'o\'brien', 'a:z', '.müller.de', 'deadbeef', 'a_b'],
);
my @bad_values = (
	['', 'it is empty'], ['@', 'beside the "@"'], ['@.', 'domain is wrong'],
	['x@@', 'side by side'], ['bob@example..com', 'two dots'],
	['@.-x', 'hyphen'], [' bob@example.com', 'blank'], ["b\@x\n", 'control'],
	['192.0.2.1/24', 'the network is 192.0.2.0/24'], ['10.0.0.0/33', '"/33"'],
	['192.0.2.256', 'no IP address'], ['10.1', 'no IP address'],
	['2001:db8::1/64', 'the network is 2001:db8::/64'], ['1:2', 'no IP'],
	['::1/129', '"/129"'], ['::1::2', 'no IP'], ['a b', 'a blank'],
	['a,b', 'row of its own'], ['*.example.com', '.example.com is every'],
	['.example..com', 'two dots'], ['.', 'no IP'], ['x' x 513, '512 bytes'],
	['12345:1::', 'no IP'],
);
my $entry = 'INSERT INTO policyd.list_entry (list, value) VALUES (?, ?)';
for my $kind (sort keys %good_values) {
	is(fault($db, $entry, "is-$kind", $_), '', "$kind " . shown($_))
	    for @{ $good_values{$kind} };
}
like(fault($db, $entry, 'x', $_->[0]),
    qr/is no entry of a list: .*\Q$_->[1]\E.*\|Write user\@example.com, /,
    'no ' . shown($_->[0])) for @bad_values;
like(fault($db, $entry, $_, 'x'), qr/is no name of a list\|Write up to 63/,
    'no list ' . shown($_)) for '', 'a b', 'ü', 'l' x 64;
$db->begin_work;
$db->do('SET LOCAL session_replication_role = replica');
like(fault($db, $entry, 'x', '@'), qr/violates check constraint/,
    'nor where triggers are off');
$db->rollback;
like(fault($db, $entry, 'is-mail', 'USER@Example.COM'),
    qr/"list_entry_is_unique"/, 'no second entry in another case');
is(fault($db, $entry, 'IS-mail', 'USER@Example.COM'), '',
    'a list of another case is another list');
for my $kind (qw(mail address name)) {
	for my $other (grep { $_ ne $kind } qw(mail address name)) {
		like(fault($db, $entry, "is-$kind", $good_values{$other}[0]),
		    qr/does not fit the list "is-$kind".*\|Write it into a list/,
		    "no $other in a list of $kind");
	}
}
like(fault($db, q(INSERT INTO policyd.list_entry
    VALUES ('mixed', 'a@x'), ('mixed', '::1'))),
    qr/^"::1" does not fit the list "mixed",/, 'nor two kinds at once');
is(value(q(SELECT count(*) FROM policyd.list_entry WHERE list = 'mixed')), 0,
    '... and nothing of it stays');
like(fault($db, q(UPDATE policyd.list_entry SET value = '::1'
    WHERE value = 'User@')), qr/^"::1" does not fit/, 'nor by UPDATE');
$db->do(q(DELETE FROM policyd.list_entry WHERE list = 'is-name'));
is(fault($db, $entry, 'is-name', 'a@x'), '', 'an emptied list takes any kind');
$db->do(q(UPDATE policyd.list_entry SET value = '::1' WHERE list = 'is-name'));
is(value(q(SELECT value FROM policyd.list_entry WHERE list = 'is-name')), '::1',
    'one entry alone may change its kind');

# ---- rules and the lists that they ask ----

$db->do('TRUNCATE policyd.list_entry');
$db->do($entry, undef, @$_) for ['mails', 'a@x'], ['nets', '::1'],
    ['names', 'bob'];
my %fits = (sender => 'mails names', sasl_username => 'mails names',
    client_address => 'nets', client_name => 'names', client => 'names',
    helo_name => 'names', recipient_domain => 'names', size => '');
for my $attribute (sort keys %fits) {
	for my $list (qw(mails nets names)) {
		my $fault = fault($db, $insert, ["NOT $attribute IN List:$list"],
		    'DUNNO');
		if ($fits{$attribute} =~ /\b$list\b/) {
			is($fault, '', "$attribute in $list");
		} elsif ($attribute eq 'size') {
			like($fault, qr/can be in no list/, "no size in $list");
		} else {
			like($fault, qr/^the list "$list" holds .*\|Write \w+ in list:/,
			    "no $attribute in $list");
		}
	}
}
$db->do('TRUNCATE policyd.rule');
is(fault($db, $insert, ['sender in list:new'], 'DUNNO'), '', 'a list to come');
like(fault($db, $entry, 'new', '::1'), 
    qr/"new" holds IP addresses, and a rule asks it for a sender.*\|Write/,
    'which then must fit');
is(fault($db, $entry, 'new', 'bob'), '', '... and may be of logins');
like(fault($db, $insert, ['client_address in list:new'], 'DUNNO'),
    qr/"new" holds names/, 'another rule must fit as well');
is(fault($db, $insert, ['client_name in list:new'], 'DUNNO'), '', 'and may');
like(fault($db, q(UPDATE policyd.list_entry SET value = 'a@x'
    WHERE list = 'new')), 
    qr/"new" holds mail addresses, and a rule asks it for a name/,
    'the list cannot become one of addresses under it');
like(fault($db, "UPDATE policyd.rule SET conditions =
    '{client_address in list:new}'"), qr/"new" holds/, 'nor the rule by UPDATE');

{
	# Two transactions that cannot see each other.
	my $other = $pg->dbh(user => 'policyd_admin');
	$db->begin_work;
	$db->do($entry, undef, 'race', 'a@x');
	$other->do(q(INSERT INTO policyd.list_entry VALUES ('race', '::1')),
	    { pg_async => DBD::Pg::PG_ASYNC() });
	$pg->wait_for_lock;
	ok(!$other->pg_ready, 'who writes to the same list waits');
	my $third = $pg->dbh(user => 'policyd_admin');
	is(fault($third, $entry, 'elsewhere', 'a@x'), '', 'others do not');
	$db->commit;
	ok(!eval { $other->pg_result; 1 }, 'and must fit');
	like($@, qr/"::1" does not fit the list "race"/, '... what was there');

	$db->begin_work;
	$db->do($insert, undef, ['client_address in list:race2'], 'DUNNO');
	$other->do(q(INSERT INTO policyd.list_entry VALUES ('race2', 'a@x')),
	    { pg_async => DBD::Pg::PG_ASYNC() });
	$pg->wait_for_lock;
	ok(!$other->pg_ready, 'a list waits for a rule about it');
	$db->commit;
	ok(!eval { $other->pg_result; 1 }, 'and must fit it');
	like($@, qr/"race2" holds mail/, '... too');
	$_->disconnect for $other, $third;
}

# Many rows, one by one and at once; the plans made while the table was small.
$db->do('TRUNCATE policyd.rule, policyd.list_entry');
{
	my $start = time;
	$db->do(q(INSERT INTO policyd.list_entry SELECT 'big', 'u' || i || '@x'
	    FROM generate_series(1, 100000) AS i));
	note sprintf '100000 entries in %.1f s', time - $start;
	$start = time;
	$db->begin_work;
	$db->do($entry, undef, 'big', "v$_\@x") for 1 .. 300;
	$db->commit;
	my $each = (time - $start) / 300;
	note sprintf 'one more in %.2f ms', 1000 * $each;
	cmp_ok($each, '<', 0.02, 'an entry costs little, however long the list');
	like(fault($db, $entry, 'big', '::1'), qr/does not fit/, 'and is checked');
}
$db->do('SET enable_seqscan = off');
$db->do("PREPARE entries (text[]) AS SELECT * FROM policyd.list_entry
    WHERE lower(list || ' ' || value) = ANY (\$1)");
like(join("\n", column("EXPLAIN EXECUTE entries ('{big u1\@x}')")),
    qr/Index.* using list_entry_is_unique|Bitmap Index Scan on list_entry_is/,
    'entries are read by their keys');
$db->do('PREPARE rules (bigint[]) AS SELECT * FROM policyd.rule
    WHERE id = ANY ($1)');
like(join("\n", column("EXPLAIN EXECUTE rules ('{1,2}')")),
    qr/rule_pkey/, 'rules by their numbers');
$db->do('RESET enable_seqscan');

# ---- what is announced ----

my $admin = $pg->dbh(user => 'policyd_admin');
my $listener = $pg->dbh(user => 'policyd');
$listener->do('LISTEN policyd');

sub announced {
	my (@statements) = @_;
	$admin->begin_work;
	$admin->do($_) for @statements;
	$admin->commit;
	$admin->do('NOTIFY policyd, \'end\'');
	my @got;
	my $deadline = time + 10;
	while (time < $deadline) {
		my $note = $listener->pg_notifies or sleep(0.005), next;
		return join '; ', sort @got if $note->[2] eq 'end';
		push @got, $note->[2];
	}
	return 'nothing came';
}

is(announced("INSERT INTO policyd.rule (id, priority, action)
    VALUES (7, 1, 'DUNNO'), (8, 1, 'DUNNO')"), 'rule:7; rule:8',
    'a rule by its number');
is(announced('UPDATE policyd.rule SET enabled = false WHERE id = 7'), 'rule:7',
    'changed');
is(announced('DELETE FROM policyd.rule WHERE id = 8'), 'rule:8', 'removed');
is(announced("INSERT INTO policyd.list_entry
    VALUES ('L', 'Bob\@X'), ('L', 'a b\@x')"),
    'list_entry:L Bob@X; list_entry:L a b@x',
    'an entry by its list and value as they were typed');
is(announced("UPDATE policyd.list_entry SET list = 'M' WHERE value = 'Bob\@X'"),
    'list_entry:L Bob@X; list_entry:M Bob@X', 'moved: both');
is(announced("DELETE FROM policyd.list_entry WHERE list = 'big'"), 'list_entry',
    'many: the table');
is(announced('TRUNCATE policyd.list_entry, policyd.rule'), 'list_entry; rule',
    'TRUNCATE');

# ---- scripts ----

$admin->do("CREATE FUNCTION policyd_script.f(request jsonb) RETURNS text
    LANGUAGE sql RETURN 'DUNNO'");
is($listener->selectrow_array("SELECT policyd_script.f('{}')"), 'DUNNO',
    'policyd_admin writes a script, policyd runs it');
like(fault($listener, 'CREATE FUNCTION policyd_script.g() RETURNS int
    LANGUAGE sql RETURN 1'), qr/^permission denied/, 'which writes none');
is(value("SELECT count(*) FROM pg_proc WHERE oid = 'policyd_script.f'::regproc
    AND 'policyd=X/policyd_admin' = ANY (proacl::text[])"), 1,
    'even where PUBLIC may not');
$db->do('CREATE ROLE stranger LOGIN');
like(fault($pg->dbh(user => 'stranger'), "SELECT policyd_script.f('{}')"),
    qr/^permission denied for schema/, 'others do not see the schema');

# ---- an older schema becomes this one ----

{
	$pg->psql('CREATE DATABASE older', dbname => 'postgres');
	my ($step) = grep { $steps[$_] =~ /004-/ } 0 .. $#steps;
	$pg->load_into('older', @steps[0 .. $step - 1]);
	$pg->psql(q(INSERT INTO policyd.domain (name) VALUES ('x');
	    CREATE TABLE public.users (email text);
	    CALL policyd.announce_changes('users', 'address', 'email')),
	    dbname => 'older');
	ok(eval { $pg->load_into('older', @steps[$step .. $#steps]); 1 },
	    'steps 1 to 3 take step 4') or diag $@;
	is($pg->psql('SELECT max(version) FROM policyd.schema_version', dbname =>
	    'older'), scalar @steps, '... and are of this version');
	$listener->disconnect;
	$listener = $pg->dbh(user => 'policyd', dbname => 'older');
	$listener->do('LISTEN policyd');
	$admin->disconnect;
	$admin = $pg->dbh(dbname => 'older');
	is(announced(q(INSERT INTO public.users VALUES ('a@x')),
	    q(UPDATE policyd.domain SET enabled = false)),
	    'address:a@x; domain:x', 'the triggers of before go on');
}

# ---- the corpus ----

srand 12;

sub pick { return $_[rand @_] }
sub maybe { my ($p, $value) = @_; return rand() < $p ? $value : '' }
sub case {
	my ($word) = @_;
	return rand() < 0.8 ? $word :
	    join '', map { rand() < 0.5 ? uc : lc } split //, $word;
}
sub blanks { return ' ' x pick(1, 1, 1, 1, 2, 3) }
sub some { return rand() < 0.8 ? ' ' : ' ' x pick(0, 2) }
sub number { return pick(0, 1, 9, 10, 25, 31, 32, 33, 99, 127, 128, 129, 255,
    256, 1000, 1001, 60, 61, 60000, 60001, 1000000, 1000001, '00', '007',
    '9' x 15, '1' . '0' x 15, int rand 300, int rand 1e9) }

my @attributes = sort keys %kind;
my @words = ('a', 'bob', 'example', 'com', 'Example', 'xn--p1ai', 'müller',
    'host-1', 'a_b', '_dmarc', '例え', '-x', 'x-', '1', '42', 'ü', "l" x 63,
    'l' x 64, 'O\'Neil', 'a b', '☃', 'x*', 'ไทย');
my @odd = (' ', '  ', ',', '.', '..', '@', '/', ':', '::', '{', '}', '[', ']',
    '\\', '!', '-', '*', '?', '=', '<', '>', '!=', '"', "'", '%', '(', ')',
    "\t", "\n", "\x01", "\x7f", "\x{80}", "\x{9f}", "\x{a0}", "\x{2003}",
    "\x{200b}", "\x{2060}", "\x{3000}", "\x{3002}", "\x{feff}", "\x{ff0e}",
    "\x{ff61}", "\x{1f600}", 'ü', "\x{fffd}", "\x{10ffff}", '0', '1', 'x',
    'not ', 'list:', '{sender}', '{x}', '$', '^', '+', '#', ';', '&');

sub placeholder {
	return '{' . (rand() < 0.85 ? case(pick(@attributes)) :
	    pick('request', 'x', 'user', 'sender_', 'sender1', '', ' sender')) .
	    '}';
}
sub domain {
	return pick('[192.0.2.1]', '[IPv6:::1]', '[192.0.2.300]', '[ipv6:2001:' .
	    'db8::1]', '[]', '[::1]', '192.0.2.1', '[IPv6:1:2:3:4:5:6:7:8:9]',
	    '[192.0.2.01]', '[IPv6:::192.0.2.1]', '[IPv6:::ffff:192.0.2]',
	    '[IPv6:1::2::3]', '12', '[1.2.3]', '[IPV6:1:2:3:4:5:6:7::]',
	    '[0001.2.3.4]', '[IPv6:12345::]') if rand() < 0.15;
	my $domain = join '.', map { pick(@words[0 .. 12], 'com', 'org', 'de') }
	    1 .. pick(1, 2, 2, 3);
	$domain = join '.', ('x' x 60) x 4, 'x' x pick(10, 11, 12)
	    if rand() < 0.01;
	return $domain . (rand() < 0.03 ? '.' : '');
}
sub v4 { return join '.', map { rand() < 0.97 ? int rand 256 : number() } 1 .. 4 }
sub v6 {
	return pick('::', '::1', '2001:db8::', 'fe80::1', '::ffff:' . v4(),
	    '::' . v4(), '1:2:3:4:5:6:7:8', '1:2:3:4:5:6:7::', '::2:3:4:5:6:7:8',
	    '1:2:3:4:5:6:' . v4(), '64:ff9b::' . v4(), 'ABCD:EF01::', '1::8',
	    '1:2:3:4:5:6:7', '1::2::3', '12345::', ':::', ':1', '1:', 'g::',
	    '::1.2.3', '::1.2.3.4.5', '1:2:3:4:5:6:7:8::', '0:0::0:0', '::01',
	    '::00001', '1:2:3:4:5:6:7:1.2.3.4', '::1.2.3.04', '::1.2.3.4:5')
	    if rand() < 0.7;
	return join ':', map { sprintf '%x', rand 65536 } 1 .. 8;
}
sub cidr {
	my $v4 = rand() < 0.6;
	my $address = $v4 ? v4() : v6();
	return $address if rand() < 0.4;
	return join('.', (map { int rand 256 } 1 .. 3), 0) . '/24'
	    if rand() < 0.3;
	return "10.0.0.0/" . pick(7 .. 33, '08', '', 'x', '1e1') if rand() < 0.3;
	return "2001:db8::/" . pick(28 .. 34, 64, 128, 129, '032', '')
	    if rand() < 0.5;
	return "$address/" . pick(0, 8, 16, 24, 31, 32, 33, 64, 128, number());
}
sub glob_ {
	return join '', map { pick('*', '?', 'a', '.example', '\\*', '\\\\', '[abc]',
	    '[a-z]', '[!0-9]', '[]a]', '[!]a]', '[a-]', '[-a]', '[\\]', '[a-c-e]',
	    'ü', '[ä-ü]', '[*?[]', ']', '-', '!', (rand() < 0.1 ? ('[', '\\',
	    '[z-a]', '[]', '[!]', '[a--]', '[!!-\\]', '[b-A]', '[ü-ä]') : ())) }
	    1 .. pick(1, 2, 3, 5);
}
sub regex {
	return join '', maybe(0.4, '^'), (map { pick('a', 'example', '[.]', '\\.',
	    '[a-z]+', '[0-9]*', '(a|b)', 'x?', 'y{2,3}', '.*', 'ü', '\\d',
	    '(?:dyn|ppp)', '[^a]') } 1 .. pick(1, 2, 4)), maybe(0.4, '$');
}
sub text {
	my $text = join pick('', '.', ' '), map { rand() < 0.1 ? placeholder() :
	    rand() < 0.05 ? pick(@odd) : pick(@words) } 1 .. pick(1, 1, 2, 3);
	return $text if rand() < 0.97;
	return pick('x', 'ü', 'ab') x pick(166, 250, 251, 499, 500, 501);
}
sub list { return pick('a', 'Blocked', 'vip-1', 'x.y_z', 'l' x 63, 'l' x 64,
    '1', maybe(0.2, 'a b'), maybe(0.2, 'ü')) }
sub item {
	my ($kind) = @_;
	return cidr() if $kind eq 'address';
	return case(pick('yes', 'no', 'maybe')) if $kind eq 'yesno';
	return text() =~ tr/,//dr;
}

sub condition {
	my $name = pick(@attributes);
	my $kind = $kind{$name};
	my $head = some() x (rand() < 0.05) . maybe(0.2, case('not') . blanks())
	    . case($name);
	my $tail = maybe(0.1, blanks());
	my %make = (
		is => sub { blanks() . case('is') . blanks() . maybe(0.5,
		    case('not') . blanks()) . case('empty') },
		equal => sub { some() . pick('=', '!=') . some() .
		    (rand() < 0.2 ? placeholder() : $kind eq 'address' ?
		    pick(v4(), v6(), v4(), case('unknown'), cidr()) :
		    $kind eq 'yesno' ? item('yesno') : text()) },
		compare => sub { some() . pick('<', '<=', '>', '>=') . some() .
		    number() . maybe(0.3, pick(qw(k K m M g G kb x))) },
		in => sub { blanks() . case('in') . blanks() . join ',',
		    map { maybe(0.7, ' ') . item($kind) } 1 .. pick(1, 2, 3) },
		list => sub { blanks() . case('in') . blanks() .
		    pick('list:', 'list:', 'List:', 'list: ') . list() },
		under => sub { blanks() . case('under') . blanks() .
		    (rand() < 0.1 ? domain() . placeholder() : domain()) },
		like => sub { blanks() . case('like') . blanks() . glob_() },
		matches => sub { blanks() . case('matches') . blanks() .
		    regex() },
	);
	my @fitting = qw(is equal in list like matches);
	push @fitting, 'under', 'under' if $kind =~ /text|mail/;
	push @fitting, 'compare', 'compare' if $kind eq 'number';
	my $what = rand() < 0.95 ? pick(@fitting) : pick(sort keys %make);
	return $head . $make{$what}->() . $tail;
}

my @settings = qw(relay max_recipients script greylist vrfy expn errors_total
    errors_wait);
sub function { return pick('f', '_x', 'greylist_once', 'f1', 'f' x 63, 'f' x 64,
    'F', '1f', 'a.b', 'none') }
my @postfix;
for (split /\n/, do { open my $in, '<:encoding(UTF-8)',
    "$top/t/data/actions.txt" or die $!; local $/; <$in> }) {
	push @postfix, $1 =~ s/\\x\{(\w+)\}/chr hex $1/ger if /^yes\t(.*)/;
}
sub action {
	my $setting = pick(@settings);
	my $value = { relay => sub { pick(qw(no authenticated yes), 'on') },
	    vrfy => sub { pick(qw(no authenticated yes maybe)) },
	    expn => sub { pick(qw(no authenticated yes)) },
	    greylist => sub { pick(qw(no yes authenticated)) },
	    script => \&function, max_recipients => \&number,
	    errors_total => \&number, errors_wait => sub { pick(0 .. 3, 59, 60,
		61, 60000, 60001, '00', '060', '9' x 19, '9' x 20, '0' x 31) .
		pick('', qw(ms s m h d w x)) } }->{$setting};
	return pick(
		sub { case('set') . blanks() . case($setting) . blanks() .
		    case($value->()) },
		sub { case('script') . blanks() . function() },
		sub { case('limit') . blanks() . list() },
		sub { case('greylist') . maybe(0.1, ' x') },
		sub { pick(@postfix) },
		sub { pick('REJECT', '550 5.7.1', '450', 'DEFER_IF_PERMIT 4.7.1',
		    'WARN', 'PREPEND X-Y:', 'REDIRECT', 'OK', 'HOLD', 'BCC',
		    'FILTER', '421', '554 5.7') . ' ' . text() },
		sub { case(pick(@postfix)) . maybe(0.5, ' ' . placeholder()) },
		sub { pick('REJECT ', '550 ') . pick('x', 'ü', '例') x
		    pick(130, 131, 132, 195, 196, 197, 392, 393, 394, 396, 397) },
	)->();
}

# One token dropped, doubled or swapped with another, or odd bytes put in.
sub broken {
	my ($text) = @_;
	my @token = $text =~ /( +|[A-Za-z_]+|[0-9]+|.)/gs;
	return pick(@odd) if !@token;
	my ($i, $j) = (int rand @token, int rand @token);
	pick(
		sub { splice @token, $i, 1 },
		sub { splice @token, $i, 0, $token[$i] },
		sub { @token[$i, $j] = @token[$j, $i] },
		sub { splice @token, $i, 0, pick(@odd) },
		sub { $token[$i] = pick(@odd) },
		sub { push @token, pick(@odd) },
		sub { unshift @token, pick(@odd) },
		sub { $token[$i] = substr $token[$i], 0, -1 },
		sub { $token[$i] x= pick(2, 3, 400) },
		sub { splice @token, $i },
	)->();
	return join '', @token;
}

sub corpus {
	my ($make, $n) = @_;
	my %seen;
	while (keys %seen < $n) {
		my $text = $make->();
		$text = broken($text) for 1 .. pick(0, 0, 0, 1, 1, 2);
		$seen{$text} = 1 if length $text < 3000;
	}
	return sort keys %seen;
}

# The answers of policyd's own code to texts in UTF-8.
sub judged {
	my ($letter, @texts) = @_;
	my $file = File::Temp->new;
	binmode $file, ':raw';
	for my $text (@texts) {
		print $file "$letter\t", $text =~ s/([^ -~]|\\)/
		    sprintf '\x{%x}', ord $1/gerx, "\n";
	}
	close $file;
	open my $out, '-|:raw', "$judge < " . $file->filename or die $!;
	chomp(my @answers = <$out>);
	close $out or BAIL_OUT("$judge: $?");
	utf8::decode($_) for @answers;
	return @answers;
}

SKIP: {
	skip "no $judge: make check", 1 unless -x $judge;
	for (['conditions', 'c', 'condition_error', \&condition, 24000],
	    ['actions', 'a', 'rule_action_error', \&action, 12000]) {
		my ($what, $letter, $function, $make, $n) = @$_;
		my @texts = corpus($make, $n);
		push @texts, $what eq 'conditions' ? (@good_conditions,
		    map { $_->[0] } @bad_conditions) : (@good_actions, @postfix,
		    map { $_->[0] } @bad_actions);
		my @c = judged($letter, map { encode_utf8($_) } @texts);
		my $start = time;
		my @sql = column("SELECT policyd.$function(text COLLATE \"C\")
		    FROM unnest(?::text[]) WITH ORDINALITY AS t (text, n)
		    ORDER BY n", \@texts);
		note sprintf '%s: judged by SQL in %.1f s', $what, time - $start;
		is(@c, @texts, "$what: an answer for each");
		my ($yes, $known, @differ) = (0, 0);
		for my $i (0 .. $#texts) {
			my ($is, $in_sql) = ($c[$i] eq 'yes', !defined $sql[$i]);
			$yes++ if $is && $in_sql;
			next if $is == $in_sql;
			# PCRE2 and PostgreSQL differ: C takes any expression.
			$known++, next if $is &&
			    $sql[$i] =~ /invalid regular expression/;
			push @differ, shown($texts[$i]) . ": C: $c[$i]; SQL: " .
			    ($sql[$i] // 'yes');
		}
		is(@differ, 0, sprintf '%s: %d right and %d wrong ones, judged '
		    . 'alike', $what, $yes, @texts - $yes - $known) or
		    diag join "\n", @differ[0 .. ($#differ > 40 ? 40 :
		    $#differ)];
		cmp_ok($_, '>', @texts / 5, 'many of both') for $yes,
		    @texts - $yes;
		note "$known expressions that only PostgreSQL refuses";
	}
	my @raw = ("sender = \xff", "sender = \xc0\xaf", "sender = \xed\xa0\x80",
	    "sender = a\x00b", "REJECT \xfe", "REJECT \xe2\x82");
	is_deeply([map { /^no/ ? 'no' : $_ } judged('c', @raw[0 .. 3]),
	    judged('a', @raw[4, 5])], [('no') x 6],
	    'what can be in no database, C refuses');
}

$_->disconnect for $db, $admin, $listener;
done_testing();
