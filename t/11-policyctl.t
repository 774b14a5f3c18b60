#!/usr/bin/perl

# SPDX-License-Identifier: MIT
#
# policyctl: building the schema, and the rows of the policy tables.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use File::Temp;
use IO::Handle;
use IO::Socket::INET;
use JSON::PP;
use PgCluster;
use POSIX ();
use Test::More;

my $top = "$FindBin::Bin/..";
my $policyctl = $ENV{POLICYCTL} || "$top/build/policyctl";
plan skip_all => "no $policyctl: make" unless -x $policyctl;

my $pg = PgCluster->new;
my $dir = File::Temp->newdir;
my ($wanted) = (sort glob "$top/sql/[0-9]*.sql")[-1] =~ m{/0*(\d+)};

sub spew {
	my ($name, $text) = @_;
	open my $out, '>', "$dir/$name" or die $!;
	print $out $text;
	close $out;
	return "$dir/$name";
}

my $ini = spew('policyd.ini',
    sprintf "[database]\nconninfo = \"%s\"\n", $pg->conninfo);

# Exit status, standard output and standard error of a command.
sub policyctl {
	my (@args) = @_;
	my $pid = fork // die $!;
	if ($pid == 0) {
		open STDOUT, '>', "$dir/out";
		open STDERR, '>', "$dir/err";
		exec $policyctl, @args;
	}
	waitpid $pid, 0;
	my ($status, @text) = $? & 127 ? "signal $?" : $? >> 8;
	for my $name (qw(out err)) {
		open my $in, '<', "$dir/$name" or die $!;
		push @text, do { local $/; <$in> } // '';
	}
	return ($status, @text);
}

# A command on the schema of the test must give exactly this.
sub gives {
	my ($command, $status, $out, $err) = @_;
	my @got = policyctl('-c', $ini, ref $command ? @$command :
	    split ' ', $command);
	my $name = ref $command ? join ' ', map { "'$_'" } @$command : $command;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($got[0], $status, "$name: exit status");
	ref $out ? like($got[1], $out, '... output') :
	    is($got[1], $out, '... output');
	ref $err ? like($got[2], $err, '... complaint') :
	    is($got[2], $err, '... complaint');
	return;
}

# ---- usage ----

gives('--help', 0, qr/^usage: policyctl .*alias add ADDRESS DESTINATION \[/s,
    '');
gives('-V', 0, qr/^policyctl \d+\.\d+/, '');
gives('', 2, '', qr/^usage: policyctl/);
gives('--bogus', 2, '', qr/bogus.*usage/s);
gives('bogus add', 2, '', qr/^policyctl: "bogus" is no command\nusage/);
gives('domain', 2, '', qr/^policyctl: say domain add, domain remove/);
gives('domain bogus', 2, '', qr/^policyctl: say domain add/);
gives('domain_alias enable x', 2, '', qr/say domain_alias add, .* list$/);
gives('domain add', 2, '',
    qr/^policyctl: name is missing\nusage: policyctl domain add NAME \[REC/);
gives('alias remove a@x', 2, '', qr/^policyctl: destination is missing/);
gives('domain_alias add x y z', 2, '', qr/"z" is one argument too many/);
gives('schema install now', 2, '', qr/"now" is one argument too many/);
gives('domain add x name=y', 2, '', qr/name is given twice/);

# ---- where the database is ----

{
	my ($status, $out, $err) = policyctl('-c', "$dir/none", 'schema',
	    'status');
	is("$status $out", '1 ', 'no configuration');
	like($err, qr{^policyctl: \Q$dir\E/none: No such file.*\nhint: -d CONNINFO},
	    '... says so');

	my $bad = spew('bad.ini', "[database]\nconinfo = x\n");
	($status, $out, $err) = policyctl('-c', $bad, 'schema', 'status');
	is("$status $out", '1 ', 'a wrong configuration');
	like($err, qr/^policyctl: .*bad\.ini.*coninfo/, '... says what');

	($status, $out, $err) = policyctl('-d', "host=$dir", 'schema', 'status');
	is("$status $out", '1 ', 'no server');
	like($err, qr/^policyctl: connection to .* failed.*\nhint: /s,
	    '... says so');
	($status, $out, $err) = policyctl(qw(-c /nonexistent -d), $pg->conninfo,
	    qw(schema status));
	is($err, '', '-d needs no configuration');
}

# ---- the schema ----

gives('domain list', 1, '',
    qr/^policyctl: relation .*\nhint: policyctl schema install builds/);
gives('schema status', 1,
    "installed: none\nwanted: $wanted\npolicyctl schema install\n", '');
gives('--json schema status', 1,
    "{\"installed\": null, \"wanted\": $wanted}\n", '');
gives('schema upgrade', 1, '',
    "policyctl: there is no schema policyd in this database\n"
    . "hint: policyctl schema install\n");
gives('schema install', 0,
    qr/\Astep 001-\S+\n(?:step \S+\n)*schema policyd: version $wanted\n\z/, '');
gives('schema install', 0,
    "schema policyd: version $wanted is installed already\n", '');
gives('schema upgrade', 0, "schema policyd: version $wanted\n", '');
gives('schema status', 0, "installed: $wanted\nwanted: $wanted\n", '');
gives('schema status --json', 0,
    "{\"installed\": $wanted, \"wanted\": $wanted}\n", '');
gives('schema install --json', 0,
    "{\"installed\": $wanted, \"wanted\": $wanted}\n", '');
is($pg->psql('SELECT count(*) FROM policyd.schema_version'),
    scalar(my @steps = glob "$top/sql/[0-9]*.sql"), 'each step is recorded');

$pg->psql('INSERT INTO policyd.schema_version VALUES (1000)');
for (qw(install upgrade)) {
	gives("schema $_", 1, '', "policyctl: the schema has version 1000, this "
	    . "policyctl knows $wanted\nhint: Install the policyd that brought "
	    . "it.\n");
}
gives('schema status', 1, "installed: 1000\nwanted: $wanted\n", '');
$pg->psql('DELETE FROM policyd.schema_version WHERE version = 1000');

{
	# As if the last step were yet to come.
	$pg->psql("DELETE FROM policyd.schema_version WHERE version = $wanted");
	gives('schema status', 1, qr/\npolicyctl schema upgrade\n\z/, '');
	gives('schema install', 1, '',
	    qr/already, .* $wanted\nhint: policyctl schema upgrade\n\z/);
	gives('schema upgrade', 1, '',
	    qr/already exists.*\npolicyctl: step \S+ failed and is undone\n\z/);
	$pg->psql("INSERT INTO policyd.schema_version VALUES ($wanted)");
}
{
	# An upgrade takes the steps that are missing, and those alone.
	$pg->psql('CREATE DATABASE old', dbname => 'postgres');
	my @files = sort glob "$top/sql/[0-9]*.sql";
	$pg->load_into('old', $files[0]);
	my ($status, $out, $err) = policyctl('-d',
	    $pg->conninfo(dbname => 'old'), 'schema', 'upgrade');
	is("$status$err", 0, 'an upgrade from version 1');
	unlike($out, qr/001-/, '... leaves the first step alone');
	like($out, qr/step 002-.*version $wanted\n\z/s, '... takes the others');

	$pg->psql('CREATE DATABASE twice', dbname => 'postgres');
	my @pids = map {
		my $pid = fork // die $!;
		if ($pid == 0) {
			open STDOUT, '>', "$dir/twice.$_";
			open STDERR, '>&', \*STDOUT;
			exec $policyctl, '-d', $pg->conninfo(dbname => 'twice'),
			    'schema', 'install';
		}
		$pid;
	} 1 .. 4;
	is(join(' ', map { waitpid $_, 0; $? } @pids), '0 0 0 0',
	    'four that install at once');
}
gives([qw(-d), $pg->conninfo(user => 'policyd', dbname => 'postgres'),
    qw(schema install)], 1, '',
    qr/^policyctl: permission denied .*\nhint: .*superuser.*is undone/s);

# ---- rows ----

gives('domain list', 0,
    "name  recipients  greylist  max_recipients  subdomains  enabled\n", '');
gives('domain add Example.com', 0, "domain Example.com added\n", '');
gives('domain add example.COM', 1, '',
    "policyctl: domain example.COM is there already\n");
gives(['domain', 'add', 'müller.de', 'verify', 'no', '50', 'yes', 'no'], 0,
    "domain müller.de added\n", '');
gives(['domain', 'add', 'c.example', '', '', '7', 'enabled=no'], 0,
    "domain c.example added\n", '');
gives('domain list', 0, <<'END', '');
name         recipients  greylist  max_recipients  subdomains  enabled
c.example    listed      -         7               no          no
Example.com  listed      -         -               no          yes
müller.de    verify      no        50              yes         no
END
gives('domain list EXAMPLE.com', 0, qr/\A.*\nExample.com .*\n\z/, '');
gives('domain list enabled=no greylist=', 0, qr/\A.*\nc\.example .*\n\z/, '');
gives('domain add -- -x', 1, '', "policyctl: \"-x\" is no domain name: the label "
    . "\"-x\" begins with a hyphen\nhint: Write a name such as example.com, or "
    . "an address such as [192.0.2.1].\n");
gives(['domain', 'add', ''], 1, '', qr/it is empty\nhint: /);
gives('domain add x any maybe', 1, '',
    qr/^policyctl: invalid input syntax for type boolean: "maybe"\nhint: /);
gives('domain add x max_recipients=0', 1, '', qr/"0" is no limit.*\nhint: /);
gives('domain disable EXAMPLE.COM', 0, "domain EXAMPLE.COM disabled\n", '');
is($pg->psql("SELECT enabled FROM policyd.domain WHERE name = 'Example.com'"),
    'f', 'it is disabled');
gives('domain enable example.com', 0, "domain example.com enabled\n", '');
gives('domain enable nowhere.example', 1, '',
    "policyctl: there is no domain nowhere.example\n");
gives('domain remove EXAMPLE.com', 0, "domain EXAMPLE.com removed\n", '');
gives('domain remove EXAMPLE.com', 1, '',
    "policyctl: there is no domain EXAMPLE.com\n");

gives(['address', 'add', 'a=b@example.com', '', '550 5.7.1 Not = here',
    '2038-01-01 12:00+00'], 0, "address a=b\@example.com added\n", '');
gives(['address', 'add', 'bob@example.com', 'reply=550'], 1, '',
    qr/^policyctl: "550" is no action: .*\nhint: /);
gives('address add bob@@', 1, '',
    "policyctl: \"bob\@\@\" is no address: nothing stands after the \"\@\"\n"
    . "hint: Write user\@example.com, or \@example.com for every other address "
    . "of the domain.\n");
gives('address add x@example.com expires_at=soon', 1, '', qr/"soon"\nhint: /);
gives(['address', 'add', "x' OR true --\@example.com"], 0,
    "address x' OR true --\@example.com added\n", '');
gives(['address', 'remove', "y' OR true --\@example.com"], 1, '',
    qr/there is no/);
gives(['address', 'remove', "x' or true --\@example.com"], 0, qr/removed/, '');
{
	my ($status, $out) = policyctl('-c', $ini, qw(--json address list));
	is_deeply(decode_json($out), [{ address => 'a=b@example.com',
	    greylist => undef, reply => '550 5.7.1 Not = here',
	    expires_at => '2038-01-01T12:00:00+00:00',
	    enabled => JSON::PP::true }], 'rows as JSON') or diag $out;
	($status, $out) = policyctl('-c', $ini, qw(--json domain list));
	is(scalar @{ decode_json($out) }, 2, 'several rows as JSON');
	($status, $out) = policyctl('-c', $ini, qw(--json alias list));
	is_deeply(decode_json($out), [], 'no rows as JSON');
	($status, $out) = policyctl('-c', $ini, qw(--json alias add l@x c@x));
	is_deeply(decode_json($out), { added => 1 }, 'a change as JSON');
}

gives('alias add l@x a@x', 0, "alias l\@x to a\@x added\n", '');
gives('alias add L@x A@x', 1, '',
    "policyctl: alias L\@x to A\@x is there already\n");
gives('alias add l@x root', 0, "alias l\@x to root added\n", '');
gives('alias add l@x a@x,b@x', 1, '', qr/row of its own\nhint: /);
gives('alias disable l@x ROOT', 0, "alias l\@x to ROOT disabled\n", '');
gives('alias list l@X', 0, <<'END', '');
address  destination  expires_at  enabled
l@x      a@x          -           yes
l@x      c@x          -           yes
l@x      root         -           no
END
gives('--json alias disable l@x', 0, "{\"disabled\": 3}\n", '');
gives('alias remove l@x A@X', 0, "alias l\@x to A\@X removed\n", '');

gives('domain_alias add n example.com', 0, "domain_alias n added\n", '');
gives('domain_alias add m n', 1, '',
    "policyctl: \"m\" cannot be an alias of \"n\", which is itself an alias of "
    . "\"example.com\"\nhint: Write example.com as the target of m.\n");
gives('domain_alias list', 0, "name  target\nn     example.com\n", '');
gives('domain_alias remove N', 0, "domain_alias N removed\n", '');

# ---- rules and lists ----

gives('list add', 2, '',
    qr/^policyctl: list is missing\nusage: policyctl list add LIST VALUE \[COM/);
gives('list enable x', 2, '', qr/^policyctl: say list add, .* list list$/);
gives('rule add 10', 2, '',
    qr/^policyctl: action is missing\nusage: .* PRIORITY ACTION \[COND.*\.\]$/);
gives('rule enable', 2, '', qr/^policyctl: id is missing/);
gives([qw(list add blocked Bob@example.com), 'sells =things'], 0,
    "list blocked: Bob\@example.com added\n", '');
gives('list add blocked bob@EXAMPLE.com', 1, '',
    "policyctl: list blocked: bob\@EXAMPLE.com is there already\n");
gives('list add BLOCKED bob@EXAMPLE.com', 0,
    "list BLOCKED: bob\@EXAMPLE.com added\n", '');
gives('list add blocked ::1', 1, '',
    qr/^policyctl: "::1" does not fit the list "blocked".*\nhint: Write it/);
gives('list add nets 192.0.2.1/24', 1, '',
    qr/the network is 192\.0\.2\.0\/24\nhint: Write/);
gives('list list blocked', 0, "list     value            comment\n"
    . "blocked  Bob\@example.com  sells =things\n", '');
gives('list list value=bob@example.com', 0, qr/\A.*\n(?:.*\n){2}\z/, '');
gives('list remove blocked BOB@example.com', 0,
    "list blocked: BOB\@example.com removed\n", '');
gives('list remove blocked BOB@example.com', 1, '',
    "policyctl: there is no list blocked: BOB\@example.com\n");

gives('rule add 10 DUNNO', 0, "rule 1 added\n", '');
gives(['rule', 'add', '5', 'REJECT 5.7.1 No, thanks', 'comment=for = Bob',
    'sender=x@y', 'state=VRFY', 'helo_name = "a\\b{c"', 'shadow=yes'], 0,
    "rule 2 added\n", '');
gives('rule list', 0, <<'END', '');
id  priority  state  conditions                       action                   shadow  enabled  comment
2   5         VRFY   sender=x@y; helo_name = "a\b{c"  REJECT 5.7.1 No, thanks  yes     yes      for = Bob
1   10        -                                       DUNNO                    no      yes      -
END
gives(['rule', 'add', '1', 'DUNNO', 'sendr = x'], 1, '',
    "policyctl: \"sendr = x\" is no condition: \"sendr\" is no attribute\n"
    . "hint: Write an attribute such as sender, recipient_domain or "
    . "client_address; policyd.rules(5) has them all.\n");
gives('rule add 1 bounce', 1, '', qr/^policyctl: "bounce" is no action.*\nhint/);
gives('rule add 1 OK state=QUIT', 1, '', qr/"QUIT" is no SMTP state\nhint: /);
gives('rule add first OK', 1, '', qr/integer: "first"\nhint: /);
gives(['rule', 'add', '1', 'DUNNO', 'client_address in list:BLOCKED'], 1, '',
    qr/^policyctl: the list "BLOCKED" holds mail addresses.*\nhint: Write/);
gives('rule disable 1', 0, "rule 1 disabled\n", '');
gives('rule list enabled=no', 0, qr/\A.*\n1 .*\n\z/, '');
gives('rule list conditions=sender=x@y', 0, qr/\A.*\n2 .*\n\z/, '');
gives('rule enable 1', 0, "rule 1 enabled\n", '');
gives('rule enable 99', 1, '', "policyctl: there is no rule 99\n");
gives('rule remove 1', 0, "rule 1 removed\n", '');
{
	my ($status, $out) = policyctl('-c', $ini, qw(--json rule list));
	is_deeply(decode_json($out), [{ id => 2, priority => 5, state => 'VRFY',
	    conditions => ['sender=x@y', 'helo_name = "a\\b{c"'],
	    action => 'REJECT 5.7.1 No, thanks', shadow => JSON::PP::true,
	    enabled => JSON::PP::true, comment => 'for = Bob' }],
	    'rules as JSON') or diag $out;
	($status, $out) = policyctl('-c', $ini, qw(--json rule add 1 OK));
	my $added = decode_json($out);
	is($added->{added}, 1, 'a rule that is added, as JSON');
	gives("rule remove $added->{id}", 0, "rule $added->{id} removed\n", '');
}

# ---- what is wrong with the rules ----

$pg->psql('TRUNCATE policyd.rule, policyd.list_entry');
gives('check', 0, "nothing is wrong with the rules\n", '');
gives('check it', 2, '', qr/"it" is one argument too many\nusage: .* check\n/);
$pg->psql(<<'END');
INSERT INTO policyd.list_entry VALUES ('there', 'a@x');
CREATE FUNCTION policyd_script.good(request jsonb) RETURNS text
    LANGUAGE sql RETURN 'DUNNO';
CREATE FUNCTION policyd_script.bad(request jsonb) RETURNS integer
    LANGUAGE sql RETURN 1;
INSERT INTO policyd.rule (id, priority, state, conditions, action, shadow,
    enabled) VALUES
(1, 1, NULL, '{sender in list:there}', 'script good', false, true),
(2, 2, NULL, '{sender in list:gone}', 'set script none', false, true),
(3, 3, NULL, ARRAY['sender matches \mx'], 'script missing', false, true),
(4, 4, NULL, '{sender in list:gone}', 'script missing', false, false),
(5, 5, 'VRFY', '{}', 'SET Script bad', false, true),
(6, 6, 'ANY', '{size > 1}', 'OK', true, true),
(7, 7, NULL, '{sender = a@x}', 'OK', false, true),
(8, 8, NULL, '{Client_Address in 10.0.0.0/8}', 'OK', false, true),
(9, 9, NULL, '{}', 'DUNNO', true, true),
(10, 10, NULL, '{}', 'reject_unverified_recipient', false, true),
(11, 11, 'ANY', '{}', 'HOLD', false, true),
(12, 12, NULL, '{size > 1}', 'HOLD', false, true),
(13, 13, 'DATA', '{size > 1}', 'HOLD', false, true),
(14, 14, 'ANY', '{size > 1}', 'HOLD', false, true);
END
{
	my $regex = 'rule 3: "sender matches \\mx" never holds: to PCRE2 '
	    . 'it is no regular expression: ';
	gives('check', 1, qr/\A\Q$regex\E.*
rule 12: it never runs: rule 10 answers always
rule 13: it never runs: rule 11 answers always
rule 14: it never runs: rule 10 answers always
rule 2: the list "gone" has no entries: nothing is in it
rule 3: there is no function policyd_script\.missing\(request jsonb\)
rule 5: policyd_script\.bad does not return text
rule 7: warning: OK lets a stranger through before relaying is decided\n\z/, '');
	my ($status, $out) = policyctl('-c', $ini, qw(--json check));
	my $found = decode_json($out);
	is(scalar @$found, 8, 'what is wrong as JSON');
	is_deeply($found->[7], { rule => 7, level => 'warning', message =>
	    'OK lets a stranger through before relaying is decided' },
	    '... rule, level and message');
	$pg->psql('DELETE FROM policyd.rule WHERE id <> 7');
	gives('check', 0, qr/\Arule 7: warning: .*\n\z/, '');
	$pg->psql('TRUNCATE policyd.rule');
	gives('check --json', 0, "[\n]\n", '');
	# Where triggers and constraints did not look.
	$pg->psql(q(ALTER TABLE policyd.rule DROP CONSTRAINT
	    rule_conditions_check, DROP CONSTRAINT rule_action_check;
	    SET session_replication_role = replica;
	    INSERT INTO policyd.rule (id, priority, conditions, action)
	    VALUES (1, 1, '{sendr = x}', 'bounce')));
	gives('check', 1, qr/\Arule 1: "sendr = x" is no condition: .*: sendr
rule 1: "bounce" is no action: .*: bounce\n\z/, '');
	$pg->psql('TRUNCATE policyd.rule');
}

{
	my $as_daemon = spew('daemon.ini', sprintf
	    "[database]\nconninfo = \"%s\"\n", $pg->conninfo(user => 'policyd'));
	my ($status, $out, $err) = policyctl('-c', $as_daemon, qw(domain add x));
	is("$status $out", '1 ', 'the daemon\'s role may not write');
	like($err, qr/^policyctl: permission denied.*\nhint: .*policyd_admin/,
	    '... and the hint names the one that may');
	($status, $out, $err) = policyctl('-d', $pg->conninfo(user =>
	    'policyd_admin'), qw(domain add x));
	is("$status$err", '0', 'which does');
	($status, $out, $err) = policyctl('-c', $as_daemon, qw(domain list x));
	like($out, qr/^x /m, 'and the daemon\'s role reads it');
}

# ---- lists that come in pieces ----

$pg->psql(q(INSERT INTO policyd.address (address) SELECT
    CASE n WHEN 11000 THEN 'm11000' || repeat('w', 40) ELSE 'm' || n END
    || '@many.example' FROM generate_series(10001, 32000) AS n));
for my $rows (10_000, 10_001, 22_000) {
	$pg->psql('DELETE FROM policyd.list_entry');
	$pg->psql(qq(INSERT INTO policyd.list_entry (list, value)
	    SELECT 'many', 'm' || n || '\@many.example'
	    FROM generate_series(10001, 10000 + $rows) AS n));
	my @want = map { "m$_\@many.example" } 10_001 .. 10_000 + $rows;
	my ($status, $out, $err) = policyctl('-c', $ini, qw(list list));
	is("$status$err", '0', "a list of $rows");
	my ($head, @line) = split /\n/, $out;
	like($head, qr/^list +value +comment$/, 'its header, once');
	is_deeply([ map { (split)[1] } @line ], \@want, 'all rows in order');
	($status, $out, $err) = policyctl('-c', $ini, '--json', qw(list list));
	is("$status$err", '0', 'the same for programs');
	is_deeply([ map { $_->{value} } @{ decode_json($out) } ], \@want,
	    'all rows of it');
}
{
	my (undef, $out) = policyctl('-c', $ini, qw(address list));
	my @at = map { index $_, ' - ' } $out =~ /^(m(?:10001|11001|32000)\@.*)/mg;
	is(scalar @at, 3, 'each row is there');
	cmp_ok($at[0], '==', $at[1], 'columns stand in line');
	cmp_ok($at[0], '<=', $at[2], 'and widen at most');
}
$pg->psql(q(INSERT INTO policyd.greylist (client, sender, recipient) SELECT
    '192.0.2.0/24', '', 'm' || n || '@many.example'
    FROM generate_series(1, 12000) AS n));
for my $limit (10, 10_000, 11_999) {
	my ($status, $out, $err) = policyctl('-c', $ini, 'greylist', 'list',
	    "limit=$limit");
	is($status, 0, "limit=$limit");
	is(scalar(split /\n/, $out), 1 + $limit, 'so many rows');
	like($err, qr/^policyctl: there are more than these $limit$/m,
	    'and there are more');
	($status, $out) = policyctl('-c', $ini, '--json', 'greylist', 'list',
	    "limit=$limit");
	is(scalar @{ decode_json($out) }, $limit, 'so many for programs');
}
for my $limit (0, 12_000) {
	my ($status, $out, $err) = policyctl('-c', $ini, 'greylist', 'list',
	    "limit=$limit");
	is("$status$err", '0', "limit=$limit");
	is(scalar(split /\n/, $out), 12_001, 'is all');
}
$pg->psql('TRUNCATE policyd.greylist, policyd.list_entry');

# ---- what cannot be written ----

# Started, with its standard output there.
sub started {
	my ($stdout, @args) = @_;
	my $pid = fork // die $!;
	if ($pid == 0) {
		open STDOUT, '>&', $stdout;
		open STDERR, '>', "$dir/err";
		exec $policyctl, @args;
	}
	return $pid;
}

sub complaint {
	open my $in, '<', "$dir/err" or die $!;
	local $/;
	return <$in> // '';
}

if (open my $full, '>', '/dev/full') {
	for my $args ([ '-c', $ini, qw(domain list) ], ['-V'], ['--help'],
	    [ '-c', $ini, qw(address list) ]) {
		waitpid started($full, @$args), 0;
		is($? >> 8, 1, "output that cannot be written: @$args");
		like(complaint(), qr/^policyctl: standard output: /, 'is told');
	}
}

# Lines that are lost in the middle: its pipe is full until it waits for us.
{
	my $dbh = $pg->dbh;
	pipe my $r, my $w or die $!;
	$_->blocking(0) for $r, $w;
	1 while defined syswrite $w, 'x' x 4096;
	1 while defined syswrite $w, 'x';
	$pg->psql(q(INSERT INTO policyd.rule (priority, conditions, action)
	    SELECT n, ARRAY['sender = ' || repeat('x', 200)], 'DUNNO'
	    FROM generate_series(1, 100) AS n));
	my $block = spew('request', "request=smtpd_access_policy\n"
	    . "protocol_state=RCPT\nclient_address=192.0.2.1\nsender=a\@b.example\n"
	    . "recipient=m10001\@many.example\n");
	$pg->psql(q(INSERT INTO policyd.domain (name) VALUES ('many.example')));
	$dbh->begin_work;
	$dbh->do('LOCK policyd.client');
	my $pid = started($w, '-c', $ini, 'explain', $block);
	my $waits;
	for (1 .. 600) {
		$waits = $pg->psql(q(SELECT count(*) FROM pg_stat_activity WHERE
		    application_name = 'policyctl' AND wait_event_type = 'Lock'));
		last if $waits =~ /1/;
		select undef, undef, undef, 0.05;
	}
	like($waits, qr/1/, 'it waits for a lock');
	1 while sysread $r, my $some, 65_536;
	$dbh->commit;
	waitpid $pid, 0;
	is($? >> 8, 1, 'output that was lost in the middle');
	like(complaint(), qr/^policyctl: standard output: /, 'is told');
	$pg->psql('TRUNCATE policyd.rule');
}

# ---- a server that does not answer ----

{
	my $dbh = $pg->dbh;
	$dbh->begin_work;
	$dbh->do('LOCK policyd.domain');
	for my $args ([qw(domain list)], [qw(domain add late.example)]) {
		my ($status, $out, $err) = policyctl('-c', $ini, '--timeout', '1',
		    @$args);
		is("$status$out", '1', "a lock that stays: @$args");
		like($err, qr/^policyctl: .* timeout\nhint: .*--timeout /, 'is told');
	}
	$dbh->rollback;
}
{
	# It takes the connection, and is silent ever after.
	my $server = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1')
	    or die $!;
	my $silent = fork // die $!;
	if ($silent == 0) {
		my $s = $server->accept;
		sysread $s, my $startup, 65_536;
		syswrite $s, pack('A N N', 'R', 8, 0) . pack('A N A', 'Z', 5, 'I');
		1 while sysread $s, my $query, 65_536;
		POSIX::_exit(0);
	}
	my ($status, $out, $err) = policyctl('-d', sprintf('host=127.0.0.1 port=%d'
	    . ' user=x sslmode=disable gssencmode=disable', $server->sockport),
	    '--timeout', '1', qw(domain list));
	kill KILL => $silent;
	waitpid $silent, 0;
	is("$status$out", '1', 'a server that froze');
	is($err, "policyctl: PostgreSQL does not answer\n"
	    . "hint: --timeout SECONDS waits longer, 0 for ever.\n", 'is told');
}
{
	# Nobody takes the connection but the kernel.
	my $server = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1')
	    or die $!;
	my $began = time;
	my ($status, $out, $err) = policyctl('-d', sprintf('host=127.0.0.1 port=%d'
	    . ' user=x', $server->sockport), '--timeout', '1', qw(domain list));
	is("$status$out", '1', 'a server that does not begin');
	like($err, qr/^policyctl: .*timeout/, 'is told');
	cmp_ok(time - $began, '<', 9, 'in time');
}
gives('--timeout soon domain list', 2, '', qr/"soon" is no number of seconds/);
gives('--timeout 0 domain list late.example', 0, qr/^name/, '');

done_testing();
