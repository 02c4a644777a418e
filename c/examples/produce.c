/* produce NAME COUNT: sends the integers from 0 to COUNT - 1 to whoever listens on NAME. */
#define SHMCONN_IMPLEMENTATION
#include "../shmconn.h"

int main(int argc, char **argv) {
	if (argc != 3) {
		fprintf(stderr, "usage: produce NAME COUNT\n");
		return 2;
	}
	shmconn *c;
	int err = shmconn_dial(argv[1], 5000, &c);
	if (err != 0) {
		fprintf(stderr, "dial: %s\n", strerror(-err));
		return 1;
	}
	uint64_t count = strtoull(argv[2], NULL, 10), batch[512];
	for (uint64_t next = 0; next < count;) {
		size_t n = 0;
		while (n < 512 && next < count)
			batch[n++] = next++;
		/* 4 KiB: written as a whole or not at all. */
		ssize_t done = shmconn_write(c, batch, n * sizeof batch[0], -1);
		if (done < 0) {
			fprintf(stderr, "write: %s\n", strerror((int)-done));
			shmconn_close(c);
			return 1;
		}
	}
	shmconn_close(c);
	return 0;
}
