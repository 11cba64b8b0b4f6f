/* The floor of every comparison: one cycle of a file lock in system calls and nothing else.
 *
 *   flock    open, flock, fstat, stat of the path, flock LOCK_UN, close
 *   read     open, fstat, PENDING and SHARED shared, PENDING given back, stat of the path, unlock, close
 *   write    the same with RESERVED, PENDING and SHARED exclusively
 *   marker   open of a new file, write, fstat, lstat of the path, close, unlink
 *   soft_read, soft_write   the steps of a lease, in bare_lease.h
 *
 * It speaks the protocol of workload.py, so the parent drives it like any other candidate:
 *
 *   bare_cycle flock|marker|read|write|soft_read|soft_write serve FOLDER NAME
 *   bare_cycle flock|marker|read|write contend PATH HOLD_NS sleep|spin REST_NS SECONDS BARRIER_FD
 *
 * Uncontended cycles make one non-blocking attempt. Where it must wait, flock uses the blocking call: nothing keeps
 * the releaser from overtaking the process it has just woken, so this is the floor of latency and not of fairness.
 * A marker has no such call: nothing wakes who waits for a name to go away, and a poll would be no floor. So that one
 * does not wait; a marker that is there ends it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int64_t nanoseconds(clockid_t clock) {
    struct timespec now;
    if (clock_gettime(clock, &now) != 0) die("clock_gettime");
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* One way to lock: what `take` returns, `give` wants back. */
typedef struct {
    const char *name;
    int (*take)(const char *path, int wait);
    void (*give)(const char *path, int fd);
} mechanism;

static int is_same_file(const struct stat *one, const struct stat *other) {
    return one->st_ino == other->st_ino && one->st_dev == other->st_dev;
}

static int take_flock(const char *path, int wait) {
    for (;;) {
        struct stat mine, there;
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (fd < 0) die("open");
        if (flock(fd, wait ? LOCK_EX : LOCK_EX | LOCK_NB) != 0) die("flock");
        if (fstat(fd, &mine) != 0) die("fstat");
        /* A lock on a file that is no longer at the path is no lock. */
        if (stat(path, &there) == 0 && is_same_file(&mine, &there)) return fd;
        if (close(fd) != 0) die("close");
    }
}

static void give_flock(const char *path, int fd) {
    (void)path;
    if (flock(fd, LOCK_UN) != 0) die("flock LOCK_UN");
    if (close(fd) != 0) die("close");
}

/* What SQLite locks: PENDING, RESERVED, and behind them SHARED. */
static void set_range(int fd, short type, off_t start, off_t length, int wait) {
    struct flock range = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    if (fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &range) != 0) die("fcntl");
}

static int take_ranges(const char *path, int wait, short type) {
    static const off_t pending = 0x40000000, reserved = 0x40000001, shared = 0x40000002;
    for (;;) {
        struct stat mine, there;
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
        if (fd < 0) die("open");
        if (fstat(fd, &mine) != 0) die("fstat");
        if (type == F_WRLCK) set_range(fd, type, reserved, 1, wait);
        set_range(fd, type, pending, 1, wait);
        set_range(fd, type, shared, 510, wait);
        if (type == F_RDLCK) set_range(fd, F_UNLCK, pending, 1, 0);
        if (stat(path, &there) == 0 && is_same_file(&mine, &there)) return fd;
        if (close(fd) != 0) die("close");
    }
}

static int take_read(const char *path, int wait) { return take_ranges(path, wait, F_RDLCK); }

static int take_write(const char *path, int wait) { return take_ranges(path, wait, F_WRLCK); }

static void give_ranges(const char *path, int fd) {
    (void)path;
    set_range(fd, F_UNLCK, 0, 0, 0);
    if (close(fd) != 0) die("close");
}

/* As long as the owner record of filelock 4.2.12 and of ferrolock; what it says is nobody's business here. */
static const char RECORD[] = "4194304\nhost\n0123456789abcdef0123456789abcdef0123456789abcdef012345\n";
_Static_assert(sizeof RECORD - 1 == 68, "the record has its usual length");

static int take_marker(const char *path, int wait) {
    (void)wait;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0) die("open");
    if (write(fd, RECORD, sizeof RECORD - 1) != sizeof RECORD - 1) die("write");
    return fd;
}

static void give_marker(const char *path, int fd) {
    struct stat mine, there;
    if (fstat(fd, &mine) != 0) die("fstat");
    if (lstat(path, &there) != 0) die("lstat");
    if (close(fd) != 0) die("close");
    /* Somebody else's marker stays. */
    if (is_same_file(&mine, &there) && unlink(path) != 0) die("unlink");
}

#include "bare_lease.h"

static const mechanism MECHANISMS[] = {{"flock", take_flock, give_flock},
                                        {"marker", take_marker, give_marker},
                                        {"read", take_read, give_ranges},
                                        {"write", take_write, give_ranges},
                                        {"soft_read", take_soft_read, give_soft_read},
                                        {"soft_write", take_soft_write, give_soft_write}};

static const mechanism *named(const char *name) {
    for (size_t i = 0; i < sizeof MECHANISMS / sizeof *MECHANISMS; i++)
        if (strcmp(MECHANISMS[i].name, name) == 0) return &MECHANISMS[i];
    return NULL;
}

static void serve(const mechanism *lock, const char *folder, const char *relative) {
    char line[128], task[64], absolute[4096];
    long long count;
    int held = -1;
    if (chdir(folder) != 0) die("chdir");
    if (snprintf(absolute, sizeof absolute, "%s/%s", folder, relative) >= (int)sizeof absolute) die("path");
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (sscanf(line, "%63s %lld", task, &count) != 2) die("protocol");
        if (strcmp(task, "take") == 0) {
            puts("waiting");
            fflush(stdout);
            int64_t cpu = nanoseconds(CLOCK_PROCESS_CPUTIME_ID);
            held = lock->take(absolute, 1);
            int64_t acquired = nanoseconds(CLOCK_MONOTONIC);
            printf("%lld %lld\n", (long long)acquired, (long long)(nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - cpu));
        } else if (strcmp(task, "give") == 0) {
            int64_t released = nanoseconds(CLOCK_MONOTONIC);
            lock->give(absolute, held);
            printf("%lld 0\n", (long long)released);
        } else {
            const char *path = strstr(task, ":relative") != NULL ? relative : absolute;
            int64_t start = nanoseconds(CLOCK_MONOTONIC);
            for (long long i = 0; i < count; i++) lock->give(path, lock->take(path, 0));
            printf("%lld 0\n", (long long)(nanoseconds(CLOCK_MONOTONIC) - start));
        }
        fflush(stdout);
    }
}

static void pass(int64_t time, int spin) {
    if (spin) {
        int64_t until = nanoseconds(CLOCK_MONOTONIC) + time;
        while (nanoseconds(CLOCK_MONOTONIC) < until) {
        }
    } else if (time > 0) {
        struct timespec rest = {.tv_sec = time / 1000000000, .tv_nsec = time % 1000000000};
        nanosleep(&rest, NULL);
    }
}

static void contend(const mechanism *lock, const char *path, int64_t hold, int spin, int64_t rest, double seconds,
                    int barrier) {
    size_t used = 0, room = 1 << 16;
    int64_t(*rows)[3] = malloc(room * sizeof *rows);
    char nothing;
    if (rows == NULL) die("malloc");
    puts("ready");
    fflush(stdout);
    if (read(barrier, &nothing, 1) < 0) die("barrier");

    int64_t cpu = nanoseconds(CLOCK_PROCESS_CPUTIME_ID);
    int64_t deadline = nanoseconds(CLOCK_MONOTONIC) + (int64_t)(seconds * 1e9);
    for (int64_t acquired = 0; acquired < deadline;) {
        if (used == room) {
            room *= 2;
            rows = realloc(rows, room * sizeof *rows);
            if (rows == NULL) die("realloc");
        }
        rows[used][0] = nanoseconds(CLOCK_MONOTONIC);
        int fd = lock->take(path, 1);
        acquired = nanoseconds(CLOCK_MONOTONIC);
        if (acquired < deadline) pass(hold, spin);
        rows[used][1] = acquired;
        rows[used][2] = nanoseconds(CLOCK_MONOTONIC);
        lock->give(path, fd);
        used++;
        pass(rest, 0);
    }
    cpu = nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("%lld %zu\n", (long long)cpu, used);
    if (fwrite(rows, sizeof *rows, used, stdout) != used || fflush(stdout) != 0) die("write");
    free(rows);
}

int main(int argc, char **argv) {
    const mechanism *lock = argc > 1 ? named(argv[1]) : NULL;
    if (lock != NULL && argc == 5 && strcmp(argv[2], "serve") == 0) {
        serve(lock, argv[3], argv[4]);
    } else if (lock != NULL && argc == 9 && strcmp(argv[2], "contend") == 0) {
        contend(lock, argv[3], atoll(argv[4]), strcmp(argv[5], "spin") == 0, atoll(argv[6]), atof(argv[7]),
                atoi(argv[8]));
    } else {
        errno = EINVAL;
        die("usage");
    }
    return 0;
}
