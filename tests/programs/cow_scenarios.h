// The scenarios of cow.c: who writes what, and when. Part of that program.

// New pages wait in a list of their CPU before they join the LRU, and the list
// holds a reference: their only owner copies them all the same. A few more pages,
// touched on every CPU, push them through.
static void settle(void)
{
    cpu_set_t all, one;
    size_t size = 64 * PAGE;
    if (sched_getaffinity(0, sizeof all, &all))
        stop("sched_getaffinity");
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all))
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        if (sched_setaffinity(0, sizeof one, &one))
            stop("sched_setaffinity");
        char *more = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (more == MAP_FAILED)
            stop("mmap");
        madvise(more, size, MADV_NOHUGEPAGE);
        for (size_t at = 0; at < size; at += PAGE)
            ((volatile char *)more)[at] = 1;
        munmap(more, size);
    }
    if (sched_setaffinity(0, sizeof all, &all))
        stop("sched_setaffinity");
}

// Nothing but a fork: what it costs by itself.
static void bare(void)
{
    struct party child = make_child();
    finish(&child);
}

static void parent(void)
{
    struct party child = make_child();
    write_as_parent(&child, 0);
    finish(&child);
}

static void child(void)
{
    struct party child = make_child();
    write_as_child(&child, 0);
    finish(&child);
}

static void both(void)
{
    struct party child = make_child();
    write_as_parent(&child, 0);
    write_as_child(&child, 1);
    write_as_child(&child, 2);
    finish(&child);
}

// Every fork shares all pages again.
static void again(void)
{
    for (int round = 0; round < rounds; round++)
        parent();
}

// What the parent has copied, the child alone holds.
static void child_after_parent(void)
{
    struct party child = make_child();
    write_as_parent(&child, 0);
    tell(&child, 'a');
    child.ledger->child.reused = pages;
    finish(&child);
}

static void parent_after_child(void)
{
    struct party child = make_child();
    write_as_child(&child, 0);
    write_region(0);
    child.ledger->parent.reused = pages;
    finish(&child);
}

// Writes when the child has gone belong to no ledger; the next one tells of them.
static void after_child(void)
{
    struct party child = make_child();
    write_as_parent(&child, 0);
    finish(&child);
    write_region(1);
    child = make_child();
    child.ledger->carried_over = pages;
    finish(&child);
}

// And when there is no next one, the summary alone does.
static void after_last_child(void)
{
    bare();
    write_region(0);
    reused_outside = pages;
}

static void parent_threads(void)
{
    int pipes[2];
    if (pipe2(pipes, O_CLOEXEC))
        stop("pipe");
    // They are there before the fork, so that it is the fork that shares their memory.
    start_threads(0, pipes[0]);
    struct party child = make_child();
    finish_threads(pipes[1]);
    child.ledger->parent.copied = pages;
    finish(&child);
}

static void child_threads(void)
{
    struct party child = make_child();
    tell(&child, 't');
    child.ledger->child.copied = pages;
    finish(&child);
}

// Two children at a time: the newer one's ledger has the faults, as long as it is open.
static void nested(void)
{
    struct party older = make_child();
    write_as_parent(&older, 0);
    struct party newer = make_child();
    write_as_parent(&newer, 1);
    finish(&newer);
    write_as_parent(&older, 2);
    finish(&older);
    older.ledger->overlapping = newer.ledger->overlapping = 1;
}

// The older one ends first.
static void staggered(void)
{
    struct party older = make_child();
    write_as_parent(&older, 0);
    struct party newer = make_child();
    write_as_parent(&newer, 1);
    finish(&older);
    write_as_parent(&newer, 2);
    write_as_child(&newer, 3);
    finish(&newer);
    older.ledger->overlapping = newer.ledger->overlapping = 1;
}

// A child that is a parent meanwhile.
static void grandchild(void)
{
    struct party child = make_child();
    struct ledger *inner = &ledgers[ledger_count++];
    char what = 'g';
    if (write(child.go, &what, 1) != 1 ||
        read(child.back, inner, sizeof *inner) != sizeof *inner ||
        read(child.back, &child.ledger->child.minflt, sizeof(long)) != sizeof(long))
        stop("no answer of the child");
    inner->end = "exit";
    child.ledger->child.copied = pages;
    finish(&child);
    child.ledger->overlapping = inner->overlapping = -1;
}

static void child_execs(void)
{
    struct party child = make_child();
    write_as_parent(&child, 0);
    write_as_child(&child, 1);
    child.ledger->end = "exec";
    tell(&child, 'x');
    finish(&child);
}

// The child stays, and writes when its parent's memory has been given back.
static void outlived(void)
{
    orphan_region = 2;
    struct party child = make_child();
    write_as_parent(&child, 0);
    write_as_child(&child, 1);
    child.ledger->end = "parent_exit";
    child.ledger->parent.minflt = minflt() - child.ledger->parent.minflt;
    reused_outside = pages;
}

static void run_true(void)
{
    execl("/bin/true", "/bin/true", (char *)NULL);
    stop("/bin/true");
}

static void stay_open(void)
{
    struct party child = make_child();
    write_as_parent(&child, 0);
    write_as_child(&child, 1);
    child.ledger->end = "open";
    child.ledger->parent.minflt = minflt() - child.ledger->parent.minflt;
}

static void wait_to_be_killed(void)
{
    for (;;)
        pause();
}

static const struct scenario {
    const char *name;
    void (*play)(void);
    int regions;
    void (*after)(void);
} scenarios[] = {
    {"bare", bare, 1, NULL},
    {"parent", parent, 1, NULL},
    {"child", child, 1, NULL},
    {"both", both, 3, NULL},
    {"again", again, 1, NULL},
    {"child_after_parent", child_after_parent, 1, NULL},
    {"parent_after_child", parent_after_child, 1, NULL},
    {"after_child", after_child, 2, NULL},
    {"after_last_child", after_last_child, 1, NULL},
    {"parent_threads", parent_threads, 1, NULL},
    {"child_threads", child_threads, 1, NULL},
    {"nested", nested, 3, NULL},
    {"staggered", staggered, 4, NULL},
    {"grandchild", grandchild, 2, NULL},
    {"child_execs", child_execs, 2, NULL},
    {"parent_exits", outlived, 3, NULL},
    {"parent_execs", outlived, 3, run_true},
    {"open", stay_open, 2, wait_to_be_killed},
    {NULL, NULL, 0, NULL},
};
