/*
 * Polling slots of a process: leader and followers.
 *
 * At most CAP waiters poll (have a slot), and EXTRA more as long as there is no
 * crowd: in the model they may or may not. The others are followers: they are
 * on the incoming stack or on the private list of the leader, and block. A
 * waiter with a slot that gets the role of the leader checks their words too. A
 * waiter that leaves a slot promotes a follower, unless another one will.
 *
 * Each of N waiters waits once. Its words become ready, or its deadline passes,
 * at any time (env). Polling is modelled as blocking until there is something
 * to see, so `timeout` in env means that nothing more will happen by itself;
 * then whoever is ready must be done.
 *
 * Two ways for a follower not to miss a slot that has become free: it takes it for
 * itself, or (-DAPPOINT, as the code does) it does what a leaver does.
 */
#ifndef N
#define N   4
#endif
#ifndef CAP
#define CAP 2
#endif
#ifndef EXTRA
#define EXTRA 0
#endif
#ifndef INTR
#define INTR 1		/* how many deadlines may pass */
#endif

mtype = { WAITING, POLLS, WOKEN, LEAD, GONE };

mtype st[N];		/* state of a follower's node, changed by CAS only */
bool ready[N];		/* its words say ready */
bool intr[N];		/* its deadline has passed */
bool tok[N];		/* its channel */
bool done[N];
byte slots;
short followers;	/* nodes on the two lists, stale ones too */
byte inc;		/* incoming stack, as a set */
byte list;		/* private list: of who holds the role */
bool leader;		/* the role */
byte intrs;
byte started;

#define BIT(j)  (1 << (j))
#define UP(j)   (ready[j] || intr[j])
/* there is a node on the private list that the leader would take off */
#define OFF(j)  ((list & BIT(j)) && (st[j] != WAITING || ready[j]))
#if N == 3
#define ANYOFF  (OFF(0) || OFF(1) || OFF(2))
#define ALLUP   (UP(0) && UP(1) && UP(2))
#else
#define ALLUP   (UP(0) && UP(1) && UP(2) && UP(3))
#define ANYOFF  (OFF(0) || OFF(1) || OFF(2) || OFF(3))
#endif

inline take_slot(ok) {
	atomic {
		if
		:: slots < CAP -> slots++; ok = 1
		:: else -> ok = 0
		fi
	}
}

inline take_any_slot(ok) {
	atomic {
		if
		:: slots < CAP + EXTRA -> slots++; ok = 1
		:: slots >= CAP -> ok = 0
		fi
	}
}

inline give_slot() {
	atomic { assert(slots > 0); slots--; slot = 0 }	/* sync: slot: store, then a look for followers */
}

inline take_role(ok) {
	atomic { ok = !leader; leader = 1 }
}

inline drain() {
	atomic { list = list | inc; inc = 0 }
}

inline unlink() { list = list & ~BIT(j) }

proctype waiter(byte me) {
	bool slot, role;	/* what this one holds */
	bool follows;		/* it has just become a follower */
	byte j;

	/* --- enter (first looks in order: the waiters are alike) --- */
	atomic {
		started == me -> started++;
		take_any_slot(slot);
		if
		:: slot -> goto poll
		:: else
		fi
	};
	st[me] = WAITING;
#ifdef COUNT_FIRST
	followers++;
	atomic { inc = inc | BIT(me) };
#else
	atomic { inc = inc | BIT(me) };	/* push, then look again */
	followers++;	/* sync: slot: store, then a look for a slot */
#endif
#ifndef MUTANT_NO_RECHECK
#ifdef PROMOTE
	follows = 1;
	goto promote;
#else
	take_slot(slot);
	if
	:: slot ->
		atomic {	/* CAS: the node is stale from now on */
			if
#ifdef MUTANT_NO_CLAIM
			:: true -> goto poll
#else
			:: st[me] == WAITING -> st[me] = POLLS; goto poll
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
			:: st[me] == LEAD -> slot = 1; role = 1; goto poll
			:: st[me] == WOKEN -> goto out
			:: st[me] == WAITING && intr[me] -> st[me] = GONE; goto out
			:: st[me] == WAITING && !intr[me]
			fi
		}
	od;
two:	atomic { slots--; assert(slots > 0) };	/* was promoted while it helped itself */

	/* --- poll --- */
poll:	do
	:: UP(me) -> break
	:: atomic { !UP(me) && !role && followers > 0 && !leader -> leader = 1; role = 1 }
	:: atomic { !UP(me) && role && inc != 0 -> list = list | inc; inc = 0 }
	:: atomic { !UP(me) && role && ANYOFF ->
			/* a step of the scan: one node */
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
	:: atomic { role -> leader = 0; role = 0 }	/* sync: slot: store */
	:: !role
	fi;
	give_slot();
#ifdef MUTANT_BLIND
	goto out;
#endif
promote:
	do
	:: followers <= 0 -> break	/* sync: slot: load */
#ifdef PROMOTE
	:: followers > 0 && leader -> break	/* the leader comes here when it is over */
	:: followers > 0 && !leader ->
#else
	:: followers > 0 ->
#endif
		take_slot(slot);
		if
		:: !slot -> break	/* who has it looks when it leaves */
		:: slot
		fi;
		take_role(role);
		if
#ifdef PROMOTE
		:: !role -> give_slot(); goto promote	/* somebody may have missed our slot */
#else
		:: !role -> give_slot(); break	/* as above */
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
					st[j] = LEAD; slot = 0; role = 0;
					tok[j] = 1; j = 0;
					goto served
				:: else		/* stale: the next */
				fi;
				j = 0
			}
		:: list == 0 -> break
		od;
		atomic { leader = 0; role = 0 };
		give_slot();
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
		:: ALLUP -> assert(slots == 0 && !leader); break
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
