/*
 * A take-over (internal/handshake/takeover.go, handover.go): a newcomer asks
 * the listener of a name for its socket, to listen in its place.
 *
 * The old listener has a goroutine in Accept, which takes dialers off the
 * socket and gives them out, one that gives the socket to the newcomer, and one
 * that calls Close once, at any time or never. Dialers come at any time. Either
 * process may die at any step; the kernel then closes what it had. The old
 * listener's time limit for the newcomer may end at any moment, and so may the
 * newcomer's for the answer to its request. All other waits have to end by
 * themselves.
 *
 * The kernel receives in two steps: it looks for a message, and if there is
 * none for the end. A newcomer that is told to ask again is followed until it
 * finds that somebody listens, or has taken the free name.
 *
 * Properties: in the end one of the two listens, unless that one has died or
 * was closed, and never both; each dialer is given out by an Accept, or is
 * reset because all who should have served it have died or were closed; the
 * newcomer's Listen returns when the old listener has let go of the lock, or is
 * dead; dialers see the process that listens; nobody waits for ever.
 */
#ifndef DIALERS
#define DIALERS 2
#endif

#define OLD 1
#define NEW 2

mtype = { eof, g, h, n }	/* what is heard over the connection */

/* kernel state: the socket */
bool oldHas = 1, newHas, sent;	/* descriptors, and one in a message */
byte backlog;			/* dialers in it */
byte seen = OLD;		/* the process that dialers see: the last that listened */
byte lock = OLD;

/* kernel state: the connection */
bool request;			/* it is in the backlog */
chan toNew = [2] of { mtype };
chan toOld = [1] of { mtype };
bool shut;			/* the old listener does not receive any more */
bool oldClosed, newClosed;	/* the ends of the two */

/* the old listener */
bool busy;			/* it has a successor, Listener.successor */
bool given;			/* that was sent the socket */
bool draining, released, ended, ceded;
bool closing;			/* a mutex */
byte taken;			/* off the socket, and not given out yet */
bool odead, limit;

/* the newcomer */
bool listens, accepts, ndead;
bool told;			/* that it does not have the name, or was not told in time */
bool refused;			/* its Listen has returned an error */
byte newTaken;

/* ghosts */
bool closed;			/* the caller's Close has begun */
bool late;			/* and then a newcomer with the socket was told to ask again */
byte dialed;

/* the last descriptor of the socket was closed */
inline dropped() {
	if
	:: !oldHas && !newHas && !sent ->
		/* Dialers are reset if the old one was closed or is dead, or has left
		 * them to one that is dead, and if the newcomer is dead, too, or does
		 * not have the name. */
		assert(backlog == 0 || odead || closed || (ceded && ndead));
		assert(backlog == 0 || ndead || !given || told);
		assert(backlog == 0 || !ceded || ndead);
		assert(backlog == 0 || !late || ndead);
		backlog = 0;
		if
		:: request -> request = 0; oldClosed = 1
		:: else
		fi
	:: else
	fi
}

inline closeOldEnd() {
	atomic {
		oldClosed = 1;
		do
		:: toOld?_
		:: empty(toOld) -> break
		od
	}
}

inline closeNewEnd() {
	atomic {
		newClosed = 1;
		do
		:: toNew?_
		:: empty(toNew) -> break
		od;
		sent = 0;
		if
		:: request -> request = 0
		:: else
		fi;
		dropped()
	}
}

/* the kernel, after a death; the last message that was sent stays */
inline oldDies() {
	odead = 1;
	oldHas = 0;
	taken = 0;
	if
	:: lock == OLD -> lock = 0
	:: else
	fi;
	closeOldEnd();
	dropped()
}

inline newDies() {
	ndead = 1;
	newHas = 0;
	newTaken = 0;
	if
	:: lock == NEW -> lock = 0
	:: else
	fi;
	closeNewEnd()
}

/* lets go of the socket and of the names; the caller has closing */
inline drain() {
#ifdef MUTANT_CLOSE_FIRST
	if
	:: busy && given -> busy = 0; closeOldEnd()
	:: else
	fi;
#endif
	draining = 1;
	atomic { oldHas = 0; dropped() };
	lock = 0;
	atomic {
		released = 1;
		if
		:: busy && given -> busy = 0; closeOldEnd()	/* leaveToSuccessor */
		:: else
		fi;
		if
		:: taken == 0 -> ended = 1
		:: else
		fi
	}
}

active proctype accept() {
	{
		true;
end:		do
#ifndef MUTANT_KEEPS
		:: atomic { !draining && backlog > 0 -> backlog--; taken++ }
#else
		:: atomic { backlog > 0 -> backlog--; taken++ }
#endif
		:: atomic { taken > 0 && !ended ->
			taken--;
			if
			:: released && taken == 0 -> ended = 1
			:: else
			fi }
		:: atomic { !draining && oldHas && request -> request = 0; busy = 1 }
		:: atomic { draining && oldHas && request ->	/* it was taken before */
			request = 0; toNew!n; closeOldEnd() }
		od
	} unless { odead }
}

active proctype give() {
	bool ok;
	{
		true;
end:		busy;
		/* share, then give */
		atomic {
			if
			:: !draining && oldHas && !newClosed -> toNew!g; sent = 1; given = 1
			:: else
			fi
		};
		if
		:: given ->
			if	/* a look at a time, and the limit at any time */
			:: toOld?h -> ok = 1
			:: newClosed	/* what came before it is found by the second look */
			:: oldClosed
			:: limit
			fi;
			if
			:: !ok ->
#ifndef MUTANT_NO_SHUT
				shut = 1;	/* sync: takeover */
#endif
#ifndef MUTANT_NO_LOOK
				if
				:: toOld?h -> ok = 1
				:: empty(toOld)
				fi
#else
				skip
#endif
			:: ok
			fi
		:: !given
		fi;
		if
		:: ok ->	/* cede */
			atomic { !closing -> closing = 1 };
			if
			:: !draining -> ceded = 1; drain()
			:: draining
			fi;
			closing = 0
		:: !ok ->	/* giveUp, under a mutex */
			atomic {
				if
#ifndef MUTANT_TELLS
				:: !busy || (given && draining)
				:: busy && !(given && draining) ->
#else
				:: !busy
				:: busy ->
#endif
					if
					:: !newClosed -> toNew!n; late = (given && draining)
					:: newClosed
					fi;
					busy = 0
				fi
			};
			if
			:: !busy && !oldClosed -> closeOldEnd()
			:: else
			fi
		fi
	} unless { odead }
}

/* the caller of the old listener closes it, once */
active proctype close() {
	{
		if
		:: true ->
			atomic { !closing -> closing = 1 };
#ifndef MUTANT_SECOND
			if
			:: ceded	/* it does nothing */
			:: !ceded -> closed = 1; drain()
			fi;
#else
			if
			:: draining ->	/* the second Close: it resets what was taken */
				assert(taken == 0)
			:: !draining -> closed = 1; drain()
			fi;
#endif
			closing = 0
		:: true
		fi
	} unless { odead }
}

/* waits for a message, or the end */
inline hear(limited) {
	do
	:: limited -> m = 0; break	/* the answer has not come in time */
	:: toNew?m -> break
	:: empty(toNew) ->
		if
		:: oldClosed ->
#ifndef MUTANT_ONE_LOOK
			if
			:: toNew?m
			:: empty(toNew) -> m = eof
			fi;
#else
			m = eof;
#endif
			break
		:: nempty(toNew)
		fi
	od
}

active proctype newcomer() {
	mtype m;
	bool failed;
	{
		atomic {
			if
			:: oldHas -> request = 1
			:: else -> goto nobody
			fi
		};
		hear(true);
		if
		:: m == 0 -> atomic { told = 1; refused = 1; closeNewEnd() }; goto gone
		:: m == n -> told = 1; closeNewEnd(); goto again
		:: m == eof ->
			/* It looks as if the other had not set TakeOver. */
			assert(odead || closed);
			closeNewEnd();
			goto nobody	/* as its Listen does then */
		:: m == g -> atomic { sent = 0; newHas = 1 }
		fi;
#ifdef MUTANT_LISTEN_FIRST
		seen = NEW;
#endif
#ifdef MUTANT_EARLY_TAKE
		accepts = 1;
#endif
		atomic {
			if
			:: shut || oldClosed -> failed = 1
			:: else -> toOld!h	/* sync: takeover */
			fi
		};
		if
		:: failed ->
			hear(false);
#ifdef MUTANT_END_IS_NO
			if
			:: m == eof -> m = n
			:: else
			fi;
#else
			told = (m == n);
#endif
			if
			:: m == n ->
				atomic { accepts = 0; newHas = 0; closeNewEnd() };
				assert(newTaken == 0);	/* nobody serves them */
				goto again
			:: m == eof
			fi;
			seen = NEW
		:: !failed ->
			seen = NEW;
			hear(false)	/* whatever that is */
		fi;
		closeNewEnd();
		/* Listen returns */
		atomic { assert(lock != OLD); lock = NEW };
		atomic { listens = 1; accepts = 1 };
		goto gone;

again:		/* asks once more */
		if
		:: oldHas && !draining -> refused = 1; goto gone
		:: !oldHas || draining || odead
		fi;
nobody:		atomic { lock == 0 -> lock = NEW; listens = 1 };	/* on a socket of its own */
gone:		skip
	} unless { ndead }
}

active proctype newAccept() {
	{
		true;
end:		do
		:: atomic { accepts && newHas && backlog > 0 -> backlog--; newTaken++ }
		:: atomic { listens && newTaken > 0 -> newTaken-- }
		od
	} unless { ndead }
}

active proctype dialers() {
end:	do
	:: atomic { dialed < DIALERS && (oldHas || newHas || sent) -> dialed++; backlog++ }
	od
}

/* the time limit, and deaths */
active proctype fate() {
	if
	:: limit = 1
	:: true
	fi;
	if
	:: atomic { oldDies() }
	:: true
	fi
}

active proctype newFate() {
	if
	:: atomic { newDies() }
	:: true
	fi
}

#define oldListens (!odead && oldHas && !draining)

/* when nothing happens any more */
active proctype judge() {
	timeout;
	assert(!(oldListens && listens));
	assert(oldListens || listens || ndead || (refused && (odead || closed)));
	assert(oldListens || odead || closed || (ceded && (listens || ndead)));
	assert(backlog == 0 && taken == 0 && newTaken == 0);
	assert(!oldListens || seen == OLD);
	assert(!(listens && newHas) || seen == NEW)
}
