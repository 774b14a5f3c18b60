#!/usr/bin/perl
# The reference file, the manual and the program's own table say the same.

use strict;
use warnings;

use File::Basename qw(basename dirname);
use File::Temp qw(tempfile);
use Test::More;

use lib dirname(__FILE__) . '/lib';
use PgCluster;

chdir dirname(__FILE__) . '/..' or die $!;
my $POLICYD = $ENV{POLICYD} || 'build/policyd';

my $pg = PgCluster->new;
$pg->load(sort glob 'sql/[0-9]*.sql');

# What policyd -t says about settings, with our own server and user in them.
sub complaints {
	my ($text, %to) = @_;
	my ($out, $file) = tempfile(SUFFIX => '.ini', UNLINK => 1);
	my $conninfo = $pg->conninfo(user => 'policyd', %to);
	my $me = getpwuid $>;

	$text .= "[policyd]\nuser = x\n" if $text !~ /^user = /m;
	$text =~ s/^conninfo = .*/conninfo = $conninfo/m;
	$text =~ s/^user = .*/user = $me/m;
	print {$out} $text;
	close $out;
	my $said = qx($POLICYD -t -c $file 2>&1 >/dev/null);
	return $? ? $said || 'it fails' : $said;
}

sub slurp {
	my ($file) = @_;
	open my $in, '<', $file or die "$file: $!";
	local $/;
	return scalar <$in>;
}

# Text of a manual page as a reader sees it.
sub plain {
	my ($text) = @_;
	my %is = ('\\(dq' => '"', '\\(aq' => "'", '\\e' => '\\', '\\&' => '');
	$text =~ s/(\\\(dq|\\\(aq|\\e|\\&)/$is{$1}/g;
	return $text;
}

# [[section.key, default, kind, least, most]...], as the program prints them
sub from_program {
	open my $out, '-|', $POLICYD, '--options' or die "$POLICYD: $!";
	return map {
		chomp;
		my ($section, $key, @rest) = split /\t/, $_, -1;
		["$section.$key", @rest];
	} <$out>;
}

# The same of the reference: keys are commented out, sections are not.
sub from_reference {
	my ($text) = @_;
	my ($section, @found, @odd) = ('');
	for my $line (split /\n/, $text) {
		if ($line =~ /^\[(\w+)\]$/) {
			$section = $1;
		} elsif ($line =~ /^#(\w+) =(?: (.*))?$/) {
			push @found, ["$section.$1", $2 // ''];
		} elsif ($line !~ /^(?:#(?:[ \t].*)?)?$/ || length $line > 84) {
			push @odd, $line;
		}
	}
	is_deeply(\@odd, [], 'the reference has nothing but keys and comments');
	return @found;
}

# [[section.key, default, text]...] of the manual page
sub from_manual {
	my ($section, @found) = ('');
	for my $line (split /\n/, slurp('doc/policyd.ini.5')) {
		if ($line =~ /^\.Ss \[(\w+)\]/) {
			$section = $1;
		} elsif ($line =~ /^\.S[hs] /) {
			$section = '';
		} elsif ($section && $line =~ /^\.It Ic (\w+) No =(?: Li (.*))?$/) {
			push @found, ["$section.$1", plain($2 // ''), ''];
		} elsif ($section && @found) {
			$found[-1][2] .= "$line\n";
		}
	}
	return @found;
}

# 604800 -> "7d"
sub duration {
	my ($s) = @_;
	return $s * 1000 . 'ms' if $s != int $s;
	for (['d', 86400], ['h', 3600], ['m', 60]) {
		return $s / $_->[1] . $_->[0] if $s > 0 && $s % $_->[1] == 0;
	}
	return "${s}s";
}

my @options = from_program();
cmp_ok(scalar @options, '>', 50, 'the program has a table of options');
my @defaults = map { [$_->[0], $_->[1]] } @options;

subtest 'conf/policyd.ini' => sub {
	my $text = slurp('conf/policyd.ini');
	my @found = from_reference($text);
	my %reply = map { $_->[0] => 1 } grep { $_->[2] eq 'reply' } @options;

	is_deeply([map { $_->[0] } grep { $reply{ $_->[0] } &&
	    $_->[1] !~ /^".*"$/ } @found], [], 'replies stand in quotes');
	is_deeply([map { [$_->[0], $_->[1] =~ s/^"(.*)"$/$1/r] } @found],
	    \@defaults, 'every key, in order, with its default');

	# What it shows is what the program takes.
	is(complaints($text =~ s/^#(?=\w+ =)//mgr), '', 'policyd -t');
};

subtest 'policyd.ini(5)' => sub {
	my @found = from_manual();
	is_deeply([map { [$_->[0], $_->[1] =~ s/^"(.*)"$/$1/r] } @found],
	    \@defaults, 'every key, in order, with its default');
	my %text = map { $_->[0] => $_->[2] } @found;
	for (@options) {
		my ($name, undef, $kind, $least, $most) = @$_;
		next if $most == 0;
		($least, $most) = map { duration($_) } $least, $most
		    if $kind eq 'duration';
		like($text{$name} // '', qr/^From $least to $most\.$/m,
		    "$name: bounds");
	}
};

subtest 'policyd(8)' => sub {
	my %in = map { $_ => 1 } qx($POLICYD -h) =~ /^ +-(-?\w+)/mg;
	my %on = map { $_ => 1 } slurp('doc/policyd.8') =~ /^\.It Fl (-?\w+)/mg;
	delete $on{h};	# the summary does not list itself
	is_deeply([sort keys %on], [sort keys %in], 'every option');
};

subtest 'manual pages' => sub {
	my @pages = glob 'doc/*.[1-8]';
	my %is_there = map { basename($_) => 1 } @pages;
	for my $page (@pages) {
		# (whether other packages' pages are there is not our fault)
		my @said = grep { !/referenced manual not found|mandoc\.db/ }
		    split /\n/, qx(mandoc -Tlint -Wstyle $page 2>&1);
		is("@said", '', "$page: mandoc finds nothing to say");
		my @ours = slurp($page) =~ /^\.Xr (policy(?:d|ctl)\S* \d)/mg;
		my @missing = grep { !$is_there{tr/ /./r} } @ours;
		is("@missing", '', "$page: refers to pages that exist");
	}
};

# The tables of three applications, as far as the examples need them.
my %application = (
	PostfixAdmin => <<'END',
CREATE TABLE domain (domain text, backupmx boolean, active boolean);
CREATE TABLE alias_domain (alias_domain text, target_domain text,
    active boolean);
CREATE TABLE mailbox (username text, active boolean);
CREATE TABLE alias (address text, goto text, active boolean);
INSERT INTO domain VALUES ('ALL', false, true), ('a.example', false, true),
    ('backup.example', true, true);
INSERT INTO alias_domain VALUES ('b.example', 'a.example', true);
INSERT INTO mailbox VALUES ('u@a.example', true), ('off@a.example', false);
INSERT INTO alias VALUES ('u@a.example', 'u@a.example', true),
    ('@a.example', 'u@a.example, x@example.net', true);
END
	iRedMail => <<'END',
CREATE TABLE domain (domain text, backupmx int2, active int2);
CREATE TABLE alias_domain (alias_domain text, target_domain text, active int2);
CREATE TABLE mailbox (username text, enabledeliver int2, active int2,
    expired timestamp NOT NULL DEFAULT '9999-12-31 00:00:00');
CREATE TABLE forwardings (address text, forwarding text, active int2);
CREATE TABLE maillists (address text, active int2);
INSERT INTO domain VALUES ('a.example', 0, 1), ('backup.example', 1, 1);
INSERT INTO alias_domain VALUES ('b.example', 'a.example', 1);
INSERT INTO mailbox VALUES ('u@a.example', 1, 1), ('off@a.example', 0, 1);
INSERT INTO forwardings VALUES ('u@a.example', 'u@a.example', 1),
    ('a.example', 'u@a.example', 1), ('a.example', 'x@example.net', 1);
INSERT INTO maillists VALUES ('list@a.example', 1);
END
	Modoboa => <<'END',
CREATE TABLE admin_domain (id int, name text, type text, enabled boolean);
CREATE TABLE admin_domainalias (name text, target_id int, enabled boolean);
CREATE TABLE core_user (id int, is_active boolean);
CREATE TABLE admin_mailbox (address text, domain_id int, user_id int,
    is_send_only boolean);
CREATE TABLE admin_alias (id int, address text, expire_at timestamptz,
    enabled boolean);
CREATE TABLE modoboa_admin_aliasrecipient (address text, alias_id int);
INSERT INTO admin_domain VALUES (1, 'a.example', 'domain', true),
    (2, 'backup.example', 'relaydomain', true);
INSERT INTO admin_domainalias VALUES ('b.example', 1, true);
INSERT INTO core_user VALUES (1, true);
INSERT INTO admin_mailbox VALUES ('u', 1, 1, false), ('off', 1, 1, true);
INSERT INTO admin_alias VALUES (1, 'u@a.example', NULL, true),
    (2, '@a.example', NULL, true);
INSERT INTO modoboa_admin_aliasrecipient VALUES ('u@a.example', 1),
    ('u@a.example', 2), ('x@example.net', 2);
END
);

# The literal displays in a part of the page.
sub displays {
	my ($start) = @_;
	my ($part) = slurp('doc/policyd.ini.5') =~
	    /^\.S[hs] \Q$start\E\n(.*?)(?=^\.S[hs] |\z)/ms;
	return map { plain($_) } $part =~ /^\.Bd -literal.*?\n(.*?)^\.Ed$/msg;
}

subtest 'SQL of policyd.ini(5)' => sub {
	my ($triggers) = displays('TABLES OF YOUR OWN');
	my ($settings) = displays('EXAMPLES');

	for my $name (sort keys %application) {
		my %to = (dbname => lc $name);
		my ($views) = displays($name);
		$pg->psql("CREATE DATABASE $to{dbname}");
		$pg->load_into($to{dbname}, sort glob 'sql/[0-9]*.sql');
		$pg->psql($_, %to) for $application{$name}, $views;
		my $ask = sub { $pg->psql(@_, user => 'policyd', %to) };
		my $users = $name eq 'Modoboa' ? 'core_user' : 'mailbox';
		my $dbh = $pg->dbh(user => 'policyd', %to);
		local @$dbh{qw(RaiseError PrintError)} = (0, 0);
		ok(!$dbh->do("SELECT * FROM $users") &&
		    $dbh->errstr =~ /permission denied/,
		    "$name: the table with the passwords stays closed");

		is($ask->('SELECT name, enabled, target, recipients FROM
		    public.policyd_domains ORDER BY 1') =~
			s/\|t\b/|1/gr, join("\n", 'a.example|1||listed',
			'b.example|1|a.example|', 'backup.example|1||any'),
		    "$name: domains");
		is($ask->('SELECT address, enabled, destination FROM
		    public.policyd_addresses ORDER BY 1, 3'),
		    join("\n", '@a.example|t|u@a.example',
			'@a.example|t|x@example.net',
			$name eq 'iRedMail' ? 'list@a.example|t|' : (),
			'off@a.example|f|', 'u@a.example|t|'),
		    "$name: addresses");

		is(complaints($settings, %to), '', "$name: policyd -t");
	}
	$pg->psql($triggers, dbname => 'postfixadmin');
	my $dbh = $pg->dbh(dbname => 'postfixadmin');
	$dbh->do('LISTEN policyd');
	$dbh->do($_) for q(INSERT INTO mailbox VALUES ('n@a.example', true)),
	    'TRUNCATE mailbox';
	is($dbh->pg_notifies->[2], 'address', 'trigger: INSERT');
	is($dbh->pg_notifies->[2], 'address', 'trigger: TRUNCATE');
};

done_testing;
