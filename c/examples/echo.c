/* echo NAME: sends back to each who connects what it has sent. It ends with its standard input. */
#define SHMCONN_IMPLEMENTATION
#include "../shmconn.h"

#include <pthread.h>

static void *echo(void *arg) {
	shmconn *c = arg;
	char buf[16 << 10];
	ssize_t n;
	while ((n = shmconn_read(c, buf, sizeof buf, -1)) > 0)
		if (shmconn_write(c, buf, (size_t)n, -1) != n)
			break;
	shmconn_close(c);
	return NULL;
}

static atomic_int stop;

static void *wait_for_end(void *arg) {
	(void)arg;
	while (getchar() != EOF)
		;
	atomic_store(&stop, 1);
	return NULL;
}

int main(int argc, char **argv) {
	if (argc != 2) {
		fprintf(stderr, "usage: echo NAME\n");
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
	pthread_t thread;
	if (pthread_create(&thread, NULL, wait_for_end, NULL) != 0)
		return 1;
	while (!atomic_load(&stop)) {
		shmconn *c;
		err = shmconn_accept(l, 100, &c);
		if (err == -ETIMEDOUT)
			continue;
		if (err != 0) {
			fprintf(stderr, "accept: %s\n", strerror(-err));
			break;
		}
		pthread_t each;
		if (pthread_create(&each, NULL, echo, c) == 0)
			pthread_detach(each);
		else
			shmconn_close(c);
	}
	shmconn_close_listener(l);
	return err == 0 || err == -ETIMEDOUT ? 0 : 1;
}
