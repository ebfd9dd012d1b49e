// Does only what is not copy-on-write, N pages of each, and prints what it did
// as one line of JSON: the ground truth of live tests. It shares no code with
// what it tests, on purpose.
//
//     gcc -O2 -Wall -Wextra -pthread -o notcow notcow.c
//     ./notcow MODE N parent|child|never
//
// It forks once, and while both live, the parent or the child does MODE; with
// "never" there is no fork. "minflt" is the kernel's count of the actor's minor
// faults meanwhile, "at_least" how many there must have been on any kernel, and
// "signals" how many SIGSEGV.
//
// Exit code 0 when everything went as the line says, 77 when this machine does
// not have it (the reason is on stderr), 2 for wrong usage, else 1.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNSUPPORTED 77
#define PAGE 4096ul
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

static unsigned long pages;
static int file = -1;
static char *early;  // mapped before the fork, as the mode likes it
static struct outcome { unsigned long minflt, at_least, signals, done; } *outcome;
static char *volatile barrier;
static volatile unsigned long barrier_hits;

__attribute__((noreturn)) static void stop(const char *what)
{
    perror(what);
    _exit(1);
}

__attribute__((noreturn)) static void unsupported(const char *what)
{
    fprintf(stderr, "notcow: %s: %s\n", what, strerror(errno));
    _exit(UNSUPPORTED);
}

static char *map(int protection, int flags, int fd)
{
    char *at = mmap(NULL, pages * PAGE, protection, flags, fd, 0);
    if (at == MAP_FAILED)
        stop("mmap");
    madvise(at, pages * PAGE, MADV_NOHUGEPAGE);
    return at;
}

static char *map_private(void)
{
    return map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static char *map_file(int flags)
{
    return map(PROT_READ | PROT_WRITE, flags, file);
}

static void write_all(char *at)
{
    for (unsigned long i = 0; i < pages; i++)
        ++*(volatile char *)(at + i * PAGE);
}

static void store_all(char *at)
{
    for (unsigned long i = 0; i < pages; i++)
        *(volatile char *)(at + i * PAGE) = 1;
}

static void read_all(char *at)
{
    for (unsigned long i = 0; i < pages; i++)
        (void)*(volatile char *)(at + i * PAGE);
}

static unsigned long nothing(void) { return 0; }

static unsigned long first_touch(void)
{
    store_all(map_private());
    return pages;
}

static void map_early(void) { early = map_private(); }
static unsigned long first_touch_of_early(void)
{
    store_all(early);
    return pages;
}

static unsigned long zero_page(void)
{
    char *at = map_private();
    read_all(at);
    write_all(at);
    return 2 * pages;
}

static void read_early(void)
{
    early = map_private();
    read_all(early);
}
static unsigned long write_early(void)
{
    write_all(early);
    return pages;
}

static unsigned long shared_anonymous(void)
{
    char *at = map(PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
    read_all(at);
    write_all(at);
    return 0;
}

static void share_early(void)
{
    early = map(PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
    store_all(early);
}
static unsigned long shared_anonymous_early(void)
{
    write_all(early);
    return 0;
}

static unsigned long shared_file(void)
{
    char *at = map_file(MAP_SHARED);
    read_all(at);
    write_all(at);
    return 0;
}

// What has been written back is protected again, so that the next write is seen.
static unsigned long shared_file_msync(void)
{
    char *at = map_file(MAP_SHARED);
    for (int round = 0; round < 3; round++) {
        write_all(at);
        if (msync(at, pages * PAGE, MS_SYNC))
            stop("msync");
    }
    return 0;
}

static unsigned long private_file(void)
{
    char *at = map_file(MAP_PRIVATE);
    read_all(at);
    write_all(at);
    return pages;
}

static unsigned long private_file_unread(void)
{
    store_all(map_file(MAP_PRIVATE));
    return pages;
}

static unsigned long mprotected(void)
{
    char *at = map_private();
    store_all(at);
    for (int round = 0; round < 3; round++) {
        if (mprotect(at, pages * PAGE, PROT_READ) ||
            mprotect(at, pages * PAGE, PROT_READ | PROT_WRITE))
            stop("mprotect");
        write_all(at);
    }
    return pages;
}

static void lift_barrier(int signal, siginfo_t *info, void *context)
{
    (void)context;
    char *at = (char *)((uintptr_t)info->si_addr & ~(PAGE - 1));
    if (signal != SIGSEGV || at < barrier || at >= barrier + pages * PAGE)
        _exit(1);
    if (mprotect(at, PAGE, PROT_READ | PROT_WRITE))
        _exit(1);
    barrier_hits++;
}

// As garbage collectors do: each first write is a signal.
static unsigned long signal_barrier(void)
{
    struct sigaction action = {.sa_sigaction = lift_barrier, .sa_flags = SA_SIGINFO};
    barrier = map_private();
    store_all(barrier);
    if (sigaction(SIGSEGV, &action, NULL) || mprotect(barrier, pages * PAGE, PROT_READ))
        stop("a barrier");
    write_all(barrier);
    outcome->signals = barrier_hits;
    return pages;
}

static unsigned long soft_dirty(void)
{
    char *at = map_private();
    store_all(at);
    for (int round = 0; round < 3; round++) {
        int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
        if (fd < 0)
            unsupported("/proc/self/clear_refs");
        // Without CONFIG_MEM_SOFT_DIRTY it does nothing or is refused; both will do.
        if (write(fd, "4", 1) < 0 && errno != EINVAL)
            stop("/proc/self/clear_refs");
        close(fd);
        write_all(at);
    }
    return pages;
}

static int userfaultfd_of(char *at, uint64_t features)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        unsupported("userfaultfd");
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    if (ioctl(fd, UFFDIO_API, &api))
        unsupported("userfaultfd's write protection");
    struct uffdio_register range = {.range = {(uintptr_t)at, pages * PAGE},
                                    .mode = UFFDIO_REGISTER_MODE_WP};
    if (ioctl(fd, UFFDIO_REGISTER, &range))
        unsupported("userfaultfd's write protection");
    return fd;
}

static void protect(int fd, uint64_t at, uint64_t length, uint64_t mode)
{
    struct uffdio_writeprotect protection = {.range = {at, length}, .mode = mode};
    if (ioctl(fd, UFFDIO_WRITEPROTECT, &protection))
        stop("UFFDIO_WRITEPROTECT");
}

static void *answer_faults(void *arg)
{
    int fd = *(int *)arg;
    for (unsigned long i = 0; i < pages; i++) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        struct uffd_msg message;
        if (poll(&ready, 1, -1) != 1 || read(fd, &message, sizeof message) != sizeof message)
            stop("userfaultfd");
        protect(fd, message.arg.pagefault.address & ~(PAGE - 1), PAGE, 0);
    }
    return NULL;
}

static unsigned long userfaultfd_wp(void)
{
    pthread_t answering;
    char *at = map_private();
    int fd = userfaultfd_of(at, UFFD_FEATURE_PAGEFAULT_FLAG_WP);
    store_all(at);
    protect(fd, (uintptr_t)at, pages * PAGE, UFFDIO_WRITEPROTECT_MODE_WP);
    if (pthread_create(&answering, NULL, answer_faults, &fd))
        stop("pthread_create");
    write_all(at);
    pthread_join(answering, NULL);
    return pages;
}

// The kernel itself lifts the protection, as CRIU and dirty-page trackers have it.
static unsigned long userfaultfd_wp_async(void)
{
    char *at = map_private();
    int fd = userfaultfd_of(at, UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_ASYNC);
    store_all(at);
    protect(fd, (uintptr_t)at, pages * PAGE, UFFDIO_WRITEPROTECT_MODE_WP);
    write_all(at);
    return 2 * pages;
}

static const struct mode {
    const char *name;
    unsigned long (*act)(void);
    void (*before)(void);
} modes[] = {
    {"bare", nothing, NULL},
    {"first_touch", first_touch, NULL},
    {"first_touch_early", first_touch_of_early, map_early},
    {"zero_page", zero_page, NULL},
    {"zero_page_early", write_early, read_early},
    {"shared_anonymous", shared_anonymous, NULL},
    {"shared_anonymous_early", shared_anonymous_early, share_early},
    {"shared_file", shared_file, NULL},
    {"shared_file_msync", shared_file_msync, NULL},
    {"private_file", private_file, NULL},
    {"private_file_unread", private_file_unread, NULL},
    {"mprotect", mprotected, NULL},
    {"signal_barrier", signal_barrier, NULL},
    {"soft_dirty", soft_dirty, NULL},
    {"userfaultfd_wp", userfaultfd_wp, NULL},
    {"userfaultfd_wp_async", userfaultfd_wp_async, NULL},
};

static void play(const struct mode *mode)
{
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    outcome->at_least = mode->act();
    getrusage(RUSAGE_SELF, &after);
    outcome->minflt = (unsigned long)(after.ru_minflt - before.ru_minflt);
    outcome->done = 1;
}

// The file lies beside the program: where temporary files are, there may be no disk.
static void make_file(const char *beside)
{
    char name[4096];
    snprintf(name, sizeof name, "%s.XXXXXX", beside);
    file = mkstemp(name);
    if (file < 0 || unlink(name))
        stop(name);
    static const char filling[PAGE] = "file";
    for (unsigned long i = 0; i < pages; i++)
        if (write(file, filling, PAGE) != (ssize_t)PAGE)
            stop(name);
    if (fsync(file))
        stop(name);
}

int main(int argc, char **argv)
{
    const struct mode *mode = modes, *end = modes + sizeof modes / sizeof *modes;
    while (argc == 4 && mode < end && strcmp(mode->name, argv[1]))
        mode++;
    const char *actor = argc == 4 ? argv[3] : "";
    bool in_child = !strcmp(actor, "child"), never = !strcmp(actor, "never");
    if (mode == end || !(in_child || never || !strcmp(actor, "parent"))) {
        fputs("usage: notcow MODE N parent|child|never\n", stderr);
        return 2;
    }
    pages = strtoul(argv[2], NULL, 10);
    if (strstr(mode->name, "_file"))
        make_file(argv[0]);
    outcome = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (outcome == MAP_FAILED)
        stop("mmap");
    outcome->done = 0;
    if (mode->before)
        mode->before();

    pid_t pid = 0;
    if (never) {
        play(mode);
    } else {
        int pipes[2], status;
        char byte;
        if (pipe(pipes))
            stop("pipe");
        pid = fork();
        if (pid < 0)
            stop("fork");
        if (pid == 0) {
            close(pipes[1]);
            if (in_child)
                play(mode);
            else
                _exit(read(pipes[0], &byte, 1) != 0);
            _exit(0);
        }
        if (!in_child)
            play(mode);
        close(pipes[1]);
        if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
            stop("the child failed");
        if (WEXITSTATUS(status))
            return WEXITSTATUS(status);
    }
    if (!outcome->done || outcome->minflt < outcome->at_least)
        fprintf(stderr, "notcow: %lu faults, not %lu\n", outcome->minflt, outcome->at_least);
    printf("{\"pid\":%d,\"child\":%d,\"pages\":%lu,\"minflt\":%lu,\"at_least\":%lu,"
           "\"signals\":%lu}\n",
           getpid(), pid, pages, outcome->minflt, outcome->at_least, outcome->signals);
    return !outcome->done || outcome->minflt < outcome->at_least;
}
