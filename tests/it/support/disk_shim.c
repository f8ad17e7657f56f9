/*
 * Gives a redis-server under test a disk that fails when told, and tells what it has synced.
 *
 * Preloaded. The file named by FLOODGATE_TEST_DISK holds three numbers of 8 bytes: the errno with
 * which writes to files fail (0: they do not), how many milliseconds a sync takes, and, written by
 * the shim, the size of the file that was synced last, of those that are only appended to.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile int64_t *shared;

__attribute__((constructor)) static void open_disk(void) {
    const char *path = getenv("FLOODGATE_TEST_DISK");
    int file = path ? open(path, O_RDWR) : -1;
    if (file < 0) return;
    void *page = mmap(NULL, 3 * sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) shared = page;
    close(file);
}

ssize_t write(int file, const void *bytes, size_t count) {
    struct stat about;
    if (shared && shared[0] && fstat(file, &about) == 0 && S_ISREG(about.st_mode)) {
        errno = (int)shared[0];
        return -1;
    }
    return syscall(SYS_write, file, bytes, count);
}

int fdatasync(int file) {
    struct stat about;
    if (shared && shared[1]) usleep((useconds_t)shared[1] * 1000);
    int64_t size = fstat(file, &about) == 0 ? about.st_size : 0;
    int result = (int)syscall(SYS_fdatasync, file);
    if (shared && result == 0 && fcntl(file, F_GETFL) & O_APPEND) shared[2] = size;
    return result;
}
