// Makes tasks through one door of the kernel, and prints what it did as one
// line of JSON: the ground truth of live tests. It shares no code with what it
// tests, on purpose.
//
//     gcc -O2 -Wall -Wextra -pthread -o doors doors.c
//     ./doors NAME COUNT
//
// Exit code 0 when everything went as the line says, 77 when this machine does
// not have the door (the reason is on stderr), 2 for wrong usage, else 1.
// Every child has been waited for by then.
//
// "mechanism" is what the COUNT tasks are, "maker" the process that made them,
// "syscall" the door (null: the libc chose it, or there is none). "spawns",
// "execs" and "exits" include helpers and leave out this process itself.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNSUPPORTED 77
#define STACK 65536

static struct {
    struct { const char *mechanism; unsigned long count; } spawns[4];
    unsigned long execs, exec_failures, exits, spawn_failures, core_dumps;
    const char *error, *signals;
    pid_t maker;
} truth;

static char stack[STACK] __attribute__((aligned(64)));
static char *const true_argv[] = {"/bin/true", NULL};
static char *const no_environment[] = {NULL};

__attribute__((noreturn, format(printf, 2, 3)))
static void stop(int code, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    fputs("doors: ", stderr);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    va_end(list);
    exit(code);
}

static void tally(const char *mechanism, unsigned long count)
{
    int i = 0;
    while (truth.spawns[i].mechanism && strcmp(truth.spawns[i].mechanism, mechanism))
        i++;
    truth.spawns[i].mechanism = mechanism;
    truth.spawns[i].count += count;
}

// Waits for a child, which must end with this wait status.
static void reap(pid_t pid, int expected)
{
    int status;
    while (waitpid(pid, &status, __WALL) != pid)
        if (errno != EINTR)
            stop(1, "waitpid %d: %s", pid, strerror(errno));
    truth.core_dumps += WIFSIGNALED(status) && WCOREDUMP(status);
    if ((status & ~0x80) != expected)
        stop(1, "child %d ended with status %#x, not %#x", pid, status, expected);
    truth.exits++;
}

// A syscall that may make a task; the child ends in its first instructions,
// without touching any memory, so that it may share what it likes.
static long make(long number, long a, long b, long c)
{
    long result;
#if defined(__x86_64__)
    register long r10 __asm__("r10") = 0;
    register long r8 __asm__("r8") = 0;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%edi, %%edi\n\t"
                     "mov %[exit], %%eax\n\t"
                     "syscall\n\t"
                     "ud2\n"
                     "1:"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8),
                       [exit] "i"(SYS_exit_group)
                     : "rcx", "r11", "memory", "cc");
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = 0;
    register long x4 __asm__("x4") = 0;
    __asm__ volatile("svc 0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x8, %[exit]\n\t"
                     "svc 0\n\t"
                     "brk 1\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), [exit] "i"(SYS_exit_group)
                     : "memory", "cc");
    result = x0;
#else
#error "doors.c: write make() for this architecture"
#endif
    return result;
}

#if defined(__x86_64__)
// The same through the gate of 32-bit programs, with their syscall numbers.
static long make_int80(long number, long flags)
{
    long result;
    __asm__ volatile("int $0x80\n\t"
                     "test %%eax, %%eax\n\t"
                     "jnz 1f\n\t"
                     "xor %%edi, %%edi\n\t"
                     "mov %[exit], %%eax\n\t"
                     "syscall\n\t"
                     "ud2\n"
                     "1:"
                     : "=a"(result)
                     : "a"(number), "b"(flags), "c"(0L), "d"(0L), "S"(0L), "D"(0L),
                       [exit] "i"(SYS_exit_group)
                     : "r8", "r9", "r10", "r11", "memory", "cc");
    return (int)result;
}
static long int80_fork(void) { return make_int80(2, 0); }
static long int80_vfork(void) { return make_int80(190, 0); }
static long int80_clone(void) { return make_int80(120, SIGCHLD); }
static long raw_fork(void) { return make(SYS_fork, 0, 0, 0); }
static long raw_vfork(void) { return make(SYS_vfork, 0, 0, 0); }
#else
static long not_here(void) { stop(UNSUPPORTED, "this door exists on x86-64 only"); }
#define int80_fork not_here
#define int80_vfork not_here
#define int80_clone not_here
#define raw_fork not_here
#define raw_vfork not_here
#endif

static long raw_clone(long flags, char *top)
{
    return make(SYS_clone, flags | SIGCHLD, (long)top, 0);
}
static long raw_clone_fork(void) { return raw_clone(0, NULL); }
static long raw_clone_vm(void) { return raw_clone(CLONE_VM, stack + STACK); }
static long raw_clone_same(void) { return raw_clone(CLONE_VM | CLONE_VFORK, NULL); }
static long raw_clone_own(void) { return raw_clone(CLONE_VM | CLONE_VFORK, stack + STACK); }
static long raw_clone_files(void) { return raw_clone(CLONE_FILES, NULL); }
static long raw_clone_newpid(void) { return raw_clone(CLONE_NEWPID, NULL); }

// CLONE_ARGS_SIZE_VER0 of linux/sched.h.
struct arguments {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
};

static long clone3_with(uint64_t flags, char *bottom)
{
    struct arguments arguments = {.flags = flags, .exit_signal = SIGCHLD};
    if (bottom) {
        arguments.stack = (uintptr_t)bottom;
        arguments.stack_size = STACK;
    }
    return make(SYS_clone3, (long)&arguments, sizeof arguments, 0);
}
static long clone3_fork(void) { return clone3_with(0, NULL); }
static long clone3_vm_vfork(void) { return clone3_with(CLONE_VM | CLONE_VFORK, stack); }
static long clone3_files(void) { return clone3_with(CLONE_FILES, NULL); }
static long clone3_newpid(void) { return clone3_with(CLONE_NEWPID, NULL); }

static long glibc_fork(void)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    return pid < 0 ? -errno : pid;
}

static long libc_vfork(void)
{
    pid_t pid = vfork();
    if (pid == 0)
        _exit(0);
    return pid < 0 ? -errno : pid;
}

static long spawn_true(void)
{
    pid_t pid;
    int error = posix_spawn(&pid, true_argv[0], NULL, NULL, true_argv, no_environment);
    truth.execs += !error;
    return error ? -error : pid;
}

static void run_system(unsigned long count)
{
    for (unsigned long i = 0; i < count; i++)
        if (system(":") != 0)
            stop(1, "system failed");
    truth.execs = truth.exits = count;
}

static void run_popen(unsigned long count)
{
    for (unsigned long i = 0; i < count; i++) {
        FILE *pipe = popen(":", "r");
        if (!pipe || pclose(pipe) != 0)
            stop(1, "popen or pclose failed");
    }
    truth.execs = truth.exits = count;
}

// How many threads of this process have a name that begins so.
static unsigned long threads_named(const char *prefix)
{
    unsigned long found = 0;
    DIR *directory = opendir("/proc/self/task");
    if (!directory)
        stop(1, "/proc/self/task: %s", strerror(errno));
    for (struct dirent *entry; (entry = readdir(directory));) {
        char path[300], name[32] = "";
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", entry->d_name);
        int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file < 0)
            continue;
        if (read(file, name, sizeof name - 1) > 0)
            found += !strncmp(name, prefix, strlen(prefix));
        close(file);
    }
    closedir(directory);
    return found;
}

static void *end(void *nothing) { return nothing; }

static void run_pthread(unsigned long count)
{
    unsigned long before = threads_named("");
    for (unsigned long i = 0; i < count; i++) {
        pthread_t thread;
        int error = pthread_create(&thread, NULL, end, NULL);
        if (error || (error = pthread_join(thread, NULL)))
            stop(1, "pthread: %s", strerror(error));
    }
    // A joined thread still has a moment to live.
    while (threads_named("") > before)
        usleep(1000);
    truth.exits = count;
}

// A helper makes children that are its siblings, so that we can wait for them.
static void run_clone_parent(unsigned long count)
{
    int channel[2];
    if (pipe2(channel, O_CLOEXEC))
        stop(1, "pipe: %s", strerror(errno));
    pid_t helper = fork();
    if (helper < 0)
        stop(1, "fork: %s", strerror(errno));
    if (helper == 0) {
        for (unsigned long i = 0; i < count; i++) {
            long pid = raw_clone(CLONE_PARENT, NULL);
            if (pid < 0 || write(channel[1], &pid, sizeof pid) != sizeof pid)
                _exit(1);
        }
        _exit(0);
    }
    close(channel[1]);
    long pid;
    for (unsigned long i = 0; i < count && read(channel[0], &pid, sizeof pid) == sizeof pid; i++)
        reap((pid_t)pid, 0);
    reap(helper, 0);
    close(channel[0]);
    truth.maker = helper;
    tally("fork", 1);
}

static void fails(long result, int error, const char *name)
{
    if (result == -ENOSYS)
        stop(UNSUPPORTED, "%s", strerror(ENOSYS));
    if (result != -error)
        stop(1, "it returned %ld, not -%s", result, name);
    truth.spawn_failures++;
    truth.error = name;
}

static void run_fail_einval(unsigned long count)
{
    while (count--)
        fails(raw_clone(CLONE_THREAD, NULL), EINVAL, "EINVAL");
}

// Refused while the kernel reads the arguments, before it tries to make anything.
static void run_fail_clone3_size(unsigned long count)
{
    struct arguments arguments = {.exit_signal = SIGCHLD};
    while (count--)
        fails(make(SYS_clone3, (long)&arguments, 8, 0), EINVAL, "EINVAL");
}

// Root is exempt from the limit, so root becomes nobody.
static void run_fail_eagain(unsigned long count)
{
    struct rlimit none = {0, 0};
    if (setrlimit(RLIMIT_NPROC, &none) || (getuid() == 0 && setresuid(65534, 65534, 65534)))
        stop(1, "cannot limit processes: %s", strerror(errno));
    while (count--)
        fails(raw_clone(0, NULL), EAGAIN, "EAGAIN");
}

// An io_uring splice out of an empty pipe blocks, and keeps a kernel worker to
// itself. (A read would not: the kernel polls the pipe instead.)
static void run_io_uring(unsigned long count)
{
    struct io_uring_params params = {0};
    if (count > 1000)
        stop(2, "io_uring: at most 1000");
    int ring = (int)syscall(SYS_io_uring_setup, (unsigned)count, &params);
    if (ring < 0)
        stop(UNSUPPORTED, "io_uring_setup: %s", strerror(errno));
    size_t size = params.sq_off.array + params.sq_entries * sizeof(unsigned);
    size_t entries_size = params.sq_entries * sizeof(struct io_uring_sqe);
    int protection = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_POPULATE;
    char *queue = mmap(NULL, size, protection, flags, ring, IORING_OFF_SQ_RING);
    struct io_uring_sqe *entries =
        mmap(NULL, entries_size, protection, flags, ring, IORING_OFF_SQES);
    int in[2], out[2];
    if (queue == MAP_FAILED || entries == MAP_FAILED || pipe2(in, O_CLOEXEC)
        || pipe2(out, O_CLOEXEC))
        stop(1, "io_uring: %s", strerror(errno));

    unsigned *array = (unsigned *)(queue + params.sq_off.array);
    for (unsigned i = 0; i < count; i++) {
        entries[i] = (struct io_uring_sqe){.opcode = IORING_OP_SPLICE, .flags = IOSQE_ASYNC,
            .splice_fd_in = in[0], .splice_off_in = -1ULL, .fd = out[1], .off = -1ULL, .len = 1};
        array[i] = i;
    }
    __atomic_store_n((unsigned *)(queue + params.sq_off.tail), (unsigned)count, __ATOMIC_RELEASE);
    long submitted = syscall(SYS_io_uring_enter, ring, (unsigned)count, 0, 0, NULL, 0);
    if (submitted != (long)count)
        stop(1, "io_uring_enter submitted %ld: %s", submitted, strerror(errno));

    // All of them are there when their number rests for a quarter of a second.
    unsigned long workers = 0;
    for (int quiet = 0, left = 500; quiet < 25; quiet++) {
        unsigned long now = threads_named("iou-wrk");
        if (now != workers || now == 0)
            quiet = 0;
        // Before Linux 5.12 the workers are kernel threads, not ours.
        if (left-- == 0)
            stop(now ? 1 : UNSUPPORTED, "io_uring: %lu workers after 5 s", now);
        workers = now;
        usleep(10000);
    }
    for (unsigned long i = 0; i < count; i++) {
        char byte = 0;
        if (write(in[1], &byte, 1) != 1 || read(out[0], &byte, 1) != 1)
            stop(1, "io_uring: pipe: %s", strerror(errno));
    }
    if (syscall(SYS_io_uring_enter, ring, 0, (unsigned)count, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
        stop(1, "io_uring_enter: %s", strerror(errno));
    if (threads_named("iou-wrk") != workers)
        stop(1, "io_uring: the workers changed");
    tally("io_thread", workers);
    // They end with this process.
    truth.exits = workers;
}

static void run_exec_fail(unsigned long count)
{
    char *const argv[] = {"nonexistent", "--with", "two words", NULL};
    while (count--) {
        if (execve("/nonexistent/program", argv, no_environment) != -1 || errno != ENOENT)
            stop(1, "execve: %s", strerror(errno));
        truth.exec_failures++;
    }
    truth.error = "ENOENT";
}

static void run_execveat(unsigned long count)
{
    char buffer[65536];
    int from = open(true_argv[0], O_RDONLY | O_CLOEXEC), to = memfd_create("true", MFD_CLOEXEC);
    if (from < 0 || to < 0)
        stop(1, "%s or memfd: %s", true_argv[0], strerror(errno));
    for (ssize_t size; (size = read(from, buffer, sizeof buffer)) > 0;)
        if (write(to, buffer, (size_t)size) != size)
            stop(1, "memfd: %s", strerror(errno));
    for (unsigned long i = 0; i < count; i++) {
        pid_t pid = fork();
        if (pid < 0)
            stop(1, "fork: %s", strerror(errno));
        if (pid == 0) {
            syscall(SYS_execveat, to, "", true_argv, no_environment, AT_EMPTY_PATH);
            _exit(127);
        }
        reap(pid, 0);
    }
    truth.execs = count;
}

static void *become_true(void *nothing)
{
    execve(true_argv[0], true_argv, no_environment);
    _exit(127);
    return nothing;
}

// The thread takes over its leader's pid; the leader ends first.
static void run_thread_exec(unsigned long count)
{
    for (unsigned long i = 0; i < count; i++) {
        pid_t pid = fork();
        if (pid < 0)
            stop(1, "fork: %s", strerror(errno));
        if (pid == 0) {
            pthread_t thread;
            if (pthread_create(&thread, NULL, become_true, NULL))
                _exit(126);
            for (;;)
                pause();
        }
        reap(pid, 0);
    }
    tally("thread", count);
    truth.execs = count;
    truth.exits += count;
}

// COUNT children exit with the codes from 0, and two more are killed.
static void run_exit_codes(unsigned long count)
{
    static const int deadly[] = {SIGKILL, SIGSEGV};
    if (count > 256)
        stop(2, "exit_codes: there are only 256");
    for (unsigned long i = 0; i < count + 2; i++) {
        pid_t pid = fork();
        if (pid < 0)
            stop(1, "fork: %s", strerror(errno));
        if (pid == 0) {
            if (i < count)
                _exit((int)i);
            prctl(PR_SET_DUMPABLE, 0);
            kill(getpid(), deadly[i - count]);
            _exit(1);
        }
        reap(pid, i < count ? (int)(i << 8) : deadly[i - count]);
    }
    tally("fork", 2);
    truth.signals = "[\"SIGKILL\",\"SIGSEGV\"]";
}

#if defined(__x86_64__)
#define VFORK_DOOR "vfork"
#else
#define VFORK_DOOR "clone"
#endif

// Either one call that makes a child (or answers -errno), or a whole run.
static const struct door {
    const char *name, *mechanism, *syscall;
    long (*make)(void);
    void (*run)(unsigned long count);
} doors[] = {
    {"glibc_fork", "fork", NULL, glibc_fork, NULL},
    {"raw_fork", "fork", "fork", raw_fork, NULL},
    {"raw_vfork", "vfork", "vfork", raw_vfork, NULL},
    {"libc_vfork", "vfork", VFORK_DOOR, libc_vfork, NULL},
    {"raw_clone_fork", "fork", "clone", raw_clone_fork, NULL},
    {"raw_clone_vm", "clone", "clone", raw_clone_vm, NULL},
    {"raw_clone_vfork_same_stack", "vfork", "clone", raw_clone_same, NULL},
    {"raw_clone_vfork_own_stack", "posix_spawn", "clone", raw_clone_own, NULL},
    {"raw_clone_files", "clone", "clone", raw_clone_files, NULL},
    {"raw_clone_newpid", "clone", "clone", raw_clone_newpid, NULL},
    {"clone3_fork", "fork", "clone3", clone3_fork, NULL},
    {"clone3_vm_vfork", "posix_spawn", "clone3", clone3_vm_vfork, NULL},
    {"clone3_files", "clone", "clone3", clone3_files, NULL},
    {"clone3_newpid", "clone", "clone3", clone3_newpid, NULL},
    {"int80_fork", "fork", "fork", int80_fork, NULL},
    {"int80_vfork", "vfork", "vfork", int80_vfork, NULL},
    {"int80_clone", "fork", "clone", int80_clone, NULL},
    {"posix_spawn", "posix_spawn", NULL, spawn_true, NULL},
    {"system", "posix_spawn", NULL, NULL, run_system},
    {"popen", "posix_spawn", NULL, NULL, run_popen},
    {"pthread", "thread", NULL, NULL, run_pthread},
    {"clone_parent", "fork", "clone", NULL, run_clone_parent},
    {"fail_einval", NULL, "clone", NULL, run_fail_einval},
    {"fail_clone3_size", NULL, "clone3", NULL, run_fail_clone3_size},
    {"fail_eagain", NULL, "clone", NULL, run_fail_eagain},
    {"io_uring", NULL, NULL, NULL, run_io_uring},
    {"exec_fail", NULL, NULL, NULL, run_exec_fail},
    {"execveat_ok", "fork", NULL, NULL, run_execveat},
    {"thread_exec", "fork", NULL, NULL, run_thread_exec},
    {"exit_codes", "fork", NULL, NULL, run_exit_codes},
};
#define DOORS (sizeof doors / sizeof doors[0])

static void make_and_reap(const struct door *door, unsigned long count)
{
    while (count--) {
        long pid = door->make();
        if (pid == -EPERM || pid == -ENOSYS)
            stop(UNSUPPORTED, "%s: %s", door->name, strerror((int)-pid));
        if (pid < 0)
            stop(1, "%s: %s", door->name, strerror((int)-pid));
        reap((pid_t)pid, 0);
    }
}

// Prints "key":"value", or null for want of a value.
static void field(const char *key, const char *value)
{
    const char *quote = value && value[0] != '[' ? "\"" : "";
    printf(",\"%s\":%s%s%s", key, quote, value ? value : "null", quote);
}

int main(int argc, char **argv)
{
    char *rest = "";
    unsigned long count = argc == 3 ? strtoul(argv[2], &rest, 10) : 0;
    const struct door *door = doors;
    while (argc == 3 && door < doors + DOORS && strcmp(door->name, argv[1]))
        door++;
    if (count == 0 || count > 1000000 || *rest || door == doors + DOORS) {
        fprintf(stderr, "usage: doors NAME COUNT (1 to 1000000); NAME is one of");
        for (door = doors; door < doors + DOORS; door++)
            fprintf(stderr, " %s", door->name);
        fputc('\n', stderr);
        return 2;
    }

    truth.maker = getpid();
    if (door->make)
        make_and_reap(door, count);
    else
        door->run(count);
    if (door->mechanism)
        tally(door->mechanism, count);
    if (waitpid(-1, NULL, WNOHANG | __WALL) != -1 || errno != ECHILD)
        stop(1, "a child is left");

    printf("{\"door\":\"%s\",\"count\":%lu,\"pid\":%d,\"maker\":%d", door->name, count, getpid(),
           truth.maker);
    field("mechanism", door->mechanism);
    field("syscall", door->syscall);
    printf(",\"spawns\":{");
    for (int i = 0; i < 4 && truth.spawns[i].mechanism; i++)
        printf("%s\"%s\":%lu", i ? "," : "", truth.spawns[i].mechanism, truth.spawns[i].count);
    printf("},\"spawn_failures\":%lu,\"execs\":%lu,\"exec_failures\":%lu,\"exits\":%lu",
           truth.spawn_failures, truth.execs, truth.exec_failures, truth.exits);
    field("errno", truth.error);
    field("signals", truth.signals ? truth.signals : "[]");
    printf(",\"core_dumps\":%lu}\n", truth.core_dumps);
    return 0;
}
