/* The command: started by the host's order, fed, watched, and told of. */
#include <asm/ioctls.h>
#include <asm/termios.h>

#include "command.h"

struct command command;
static struct order order;

void close_stream(int number)
{
    int fd = command.fds[number];

    command.fds[number] = -1;
    if (command.is_on_terminal && number == STDIN)
        return; /* a terminal's master is both, and closed with the other */
    if (command.is_on_terminal)
        command.fds[STDIN] = -1;
    if (fd >= 0)
        SYS(close, fd);
}

static long take_order(char *next, char *end)
{
    char *key, *value;

    memset(&order, 0, sizeof order);
    order.directory = "/";
    while (next_setting(&next, end, &key, &value)) {
        if (order.arguments + 1 == sizeof order.argv / sizeof *order.argv ||
            order.variables + 1 == sizeof order.environment / sizeof *order.environment ||
            order.group_count == sizeof order.groups / sizeof *order.groups)
            return -E2BIG;
        const char *number = value;
        if (is_equal(key, "argument"))
            order.argv[order.arguments++] = value;
        else if (is_equal(key, "variable"))
            order.environment[order.variables++] = value;
        else if (is_equal(key, "directory"))
            order.directory = value;
        else if (is_equal(key, "path"))
            order.path = value;
        else if (is_equal(key, "uid"))
            order.uid = take_number(&number);
        else if (is_equal(key, "gid"))
            order.gid = take_number(&number);
        else if (is_equal(key, "group"))
            order.groups[order.group_count++] = take_number(&number);
        else if (is_equal(key, "terminal"))
            order.has_terminal = 1, order.rows = take_number(&number), order.columns = take_number(&number);
        else
            return -EBADMSG;
    }
    return order.arguments && order.path ? 0 : -EBADMSG;
}

/* Our ends of the streams in `command.fds`, the command's in `ends`. */
static long open_pipes(int *ends)
{
    for (int number = 0; number < STREAMS; number++) {
        int pair[2];
        long error = SYS(pipe2, pair, O_CLOEXEC);
        if (error < 0)
            return error;
        int ours = number == STDIN;
        command.fds[number] = pair[ours];
        ends[number] = pair[!ours];
        SYS(fcntl, pair[ours], F_SETFL, O_NONBLOCK);
        /* Where the command is not root, /dev/stderr and the like are opened anew, which the owner may. */
        SYS(fchown, ends[number], order.uid, order.gid);
    }
    return 0;
}

static long open_terminal(int *ends)
{
    int unlocked = 0;
    int master = SYS(open, "/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);

    if (master < 0)
        return master;
    SYS(ioctl, master, TIOCSPTLCK, &unlocked);
    int slave = SYS(ioctl, master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0) {
        SYS(close, master);
        return slave;
    }
    SYS(fchown, slave, order.uid, 5);
    command.fds[STDIN] = command.fds[STDOUT] = master;
    ends[STDIN] = ends[STDOUT] = ends[STDERR] = slave;
    resize_terminal(order.rows, order.columns);
    return 0;
}

/* The child's pid in `command`, once its program runs. The addresses in a failure are the same in the child. */
static struct failure spawn(const int *ends)
{
    int news[2];
    struct failure failure = {SYS(pipe2, news, O_CLOEXEC), "run ", order.argv[0]};

    if (failure.error < 0)
        return failure;
    long pid = SYS(fork);
    if (pid == 0) {
        failure = become(&order, ends);
        SYS(write, news[1], &failure, sizeof failure);
        SYS(exit_group, 127);
    }
    SYS(close, news[1]);
    if (pid < 0)
        failure.error = pid;
    else if (SYS(read, news[0], &failure, sizeof failure) == sizeof failure)
        SYS(wait4, pid, NULL, 0, NULL);
    else
        command.pid = pid;
    SYS(close, news[0]);
    return failure;
}

static struct failure begin(char *settings, char *end, int *ends)
{
    struct failure failure = {take_order(settings, end), "understand the order", ""};

    if (failure.error < 0)
        return failure;
    command.is_on_terminal = order.has_terminal;
    failure = (struct failure){order.has_terminal ? open_terminal(ends) : open_pipes(ends), "open the streams", ""};
    return failure.error < 0 ? failure : spawn(ends);
}

void start_command(char *settings, char *end)
{
    int ends[STREAMS] = {-1, -1, -1};

    command.pid = command.status = command.has_ended = command.is_on_terminal = 0;
    command.waiting = command.is_input_over = 0;
    memset(command.fds, -1, sizeof command.fds);
    struct failure failure = begin(settings, end, ends);
    for (int number = 0; number < STREAMS; number++)
        if (ends[number] >= 0 && (number == STDIN || ends[number] != ends[STDIN]))
            SYS(close, ends[number]);
    if (command.pid > 0)
        return;
    for (int number = 0; number < STREAMS; number++)
        close_stream(number);
    send_error(REFUSED, failure.error, failure.doing, failure.what);
}

int is_command_running(void)
{
    return command.pid > 0;
}

void signal_command(int number)
{
    if (command.pid > 0)
        SYS(kill, -command.pid, number);
}

void resize_terminal(unsigned rows, unsigned columns)
{
    struct winsize size = {.ws_row = rows, .ws_col = columns};

    if (command.is_on_terminal && command.fds[STDOUT] >= 0)
        SYS(ioctl, command.fds[STDOUT], TIOCSWINSZ, &size);
}
