// So many tasks that live at the same time, made as told, and ended when told. Prints its truth as
// a line of JSON once all are there, and again once all have ended.
//
//     crowd threads|shared|forks COUNT    reads a byte (or the end) of standard input; then ends
//
// threads: of processes of 1,000 each; shared: processes that share one address space, made by a
// raw clone; forks: processes of their own. Exit code 0 when all of it happened, 77 when this
// machine does not have room for so many, 2 for wrong usage, else 1.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define EACH 1000

static int gate[2], ready[2];

static void fail(const char *what)
{
    int code = errno == EAGAIN || errno == ENOMEM ? 77 : 1;
    perror(what);
    kill(0, SIGTERM);
    exit(code);
}

// Until the gate is closed at its other end. No libc: several may share its memory.
static long stay(void)
{
    char byte;
    long n;
    do
        n = syscall(SYS_read, gate[0], &byte, 1);
    while (n > 0);
    return n;
}

static void *thread(void *unused)
{
    stay();
    return unused;
}

static int shared(void *unused)
{
    (void)unused;
    syscall(SYS_exit_group, stay() == 0 ? 0 : 1);
    return 0;
}

// A process of so many threads, itself not among them.
static pid_t of_threads(long count)
{
    pid_t made = fork();
    if (made != 0)
        return made;
    close(gate[1]);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    pthread_t *all = calloc(count, sizeof *all);
    for (long n = 0; n < count; n++)
        if (pthread_create(&all[n], &small, thread, NULL) != 0)
            _exit(77);
    if (write(ready[1], "x", 1) != 1)
        _exit(1);
    for (long n = 0; n < count; n++)
        pthread_join(all[n], NULL);
    _exit(0);
}

int main(int count, char **words)
{
    long wanted = count == 3 ? atol(words[2]) : 0;
    int threads = wanted > 0 && strcmp(words[1], "threads") == 0;
    int shares = wanted > 0 && strcmp(words[1], "shared") == 0;
    if (!threads && !shares && !(wanted > 0 && strcmp(words[1], "forks") == 0)) {
        fprintf(stderr, "usage: crowd threads|shared|forks COUNT\n");
        return 2;
    }
    setpgid(0, 0);
    signal(SIGTERM, SIG_IGN);
    if (pipe(gate) != 0 || pipe(ready) != 0)
        fail("pipe");
    // One small stack is enough for all that share memory: they only wait in a syscall.
    long page = 4096, each = page;
    char *stacks = NULL;
    if (shares) {
        stacks = mmap(NULL, wanted * each, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED)
            fail("mmap");
    }
    long processes = 0, left = wanted;
    while (left > 0) {
        pid_t made;
        long now = threads ? (left < EACH ? left : EACH) : 1;
        if (threads) {
            made = of_threads(now);
        } else if (shares) {
            char *top = stacks + (wanted - left + 1) * each;
            // Descriptors are copies: the gate is closed once, here, and for all.
            made = clone(shared, top, CLONE_VM | CLONE_FILES | SIGCHLD, NULL);
        } else {
            made = fork();
            if (made == 0) {
                close(gate[1]);
                _exit(stay() == 0 ? 0 : 1);
            }
        }
        if (made < 0)
            fail("a process");
        processes++;
        left -= now;
    }
    char byte;
    for (long n = 0; threads && n < processes; n++)
        if (read(ready[0], &byte, 1) != 1)
            return 1;
    long tasks = threads ? wanted + processes : wanted;
    printf("{\"processes\":%ld,\"tasks\":%ld}\n", processes, tasks);
    fflush(stdout);
    while (read(0, &byte, 1) < 0 && errno == EINTR)
        ;
    close(gate[1]);
    long good = 0;
    for (int status; wait(&status) > 0;)
        good += status == 0;
    printf("{\"ended\":%ld}\n", good);
    return good == processes ? 0 : 1;
}
