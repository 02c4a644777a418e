/*
 * Two waiters of one Conn share one doorbell.
 *
 * Side 0 is the reader (waits for bytes of ring B), side 1 the writer (waits
 * for room in ring A). Each ring's other end lives in the peer: peer(i) makes
 * side i ready by a publish. Local interrupts stand for a passed deadline
 * (one side) and for Close (both).
 *
 * Properties: nobody waits for ever (invalid end states); the bell has at most
 * one reader.
 *
 * Scenarios (the peer may stop for good anywhere):
 *   -DQUIET  one side's deadline passes at any time and is set anew; when all is
 *            quiet, whoever was ready or timed out must have got it; then Close
 *   -DCLOSE  a deadline passes and Close happens, both at any time
 *   -DDEATH  the peer dies at any time: the bell ends in EOF
 *
 * Epochs are not numbers here (they are in park.pml): a publisher only asks
 * whether the epoch is odd and whether it has rung for it before, and one bit
 * per side, cleared by each store of an epoch, answers that exactly.
 */
#ifdef CLOSE
#define ROUNDS 1	/* waits of side i */
#else
#define ROUNDS (2 - i)
#endif
#ifdef QUIET
#define PIPE   1	/* bytes that fit into the doorbell */
#else
#define PIPE   2
#endif

byte got[2];		/* what side i has taken */
byte pos[2];		/* what peer(i) has published to side i */
bool parked[2];		/* the epoch of side i is odd */
bool rung[2];		/* peer(i) has rung for the epoch of side i */
byte bell;		/* bytes in the doorbell */
bool eof;		/* the peer's end of the doorbell is closed */
bool gone;		/* this end has seen the EOF */
bool holder;		/* somebody reads the doorbell */
bool tok[2];		/* private channels of capacity 1 */
bool broken;		/* sticky read deadline in the past */
bool stale;		/* the last read found it; owned by the holder */
bool flag[2];		/* interrupt of a side */
bool shut;		/* this end is closed */
bool dead;		/* the peer has died */
byte reading;		/* ghost: readers of the bell */

#define READY (pos[i] > got[i] || flag[i] || shut || gone)

inline token(to) { tok[to] = 1 }	/* non-blocking send */

inline store_epoch(odd) {
	atomic { parked[i] = odd; rung[i] = 0 }
}

/* one holder */
inline hold() {
	atomic { !holder -> holder = 1; reading++; assert(reading == 1) }	/* sync: bell: store; then the flags */
}

/* the new holder clears what an earlier interrupt has left behind, and only then
   looks at the flags (one step with what comes next, which interrupts do not see) */
inline mend() {
	if
	:: stale -> stale = 0; broken = 0
	:: else
	fi
}

inline pass_on(yes) {	/* release, then the token: always */
	atomic { reading--; holder = 0 };
	if
	:: yes -> token(1 - i)
	:: else
	fi
}

#ifdef MUTANT_NO_PASS
#define PASS heard
#else
#ifdef MUTANT_KEEP_BYTE
#define PASS !heard
#else
#define PASS true
#endif
#endif

proctype side(byte i) {
	bool heard;	/* the read took a byte */

	do
	:: got[i] == ROUNDS -> break
	:: else ->
		/* who polls reads the doorbell now and then, to see an EOF; here side 0 */
		if
#ifdef MUTANT_STEAL
		:: i == 0 ->
			atomic {
#else
		:: atomic { i == 0 && !holder -> holder = 1; reading++ };
			atomic {	/* a read that does not block */
				mend();
#endif
				if
				:: bell > 0 -> bell = 0
				:: bell > 1 -> bell--
				:: bell == 0 -> gone = eof
				fi
			};
#ifndef MUTANT_STEAL
			pass_on(1)
#endif
		:: skip		/* not now, or there is a holder, who will see it */
		fi;
		do
		:: hold();
			atomic {
#ifndef MUTANT_CLEAR_LATE
				mend();
#endif
				store_epoch(1)	/* sync: park: store, then the look */
			};
			if
			:: READY
			:: else ->
#ifdef MUTANT_CLEAR_LATE
				atomic { mend() };
#endif
				if	/* a read of the doorbell */
				:: atomic { broken -> stale = 1 }
				:: atomic { bell > 0 && !broken ->
					heard = 1;
					if
					:: bell = 0
					:: bell--
					fi }
				:: atomic { eof && bell == 0 && !broken -> gone = 1 }
				fi
			fi;
			/* a byte means look at everything: it may be the other's */
			pass_on(PASS);
			heard = 0;
			if
			:: READY -> break
			:: else
			fi
		:: holder ->
			store_epoch(1);	/* sync: park: store, then the look */
			if
			:: READY -> break
			:: else
			fi;
			atomic { tok[i] -> tok[i] = 0 };
			if
			:: READY -> break
			:: else
			fi
		od;
		store_epoch(0);
		atomic {	/* what the caller does with it */
			if
			:: pos[i] > got[i] -> got[i] = pos[i]	/* sync: produce: load of side 0; sync: consume: of side 1 */
			:: pos[i] == got[i] && (shut || gone) -> got[i] = ROUNDS
			:: pos[i] == got[i] && !shut && !gone ->
				assert(flag[i]);
				flag[i] = 0	/* timed out; a new deadline is set */
			fi
		}
	od
}

/* The other end of side i's ring. */
proctype peer(byte i) {
	bool ring;

	do
	:: dead -> break
	:: break
	:: pos[i] == ROUNDS -> break
	:: atomic { pos[i] < ROUNDS && !dead -> pos[i]++ };	/* sync: produce: store for side 0; sync: consume: for side 1 */
		atomic {	/* one load; rung is private */
			ring = (parked[i] && !rung[i]);	/* sync: park: load */
			if
			:: ring -> rung[i] = 1
			:: else
			fi
		};
		atomic {	/* EAGAIN is success */
			if
			:: ring && !dead && bell < PIPE -> bell++
			:: else
			fi;
			ring = 0
		}
	od
}

#ifdef MUTANT_LOAD_FIRST
#define BEFORE(h) h = holder
#define AFTER(h) skip
#else
#define BEFORE(h) skip
#define AFTER(h) h = holder
#endif

inline tell(h) {	/* the flag, the token, then a look for a holder */
	AFTER(h);	/* sync: bell: load */
	if
	:: h -> broken = 1
	:: else
	fi
}

proctype deadline(byte i) {
	bool h;

	BEFORE(h);
	flag[i] = 1;	/* sync: bell: store */
	token(i);
	tell(h)
}

proctype closer() {
	bool h;

#ifdef QUIET
	atomic { timeout ->
		assert(pos[0] <= got[0] && pos[1] <= got[1]);
		assert(!flag[0] || got[0] == 2);
		assert(!flag[1] || got[1] == 1)
	};
#endif
	BEFORE(h);
	shut = 1;	/* sync: bell: store of a bit that both sides see */
	token(0);
	token(1);
	tell(h)
}

proctype killer() {
	dead = 1;
	eof = 1
}

init {
	atomic {
#ifdef CLOSE
		run deadline(0);	/* the sides are alike here */
#endif
#ifdef QUIET
		if
		:: run deadline(0)
		:: run deadline(1)
		fi;
#endif
#ifdef DEATH
		run killer();
#else
		run closer();
#endif
		run side(0);
		run side(1);
		run peer(0);
		run peer(1)
	}
}
