/*
 * Close and death of the writing end against the reader.
 *
 * Process A: a goroutine in Write, one in Close or CloseWrite, one in Read (its
 * only part is to hold a reference until Close), and death at any point.
 * Process B: a reader; with -DLEAVES it closes or dies itself at any time.
 *
 * Properties: EOF and reset come after the last byte, EOF if and only if A
 * stored pclosed; no byte of a Write is published after pclosed; nobody touches
 * unmapped memory or a closed doorbell; everybody comes home.
 *
 * Epochs are one bit and a rung bit, as in bell.pml.
 */
#define SIZE 1
#define MSGS 2
#define PIPE 2

/* shared words and kernel state */
byte produced, consumed;
bool pclosed, cclosed;
bool pparked, prung, cparked, crung;
byte abell, bbell;	/* bytes in the doorbells of A and B */
bool agone, bgone;	/* all descriptors of A, of B are closed */

/* private to A */
bool shut;		/* closed bit of the lock word of the write side */
bool locked;		/* the same word: a Write is in */
bool half;		/* only the write side is closed */
byte refs = 2;		/* references: being open, the Read */
bool mapped = 1;
bool wake;		/* a local interrupt of the writer */
bool aeof;		/* A has read EOF from its doorbell */
bool dead;

/* ghosts */
byte acked;		/* Writes that returned success */

inline unref() {
	atomic {
		refs--;
		if
		:: refs == 0 ->
#ifdef MUTANT_GUEST_FIRST
			pclosed = 1;
#endif
			mapped = 0;
			agone = 1
		:: else
		fi
	}
}

/* A's look at B's epoch, after a publish or a closed word */
inline a_look(always) {
	atomic {
		assert(mapped);
		ring = (cparked && (always || !crung));	/* sync: park: load */
		if
		:: ring -> crung = 1
		:: else
		fi
	};
	if
	:: atomic { ring -> assert(mapped);	/* a closed doorbell could be another file by now */
			ring = 0;
			if
			:: bbell < PIPE -> bbell++
			:: else
			fi }
	:: !ring
	fi
}

/* by who gives the write side back, or by Close */
inline finish() {
#ifdef MUTANT_GUEST_FIRST
	if
	:: half -> pclosed = 1
	:: !half
	fi;
#else
	atomic { assert(mapped); pclosed = 1 };	/* sync: closed: store, after the last position */
#endif
#ifndef MUTANT_NO_RING
	a_look(1)
#endif
}

proctype writer() {
	bool ring, fin, c, held;
	byte pos, room = SIZE;

	{
	do
	:: pos == MSGS -> break
	:: else ->
		atomic {
			if
			:: shut -> break
			:: !shut -> locked = 1; refs++; held = 1
			fi
		};
		/* for room */
		do
		:: pos < room -> break
		:: else ->
			atomic { assert(mapped); pparked = 1; prung = 0 };	/* sync: park: store, then the look */
			c = (shut || aeof || cclosed);	/* sync: closed: load */
			room = consumed + SIZE;	/* sync: consume: load */
			if
			:: c || pos < room -> break
			:: else
			fi;
			if
			:: atomic { wake -> wake = 0 }
			:: atomic { abell > 0 ->
				if
				:: abell = 0
				:: abell--
				fi }
			:: atomic { abell == 0 && bgone -> aeof = 1 }
			fi
		od;
		atomic { assert(mapped); pparked = 0; prung = 0 };
		if
		:: c -> /* ErrClosed or EPIPE */
			atomic { locked = 0; fin = shut }
		:: !c ->
			atomic { assert(mapped && !pclosed); produced++; pos++ };	/* sync: produce: store */
			if	/* the look before the unlock, or after it */
			::	a_look(0);
				atomic { locked = 0; fin = shut }
			::	atomic {
					locked = 0;
					fin = shut;
#ifdef MUTANT_LOCK_IS_REF
					if
					:: !fin -> unref(); held = 0
					:: else
					fi
#endif
				};
				a_look(0)
			fi
		fi;
#ifdef MUTANT_CLOSED_EARLY
		fin = 0;
#endif
		if
		:: fin -> finish()
		:: !fin && !c -> acked++
		:: !fin && c
		fi;
		if
		:: atomic { held -> held = 0; unref() }
		:: !held
		fi;
		if
		:: fin && !c -> acked++
		:: else
		fi;
		if
		:: c || fin -> break
		:: else
		fi
	od
	} unless { dead }
}

proctype closer() {
	bool ring, fin;

	{
	if
	:: half = 1
	:: skip
	fi;
	atomic {
		shut = 1;
		fin = !locked
	};
	wake = 1;
#ifdef MUTANT_CLOSED_EARLY
	fin = 1;
#endif
	if
	:: fin -> finish()
	:: else
	fi;
	if
	:: !half -> unref()
	:: else
	fi
	} unless { dead }
}

/* a Read of A, woken by Close; or a Guard, which goes on until B has gone home */
proctype other() {
	{
	if
	:: shut && !half -> unref()
	:: shut && half		/* the Conn lives on */
	:: skip ->
		shut && (half || bgone);
		if
		:: !half -> unref()
		:: half
		fi
	fi
	} unless { dead }
}

proctype death() {
	if
	:: dead = 1;
		agone = 1	/* the kernel closes the descriptors, always */
	:: skip
	fi
}

proctype reader() {
	byte got, p;
	bool c, g, eof, ring;

	do
	::	atomic { cparked = 1; crung = 0 };	/* sync: park: store, then the look */
look:
#ifdef LEAVES
		if
		:: goto gone
		:: skip
		fi;
#endif
		if	/* who polls reads the doorbell now and then */
		:: atomic { agone && bbell == 0 -> eof = 1 }
		:: skip
		fi;
		/* gone, closed, position */
#ifdef MUTANT_POSITION_FIRST
		p = produced;
		c = pclosed;
		g = eof;
#else
		g = eof;
		c = pclosed;	/* sync: closed: load */
		p = produced;	/* sync: produce: load */
#endif
		/* position, closed, gone */
		if
#ifdef MUTANT_GONE_FIRST
		:: g -> assert(dead && !pclosed && got == produced); break
		:: !g && p > got ->
#else
		:: p > got ->
#endif
			atomic { cparked = 0; crung = 0 };
			atomic { got = p; p = 0; c = 0; g = 0 };
			consumed = got;		/* sync: consume: store */
			atomic {
				ring = (pparked && !prung);	/* sync: park: load */
				if
				:: ring -> prung = 1
				:: else
				fi
			};
			if
			:: atomic { ring -> ring = 0;
					if
					:: abell < PIPE -> abell++
					:: else
					fi }
			:: !ring
			fi;
			if
			:: skip			/* waits at once */
			:: goto look		/* polls first */
			fi
		:: p == got && c -> /* EOF */
			assert(pclosed && got == produced && got >= acked);
			break
		:: p == got && !c && g -> /* ECONNRESET */
			assert(dead && !pclosed && got == produced);
			break
		:: p == got && !c && !g ->
			if
			:: cparked ->	/* a read of the doorbell */
				if
				:: atomic { bbell > 0 ->
					if
					:: bbell = 0
					:: bbell--
					fi }
				:: atomic { agone && bbell == 0 -> eof = 1 }
				fi
			:: !cparked	/* parks now */
			fi
		fi
	od;
	/* B closes, or dies */
gone:	if
	::	cclosed = 1;	/* sync: closed: store */
		ring = pparked;
		if
		:: atomic { ring -> ring = 0;
				if
				:: abell < PIPE -> abell++
				:: else
				fi }
		:: !ring
		fi
#ifdef LEAVES
	:: skip
#endif
	fi;
	bgone = 1
}

init {
	atomic {
		run writer();
		run closer();
		run other();
		run death();
		run reader()
	}
}
