// Is not what it seems, for live tests. Exit code 2 for wrong usage, 1 when the system refuses.
//
//     mask retitle TEXT      writes TEXT over its arguments, as setproctitle(3), and exits with 4
//     mask memfd             runs a copy of /bin/true that has never had a name
//     mask unlinked PATH     runs the program at PATH, which it has removed
//     mask many N            runs /bin/true with N arguments
//     mask long              runs /bin/true with 2 MiB of arguments
//     mask names N           makes N children, each under a name of its own
//     mask reuse N           makes N children as fast as it can
//     mask bomb MS           a fork bomb that goes off for MS milliseconds; prints what it made
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int failed(const char *what)
{
    perror(what);
    return 1;
}

static int child(void)
{
    int status;
    pid_t made = fork();
    if (made == 0)
        _exit(0);
    return made > 0 && waitpid(made, &status, 0) == made && status == 0;
}

static long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int run(int fd)
{
    char *const argv[] = {"nameless", NULL}, *const envp[] = {NULL};
    fexecve(fd, argv, envp);
    return failed("fexecve");
}

static int memfd(void)
{
    int from = open("/bin/true", O_RDONLY | O_CLOEXEC);
    int to = memfd_create("\033[31mgone", MFD_CLOEXEC);
    if (from < 0 || to < 0)
        return failed("memfd_create");
    ssize_t n;
    while ((n = sendfile(to, from, NULL, 1 << 20)) > 0)
        ;
    return n < 0 ? failed("sendfile") : run(to);
}

static int many(long n, size_t length)
{
    // What arguments may take is a quarter of the stack.
    struct rlimit stack = {64 << 20, 64 << 20};
    if (setrlimit(RLIMIT_STACK, &stack))
        return failed("setrlimit");
    char **argv = calloc(n + 2, sizeof *argv), *text = malloc(length + 1);
    if (!argv || !text)
        return failed("malloc");
    memset(text, 'x', length);
    text[length] = 0;
    argv[0] = "/bin/true";
    for (long i = 1; i <= n; i++)
        argv[i] = text;
    execv(argv[0], argv);
    return failed(argv[0]);
}

static int names(long n)
{
    for (long i = 0; i < n; i++) {
        char name[32]; // the kernel cuts it
        snprintf(name, sizeof name, "n%ld\n\033[2J", i);
        if (prctl(PR_SET_NAME, name) || !child())
            return failed("a child");
    }
    return 0;
}

static _Atomic long *made, *refused;

static void explode(long until)
{
    while (now_ms() < until) {
        pid_t pid = fork();
        if (pid == 0)
            continue;
        atomic_fetch_add(pid > 0 ? made : refused, 1);
        if (pid < 0)
            usleep(20000);
    }
}

static int bomb(long ms)
{
    made = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (made == MAP_FAILED || prctl(PR_SET_CHILD_SUBREAPER, 1))
        return failed("mmap");
    refused = made + 1;
    pid_t self = getpid();
    explode(now_ms() + ms);
    if (getpid() != self)
        _exit(0);
    while (wait(NULL) > 0 || errno == EINTR)
        ;
    printf("{\"made\":%ld,\"refused\":%ld}\n", *made, *refused);
    return 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    if (argc == 3 && !strcmp(what, "retitle")) {
        // All of them are one after the other.
        size_t room = argv[2] + strlen(argv[2]) - argv[0];
        char *title = strdup(argv[2]);
        memset(argv[0], 0, room);
        strncpy(argv[0], title, room - 1);
        return 4;
    }
    if (argc == 2 && !strcmp(what, "memfd"))
        return memfd();
    if (argc == 3 && !strcmp(what, "unlinked")) {
        int fd = open(argv[2], O_RDONLY | O_CLOEXEC);
        return fd < 0 || unlink(argv[2]) ? failed(argv[2]) : run(fd);
    }
    if (argc == 3 && !strcmp(what, "many"))
        return many(atol(argv[2]), 1);
    if (argc == 2 && !strcmp(what, "long"))
        return many(17, 125000);
    if (argc == 3 && !strcmp(what, "names"))
        return names(atol(argv[2]));
    if (argc == 3 && !strcmp(what, "reuse")) {
        for (long i = atol(argv[2]); i > 0; i--)
            if (!child())
                return failed("a child");
        return 0;
    }
    if (argc == 3 && !strcmp(what, "bomb"))
        return bomb(atol(argv[2]));
    fputs("usage: see the source\n", stderr);
    return 2;
}
