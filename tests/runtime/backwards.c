/* Preloaded: the time of day goes back by an hour every second, as seen by every process; the monotonic clock does not. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>

typedef int (*clock_function)(clockid_t, struct timespec *);

static int original(clockid_t clock, struct timespec *out) {
    static clock_function found;
    if (!found)
        found = (clock_function)dlsym(RTLD_NEXT, "clock_gettime");
    return found(clock, out);
}

static time_t back(void) {
    struct timespec since_boot;
    original(CLOCK_MONOTONIC, &since_boot);
    return (since_boot.tv_sec % 10000) * 3600;
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    int result = original(clock, out);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
        out->tv_sec -= back();
    return result;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}
