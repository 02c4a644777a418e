/*
 * A turn that is lent to one goroutine (internal/turn/lend.go, the Gate of
 * internal/dekker), on x86-TSO.
 *
 * The handle, which has the lock, makes CALLS calls. Enter and Leave store
 * whether it is inside by plain stores, which stay in the store buffer of its
 * processor for a while, and then load the state. A closer sets `shut` (with
 * -DTWICE two times, as CloseWrite and then Close do), and waits until that was
 * served: by whoever has the lock, or in the place of the handle when that is
 * not in a call. A visitor acts in its place for a moment. Each process has a
 * processor of its own; a barrier empties the handle's buffer, as membarrier(2)
 * does, and so does each LOCKed step of the handle itself. Until the process is
 * registered for that, at any time, a barrier does nothing, and the handle's own
 * stores to inside are LOCKed; from the first call on that finds it registered
 * they are plain. That the lock is given
 * back by a plain store is what turn.pml is about; here it is a LOCKed step.
 *
 * Properties: nobody acts in the place of a handle that is in a call; what was
 * shut is hung up, once (no invalid end states); all of it also while the handle
 * lends the turn and takes it back.
 */
#ifdef TWICE
#define ASKED 2
#else
#define ASKED 1
#endif
#ifndef CALLS
#define CALLS 2
#endif

bool held = 1, lent, shut, closed, visited;
bool registered;
bool fenced;			/* the handle's alone */
bool inside;			/* what others see of the handle */
chan buffer = [4] of { bit };	/* its stores to inside that they do not */
bool lending;			/* a mutex */

/* ghosts */
bool in, acting;
byte asked, hung;

active proctype memory() {
end:	do
	:: buffer?inside
	od
}

active proctype registrar() { registered = 1 }

inline barrier() {
#ifndef MUTANT_NO_BARRIER
	if
	:: registered ->
		atomic {
			do
			:: nempty(buffer) -> buffer?inside
			:: empty(buffer) -> break
			od
		}
	:: !registered
	fi
#else
	skip
#endif
}

inline lock() { atomic { !lending -> lending = 1 } }
inline unlock() { lending = 0 }

/* the same by the handle: LOCKed steps of its own empty its buffer */
inline handleLocks() { atomic { !lending && empty(buffer) -> lending = 1 } }
inline handleUnlocks() { atomic { empty(buffer) -> lending = 0 } }

inline act() {
	atomic { acting = 1; assert(!in) };
	acting = 0
}

inline enterFenced() {
#ifdef MUTANT_UNFENCED
	buffer!1
#else
	buffer!1; empty(buffer)
#endif
}

/* serveLent, with the mutex held */
inline serveLocked() {
	barrier();	/* sync: lend */
	if
	:: lent && !inside && shut -> act(); atomic { shut = 0; hung++ }
	:: else
	fi
}

/* serve: by whoever finds the lock free, or in the handle's place */
inline serve() {
	do
	:: atomic { shut && !held -> held = 1 };
		if
		:: shut -> act(); atomic { shut = 0; hung++ }
		:: else
		fi;
		held = 0	/* and look again */
	:: shut && held && lent -> lock(); serveLocked(); unlock(); break
	:: !shut || held && !lent -> break
	od
}

active proctype handle() {
	byte n;

	/* Lend */
	fenced = !registered;
	lent = 1;
#ifndef MUTANT_EARLY
	if
	:: shut -> handleLocks(); serveLocked(); handleUnlocks()
	:: else
	fi;
#endif
	do
	:: n < CALLS ->
		n++;
		/* Enter */
		buffer!1;	/* sync: lend */
		if
#ifndef MUTANT_BLIND
		:: fenced || shut || closed || visited ->
			/* enterSlow */
			if
			:: fenced ->
#ifdef MUTANT_HASTY
				fenced = 0;
#else
				fenced = !registered;
#endif
				enterFenced()
			:: !fenced
			fi;
			if
			:: shut || closed || visited ->
				buffer!0;
				handleLocks(); serveLocked(); handleUnlocks();
				handleLocks(); buffer!1; handleUnlocks()
			:: !(shut || closed || visited)
			fi
#endif
#ifdef MUTANT_BLIND
		:: true
#else
		:: !(fenced || shut || closed || visited)
#endif
		fi;
		/* the call */
		atomic { in = 1; assert(!acting) };
		in = 0;
		/* Leave */
		buffer!0;	/* sync: lend */
#ifndef MUTANT_NO_LOOK
		if
		:: fenced || shut ->
			/* leaveSlow */
			buffer!0; empty(buffer);
			if
			:: shut -> handleLocks(); serveLocked(); handleUnlocks()
			:: else
			fi
		:: else
		fi
#endif
	:: true -> break	/* f rests, for as long as it likes, and returns */
	:: true -> hung == ASKED -> break	/* f rests until it was closed */
	od;
	/* Reclaim */
	handleLocks(); lent = 0; buffer!0; handleUnlocks();
	/* Unlock */
	atomic { empty(buffer) -> held = 0 };
	serve()
}

active proctype closer() {
	do
	:: asked < ASKED ->
		atomic { shut = 1; asked++ };
		barrier();
		serve();
		!shut			/* AwaitShut */
	:: else -> break
	od;
	closed = 1;
	assert(hung == ASKED)
}

active proctype visitor() {
	if
	:: lent ->
		lock();
		visited = 1;
		barrier();	/* sync: lend */
		if
		:: lent && !inside -> act()
		:: else
		fi;
		visited = 0;
		unlock()
	:: true
	fi
}
