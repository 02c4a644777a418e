/*
 * The turn that calls take (internal/turn, internal/dekker), on x86-TSO.
 *
 * Callers take `held` by a LOCKed step and give it back by a plain store, which
 * stays in the store buffer of their processor for a while; but until `cheap`
 * is set, at whatever moment, they give it back by a LOCKed step, and a barrier
 * does nothing. A closer sets `shut` and `closed` at once (with -DSHUT `shut`
 * once more before), and waits until it has been hung up. A reference keeps the
 * memory mapped while its owner looks. A caller that finds the lock taken
 * queues up; the first in the queue is woken and tries, and may, at any time,
 * ask for the lock to be handed over (`starving`). With -DOPEN the closer comes
 * when the callers are done, so that nobody leaves because of the close. With
 * -DEXPIRE the first caller may leave the queue at any time. Each process has a
 * processor of its own; a barrier empties the buffers of all, as membarrier(2)
 * does.
 *
 * Properties: one holder at a time; nobody touches memory that is unmapped; a caller that
 * queues up gets the lock or leaves at the close (no invalid end states); by the
 * time all are done the turn is released, once, and what was shut was hung up
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

/* the bits of Turn.state, which are changed by LOCKed steps only */
bool queued, shut, closed, retired;
byte guests;
bool starving;		/* the same; it is looked at by itself */
#define WORD	(queued + 2 * shut + 4 * closed + 8 * retired + 16 * guests)

chan queue = [CALLERS] of { byte };	/* under Turn.mu, as the next two */
bool woken;		/* the first in the queue was woken and has not looked yet */
bool granted[PROCS];
bool token[PROCS];	/* waiter.look */
bool flag;		/* what StopErr returns, set before closed */

bool cheap;		/* the process is registered for membarrier */

active proctype registrar() {
	cheap = 1
}

/* ghosts */
byte inside;		/* calls that have the side */
byte visiting;		/* guests that look at memory */
byte retirements, done, absent;
bool hung;

/* a store buffer drains at some time */
active proctype memory() {
end:	do
	:: atomic { giving[0] -> giving[0] = 0; held = 0 }
	:: atomic { giving[1] -> giving[1] = 0; held = 0 }
	:: atomic { giving[2] -> giving[2] = 0; held = 0 }
#if PROCS > 3
	:: atomic { giving[3] -> giving[3] = 0; held = 0 }
#endif
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
	if
	:: !cheap
	:: cheap -> atomic {
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
	fi
#endif
}

/* Flag.Take */
inline take() {
	atomic { FENCED -> ok = !held; held = 1 }
}

/* Flag.Give */
inline give() {		/* sync: turn */
	if
	:: cheap -> giving[me] = 1
#ifdef MUTANT_EARLY
	:: !cheap -> giving[me] = 1
#else
	:: !cheap -> atomic { FENCED -> held = 0 }
#endif
	fi
}

inline release() {
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
	od;
	look = 0
}

/* under Turn.mu: the first in the queue is woken, unless it was */
inline wake() {
	atomic {
		FENCED ->
		if
		:: nempty(queue) && !woken ->
			woken = 1;
			queue?<who>;
			token[who] = 1; who = 0
		:: empty(queue) || woken
		fi
	}
}

/* under Turn.mu: it, which is in the queue, leaves it */
inline remove(it) {
	queue?<who>;
	if
	:: who == it -> woken = 0
	:: else
	fi;
	who = 0;
	queue??eval(it);
	queued = nempty(queue);
	starving = starving && queued
}

inline serve() {
	do
	:: !shut -> break
	:: shut ->
		take();
		if
		:: !ok -> break
		:: ok ->
			ok = 0;
			if
			:: shut ->
				assert(!retired); inside++; assert(inside == 1);
				hung = 1;	/* it touches memory */
				inside--;
				atomic { FENCED -> shut = 0 }
			:: !shut
			fi;
			give()
		fi
	od;
	if
	:: queued && !TAKEN -> wake()
	:: else
	fi;
	release()
}

inline settle() {	/* sync: turn */
	barrier();
	serve()
}

/* Turn.pass: the lock goes to the first in the queue */
inline pass() {
	atomic {
		FENCED ->
		if
		:: starving && !shut && !closed && nempty(queue) ->
			queue?<who>;
			starving = 0;
			queue?who; queued = nempty(queue); woken = 0;
			granted[who] = 1; token[who] = 1;
			who = 0; ok = 1
		:: !starving || shut || closed || empty(queue)
		fi
	}
}

inline unlock() {
	assert(!retired && inside == 1);
	if
	:: queued || starving -> pass()
	:: else
	fi;
	if
	:: ok -> ok = 0		/* inside stays 1, for the one that has it now */
	:: else ->
		inside--;
		give();
		if
		:: (WORD & 7) -> serve()	/* sync: turn */
		:: !(WORD & 7)
		fi
	fi
}

/* the caller has just taken the lock: it is of use unless the turn is closed */
inline enter() {
	if
#ifdef MUTANT_BLIND
	:: atomic { inside++; assert(inside == 1 && !retired) };
		unlock()
#endif
	:: atomic { !closed -> inside++; assert(inside == 1 && !retired) };
		unlock()
	:: closed ->
		give();
		serve()
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
			enter()
		:: !ok ->
			atomic {
				FENCED ->
				n = empty(queue);
				queue!me; queued = 1
			};
			if
			:: n -> n = 0; settle()
			:: else
			fi;
			do
			:: atomic { token[me] -> token[me] = 0 };
				atomic {
					FENCED ->	/* Turn.tries, under Turn.mu */
					if
					:: granted[me] -> granted[me] = 0; ok = 1; n = 1
					:: !granted[me] ->
						queue?<who>;
						if
						:: who == me ->
							who = 0;
#ifndef MUTANT_ASLEEP
							woken = 0;
#endif
							if
							:: !held -> held = 1; ok = 1; remove(me)
							:: held && !closed -> starving = 1
							:: held
							fi
						:: else -> who = 0
						fi
					fi
				};
				if
				:: ok && n -> ok = 0; n = 0;	/* inside is ours already */
					if
					:: !closed -> unlock()
					:: closed -> inside--; give(); serve()
					fi;
					break
				:: ok && !n -> ok = 0; enter(); break
				:: else
				fi
			:: atomic { (flag
#ifdef EXPIRE
				|| me == 0
#endif
				) ->
				if
				:: granted[me] -> granted[me] = 0; ok = 1
				:: !granted[me] -> remove(me)
				fi;
				token[me] = 0 };
				if
				:: ok -> ok = 0;
					if
					:: !closed -> unlock()
					:: closed -> inside--; give(); serve()
					fi
				:: else ->
#ifndef MUTANT_SELFISH
					serve()
#else
					skip
#endif
				fi;
				break
			od
		fi
	od;
	atomic { absent++; done++ }
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

#ifdef OPEN
	absent == CALLERS;
#endif
#ifdef SHUT
	ask(shut);	/* CloseWrite */
	!shut;		/* AwaitShut */
#endif
	flag = 1;
	atomic { FENCED -> shut = 1; closed = 1 };	/* Close sets both */
	settle();	/* sync: turn */
	!shut;
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
#if CALLERS > 1
		run caller(1);
#endif
#if CALLERS > 2
		run caller(2);
#endif
		run closer(CLOSER);
		run guest(GUEST)
	}
}
