/*
 * A whole connection: two ends, each with a goroutine that reads and one that
 * writes, two rings of SIZE bytes, two doorbells.
 *
 * End e writes to ring e and reads from ring 1 - e. When it has written all, it
 * half closes; a reader reads to the end. Then the end closes.
 *
 * Scenarios:
 *   (none)   as above
 *   -DCLOSE  end 0 closes at any time, in whatever calls it is
 *   -DDEATH  end 0 dies at any time
 *
 * Properties, at both ends: every byte arrives as it was written and in order;
 * io.EOF comes if and only if the other end has closed, and after its last byte;
 * a reset comes only from the dead, and after the last byte; no byte of a Write that
 * said it has written is lost; nobody waits for ever (invalid end states).
 *
 * Epochs are one bit and a rung bit, as in bell.pml, which also takes the doorbell
 * into finer steps; the lazy positions, and how much room is promised, are in park.pml.
 */
#ifndef SIZE
#define SIZE 1		/* the ring */
#endif
#ifndef A
#define A 2		/* bytes that end 0 writes */
#endif
#ifndef B
#define B 1		/* bytes that end 1 writes */
#endif
#define ALL(e) (e == 0 -> A : B)
#define PIPE 1		/* bytes that fit into a doorbell */

#define READS  0
#define WRITES 1
#define I(e, s) (2 * (e) + (s))	/* side s of end e */

/* Shared words. All but the data have the index I(e, s) of the side that stores them. */
byte data[4];		/* SIZE bytes, 2 at most, of each ring: of end e's from 2 * e */
byte position[4];	/* consumed; produced */
bool closed[4];
bool parked[4];
bool rung[4];		/* the other end has rung for this epoch; private to that one */
/* The kernel's. */
byte bell[2];		/* bytes in the doorbell of end e */
bool gone[2];		/* all descriptors of end e are closed */
/* Private to end e. */
bool holder[2];
bool token[4];
bool shut[2];		/* Close was called */
bool broken[2];
bool eof[2];		/* it has seen the end of its doorbell */
bool inside[4];		/* a call has the side */
bool left[4];		/* who has the side hangs up, and retires it, when it gives it back */
byte out[2];		/* sides that are retired */
byte ended[2];		/* calls that have returned */
bool dead;		/* end 0 */

/* what side s of end e waits for; o is the other end's side */
#define READY (position[o] != seen || shut[e] || eof[e] || closed[o])

inline look(always) {
	atomic {
		if
		:: parked[o] && (always || !rung[o]) -> rung[o] = 1; ring = 1	/* sync: park: load */
		:: else
		fi
	};
	if
	:: atomic { ring ->
			ring = 0;
			if
			:: !gone[1 - e] && bell[1 - e] < PIPE -> bell[1 - e]++
			:: else	/* EAGAIN and EPIPE are success */
			fi }
	:: !ring
	fi
}

/* a Write that says it has written comes after this: so nothing is lost if the other
   end reads all that there is when it sees closed */
inline publish(p) {
#ifdef MUTANT_LATE_PUBLISH
	look(0);
	position[i] = p
#else
	atomic { assert(!closed[i]); position[i] = p };
	look(0)
#endif
}

inline epoch(odd) {
	atomic { parked[i] = odd; rung[i] = 0 }
}

#ifdef MUTANT_CHECK_FIRST
#define BEFORE up = READY
#define UP up
#else
#define BEFORE skip
#define UP READY
#endif

#ifdef MUTANT_NO_PASS
#define PASS 0
#else
#define PASS 1
#endif

inline pass_on() {
	holder[e] = 0;
	token[I(e, 1 - s)] = PASS
}

inline park() {
	do
	:: atomic { !holder[e] -> holder[e] = 1; broken[e] = 0; BEFORE };	/* sync: bell: store; then the flags */
		epoch(1);	/* sync: park: store, then the look */
		if
		:: atomic { UP -> pass_on() }
		:: else ->
			if	/* a read of the doorbell */
			:: atomic { broken[e] -> pass_on() }
			:: atomic { bell[e] > 0 -> bell[e] = 0; pass_on() }
			:: atomic { gone[1 - e] && bell[e] == 0 -> eof[e] = 1; pass_on() }
			fi
		fi;
		if
		:: READY -> break
		:: else
		fi
	:: atomic { holder[e] -> BEFORE };
		epoch(1);	/* sync: park: store, then the look */
		if
		:: UP -> break
		:: else
		fi;
		atomic { token[i] -> token[i] = 0 };
		if
		:: READY -> break
		:: else
		fi
	od;
	epoch(0)
}

inline hang_up() {
	closed[i] = 1;	/* sync: closed: store, after the last position */
	look(1)
}

inline retire() {	/* the last one out of both sides closes the descriptors */
	atomic {
		out[e]++;
		if
		:: out[e] == 2 -> gone[e] = 1
		:: else
		fi
	}
}

inline leave() {
	atomic { inside[i] = 0; ended[e]++; fin = left[i] };
	if
	:: fin ->
		hang_up();
		retire()
	:: else
	fi
}

proctype writer(byte e) {
	byte s = WRITES, i, o, pos, seen;
	bool ring, up, fin, c;

	{
	atomic { i = I(e, WRITES); o = I(1 - e, READS) };
	do
	:: pos == ALL(e) ->
		hang_up();	/* CloseWrite */
		break
	:: atomic { pos < ALL(e) && (shut[e] || eof[e] || closed[o]) -> break };	/* sync: closed: load */
	:: atomic { pos < ALL(e) && !(shut[e] || eof[e] || closed[o]) -> skip };
		atomic {
			seen = position[o];	/* sync: consume: load */
			if
			:: pos == seen + SIZE -> goto wait
			:: else
			fi
		};
#ifdef MUTANT_COPY_LATE
		publish(pos + 1);
#endif
		atomic { data[2 * e + pos % SIZE] = pos + 1; pos++ };
#ifndef MUTANT_COPY_LATE
		publish(pos);	/* sync: produce: store */
#endif
		goto next;
wait:		park();
next:		skip
	od;
	leave()
	} unless { dead && e == 0 }
}

proctype reader(byte e) {
	byte s = READS, i, o, pos, seen;
	bool ring, up, fin, c, g;

	{
	atomic { i = I(e, READS); o = I(1 - e, WRITES) };
	do
	:: atomic { shut[e] -> break }	/* ErrClosed */
	:: else ->
		/* gone, closed, position */
#ifdef MUTANT_POSITION_FIRST
		seen = position[o];
		atomic { g = eof[e]; c = closed[o] };
#else
		atomic { g = eof[e]; c = closed[o] };	/* sync: closed: load */
		seen = position[o];	/* sync: produce: load */
#endif
		if	/* position, closed, gone */
		:: seen > pos ->
			d_step {
				do
				:: pos < seen -> assert(data[2 * (1 - e) + pos % SIZE] == pos + 1); pos++
				:: pos == seen -> break
				od
			};
			publish(pos)	/* sync: consume: store */
		:: seen == pos && c ->	/* io.EOF */
			assert(closed[o] && pos == position[o]);
			break
		:: seen == pos && !c && g ->	/* ECONNRESET */
			assert(dead && e == 1 && !closed[o] && pos == position[o]);
			break
		:: seen == pos && !c && !g -> park()
		fi
	od;
	leave()
	} unless { dead && e == 0 }
}

/* Close of end e: the flag, tokens, the bell; then each side that no call has. */
proctype closer(byte e) {
	byte s, i, o;
	bool ring, fin;

#ifndef CLOSE
	(ended[e] == 2);
#endif
#ifdef MUTANT_CLOSED_EARLY
	atomic { i = I(e, WRITES); o = I(1 - e, READS) };
	hang_up();
#endif
	shut[e] = 1;	/* sync: bell: store, then a look for the holder */
	atomic { token[I(e, READS)] = 1; token[I(e, WRITES)] = 1 };
	if
	:: holder[e] -> broken[e] = 1	/* sync: bell: load */
	:: else
	fi;
	do
	:: atomic { s == 2 -> break }
	:: else ->
		atomic {
			i = I(e, s);
			o = I(1 - e, 1 - s);
			s++;
			left[i] = 1;
			fin = !inside[i]
		};
		if
		:: fin ->
			hang_up();
			retire()
		:: else
		fi
	od
}

proctype death() {
	if
	:: dead = 1;
		gone[0] = 1	/* the kernel closes the descriptors */
	:: skip
	fi
}

init {
	atomic {
		inside[0] = 1; inside[1] = 1; inside[2] = 1; inside[3] = 1;
		run writer(0);
		run reader(0);
		run writer(1);
		run reader(1);
#ifdef DEATH
		run death()
#else
		run closer(0);
#ifndef CLOSE
		run closer(1)
#endif
#endif
	}
}
