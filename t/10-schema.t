#!/usr/bin/perl

# SPDX-License-Identifier: MIT
#
# The schema: what its tables take and refuse, who may write them, and what
# their changes announce.

use strict;
use warnings;
use utf8;

use FindBin;
use lib "$FindBin::Bin/lib";

use PgCluster;
use Test::More;
use Time::HiRes qw(sleep time);

binmode $_, ':encoding(UTF-8)' for map { Test::More->builder->$_ }
    qw(output failure_output todo_output);

my $top = "$FindBin::Bin/..";
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

# ---- what stands there ----

my ($last) = $steps[-1] =~ m{/0*(\d+)};
is(value('SELECT max(version) FROM policyd.schema_version'), $last,
    'the steps are recorded');
is(value('SELECT count(*) FROM policyd.schema_version'), scalar @steps,
    'each of them');

my %columns = (
	schema_version => 'version applied_at',
	domain => 'name recipients greylist max_recipients subdomains enabled',
	address => 'address greylist reply expires_at enabled',
	alias => 'address destination expires_at enabled',
	domain_alias => 'name target',
	list_entry => 'list value comment',
	greylist => 'client sender recipient first_seen last_seen passed_at '
	    . 'attempts',
	client => 'client passes last_seen allowed_at reason',
	rule => 'id priority state conditions action shadow enabled comment',
);
for my $table (sort keys %columns) {
	is(join(' ', column("SELECT attname FROM pg_attribute
	    WHERE attrelid = ?::regclass AND attnum > 0 AND NOT attisdropped
	    ORDER BY attnum", "policyd.$table")), $columns{$table},
	    "columns of $table");
}

is_deeply([column("SELECT c.relname || coalesce('.' || a.attname, '')
    FROM pg_class c
    LEFT JOIN LATERAL (SELECT NULL AS attname, 0 AS attnum
	UNION ALL SELECT attname, attnum FROM pg_attribute
	WHERE attrelid = c.oid AND attnum > 0) a ON true
    WHERE c.relnamespace = 'policyd'::regnamespace AND c.relkind = 'r'
	AND col_description(c.oid, a.attnum) IS NULL
	AND (a.attnum > 0 OR obj_description(c.oid, 'pg_class') IS NULL)
    UNION ALL SELECT proname FROM pg_proc
    WHERE pronamespace = 'policyd'::regnamespace
	AND obj_description(oid, 'pg_proc') IS NULL")], [],
    'each table, column and function has a comment');

# A trigger that comes from pg_dump runs with an empty search_path.
is_deeply([column("SELECT proname FROM pg_proc
    JOIN pg_language l ON l.oid = prolang
    WHERE pronamespace = 'policyd'::regnamespace AND prokind = 'f'
	AND lanname = 'plpgsql' AND proconfig IS NULL")], [],
    'each PL/pgSQL function brings its search_path');

# ---- who may do what ----

my $daemon = $pg->dbh(user => 'policyd');
my $admin = $pg->dbh(user => 'policyd_admin');
for my $table (sort keys %columns) {
	# The daemon writes its state, and nothing else.
	my $state = $table =~ /^(?:greylist|client)$/;
	for (['policyd', $daemon, $state],
	    ['policyd_admin', $admin, $table ne 'schema_version']) {
		my ($who, $dbh, $may) = @$_;
		is(fault($dbh, "SELECT * FROM policyd.$table"), '',
		    "$who reads $table");
		my @writes = ("INSERT INTO policyd.$table SELECT * FROM
		    policyd.$table WHERE false", "UPDATE policyd.$table SET "
		    . ($columns{$table} =~ s/^(\w+).*/$1 = $1 WHERE false/r),
		    "DELETE FROM policyd.$table WHERE false",
		    "TRUNCATE policyd.$table");
		my @refused = grep { fault($dbh, $_) =~ /^permission denied/ }
		    @writes;
		@refused = grep { !/^TRUNCATE/ } @refused
		    if $state && $who eq 'policyd';
		is(@refused, $may ? 0 : @writes, "$who may "
		    . ($may ? '' : 'not ') . "write $table");
	}
}
is(value("SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles
    WHERE rolname LIKE 'policyd%' AND rolcanlogin AND NOT rolsuper
    AND NOT rolcreaterole AND NOT rolcreatedb"), 'policyd policyd_admin',
    'two roles, and no more than logins');
like(fault($daemon, "SELECT * FROM $_"), qr/^permission denied/,
    "policyd reads no password: $_") for qw(pg_authid pg_shadow);
is(value("SELECT count(*) FROM pg_auth_members
    WHERE member = 'policyd'::regrole"), 0, 'it is no member of any role');
is_deeply([column("SELECT attname FROM pg_attribute
    JOIN pg_class c ON c.oid = attrelid
    WHERE relnamespace = 'policyd'::regnamespace
	AND attname ~* 'pass(word|wd|phrase)|secret|token|crypt'")], [],
    'and none stands in its own tables');

# ---- what is taken, what is refused ----

# The columns that hold a kind of value, each with what else its row needs.
my %kinds = (
	domain => [['domain', 'name'], ['domain_alias', 'name', target => 'z'],
	    ['domain_alias', 'target', name => 'z']],
	address => [['address', 'address'],
	    ['alias', 'address', destination => 'x@example.com']],
	destination => [['alias', 'destination', address => 'x@example.com']],
	action => [['address', 'reply', address => 'x@example.com']],
	recipients => [['domain', 'recipients', name => 'example.com']],
	max_recipients => [['domain', 'max_recipients', name => 'example.com']],
);

my $label = 'l' x 63;
my $long_domain = join '.', ($label) x 3, 'd' x 63;	# 255 bytes
my $local = 'u' x (512 - 1 - 255);
my %good = (
	domain => ['example.com', 'EXAMPLE.com', 'localhost', 'x', 'a_b.example',
	    '_x.example', '1.example', '1-2.example', 'a--b.example', 'müller.de',
	    'xn--mller-kva.de', 'пример.рф', '例え.jp', 'ไทย.ไทย', '中.中',
	    "$label.example", $long_domain, 'ü' x 40 . '.de', '[192.0.2.1]',
	    '[IPv6:2001:db8::1]', '[ipv6:::1]', '☃.example', 'a.b1'],
	address => ['user@example.com', '@example.com', 'User@EXAMPLE.com',
	    'a b@example.com', 'a@b@example.com', 'üñ@example.com', 'u@müller.de',
	    "o'brien\@example.com", 'a+b=c/d@example.com', '.a..b.@example.com',
	    'u@localhost', 'u@[192.0.2.1]', '@[IPv6:::1]', 'u@a_b.example',
	    '"@example.com', 'a"b@example.com', "$local\@$long_domain",
	    '例え@例え.jp', "\x{1f600}\@example.com", 'u@1.example'],
	destination => ['user@example.com', 'root', 'a b', '|/bin/x a,b',
	    '/dev/null', ':include:/x', 'üñ', 'u@[192.0.2.1]', 'a@b@example.com',
	    '"|/bin/x a,b"'],
	recipients => ['listed', 'any', 'verify'],
	max_recipients => [1, 2147483647],
);
my %bad = (
	domain => {
		'' => 'empty', '.' => 'beginning', '.example' => 'beginning',
		'example.' => 'end', 'a..b' => 'two dots', ' ' => 'blank',
		'a b' => 'blank', ' a' => 'blank', 'a ' => 'blank',
		'a@b' => '"@" stands in it', "a\tb" => 'control',
		"a\n" => 'control', "a\x7f" => 'control', "a\x{85}b" => 'control',
		"a\x{a0}b" => 'looks like', "\x{feff}a" => 'looks like',
		"a\x{3002}b" => 'looks like', '-a.de' => 'begins with a hyphen',
		'a.-b' => 'begins with a hyphen', 'a-.de' => 'ends in a hyphen',
		'a.b-' => 'ends in a hyphen', 'ü-.de' => 'ends in a hyphen',
		"l$label.de" => '63 bytes', "$long_domain.x" => '255 bytes',
		'a,b' => '"," stands', 'a/b' => '"/" stands', '*.de' => '"*" stands',
		'<a>' => '"<" stands', '192.0.2.1' => 'brackets', '12' => 'number',
		'[192.0.2.256]' => 'no IP', '[192.0.2]' => 'no IP', '[]' => 'no IP',
		'[2001:db8::1]' => 'no IP', '[IPv6:192.0.2.1]' => 'no IP',
		'[IPv6:::g]' => 'no IP', '[192.0.2.1/24]' => 'no IP',
		'[192.0.2.1' => 'no IP', '[192.0.2.1]x' => 'no IP',
	},
	address => {
		'' => 'empty', 'bob' => '"@" is missing', 'bob@' => 'nothing stands',
		'@' => 'nothing stands', 'bob@@' => 'nothing stands after the "@"',
		'bob@@example.com' => 'side by side', '@@example.com' => 'side by',
		'bob @example.com' => 'before the "@"', ' bob@example.com' =>
		'before or after', 'bob@example.com ' => 'before or after',
		"\x{feff}bob\@example.com" => 'before or after',
		"bob\@example.com\n" => 'control', "b\x01\@example.com" => 'control',
		"b\x{90}\@example.com" => 'control', 'bob@ example.com' => 'domain',
		'bob@example..com' => 'domain.*two dots', 'bob@example.com.' =>
		'domain.*end', 'bob@192.0.2.1' => 'domain.*brackets', '@-a.de' =>
		'domain.*"-a"', '"a b"@example.com' => 'quotes',
		'<bob@example.com>' => 'domain', "u$local\@$long_domain" => '512 b',
	},
	destination => {
		'' => 'empty', '@example.com' => 'before the "@"', 'bob@' => 'after',
		'a@example.com, b@example.com' => 'row of its own', 'a,b' => 'row',
		' a' => 'before or after', "a\nb" => 'control', 'a@b c' => 'domain',
		'u' x 513 => '512 b',
	},
	recipients => { '' => 'which recipients', 'Any' => 'which recipients',
	    'all' => '"all" does not say which recipients' },
	max_recipients => { 0 => '"0" is no limit', -1 => '"-1" is no limit' },
);

# t/data/actions.txt is also what policyd/mail/action.c is held against.
open my $in, '<:encoding(UTF-8)', "$FindBin::Bin/data/actions.txt" or die $!;
while (my $line = <$in>) {
	next if $line =~ /^#/ || $line !~ /\S/;
	chomp $line;
	my ($verdict, $action) = split /\t/, $line, 2;
	$action =~ s/\\x\{(\w+)\}/chr hex $1/ge;
	if ($verdict eq 'yes') {
		push @{ $good{action} }, $action;
	} else {
		$bad{action}{$action} = quotemeta($verdict =~ s/^no: //r);
	}
}
close $in;
$good{action}[$_] = 'REJECT ' . 'x' x 393 for scalar @{ $good{action} };
$bad{action}{'REJECT ' . 'x' x 394} = '400 bytes';
$bad{action}{'REJECT ' . 'ü' x 197} = '400 bytes';

sub shown {
	my ($value) = @_;
	$value = substr($value, 0, 30) . '...' if length $value > 33;
	return "'" . ($value =~ s/([^ -~\x{a1}-\x{2fff}])/
	    sprintf '\x{%x}', ord $1/gerx) . "'";
}

for my $kind (sort keys %kinds) {
	for (@{ $kinds{$kind} }) {
		my ($table, $column, @with) = @$_;
		my %with = @with;
		my @others = sort keys %with;
		my $insert = sprintf 'INSERT INTO policyd.%s (%s) VALUES (%s)',
		    $table, join(', ', $column, @others),
		    join(', ', ('?') x (1 + @others));
		my @bind = @with{@others};

		for my $value (@{ $good{$kind} }) {
			$db->begin_work;
			is(fault($db, $insert, $value, @bind), '',
			    "$table.$column: " . shown($value));
			$db->rollback;
		}
		for my $value (sort keys %{ $bad{$kind} }) {
			my $part = $bad{$kind}{$value};
			my $fault = fault($db, $insert, $value, @bind);
			like($fault, qr/^(?=.*${part}).*\|Write .*\.$/,
			    "$table.$column: no " . shown($value));
			# Even where triggers are off, as in a restore.
			$db->begin_work;
			$db->do('SET LOCAL session_replication_role = replica');
			like(fault($db, $insert, $value, @bind),
			    qr/violates check constraint/, '... nor without '
			    . 'triggers');
			$db->rollback;
		}
	}
}
$db->do("INSERT INTO policyd.domain VALUES ('example.com')");
like(fault($db, "UPDATE policyd.domain SET name = 'a b'"), qr/blank.*\|Write/,
    'UPDATE is checked as well');
like(fault($db, 'UPDATE policyd.domain SET name = ?', "x\x1b[31m" . 'y' x 500),
    qr/^"x\?\[31my{111}\.\.\."/, 'a message shows nothing invisible, cut short');
$db->do('DELETE FROM policyd.domain');

# The short way of an _error must not take what its _fault refuses.
my $alphabet = q(ARRAY['a', 'B', '0', '.', '-', '_', '@', ' ', 'ü', '例', '!',
    '"', '[', ']', ':', ',', E'\u00a0', E'\u3002', E'\t', 'com', '1.2'])
    =~ s/\s+/ /gr;
for (['domain_error', 'domain_fault(v)'],
    ['address_error', 'address_fault(v, false)'],
    ['destination_error', 'address_fault(v, true)']) {
	my ($error, $fault) = @$_;
	is_deeply([column("SELECT v FROM (SELECT string_agg(
	    ($alphabet)[1 + floor(random() * 21)], '') AS v
	    FROM generate_series(1, 200000) AS g GROUP BY g / 7) AS t
	    WHERE policyd.$error(v) IS NULL
		AND policyd.$fault IS NOT NULL LIMIT 5")], [],
	    "$error takes nothing that its details refuse");
}

# ---- the same actions in SQL and in C ----

{
	open my $c, '<', "$top/policyd/mail/action.c" or die $!;
	my $text = do { local $/; <$c> };
	my %actions = map { lc } $text =~
	    /\{STR_INIT\("(\w+)"\), ([A-Z]\w+),/g;
	my %arguments = $text =~ /\{STR_INIT\("(\w+)"\), (\d),/g;
	open my $sql, '<', "$top/sql/002-checks.sql" or die $!;
	$text = do { local $/; <$sql> };
	my ($forms, $names) = map { $text =~ /FUNCTION policyd\.$_(.*?)\bAS /s }
	    qw(action_form restriction_argument);
	is_deeply({ $forms =~ /\('(\w+)', '(\w+)'\)/g }, \%actions,
	    'actions of action.c and of the schema');
	my %patterns = $names =~ /\('(\w+)', '(.*)'\)/g;
	is_deeply({ map { $_ => $patterns{$_} eq '' ? 0 : 1 } keys %patterns },
	    \%arguments, 'restrictions of action.c and of the schema');
}

# ---- one row for a name ----

for (['domain', "('Example.COM')", "('example.com')"],
    ['address', "('Bob\@Example.COM')", "('bOB\@example.com')"],
    ['alias', "('A\@x', 'B\@y')", "('a\@X', 'b\@Y')"],
    ['domain_alias', "('X', 'Y')", "('x', 'z')"]) {
	my ($table, $row, $same) = @$_;
	$db->do("INSERT INTO policyd.$table VALUES $row");
	like(fault($db, "INSERT INTO policyd.$table VALUES $same"),
	    qr/"${table}_is_unique"/, "$table: no second row in another case");
	is($db->do("INSERT INTO policyd.$table VALUES $same
	    ON CONFLICT DO NOTHING"), '0E0', '... and ON CONFLICT works');
}
is(value("SELECT count(*) FROM policyd.address
    WHERE address = 'Bob\@Example.COM'"), 1, 'a row keeps how it was typed');
$db->do("INSERT INTO policyd.alias VALUES ('a\@x', 'c\@y')");
pass('an alias has several destinations');
is(value(q(SELECT lower(address) FROM (SELECT 'ÄB@I'::text COLLATE "C") AS
    t (address))), 'Äb@i', 'lower() folds ASCII alone');

$db->do('SET enable_seqscan = off');
for (qw(domain.name address.address alias.address domain_alias.name)) {
	my ($table, $key) = split /\./;
	my @columns = split ' ', $columns{$table};
	$db->do("PREPARE feed_$table (text[]) AS SELECT * FROM policyd.$table
	    WHERE lower($key) = ANY(\$1)");
	like(join("\n", column("EXPLAIN EXECUTE feed_$table ('{a,b}')")),
	    qr/Index Cond: \(lower\($key\) = ANY/, "$table is read by its index");
}
$db->do('RESET enable_seqscan');
$db->do("TRUNCATE policyd.$_") for qw(domain address alias domain_alias);

# ---- aliases of domains have no aliases ----

sub alias {
	my ($dbh, @rows) = @_;
	return fault($dbh, 'INSERT INTO policyd.domain_alias VALUES '
	    . join ', ', map { "('$_->[0]', '$_->[1]')" } @rows);
}

is(alias($db, ['a', 'b'], ['c', 'B']), '', 'two names of one domain');
like(alias($db, ['d', 'A']),
    qr/^"d" cannot be an alias of "A".*alias of "b"\|Write b as the target/,
    'an alias is no target');
like(alias($db, ['B', 'd']), qr/itself an alias of "d"/, 'a target no alias');
like(alias($db, ['B', 'a']), qr/alias of "(.)".*alias of.*\|Remove one/,
    'nor are two aliases of each other');
like(alias($db, ['x', 'y'], ['y', 'z']), qr/itself an alias/,
    'not within a statement either');
like(alias($db, ['x', 'X']), qr/^"x" cannot be an alias of itself\|Write/,
    'nor of itself');
like(fault($db, "UPDATE policyd.domain_alias SET target = 'a'
    WHERE name = 'c'"), qr/itself an alias/, 'nor by UPDATE');
is(fault($db, "UPDATE policyd.domain_alias SET target = 'e'"), '',
    'a target moves, with all its names');

$db->begin_work;
is(alias($db, ['m', 'n']), '', 'one transaction makes an alias');
$admin->do("INSERT INTO policyd.domain_alias VALUES ('n', 'o')", { pg_async =>
    DBD::Pg::PG_ASYNC() });
$pg->wait_for_lock;
ok(!$admin->pg_ready, 'another, that cannot see it, waits');
$db->commit;
ok(!eval { $admin->pg_result; 1 }, 'and is refused');
like($@, qr/itself an alias of "o"/, 'as a chain');
$db->do('TRUNCATE policyd.domain_alias');

# ---- what is announced ----

my $listener = $pg->dbh(user => 'policyd');
$listener->do('LISTEN policyd');

# The payloads that the statements sent, in order of the alphabet.
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
		return join ' ', sort @got if $note->[2] eq 'end';
		push @got, $note->[2];
	}
	return 'nothing came';
}

sub rows {
	my ($n) = @_;
	return "INSERT INTO policyd.address SELECT 'u' || i || '\@x'
	    FROM generate_series(1, $n) AS i";
}

is(announced("INSERT INTO policyd.address VALUES ('Bob\@Example.com')"),
    'address:Bob@Example.com', 'INSERT announces the key as it was typed');
is(announced("UPDATE policyd.address SET enabled = false"),
    'address:Bob@Example.com', 'UPDATE');
is(announced("UPDATE policyd.address SET address = 'eve\@example.com'"),
    'address:Bob@Example.com address:eve@example.com',
    'UPDATE of the key, both');
is(announced('DELETE FROM policyd.address'), 'address:eve@example.com',
    'DELETE');
is(announced('DELETE FROM policyd.address'), '', 'no row, nothing');
is(announced(rows(1000)), join(' ', sort map { "address:u$_\@x" } 1 .. 1000),
    '1000 rows');
is(announced("UPDATE policyd.address SET address = 'v' || address"),
    join(' ', sort map { ("address:u$_\@x", "address:vu$_\@x") } 1 .. 1000),
    '1000 rows, old and new keys');
is(announced('DELETE FROM policyd.address'),
    join(' ', sort map { "address:vu$_\@x" } 1 .. 1000), '1000 rows less');
is(announced(rows(1001)), 'address', '1001 rows, the table');
is(announced('UPDATE policyd.address SET enabled = false'), 'address',
    'the same for UPDATE');
is(announced('DELETE FROM policyd.address'), 'address', 'and for DELETE');
is(announced('TRUNCATE policyd.address'), 'address', 'TRUNCATE');
is(announced("INSERT INTO policyd.address VALUES ('a\@x')", 'SAVEPOINT s',
    "INSERT INTO policyd.address VALUES ('b\@x')", 'ROLLBACK TO s'),
    'address:a@x', 'what is rolled back is not announced');
is(announced("INSERT INTO policyd.address VALUES ('${local}\@$long_domain')"),
    "address:${local}\@$long_domain", 'the longest key');
is(announced("INSERT INTO policyd.alias
    VALUES ('l\@x', 'a\@x'), ('l\@x', 'b')"), 'alias:l@x',
    'an alias by its address, once');
is(announced("INSERT INTO policyd.domain VALUES ('x'), ('y')"),
    'domain:x domain:y', 'domains by their names');
is(announced("INSERT INTO policyd.domain_alias VALUES ('n', 't')"),
    'domain_alias:n', 'a domain_alias by its name');
is(announced('TRUNCATE policyd.domain, policyd.alias, policyd.domain_alias'),
    'alias domain domain_alias', 'three tables at once');

# A site's own table; whoever writes it has no rights to ours.
$db->do('CREATE SCHEMA mail');
$db->do('CREATE TABLE mail."U sers" ("E mail" text)');
$db->do('GRANT USAGE ON SCHEMA mail TO PUBLIC');
$db->do('CREATE ROLE app LOGIN');
$db->do('GRANT ALL ON mail."U sers" TO app');
$db->do(q(CALL policyd.announce_changes('mail."U sers"', 'address', 'E mail')));
$admin->disconnect;
$admin = $pg->dbh(user => 'app');
is(announced(q(INSERT INTO mail."U sers" VALUES ('bob@x'))), 'address:bob@x',
    'a table of the site\'s own announces itself as one of ours');
is(announced('INSERT INTO mail."U sers" VALUES (NULL)'), 'address',
    'without a key, the table');
is(announced(q(INSERT INTO mail."U sers" VALUES (repeat('x', 9000)))),
    'address', 'with one that does not fit, too');
is(announced('UPDATE mail."U sers" SET "E mail" = NULL WHERE false'), '',
    'no row, nothing');

# ---- beside other databases ----

$db->do("INSERT INTO policyd.domain VALUES ('müller.de')");
$db->do("INSERT INTO policyd.address (address, reply)
    VALUES ('x\@müller.de', '550 5.7.1 no')");
$db->do("INSERT INTO policyd.domain_alias VALUES ('xn--x.de', 'müller.de')");
$pg->psql('CREATE DATABASE copy', dbname => 'postgres');
my $dump = $pg->run("$PgCluster::BIN/pg_dump", '-d', $pg->conninfo,
    '-f', $pg->dir . '/dump');
$pg->run("$PgCluster::BIN/psql", qw(-Xq -v ON_ERROR_STOP=1 -d),
    $pg->conninfo(dbname => 'copy'), '-f', $pg->dir . '/dump');
my $count = 'SELECT count(*) FROM policyd.address, policyd.domain_alias';
is($pg->psql($count, dbname => 'copy'), $pg->psql($count),
    'a dump goes into another database');
like(fault($pg->dbh(dbname => 'copy'),
    "INSERT INTO policyd.address VALUES ('bob')"), qr/missing.*\|Write/,
    'and has its checks there');

$pg->psql('CREATE DATABASE second', dbname => 'postgres');
ok(eval { $pg->load_into('second', @steps); 1 },
    'roles that exist already do not matter') or diag $@;
$pg->psql("CREATE DATABASE latin ENCODING LATIN1 TEMPLATE template0 LOCALE 'C'",
    dbname => 'postgres');
ok(!eval { $pg->load_into('latin', @steps); 1 },
    'a database that is not UTF-8 is refused');
like($@, qr/encoded in LATIN1, not in UTF8.*HINT: .*createdb/s, 'with a hint');

$_->disconnect for $db, $admin, $daemon, $listener;
done_testing();
