/* Bytes between the command and the host, and the command's end. */
#include <asm/ioctls.h>
#include <asm/poll.h>
#include <asm/signal.h>
#include <linux/signalfd.h>
#include <linux/wait.h>

#include "command.h"

#define QUIET 100 /* ms: how long a terminal that others hold open must be silent to have said all */

static const int kinds[STREAMS] = {[STDOUT] = OUTPUT, [STDERR] = ERRORS};

/* More input may come: the command took `size` bytes, or never will. */
static void grant(unsigned size)
{
    if (size)
        send_frame(GRANT, &size, sizeof size);
}

static void drop_input(void)
{
    grant(command.waiting);
    command.waiting = 0;
    close_stream(STDIN);
}

/* Ctrl-D, by which a terminal ends its input: there is nothing of it to close while it is looked at. */
static void end_terminal_input(void)
{
    SYS(write, command.fds[STDOUT], "\004", 1);
    command.fds[STDIN] = -1;
}

static void feed(void)
{
    while (command.waiting) {
        long done = SYS(write, command.fds[STDIN], command.input, command.waiting);
        if (done == -EAGAIN)
            return;
        if (done <= 0)
            return drop_input(); /* the command has closed it */
        memmove(command.input, command.input + done, command.waiting - done);
        command.waiting -= done;
        grant(done);
    }
    if (command.is_input_over && command.fds[STDIN] >= 0)
        command.is_on_terminal ? end_terminal_input() : close_stream(STDIN);
}

void take_input(const char *data, unsigned size)
{
    if (!is_command_running())
        return; /* for one that has ended meanwhile */
    if (command.fds[STDIN] < 0)
        return grant(size);
    if (size > sizeof command.input - command.waiting)
        fail("take more input than was granted", "", -EMSGSIZE);
    memcpy(command.input + command.waiting, data, size);
    command.waiting += size;
    feed();
}

void end_input(void)
{
    command.is_input_over = 1;
    if (is_command_running())
        feed();
}

/* Pass on what a stream has, at most `limit` bytes; returns how many came. At its end it is closed. */
static long pass_on(int number, long limit)
{
    static char piece[PIECE];
    long want = limit < PIECE ? limit : PIECE, got = SYS(read, command.fds[number], piece, want);

    if (got > 0)
        send_frame(kinds[number], piece, got);
    else if (got != -EAGAIN && got != -EINTR)
        close_stream(number); /* a terminal that nobody has open any more gives EIO */
    return got;
}

/* What the ended command has said and nobody read yet, and no more: others it left may go on writing for ever. */
static void drain(int number)
{
    int left = 0;

    SYS(ioctl, command.fds[number], FIONREAD, &left);
    while (left > 0 && command.fds[number] >= 0) {
        long got = pass_on(number, left);
        if (got <= 0)
            return;
        left -= got;
    }
}

/* A terminal hands on what was written to it a little later, so its end has to be seen, or a silence. */
static void drain_terminal(void)
{
    long room = 1 << 20;

    while (command.fds[STDOUT] >= 0 && room > 0) {
        struct pollfd one = {.fd = command.fds[STDOUT], .events = POLLIN};
        if (SYS(poll, &one, 1, QUIET) == 0)
            return;
        long got = pass_on(STDOUT, PIECE);
        room -= got > 0 ? got : 0;
    }
}

static void finish(void)
{
    if (command.is_on_terminal) {
        signal_command(SIGHUP); /* as for a terminal that is closed */
        drain_terminal();
    } else {
        drain(STDOUT);
        drain(STDERR);
    }
    close_stream(STDOUT);
    for (int number = 0; number < STREAMS; number++)
        close_stream(number);
    command.pid = 0;
    SYS(sync); /* what was written to shared directories is the host's before it is told */
    send_frame(EXITED, &command.status, sizeof command.status);
}

/* As the first process we collect every orphan, too. */
static void collect(void)
{
    long pid;
    int status;

    while ((pid = SYS(wait4, -1, &status, WNOHANG, NULL)) > 0)
        if (pid == command.pid) {
            command.has_ended = 1;
            command.status = status;
        }
}

void turn(int signals, void (*take)(int type, char *data, unsigned size))
{
    char drained[1024];
    struct pollfd fds[] = {
        {.fd = signals, .events = POLLIN},
        {.fd = channel_fd(), .events = POLLIN},
        {.fd = command.waiting ? command.fds[STDIN] : -1, .events = POLLOUT},
        {.fd = command.fds[STDOUT], .events = POLLIN},
        {.fd = command.fds[STDERR], .events = POLLIN},
    };

    if (SYS(poll, fds, sizeof fds / sizeof *fds, -1) < 0)
        return;
    if (fds[0].revents) {
        SYS(read, signals, drained, sizeof drained);
        collect();
    }
    if (fds[2].revents)
        feed();
    if (fds[3].revents)
        pass_on(STDOUT, PIECE);
    if (fds[4].revents)
        pass_on(STDERR, PIECE);
    if (is_command_running() && command.has_ended)
        finish();
    if (fds[1].revents)
        read_frames(take);
}
