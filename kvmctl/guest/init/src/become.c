/* The new process between its birth and its program. */
#include <asm/ioctls.h>
#include <asm/signal.h>

#include "command.h"

/* Signals as a program expects to find them: none blocked, none ignored. */
static void reset_signals(void)
{
    unsigned long none = 0;

    SYS(rt_sigprocmask, SIG_SETMASK, &none, NULL, sizeof none);
}

static long take_user(const struct order *order)
{
    long error = SYS(setgroups, order->group_count, order->groups);

    if (error >= 0)
        error = SYS(setresgid, order->gid, order->gid, order->gid);
    if (error >= 0)
        error = SYS(setresuid, order->uid, order->uid, order->uid);
    return error;
}

/* As execvp(3) looks for it: what is there and can't be run is remembered, and the search goes on. */
static long execute(const struct order *order)
{
    const char *name = order->argv[0], *path = order->path;
    char file[8192];
    long error = -ENOENT;

    for (const char *at = name; *at; at++)
        if (*at == '/')
            return SYS(execve, name, order->argv, order->environment);
    if (!*name || text_length(name) > 4096)
        return -ENOENT;
    while (*path) {
        char *to = file;
        while (*path && *path != ':' && to < file + 4000)
            *to++ = *path++;
        while (*path && *path++ != ':')
            ;
        put_text(put_text(to, to == file ? "./" : "/"), name);
        long failed = SYS(execve, file, order->argv, order->environment);
        if (failed != -ENOENT && failed != -ENOTDIR)
            error = failed;
    }
    return error;
}

struct failure become(const struct order *order, const int *ends)
{
    long error = 0;

    SYS(setsid);
    if (order->has_terminal)
        SYS(ioctl, ends[STDIN], TIOCSCTTY, 0);
    for (int number = 0; number < STREAMS && error >= 0; number++)
        error = SYS(dup2, ends[number], number);
    reset_signals();
    if (error >= 0)
        error = take_user(order);
    if (error < 0)
        return (struct failure){error, "become the user of ", order->argv[0]};
    error = SYS(chdir, order->directory);
    if (error < 0)
        return (struct failure){error, "go to ", order->directory};
    return (struct failure){execute(order), "run ", order->argv[0]};
}
