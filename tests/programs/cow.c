// Writes exactly N pages that a fork left shared, and prints what it did as one
// line of JSON: the ground truth of live tests. It shares no code with what it
// tests, on purpose.
//
//     gcc -O2 -Wall -Wextra -pthread -o cow cow.c
//     ./cow SCENARIO N [HOW [ROUNDS]]
//
// Who writes, and who has gone by then, are the scenarios (the table `scenarios`);
// how a page is written is HOW (`write_share`). Every step waits for the one
// before it, through pipes, so that who owns a page at a write is never a race.
// Pages are 4 KiB, touched before the fork.
//
// "ledgers": one for each fork, with what each side must have copied and reused;
// a fork itself costs each side a handful more. "minflt" is the kernel's own
// count of the process's minor faults while the ledger was open, an upper bound.
// "reused_outside" are pages reused when no ledger was open and none came after.
// Exit code 0 when everything went as the line says, 2 for wrong usage, else 1.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define THREADS 4
#define MAX_LEDGERS 64

struct role {
    pid_t pid;
    unsigned long start_ticks, copied, reused, minflt;
};
struct ledger {
    struct role parent, child;
    const char *end;
    int overlapping;  // -1: not said
    unsigned long carried_over;
};
// A child, and how to tell it what to do.
struct party {
    struct ledger *ledger;
    int go, back;
};

enum order { TOUCH, RANDOM, FILE_, PIPE_, ZERO };
static const struct how {
    const char *name;
    enum order order;
    unsigned long spacing;
} hows[] = {
    {"seq", TOUCH, 1},       // one byte of each page, in order
    {"stride", TOUCH, 4},    // of each fourth page
    {"random", RANDOM, 1},   // in a random order
    {"file", FILE_, 1},      // read(2) from a file, some pages a call
    {"pipe", PIPE_, 1},      // read(2) from a pipe, a page a call
    {"zero", ZERO, 1},       // read(2) of /dev/zero, a mebibyte a call
};

static struct ledger ledgers[MAX_LEDGERS];
static int ledger_count, rounds = 3;
static unsigned long pages, reused_outside;
static const struct how *how = hows;
static char *memory;
static int source = -1, loop[2];
static size_t chunk;
static int orphan_region = -1;  // what a child writes when its parent has gone
static const char filling[PAGE] = "read";

__attribute__((noreturn)) static void stop(const char *what)
{
    perror(what);
    exit(1);
}

static unsigned long minflt(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

static unsigned long start_ticks(pid_t pid)
{
    static char stat[1024];
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, stat, sizeof stat - 1);
    if (length <= 0)
        stop(path);
    close(fd);
    stat[length] = 0;
    // Field 22; the name before it may hold anything but ends with ")".
    char *at = strrchr(stat, ')');
    for (int field = 2; field < 22; field++)
        at = strchr(at + 1, ' ');
    return strtoul(at, NULL, 10);
}

// The pages `from` to `to` of a region: N pages of the buffer.
static char *page(int region, unsigned long i)
{
    return memory + (region * pages + i) * how->spacing * PAGE;
}

static void fill(int fd, char *to, size_t length)
{
    if (read(fd, to, length) != (ssize_t)length)
        stop("read into the buffer");
}

static void write_share(int region, unsigned long from, unsigned long to)
{
    unsigned long i, n = to - from, mask = 1;
    switch (how->order) {
    case TOUCH:
        for (i = from; i < to; i++)
            ++*(volatile char *)page(region, i);
        break;
    case RANDOM:
        // A generator of full period: each number below the power of two comes once.
        while (mask < n)
            mask *= 2;
        for (unsigned long k = 0, at = 12345; k < mask; k++) {
            at = (at * 1664525 + 1013904223) & (mask - 1);
            if (at < n)
                ++*(volatile char *)page(region, from + at);
        }
        break;
    case FILE_:
    case ZERO:
        for (i = from; i < to; i += chunk / PAGE) {
            size_t rest = (to - i) * PAGE;
            if (lseek(source, 0, SEEK_SET) < 0)
                stop("lseek");
            fill(source, page(region, i), rest < chunk ? rest : chunk);
        }
        break;
    case PIPE_:
        for (i = from; i < to; i++) {
            if (write(loop[1], filling, PAGE) != PAGE)
                stop("write to a pipe");
            fill(loop[0], page(region, i), PAGE);
        }
        break;
    }
}

static void write_region(int region)
{
    write_share(region, 0, pages);
}

struct share { pthread_t thread; int go, region; unsigned long from, to; };
static struct share shares[THREADS];

static void *write_in_thread(void *arg)
{
    struct share *share = arg;
    char byte;
    if (read(share->go, &byte, 1) == 1)
        write_share(share->region, share->from, share->to);
    return NULL;
}

static void start_threads(int region, int go)
{
    for (unsigned long i = 0; i < THREADS; i++) {
        shares[i] = (struct share){.go = go, .region = region, .from = pages * i / THREADS,
                                   .to = pages * (i + 1) / THREADS};
        if (pthread_create(&shares[i].thread, NULL, write_in_thread, &shares[i]))
            stop("pthread_create");
    }
}

static void finish_threads(int go)
{
    if (write(go, "thread", THREADS) != THREADS)
        stop("write to threads");
    for (int i = 0; i < THREADS; i++)
        pthread_join(shares[i].thread, NULL);
}

static struct party make_child(void);
static void write_as_parent(struct party *party, int region);
static void tell(struct party *party, char what);
static void finish(struct party *party);

// What a child does, byte by byte; it answers each with its minor faults.
__attribute__((noreturn)) static void be_child(int go, int back)
{
    static char *const true_argv[] = {"/bin/true", NULL}, *const nothing[] = {NULL};
    static struct ledger own;
    char what;
    while (read(go, &what, 1) == 1) {
        if (what >= 'a' && what <= 'd') {
            write_region(what - 'a');
        } else if (what == 't') {
            int pipes[2];
            if (pipe2(pipes, O_CLOEXEC))
                stop("pipe");
            start_threads(0, pipes[0]);
            finish_threads(pipes[1]);
        } else if (what == 'g') {
            // A child of its own, while it has still to be a child itself.
            struct party party = make_child();
            write_as_parent(&party, 0);
            finish(&party);
            write_region(1);
            own = *party.ledger;
            if (write(back, &own, sizeof own) != sizeof own)
                _exit(1);
        }
        unsigned long faults = minflt();
        if (write(back, &faults, sizeof faults) != sizeof faults)
            _exit(1);
        if (what == 'x')
            execve(true_argv[0], true_argv, nothing);
        if (what == 'q' || what == 'x')
            _exit(what == 'x');
    }
    // The parent has gone.
    if (orphan_region >= 0)
        write_region(orphan_region);
    _exit(0);
}

static struct party make_child(void)
{
    int go[2], back[2];
    struct ledger *ledger = &ledgers[ledger_count++];
    if (pipe2(go, O_CLOEXEC) || pipe2(back, O_CLOEXEC))
        stop("pipe");
    ledger->end = "exit";
    ledger->parent = (struct role){.pid = getpid(), .start_ticks = start_ticks(getpid())};
    fflush(stdout);
    ledger->parent.minflt = minflt();
    pid_t pid = fork();
    if (pid < 0)
        stop("fork");
    if (pid == 0) {
        // Its parent's end is the end of this pipe.
        close(go[1]);
        be_child(go[0], back[1]);
    }
    close(go[0]);
    close(back[1]);
    ledger->child.pid = pid;
    ledger->child.start_ticks = start_ticks(pid);
    return (struct party){ledger, go[1], back[0]};
}

static void tell(struct party *party, char what)
{
    unsigned long faults;
    if (write(party->go, &what, 1) != 1)
        stop("write to the child");
    if (read(party->back, &faults, sizeof faults) != sizeof faults)
        stop("no answer of the child");
    party->ledger->child.minflt = faults;
}

static void write_as_parent(struct party *party, int region)
{
    write_region(region);
    party->ledger->parent.copied += pages;
}

static void write_as_child(struct party *party, int region)
{
    tell(party, 'a' + region);
    party->ledger->child.copied += pages;
}

// Sees the child to its end; its memory is given back by then.
static void finish(struct party *party)
{
    int status;
    if (!strcmp(party->ledger->end, "exit"))
        tell(party, 'q');
    close(party->go);
    if (waitpid(party->ledger->child.pid, &status, 0) != party->ledger->child.pid || status)
        stop("the child failed");
    close(party->back);
    party->ledger->parent.minflt = minflt() - party->ledger->parent.minflt;
}

static void print_role(const char *name, const struct role *role)
{
    printf("\"%s\":{\"pid\":%d,\"start_ticks\":%lu,\"copied\":%lu,\"reused\":%lu,\"minflt\":%lu},",
           name, role->pid, role->start_ticks, role->copied, role->reused, role->minflt);
}

static void tell_truth(void)
{
    static const char *const words[] = {"null", "false", "true"};
    printf("{\"pid\":%d,\"pages\":%lu,\"reused_outside\":%lu,\"ledgers\":[", getpid(), pages,
           reused_outside);
    for (int i = 0; i < ledger_count; i++) {
        const struct ledger *ledger = &ledgers[i];
        fputs(i ? ",{" : "{", stdout);
        print_role("parent", &ledger->parent);
        print_role("child", &ledger->child);
        printf("\"end\":\"%s\",\"overlapping\":%s,\"carried_over\":%lu}", ledger->end,
               words[ledger->overlapping + 1], ledger->carried_over);
    }
    puts("]}");
    fflush(stdout);
}

#include "cow_scenarios.h"

int main(int argc, char **argv)
{
    const struct scenario *scenario = scenarios;
    const char *name = argc > 2 ? argv[1] : "";
    while (scenario->name && strcmp(scenario->name, name))
        scenario++;
    if (argc > 3)
        for (how = hows; how < hows + sizeof hows / sizeof *hows && strcmp(how->name, argv[3]);)
            how++;
    if (argc > 4)
        rounds = atoi(argv[4]);
    if (!scenario->name || how == hows + sizeof hows / sizeof *hows || rounds < 1 ||
        rounds > MAX_LEDGERS || sysconf(_SC_PAGESIZE) != (long)PAGE) {
        fputs("usage: cow SCENARIO N [HOW [ROUNDS]]; pages of 4 KiB\n", stderr);
        return 2;
    }
    pages = strtoul(argv[2], NULL, 10);
    chunk = how->order == ZERO ? 1 << 20 : 4 * PAGE;
    if (how->order == ZERO || how->order == FILE_)
        source = open(how->order == ZERO ? "/dev/zero" : "/proc/self/exe", O_RDONLY | O_CLOEXEC);
    struct stat stat;
    if (how->order == FILE_ && (fstat(source, &stat) || stat.st_size < (off_t)chunk))
        chunk = PAGE;
    if (pipe2(loop, O_CLOEXEC))
        stop("pipe");

    size_t size = scenario->regions * pages * how->spacing * PAGE;
    memory = mmap(NULL, size + PAGE, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        stop("mmap");
    madvise(memory, size, MADV_NOHUGEPAGE);
    for (int region = 0; region < scenario->regions; region++)
        for (unsigned long i = 0; i < pages; i++)
            *page(region, i) = 1;
    settle();
    scenario->play();
    tell_truth();
    if (scenario->after)
        scenario->after();
    return 0;
}
