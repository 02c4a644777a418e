/*
 * Polling seats of a process.
 *
 * At most CAP waiters poll (are seated). The others are followers: they sit on
 * the incoming stack or on the private list of the sweeper, and block. A seated
 * waiter that gets the role of the sweeper checks their words too. Who leaves
 * a seat appoints a follower, unless somebody else will.
 *
 * Each of N waiters waits once. Its words become ready, or its deadline passes,
 * at any time (env). Polling is modelled as blocking until there is something
 * to see, so `timeout` in env means that nothing more will happen by itself;
 * then whoever is ready must be done.
 *
 * Two ways for a follower not to miss a seat that has become free: it takes it for
 * itself, or (-DAPPOINT, as the code does) it does what a leaver does.
 */
#ifndef N
#define N   4
#endif
#ifndef CAP
#define CAP 2
#endif
#ifndef INTR
#define INTR 1		/* how many deadlines may pass */
#endif

mtype = { WAITING, SEATED, WOKEN, LEAD, GONE };

mtype st[N];		/* state of a follower's node, changed by CAS only */
bool ready[N];		/* its words say ready */
bool intr[N];		/* its deadline has passed */
bool tok[N];		/* its channel */
bool done[N];
byte seats;
short followers;	/* nodes on the two lists, stale ones too */
byte inc;		/* incoming stack, as a set */
byte list;		/* private list: of who holds the role */
bool sweeper;		/* the role */
byte intrs;
byte started;

#define BIT(j)  (1 << (j))
#define UP(j)   (ready[j] || intr[j])
/* there is a node on the private list that the sweeper would take off */
#define OFF(j)  ((list & BIT(j)) && (st[j] != WAITING || ready[j]))
#if N == 3
#define ANYOFF  (OFF(0) || OFF(1) || OFF(2))
#define ALLUP   (UP(0) && UP(1) && UP(2))
#else
#define ALLUP   (UP(0) && UP(1) && UP(2) && UP(3))
#define ANYOFF  (OFF(0) || OFF(1) || OFF(2) || OFF(3))
#endif

inline take_seat(ok) {
	atomic {
		if
		:: seats < CAP -> seats++; ok = 1
		:: else -> ok = 0
		fi
	}
}

inline give_seat() {
	atomic { assert(seats > 0); seats--; seat = 0 }	/* sync: seat: store, then a look for followers */
}

inline take_role(ok) {
	atomic { ok = !sweeper; sweeper = 1 }
}

inline drain() {
	atomic { list = list | inc; inc = 0 }
}

inline unlink() { list = list & ~BIT(j) }

proctype waiter(byte me) {
	bool seat, role;	/* what this one holds */
	bool follows;		/* it has just become a follower */
	byte j;

	/* --- enter (first looks in order: the waiters are alike) --- */
	atomic {
		started == me -> started++;
		take_seat(seat);
		if
		:: seat -> goto poll
		:: else
		fi
	};
	st[me] = WAITING;
#ifdef COUNT_FIRST
	followers++;
	atomic { inc = inc | BIT(me) };
#else
	atomic { inc = inc | BIT(me) };	/* push, then look again */
	followers++;	/* sync: seat: store, then a look for a seat */
#endif
#ifndef MUTANT_NO_RECHECK
#ifdef APPOINT
	follows = 1;
	goto appoint;
#else
	take_seat(seat);
	if
	:: seat ->
		atomic {	/* CAS: the node is stale from now on */
			if
#ifdef MUTANT_NO_CLAIM
			:: true -> goto poll
#else
			:: st[me] == WAITING -> st[me] = SEATED; goto poll
#endif
			:: st[me] == LEAD -> role = 1; goto two
			:: st[me] == WOKEN -> goto leave
			fi
		}
	:: else
	fi;
#endif
#endif
	/* --- follow --- */
follow:	follows = 0;
	do
	:: atomic { tok[me] || intr[me] -> tok[me] = 0 };
		atomic {
			if
			:: st[me] == LEAD -> seat = 1; role = 1; goto poll
			:: st[me] == WOKEN -> goto out
			:: st[me] == WAITING && intr[me] -> st[me] = GONE; goto out
			:: st[me] == WAITING && !intr[me]
			fi
		}
	od;
two:	atomic { seats--; assert(seats > 0) };	/* was appointed while it helped itself */

	/* --- poll --- */
poll:	do
	:: UP(me) -> break
	:: atomic { !UP(me) && !role && followers > 0 && !sweeper -> sweeper = 1; role = 1 }
	:: atomic { !UP(me) && role && inc != 0 -> list = list | inc; inc = 0 }
	:: atomic { !UP(me) && role && ANYOFF ->
			/* a step of the sweep: one node */
			if
			:: OFF(0) -> j = 0
			:: OFF(1) -> j = 1
			:: OFF(2) -> j = 2
#if N > 3
			:: OFF(3) -> j = 3
#endif
			fi;
			if
			:: st[j] == WAITING -> st[j] = WOKEN; tok[j] = 1
			:: else
			fi;
			unlink();
			j = 0
		};
		followers--
	od;

	/* --- leave --- */
leave:	if
	:: atomic { role -> sweeper = 0; role = 0 }	/* sync: seat: store */
	:: !role
	fi;
	give_seat();
#ifdef MUTANT_BLIND
	goto out;
#endif
appoint:
	do
	:: followers <= 0 -> break	/* sync: seat: load */
#ifdef APPOINT
	:: followers > 0 && sweeper -> break	/* who sweeps comes here when it is over */
	:: followers > 0 && !sweeper ->
#else
	:: followers > 0 ->
#endif
		take_seat(seat);
		if
		:: !seat -> break	/* who has it looks when it leaves */
		:: seat
		fi;
		take_role(role);
		if
#ifdef APPOINT
		:: !role -> give_seat(); goto appoint	/* somebody may have missed our seat */
#else
		:: !role -> give_seat(); break	/* as above */
#endif
		:: role
		fi;
		drain();
		do
		:: atomic { list != 0 ->
				if
				:: (list & BIT(0)) -> j = 0
				:: (list & BIT(1)) -> j = 1
				:: (list & BIT(2)) -> j = 2
#if N > 3
				:: (list & BIT(3)) -> j = 3
#endif
				fi;
				unlink() };
			followers--;
			atomic {
				if
				:: st[j] == WAITING ->
					st[j] = LEAD; seat = 0; role = 0;
					tok[j] = 1; j = 0;
					goto served
				:: else		/* stale: the next */
				fi;
				j = 0
			}
		:: list == 0 -> break
		od;
		atomic { sweeper = 0; role = 0 };
		give_seat();
#ifdef MUTANT_NO_SECOND_LOOK
		break
#endif
	od;
served:	if
	:: follows -> goto follow
	:: else
	fi;
out:	atomic { done[me] = 1; j = 0 }
}

#define OK(j) (!UP(j) || done[j])

proctype env() {
	byte j;

	do
	:: atomic { !ALLUP ->
		if
		:: !UP(0) -> j = 0
		:: !UP(1) -> j = 1
		:: !UP(2) -> j = 2
#if N > 3
		:: !UP(3) -> j = 3
#endif
		fi;
		if
		:: ready[j] = 1
		:: intrs < INTR -> intrs++; intr[j] = 1
		fi;
		j = 0 }
	:: atomic { timeout ->
		assert(OK(0) && OK(1) && OK(2));
#if N > 3
		assert(OK(3));
#endif
		if
		:: ALLUP -> assert(seats == 0 && !sweeper); break
		:: else
		fi }
	od
}

init {
	atomic {
		byte k;

		for (k : 0 .. N - 1) {
			run waiter(k)
		}
		k = 0;
		run env()
	}
}
