/* So many children at once; all but the two oldest end, newest first, while the parent only waits.
 * Then it writes its pages, which belong to the newer of the two. Prints its truth as JSON.
 *
 *     idle_parent CHILDREN PAGES
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KEPT = 2 };

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, 0, 0);
}

int main(int argc, char **argv)
{
	long children = argc > 1 ? atol(argv[1]) : 600, pages = argc > 2 ? atol(argv[2]) : 1000;
	pid_t *pid = calloc(children, sizeof *pid);
	volatile char *memory =
		mmap(0, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (!pid || memory == MAP_FAILED || children <= KEPT)
		return 1;
	for (long i = 0; i < pages; i++)
		memory[i * 4096] = 1;
	for (long i = 0; i < children; i++) {
		pid[i] = fork();
		if (pid[i] < 0)
			return 1;
		if (pid[i] == 0)
			for (;;)
				pause();
	}
	for (long i = children - 1; i >= KEPT; i--)
		kill(pid[i], SIGKILL);
	for (long i = children - 1; i >= KEPT; i--)
		waitpid(pid[i], 0, 0);
	/* Teardown may come after the end that wait tells. */
	usleep(500000);
	for (long i = 0; i < pages; i++)
		memory[i * 4096] = 2;
	printf("{\"pid\":%d,\"pages\":%ld,\"newest\":%d}\n", getpid(), pages, pid[KEPT - 1]);
	fflush(stdout);
	for (long i = KEPT - 1; i >= 0; i--)
		end(pid[i]);
	return 0;
}
