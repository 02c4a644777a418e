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

static void *serve(void *arg) {
	shmconn_listener *l = arg;
	for (;;) {
		shmconn *c;
		pthread_t thread;
		int err = shmconn_accept(l, -1, &c);
		if (err != 0) {
			fprintf(stderr, "accept: %s\n", strerror(-err));
			exit(1);
		}
		if (pthread_create(&thread, NULL, echo, c) == 0)
			pthread_detach(thread);
		else
			shmconn_close(c);
	}
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
	if (pthread_create(&thread, NULL, serve, l) != 0)
		return 1;
	while (getchar() != EOF)
		;
	pthread_cancel(thread); /* poll, where it waits, is a cancellation point */
	pthread_join(thread, NULL);
	shmconn_close_listener(l);
	return 0;
}
