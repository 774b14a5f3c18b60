#!/usr/bin/perl

# SPDX-License-Identifier: MIT
#
# conninfo names a host, and nobody says where it is: answers go on at the same
# speed, and connections are made to where it was.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Select;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

use FaultDns;
use FaultProxy;
use PolicydTest qw(in_time site soon spew);

my $dns = FaultDns->new or plan skip_all => 'no nameserver can be had here';
my $pg = site(<<'SQL');
INSERT INTO policyd.domain (name, recipients) VALUES ('example.com', 'listed');
INSERT INTO policyd.address (address) VALUES ('bob@example.com');
SQL
my $net  = FaultProxy->new(to => "$pg->{dir}/.s.PGSQL.5432");
my $port = $net->port;
my $HOST = 'db.policyd.test';

# Nobody listens at the first of the two.
$dns->name($HOST, '127.0.0.1');
$dns->name('two.policyd.test', '127.9.9.9', '127.0.0.1');

sub daemon {
	my ($conninfo) = @_;
	return PolicydTest->new(
		conninfo => $conninfo,
		prefix   => [ $dns->prefix ],
		ini      => {
			database => { reconnect_max => '300ms', query_timeout => '1s' },
			greylist => { enabled => 'yes' },
			log      => { decisions => 'none' }
		}
	);
}

my $COUNT = 0;

# A row that is new is in force.
sub follows {
	my ($d, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $who = 'new' . ++$COUNT . '@example.com';
	$pg->psql("INSERT INTO policyd.address (address) VALUES ('$who')");
	return soon { ($d->ask(recipient => $who) // '') !~ /^5/ } $name, 20;
}

sub connections_end {
	$pg->psql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE usename = 'policyd'});
	return;
}

# Until it wants to know more than it was told a moment ago.
sub asks {
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$dns->asked;
	return soon { connections_end(); $dns->asked } $name;
}

# What goes on while somebody asks all the time: the longest answer is short.
sub meanwhile {
	my ($d, $name, $what) = @_;
	pipe my $from, my $to   or die "pipe: $!";
	pipe my $wait, my $stop or die "pipe: $!";
	my $pid = fork // die "fork: $!";

	if ($pid == 0) {
		my ($conn, $sel) = ($d->connect, IO::Select->new($wait));
		my ($wrong, $worst, $count) = (0, 0, 0);
		close $stop;
		while (!$sel->can_read(0.002)) {
			my $began = time;
			my $got = $conn->ask(recipient => 'no@example.com', timeout => 60);
			my $took = time - $began;
			$worst = $took if $took > $worst;
			$wrong++ if ($got // '') !~ /^550 5\.1\.1/;
			$count++;
		}
		syswrite $to, "$wrong $worst $count";
		POSIX::_exit(0);
	}
	close $to;
	close $wait;
	$what->();
	close $stop;
	my ($wrong, $worst, $count) = split / /, readline $from;
	waitpid $pid, 0;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($wrong, 0, "$name: all of $count answers are right");
	in_time($worst, 0.2, "$name: the longest answer");
	return;
}

# The processes that it started and that have not ended, or that nobody asked
# how they did.
sub children {
	my ($d) = @_;
	my $pid = $d->pid;
	open my $in, '<', "/proc/$pid/task/$pid/children" or return;
	return split ' ', readline($in) // '';
}

# ---- a nameserver that answers, and then does not ----

my $d = daemon("host=$HOST port=$port dbname=policyd user=policyd")->start;
follows($d, 'found by its name');
meanwhile($d, 'connections are lost',
	sub {
		connections_end();
		follows($d, 'connected again');
	});
meanwhile($d, 'and there is no nameserver',
	sub {
		$dns->mute(1);
		asks('it is asked');
		follows($d, 'connected to where it was');
		$d->reload;
		follows($d, 'and again after a reload');
	});
meanwhile($d, 'and no PostgreSQL either',
	sub {
		$pg->stop;
		sleep 2;
		$pg->start;
		follows($d, 'it is back');
	});
$dns->mute(0);
soon { !children($d) } 'no child is left', 40;

# ---- a start without ----

soon { -s "$d->{statedir}/tables.copy" } 'there is a copy', 60;
$dns->mute(1);
is($d->restart(until => 'reply')->alive, 1, 'started without a nameserver');
meanwhile($d, 'served from the copy',
	sub {
		soon { $d->log =~ /\Q$HOST\E/ } 'the log names the host', 20;
		$dns->mute(0);
		follows($d, 'the nameserver is back', 20);
	});
$dns->mute(1);
asks('it is asked again');
{
	my $began = time;
	is($d->stop, 0, 'it ends while it asks');
	in_time(time - $began, 1, 'and does not wait for an answer');
}
$dns->mute(0);

# ---- other ways to name it ----

# From the first of these hosts to the last, and from the environment.
spew("$d->{dir}/service", "[mail]\nhost=no.policyd.test,127.9.9.9,$HOST\n"
	. "port=$port\ndbname=policyd\n");
chmod 0755, $d->{dir};
{
	my %way = (
		'a URI, two addresses' => 'postgresql://policyd@two.policyd.test/policyd',
		'a service, several hosts' => 'service=mail user=policyd',
	);
	for my $name (sort keys %way) {
		my $other = daemon($way{$name});
		{
			local $ENV{PGSERVICEFILE} = "$d->{dir}/service";
			local $ENV{PGPORT} = $port;
			$other->start;
		}
		$dns->mute(1);
		meanwhile($other, $name,
			sub {
				asks("$name: asked");
				follows($other, "$name: connected again");
			});
		is($other->stop, 0, "$name: exit status");
		$dns->mute(0);
	}
}
{
	my $other = daemon("host=no.policyd.test port=$port dbname=policyd "
		. 'user=policyd')
		->start(until => 'reply');
	soon { $other->log =~ /no\.policyd\.test.*not known/ }
	'no such name: the log says so';
	$dns->name('no.policyd.test', '127.0.0.1');
	soon { ($other->ask(recipient => 'no@example.com') // '') =~ /^550/ }
	'until there is', 20;
	is($other->stop, 0, 'exit status');
}

done_testing;
