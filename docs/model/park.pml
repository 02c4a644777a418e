/*
 * One ring, waiting on both ends, sequentially consistent memory.
 *
 * The producer waits for room, the consumer for bytes, each on its own
 * doorbell. The consumer publishes its position lazily and in the end goes away
 * without another wait, so that the last bytes have to fit into the promised
 * 3/4 of the ring.
 *
 * Properties: nobody waits for ever (invalid end states); every byte arrives as
 * it was written (assertions); everything arrives (ltl arrive).
 */
#define SIZE 8			/* the ring */
#ifdef MUTANT_LAZY_HALF
#define LAZY (SIZE / 2)
#else
#define LAZY (SIZE / 4)		/* the consumer publishes at least this often */
#endif
#define TAKE 5			/* what the consumer reads before it goes away */
#define ALL  (TAKE + SIZE - SIZE / 4)
#define PIPE 2			/* bytes that fit into a doorbell */

#define VAL(p) ((p) / SIZE + 1)

byte data[SIZE];
byte produced, pparked;		/* stored by the producer only */
byte consumed, cparked;		/* stored by the consumer only */
byte cbell, pbell;		/* bytes in the consumer's and the producer's doorbell */
byte sent, got;			/* ghosts */

/* the look at the other's epoch; rung is private, so one step */
inline look(parked) {
	atomic {
		ring = ((parked & 1) && parked != rung);	/* sync: park: load */
		if
		:: ring -> rung = parked
		:: else
		fi
	}
}

inline publish(word, val, parked, bell) {
#ifdef MUTANT_LATE_PUBLISH
	look(parked);
	word = val;
#else
	word = val;
	look(parked);
#endif
	if
	:: atomic { ring && bell < PIPE -> bell++; ring = 0 }
	:: atomic { ring && bell == PIPE -> ring = 0 }	/* EAGAIN is success */
	:: !ring
	fi
}

/* until word reaches need; ep is private, the stored copy is for the other */
inline park(word, need, parked, bell) {
#ifdef MUTANT_CHECK_FIRST
	seen = word;
	atomic { ep++; parked = ep };
#else
	atomic { ep++; parked = ep };	/* sync: park: store, then the look */
	seen = word;
#endif
	do
	:: seen >= need -> break
	:: else ->
		atomic { bell > 0 ->	/* a read of the doorbell */
			if
			:: bell = 0
			:: bell--	/* more than one read can take */
			fi
		};
#ifdef MUTANT_CHECK_FIRST
		seen = word;
		atomic { ep = ep + 2; parked = ep }
#else
#ifndef MUTANT_SAME_EPOCH
		atomic { ep = ep + 2; parked = ep; assert(ep < 250) };	/* sync: park: store */
#endif
		seen = word
#endif
	od;
	atomic { ep++; parked = ep; assert(!(ep & 1)) }
}

active proctype producer() {
	byte pos, seen, ep, rung, n;
	bool ring;

	do
	:: pos == ALL -> break
	:: else ->
		if	/* as Reserve: n bytes at once, at most half the ring */
		:: n = 1
		:: pos + 4 <= ALL -> n = 4
		fi;
		/* room for n: consumed >= pos + n - SIZE */
		if
		:: pos + n <= SIZE + seen
		:: else -> park(consumed, pos + n - SIZE, pparked, pbell)	/* sync: consume: load */
		fi;
#ifdef MUTANT_COPY_LATE
		publish(produced, pos + n, cparked, cbell);
#endif
		d_step {
			do
			:: n > 0 -> data[pos % SIZE] = VAL(pos); pos++; n--
			:: else -> break
			od;
			sent = pos
		};
#ifndef MUTANT_COPY_LATE
		publish(produced, pos, cparked, cbell);	/* sync: produce: store */
#endif
	od
}

active proctype consumer() {
	byte pos, seen, ep, rung, n, pub;
	bool ring;

	do
	:: pos == TAKE -> break
	:: else ->
		if	/* as Peek: likewise */
		:: n = 1
		:: pos + 4 <= TAKE -> n = 4
		fi;
		if
		:: pos + n <= seen
		:: else ->
			if	/* never wait with room that the producer has not seen */
			:: pub != pos ->
				publish(consumed, pos, pparked, pbell);	/* sync: consume: store */
				pub = pos
			:: else
			fi;
			park(produced, pos + n, cparked, cbell)	/* sync: produce: load */
		fi;
		d_step {
			do
			:: n > 0 -> assert(data[pos % SIZE] == VAL(pos)); pos++; n--
			:: else -> break
			od;
			got = pos
		};
		if
		:: pos - pub >= LAZY ->
			publish(consumed, pos, pparked, pbell);	/* sync: consume: store */
			pub = pos
		:: else
		fi
	od
}

ltl arrive { <> (got == TAKE && sent == ALL) }
