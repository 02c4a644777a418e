/*
 * shmconn.h: byte streams between processes of one machine over shared memory. The other end
 * is this header, or the Go package shmconn. It speaks version 1 of the format in ../FORMAT.md.
 * C11 and libc; Linux only.
 *
 * In one C file of the program, before any other #include:
 *
 *	#define SHMCONN_IMPLEMENTATION
 *	#include "shmconn.h"
 *
 * and plainly in the others, which may be C++.
 *
 * Functions return 0 or a count, and a negative errno when they fail:
 *
 *	-ETIMEDOUT     the timeout has passed
 *	-EPIPE         write: the peer has closed or died, or close_write was called
 *	-ECONNRESET    read: the peer has died, and all that it had written was read
 *	-ECONNREFUSED  dial: nobody listens on the name
 *	-EADDRINUSE    listen: somebody does
 *	-EEXIST        listen: the name is that of a file that is no listener's
 *	-EACCES        not permitted, or files of another user
 *	-EPROTO        the other end, or a file, does not keep to the format
 *	-EPROTONOSUPPORT  it is of another version
 *	-EINVAL        a bad name, ring size, mode or flag
 *	-ENOENT        no such directory, or no /proc
 *
 * and what else system calls say. Timeouts are in milliseconds; 0 does not wait, a negative one waits
 * for ever.
 *
 * One thread may read a connection while one other writes it. shmconn_close_write counts as a
 * write; shmconn_close may run when nothing else does. One thread at a time may use a listener.
 *
 * The peer is not trusted, but for this: one that truncates the file of a connection makes the
 * next access a SIGBUS. Connections of a listener with SHMCONN_ANONYMOUS cannot be truncated.
 */
#ifndef SHMCONN_H
#define SHMCONN_H

#if defined(SHMCONN_IMPLEMENTATION) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include <stddef.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct shmconn shmconn;
typedef struct shmconn_listener shmconn_listener;

enum { SHMCONN_ANONYMOUS = 1 }; /* connections of sealed anonymous memory, not of files */

/* Connects to the listener of name: one in $SHMCONN_DIR or /dev/shm, or, with a slash, a path. */
int shmconn_dial(const char *name, int timeout_ms, shmconn **conn);

/*
 * Announces name. ring_size is what a connection holds in each direction, a power of two from a
 * page to 1 GiB; 0 is 256 KiB. mode says who may dial: 0600, which 0 stands for, one's own user,
 * 0660 the group, 0666 everybody.
 */
int shmconn_listen(const char *name, size_t ring_size, mode_t mode, unsigned flags, shmconn_listener **l);

/* Returns the next connection. Dialers that say nothing for 2 s are dropped. */
int shmconn_accept(shmconn_listener *l, int timeout_ms, shmconn **conn);

/* Removes the name. Connections stay; those that were not accepted are reset. */
int shmconn_close_listener(shmconn_listener *l);

/* Reads at least one byte and at most n; 0 is the end: the peer has closed. With n = 0 it returns 0 at once. */
ssize_t shmconn_read(shmconn *c, void *buf, size_t n, int timeout_ms);

/*
 * Writes all n bytes. It returns less, but not 0, when the timeout passed or the peer went on the way;
 * the next call says why. Up to half a ring (128 KiB at most) is written as a whole or not at all.
 */
ssize_t shmconn_write(shmconn *c, const void *buf, size_t n, int timeout_ms);

/* Tells the peer that nothing more will be written: it reads 0 after the last byte. */
int shmconn_close_write(shmconn *c);

/* Closes both directions and frees c. What was written can still be read by the peer. */
int shmconn_close(shmconn *c);

#ifdef __cplusplus
}
#endif

#endif /* SHMCONN_H */

#if defined(SHMCONN_IMPLEMENTATION) && !defined(SHMCONN_IMPLEMENTED)
#define SHMCONN_IMPLEMENTED

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef O_PATH
#error "include shmconn.h before any other header, or compile with -D_GNU_SOURCE"
#endif
#if ATOMIC_LLONG_LOCK_FREE != 2 || ATOMIC_INT_LOCK_FREE != 2
#error "shmconn needs lock-free 64-bit atomics"
#endif

/* How long a call looks before it sleeps, in nanoseconds. */
#ifndef SHMCONN_SPIN_NS
#define SHMCONN_SPIN_NS 50000
#endif

/* ---- The format ---- */

#define SHMCONN__LISTENER_MAGIC UINT64_C(0x0a6e7473696c6873)
#define SHMCONN__CONN_MAGIC UINT64_C(0x0a6e6e6f636d6873)
#define SHMCONN__MAX_RING (UINT64_C(1) << (sizeof(void *) == 8 ? 30 : 26))
#define SHMCONN__SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

enum {
	SHMCONN__VERSION = 1,
	SHMCONN__RING_A = 512, /* offsets of the rings' headers */
	SHMCONN__RING_B = 1024,
	SHMCONN__ID = 16,
	SHMCONN__HELLO = 8 + SHMCONN__ID,
	SHMCONN__MAX_NAME = 128,
	SHMCONN__MAX_SILENT = 64,
	SHMCONN__MAX_CHUNK = 128 << 10,
	SHMCONN__OPEN = O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK
};

struct shmconn__listener_page {
	uint64_t magic;
	uint32_t version, header_size;
	uint64_t ring_size;
	uint32_t flags, pid;
	unsigned char reserved[32];
	uint64_t accepted, refused;
};

struct shmconn__conn_header {
	uint64_t magic;
	uint32_t version, header_size;
	uint64_t ring_size;
	uint32_t flags, reserved;
	unsigned char id[SHMCONN__ID];
	unsigned char free[16];
	char name[SHMCONN__MAX_NAME]; /* the listener's, for people to look at */
};

struct shmconn__end {
	_Alignas(128) _Atomic uint64_t parked;
	_Atomic uint32_t closed;
};

struct shmconn__ring_header {
	_Alignas(128) _Atomic uint64_t produced;
	_Alignas(128) _Atomic uint64_t consumed;
	struct shmconn__end consumer, producer;
};

_Static_assert(sizeof(struct shmconn__listener_page) == 80 && offsetof(struct shmconn__listener_page, accepted) == 64, "format");
_Static_assert(sizeof(struct shmconn__conn_header) == 192 && offsetof(struct shmconn__conn_header, id) == 32 && offsetof(struct shmconn__conn_header, name) == 64, "format");
_Static_assert(sizeof(struct shmconn__ring_header) == 512, "format");
_Static_assert(offsetof(struct shmconn__ring_header, consumed) == 128, "format");
_Static_assert(offsetof(struct shmconn__ring_header, consumer.closed) == 264, "format");
_Static_assert(offsetof(struct shmconn__ring_header, producer.closed) == 392, "format");

/* ---- A connection ---- */

/* A side is one direction of a connection, and belongs to the thread that reads, or writes. */
struct shmconn__side {
	struct shmconn__end *own, *peer;
	_Atomic uint64_t *own_position, *peer_position;
	unsigned char *data; /* the ring, twice in a row */
	uint64_t position;   /* our own */
	uint64_t told;       /* our own as last stored */
	uint64_t seen;       /* the peer's as last loaded */
	uint64_t epoch;      /* last number stored into own->parked */
	uint64_t rung;       /* last number of peer->parked that we have rung for */
	int token;           /* an eventfd: the other side has read the doorbell */
	atomic_int asleep;   /* on the doorbell and the token */
};

struct shmconn {
	struct shmconn__side rx, tx;
	unsigned char *memory;
	size_t mapped;
	uint64_t ring;
	int bell, ringer;
	uint64_t unchecked;   /* bytes written since the last look whether the peer lives */
	int shut;             /* close_write was called */
	atomic_int gone;      /* the doorbell has ended */
	atomic_int broken;    /* the peer does not keep to the format */
	atomic_flag rx_busy;  /* a read is under way, or the writer tells for it */

	int file;   /* of a dialer: the segment's, from which onlookers read the header; -1 if not */
	int sealed; /* it is memory */
};

static int64_t shmconn__now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* A deadline is a time, or negative for none. */
static int64_t shmconn__deadline(int timeout_ms) {
	return timeout_ms < 0 ? -1 : shmconn__now() + (int64_t)timeout_ms * 1000000;
}

/* What is left, for poll: rounded up, so that it does not wake too early. */
static int shmconn__left(int64_t deadline) {
	if (deadline < 0)
		return -1;
	int64_t ms = (deadline - shmconn__now() + 999999) / 1000000;
	return ms < 0 ? 0 : ms > INT_MAX ? INT_MAX : (int)ms;
}

static void shmconn__close_fd(int *fd) {
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Another descriptor for what fd is, whose flags nobody else shares. */
static int shmconn__reopen(int fd, int flags) {
	char path[40];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	int own = open(path, flags | O_CLOEXEC | O_NONBLOCK);
	return own < 0 ? -errno : own;
}

static void shmconn__ring_bell(shmconn *c) {
	for (int i = 0; i < 100; i++) {
		ssize_t n;
		do
			n = write(c->ringer, "\1", 1);
		while (n < 0 && errno == EINTR);
		if (n > 0 || errno == EAGAIN || errno == EPIPE)
			return; /* EAGAIN: there are bytes enough */
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); /* ENOMEM */
	}
	atomic_store(&c->gone, 1); /* the peer cannot be woken: closing is what is left */
}

/* Stores our position, and rings if the peer has parked since we have rung. */
static void shmconn__publish(shmconn *c, struct shmconn__side *s) {
	s->told = s->position;
	atomic_store_explicit(s->own_position, s->position, memory_order_seq_cst);
	uint64_t epoch = atomic_load_explicit(&s->peer->parked, memory_order_seq_cst);
	if ((epoch & 1) != 0 && epoch != s->rung) {
		s->rung = epoch;
		shmconn__ring_bell(c);
	}
}

/* Not after damage: what the peer has read may not be all, so it is not to find an end in order. */
static void shmconn__hang_up(shmconn *c, struct shmconn__side *s) {
	if (atomic_load(&c->broken))
		return;
	atomic_store_explicit(&s->own->closed, 1, memory_order_seq_cst);
	if ((atomic_load_explicit(&s->peer->parked, memory_order_seq_cst) & 1) != 0)
		shmconn__ring_bell(c);
}

static void shmconn__wake(struct shmconn__side *s) {
	if (atomic_load_explicit(&s->asleep, memory_order_seq_cst)) {
		uint64_t one = 1;
		ssize_t n = write(s->token, &one, sizeof one);
		(void)n; /* it cannot be full of ones */
	}
}

static int shmconn__break(shmconn *c) {
	atomic_store(&c->broken, 1);
	shmconn__wake(&c->rx);
	shmconn__wake(&c->tx);
	return -EPROTO;
}

/* Looks whether the peer lives, for who does not sleep. */
static void shmconn__check_peer(shmconn *c) {
	struct pollfd p = {.fd = c->bell, .events = POLLIN};
	int n = poll(&p, 1, 0);
	if (n > 0 && (p.revents & (POLLHUP | POLLERR)) != 0)
		atomic_store(&c->gone, 1);
	if (n >= 0 || errno == EINTR)
		return;
	/* EINVAL, say, as RLIMIT_NOFILE is 0. A read takes out bytes that others sleep for. */
	char bytes[64];
	ssize_t r = read(c->bell, bytes, sizeof bytes);
	if (r == 0)
		atomic_store(&c->gone, 1);
	if (r > 0) {
		shmconn__wake(&c->rx);
		shmconn__wake(&c->tx);
	}
}

/* Whether who waits should look up. */
static int shmconn__news(shmconn *c, struct shmconn__side *s) {
	return atomic_load_explicit(s->peer_position, memory_order_seq_cst) != s->seen ||
	       atomic_load_explicit(&s->peer->closed, memory_order_seq_cst) != 0 ||
	       atomic_load(&c->gone) || atomic_load(&c->broken);
}

static void shmconn__pause(void) {
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("isb" ::: "memory");
#endif
}

/* Looks for a while: first without a break, then letting others have the processor. */
static int shmconn__spin(shmconn *c, struct shmconn__side *s) {
	int64_t end = shmconn__now() + SHMCONN_SPIN_NS;
	for (int i = 0;; i++) {
		if (shmconn__news(c, s))
			return 1;
		if (i < 32) {
			shmconn__pause();
			continue;
		}
		if (shmconn__now() >= end)
			return 0;
		sched_yield();
	}
}

/* Sleeps on the doorbell once. Whoever takes a byte out of it makes the other side look, too. */
static int shmconn__sleep(shmconn *c, struct shmconn__side *s, int64_t deadline) {
	struct pollfd p[2] = {{.fd = c->bell, .events = POLLIN}, {.fd = s->token, .events = POLLIN}};
	int n = poll(p, 2, shmconn__left(deadline));
	if (n < 0 && errno != EINTR) {
		/* As in shmconn__check_peer: without poll it looks once a millisecond. */
		shmconn__check_peer(c);
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	if (n <= 0)
		return deadline >= 0 && shmconn__now() >= deadline ? -ETIMEDOUT : 0;
	if ((p[0].revents & POLLIN) != 0) {
		char bytes[64];
		if (read(c->bell, bytes, sizeof bytes) > 0)
			shmconn__wake(s == &c->rx ? &c->tx : &c->rx);
	}
	if ((p[0].revents & (POLLHUP | POLLERR | POLLNVAL)) != 0)
		atomic_store(&c->gone, 1);
	if ((p[1].revents & POLLIN) != 0) {
		uint64_t count;
		ssize_t r = read(s->token, &count, sizeof count);
		(void)r; /* nobody else reads it */
	}
	return 0;
}

/* Waits for news. There may be none: the caller looks for itself. */
static int shmconn__wait(shmconn *c, struct shmconn__side *s, int timeout_ms, int64_t deadline) {
	if (timeout_ms == 0)
		return shmconn__news(c, s) ? 0 : -ETIMEDOUT;
	if (shmconn__spin(c, s))
		return 0;
	int err = 0;
	do {
		s->epoch += 1 + (s->epoch & 1); /* odd, and never the same twice */
		atomic_store_explicit(&s->asleep, 1, memory_order_seq_cst);
		atomic_store_explicit(&s->own->parked, s->epoch, memory_order_seq_cst);
	} while (!shmconn__news(c, s) && (err = shmconn__sleep(c, s, deadline)) == 0 && !shmconn__news(c, s));
	s->epoch++;
	if (!atomic_load(&c->broken)) /* nothing is stored after damage */
		atomic_store_explicit(&s->own->parked, s->epoch, memory_order_relaxed);
	atomic_store_explicit(&s->asleep, 0, memory_order_relaxed);
	return err;
}

/*
 * Returns how many bytes there are to read, -ENODATA at the end and -EAGAIN if there are none yet.
 * It looks for the end of the doorbell, closed and the position in this order, which is not that
 * in which they happen, and judges them the other way round.
 */
static int64_t shmconn__ready(shmconn *c) {
	struct shmconn__side *s = &c->rx;
	if (atomic_load(&c->broken))
		return -EPROTO;
	if (s->seen != s->position)
		return (int64_t)(s->seen - s->position);
	int gone = atomic_load(&c->gone);
	uint32_t closed = atomic_load_explicit(&s->peer->closed, memory_order_seq_cst);
	uint64_t produced = atomic_load_explicit(s->peer_position, memory_order_seq_cst);
	if (produced - s->seen > s->told + c->ring - s->seen)
		return shmconn__break(c);
	s->seen = produced;
	if (produced != s->position)
		return (int64_t)(produced - s->position);
	return closed != 0 ? -ENODATA : gone ? -ECONNRESET : -EAGAIN;
}

/* Gives the room of all that was read back, but not after damage. */
static void shmconn__tell(shmconn *c) {
	if (c->rx.told != c->rx.position && !atomic_load(&c->broken))
		shmconn__publish(c, &c->rx);
}

/* The same for the writer, unless a read is under way, which does it before it waits. */
static void shmconn__tell_for_reader(shmconn *c) {
	if (!atomic_flag_test_and_set_explicit(&c->rx_busy, memory_order_acquire)) {
		shmconn__tell(c);
		atomic_flag_clear_explicit(&c->rx_busy, memory_order_release);
	}
}

static ssize_t shmconn__read_locked(shmconn *c, unsigned char *buf, size_t n, int timeout_ms) {
	struct shmconn__side *s = &c->rx;
	int64_t deadline = shmconn__deadline(timeout_ms), ready;
	while ((ready = shmconn__ready(c)) == -EAGAIN) {
		shmconn__tell(c); /* before the wait: the peer may be waiting for this room */
		int err = shmconn__wait(c, s, timeout_ms, deadline);
		if (err == 0)
			continue;
		ready = shmconn__ready(c);
		if (ready == -EAGAIN)
			ready = err;
		break;
	}
	if (ready < 0)
		return ready == -ENODATA ? 0 : (ssize_t)ready;
	if ((uint64_t)ready < n)
		n = (size_t)ready;
	/* A long copy gives room back on the way. */
	for (size_t done = 0; done < n;) {
		size_t m = n - done < c->ring / 4 ? n - done : (size_t)(c->ring / 4);
		memcpy(buf + done, s->data + (s->position & (c->ring - 1)), m);
		s->position += m;
		done += m;
		if (s->position - s->told >= c->ring / 4)
			shmconn__publish(c, s);
	}
	return (ssize_t)n;
}

ssize_t shmconn_read(shmconn *c, void *buf, size_t n, int timeout_ms) {
	if (n == 0)
		return 0;
	if (n > SSIZE_MAX)
		n = SSIZE_MAX;
	while (atomic_flag_test_and_set_explicit(&c->rx_busy, memory_order_acquire))
		shmconn__pause(); /* the writer is telling, which takes no time */
	ssize_t done = shmconn__read_locked(c, buf, n, timeout_ms);
	atomic_flag_clear_explicit(&c->rx_busy, memory_order_release);
	return done;
}

static int shmconn__writable(shmconn *c) {
	if (atomic_load(&c->broken))
		return -EPROTO;
	if (c->shut || atomic_load(&c->gone) || atomic_load_explicit(&c->tx.peer->closed, memory_order_seq_cst) != 0)
		return -EPIPE;
	return 0;
}

/* Returns 1 if there is room for n bytes, 0 if not. */
static int shmconn__fits(shmconn *c, size_t n) {
	struct shmconn__side *s = &c->tx;
	if (c->ring - (s->position - s->seen) >= n)
		return 1;
	uint64_t consumed = atomic_load_explicit(s->peer_position, memory_order_seq_cst);
	if (consumed - s->seen > s->position - s->seen)
		return shmconn__break(c);
	s->seen = consumed;
	return c->ring - (s->position - s->seen) >= n;
}

ssize_t shmconn_write(shmconn *c, const void *buf, size_t n, int timeout_ms) {
	struct shmconn__side *s = &c->tx;
	const unsigned char *from = buf;
	size_t whole = c->ring / 2 < SHMCONN__MAX_CHUNK ? (size_t)(c->ring / 2) : SHMCONN__MAX_CHUNK;
	size_t chunk = c->ring / 4 < SHMCONN__MAX_CHUNK ? (size_t)(c->ring / 4) : SHMCONN__MAX_CHUNK;
	int64_t deadline = shmconn__deadline(timeout_ms);
	size_t done = 0;
	if (n > SSIZE_MAX)
		n = SSIZE_MAX;
	int err = shmconn__writable(c);
	while (done < n && (err = shmconn__writable(c)) == 0) {
		size_t piece = n - done <= whole ? n - done : chunk;
		int fits = shmconn__fits(c, piece);
		if (fits == 0) {
			shmconn__tell_for_reader(c);
			err = shmconn__wait(c, s, timeout_ms, deadline);
			if (err == 0)
				continue;
			fits = shmconn__fits(c, piece);
			if (fits == 0)
				break;
		}
		if (fits < 0) {
			err = fits;
			break;
		}
		memcpy(s->data + (s->position & (c->ring - 1)), from + done, piece);
		s->position += piece;
		done += piece;
		shmconn__publish(c, s);
		/* Who waits is told of the peer's death; who never waits looks now and then. */
		c->unchecked += piece;
		if (c->unchecked >= c->ring / 4) {
			c->unchecked = 0;
			shmconn__check_peer(c);
		}
	}
	return done > 0 ? (ssize_t)done : err;
}

int shmconn_close_write(shmconn *c) {
	if (!c->shut)
		shmconn__hang_up(c, &c->tx);
	c->shut = 1;
	return 0;
}

static int shmconn__same(int dir, const char *name, int fd) {
	struct stat a, b;
	return fstat(fd, &a) == 0 && fstatat(dir, name, &b, AT_SYMLINK_NOFOLLOW) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static void shmconn__unlink_if_same(int dir, const char *name, int fd) {
	if (shmconn__same(dir, name, fd))
		unlinkat(dir, name, 0);
}

/* Frees c without a word: to the peer it is as if this process had died. */
static void shmconn__free(shmconn *c) {
	if (c->memory != NULL)
		munmap(c->memory, c->mapped);
	shmconn__close_fd(&c->file);
	shmconn__close_fd(&c->ringer);
	shmconn__close_fd(&c->bell);
	shmconn__close_fd(&c->rx.token);
	shmconn__close_fd(&c->tx.token);
	free(c);
}

int shmconn_close(shmconn *c) {
	shmconn__tell(c);
	shmconn__hang_up(c, &c->rx);
	shmconn_close_write(c);
	shmconn__free(c);
	return 0;
}

static shmconn *shmconn__new(uint64_t ring) {
	shmconn *c = calloc(1, sizeof *c);
	if (c == NULL)
		return NULL;
	c->ring = ring;
	c->bell = c->ringer = c->file = c->tx.token = -1;
	atomic_flag_clear(&c->rx_busy);
	c->rx.token = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	c->tx.token = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->rx.token >= 0 && c->tx.token >= 0)
		return c;
	int err = errno;
	shmconn__free(c);
	errno = err;
	return NULL;
}

static size_t shmconn__page(void) { return (size_t)sysconf(_SC_PAGESIZE); }

/* Maps header, A, A, B, B: so every span of a ring is contiguous. */
static int shmconn__map(shmconn *c, int fd) {
	const size_t page = shmconn__page(), ring = (size_t)c->ring;
	const int access = PROT_READ | PROT_WRITE;
	c->mapped = page + 4 * ring;
	unsigned char *m = mmap(NULL, c->mapped, access, MAP_SHARED, fd, 0);
	if (m == MAP_FAILED)
		return -errno;
	c->memory = m;
	if (mmap(m + page + ring, 2 * ring, access, MAP_SHARED | MAP_FIXED, fd, (off_t)page) == MAP_FAILED ||
	    mmap(m + page + 3 * ring, ring, access, MAP_SHARED | MAP_FIXED, fd, (off_t)(page + ring)) == MAP_FAILED)
		return -errno;
	return 0;
}

/* Makes the two sides of what is mapped. */
static void shmconn__sides(shmconn *c, int dialer) {
	struct shmconn__ring_header *a = (void *)(c->memory + SHMCONN__RING_A), *b = (void *)(c->memory + SHMCONN__RING_B);
	struct shmconn__ring_header *in = dialer ? b : a, *out = dialer ? a : b;
	unsigned char *data_a = c->memory + shmconn__page(), *data_b = data_a + 2 * c->ring;
	c->rx.own = &in->consumer, c->rx.peer = &in->producer;
	c->rx.own_position = &in->consumed, c->rx.peer_position = &in->produced;
	c->rx.data = dialer ? data_b : data_a;
	c->tx.own = &out->producer, c->tx.peer = &out->consumer;
	c->tx.own_position = &out->produced, c->tx.peer_position = &out->consumed;
	c->tx.data = dialer ? data_a : data_b;
}

/* ---- Names and files ---- */

/* Opens the directory of name, and copies its last element to base. */
static int shmconn__open_dir(const char *name, char base[SHMCONN__MAX_NAME + 1]) {
	char dir[PATH_MAX];
	const char *slash = strrchr(name, '/'), *last = slash != NULL ? slash + 1 : name;
	const char *env = getenv("SHMCONN_DIR");
	const char *parent = env != NULL && env[0] != 0 ? env : "/dev/shm";
	size_t n = strlen(last), length = strlen(parent);
	if (n == 0 || n > SHMCONN__MAX_NAME || last[0] == '.' ||
	    strspn(last, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != n)
		return -EINVAL;
	if (slash != NULL) {
		parent = name;
		length = (size_t)(last - name);
	}
	if (length >= sizeof dir)
		return -ENAMETOOLONG;
	memcpy(dir, parent, length);
	dir[length] = 0;
	memcpy(base, last, n + 1);
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Writes the bytes in hex digits, and a 0. */
static void shmconn__hex(char *to, const unsigned char *bytes, size_t n) {
	for (size_t i = 0; i < n; i++)
		snprintf(to + 2 * i, 3, "%02x", bytes[i]);
}

static int shmconn__random(unsigned char *to, size_t n) {
	ssize_t got;
	do
		got = getrandom(to, n, 0);
	while (got < 0 && errno == EINTR);
	return got == (ssize_t)n ? 0 : -EIO;
}

/* Takes the lock of the whole file, for as long as the descriptor lives. */
static int shmconn__lock(int fd) {
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	return fcntl(fd, F_OFD_SETLK, &l) == 0 ? 0 : errno == EACCES ? -EAGAIN : -errno;
}

/* Reads n bytes at the start, -ENODATA if there are fewer. */
static int shmconn__pread(int fd, void *to, size_t n) {
	for (size_t done = 0; done < n;) {
		ssize_t got = pread(fd, (char *)to + done, n - done, (off_t)done);
		if (got == 0)
			return -ENODATA;
		if (got < 0 && errno != EINTR)
			return -errno;
		if (got > 0)
			done += (size_t)got;
	}
	return 0;
}

static int shmconn__pwrite(int fd, const void *from, size_t n, size_t at) {
	for (size_t done = 0; done < n;) {
		ssize_t put = pwrite(fd, (const char *)from + done, n - done, (off_t)(at + done));
		if (put < 0 && errno != EINTR)
			return -errno;
		if (put > 0)
			done += (size_t)put;
	}
	return 0;
}

/*
 * Without this a full directory would be a SIGBUS at some later store. In pieces: before Linux 6.10
 * a signal undoes what was not finished, so that the next piece is half as long.
 */
static int shmconn__reserve(int fd, size_t size, int64_t deadline) {
	size_t piece = 1 << 20;
	for (size_t at = 0; at < size;) {
		if (deadline >= 0 && at > 0 && shmconn__now() >= deadline)
			return -ETIMEDOUT;
		size_t n = size - at < piece ? size - at : piece;
		if (fallocate(fd, 0, (off_t)at, (off_t)n) == 0) {
			at += n;
		} else if (errno == EINTR) {
			piece = n / 2 > shmconn__page() ? n / 2 : shmconn__page();
		} else if (errno == EOPNOTSUPP) { /* ramfs */
			static const char zeros[4096];
			n = n < sizeof zeros ? n : sizeof zeros;
			int err = shmconn__pwrite(fd, zeros, n, at);
			if (err != 0)
				return err;
			at += n;
		} else {
			return -errno;
		}
	}
	return 0;
}

/* Whether somebody has a lock on fd that a listener has; when in doubt, yes. */
static int shmconn__write_locked(int fd) {
	struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
	return fcntl(fd, F_OFD_GETLK, &l) != 0 || l.l_type == F_WRLCK;
}

static int shmconn__good_ring(uint64_t n) {
	return n >= shmconn__page() && n <= SHMCONN__MAX_RING && (n & (n - 1)) == 0;
}

/* ---- Dialing ---- */

static int shmconn__trusted(uid_t uid) { return uid == 0 || uid == geteuid(); }

/* Reads the listener segment. -EAGAIN: begin anew. */
static int shmconn__lookup(int dir, const char *base, struct shmconn__listener_page *page) {
	char name[sizeof("shmconn.") + SHMCONN__MAX_NAME];
	snprintf(name, sizeof name, "shmconn.%s", base);
	int fd = openat(dir, name, O_RDONLY | SHMCONN__OPEN);
	if (fd < 0)
		return errno == ENOENT ? -ECONNREFUSED : errno == ELOOP || errno == ENXIO ? -EPROTO : -errno;
	struct stat st;
	int err = fstat(fd, &st) == 0 ? 0 : -errno;
	if (err == 0 && !S_ISREG(st.st_mode))
		err = -EPROTO;
	if (err == 0 && ((st.st_mode & 022) != 0 || !shmconn__trusted(st.st_uid)))
		err = -EACCES;
	if (err == 0)
		err = shmconn__pread(fd, page, sizeof *page);
	if (err == -ENODATA || (err == 0 && page->magic == 0)) /* it is being made, or put right */
		err = shmconn__write_locked(fd) ? -EAGAIN : -ECONNREFUSED;
	close(fd);
	if (err != 0)
		return err;
	if (page->magic != SHMCONN__LISTENER_MAGIC)
		return -EPROTO;
	if (page->version != SHMCONN__VERSION)
		return -EPROTONOSUPPORT;
	if (!shmconn__good_ring(page->ring_size) || page->header_size != shmconn__page() || (page->flags & ~1u) != 0)
		return -EPROTO;
	return 0;
}

static int shmconn__memory(shmconn *c, const char *base) {
	char name[sizeof("shmconn.") + SHMCONN__MAX_NAME];
	snprintf(name, sizeof name, "shmconn.%s", base);
	c->sealed = 1;
	return memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
}

/* A file without a name; or memory, where the directory may not be written to. */
static int shmconn__nameless(shmconn *c, int dir, const char *base, const unsigned char id[SHMCONN__ID]) {
	int fd = openat(dir, ".", O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
		char digits[2 * SHMCONN__ID + 1], name[sizeof("shmconn.@") + SHMCONN__MAX_NAME + 2 * SHMCONN__ID];
		shmconn__hex(digits, id, SHMCONN__ID);
		snprintf(name, sizeof name, "shmconn.%s@%s", base, digits);
		fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | SHMCONN__OPEN, 0600);
		if (fd >= 0)
			unlinkat(dir, name, 0);
	}
	if (fd < 0 && (errno == EACCES || errno == EPERM || errno == EROFS))
		return shmconn__memory(c, base);
	return fd;
}

/* Makes the segment of c. */
static int shmconn__create(shmconn *c, int dir, const char *base, unsigned flags, int64_t deadline, unsigned char id[SHMCONN__ID]) {
	struct shmconn__conn_header h = {
	        .magic = SHMCONN__CONN_MAGIC, .version = SHMCONN__VERSION, .header_size = (uint32_t)shmconn__page(), .ring_size = c->ring, .flags = flags};
	int err = shmconn__random(id, SHMCONN__ID);
	if (err != 0)
		return err;
	memcpy(h.id, id, SHMCONN__ID);
	memcpy(h.name, base, strlen(base));
	c->file = (flags & SHMCONN_ANONYMOUS) != 0 ? shmconn__memory(c, base) : shmconn__nameless(c, dir, base, id);
	if (c->file < 0)
		return -errno;
	err = shmconn__reserve(c->file, shmconn__page() + 2 * (size_t)c->ring, deadline);
	if (err != 0)
		return err;
	if (c->sealed && fcntl(c->file, F_ADD_SEALS, SHMCONN__SEALS) != 0)
		return -errno;
	err = shmconn__pwrite(c->file, &h, sizeof h, 0);
	return err != 0 ? err : shmconn__map(c, c->file);
}

/* Makes a doorbell: pipe[0] is slept on, pipe[1] rings. */
static int shmconn__pipe(int pipe[2]) {
	if (pipe2(pipe, O_CLOEXEC | O_NONBLOCK) != 0) {
		pipe[0] = pipe[1] = -1;
		return -errno;
	}
	fcntl(pipe[0], F_SETPIPE_SZ, (int)shmconn__page());
	return fchmod(pipe[0], 0666) == 0 ? 0 : -errno;
}

/* Connects to the socket; waits while the backlog is full, which the kernel does not do with a deadline. */
static int shmconn__connect(int dir, const char *base, int64_t deadline) {
	char name[sizeof("shmconn.@sock") + SHMCONN__MAX_NAME];
	snprintf(name, sizeof name, "shmconn.%s@sock", base);
	int at = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (at < 0)
		return errno == ENOENT ? -EAGAIN : -errno;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d", at);
	struct stat st;
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int err = sock < 0 || fstat(at, &st) != 0 ? -errno : S_ISSOCK(st.st_mode) ? 0 : -EPROTO;
	while (err == 0 && connect(sock, (struct sockaddr *)&address, sizeof address) != 0) {
		if (errno != EAGAIN && errno != EINTR)
			err = errno == ECONNREFUSED ? -EAGAIN : -errno; /* ENOENT: there is no /proc */
		else if (deadline >= 0 && shmconn__now() >= deadline)
			err = -ETIMEDOUT;
		else
			nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	close(at);
	if (err == 0) {
		struct ucred peer;
		socklen_t length = sizeof peer;
		if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0)
			err = -errno;
		else if (!shmconn__trusted(peer.uid))
			err = -EACCES;
	}
	if (err != 0)
		shmconn__close_fd(&sock);
	return err != 0 ? err : sock;
}

static int shmconn__send(int sock, const unsigned char id[SHMCONN__ID], const int fds[3]) {
	unsigned char hello[SHMCONN__HELLO] = "shmconn\1";
	memcpy(hello + 8, id, SHMCONN__ID);
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(3 * sizeof(int))];
	} control = {.space = {0}};
	struct iovec data = {.iov_base = hello, .iov_len = sizeof hello};
	struct msghdr m = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.space};
	struct cmsghdr *rights = CMSG_FIRSTHDR(&m);
	rights->cmsg_level = SOL_SOCKET;
	rights->cmsg_type = SCM_RIGHTS;
	rights->cmsg_len = CMSG_LEN(3 * sizeof(int));
	memcpy(CMSG_DATA(rights), fds, 3 * sizeof(int));
	ssize_t n;
	do
		n = sendmsg(sock, &m, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

/* Makes all that a connection consists of, and hands the listener its end. -EAGAIN: begin anew. */
static int shmconn__introduce(int dir, const char *base, int64_t deadline, shmconn **conn) {
	struct shmconn__listener_page page, again;
	int err = shmconn__lookup(dir, base, &page);
	if (err != 0)
		return err;
	shmconn *c = shmconn__new(page.ring_size);
	if (c == NULL)
		return -errno;
	unsigned char id[SHMCONN__ID];
	int ours[2] = {-1, -1}, theirs[2] = {-1, -1}, sock = -1;
	if ((err = shmconn__create(c, dir, base, page.flags, deadline, id)) != 0 || (err = shmconn__pipe(ours)) != 0 || (err = shmconn__pipe(theirs)) != 0)
		goto done;
	/* Open for reading, too, so that to ring a peer that is gone is no SIGPIPE. */
	if ((err = c->ringer = shmconn__reopen(theirs[1], O_RDWR)) < 0)
		goto done;
	if ((err = sock = shmconn__connect(dir, base, deadline)) < 0)
		goto done;
	if ((err = shmconn__lookup(dir, base, &again)) != 0) {
		err = err == -ECONNREFUSED ? -EAGAIN : err;
		goto done;
	}
	err = -EAGAIN;
	if (again.ring_size != page.ring_size || again.flags != page.flags)
		goto done;
	err = shmconn__send(sock, id, (int[3]){c->file, ours[1], theirs[0]});
	if (err == -EPIPE || err == -ECONNRESET)
		err = -EAGAIN; /* dropped before it had spoken */
done:
	shmconn__close_fd(&sock);
	shmconn__close_fd(&theirs[0]);
	shmconn__close_fd(&theirs[1]);
	shmconn__close_fd(&ours[1]);
	c->bell = ours[0];
	if (err != 0) {
		shmconn__free(c);
		return err;
	}
	if (c->sealed)
		shmconn__close_fd(&c->file);
	shmconn__sides(c, 1);
	*conn = c;
	return 0;
}

int shmconn_dial(const char *name, int timeout_ms, shmconn **conn) {
	char base[SHMCONN__MAX_NAME + 1];
	int64_t deadline = shmconn__deadline(timeout_ms);
	int dir = shmconn__open_dir(name, base);
	if (dir < 0)
		return dir == -ENOENT ? -ECONNREFUSED : dir;
	int err = shmconn__introduce(dir, base, deadline, conn);
	for (int i = 1; i < 16 && err == -EAGAIN && (deadline < 0 || shmconn__now() < deadline); i++) {
		nanosleep(&(struct timespec){.tv_nsec = i < 7 ? 100000 << i : 10000000}, NULL);
		err = shmconn__introduce(dir, base, deadline, conn);
	}
	close(dir);
	return err == -EAGAIN ? -ECONNREFUSED : err;
}

/* ---- Listening ---- */

struct shmconn_listener {
	int dir, file, sock;
	char base[SHMCONN__MAX_NAME + 1];
	char name[sizeof("shmconn.") + SHMCONN__MAX_NAME], socket_name[sizeof("shmconn.@sock") + SHMCONN__MAX_NAME];
	int locked;     /* the name is ours */
	struct stat st; /* of the segment */
	struct stat socket;
	struct shmconn__listener_page page;
	int silent; /* dialers that have connected and said nothing yet, oldest first */
	struct {
		int fd;
		int64_t until;
	} dialers[SHMCONN__MAX_SILENT];
};

static int shmconn__all_zero(const unsigned char *p, size_t n) {
	while (n > 0 && p[n - 1] == 0)
		n--;
	return n == 0;
}

/*
 * Whether the file behind fd is what a listener has left: empty, a page of zeros, or a page that is
 * whole but perhaps for its magic number. Anything else is somebody's data.
 */
static int shmconn__is_listener(int fd) {
	struct stat st;
	struct shmconn__listener_page p;
	if (fstat(fd, &st) != 0)
		return 0;
	if (st.st_size == 0)
		return 1;
	if (st.st_size != (off_t)shmconn__page())
		return 0;
	unsigned char *page = malloc(shmconn__page());
	int is = 0;
	if (page != NULL && shmconn__pread(fd, page, shmconn__page()) == 0) {
		memcpy(&p, page, sizeof p);
		is = p.magic == SHMCONN__LISTENER_MAGIC || shmconn__all_zero(page, shmconn__page()) ||
		     (p.magic == 0 && p.version == SHMCONN__VERSION && p.header_size == shmconn__page() && shmconn__good_ring(p.ring_size) &&
		      (p.flags & ~1u) == 0 && shmconn__all_zero(page + sizeof p, shmconn__page() - sizeof p));
	}
	free(page);
	return is;
}

/* Whether the file behind fd, which has the name of one, is a connection segment, or the beginning of one. */
static int shmconn__is_conn(int fd, off_t size) {
	struct shmconn__conn_header h;
	size_t n = size < (off_t)sizeof h ? (size_t)size : sizeof h;
	memset(&h, 0, sizeof h);
	return shmconn__pread(fd, &h, n) == 0 && (h.magic == SHMCONN__CONN_MAGIC || shmconn__all_zero((unsigned char *)&h, n));
}

/* Opens or makes the segment and locks it, once. -EAGAIN: begin again. */
static int shmconn__take_once(shmconn_listener *l) {
	l->file = openat(l->dir, l->name, O_RDWR | O_CREAT | SHMCONN__OPEN, 0600);
	if (l->file < 0)
		return -errno;
	if (fstat(l->file, &l->st) != 0)
		return -errno;
	if (!S_ISREG(l->st.st_mode))
		return -EPROTO;
	if (l->st.st_uid != geteuid())
		return shmconn__lock(l->file) == 0 ? -EACCES : -EADDRINUSE;
	if ((l->st.st_mode & 022) != 0)
		return -EACCES;
	int err = shmconn__lock(l->file);
	for (int64_t end = shmconn__now() + 100000000; err == -EAGAIN && shmconn__now() < end; err = shmconn__lock(l->file))
		nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
	if (err == -EAGAIN) {
		if (shmconn__write_locked(l->file))
			return -EADDRINUSE;
		if (!shmconn__is_listener(l->file))
			return -EEXIST;
		shmconn__unlink_if_same(l->dir, l->name, l->file); /* a dialer has a lock for reading: it may keep the file */
		return -EAGAIN;
	}
	if (err != 0)
		return err;
	if (!shmconn__same(l->dir, l->name, l->file))
		return -EAGAIN; /* its listener has closed meanwhile */
	if (l->st.st_nlink != 1) {
		if (unlinkat(l->dir, l->name, 0) != 0)
			return -errno;
		return -EAGAIN;
	}
	if (!shmconn__is_listener(l->file))
		return -EEXIST;
	l->locked = 1;
	return 0;
}

/* What the name of the socket starts with until it is ready. */
static void shmconn__draft(char to[40], const char *base) {
	uint64_t h = UINT64_C(14695981039346656037);
	for (; *base != 0; base++)
		h = (h ^ (unsigned char)*base) * UINT64_C(1099511628211);
	snprintf(to, 40, "shmconn.@%016llx", (unsigned long long)h);
}

/* Removes what killed processes of this user have left of the name, which is ours. */
static void shmconn__sweep(shmconn_listener *l) {
	char draft[40], prefix[sizeof l->name + 1];
	shmconn__draft(draft, l->base);
	snprintf(prefix, sizeof prefix, "%s@", l->name);
	int again = openat(l->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = again < 0 ? NULL : fdopendir(again);
	if (d == NULL) {
		shmconn__close_fd(&again);
		return;
	}
	for (struct dirent *e; (e = readdir(d)) != NULL;) {
		struct stat st;
		if (strncmp(e->d_name, draft, strlen(draft)) == 0 && strlen(e->d_name) == strlen(draft) + 16 &&
		    strspn(e->d_name + strlen(draft), "0123456789abcdef") == 16) {
			if (fstatat(l->dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISSOCK(st.st_mode) && st.st_uid == geteuid())
				unlinkat(l->dir, e->d_name, 0);
			continue;
		}
		if (strncmp(e->d_name, prefix, strlen(prefix)) != 0 || strlen(e->d_name + strlen(prefix)) != 2 * SHMCONN__ID)
			continue;
		int fd = openat(l->dir, e->d_name, O_RDWR | SHMCONN__OPEN);
		if (fd < 0)
			continue;
		if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 022) == 0 && st.st_uid == geteuid() && shmconn__lock(fd) == 0 &&
		    shmconn__is_conn(fd, st.st_size))
			shmconn__unlink_if_same(l->dir, e->d_name, fd);
		close(fd);
	}
	closedir(d);
}

/* Gives the socket its mode, once it is sure that it is ours. */
static int shmconn__chmod_socket(shmconn_listener *l, const char *name, mode_t mode) {
	int fd = openat(l->dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	char path[40];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	int err = 0;
	if (fstat(fd, &l->socket) != 0)
		err = -errno;
	else if (!S_ISSOCK(l->socket.st_mode) || l->socket.st_uid != geteuid())
		err = -EACCES;
	else if (chmod(path, mode & 0666) != 0)
		err = -errno;
	close(fd);
	return err;
}

static int shmconn__open_socket(shmconn_listener *l, mode_t mode) {
	struct stat st;
	if (fstatat(l->dir, l->socket_name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		if (!S_ISSOCK(st.st_mode) || st.st_uid != geteuid())
			return -EACCES;
	} else if (errno != ENOENT) {
		return -errno;
	}
	unsigned char random[8];
	char draft[64];
	int err = shmconn__random(random, sizeof random);
	if (err != 0)
		return err;
	shmconn__draft(draft, l->base);
	shmconn__hex(draft + strlen(draft), random, sizeof random);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", l->dir, draft);
	l->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->sock < 0 || bind(l->sock, (struct sockaddr *)&address, sizeof address) != 0)
		return -errno;
	err = shmconn__chmod_socket(l, draft, mode);
	if (err == 0 && (listen(l->sock, 128) != 0 || renameat(l->dir, draft, l->dir, l->socket_name) != 0))
		err = -errno;
	if (err != 0)
		unlinkat(l->dir, draft, 0);
	return err;
}

static int shmconn__announce(shmconn_listener *l, mode_t mode) {
	int err;
	while ((err = shmconn__take_once(l)) == -EAGAIN)
		shmconn__close_fd(&l->file);
	if (err != 0)
		return err;
	if (fchmod(l->file, 0600 | (mode & 0444)) != 0)
		return -errno;
	shmconn__sweep(l);
	if (ftruncate(l->file, (off_t)shmconn__page()) != 0)
		return -errno;
	if ((err = shmconn__pwrite(l->file, &l->page, sizeof l->page, 0)) != 0 ||
	    (err = shmconn__open_socket(l, mode)) != 0)
		return err;
	l->page.magic = SHMCONN__LISTENER_MAGIC;
	return shmconn__pwrite(l->file, &l->page.magic, sizeof l->page.magic, 0);
}

int shmconn_close_listener(shmconn_listener *l) {
	struct stat st;
	if (l->locked) {
		if (fstatat(l->dir, l->socket_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_dev == l->socket.st_dev && st.st_ino == l->socket.st_ino)
			unlinkat(l->dir, l->socket_name, 0);
		shmconn__unlink_if_same(l->dir, l->name, l->file);
	}
	for (int i = 0; i < l->silent; i++)
		close(l->dialers[i].fd);
	shmconn__close_fd(&l->sock);
	shmconn__close_fd(&l->file);
	shmconn__close_fd(&l->dir);
	free(l);
	return 0;
}

int shmconn_listen(const char *name, size_t ring_size, mode_t mode, unsigned flags, shmconn_listener **out) {
	if (ring_size == 0)
		ring_size = 256 << 10;
	if (mode == 0)
		mode = 0600;
	if (!shmconn__good_ring(ring_size) || (mode & ~(mode_t)0777) != 0 || (mode & 0600) != 0600 || (mode & 060) == 020 || (mode & 06) == 02 || (flags & ~(unsigned)SHMCONN_ANONYMOUS) != 0)
		return -EINVAL;
	shmconn_listener *l = calloc(1, sizeof *l);
	if (l == NULL)
		return -errno;
	l->file = l->sock = -1;
	l->dir = shmconn__open_dir(name, l->base);
	int err = l->dir < 0 ? l->dir : 0;
	if (err == 0) {
		snprintf(l->name, sizeof l->name, "shmconn.%s", l->base);
		snprintf(l->socket_name, sizeof l->socket_name, "shmconn.%s@sock", l->base);
		l->page.version = SHMCONN__VERSION;
		l->page.header_size = (uint32_t)shmconn__page();
		l->page.ring_size = ring_size;
		l->page.flags = flags;
		l->page.pid = (uint32_t)getpid();
		err = shmconn__announce(l, mode);
	}
	if (err != 0) {
		shmconn_close_listener(l);
		return err;
	}
	*out = l;
	return 0;
}

/* Receives the introduction: -EPROTO if it is not understood. The descriptors are the caller's. */
static int shmconn__receive(int sock, unsigned char id[SHMCONN__ID], int fds[3]) {
	unsigned char hello[SHMCONN__HELLO + 1];
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(4 * sizeof(int))];
	} control;
	struct iovec data = {.iov_base = hello, .iov_len = sizeof hello};
	struct msghdr m = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.space};
	ssize_t n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? -EAGAIN : -errno;
	size_t count = 0;
	for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h != NULL; h = CMSG_NXTHDR(&m, h)) {
		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		size_t length = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < length; i++, count++) {
			int fd;
			memcpy(&fd, CMSG_DATA(h) + i * sizeof fd, sizeof fd);
			if (count < 3)
				fds[count] = fd;
			else
				close(fd);
		}
	}
	if (n != SHMCONN__HELLO || memcmp(hello, "shmconn\1", 8) != 0 || count != 3 || (m.msg_flags & MSG_CTRUNC) != 0)
		return -EPROTO;
	memcpy(id, hello + 8, SHMCONN__ID);
	return 0;
}

/* Another descriptor for an end of a pipe that a dialer has sent, who has a hand on that one. */
static int shmconn__adopt(int fd, int sent, int wanted) {
	struct stat st;
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fstat(fd, &st) != 0)
		return -errno;
	if (!S_ISFIFO(st.st_mode) || (flags & O_ACCMODE) != sent)
		return -EPROTO;
	return shmconn__reopen(fd, wanted);
}

/* Holds the segment that was sent against what this listener knows by itself. */
static int shmconn__check(shmconn_listener *l, int fd, const unsigned char id[SHMCONN__ID]) {
	struct stat st;
	struct shmconn__conn_header h;
	if (fstat(fd, &st) != 0)
		return -EPROTO;
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != shmconn__page() + 2 * l->page.ring_size)
		return -EPROTO;
	if ((l->page.flags & SHMCONN_ANONYMOUS) != 0 || st.st_dev != l->st.st_dev) {
		int seals = fcntl(fd, F_GET_SEALS);
		if (seals < 0 || (seals & SHMCONN__SEALS) != SHMCONN__SEALS)
			return -EPROTO;
	}
	if (shmconn__pread(fd, &h, sizeof h) != 0) /* as a file: memory would fault if it were truncated */
		return -EPROTO;
	if (h.magic != SHMCONN__CONN_MAGIC || h.version != SHMCONN__VERSION || h.header_size != l->page.header_size ||
	    h.ring_size != l->page.ring_size || h.flags != l->page.flags || memcmp(h.id, id, SHMCONN__ID) != 0)
		return -EPROTO;
	return 0;
}

/* Makes a connection of what the dialer behind sock has sent. */
static int shmconn__attach(shmconn_listener *l, int sock, shmconn **conn) {
	unsigned char id[SHMCONN__ID];
	int fds[3] = {-1, -1, -1};
	shmconn *c = NULL;
	int err = shmconn__receive(sock, id, fds);
	if (err != 0 || (err = shmconn__check(l, fds[0], id)) != 0)
		goto done;
	c = shmconn__new(l->page.ring_size);
	if (c == NULL) {
		err = -errno;
		goto done;
	}
	if ((err = shmconn__map(c, fds[0])) != 0)
		goto done;
	/* Open for reading, too, so that to ring a peer that is gone is no SIGPIPE. */
	if ((err = c->ringer = shmconn__adopt(fds[1], O_WRONLY, O_RDWR)) < 0)
		goto done;
	if ((err = c->bell = shmconn__adopt(fds[2], O_RDONLY, O_RDONLY)) < 0)
		goto done;
	err = 0;
	shmconn__sides(c, 0);
	if ((l->page.flags & SHMCONN_ANONYMOUS) == 0) {
		char digits[2 * SHMCONN__ID + 1], path[sizeof("shmconn.@") + SHMCONN__MAX_NAME + 2 * SHMCONN__ID];
		shmconn__hex(digits, id, SHMCONN__ID); /* of a dialer that gives it a name */
		snprintf(path, sizeof path, "%s@%s", l->name, digits);
		shmconn__unlink_if_same(l->dir, path, fds[0]);
	}
	*conn = c;
	c = NULL;
done:
	if (c != NULL)
		shmconn__free(c);
	for (int i = 0; i < 3; i++)
		shmconn__close_fd(&fds[i]);
	return err;
}

static void shmconn__count(shmconn_listener *l, uint64_t *n) {
	(*n)++;
	shmconn__pwrite(l->file, n, sizeof *n, (size_t)((char *)n - (char *)&l->page));
}

/* Closes the socket of dialer i and forgets it. */
static void shmconn__forget(shmconn_listener *l, int i) {
	close(l->dialers[i].fd);
	l->silent--;
	memmove(&l->dialers[i], &l->dialers[i + 1], (size_t)(l->silent - i) * sizeof l->dialers[0]);
}

/* Takes a dialer off the backlog; the one that is silent for longest makes room. */
static int shmconn__greet(shmconn_listener *l) {
	int fd = accept4(l->sock, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED ? 0 : -errno;
	if (l->silent == SHMCONN__MAX_SILENT) {
		shmconn__forget(l, 0);
		shmconn__count(l, &l->page.refused);
	}
	l->dialers[l->silent].fd = fd;
	l->dialers[l->silent++].until = shmconn__now() + 2000000000;
	return 0;
}

int shmconn_accept(shmconn_listener *l, int timeout_ms, shmconn **conn) {
	const int64_t deadline = shmconn__deadline(timeout_ms);
	for (;;) {
		struct pollfd p[1 + SHMCONN__MAX_SILENT] = {{.fd = l->sock, .events = POLLIN}};
		int64_t until = deadline;
		int silent = l->silent;
		for (int i = 0; i < silent; i++) {
			p[1 + i] = (struct pollfd){.fd = l->dialers[i].fd, .events = POLLIN};
			if (until < 0 || l->dialers[i].until < until)
				until = l->dialers[i].until;
		}
		int n = poll(p, (nfds_t)(1 + silent), shmconn__left(until));
		if (n < 0 && errno != EINTR)
			return -errno;
		int64_t now = shmconn__now();
		for (int i = 0, at = 0; i < silent; i++) {
			int err = -EAGAIN;
			if (n > 0 && p[1 + i].revents != 0)
				err = shmconn__attach(l, l->dialers[at].fd, conn);
			if (err == -EAGAIN && now < l->dialers[at].until) {
				at++;
				continue;
			}
			shmconn__forget(l, at);
			shmconn__count(l, err == 0 ? &l->page.accepted : &l->page.refused);
			if (err == 0 || err == -EMFILE || err == -ENFILE || err == -ENOMEM)
				return err;
		}
		if (n > 0 && p[0].revents != 0) {
			int err = shmconn__greet(l);
			if (err != 0)
				return err;
		} else if (n == 0 && deadline >= 0 && now >= deadline) {
			return -ETIMEDOUT;
		}
	}
}

#endif /* SHMCONN_IMPLEMENTATION */
