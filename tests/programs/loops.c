// What `cargo xtask bench` measures: one loop, timed iteration by iteration, and
// what it did, as one line of JSON. It pins itself to CPU, unless that is -1.
//
//     gcc -O2 -Wall -Wextra -static -o loops loops.c
//     ./loops cow CPU ROUNDS PAGES   fork a child that waits, write PAGES pages: ns a page
//     ./loops exec CPU ROUNDS        fork, exec of this file, wait: ns
//     ./loops nothing                what is executed
//
// Exit code 0 when all of it happened, 2 for wrong usage, else 1.
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096l

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

static double cow(volatile char *memory, long pages, char value)
{
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
    double start = now();
    for (long page = 0; page < pages; page++)
        memory[page * PAGE] = value;
    double took = now() - start;
    close(gate[1]);
    reap(child);
    return took / pages;
}

static double exec(char *self)
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

int main(int count, char **words)
{
    if (count == 2 && strcmp(words[1], "nothing") == 0)
        return 0;
    int is_cow = count == 5 && strcmp(words[1], "cow") == 0;
    if (!is_cow && !(count == 4 && strcmp(words[1], "exec") == 0)) {
        fprintf(stderr, "usage: loops cow CPU ROUNDS PAGES | exec CPU ROUNDS | nothing\n");
        return 2;
    }
    int cpu = atoi(words[2]);
    long rounds = atol(words[3]), pages = is_cow ? atol(words[4]) : 0;
    if (cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        check(sched_setaffinity(0, sizeof set, &set) == 0, "sched_setaffinity");
    }
    double *times = calloc(rounds, sizeof *times);
    check(times != NULL, "calloc");
    char *memory = NULL;
    if (is_cow) {
        int flags = MAP_PRIVATE | MAP_ANONYMOUS;
        memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
        check(memory != MAP_FAILED, "mmap");
        // A kernel without huge pages refuses; small ones are what it then has.
        madvise(memory, pages * PAGE, MADV_NOHUGEPAGE);
        memset(memory, 1, pages * PAGE);
    }
    for (long round = 0; round < rounds; round++)
        times[round] = is_cow ? cow(memory, pages, round) : exec(words[0]);

    printf("{\"forks\":%ld,\"pages\":%ld,\"times\":[", rounds, pages * rounds);
    for (long round = 0; round < rounds; round++)
        printf("%s%.1f", round ? "," : "", times[round]);
    printf("]}\n");
    return 0;
}
