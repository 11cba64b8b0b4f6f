/* The floor of a lease of readers and writers: the steps of docs/architecture/leases.md in system calls, where nobody else is.
 *
 * Everything is made under the names and in the sizes of the real one, looked at where that one looks, and taken back.
 * Not in here: another's markers, judgements, threads.
 */
static struct {
    int folder, readers;
    char reader[64], claim[64], number[64], state[256], write[256], aside[320];
    long long numbers;
} lease;

static const char LEASE[] =
    "0123456789abcdef0123456789abcdef\n4194304\nhost?lease-90000-30000-0123456789abcdef0123456789abcdef-123456\n";

static void made(int folder, const char *name, const char *content, size_t length) {
    int fd = openat(folder, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (fd < 0) die(name);
    if (length > 0 && write(fd, content, length) != (ssize_t)length) die("write");
    if (close(fd) != 0) die("close");
}

/* What stands at the name; whether anything does. */
static int looked(int folder, const char *name) {
    char content[1025];
    struct stat there;
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) return 0;
    if (fd < 0) die(name);
    if (fstat(fd, &there) != 0) die("fstat");
    if (read(fd, content, sizeof content) < 0) die("read");
    if (close(fd) != 0) die("close");
    return 1;
}

static void listed(void) {
    DIR *folder = fdopendir(openat(lease.readers, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (folder == NULL) die("fdopendir");
    while (readdir(folder) != NULL) {
    }
    if (closedir(folder) != 0) die("closedir");
}

static void removed(int folder, const char *name) {
    if (unlinkat(folder, name, 0) != 0) die(name);
}

static void in_folder_of(const char *path) {
    char folder[4096];
    const char *slash = strrchr(path, '/'), *name = slash == NULL ? path : slash + 1;
    int length = slash == NULL ? 1 : (int)(slash - path);
    struct stat facts;
    snprintf(folder, sizeof folder, "%.*s", length, slash == NULL ? "." : path);
    lease.folder = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (lease.folder < 0) die("open");
    snprintf(lease.state, sizeof lease.state, "%s.state", name);
    snprintf(lease.write, sizeof lease.write, "%s.write", name);
    snprintf(lease.aside, sizeof lease.aside, "%s.write.break.4194304.0123456789abcdef0123456789abcdef", name);
    char readers[256];
    snprintf(readers, sizeof readers, "%s.readers", name);
    mkdirat(lease.folder, readers, 0700);
    lease.readers = openat(lease.folder, readers, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (lease.readers < 0) die("openat");
    if (fstat(lease.readers, &facts) != 0) die("fstat");
}

static int take_lease(const char *path, int exclusive) {
    in_folder_of(path);
    looked(lease.folder, lease.write);
    int state = openat(lease.folder, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    if (state < 0) die("O_TMPFILE");
    if (write(state, RECORD, sizeof RECORD - 1) != sizeof RECORD - 1) die("write");
    if (linkat(state, "", lease.folder, lease.state, AT_EMPTY_PATH) != 0) die("linkat");
    looked(lease.folder, lease.write);
    snprintf(lease.reader, sizeof lease.reader, "0123456789abcdef0123456789abcdef.%d", getpid());
    strcpy(lease.claim, ".writer.0123456789abcdef0123456789abcdef");
    if (exclusive) {
        made(lease.readers, lease.claim, LEASE, sizeof LEASE - 1);
        if (linkat(lease.readers, lease.claim, lease.folder, lease.write, 0) != 0) die("linkat");
        looked(lease.folder, lease.write);
        listed();
        snprintf(lease.number, sizeof lease.number, ".generation.%lld", ++lease.numbers);
        made(lease.readers, lease.number, NULL, 0);
    } else {
        made(lease.readers, lease.reader, LEASE, sizeof LEASE - 1);
    }
    listed();
    looked(lease.folder, lease.write);
    looked(lease.folder, lease.state);
    looked(lease.folder, lease.state);
    removed(lease.folder, lease.state);
    if (close(state) != 0) die("close");
    if (exclusive && lease.numbers > 1) {
        snprintf(lease.number, sizeof lease.number, ".generation.%lld", lease.numbers - 1);
        removed(lease.readers, lease.number);
    }
    if (close(lease.readers) != 0) die("close");
    return lease.folder;
}

static int take_soft_read(const char *path, int wait) { (void)wait; return take_lease(path, 0); }

static int take_soft_write(const char *path, int wait) { (void)wait; return take_lease(path, 1); }

static void give_lease(const char *path, const char *marker) {
    const char *slash = strrchr(path, '/');
    char readers[256];
    snprintf(readers, sizeof readers, "%s.readers", slash == NULL ? path : slash + 1);
    int folder = openat(lease.folder, readers, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (folder < 0) die("openat");
    looked(folder, marker);
    removed(folder, marker);
    if (close(folder) != 0) die("close");
}

static void give_soft_read(const char *path, int fd) {
    give_lease(path, lease.reader);
    if (close(fd) != 0) die("close");
}

static void give_soft_write(const char *path, int fd) {
    give_lease(path, lease.claim);
    looked(lease.folder, lease.write);
    if (renameat(lease.folder, lease.write, lease.folder, lease.aside) != 0) die("renameat");
    looked(lease.folder, lease.aside);
    removed(lease.folder, lease.aside);
    if (close(fd) != 0) die("close");
}
