/*
 * The turn that calls take (side.go, internal/dekker), on x86-TSO.
 *
 * Callers take `held` by a LOCKed step and give it back by a plain store, which
 * stays in the store buffer of their processor for a while. A closer sets `shut`
 * (with -DSHUT once more before), and then `closed`. A guest keeps the memory mapped while it
 * looks. With -DEXPIRE the first caller may leave the queue at any time. Each
 * process has a processor of its own; a barrier empties the buffers of all, as
 * membarrier(2) does.
 *
 * Properties: one holder at a time; nobody touches memory that is unmapped; who
 * queues up gets the side or leaves at the close (no invalid end states); by the
 * time all are done the side has retired, once, and what was shut was hung up
 * before that.
 */
#ifndef CALLERS
#define CALLERS 2
#endif
#ifndef CALLS
#define CALLS	1
#endif
#define CLOSER	CALLERS
#define GUEST	(CALLERS + 1)
#define PROCS	(CALLERS + 2)

bool held;
bool giving[PROCS];	/* held = 0 is in this processor's store buffer */

/* the bits of side.word, which are changed by LOCKed steps only */
bool queued, shut, closed, retired;
byte guests;
#define WORD	(queued + 2 * shut + 4 * closed + 8 * retired + 16 * guests)

chan queue = [CALLERS] of { byte };	/* under side.mu */
bool granted[PROCS];
bool flag;		/* flagClosed, set before closed */

/* ghosts */
byte inside;		/* calls that have the side */
byte visiting;		/* guests that look at memory */
byte retirements, done;
bool hung;

/* a store buffer drains at some time */
active proctype memory() {
end:	do
	:: atomic { giving[0] -> giving[0] = 0; held = 0 }
	:: atomic { giving[1] -> giving[1] = 0; held = 0 }
	:: atomic { giving[2] -> giving[2] = 0; held = 0 }
	:: atomic { giving[3] -> giving[3] = 0; held = 0 }
#if PROCS > 4
	:: atomic { giving[4] -> giving[4] = 0; held = 0 }
#endif
	od
}

/* a LOCKed step comes after all stores before it */
#define FENCED	(!giving[me])

/* a load of held sees one's own store first */
#define TAKEN	(held && !giving[me])

inline barrier() {	/* sync: turn */
#ifdef MUTANT_NO_BARRIER
	skip
#else
	atomic {
		n = 0;
		do
		:: n < PROCS ->
			if
			:: giving[n] -> giving[n] = 0; held = 0
			:: else
			fi;
			n++
		:: else -> break
		od;
		n = 0
	}
#endif
}

/* Flag.Take */
inline take() {
	atomic { FENCED -> ok = !held; held = 1 }
}

/* Flag.Give */
inline give() {		/* sync: turn */
	giving[me] = 1
}

inline retire() {
	do
	:: 1 ->
		look = WORD;
		if
		:: ((look & 14) != 4) || (look / 16) -> break
		:: else
		fi;
		if
		:: TAKEN -> break
		:: else
		fi;
		atomic {
			FENCED ->
			if
			:: look == WORD ->
				retired = 1; retirements++;
				assert(inside == 0 && visiting == 0 && hung);
				break
			:: else
			fi
		}
#ifdef MUTANT_NO_RETRY
		break
#endif
	od;
	look = 0
}

/* under side.mu */
inline grant() {
	atomic {
		FENCED ->
		ok = 0;
		if
		:: nempty(queue) ->
			queue?who;
			queued = nempty(queue);
			inside++;	/* for who */
			assert(inside == 1);
			granted[who] = 1;
			who = 0; ok = 1
		:: empty(queue)
		fi
	}
}

inline heed() {
	do
	:: 1 ->
		look = WORD;
		if
		:: !(look & 2) && ((look & 5) != 1) -> retire(); break
		:: else
		fi;
		look = 0;
		take();
		if
		:: !ok -> retire(); break
		:: else -> ok = 0
		fi;
		if
		:: shut ->
			assert(!retired); hung = 1;	/* it touches memory */
			shut = 0
		:: !shut
		fi;
		if
#ifdef MUTANT_BLIND
		:: 1 ->
#else
		:: closed
		:: !closed ->
#endif
			grant();
			if
			:: ok -> break
			:: else
			fi
		fi;
		give()
	od;
	ok = 0
}

inline settle() {	/* sync: turn */
	barrier();
	heed()
}

inline unlock() {
	assert(!retired);
	inside--;
	give();
	if
	:: (WORD & 7) -> heed()	/* sync: turn */
	:: !(WORD & 7)
	fi
}

proctype caller(byte me) {
	bool ok;
	byte n, look, who, calls;

	do
	:: calls == CALLS -> break
	:: calls < CALLS ->
		calls++;
		take();
		if
		:: ok ->
			ok = 0;
			if
			:: atomic { !closed -> inside++; assert(inside == 1 && !retired) };
				unlock()
			:: closed ->
				give();
				heed();
				break
			fi
		:: !ok ->
			atomic { FENCED -> queue!me; queued = 1 };
			settle();
			if
			:: atomic { granted[me] -> granted[me] = 0 };
				unlock()
			:: atomic { (flag
#ifdef EXPIRE
				|| me == 0
#endif
				) && !granted[me] ->
				queue??eval(me);
				queued = nempty(queue) };
				if
				:: flag -> break
				:: else
				fi
			fi
		fi
	od;
	done++
}

inline ask(it) {
	atomic {
		FENCED ->
		if
		:: closed || it
		:: else -> it = 1; look = 1
		fi
	};
	if
	:: look -> look = 0; settle()
	:: else
	fi
}

proctype closer(byte me) {
	bool ok;
	byte n, look, who;

#ifdef SHUT
	ask(shut);	/* CloseWrite */
#endif
	flag = 1;
	ask(shut);
	ask(closed);
	done++
}

proctype guest(byte me) {
	bool ok;
	byte n, look, who;

	if
	:: atomic { !retired -> guests++; visiting++ };
		atomic { assert(!retired); visiting-- };
		atomic { FENCED -> guests--; look = closed };
		if
		:: look -> look = 0; settle()
		:: else
		fi
	:: retired
	fi;
	done++
}

active proctype check() {
	done == PROCS ->
	assert(retirements == 1 && hung && inside == 0 && guests == 0)
}

init {
	atomic {
		run caller(0);
		run caller(1);
#if CALLERS > 2
		run caller(2);
#endif
		run closer(CLOSER);
		run guest(GUEST)
	}
}
