/*
 * Gives a redis-server under test a wall clock that stands still where the test puts it, or goes
 * as much ahead of the machine's as the test says.
 *
 * Preloaded. The first 8 bytes of the file named by FLOODGATE_TEST_CLOCK are the time in
 * microseconds since the Unix epoch; 0 means the machine's own clock, plus the microseconds (whole
 * seconds of them) in the next 8 bytes. The monotonic clock is left alone, so that timers and timeouts go on.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *shared;

__attribute__((constructor)) static void open_clock(void) {
    const char *path = getenv("FLOODGATE_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) return;
    void *page = mmap(NULL, 2 * sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) shared = page;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    int64_t us = shared ? shared[0] : 0;
    int wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
    if (!wall || us == 0) {
        int result = (int)syscall(SYS_clock_gettime, clock, out);
        if (wall && shared) out->tv_sec += shared[1] / 1000000;
        return result;
    }
    out->tv_sec = us / 1000000;
    out->tv_nsec = us % 1000000 * 1000;
    return 0;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return result;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
