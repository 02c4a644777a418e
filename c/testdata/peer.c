/*
 * One end of a connection, for c_test.go, which has the same in Go: commands on standard input,
 * a line on standard output for each.
 */
static long long spin_ns = 50000;

#define SHMCONN_SPIN_NS spin_ns
#define SHMCONN_IMPLEMENTATION
#include "../shmconn.h"

#include <pthread.h>

static const char *error_name(ssize_t err) {
	switch (-err) {
	case ETIMEDOUT: return "ETIMEDOUT";
	case EPIPE: return "EPIPE";
	case ECONNRESET: return "ECONNRESET";
	case ECONNREFUSED: return "ECONNREFUSED";
	case EADDRINUSE: return "EADDRINUSE";
	case EPROTO: return "EPROTO";
	}
	return strerror((int)-err);
}

static uint64_t mix(uint64_t *state) {
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* Sizes are spread evenly over the powers of two up to max; each 1000th is up to big. */
static size_t message_size(uint64_t *state, uint64_t i, uint64_t max, uint64_t big) {
	uint64_t a = mix(state), b = mix(state), bits = 0;
	while ((UINT64_C(2) << bits) <= max)
		bits++;
	if (i % 1000 == 999)
		return (size_t)(1 + a % big);
	return (size_t)(1 + a % (UINT64_C(1) << (b % (bits + 1))));
}

static unsigned char pattern(uint64_t seed, uint64_t offset) {
	return (unsigned char)(((offset + seed) * UINT64_C(0x9e3779b97f4a7c15)) >> 56);
}

/* A flow is a row of messages in one direction. */
struct flow {
	shmconn *c;
	uint64_t seed, count, max, big, idle_ms;
	uint64_t state, i, offset;
	unsigned char *buf;
	char result[128];
};

static void start(struct flow *f, shmconn *c) {
	f->c = c;
	f->state = f->seed;
	f->i = f->offset = 0;
	f->buf = malloc(f->big > f->max ? f->big : f->max);
	if (f->buf == NULL)
		abort();
	snprintf(f->result, sizeof f->result, "ok");
}

static void rest(uint64_t ms) {
	if (ms > 0)
		nanosleep(&(struct timespec){.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000}, NULL);
}

static int send_one(struct flow *f) {
	size_t n = message_size(&f->state, f->i++, f->max, f->big);
	for (size_t j = 0; j < n; j++)
		f->buf[j] = pattern(f->seed, f->offset + j);
	ssize_t done = shmconn_write(f->c, f->buf, n, -1);
	f->offset += n;
	if (done == (ssize_t)n)
		return 1;
	snprintf(f->result, sizeof f->result, "message %llu: %zd of %zu bytes written: %s", (unsigned long long)f->i, done, n, done < 0 ? error_name(done) : "");
	return 0;
}

static int receive_one(struct flow *f) {
	size_t n = message_size(&f->state, f->i++, f->max, f->big);
	for (size_t done = 0; done < n;) {
		ssize_t got = shmconn_read(f->c, f->buf + done, n - done, -1);
		if (got <= 0) {
			snprintf(f->result, sizeof f->result, "message %llu: %zu of %zu bytes read: %s", (unsigned long long)f->i, done, n, got < 0 ? error_name(got) : "EOF");
			return 0;
		}
		done += (size_t)got;
	}
	for (size_t j = 0; j < n; j++) {
		if (f->buf[j] != pattern(f->seed, f->offset + j)) {
			snprintf(f->result, sizeof f->result, "message %llu: byte %zu is wrong", (unsigned long long)f->i, j);
			return 0;
		}
	}
	f->offset += n;
	return 1;
}

static void *send_all(void *arg) {
	struct flow *f = arg;
	while (f->i < f->count) {
		rest(f->idle_ms);
		if (!send_one(f))
			break;
	}
	return NULL;
}

static void *receive_all(void *arg) {
	struct flow *f = arg;
	while (f->i < f->count && receive_one(f))
		;
	return NULL;
}

static void answer(const char *s) {
	printf("%s\n", s);
	fflush(stdout);
}

/* Answers with a count, or the error, and how many milliseconds it took. */
static void answer_count(ssize_t n, int64_t start) {
	long long ms = (long long)((shmconn__now() - start) / 1000000);
	if (n < 0)
		printf("%s %lld\n", error_name(n), ms);
	else
		printf("%zd %lld\n", n, ms);
	fflush(stdout);
}

/* Does one command on c. */
static void command(shmconn *c, const char *line) {
	struct flow f = {0}, g = {0};
	unsigned long long a, b, count, max, big, idle, value;
	char which[8];
	unsigned char buf[1 << 16];
	long long n, ms;
	if (sscanf(line, "send %llu %llu %llu %llu %llu", &a, &count, &max, &big, &idle) == 5) {
		f = (struct flow){.seed = a, .count = count, .max = max, .big = big, .idle_ms = idle};
		start(&f, c);
		send_all(&f);
		answer(f.result);
	} else if (sscanf(line, "receive %llu %llu %llu %llu", &a, &count, &max, &big) == 4) {
		f = (struct flow){.seed = a, .count = count, .max = max, .big = big};
		start(&f, c);
		receive_all(&f);
		answer(f.result);
	} else if (sscanf(line, "duplex %llu %llu %llu %llu %llu %llu", &a, &b, &count, &max, &big, &idle) == 6) {
		f = (struct flow){.seed = a, .count = count, .max = max, .big = big, .idle_ms = idle};
		g = (struct flow){.seed = b, .count = count, .max = max, .big = big};
		start(&f, c);
		start(&g, c);
		pthread_t thread;
		if (pthread_create(&thread, NULL, send_all, &f) != 0)
			abort();
		receive_all(&g);
		pthread_join(thread, NULL);
		answer(strcmp(f.result, "ok") != 0 ? f.result : g.result);
	} else if (sscanf(line, "alternate %llu %llu %llu %llu %llu %llu", &a, &b, &count, &max, &big, &idle) == 6) {
		f = (struct flow){.seed = a, .count = count, .max = max, .big = big};
		g = (struct flow){.seed = b, .count = count, .max = max, .big = big};
		start(&f, c);
		start(&g, c);
		while (f.i < count) {
			rest(idle);
			if (!receive_one(&g) || !send_one(&f))
				break;
		}
		answer(strcmp(f.result, "ok") != 0 ? f.result : g.result);
	} else if (sscanf(line, "read %lld %lld", &ms, &n) == 2) {
		answer("reading");
		int64_t begin = shmconn__now();
		answer_count(shmconn_read(c, buf, (size_t)n, (int)ms), begin);
	} else if (sscanf(line, "write %lld %lld", &n, &ms) == 2) {
		unsigned char *zeros = calloc(1, (size_t)n);
		if (zeros == NULL)
			abort();
		int64_t begin = shmconn__now();
		answer_count(shmconn_write(c, zeros, (size_t)n, (int)ms), begin);
		free(zeros);
	} else if (sscanf(line, "poke %7s %llu", which, &value) == 2) {
		struct shmconn__side *s = strcmp(which, "out") == 0 ? &c->tx : &c->rx;
		s->position += value;
		shmconn__publish(c, s);
		answer("ok");
	} else if (sscanf(line, "spin %lld", &spin_ns) == 1) {
		answer("ok");
	} else if (strcmp(line, "parks") == 0) {
		printf("%llu\n", (unsigned long long)((c->rx.epoch + 1) / 2 + (c->tx.epoch + 1) / 2));
		fflush(stdout);
	} else if (strcmp(line, "shut") == 0) {
		answer(shmconn_close_write(c) == 0 ? "ok" : "error");
	} else {
		answer("unknown command");
	}
	free(f.buf);
	free(g.buf);
}

int main(int argc, char **argv) {
	if (argc != 5) {
		fprintf(stderr, "usage: peer listen|dial NAME RING FLAGS\n");
		return 2;
	}
	shmconn_listener *l = NULL;
	shmconn *c = NULL;
	int err = 0;
	if (strcmp(argv[1], "listen") == 0)
		err = shmconn_listen(argv[2], strtoull(argv[3], NULL, 10), 0, (unsigned)strtoul(argv[4], NULL, 10), &l);
	else
		err = shmconn_dial(argv[2], 10000, &c);
	answer(err == 0 ? "ok" : error_name(err));
	char line[256];
	while (fgets(line, sizeof line, stdin) != NULL) {
		line[strcspn(line, "\n")] = 0;
		if (strcmp(line, "accept") == 0) {
			err = shmconn_accept(l, 10000, &c);
			answer(err == 0 ? "ok" : error_name(err));
		} else if (strcmp(line, "unlisten") == 0) {
			shmconn_close_listener(l);
			l = NULL;
			answer("ok");
		} else if (strcmp(line, "close") == 0) {
			shmconn_close(c);
			c = NULL;
			answer("ok");
		} else {
			command(c, line);
		}
	}
	if (c != NULL)
		shmconn_close(c);
	if (l != NULL)
		shmconn_close_listener(l);
	return 0;
}
