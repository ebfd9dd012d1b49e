/* So many children at once, ended newest first; before each end the parent writes some pages,
 * which belong to the newest child that is left. Prints its truth as one line of JSON.
 *
 *     many CHILDREN PAGES
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	long children = argc > 1 ? atol(argv[1]) : 40, pages = argc > 2 ? atol(argv[2]) : 40;
	pid_t *pid = calloc(children, sizeof *pid);
	size_t size = (size_t)children * pages * 4096;
	char *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (!pid || memory == MAP_FAILED)
		return 1;
	madvise(memory, size, MADV_NOHUGEPAGE);
	for (size_t at = 0; at < size; at += 4096)
		memory[at] = 1;
	printf("{\"pid\":%d,\"pages\":%ld,\"children\":[", getpid(), pages);
	fflush(stdout);
	for (long n = 0; n < children; n++) {
		pid[n] = fork();
		if (pid[n] < 0)
			return 1;
		if (!pid[n])
			for (;;)
				pause();
	}
	for (long n = children - 1; n >= 0; n--) {
		for (long page = 0; page < pages; page++)
			memory[((size_t)n * pages + page) * 4096] = 2;
		kill(pid[n], SIGKILL);
		if (waitpid(pid[n], 0, 0) != pid[n])
			return 1;
	}
	for (long n = 0; n < children; n++)
		printf("%s%d", n ? "," : "", pid[n]);
	puts("]}");
	return 0;
}
