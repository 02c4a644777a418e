/*
 * One ring on x86-TSO: each CPU has a FIFO store buffer, and the positions are
 * published by plain stores. The fence is a LOCKed instruction that comes anyway
 * (the unlock of the private side lock); where the lock is kept, it must be
 * another one.
 *
 * CPU 0 and 1 are two goroutines that write to one Conn, one after the other;
 * CPU 2 is the reader. After the unlock the two look at the parked word, and at
 * `rung`, side by side.
 *
 * A write to the doorbell is seen at once and does not drain the buffer, which is
 * less than what a system call gives.
 *
 * The look after the unlock needs the mapping and the doorbell: a reference must
 * be held beyond the unlock (close.pml, MUTANT_LOCK_IS_REF).
 *
 * Properties: nobody waits for ever (invalid end states); bytes arrive in order.
 */
#define SIZE  1		/* the ring: each byte of a longer Write is published alone */
#define ALL   3
#define PIPE  2
#define DEPTH 3		/* of a store buffer */

/* shared words */
#define CELL     0
#define PRODUCED 1
#define CONSUMED 2
#define CPARKED  3
#define PPARKED  4
byte mem[5];

chan sb0 = [DEPTH] of { byte, byte };
chan sb1 = [DEPTH] of { byte, byte };
chan sb2 = [DEPTH] of { byte, byte };

bool lock;		/* write side */
byte wpos, wep, wseen;	/* guarded by it */
byte wrung;		/* an atomic word beside it */
byte cbell, pbell;

#define STORE(sb, a, v)  sb!a,v
#define FENCE(sb)        empty(sb)

active proctype memory() {
	byte v;
end:	do
	:: atomic { sb0?CELL,v     -> mem[CELL] = v; v = 0 }
	:: atomic { sb0?PRODUCED,v -> mem[PRODUCED] = v; v = 0 }
	:: atomic { sb0?PPARKED,v  -> mem[PPARKED] = v; v = 0 }
	:: atomic { sb1?CELL,v     -> mem[CELL] = v; v = 0 }
	:: atomic { sb1?PRODUCED,v -> mem[PRODUCED] = v; v = 0 }
	:: atomic { sb1?PPARKED,v  -> mem[PPARKED] = v; v = 0 }
	:: atomic { sb2?CONSUMED,v -> mem[CONSUMED] = v; v = 0 }
	:: atomic { sb2?CPARKED,v  -> mem[CPARKED] = v; v = 0 }
	od
}

/* the look at the other's epoch, and the ring */
inline look(sb, parked, rung, bell) {
	e = mem[parked];	/* sync: park: load */
	if
	:: (e & 1) ->
		if
		:: e != rung ->
			FENCE(sb) -> rung = e;	/* an atomic store */
			atomic {
				if
				:: bell < PIPE -> bell++
				:: else		/* EAGAIN is success */
				fi
			}
		:: else
		fi
	:: else
	fi;
	e = 0
}

inline ring_read(bell) {
	atomic { bell > 0 ->
		if
		:: bell = 0
		:: bell--
		fi
	}
}

/* each odd epoch by a LOCKed store, the even one plain */
inline park(sb, ep, parked, word, need, seen, bell) {
	ep++;
	do
	::	STORE(sb, parked, ep);	/* sync: park: store */
#ifndef MUTANT_PARK_NO_FENCE
		FENCE(sb);
#endif
		seen = mem[word];
		if
		:: seen >= need -> break
		:: else
		fi;
		ring_read(bell);
		ep = ep + 2
	od;
	ep++;
	STORE(sb, parked, ep)
}

inline writer(sb, n) {
	byte e, left = n;

	atomic { !lock && empty(sb) -> lock = 1 };
	do
	::	if
		:: wpos + 1 <= wseen + SIZE
		:: else -> park(sb, wep, PPARKED, CONSUMED, wpos + 1 - SIZE, wseen, pbell)	/* sync: consume: load */
		fi;
		STORE(sb, CELL, wpos + 1);
		wpos++;
		STORE(sb, PRODUCED, wpos);	/* sync: produce: a plain store */
		left--;
		if
		:: left == 0 -> break
		:: else ->	/* a longer Write keeps the lock: its own fence */
#ifndef MUTANT_CHUNK_NO_FENCE
			FENCE(sb);
#endif
			look(sb, CPARKED, wrung, cbell)
		fi
	od;
#ifdef MUTANT_NO_FENCE
	look(sb, CPARKED, wrung, cbell);
	atomic { empty(sb) -> lock = 0 }
#else
	atomic { empty(sb) -> lock = 0 };	/* the unlock is the fence */
	look(sb, CPARKED, wrung, cbell)
#endif
}

active proctype writer0() { writer(sb0, 2) }
active proctype writer1() { writer(sb1, 1) }

active proctype reader() {
	byte pos, ep, seen, rung, e;

	do
	:: pos == ALL -> break
	:: else ->
		if
		:: pos < seen
		:: else -> park(sb2, ep, CPARKED, PRODUCED, pos + 1, seen, cbell)	/* sync: produce: load */
		fi;
		assert(mem[CELL] == pos + 1);
		pos++;
		STORE(sb2, CONSUMED, pos);	/* sync: consume: a plain store */
		FENCE(sb2);			/* the unlock of the read side */
		look(sb2, PPARKED, rung, pbell)
	od
}
