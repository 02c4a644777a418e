/* consume NAME: listens on NAME, and adds up the integers that the first to connect sends. */
#define SHMCONN_IMPLEMENTATION
#include "../shmconn.h"

int main(int argc, char **argv) {
	if (argc != 2) {
		fprintf(stderr, "usage: consume NAME\n");
		return 2;
	}
	shmconn_listener *l;
	int err = shmconn_listen(argv[1], 0, 0, 0, &l);
	if (err != 0) {
		fprintf(stderr, "listen: %s\n", strerror(-err));
		return 1;
	}
	printf("listening\n");
	fflush(stdout);
	shmconn *c;
	err = shmconn_accept(l, -1, &c);
	shmconn_close_listener(l);
	if (err != 0) {
		fprintf(stderr, "accept: %s\n", strerror(-err));
		return 1;
	}
	/* A read may end within an integer: what is left of it stays in front. */
	uint64_t sum = 0, count = 0, batch[512];
	size_t have = 0;
	ssize_t n;
	while ((n = shmconn_read(c, (char *)batch + have, sizeof batch - have, -1)) > 0) {
		have += (size_t)n;
		size_t whole = have / sizeof batch[0];
		for (size_t i = 0; i < whole; i++)
			sum += batch[i];
		count += whole;
		have -= whole * sizeof batch[0];
		memmove(batch, batch + whole, have);
	}
	shmconn_close(c);
	if (n < 0) {
		fprintf(stderr, "read: %s\n", strerror((int)-n));
		return 1;
	}
	printf("%llu integers, sum %llu\n", (unsigned long long)count, (unsigned long long)sum);
	return 0;
}
