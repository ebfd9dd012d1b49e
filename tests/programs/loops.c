// What `cargo xtask bench` measures: one loop, timed iteration by iteration, and
// what it did, as one line of JSON. It pins itself to CPU, unless that is -1, and goes
// on for MS milliseconds, so that it takes as long beside a tracer that slows it down.
//
//     gcc -O2 -Wall -Wextra -static -pthread -o loops loops.c
//     ./loops exec CPU MS         fork, exec of this file, wait: ns
//     ./loops fork CPU MS         fork, exit, wait: ns
//     ./loops vfork CPU MS        vfork, exec, wait: ns
//     ./loops spawn CPU MS        posix_spawn, wait: ns
//     ./loops thread CPU MS       pthread_create, pthread_join: ns
//     ./loops cow CPU MS PAGES    fork a child that waits, write PAGES pages: ns a page
//     ./loops getppid CPU MS      ns a call
//     ./loops nothing             what is executed
//
// Exit code 0 when all of it happened, 2 for wrong usage, else 1.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096l
#define MOST 1000000l
// Of getppid, between two readings of the clock.
#define CALLS 1000

static char *self;
static volatile char *memory;
static long pages;

static void check(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void reap(pid_t child)
{
    int status;
    check(waitpid(child, &status, 0) == child && status == 0, "child");
}

static double cow(void)
{
    static char value;
    int gate[2];
    check(pipe(gate) == 0, "pipe");
    pid_t child = fork();
    check(child >= 0, "fork");
    if (child == 0) {
        char byte;
        close(gate[1]);
        _exit(read(gate[0], &byte, 1) == 0 ? 0 : 1);
    }
    close(gate[0]);
    value++;
    double start = now();
    for (long page = 0; page < pages; page++)
        memory[page * PAGE] = value;
    double took = now() - start;
    close(gate[1]);
    reap(child);
    return took / pages;
}

static double exec(void)
{
    char *arguments[] = {self, "nothing", NULL};
    double start = now();
    pid_t child = fork();
    check(child >= 0, "fork");
    if (child == 0) {
        execv(self, arguments);
        _exit(1);
    }
    reap(child);
    return now() - start;
}

static double fork_exit(void)
{
    double start = now();
    pid_t child = fork();
    check(child >= 0, "fork");
    if (child == 0)
        _exit(0);
    reap(child);
    return now() - start;
}

static double vfork_exec(void)
{
    char *arguments[] = {self, "nothing", NULL};
    double start = now();
    pid_t child = vfork();
    check(child >= 0, "vfork");
    if (child == 0) {
        execv(self, arguments);
        _exit(1);
    }
    reap(child);
    return now() - start;
}

static double spawn(void)
{
    char *arguments[] = {self, "nothing", NULL}, *environment[] = {NULL};
    pid_t child;
    double start = now();
    check(posix_spawn(&child, self, NULL, NULL, arguments, environment) == 0, "posix_spawn");
    reap(child);
    return now() - start;
}

static void *nothing(void *argument)
{
    return argument;
}

static double thread(void)
{
    pthread_t one;
    double start = now();
    check(pthread_create(&one, NULL, nothing, NULL) == 0, "pthread_create");
    check(pthread_join(one, NULL) == 0, "pthread_join");
    return now() - start;
}

static double getppid_calls(void)
{
    double start = now();
    for (int call = 0; call < CALLS; call++)
        syscall(SYS_getppid);
    return (now() - start) / CALLS;
}

// A loop, and what one iteration makes.
static const struct loop {
    const char *name;
    double (*once)(void);
    int spawns, forks, execs;
} loops[] = {
    {"exec", exec, 1, 1, 1},       {"fork", fork_exit, 1, 1, 0}, {"vfork", vfork_exec, 1, 0, 1},
    {"spawn", spawn, 1, 0, 1},     {"thread", thread, 1, 0, 0},  {"cow", cow, 1, 1, 0},
    {"getppid", getppid_calls, 0, 0, 0},
};

static void *map(long bytes, int kind)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, kind | MAP_ANONYMOUS, -1, 0);
    check(at != MAP_FAILED, "mmap");
    return at;
}

int main(int count, char **words)
{
    if (count == 2 && strcmp(words[1], "nothing") == 0)
        return 0;
    const struct loop *loop = NULL;
    for (size_t i = 0; count >= 4 && i < sizeof loops / sizeof *loops; i++)
        if (strcmp(words[1], loops[i].name) == 0)
            loop = &loops[i];
    if (loop == NULL || count != (loop->once == cow ? 5 : 4)) {
        fprintf(stderr, "usage: loops KIND CPU MS [PAGES] | nothing; see loops.c\n");
        return 2;
    }
    self = words[0];
    int cpu = atoi(words[2]);
    if (cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        check(sched_setaffinity(0, sizeof set, &set) == 0, "sched_setaffinity");
    }
    // Shared, so that writing a time is not copy-on-write itself.
    double *times = map(MOST * sizeof *times, MAP_SHARED);
    if (loop->once == cow) {
        pages = atol(words[4]);
        memory = map(pages * PAGE, MAP_PRIVATE);
        // A kernel without huge pages refuses; small ones are what it then has.
        madvise((void *)memory, pages * PAGE, MADV_NOHUGEPAGE);
        memset((void *)memory, 1, pages * PAGE);
    }
    double end = now() + atof(words[3]) * 1e6;
    long rounds = 0;
    do {
        times[rounds++] = loop->once();
    } while (now() < end && rounds < MOST);

    printf("{\"spawns\":%ld,\"forks\":%ld,\"execs\":%ld,\"pages\":%ld,\"times\":[",
           rounds * loop->spawns, rounds * loop->forks, rounds * loop->execs, rounds * pages);
    for (long round = 0; round < rounds; round++)
        printf("%s%.1f", round ? "," : "", times[round]);
    printf("]}\n");
    return 0;
}
