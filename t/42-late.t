#!/usr/bin/perl

# Postfix hangs up after 100 s and asks once more: no answer takes that long,
# whatever is in its way.  policyd's clock goes twenty times as fast here
# (t/lib/haste.c), PostgreSQL's does not: pg_sleep(2.5) takes 50 s.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use File::Temp qw(tempdir);
use Test::More;
use Time::HiRes qw(time);

use PolicydTest qw(block policyd_path site);

plan skip_all => 'under valgrind' if $ENV{UNDER};
plan skip_all => 'a sanitizer comes first'
	if `ldd @{[ policyd_path() ]} 2>&1` =~ /lib[at]san/;

my $dir = tempdir('late-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $lib = "$dir/haste.so";
system($ENV{CC} || 'cc', qw(-shared -fPIC -O1 -o), $lib,
	"$FindBin::Bin/lib/haste.c") == 0
	or die "t/lib/haste.c does not compile\n";

my $pg = site(<<'SQL');
INSERT INTO policyd.domain (name, greylist) VALUES ('example.com', false);
INSERT INTO policyd.address (address) VALUES ('bob@example.com');
CREATE FUNCTION policyd_script.thinks(request jsonb) RETURNS text
  LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(2.5); RETURN NULL; END $$;
INSERT INTO policyd.rule (priority, conditions, action) VALUES
  (1, ARRAY['stress in once, twice'], 'script thinks'),
  (2, ARRAY['stress = twice'], 'script thinks');
SQL

my $d = PolicydTest->new(
	conninfo => $pg->conninfo(user => 'policyd'),
	prefix   => [ 'env', "LD_PRELOAD=$lib" ],
	ini      => {
		database => { query_timeout => '60s', script_connections => 3 },
		rcpt     => { errors_wait   => '60s' },
	},
)->start;

my %question = (
	one  => block(stress => 'once', recipient => 'bob@example.com'),
	two  => block(stress => 'twice', recipient => 'bob@example.com'),
	held => block(stress => 'once', recipient => 'nobody@example.com'),
);
my %conn = map { $_ => $d->connect } keys %question;
my $began = time;
$conn{$_}->send($question{$_}) for keys %conn;
is($conn{one}->reply(20), 'DUNNO', 'a script of 50 s');
like($conn{two}->reply(20), qr/^DEFER_IF_PERMIT 4\.3\.0 /,
	'two of them are too much');
like($conn{held}->reply(20), qr/^550 5\.1\.1 /, 'an answer that is held back');
# 80 s; 110 s would be 5.5.
cmp_ok(time - $began, '<', 5.2, 'not for all of errors_wait behind a script');
is($d->stop, 0, 'exit status');
done_testing();
