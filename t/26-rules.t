#!/usr/bin/perl

# Rules: what each condition holds for, what each action does, in which order,
# and what is written down about it in policyd.rules(5).

use strict;
use warnings;
use utf8;

use Encode qw(decode_utf8 encode_utf8);
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Time::HiRes qw(time);

use PolicydTest qw(install_schema session site slurp soon top wait_for);

my $pg = site(<<'SQL');
INSERT INTO policyd.domain (name, recipients) VALUES
  ('example.com', 'listed'), ('any.example', 'any');
INSERT INTO policyd.domain (name, recipients, subdomains) VALUES
  ('sub.example', 'any', true);
INSERT INTO policyd.domain (name, recipients, enabled) VALUES
  ('off.example', 'any', false);
INSERT INTO policyd.domain (name, recipients, max_recipients) VALUES
  ('few.example', 'any', 1);
INSERT INTO policyd.domain_alias (name, target) VALUES
  ('alias.example', 'example.com');
INSERT INTO policyd.address (address, reply) VALUES
  ('bob@example.com', NULL),
  ('moved@example.com', '550 5.1.6 Moved to moved@example.net');
INSERT INTO policyd.alias (address, destination) VALUES
  ('team@example.com', 'bob@example.com');
INSERT INTO policyd.list_entry (list, value) VALUES
  ('mail', 'pest@example.net'), ('mail', 'Sales@'), ('mail', '@Spam.Example'),
  ('mail', '@.under.example'), ('mail', 'user@deep.under.example'),
  ('nets', '192.0.2.0/24'), ('nets', '198.51.100.7'), ('nets', '2001:DB8::/32'),
  ('nets', '10.0.0.0/8'), ('nets', '10.1.2.0/24'), ('nets', '2001:db9::1'),
  ('names', 'mail.Example.org'), ('names', '.example.info'),
  ('logins', 'clerk'), ('logins', 'Web-Shop');
SQL
my $dbh = $pg->dbh;
my $d   = PolicydTest->new(conninfo => $pg->conninfo(user => 'policyd'))->start;

my %vrfy = (protocol_state => 'VRFY', instance => '', sender => '');
my %expn = (%vrfy, protocol_state => 'EXPN');
my %data = (protocol_state => 'DATA', recipient => '', recipient_count => 2);

# ---- rules for a part of the test ----

my $marks = 0;

# Put these in the place of all rules and wait until they are in force: each is
# { action, conditions => [...], and other columns }.  Returns their ids.
sub rules {
	my @rules = @_;
	my $mark  = 'mark' . ++$marks . '.example';
	my @id;

	push @rules, {
		state      => 'ETRN',
		priority   => -1,
		conditions => ["etrn_domain = $mark"],
		action     => "450 4.0.0 $mark"
	};
	$dbh->begin_work;
	$dbh->do('DELETE FROM policyd.rule');
	for my $rule (@rules) {
		my %row = (priority => 10, conditions => [], %$rule);
		my @column = sort keys %row;
		push @id, $dbh->selectrow_array(
			sprintf(
				'INSERT INTO policyd.rule (%s) VALUES (%s) RETURNING id',
				join(', ', @column),
				join(', ', ('?') x @column)
			),
			undef,
			@row{@column}
		);
	}
	$dbh->commit;
	wait_for {
		($d->ask(protocol_state => 'ETRN', etrn_domain => $mark) // '') =~ $mark;
	} 5 or die "rules are not in force: " . $d->log;
	return @id;
}

sub rule {
	my ($action, $conditions, @more) = @_;
	return { action => $action, conditions => $conditions || [], @more };
}

# The code of what is answered, or all of it if it has none.
sub short {
	my $got = shift;
	return 'none' if !defined $got;
	return $1 if $got =~ /^(\d{3} \d\.\d+\.\d+) \S/;
	return $got;
}

# ---- conditions ----

# Each line: the condition, "yes" or "no", and the attributes it is for, on top
# of those of PolicydTest.  A - stands for an attribute that is not sent.
my $CASES = <<'END';
sasl_username is empty                  | yes |
sasl_username is empty                  | no  | sasl_username=u
sasl_username is not empty              | no  |
sasl_username is not empty              | yes | sasl_username=u
not sasl_username is empty              | yes | sasl_username=u
not sasl_username is not empty          | yes |
tls_sni is empty                        | yes |
tls_sni is not empty                    | yes | tls_sni=mx.example.com
stress is empty                         | yes | stress=-
SASL_Username IS  Empty                 | yes |
NOT Sasl_Username Is   Not  Empty       | yes |

sender = alice@example.net              | yes |
sender = ALICE@Example.NET              | yes |
sender=alice@example.net                | yes |
sender = alice@example.net              | yes | sender=Alice@EXAMPLE.net
sender = alice@example.ne               | no  |
sender = lice@example.net               | no  |
sender = alice@example.net              | no  | sender=
sender != alice@example.net             | no  |
sender != alice@example.net             | yes | sender=bob@example.net
sender != alice@example.net             | yes | sender=
sender!=alice@example.net               | no  |
not sender = alice@example.net          | no  |
not sender != alice@example.net         | yes |
sender = "a b"=c@x                      | yes | sender="a b"=c@x
helo_name = x=y                         | yes | helo_name=x=y
helo_name = not empty                   | yes | helo_name=not empty
policy_context = a, b                   | yes | policy_context=a, b
policy_context = list:mail              | yes | policy_context=list:mail
policy_context = müller                 | yes | policy_context=müller
policy_context = muller                 | no  | policy_context=müller
policy_context = { x }                  | yes | policy_context={ x }
protocol_state = rcpt                   | yes |
protocol_name = smtp                    | no  |
size = 0                                | yes |
stress = yes                            | yes | stress=yes
stress != yes                           | yes | stress=-

client_address = 192.0.2.10             | yes |
client_address = 192.0.2.1              | no  |
client_address != 192.0.2.10            | no  |
client_address != 192.0.2.1             | yes |
client_address = 2001:DB8::1            | yes | client_address=2001:db8::1
client_address = 2001:db8:0:0::0:1      | yes | client_address=2001:db8::1
client_address = 2001:db8::1            | no  | client_address=2001:db8::2
client_address = unknown                | yes | client_address=unknown
client_address = unknown                | no  |
client_address = 192.0.2.10             | no  | client_address=unknown
client_address != 192.0.2.10            | yes | client_address=unknown
server_address = 192.0.2.1              | yes |

size > 100                              | yes | size=101
size > 100                              | no  | size=100
size >= 100                             | yes | size=100
size >= 100                             | no  | size=99
size < 100                              | yes | size=99
size < 100                              | no  | size=100
size <= 100                             | yes | size=100
size <= 100                             | no  | size=101
size>100                                | yes | size=101
size > 1k                               | yes | size=1025
size > 1k                               | no  | size=1024
size > 20M                              | yes | size=20971521
size > 20m                              | no  | size=20971520
size > 1G                               | yes | size=9223372036854775807
size > 9                                | yes | size=10
size > 10                               | no  | size=9
size < 10                               | no  | size=
size > 10                               | no  | size=
size < 10                               | no  | size=-
not size < 10                           | yes | size=-
client_port < 1024                      | yes | client_port=1023
client_port < 1024                      | no  | client_port=unknown
client_port > 1024                      | no  | client_port=unknown
not client_port < 1024                  | yes | client_port=unknown
encryption_keysize >= 256               | yes | encryption_keysize=256
not encryption_keysize >= 256           | yes |
server_port = 25                        | yes |
server_port in 25, 465                  | yes |
server_port in 465, 587                 | no  |

client_address in 192.0.2.0/24          | yes |
client_address in 192.0.2.10            | yes |
client_address in 192.0.2.8/29          | yes |
client_address in 192.0.2.12/30         | no  |
client_address in 192.0.2.10/32         | yes |
client_address in 0.0.0.0/0             | yes |
client_address in ::/0                  | no  |
client_address in 0.0.0.0/0             | no  | client_address=::1
client_address in ::/0                  | yes | client_address=::1
client_address in 10.0.0.0/8,192.0.2.10 | yes |
client_address in 10.0.0.0/8 , 2001:db8::/32 | yes | client_address=2001:db8:ffff::1
client_address in 10.0.0.0/8, 2001:db8::/32 | no | client_address=2001:db9::1
client_address in 2001:db8::/33         | no  | client_address=2001:db8:8000::1
client_address in 2001:db8:8000::/33    | yes | client_address=2001:db8:8000::1
client_address in 0.0.0.0/0, ::/0       | no  | client_address=unknown
client_address in 0.0.0.0/0, ::/0       | no  | client_address=
not client_address in 192.0.2.0/24      | no  |
not client_address in 192.0.2.0/24      | yes | client_address=unknown

sender_domain in a.example, Example.NET | yes |
sender_domain in a.example, b.example   | no  |
sender_domain in example.net.x          | no  |
sender in alice@example.net             | yes |
sasl_method in plain, login             | yes | sasl_method=LOGIN
sasl_method in plain, login             | no  |
policy_context in a b, c                | yes | policy_context=a b
not sender in x@x,alice@example.net     | no  |
protocol_state IN rcpt, data            | yes |
recipient_is_local in yes, no           | yes |

sender in list:mail                     | no  |
sender in list:mail                     | yes | sender=pest@example.net
sender in list:mail                     | yes | sender=PEST@Example.Net
sender in list:mail                     | no  | sender=pest@a.example.net
sender in list:mail                     | yes | sender=sales@whoever.example
sender in list:mail                     | yes | sender=SALES@whoever.example
sender in list:mail                     | no  | sender=presales@whoever.example
sender in list:mail                     | yes | sender=who@spam.example
sender in list:mail                     | no  | sender=who@a.spam.example
sender in list:mail                     | yes | sender=who@a.under.example
sender in list:mail                     | yes | sender=who@B.a.Under.example
sender in list:mail                     | no  | sender=who@under.example
sender in list:mail                     | no  | sender=who@xunder.example
sender in list:mail                     | yes | sender=user@deep.under.example
sender in list:mail                     | no  | sender=
sender in list:mail                     | no  | sender=pest
recipient in list:mail                  | yes | recipient=a@b@spam.example
sasl_username in list:mail              | yes | sasl_username=pest@example.net
not sender in list:mail                 | yes |
not sender in list:mail                 | no  | sender=who@spam.example
sender in list:nothing                  | no  |
not sender in list:nothing              | yes |
sender in list:Mail                     | no  | sender=pest@example.net

client_address in list:nets             | yes |
client_address in list:nets             | no  | client_address=192.0.3.1
client_address in list:nets             | yes | client_address=198.51.100.7
client_address in list:nets             | no  | client_address=198.51.100.8
client_address in list:nets             | yes | client_address=10.1.2.3
client_address in list:nets             | yes | client_address=10.1.3.3
client_address in list:nets             | yes | client_address=2001:db8:1::1
client_address in list:nets             | yes | client_address=2001:db9::1
client_address in list:nets             | no  | client_address=2001:db9::2
client_address in list:nets             | no  | client_address=unknown
server_address in list:nets             | yes |

client_name in list:names               | yes | client_name=mail.example.org
client_name in list:names               | yes | client_name=MAIL.example.org
client_name in list:names               | no  | client_name=a.mail.example.org
client_name in list:names               | no  | client_name=example.org
client_name in list:names               | yes | client_name=a.b.example.info
client_name in list:names               | no  | client_name=example.info
client_name in list:names               | no  | client_name=xexample.info
client_name in list:names               | no  | client_name=unknown
recipient_domain in list:names          | yes | recipient=x@mail.example.org
helo_name in list:names                 | no  | helo_name=
sasl_username in list:logins            | yes | sasl_username=clerk
sasl_username in list:logins            | yes | sasl_username=CLERK
sasl_username in list:logins            | yes | sasl_username=web-shop
sasl_username in list:logins            | no  | sasl_username=clerk@example.com
sasl_username in list:logins            | no  | sasl_username=clerks
sasl_username in list:logins            | no  |

recipient under example.com             | yes |
recipient under Example.COM             | yes |
recipient under com                     | yes |
recipient under xample.com              | no  |
recipient under a.example.com           | no  |
recipient under example.com             | yes | recipient=x@a.b.EXAMPLE.com
recipient under example.com             | no  | recipient=example.com@x
recipient under example.com             | no  | recipient=x@notexample.com
recipient under example.com             | no  | recipient=
recipient under example.com             | yes | recipient=a@b@example.com
recipient under example.com             | no  | recipient=x@example.com@b.example
client_name under example.net           | yes |
client_name under mail.example.net      | yes |
client_name under example.net           | no  | client_name=unknown
sender_domain under net                 | yes |
helo_name under example.net             | yes |
sasl_username under example.com         | yes | sasl_username=u@example.com
sasl_username under example.com         | no  | sasl_username=u
not recipient under example.com         | no  |
not recipient under example.com         | yes | recipient=x@y.example
recipient under bücher.example          | yes | recipient=x@bücher.example

recipient like *@x.example              | yes | recipient=b@x.example.
recipient matches @x\.example$          | yes | recipient=b@x.example.
not sender like *@x.example             | no  | sender=b@x.example.
client_name like *.example.net          | yes |
client_name like *.EXAMPLE.net          | yes |
client_name like example.net            | no  |
client_name like *example*              | yes |
client_name like *.example              | no  |
client_name like m?il.example.net       | yes |
client_name like m?ail.example.net      | no  |
client_name like *                      | yes | client_name=
client_name like ?*                     | no  | client_name=
client_name like [k-n]ail.example.net   | yes |
client_name like [K-N]ail.example.net   | yes |
client_name like [a-l]ail.example.net   | no  |
client_name like [!a-l]ail.example.net  | yes |
client_name like [!m]ail.example.net    | no  |
client_name like [xm]ail.*              | yes |
client_name like *-[0-9]*-[0-9]*.dsl.*  | yes | client_name=p-12-7.dsl.example.net
client_name like *-[0-9]*-[0-9]*.dsl.*  | no  | client_name=p-12.dsl.example.net
recipient_localpart like \*             | yes | recipient=*@x
recipient_localpart like \*             | no  | recipient=a@x
recipient_localpart like a[]]b          | yes | recipient=a]b@x
recipient_localpart like a[!]]b         | no  | recipient=a]b@x
recipient_localpart like a[!]]b         | yes | recipient=axb@x
recipient_localpart like a[b-]c         | yes | recipient=a-c@x
recipient_localpart like b?r            | yes | recipient=bär@x
recipient_localpart like b?r            | no  | recipient=bäär@x
recipient_localpart like b[äö]r         | yes | recipient=bör@x
recipient_localpart like *a*a*a*b       | no  | recipient=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@x
client_address like 192.0.2.*           | yes |
size like 2*                            | yes | size=20
recipient_is_local like y*              | yes |
not client_name like *.example.net      | no  |
sender like *@example.net               | yes |
sender like *                           | yes | sender=

helo_name matches ^mail\.example        | yes |
helo_name matches ^MAIL\.Example        | yes |
helo_name matches ^mail\.example        | yes | helo_name=MAIL.EXAMPLE.org
helo_name matches example               | yes |
helo_name matches ^example              | no  |
helo_name matches ^$                    | yes | helo_name=
helo_name matches .                     | no  | helo_name=
helo_name matches ^\[?[0-9.]+\]?$       | yes | helo_name=[192.0.2.10]
helo_name matches ^\[?[0-9.]+\]?$       | no  |
sender matches ^(sales|offers?)[0-9]{3,}@ | yes | sender=offer123@x
sender matches ^(sales|offers?)[0-9]{3,}@ | no  | sender=offer12@x
recipient_localpart matches ^b.r$       | yes | recipient=bär@x
recipient_localpart matches ^b.r$       | no  | recipient=bäär@x
recipient_localpart matches ä           | yes | recipient=bär@x
size matches ^[1-9]                     | yes | size=17
not helo_name matches ^mail             | no  |
not helo_name matches ^web              | yes |
sender matches (.)\1                    | no  | sender=abc@x
sender matches ([a-z])\1                | yes | sender=abbc@x

sender = {sasl_username}                | yes | sasl_username=alice@example.net
sender = {sasl_username}                | yes | sasl_username=ALICE@example.net
sender = {sasl_username}                | no  | sasl_username=alice
sender = {sasl_username}                | yes | sender=
sender != {sasl_username}               | no  | sasl_username=alice@example.net
sender != {sasl_username}               | yes | sasl_username=bob@example.net
sender != {sasl_username}               | yes |
sender != {SASL_Username}               | yes |
sender = {sasl_username}@example.net    | yes | sasl_username=alice
sender = {sasl_username}@{recipient_domain} | yes | sasl_username=a ~ sender=a@example.com
helo_name = [{client_address}]          | yes | helo_name=[192.0.2.10]
helo_name = {{client_address}}          | yes | helo_name={192.0.2.10}
policy_context = {size                  | yes | policy_context={size
client_address = {server_address}       | yes | server_address=192.0.2.10
client_address = {server_address}       | no  |
client_address != {server_address}      | yes |
recipient_localpart = {sender_localpart} | yes | recipient=Alice@example.com
client_name = {reverse_client_name}     | yes |
recipient under {sender_domain}         | yes | sender=x@example.com
recipient under {sender_domain}         | yes | sender=x@com
recipient under {sender_domain}         | no  | sender=x@xample.com
recipient under {sender_domain}         | no  | sender=
recipient under {sender_domain}         | no  | sender= ~ recipient=
sender under {recipient_domain}         | yes | sender=x@a.example.com
sender under {sasl_username}.example    | yes | sender=x@b.a.example ~ sasl_username=A

sender_domain = example.net             | yes |
sender_domain = Example.net             | yes | sender=x@EXAMPLE.NET
sender_domain is empty                  | yes | sender=
sender_domain is empty                  | yes | sender=postmaster
sender_domain = b.example               | yes | sender=x@a.example@b.example
sender_localpart = alice                | yes |
sender_localpart = x@a.example          | yes | sender=x@a.example@b.example
sender_localpart is empty               | yes | sender=
recipient_domain = example.com          | yes |
recipient_domain is empty               | yes | recipient=
recipient_domain is empty               | yes | recipient=bob
recipient_localpart = bob               | yes |
recipient_localpart = bob+ext           | yes | recipient=bob+ext@example.com
recipient_localpart is empty            | yes | recipient=@example.com
recipient_is_local = yes                | yes |
recipient_is_local = YES                | yes |
recipient_is_local = no                 | no  |
recipient_is_local != yes               | no  |
recipient_is_local = yes                | yes | recipient=nobody@EXAMPLE.com
recipient_is_local = yes                | yes | recipient=x@alias.example
recipient_is_local = yes                | yes | recipient=x@a.b.sub.example
recipient_is_local = yes                | no  | recipient=x@a.example.com
recipient_is_local = yes                | no  | recipient=x@off.example
recipient_is_local = no                 | yes | recipient=x@other.example
recipient_is_local = no                 | yes | recipient=
recipient_is_local = {stress}           | yes | stress=yes
client is not empty                     | yes |
client = example.net                    | yes |
client = example.co.uk                  | yes | client_name=mx1.out.example.co.uk
client like 192.0.2.*                   | yes | client_name=unknown
client like 192.0.2.*                   | yes | client_name=192-0-2-10.dsl.example.net
client = example.net                    | no  | client_name=192-0-2-10.dsl.example.net
END

{
	my @cases;
	for my $line (grep {length} split /\n/, $CASES) {
		my ($condition, $want, $given) =
			$line =~ /^(.*?) *\| (yes|no) +\| ?(.*)$/ or die "what? $line";
		my %attr = map { my ($k, $v) = /^(\w+)=(.*)$/s or die "what? $line";
			($k => $v eq '-' ? undef : encode_utf8($v)) } split / ~ /, $given;
		push @cases, [ $condition, $want, \%attr, $given ];
	}

	# All in one set of rules, each tied to its case by the reverse name: once
	# by a condition that an index can use, once by one that it cannot.
	for my $tie ('reverse_client_name = case%d.x',
		'not reverse_client_name != case%d.x') {
		my $n     = 0;
		my @rules = map {
			rule("450 4.9.9 hit $n",
				[ sprintf($tie, $n++), $_->[0] ],
				state => 'ANY')
		} @cases;
		my @wrong;

		rules(@rules);
		for my $i (0 .. $#cases) {
			my ($condition, $want, $attr, $given) = @{ $cases[$i] };
			my %attr = %$attr;
			# An attribute that must be there, but for this question.
			my $got = $d->ask(reverse_client_name => "case$i.x", %attr)
				// 'none';
			my $holds = $got eq "450 4.9.9 hit $i" ? 'yes' : 'no';
			if ($condition =~ /reverse_client_name\}/) {
				$got = $d->ask(reverse_client_name => "case$i.x",
					client_name => "Case$i.x");
				$holds = $got eq "450 4.9.9 hit $i" ? 'yes' : 'no';
			}
			is($holds, $want, encode_utf8("$condition" .
				(length $given ? " ($given)" : '')))
				or diag "answer: $got";
		}
	}
}

# Several conditions: all must hold; none: it always does.
rules(
	rule('450 4.9.1 both', [ 'size > 10', 'sender = a@x', 'helo_name like m*' ]),
	rule('450 4.9.2 always', [], priority => 20)
);
is($d->ask(size => 11, sender => 'a@x'), '450 4.9.1 both', 'all hold');
is($d->ask(size => 10, sender => 'a@x'), '450 4.9.2 always', 'one does not');
is($d->ask(size => 11, sender => 'b@x'), '450 4.9.2 always', 'another does not');
is($d->ask(size => 11, sender => 'a@x', helo_name => 'x'),
	'450 4.9.2 always', 'the last does not');

# Bytes that are no text, and values as long as may be.
{
	my $n     = 0;
	my @rules = map { rule('450 4.9.9 hit', [ $_, "stress = s$n" ],
		comment => $n++) }
		'sender matches .', 'sender like *?*', 'sender = x', 'sender in a, b',
		'sender in list:mail', 'sender under example.com', 'sender = {helo_name}',
		'sender matches ^(.*)@(.*)$', 'sender_localpart like [!a]*',
		'client_address in 10.0.0.0/8', 'size > 7', 'not size < 9';
	rules(@rules);
	for my $bytes ("\xc3\x28\xff\xfe\@\xe2\x82", "\x01\x7f\@\x80", '@' x 300,
		'a' x 2000 . '@' . 'b' x 2000, '.' x 1000, '@.', '.@.', "\xc3") {
		for my $i (0 .. $#rules) {
			my $got = $d->ask(
				map({ $_ => $bytes } qw(sender sasl_username helo_name
					client_address client_name size recipient)),
				stress => "s$i",
			);
			ok(defined $got, "odd values: $rules[$i]{conditions}[0]")
				or diag $d->log;
		}
	}
}

# ---- actions of Postfix ----

{
	my @actions = (
		'DUNNO', 'OK', 'RELAY', 'DUNNO with a text', 'REJECT',
		'REJECT 5.7.1 Not wanted here', 'reject No', 'DEFER',
		'DEFER 4.7.1 Not today', 'DEFER_IF_PERMIT 4.2.0 Later',
		'DEFER_IF_REJECT 4.7.1 Our fault', '450 4.7.1 Later',
		'550 5.7.1 No', '550 No', '521 5.7.1 Bye', '421 4.7.0 Bye', '599 x',
		'HOLD', 'HOLD for a look', 'DISCARD', 'DISCARD nobody reads this',
		'FILTER smtp:[127.0.0.1]:10025', 'REDIRECT user@example.com',
		'BCC archive@example.com', 'PREPEND X-Spam: no; a=b, c',
		'INFO seen', 'WARN look at this', 'permit_mynetworks',
		'reject_unverified_recipient',
		'permit_sasl_authenticated, reject_rbl_client zen.example.org',
		'sleep 1', 'warn_if_reject reject_unknown_sender_domain',
		'550 5.7.1 Grüße, 日本', '550 5.7.1 {', '550 5.7.1 { sender }',
		'550 5.7.1 100% "of" it; # all \\n $x',
		'550 5.7.1 ' . 'x' x 390,
	);
	my $n = 0;
	rules(map { rule($_, [ 'policy_context = a' . $n++ ], state => 'ANY') }
		@actions);
	for my $i (0 .. $#actions) {
		my $want = encode_utf8($actions[$i]);
		is($d->ask(policy_context => "a$i"), $want, "arrives: $want");
		next if $i > 20;
		is($d->ask(policy_context => "a$i", protocol_state => $_,
			recipient => 'no@other.example', recipient_count => 1), $want,
			"at $_: $want") for qw(DATA END-OF-MESSAGE CONNECT MAIL);
	}
}

# Placeholders in their texts.
{
	my @texts = (
		[ '550 5.7.1 <{sender}> to {recipient_localpart} at {RECIPIENT_domain}',
			'550 5.7.1 <alice@example.net> to bob at example.com' ],
		[ '550 5.7.1 {size} {sasl_username}{recipient_is_local} { size } {',
			'550 5.7.1 0 yes { size } {' ],
		[ 'PREPEND X-Client: {client_name} [{client_address}]',
			'PREPEND X-Client: mail.example.net [192.0.2.10]' ],
		[ 'REDIRECT {recipient_localpart}@archive.example',
			'REDIRECT bob@archive.example' ],
		[ 'HOLD {helo_name}', 'HOLD mail.example.net' ],
		[ 'DUNNO {sender_domain}', 'DUNNO example.net' ],
	);
	my $n = 0;
	rules(map { rule($_->[0], [ 'policy_context = p' . $n++ ]) } @texts);
	is($d->ask(policy_context => "p$_"), $texts[$_][1],
		"filled in: $texts[$_][0]")
		for 0 .. $#texts;
}

# Whatever Postfix puts before a text, its whole reply is no longer than 510.
{
	my $odd   = '"\\' x 40;    # it writes each of these twice
	my @cases = (
		[ 'an ETRN domain', 'Etrn command', 'e' x 200,
			etrn_domain => 'e' x 200, protocol_state => 'ETRN' ],
		[ 'a sender', 'Sender address', 's' x 200 . '@x',
			sender => 's' x 200 . '@x' ],
		[ 'a sender that is quoted', 'Sender address',
			'"' . $odd =~ s/(["\\])/\\$1/gr . '"@x',
			sender => "$odd\@x" ],
		[ 'a recipient that is quoted', 'Recipient address',
			'"' . $odd =~ s/(["\\])/\\$1/gr . '"@example.com',
			recipient => "$odd\@example.com" ],
		[ 'a HELO name', 'Helo command', 'h' x 255,
			helo_name => 'h' x 255 ],
		[ 'a client', 'Client host', 'c' x 255 . '[192.0.2.10]',
			client_name => 'c' x 255 ],
	);
	rules(rule('550 5.100.100 ' . 'x' x 380, [], state => 'ANY'));
	for my $case (@cases) {
		my ($name, $class, $shown, %ask) = @$case;
		my $got  = $d->ask(%ask) // '';
		my $text = $got =~ s/^550 5\.100\.100 (?=x)//r;
		my $line = "550 5.100.100 <$shown>: $class rejected: $text";
		isnt($text, $got, "a long text behind $name")
			or diag $got;
		cmp_ok(length $line, '<=', 510, 'fits into a reply of Postfix');
		cmp_ok(length $line, '>=', 480, 'of which nothing is left unused');
	}
}

# ---- dangerous texts ----

sub refused {
	my ($action, @more) = @_;
	my %row = (priority => 1, conditions => [], action => $action, @more);
	my @column = sort keys %row;
	my $taken = eval {
		$dbh->begin_work;
		$dbh->do(
			sprintf(
				'INSERT INTO policyd.rule (%s) VALUES (%s)',
				join(', ', @column),
				join(', ', ('?') x @column)
			),
			undef,
			@row{@column}
		);
		1;
	};
	my ($state, $why) = ($dbh->state, $dbh->errstr // '');
	$dbh->rollback;
	my $name = join ' / ', map { ref $_ ? @$_ : $_ // 'null' } @row{@column};
	ok(!$taken, encode_utf8("refused: $name"));
	return if $taken;
	is($state, '23514', '  as a row that breaks a check');
	like($why, qr/^HINT: /m, '  and with a hint') or diag $why;
	return $why;
}

refused($_) for '', ' ', '550', '250 OK', '550 5.7.1', '450 4.7.1', '12345',
	'600 x', '399 x', '45 x', 'DUNNO ', ' DUNNO', "550 5.7.1 a\nb",
	"550 5.7.1 a\x01b", "550 5.7.1 a\x{85}b", "550 5.7.1 a\tb", 'REJECTED',
	'FOO: bar', 'REDIRECT nobody', 'REDIRECT', 'BCC nobody', 'FILTER smtp',
	'PREPEND no header', 'PREPEND', 'DEFER_IF_PERMIT 4.7.1', 'REJECT 5.7.1',
	'check_sender_access hash:/x', 'check_policy_service unix:x',
	'550 5.7.1 ' . 'x' x 400, 'DUNNO, reject', '550 5.7.1 {nosuch}',
	'REDIRECT {sasl_username}', 'set', 'set relay', 'set relay maybe',
	'set nothing yes', 'set relay yes no', 'set max_recipients 0',
	'set max_recipients 1000001', 'set max_recipients x',
	'set errors_total 1001', 'set errors_total -1', 'set errors_wait 61s',
	'set errors_wait x', 'set errors_wait 2m', 'set greylist authenticated',
	'set vrfy', 'set expn on', 'set script 1x', 'set script a.b',
	'set script a b', 'script', 'script A', 'script a;b', 'limit', 'limit a b',
	'greylist now', 'close';
like(refused('DUNNO', conditions => ['sendr is empty']), qr/sendr/,
	'the error quotes the part that is wrong');
like(refused('DUNNO', conditions => [ 'size > 1', 'client_address in 10.0.0.1/8' ]),
	qr{10\.0\.0\.1/8}, 'also in another condition');
refused('DUNNO', conditions => [$_])
	for '', 'sender', 'sender =', 'sender is', 'sender contains x', 'not',
	'request = x', 'size > x', 'size > 1T', 'sender > 1', 'size in list:x',
	'client_address = x', 'client_address in 192.0.2.256',
	'client_address in 10.0.0.0/33', 'client_address in 010.0.0.0',
	'client_address in 10.0.0.0/8,', 'client_address in a.example',
	'recipient_is_local = maybe', 'sender in list:', 'sender in list:a b',
	'sender under -x', 'size under x', 'sender like [a', 'sender like [b-a]',
	'sender like a\\', 'sender matches (', 'sender matches', 'sender = {nosuch}',
	'sender in a,,b', 'sender = ' . 'x' x 501, "sender = a\nb";
refused('DUNNO', state => $_) for 'rcpt', '', 'QUIT', 'any';
refused('DUNNO', conditions => ['client_address in list:mail']);
refused('DUNNO', conditions => ['sender in list:nets']);
refused('DUNNO', conditions => ['client_name in list:mail']);

# What a client sends cannot break out of a text.
{
	my @texts = (
		'550 5.7.1 No {sender}',
		'550 {sasl_username}',
		'550 5.7.1 {sasl_username}',
		'REJECT 5.7.1 {sasl_username}',
		'REDIRECT {recipient_localpart}@archive.example',
		'PREPEND X-S: {sender} {sasl_username}',
		'DEFER_IF_PERMIT 4.2.0 {sasl_username}',
	);
	my $n = 0;
	rules(map { rule($_, [ 'policy_context = p' . $n++ ]) } @texts);
	for my $value ('', ' ', '5.7.1', "\x01\x02", "\xff\xfe", "a\rb", "\t",
		'x' x 3000, "\xc3\xa4" x 1500, "\xc3", 'a b@c', '{size}') {
		for my $i (0 .. $#texts) {
			my $got = $d->ask(
				policy_context => "p$i",
				sasl_username  => $value,
				sender         => $value,
				recipient      => "$value\@any.example"
			) // 'none';
			my $name = "$texts[$i] with " . substr encode_utf8($value), 0, 10;
			$name =~ s/[^ -~]/?/g;
			my $text = $got;
			ok(utf8::decode($text), "$name: UTF-8") or diag $got;
			unlike($text, qr/[\x00-\x1f\x7f-\x9f]/, "$name: no controls");
			cmp_ok(length $got, '<=', 450, "$name: short");
			unlike($got, qr/^[45]\d\d(?: \d\.\d+\.\d+)?\s*$/,
				"$name: a code has a text");
			unlike($got, qr/^\w+ \d\.\d+\.\d+\s*$/,
				"$name: so has an action with a code");
			like($got, qr/^(?:[45]\d\d\ \S|REJECT|REDIRECT\ [^ ]+\@[^ @]+$
				|PREPEND\ X-S:\ |DEFER_IF_PERMIT\ 4|DUNNO$)/x,
				"$name: what it was, or unavailable");
			like($got, qr/^550 5\.7\.1 No\b/, "$name: its own text stays")
				if $i == 0;
			is($got eq 'DUNNO' ? 1 : 0,
				$i == 5 && $value =~ /^ ?$/ ? 1 : 0,
				"$name: DUNNO only for a header without a value");
			is($got, 'PREPEND X-S: {size} {size}',
				"$name: what is filled in is not filled in again")
				if $value eq '{size}' && $i == 5;
		}
	}
}

# ---- order ----

rules(
	rule('450 4.9.3 third', ['sender = o@x'], priority => 20),
	rule('450 4.9.2 second', [ 'sender = o@x', 'size < 200' ], priority => 10),
	rule('450 4.9.4 fourth', ['sender = o@x'], priority => 20),
	rule('450 4.9.1 first', [ 'client_name like *', 'size < 100' ],
		priority => -5),
);
is(short($d->ask(sender => 'o@x')), '450 4.9.1', 'by priority');
is(short($d->ask(sender => 'o@x', size => 100)), '450 4.9.2', 'the next');
is(short($d->ask(sender => 'o@x', size => 200)),
	'450 4.9.3', 'then the first of two');
{
	# Across conditions that an index would find in another order.
	my @rules = (
		[ 'recipient = bob@example.com' ], [ 'sender = o@x' ],
		[ 'client_address in 192.0.2.0/24' ], [ 'sasl_username = u' ],
		[ 'recipient under com' ], [ 'sender in a@x, o@x' ], [],
		[ 'client_address = 192.0.2.10' ], [ 'recipient_domain = example.com' ],
		[ 'client_name under example.net' ], [ 'size < 10' ],
		[ 'sender in list:nothing' ], [ 'not sender in list:nothing' ],
		[ 'client_address in list:nets' ], [ 'sender_localpart = o' ],
	);
	my %ask = (sender => 'o@x', sasl_username => 'u');
	for my $round (1 .. 6) {
		my @order = sort { $a->[0] <=> $b->[0] }
			map { [ int rand 5, $_ ] } @rules;
		my $n = 0;
		my %place;
		# Written in another order than they run in.
		for my $rule (@order) { $rule->[2] = $n++ }
		rules(map { rule("set max_recipients " . ($_->[2] + 1), $_->[1],
			priority => $_->[0] * 100 + $_->[2]) } reverse @order);
		my ($first) = grep { "@{$_->[1]}" ne 'sender in list:nothing' } @order;
		my %s = session();
		my $k = 0;
		$k++ while $k < 20 && $d->ask(%s, %ask,
			recipient => "r$k\@any.example", client_name => 'x.example.net')
			!~ /^452/;
		my ($hit) = grep {
			my $c = "@{$_->[1]}";
			$c !~ /nothing$|^recipient/ || $c =~ /^not/
		} @order;
		is($k, $hit->[2] + 1, "round $round: the first that holds")
			or diag explain [ map { "$_->[2]: @{$_->[1]}" } @order ];
	}
}

# ---- before what is there to be looked up ----

rules(
	rule('OK', ['sender = ok@x']),
	rule('DUNNO', ['sender = dunno@x']),
	rule('RELAY', ['sender = relay@x']),
	rule('550 5.9.9 No', ['sender = no@x']),
);
for (qw(nobody@example.com x@other.example bob moved@example.com), '') {
	is($d->ask(sender => 'ok@x', recipient => $_), 'OK', "OK for <$_>");
	is($d->ask(sender => 'dunno@x', recipient => $_), 'DUNNO', "DUNNO for <$_>");
	is($d->ask(sender => 'no@x', recipient => $_), '550 5.9.9 No', "no <$_>");
}
is(short($d->ask(recipient => 'nobody@example.com')), '550 5.1.1',
	'else the recipient is looked at');
is($d->ask(recipient => 'moved@example.com'),
	'550 5.1.6 Moved to moved@example.net', 'and has its reply');
{
	my %s = session();
	is(short($d->ask(%s, recipient => "r$_\@few.example")),
		$_ == 1 ? 'DUNNO' : '452 4.5.3', "recipient $_ of few") for 1, 2;
	is($d->ask(%s, recipient => 'r3@few.example', sender => 'dunno@x'),
		'DUNNO', 'DUNNO ends the decision before the limit');
}

# ---- what counts as an error of the session ----

{
	$d->write_ini(rcpt => { errors_total => 2 });
	$d->reload;
	my %s = session();
	is($d->ask(%s, sender => 'no@x', recipient => "r$_\@any.example"),
		'550 5.9.9 No', "refused by a rule, $_") for 1 .. 4;
	is($d->ask(%s, recipient => 'bob@example.com'), 'DUNNO', 'is no error');
	is(short($d->ask(%s, recipient => "no$_\@example.com")),
		'550 5.1.1', "error $_") for 1, 2;
	is(short($d->ask(%s, sender => 'ok@x')), '421 4.7.0',
		'too many errors come before the rules');
	$d->write_ini;
	$d->reload;
}

# ---- set: the first that sets one wins ----

sub first_wins {
	my ($setting, $one, $other, $check, @more) = @_;
	for ([ $one, $other ], [ $other, $one ]) {
		my ($first, $second) = @$_;
		rules(
			rule("set $setting $second", [ 'size > 10' ], priority => 20, @more),
			rule("set $setting $first", [], priority => 10, @more),
			rule("set $setting $second", [], priority => 15, @more),
			rule('550 5.9.9 never', [ 'size > 99' ], priority => 30, @more),
		);
		$check->($first, "set $setting $first before $second");
	}
	return;
}

first_wins('relay', 'yes', 'no', sub {
	my ($value, $name) = @_;
	is(short($d->ask(recipient => 'x@other.example', size => 11)),
		$value eq 'yes' ? 'DUNNO' : '550 5.7.1', $name);
	is(short($d->ask(recipient => 'nobody@example.com')), '550 5.1.1',
		"$name: it makes no mailbox");
	is($d->ask(recipient => 'bob@example.com', size => 100), '550 5.9.9 never',
		"$name: the rules after it run");
});
first_wins('relay', 'authenticated', 'no', sub {
	my ($value, $name) = @_;
	is(short($d->ask(recipient => 'x@other.example')), '550 5.7.1', $name);
	is(short($d->ask(recipient => 'x@other.example', sasl_username => 'u')),
		$value eq 'no' ? '550 5.7.1' : 'DUNNO', "$name: authenticated");
});
first_wins('max_recipients', 2, 4, sub {
	my ($value, $name) = @_;
	my %s = session();
	is(join(' ', map { substr short($d->ask(%s,
			recipient => "r$_\@any.example")), 0, 3 } 1 .. 5),
		join(' ', ('DUN') x $value, ('452') x (5 - $value)), $name);
});
first_wins('max_recipients', 2, 4, sub {
	my ($value, $name) = @_;
	is(short($d->ask(%data, recipient_count => $value)), 'DUNNO',
		"$name: at DATA");
	is(short($d->ask(%data, recipient_count => $value + 1)), '452 4.5.3',
		"$name: one more at DATA");
}, state => 'ANY');
first_wins('vrfy', 'yes', 'no', sub {
	my ($value, $name) = @_;
	is(short($d->ask(%vrfy, recipient => 'bob@example.com')),
		$value eq 'yes' ? 'DUNNO' : '502 5.5.1', $name);
}, state => 'VRFY');
first_wins('vrfy', 'authenticated', 'no', sub {
	my ($value, $name) = @_;
	is(short($d->ask(%vrfy, recipient => 'bob@example.com')), '502 5.5.1', $name);
	is(short($d->ask(%vrfy, recipient => 'bob@example.com',
		sasl_username => 'u')), $value eq 'no' ? '502 5.5.1' : 'DUNNO',
		"$name: authenticated");
}, state => 'ANY');
first_wins('expn', 'yes', 'no', sub {
	my ($value, $name) = @_;
	is(short($d->ask(%expn, recipient => 'team@example.com')),
		$value eq 'yes' ? '250 2.1.5' : '502 5.7.0', $name);
	is(short($d->ask(%vrfy, recipient => 'bob@example.com')), '502 5.5.1',
		"$name: and not VRFY");
}, state => 'EXPN');
first_wins('errors_total', 1, 3, sub {
	my ($value, $name) = @_;
	my %s = session();
	is(join(' ', map { substr short($d->ask(%s,
			recipient => "no$_\@example.com")), 0, 3 } 1 .. 4),
		join(' ', ('550') x $value, ('421') x (4 - $value)), $name);
});
first_wins('errors_wait', '1s', '0s', sub {
	my ($value, $name) = @_;
	my $begin = time;
	is(short($d->ask(recipient => 'no@example.com')), '550 5.1.1', $name);
	my $took = time - $begin;
	if ($value eq '1s') {
		cmp_ok($took, '>=', 0.99, "$name: held back");
	} else {
		cmp_ok($took, '<', 0.95, "$name: not held back");
	}
});
$dbh->do("CREATE FUNCTION policyd_script.f$_(request jsonb) RETURNS text
	LANGUAGE sql AS \$\$ SELECT '450 4.9.$_ script $_' \$\$") for 1, 2;
first_wins('script', 'f1', 'f2', sub {
	my ($value, $name) = @_;
	is($d->ask, $value eq 'f1' ? '450 4.9.1 script 1' : '450 4.9.2 script 2',
		$name);
	is(short($d->ask(recipient => 'nobody@example.com')), '550 5.1.1',
		"$name: only for who may receive");
});
first_wins('script', 'f1', 'none', sub {
	my ($value, $name) = @_;
	is($d->ask, $value eq 'f1' ? '450 4.9.1 script 1' : 'DUNNO', $name);
});
first_wins('greylist', 'yes', 'no', sub {
	my ($value, $name) = @_;
	like($d->ask, qr/^DUNNO|Greylisted/, $name);
});

# Settings are those of one request.
rules(rule('set relay yes', ['size = 1']));
{
	my %s = session();
	is(short($d->ask(%s, recipient => 'x@other.example', size => 1)), 'DUNNO',
		'set for one request');
	is(short($d->ask(%s, recipient => 'y@other.example')), '550 5.7.1',
		'and not for the next');
}
# The domain's own limit, unless a rule says otherwise.
rules(rule('set max_recipients 2', ['size = 1']));
for my $size (0, 1) {
	my %s = session();
	is(join(' ', map { substr short($d->ask(%s, size => $size,
			recipient => "r$_\@few.example")), 0, 3 } 1 .. 3),
		$size ? 'DUN DUN 452' : 'DUN 452 452', 'the limit of a domain');
}

# ---- shadow, enabled ----

{
	my ($refuse, $set) = rules(
		rule('550 5.9.9 shadow', ['sender = s@x'], shadow => 1, priority => 1),
		rule('set relay yes', ['sender = s@x'], shadow => 1, priority => 2),
		rule('550 5.9.8 disabled', ['sender = s@x'], enabled => 0,
			priority => 3),
		rule('550 5.9.7 later', [ 'sender = s@x', 'size = 7' ], priority => 4),
	);
	my $mark = $d->log_mark;
	is($d->ask(sender => 's@x'), 'DUNNO', 'a shadow does not answer');
	is(short($d->ask(sender => 's@x', recipient => 'x@other.example')),
		'550 5.7.1', 'nor set');
	is(short($d->ask(sender => 's@x', size => 7)), '550 5.9.7',
		'the rules after it run');
	my @lines = split /\n/, $d->log_since($mark);
	my @refuse = grep {/rule=$refuse\b/ && /shadow/} @lines;
	ok(@refuse >= 1, 'but is in the log') or diag $d->log_since($mark);
	ok((grep {/550 5\.9\.9 shadow/} @refuse), 'with its action');
	ok((grep {/rule=$set\b/ && /set relay yes/} @lines), 'so is what it would set');
	ok(!(grep {/5\.9\.8/} @lines), 'one that is not enabled leaves no trace');
	$mark = $d->log_mark;
	$d->ask(sender => 'other@x');
	unlike($d->log_since($mark), qr/rule=$refuse\b/,
		'nor does one that does not hold');
}

# The log says which rule has answered.
{
	my ($id) = rules(rule('550 5.9.9 No', ['sender = s@x']));
	my $mark = $d->log_mark;
	$d->ask(sender => 's@x');
	like($d->log_since($mark), qr/"550 5\.9\.9 No".*\brule=$id\b/,
		'a decision names its rule');
}

# ---- states ----

{
	my @states = qw(CONNECT HELO EHLO MAIL RCPT DATA END-OF-MESSAGE VRFY ETRN
		EXPN);
	my $n = 0;
	rules(
		rule('450 4.9.9 ANY', ['sender = any@x'], state => 'ANY'),
		rule('450 4.9.9 null', ['sender = null@x']),
		map { rule("450 4.9.9 $_", ['sender = one@x'], state => $_) } @states
	);
	for my $state (@states) {
		my %ask = (protocol_state => $state, recipient => 'bob@example.com',
			recipient_count => 1);
		is($d->ask(%ask, sender => 'any@x'), '450 4.9.9 ANY', "ANY: $state");
		is($d->ask(%ask, sender => 'one@x'), "450 4.9.9 $state", "at $state");
		my $got = $d->ask(%ask, sender => 'null@x');
		if ($state eq 'RCPT') {
			is($got, '450 4.9.9 null', 'null means RCPT');
		} else {
			isnt($got, '450 4.9.9 null', "and not $state");
		}
	}
	is($d->ask(protocol_state => 'SOMETHING', sender => 'any@x'),
		'450 4.9.9 ANY', 'ANY: a state that nobody knows');
	is($d->ask(sender => 'any@x', recipient => undef), 'DUNNO',
		'a request that lacks an attribute is none for rules');
}

# ---- regular expressions ----

{
	my @evil = ('^(a+)+$', '^(a|aa)+$', '^(.*)*x$', '(a*)*c', '^(a|a?)+$',
		'(?:a+){2,}c', '^(([a-z])+.)+[A-Z]([a-z])+$', '^(a?){40}a{40}$',
		'.*.*.*.*.*!!', '^(\w+\s?)*$');
	my $n = 0;
	my @id = rules(
		map({ rule('550 5.9.9 evil', [ 'stress = e' . $n++, "helo_name matches $_" ],
			priority => 5) } @evil),
		rule('450 4.9.9 next', ['stress like e*'])
	);
	$d->ask;
	my $mark = $d->log_mark;
	for my $i (0 .. $#evil) {
		my $worst = 0;
		for my $helo ('a' x 40 . '!', 'a' x 500 . '!', 'ab' x 1000 . '!',
			'a' x 15_000 . '!') {
			my $begin = time;
			my $got   = $d->ask(stress => "e$i", helo_name => $helo);
			my $took  = time - $begin;
			$worst = $took if $took > $worst;
			is($got, '450 4.9.9 next', "$evil[$i]: no match, the next rule runs");
		}
		cmp_ok($worst, '<', 0.050,
			sprintf '%s: in bounded time (%.1f ms)', $evil[$i], 1000 * $worst);
	}
	my $log = $d->log_since($mark);
	like($log, qr/regular expression.*\brule=(?:@{[ join '|', @id ]})\b/,
		'the log names a rule');
	my @lines = $log =~ /regular expression/g;
	cmp_ok(scalar @lines, '<=', 2, 'but not each time');
	is($d->ask(stress => 'e0', helo_name => 'aaaa'), '550 5.9.9 evil',
		'and it matches what is easy');
}

{
	my $mark = $d->log_mark;
	my ($id) = rules(
		rule('550 5.9.9 odd', ['helo_name matches \ymail\y']),
		rule('450 4.9.9 next', [])
	);
	is($d->ask(helo_name => 'mail'), '450 4.9.9 next',
		'an expression that is none to PCRE2 never matches');
	soon { $d->log_since($mark) =~ /\brule=$id\b/ } 'and is in the log';
	my ($status, $said) = $d->run('-t');
	is($status, 1, 'policyd -t fails');
	like($said, qr/\brule\W+$id\b/, 'and names the rule') or diag $said;
	$mark = $d->log_mark;
	($id) = rules(rule('550 5.9.9 odd', ['helo_name matches \ymail\y'],
		enabled => 'false'));
	unlike($d->log_since($mark), qr/\brule=$id\b/,
		'one that is not enabled is not in the log');
	($status, $said) = $d->run('-t');
	is($status, 0, 'nor does policyd -t fail for it') or diag $said;
	rules();
	($status, $said) = $d->run('-t');
	is($status, 0, 'policyd -t is content without it') or diag $said;
}

is($d->stop, 0, 'exit status');

# ---- the manual ----

sub plain {
	my ($text) = @_;
	my %is = ('\\(dq' => '"', '\\(aq' => "'", '\\e' => '\\', '\\&' => '');
	$text =~ s/(\\\(dq|\\\(aq|\\e|\\&)/$is{$1}/g;
	return $text;
}

subtest 'policyd.rules(5)' => sub {
	my $page = slurp(top() . '/doc/policyd.rules.5');
	my $them = install_schema(PgCluster->new);
	my $dbh  = $them->dbh;
	$them->load(top() . '/sql/examples/greylist-once.sql');
	$dbh->do(q{INSERT INTO policyd.domain (name) VALUES ('example.com'),
		('example.net'), ('example.org')});
	$dbh->do(q{INSERT INTO policyd.alias (address, destination) VALUES
		('staff@example.com', 'alice@example.com'),
		('staff@example.com', '|/bin/archive')});

	my $section = '';
	my ($sql, $conditions, $actions) = (0, 0, 0);
	while ($page =~ /^\.Sh (.+)$|^\.Dl (.+)$|^\.Bd -literal.*\n((?s:.*?))^\.Ed$/mg) {
		my ($head, $line, $display) = ($1, $2, $3);
		if (defined $head) {
			$section = $head;
		} elsif (defined $display) {
			my $text = plain($display);
			ok(eval { $them->psql($text); 1 }, 'taken: ' . substr $text, 0, 60)
				or diag $@;
			$sql++;
		} else {
			my $text = plain($line);
			my $is_action = $section eq 'RULE ACTIONS';
			ok(eval { $dbh->do('INSERT INTO policyd.rule (priority, conditions,
				action, enabled) VALUES (1000, ?, ?, true)', undef,
				$is_action ? ([], $text) : ([$text], 'DUNNO')); 1 },
				"taken: $text") or diag $@;
			$is_action ? $actions++ : $conditions++;
		}
	}
	cmp_ok($sql, '>=', 15, "$sql displays of SQL");
	cmp_ok($conditions, '>=', 25, "$conditions conditions");
	cmp_ok($actions, '>=', 20, "$actions actions");
	is($dbh->selectrow_array(q{SELECT count(*) FROM policyd.list_entry
		WHERE list = 'staff'}), 2, 'members of a list come from its alias');

	my ($readme) = slurp(top() . '/README.md') =~
		/^## Rules\n.*?^((?: {4}[^\n]*\n)+)/ms;
	ok(eval { $them->psql("DELETE FROM policyd.list_entry; $readme"); 1 }, 'those of README.md as well') or diag $@;

	my $d = PolicydTest->new(conninfo => $them->conninfo(user => 'policyd'));
	my ($status, $said) = $d->run('-t');
	is($status, 0, 'and the daemon takes all of it') or diag $said;
};

# All attributes, operators, settings and actions are in it.
subtest 'policyd.rules(5) is complete' => sub {
	my $page = plain(slurp(top() . '/doc/policyd.rules.5'));
	my ($names) = slurp(top() . '/policyd/mail/request.h') =~
		/^#define REQUEST_ATTRIBUTES\(X\)(.*?)^\n/ms;
	my @names = grep { $_ ne 'request' } $names =~ /X\((\w+)\)/g;
	cmp_ok(scalar @names, '>=', 31, 'attributes of the protocol');
	for (@names, qw(sender_domain sender_localpart recipient_domain
		recipient_localpart recipient_is_local client)) {
		like($page, qr/^\.Ic (?:[^\n]* )?$_(?: |$)/m, $_);
	}
	like($page, qr/^\.It Cm (?:[^\n]* )?set $_ /m, "set $_")
		for qw(relay max_recipients script greylist vrfy expn errors_total
		errors_wait);
	my ($actions) = slurp(top() . '/policyd/mail/action.c') =~
		/^\} actions\[\] = \{(.*?)^\};/ms;
	like($page, qr/^\.(?:It )?Cm (?:[^\n]* , Cm )?$_\b/m, $_)
		for $actions =~ /STR_INIT\("(\w+)"\)/g;
};

done_testing();
