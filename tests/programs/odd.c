// Does one odd thing, for live tests. Exit code 2 for wrong usage, 1 when the
// system refuses.
//
//     odd slow_vfork MS           a vfork child that keeps its parent frozen
//     odd rename NAME COMMAND...  takes a name, makes a child that takes it over
//                                 and exits with 3, then runs COMMAND
//     odd empty_argv              runs /bin/true with no arguments at all
//     odd crash                   a child that dies of SIGSEGV
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static int failed(const char *what)
{
    perror(what);
    return 1;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    int status;
    if (argc == 3 && !strcmp(what, "slow_vfork")) {
        useconds_t pause = (useconds_t)atoi(argv[2]) * 1000;
        pid_t pid = vfork();
        if (pid == 0) {
            usleep(pause);
            _exit(0);
        }
        return pid < 0 || waitpid(pid, &status, 0) != pid ? failed(what) : 0;
    }
    if (argc > 3 && !strcmp(what, "rename")) {
        if (prctl(PR_SET_NAME, argv[2]))
            return failed(what);
        pid_t pid = fork();
        if (pid == 0)
            _exit(3);
        if (pid < 0 || waitpid(pid, &status, 0) != pid)
            return failed(what);
        execv(argv[3], argv + 3);
        return failed(argv[3]);
    }
    if (argc == 2 && !strcmp(what, "empty_argv")) {
        char *const nothing[] = {NULL};
        execve("/bin/true", nothing, nothing);
        return failed(what);
    }
    if (argc == 2 && !strcmp(what, "crash")) {
        prctl(PR_SET_DUMPABLE, 0);
        pid_t pid = fork();
        if (pid == 0)
            raise(SIGSEGV);
        return pid < 0 || waitpid(pid, &status, 0) != pid ? failed(what) : 0;
    }
    fputs("usage: see the source\n", stderr);
    return 2;
}
