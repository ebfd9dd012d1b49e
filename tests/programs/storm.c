// The fastest loops there are, one process per CPU and each on its own: threads created and
// joined, or children forked that exit at once, or execute this file, which exits at once. Prints
// what was made, all told, as a line of JSON.
//
//     storm threads SECONDS      pthread_create, pthread_join
//     storm forks SECONDS        fork, _exit, waitpid
//     storm execs SECONDS        vfork, execve with 40 arguments, waitpid
//     storm nothing …            what is executed
//
// Exit code 0 when all of it happened, 2 for wrong usage, else 1.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void *nothing(void *unused)
{
    return unused;
}

static int thread(void)
{
    pthread_t made;
    return pthread_create(&made, NULL, nothing, NULL) == 0 && pthread_join(made, NULL) == 0;
}

static int child(void)
{
    int status;
    pid_t made = fork();
    if (made == 0)
        _exit(0);
    return made > 0 && waitpid(made, &status, 0) == made && status == 0;
}

static char *self;

static int program(void)
{
    static char *words[43], *none[] = {NULL};
    if (words[0] == NULL) {
        words[0] = self;
        words[1] = "nothing";
        for (int n = 2; n < 42; n++)
            words[n] = "an argument of 32 bytes, or so..";
    }
    int status;
    pid_t made = vfork();
    if (made == 0) {
        execve(self, words, none);
        _exit(1);
    }
    return made > 0 && waitpid(made, &status, 0) == made && status == 0;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

// So many were made until then; -1 when one was not.
static long storm(int (*make)(void), double until)
{
    long made = 0;
    // The clock is asked rarely: it is not what the loop is about.
    while (now() < until)
        for (int n = 0; n < 64; n++, made++)
            if (!make())
                return -1;
    return made;
}

int main(int count, char **words)
{
    if (count > 1 && strcmp(words[1], "nothing") == 0)
        return 0;
    int (*make)(void) = NULL;
    if (count == 3)
        make = strcmp(words[1], "threads") == 0 ? thread
             : strcmp(words[1], "forks") == 0   ? child
             : strcmp(words[1], "execs") == 0   ? program
                                                : NULL;
    if (make == NULL) {
        fprintf(stderr, "usage: storm threads|forks|execs SECONDS\n");
        return 2;
    }
    self = words[0];
    cpu_set_t all;
    if (sched_getaffinity(0, sizeof all, &all) != 0)
        return 1;
    int pipes[2];
    if (pipe(pipes) != 0)
        return 1;
    double until = now() + atof(words[2]);
    long loops = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all))
            continue;
        pid_t loop = fork();
        if (loop < 0)
            return 1;
        if (loop == 0) {
            cpu_set_t one;
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            if (sched_setaffinity(0, sizeof one, &one) != 0)
                _exit(1);
            long made = storm(make, until);
            _exit(made >= 0 && write(pipes[1], &made, sizeof made) == sizeof made ? 0 : 1);
        }
        loops++;
    }
    long made = 0, one;
    for (long n = 0; n < loops; n++) {
        int status;
        if (wait(&status) < 0 || status != 0 || read(pipes[0], &one, sizeof one) != sizeof one)
            return 1;
        made += one;
    }
    printf("{\"loops\":%ld,\"made\":%ld}\n", loops, made);
    return 0;
}
