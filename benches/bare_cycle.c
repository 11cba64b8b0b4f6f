/* The floor of every comparison: one cycle of a file lock in system calls and nothing else.
 *
 *   open, flock, fstat, stat of the path, flock LOCK_UN, close
 *
 * It speaks the protocol of workload.py, so the parent drives it like any other candidate:
 *
 *   bare_cycle serve FOLDER NAME
 *   bare_cycle contend PATH HOLD_NS sleep|spin REST_NS SECONDS BARRIER_FD
 *
 * Uncontended cycles make one non-blocking attempt. Where it must wait, it uses the blocking call: nothing keeps the
 * releaser from overtaking the process it has just woken, so this is the floor of latency and not of fairness.
 */
#define _GNU_SOURCE
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

static int take(const char *path, int operation) {
    for (;;) {
        struct stat mine, there;
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (fd < 0) die("open");
        if (flock(fd, operation) != 0) die("flock");
        if (fstat(fd, &mine) != 0) die("fstat");
        /* A lock on a file that is no longer at the path is no lock. */
        if (stat(path, &there) == 0 && mine.st_ino == there.st_ino && mine.st_dev == there.st_dev) return fd;
        if (close(fd) != 0) die("close");
    }
}

static void give(int fd) {
    if (flock(fd, LOCK_UN) != 0) die("flock LOCK_UN");
    if (close(fd) != 0) die("close");
}

static void serve(const char *folder, const char *relative) {
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
            held = take(absolute, LOCK_EX);
            int64_t acquired = nanoseconds(CLOCK_MONOTONIC);
            printf("%lld %lld\n", (long long)acquired, (long long)(nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - cpu));
        } else if (strcmp(task, "give") == 0) {
            int64_t released = nanoseconds(CLOCK_MONOTONIC);
            give(held);
            printf("%lld 0\n", (long long)released);
        } else {
            const char *path = strstr(task, ":relative") != NULL ? relative : absolute;
            int64_t start = nanoseconds(CLOCK_MONOTONIC);
            for (long long i = 0; i < count; i++) give(take(path, LOCK_EX | LOCK_NB));
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

static void contend(const char *path, int64_t hold, int spin, int64_t rest, double seconds, int barrier) {
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
        int fd = take(path, LOCK_EX);
        acquired = nanoseconds(CLOCK_MONOTONIC);
        if (acquired < deadline) pass(hold, spin);
        rows[used][1] = acquired;
        rows[used][2] = nanoseconds(CLOCK_MONOTONIC);
        give(fd);
        used++;
        pass(rest, 0);
    }
    cpu = nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("%lld %zu\n", (long long)cpu, used);
    if (fwrite(rows, sizeof *rows, used, stdout) != used || fflush(stdout) != 0) die("write");
    free(rows);
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "serve") == 0) {
        serve(argv[2], argv[3]);
    } else if (argc == 8 && strcmp(argv[1], "contend") == 0) {
        contend(argv[2], atoll(argv[3]), strcmp(argv[4], "spin") == 0, atoll(argv[5]), atof(argv[6]), atoi(argv[7]));
    } else {
        errno = EINVAL;
        die("usage");
    }
    return 0;
}
