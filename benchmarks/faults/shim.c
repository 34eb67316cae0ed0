/* Counts the file-system calls of a process below some folders, and makes the n-th fail, or the process die at it.

   Loaded with LD_PRELOAD, so it stands between everything in the process (Python, safetensors, FFmpeg, torch) and the C
   library. Off until fault_arm is called; see shim.py for the modes. What is renamed is told as "from -> to". */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { COUNT, FAIL, FULL, GONE, KILL, TORN, SHORT, POWER };
enum { CHANGES = 1, SPACE = 2, WRITES = 4, READS = 8 };
enum { GO_ON = 0, HALF_THEN_DIE = -1, HALF = -2 };

#define DESCRIPTORS 4096
#define DIRTY 64

typedef void (*Seen)(long number, const char *function, const char *path, int kinds);

/* What is to be done; another process can say so through a file (FAULT_CONTROL). */
struct control { int armed, mode, error, unused; long target, counter; };

static char watched_folder[PATH_MAX];
static struct control here;
static volatile struct control *now = &here;
static int log_descriptor = -1;
static Seen seen;
static __thread int inside;
static char *paths[DESCRIPTORS];
static char writable[DESCRIPTORS];
/* Files with bytes that no fsync has brought to the disk: their synced length, and a descriptor to cut them by. */
static struct { dev_t device; ino_t file; int descriptor; off_t synced; } dirty[DIRTY];
static int dirty_files;

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

static void lose_unsynced(void) {
    for (int i = 0; i < dirty_files; i++)
        if (dirty[i].descriptor >= 0) syscall(SYS_ftruncate, dirty[i].descriptor, dirty[i].synced);
}

static void note_dirty(int descriptor, int synced) {
    struct stat about;
    if (now->mode != POWER || fstat(descriptor, &about)) return;
    for (int i = 0; i < dirty_files; i++)
        if (dirty[i].device == about.st_dev && dirty[i].file == about.st_ino) {
            if (synced) dirty[i].synced = about.st_size;
            return;
        }
    if (synced || dirty_files == DIRTY) return;
    dirty[dirty_files].device = about.st_dev, dirty[dirty_files].file = about.st_ino;
    dirty[dirty_files].synced = about.st_size;
    dirty[dirty_files++].descriptor = (int)syscall(SYS_fcntl, descriptor, F_DUPFD_CLOEXEC, 1000);
}

static int arrive(const char *function, const char *path, int kinds) {
    if (!now->armed || inside || !path || !strstr(path, watched_folder)) return GO_ON;
    long number = __sync_add_and_fetch(&now->counter, 1);
    int before = errno, mode = now->mode;
    inside = 1;
    if (seen) seen(number, function, path, kinds);
    if (log_descriptor >= 0) dprintf(log_descriptor, "%ld %d %s %s\n", number, kinds, function, path);
    inside = 0;
    errno = before;
    if (number < now->target || mode == COUNT) return GO_ON;
    if (mode == GONE || (mode == FULL && kinds & SPACE)) return now->error;
    if (number != now->target || mode == FULL) return GO_ON;
    if (mode == FAIL) return now->error;
    if (mode == POWER) lose_unsynced();
    if ((kinds & WRITES) && (mode == TORN || mode == SHORT)) return mode == TORN ? HALF_THEN_DIE : HALF;
    if (mode != SHORT) die();
    return GO_ON;
}

static const char *path_of(int descriptor) {
    return descriptor >= 0 && descriptor < DESCRIPTORS ? paths[descriptor] : NULL;
}

/* The path that a call with a folder's descriptor means. */
static const char *at(int folder, const char *path, char *space) {
    if (!path) return NULL;
    if (path[0] == '/') return path;
    const char *base = folder == AT_FDCWD ? NULL : path_of(folder);
    if (folder != AT_FDCWD && !base) return NULL;
    if (!base) return getcwd(space, PATH_MAX) && strstr(space, watched_folder) ? strncat(strcat(space, "/"), path, 512) : NULL;
    snprintf(space, PATH_MAX, "%s/%s", base, path);
    return space;
}

static int remember(int descriptor, const char *path) {
    if (descriptor >= 0 && descriptor < DESCRIPTORS) {
        int wanted = path && watched_folder[0] && strstr(path, watched_folder);
        paths[descriptor] = wanted ? strdup(path) : NULL;
        writable[descriptor] = wanted && (fcntl(descriptor, F_GETFL) & O_ACCMODE) != O_RDONLY;
    }
    return descriptor;
}

void fault_watch(const char *folder) { snprintf(watched_folder, sizeof watched_folder, "%s", folder); }
void fault_tell(Seen callback) { seen = callback; }

void fault_arm(int mode, long number, int error) {
    now->mode = mode, now->target = number, now->error = error, now->counter = 0;
    dirty_files = 0;
    now->armed = 1;
}

void fault_disarm(void) { now->armed = 0; }

__attribute__((constructor)) static void obey_another_process(void) {
    const char *control = getenv("FAULT_CONTROL"), *log = getenv("FAULT_LOG"), *folder = getenv("FAULT_FOLDER");
    if (!control || !log || !folder) return;
    int file = (int)syscall(SYS_openat, AT_FDCWD, control, O_RDWR | O_CLOEXEC);
    void *shared = file < 0 ? MAP_FAILED : (void *)syscall(SYS_mmap, NULL, sizeof here, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (shared == MAP_FAILED) return;
    int opened = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CLOEXEC);
    log_descriptor = (int)syscall(SYS_fcntl, opened, F_DUPFD_CLOEXEC, 1000);
    fault_watch(folder);
    now = shared;
}

/* The run has come to its end, after which power may still fail. */
void fault_end(void) { arrive("end", watched_folder, CHANGES); }

#define REFUSE(function, path, kinds, failed) \
    do { \
        int verdict = arrive(function, path, kinds); \
        if (verdict > 0) { errno = verdict; return failed; } \
    } while (0)

static int open_kinds(int flags) {
    int changes = flags & (O_CREAT | O_TRUNC) || (flags & O_TMPFILE) == O_TMPFILE;
    return (changes ? CHANGES : 0) | (flags & O_CREAT ? SPACE : 0);
}

#define OPEN_MODE(flags) \
    mode_t permissions = 0; \
    if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) { \
        va_list rest; \
        va_start(rest, flags); \
        permissions = va_arg(rest, mode_t); \
        va_end(rest); \
    }

#define OPEN(name) \
    int name(const char *given, int flags, ...) { \
        REAL(name); \
        OPEN_MODE(flags) \
        char space[PATH_MAX + 1024]; \
        const char *path = at(AT_FDCWD, given, space); \
        REFUSE("open", path, open_kinds(flags), -1); \
        return remember(real(given, flags, permissions), path); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *given, int flags, ...) { \
        REAL(name); \
        OPEN_MODE(flags) \
        char space[PATH_MAX + 1024]; \
        const char *path = at(folder, given, space); \
        REFUSE("open", path, open_kinds(flags), -1); \
        return remember(real(folder, given, flags, permissions), path); \
    }
OPENAT(openat)
OPENAT(openat64)

#define CREAT(name) \
    int name(const char *path, mode_t permissions) { \
        REAL(name); \
        REFUSE("open", path, CHANGES | SPACE, -1); \
        return remember(real(path, permissions), path); \
    }
CREAT(creat)
CREAT(creat64)

#define FOPEN(name) \
    FILE *name(const char *path, const char *how) { \
        REAL(name); \
        REFUSE("open", path, strpbrk(how, "wa") ? CHANGES | SPACE : 0, NULL); \
        FILE *file = real(path, how); \
        if (file) remember(fileno(file), path); \
        return file; \
    }
FOPEN(fopen)
FOPEN(fopen64)

DIR *opendir(const char *path) {
    REAL(opendir);
    REFUSE("opendir", path, 0, NULL);
    return real(path);
}

int close(int descriptor) {
    REAL(close);
    /* What was only read cannot fail when it is closed. */
    const char *path = path_of(descriptor) && writable[descriptor] ? paths[descriptor] : NULL;
    remember(descriptor, NULL);
    int verdict = arrive("close", path, CHANGES);
    int result = real(descriptor);
    if (verdict > 0) { errno = verdict; return -1; }
    return result;
}

/* Half of the bytes, where there are two. */
#define HALVED(verdict, count) (verdict < 0 && count > 1 ? count / 2 : count)

#define WRITE(name, function, parameters, call) \
    ssize_t name parameters { \
        REAL(name); \
        const char *path = path_of(descriptor); \
        if (!path) return call; \
        note_dirty(descriptor, 0); \
        int verdict = arrive(function, path, CHANGES | SPACE | WRITES); \
        if (verdict > 0) { errno = verdict; return -1; } \
        count = HALVED(verdict, count); \
        ssize_t written = call; \
        if (verdict == HALF_THEN_DIE) die(); \
        return written; \
    }
WRITE(write, "write", (int descriptor, const void *bytes, size_t count), real(descriptor, bytes, count))
WRITE(pwrite, "write", (int descriptor, const void *bytes, size_t count, off_t offset),
      real(descriptor, bytes, count, offset))
WRITE(pwrite64, "write", (int descriptor, const void *bytes, size_t count, off_t offset),
      real(descriptor, bytes, count, offset))
WRITE(writev, "write", (int descriptor, const struct iovec *bytes, int count), real(descriptor, bytes, count))

#define READ(name, parameters, call) \
    ssize_t name parameters { \
        REAL(name); \
        REFUSE("read", path_of(descriptor), READS, -1); \
        return call; \
    }
READ(read, (int descriptor, void *bytes, size_t count), real(descriptor, bytes, count))
READ(pread, (int descriptor, void *bytes, size_t count, off_t offset), real(descriptor, bytes, count, offset))
READ(pread64, (int descriptor, void *bytes, size_t count, off_t offset), real(descriptor, bytes, count, offset))

#define SYNC(name) \
    int name(int descriptor) { \
        REAL(name); \
        REFUSE(#name, path_of(descriptor), CHANGES, -1); \
        int result = real(descriptor); \
        if (!result && path_of(descriptor)) note_dirty(descriptor, 1); \
        return result; \
    }
SYNC(fsync)
SYNC(fdatasync)

#define TRUNCATE(name) \
    int name(int descriptor, off_t size) { \
        REAL(name); \
        if (path_of(descriptor)) note_dirty(descriptor, 0); \
        REFUSE("ftruncate", path_of(descriptor), CHANGES | SPACE, -1); \
        return real(descriptor, size); \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

#define TRUNCATE_PATH(name) \
    int name(const char *path, off_t size) { \
        REAL(name); \
        REFUSE("truncate", path, CHANGES, -1); \
        return real(path, size); \
    }
TRUNCATE_PATH(truncate)
TRUNCATE_PATH(truncate64)

#define ALLOCATE(name) \
    int name(int descriptor, off_t offset, off_t size) { \
        REAL(name); \
        int verdict = arrive("fallocate", path_of(descriptor), CHANGES | SPACE); \
        return verdict > 0 ? verdict : real(descriptor, offset, size); \
    }
ALLOCATE(posix_fallocate)
ALLOCATE(posix_fallocate64)

int fallocate(int descriptor, int how, off_t offset, off_t size) {
    REAL(fallocate);
    REFUSE("fallocate", path_of(descriptor), CHANGES | SPACE, -1);
    return real(descriptor, how, offset, size);
}

#define MAP(name) \
    void *name(void *where, size_t size, int protection, int flags, int descriptor, off_t offset) { \
        REAL(name); \
        if (!(flags & MAP_ANONYMOUS)) REFUSE("mmap", path_of(descriptor), 0, MAP_FAILED); \
        return real(where, size, protection, flags, descriptor, offset); \
    }
MAP(mmap)
MAP(mmap64)

int flock(int descriptor, int operation) {
    REAL(flock);
    if (!(operation & LOCK_UN)) REFUSE("flock", path_of(descriptor), 0, -1);
    return real(descriptor, operation);
}

static const char *both(const char *from, const char *to, char *space) {
    snprintf(space, 2 * PATH_MAX, "%s -> %s", from ? from : "?", to ? to : "?");
    return space;
}

#define TWO_PATHS(name, function, parameters, from_folder, to_folder, call) \
    int name parameters { \
        REAL(name); \
        char first[PATH_MAX + 1024], second[PATH_MAX + 1024], space[2 * PATH_MAX + 2048]; \
        REFUSE(function, both(at(from_folder, from, first), at(to_folder, to, second), space), CHANGES | SPACE, -1); \
        return call; \
    }
TWO_PATHS(rename, "rename", (const char *from, const char *to), AT_FDCWD, AT_FDCWD, real(from, to))
TWO_PATHS(renameat, "rename", (int one, const char *from, int other, const char *to), one, other,
          real(one, from, other, to))
TWO_PATHS(renameat2, "rename", (int one, const char *from, int other, const char *to, unsigned int flags), one, other,
          real(one, from, other, to, flags))
TWO_PATHS(link, "link", (const char *from, const char *to), AT_FDCWD, AT_FDCWD, real(from, to))
TWO_PATHS(linkat, "link", (int one, const char *from, int other, const char *to, int flags), one, other,
          real(one, from, other, to, flags))
TWO_PATHS(symlink, "symlink", (const char *from, const char *to), AT_FDCWD, AT_FDCWD, real(from, to))
TWO_PATHS(symlinkat, "symlink", (const char *from, int other, const char *to), AT_FDCWD, other, real(from, other, to))

#define ONE_PATH(name, function, parameters, folder, kinds, call) \
    int name parameters { \
        REAL(name); \
        char space[PATH_MAX + 1024]; \
        REFUSE(function, at(folder, path, space), kinds, -1); \
        return call; \
    }
ONE_PATH(unlink, "unlink", (const char *path), AT_FDCWD, CHANGES, real(path))
ONE_PATH(unlinkat, flags &AT_REMOVEDIR ? "rmdir" : "unlink", (int folder, const char *path, int flags), folder, CHANGES,
         real(folder, path, flags))
ONE_PATH(rmdir, "rmdir", (const char *path), AT_FDCWD, CHANGES, real(path))
ONE_PATH(mkdir, "mkdir", (const char *path, mode_t permissions), AT_FDCWD, CHANGES | SPACE, real(path, permissions))
ONE_PATH(mkdirat, "mkdir", (int folder, const char *path, mode_t permissions), folder, CHANGES | SPACE,
         real(folder, path, permissions))
ONE_PATH(utimensat, "utime", (int folder, const char *path, const struct timespec times[2], int flags), folder, CHANGES,
         real(folder, path, times, flags))
ONE_PATH(utimes, "utime", (const char *path, const struct timeval times[2]), AT_FDCWD, CHANGES, real(path, times))
ONE_PATH(chmod, "chmod", (const char *path, mode_t permissions), AT_FDCWD, CHANGES, real(path, permissions))

int futimens(int descriptor, const struct timespec times[2]) {
    REAL(futimens);
    REFUSE("utime", path_of(descriptor), CHANGES, -1);
    return real(descriptor, times);
}
