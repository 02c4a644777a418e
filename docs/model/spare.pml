/*
 * The life of a spare: two ends of one segment, from one connection over it, a
 * generation, to the next.
 *
 * The acceptor's users leave, it offers the segment, and hears of the next
 * generation or withdraws. The dialer's users leave, it finds the offer, takes
 * it and looks again, and says so by a message. Either may let go instead at any
 * time, and either may die at any step. The ring from the acceptor to the dialer
 * holds one byte, which says of which generation it is. With -DWATCH the dialer
 * may wait for the end of its doorbell (Conn.Done), and the acceptor lets go of
 * nothing but for that.
 *
 * Properties: a dialer that believes in a spare is heard, unless the acceptor
 * dies, closes, or gives it up after a time; what was heard never looks as if it
 * was given up; no end uses the segment while the other still uses it for an
 * earlier generation; no byte is read in another generation than its own; and
 * nobody waits for ever.
 */
#define GENERATIONS 4

/* shared words */
byte offered;		/* the acceptor's Spare word */
byte taken;		/* the dialer's */
byte watched;		/* the dialer's Watched word */
byte ring;		/* 0: empty */
byte aclosed;		/* the acceptor's Closed word */

/* kernel state */
chan backlog = [1] of { byte };
bool agone, dgone;	/* the end's descriptors are closed: the other's doorbell ends */

/* ghosts */
byte auses, duses;	/* the generation in which the end's users are inside; 0: none */
byte believed;		/* the last generation that the dialer has begun */
byte heard;		/* and that the acceptor has heard of */

inline hear() {
#ifndef MUTANT_HEARD_SILENT
	offered = g;	/* in case that it is withdrawn */
#endif
	heard = g;
	auses = g
}

bool adies, ddies;

active proctype acceptor() {
	byte g = 1;
	bool out;
	auses = 1;
	{
		do
		:: /* users: they may write, until they have left */
#ifdef MUTANT_OFFER_EARLY
			offered = g + 1;
#endif
			do
			:: atomic { ring == 0 -> assert(duses <= auses || duses == 0); ring = g }
			:: break
			od;
			auses = 0;
			if
			:: aclosed = g
			:: true -> break	/* Abort says nothing */
			fi;
			offered = g + 1;	/* sync: spare */
#if defined(WATCH) && !defined(MUTANT_OFFER_BLIND)
			out = (watched == g);	/* sync: watched */
#endif
#ifndef WATCH
			if
			:: out = 0
			:: out = 1
			fi;
#endif
			if
			:: !out && nempty(backlog) -> backlog?g; hear()
			:: !out && dgone && empty(backlog) -> break
			:: out ->
				offered = 0;	/* sync: spare */
				if
#ifdef MUTANT_WITHDRAW_BLIND
				:: true -> assert(believed <= g); break
#else
				:: taken != g + 1 -> assert(believed <= g); break
#endif
				:: taken == g + 1 ->
					if
					:: backlog?g -> hear()
					:: empty(backlog) -> break	/* for too long */
					:: dgone && empty(backlog) -> break
					fi
				fi
			fi;
			assert(duses == 0 || duses == g)
		od
	} unless { adies };
	auses = 0;
	agone = 1
}

active proctype dialer() {
	byte g = 1;
	duses = 1;
	{
		do
		:: /* users: they may read what there is, or leave it */
			do
			:: atomic { ring != 0 -> assert(ring == g); ring = 0 }
			:: break
			od;
#ifdef WATCH
			if
			:: watched = g;	/* sync: watched */
				if
#ifndef MUTANT_WATCH_BLIND
				:: offered == g + 1
				:: offered != g + 1 -> agone
#else
				:: agone
#endif
				fi
			:: true
			fi;
#endif
			duses = 0;
			if
			:: true -> break
			:: agone -> break
			:: g < GENERATIONS && offered == g + 1 ->	/* sync: spare */
#ifndef MUTANT_UNREAD
				if
				:: ring != 0 -> break
				:: else
				fi;
#endif
				taken = g + 1;	/* sync: spare */
				if
#ifdef MUTANT_TAKE_BLIND
				:: true
#else
				:: offered == g + 1
				:: offered != g + 1 -> break
#endif
				fi;
				atomic { g++; believed = g; duses = g; assert(auses == 0) };
				backlog!g;
				if
				:: agone && offered != g && aclosed < g -> assert(heard < g); break	/* begins anew */
				:: true
				fi
			fi
		od
	} unless { ddies };
	duses = 0;
	dgone = 1
}

/* Death, or a listener that closes. */
active proctype fate() {
	if
	:: adies = 1
	:: ddies = 1
	:: true
	fi
}
