// Forks, and writes N pages that the fork left shared, at addresses whose page tables were made
// for this round alone: all of a GiB is unmapped between rounds, which frees them. Each second
// round is in the lowest 2 MiB that there are, where N pages must fit. Prints what it did as
// one line of JSON.
//
//     gcc -O2 -Wall -Wextra -o tables tables.c
//     ./tables N ROUNDS
//
// Exit code 0 when all of it happened, 2 for wrong usage, else 1.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define LOW 0x20000ul
#define HIGH 0x3c0000000ul

static void check(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static void once(unsigned long address, unsigned long pages)
{
    int gate[2];
    volatile char *memory = mmap((void *)address, pages * PAGE, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    check((unsigned long)memory == address, "mmap");
    madvise((void *)memory, pages * PAGE, MADV_NOHUGEPAGE);
    for (unsigned long page = 0; page < pages; page++)
        memory[page * PAGE] = 1;
    check(pipe(gate) == 0, "pipe");
    pid_t child = fork();
    check(child >= 0, "fork");
    if (child == 0) {
        char byte;
        close(gate[1]);
        _exit(read(gate[0], &byte, 1) == 0 ? 0 : 1);
    }
    close(gate[0]);
    for (unsigned long page = 0; page < pages; page++)
        memory[page * PAGE] = 2;
    close(gate[1]);
    int status;
    check(waitpid(child, &status, 0) == child && status == 0, "child");
    check(munmap((void *)memory, pages * PAGE) == 0, "munmap");
}

int main(int count, char **words)
{
    unsigned long pages = count == 3 ? strtoul(words[1], NULL, 10) : 0;
    long rounds = count == 3 ? atol(words[2]) : 0;
    if (pages == 0 || pages * PAGE > 0x200000 - LOW || rounds <= 0) {
        fprintf(stderr, "usage: tables N ROUNDS; see tables.c\n");
        return 2;
    }
    for (long round = 0; round < rounds; round++)
        once(round % 2 ? LOW : HIGH, pages);
    printf("{\"forks\":%ld,\"pages\":%lu}\n", rounds, pages);
    return 0;
}
