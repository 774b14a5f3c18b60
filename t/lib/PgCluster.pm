package PgCluster;

# SPDX-License-Identifier: MIT
#
# A PostgreSQL server of one's own, for a test or the demo:
#
#	my $pg = PgCluster->new;	# initdb, start, create database policyd
#	my $dbh = $pg->dbh;		# DBI, as superuser "postgres"
#	$pg->load(glob 'sql/[0-9]*.sql');
#	system $program, $pg->conninfo(user => 'policyd');
#	$pg->freeze; ... $pg->thaw;	# hung, as a dead disk would leave it
#	$pg->stop; ... $pg->start;
#	my $other = $pg->standby;	# follows it
#	$pg->crash; $other->promote;
#
# It listens on a Unix socket in its own folder and nowhere else, trusts every
# local user, and does not fsync.  PostgreSQL refuses to run as root, so root
# hands the server to user postgres (or nobody).  It ends with the object, and
# by itself (PR_SET_PDEATHSIG) if this process is killed.

use strict;
use warnings;

use Carp qw(croak);
use File::Path qw(remove_tree);
use File::Temp qw(tempdir);
use POSIX qw(WNOHANG);
use Time::HiRes qw(sleep time);

# Fast enough for any test, and still far below a human's patience.
use constant WAIT_S => 60;

our $BIN = $ENV{PG_BIN} || '/usr/lib/postgresql/15/bin';

# new(dir => FOLDER, dbname => NAME, settings => {NAME => VALUE}, disk => SIZE):
# without dir a folder in TMPDIR that goes away again; a dir that is given is
# kept, and a cluster that is in it already is used as it is.  disk: a small,
# empty one is mounted on small_disk() at each start, for the server alone, and
# is gone when it ends; may_mount() says whether that can be done here.
sub new {
	my ($class, %arg) = @_;
	my $self = bless {
		dir => $arg{dir} || tempdir('pg-XXXXXXXX', TMPDIR => 1),
		keep => defined $arg{dir},
		dbname => $arg{dbname} || 'policyd',
		settings => $arg{settings} || {},
		disk => $arg{disk},
		owner => $$,
	}, $class;
	my $dir = $self->{dir};

	$self->own_dir;
	my $fresh = !-e "$dir/data/PG_VERSION";
	$self->run("$BIN/initdb", '-D', "$dir/data", qw(-U postgres -A trust
	    -E UTF8 --locale=C.UTF-8 --no-sync --no-instructions)) if $fresh;
	$self->start;
	$self->psql("CREATE DATABASE $self->{dbname}", dbname => 'postgres')
	    if $fresh;
	return $self;
}

# standby(): a cluster of its own that follows this one.
sub standby {
	my ($self) = @_;
	my $new = bless {
		dir => tempdir('pg-XXXXXXXX', TMPDIR => 1),
		dbname => $self->{dbname},
		settings => $self->{settings},
		owner => $$,
	}, ref $self;

	$new->own_dir;
	return $new->follow($self);
}

# One that has ended starts again as a standby of another.
sub follow {
	my ($self, $other) = @_;

	remove_tree("$self->{dir}/data");
	$self->run("$BIN/pg_basebackup", '-D', "$self->{dir}/data", '-d',
	    $other->conninfo(dbname => 'postgres'), qw(-R -X stream -c fast
	    --no-sync));
	$self->start;
	return $self;
}

# A standby is the primary from now on.
sub promote {
	my ($self) = @_;
	$self->psql('SELECT pg_promote()', dbname => 'postgres') eq 't'
	    or croak 'the standby is not promoted';
	return;
}

sub own_dir {
	my ($self) = @_;
	my $dir = $self->{dir};

	-d $dir or mkdir $dir, 0755 or croak "$dir: $!";
	chmod 0755, $dir;	# a daemon of another user must reach the socket
	if ($> == 0) {
		$self->{user} = (grep { defined getpwnam $_ }
		    qw(postgres nobody))[0] or croak 'no user to run as';
		chown((getpwnam $self->{user})[2, 3], $dir);
	}
	mkdir $self->small_disk if $self->{disk};
	return;
}

sub dir { return $_[0]{dir} }
sub small_disk { return "$_[0]{dir}/disk" }
sub log_file { return "$_[0]{dir}/log" }

# The process id of the postmaster; undef when it does not run.
sub pid { return $_[0]{pid} }

# conninfo(user => NAME, ...): a libpq connection string.
sub conninfo {
	my ($self, %arg) = @_;
	my %c = (host => $self->{dir}, user => 'postgres',
	    dbname => $self->{dbname}, %arg);
	return join ' ', map { "$_=$c{$_}" } sort keys %c;
}

# dbh(user => NAME, ...): a new DBI connection that dies on errors.
sub dbh {
	my ($self, %arg) = @_;
	require DBI;	# the demo does without
	my $dsn = $self->conninfo(%arg) =~ tr/ /;/r;
	return DBI->connect("dbi:Pg:$dsn", undef, undef, { AutoCommit => 1,
	    RaiseError => 1, PrintError => 0, PrintWarn => 0 });
}

# psql(SQL, user => NAME, ...): its output, unaligned; dies on an error.
sub psql {
	my ($self, $sql, %arg) = @_;
	return $self->run("$BIN/psql", qw(-XAtq -v ON_ERROR_STOP=1 -d),
	    $self->conninfo(%arg), '-c', $sql);
}

# Wait until some statement waits for a lock of another transaction.
sub wait_for_lock {
	my $self = shift;
	my $dbh  = $self->dbh;
	my $end  = time + 10;

	until ($dbh->selectrow_array('SELECT EXISTS (SELECT FROM pg_locks
	    WHERE NOT granted)')) {
		die "nobody waits for a lock\n" if time > $end;
		select undef, undef, undef, 0.005;
	}
	$dbh->disconnect;
	return;
}

# load(FILE...): runs SQL files, each in one transaction.
sub load {
	my ($self, @files) = @_;
	return $self->load_into($self->{dbname}, @files);
}

# load_into(DBNAME, FILE...): the same, in another database.
sub load_into {
	my ($self, $dbname, @files) = @_;
	for my $file (@files) {
		# The server's user may not be able to read it: we open it.
		open my $in, '<', $file or croak "$file: $!";
		local $ENV{PGOPTIONS} = '-c client_min_messages=warning';
		$self->run_from($in, "$BIN/psql", qw(-XAtq1 -v ON_ERROR_STOP=1
		    -d), $self->conninfo(dbname => $dbname));
	}
	return;
}

sub start {
	my ($self) = @_;
	croak 'started twice' if $self->{pid};
	my $dir = $self->{dir};
	my %set = (listen_addresses => '', unix_socket_directories => $dir,
	    fsync => 'off', synchronous_commit => 'off',
	    full_page_writes => 'off', max_connections => 50,
	    logging_collector => 'off', %{ $self->{settings} });
	defined(my $pid = fork) or croak "fork: $!";
	if ($pid == 0) {
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', $self->log_file;
		open STDERR, '>&', \*STDOUT;
		chdir $dir;
		my @server = $self->on_disk($self->as_user, "$BIN/postgres",
		    '-D', "$dir/data",
		    map { ('-c', "$_=$set{$_}") } sort keys %set);
		exec { $server[0] } @server or POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	$self->{frozen} = 0;
	wait_until(sub {
		croak 'PostgreSQL ended, see its log: ' . $self->log_text
		    if $self->reaped;
		# The last line of this file says "ready" once it accepts.
		open my $in, '<', "$dir/data/postmaster.pid" or return 0;
		my @line = <$in>;
		return @line > 7 && $line[0] == $pid
		    && $line[7] =~ /^(?:ready|standby)/;
	}) or croak 'PostgreSQL does not start: ' . $self->log_text;
	return;
}

# stop('fast' | 'smart' | 'immediate'): immediate is as good as a crash.
sub stop {
	my ($self, $mode) = @_;
	return unless $self->{pid};
	my %signal = (fast => 'INT', smart => 'TERM', immediate => 'QUIT');
	$self->thaw;
	kill $signal{ $mode || 'fast' }, $self->{pid};
	wait_until(sub { $self->reaped }) or croak 'PostgreSQL does not stop';
	return;
}

# SIGKILL: nothing is written any more, and nobody said goodbye.
sub crash {
	my ($self) = @_;
	my @children = $self->children;

	kill 'KILL', $self->{pid};
	wait_until(sub { $self->reaped }) or croak 'PostgreSQL does not die';
	# They see it by themselves, and a new server waits for the last.
	wait_until(sub { !grep { (process($_))[0] !~ /[ZX]/ } @children })
	    or croak 'children of PostgreSQL live on';
	return;
}

sub restart {
	my ($self, $mode) = @_;
	$self->stop($mode);
	$self->start;
	return;
}

# Stop every process of the server in its tracks.  The kernel still accepts
# connections for it, and what is sent to it is kept: nobody answers.
sub freeze {
	my ($self) = @_;
	$self->{frozen} = 1;
	# The postmaster first: from then on there are no new children.
	for my $pid ($self->{pid}, $self->children) {
		kill 'STOP', $pid;
		wait_until(sub { (process($pid))[0] =~ /[TZX]/ });
	}
	return;
}

sub thaw {
	my ($self) = @_;
	return unless $self->{frozen};
	kill 'CONT', $self->children, $self->{pid};
	$self->{frozen} = 0;
	return;
}

sub DESTROY {
	my ($self) = @_;
	return if $self->{owner} != $$;	# a forked child drops only its copy
	local ($@, $?, $!);
	eval { $self->stop('immediate') };
	remove_tree($self->{dir}) unless $self->{keep};
	return;
}

# run(COMMAND...): as the server's user; its output, or dies with it.
sub run {
	my ($self, @command) = @_;
	return $self->run_from(undef, @command);
}

# run_from(HANDLE, COMMAND...): the same, with this as its standard input.
sub run_from {
	my ($self, $in, @command) = @_;
	defined(my $pid = open my $out, '-|') or croak "fork: $!";
	if ($pid == 0) {
		open STDIN, $in ? '<&' : '<', $in || '/dev/null';
		open STDERR, '>&', \*STDOUT;
		chdir '/';
		exec { 'setpriv' } $self->as_user, @command
		    or POSIX::_exit(127);
	}
	my $text = do { local $/; <$out> };
	close $out or croak "$command[0]: $text";
	chomp $text;
	return $text;
}

# The beginning of a command line that gives up root and dies with us.
sub as_user {
	my ($self) = @_;
	my @who = $self->{user} ? ('--reuid', $self->{user}, '--regid',
	    (getpwnam $self->{user})[3], '--clear-groups') : ();
	return ('setpriv', @who, '--pdeathsig', 'QUIT', '--');
}

# Can a disk be mounted that others do not see?  Root may, where a container
# does not forbid it; others as the root of a namespace, where the kernel does
# not.
sub may_mount {
	defined(my $pid = fork) or croak "fork: $!";
	if ($pid == 0) {
		open STDERR, '>', '/dev/null';
		exec { 'unshare' } mount_for(), '1m', '/mnt', 'mode=0700',
		    as_we_are(), 'true' or POSIX::_exit(127);
	}
	waitpid $pid, 0;
	return $? == 0;
}

# The beginning of a command line, before SIZE FOLDER OPTIONS COMMAND...
sub mount_for {
	return ('unshare', $> == 0 ? '-m' : '-rm', 'sh', '-c',
	    'mount -t tmpfs -o "size=$1,$3" tmpfs "$2" && shift 3 && exec "$@"',
	    'sh');
}

# In it PostgreSQL must not be root.
sub as_we_are { return $> == 0 ? () : ('unshare', '-U', "--map-user=$>") }

# A command line, with the small disk mounted around it.
sub on_disk {
	my ($self, @command) = @_;
	return @command if !$self->{disk};
	my ($uid, $gid) = $self->{user} ? (getpwnam $self->{user})[2, 3] : ();
	return (mount_for(), $self->{disk}, $self->small_disk,
	    defined $uid ? "mode=0700,uid=$uid,gid=$gid" : 'mode=0700',
	    as_we_are(), @command);
}

# True once the postmaster has ended; it is forgotten then.
sub reaped {
	my ($self) = @_;
	return 1 unless $self->{pid};
	return 0 if waitpid($self->{pid}, WNOHANG) == 0;
	$self->{pid} = undef;
	return 1;
}

sub children {
	my ($self) = @_;
	return grep { (process($_))[1] == $self->{pid} }
	    map { m{(\d+)} } glob '/proc/[0-9]*';
}

# State letter and parent of a process; X and 0 when there is none.
sub process {
	my ($pid) = @_;
	open my $in, '<', "/proc/$pid/stat" or return ('X', 0);
	my $line = <$in> // '';
	return $line =~ /\) (\S) (\d+)/ ? ($1, $2) : ('X', 0);
}

sub log_text {
	my ($self) = @_;
	open my $in, '<', $self->log_file or return '';
	local $/;
	return <$in>;
}

sub wait_until {
	my ($condition) = @_;
	my $end = time + WAIT_S;
	until ($condition->()) {
		return 0 if time > $end;
		sleep 0.01;
	}
	return 1;
}

1;
