/* The virtio-serial port to the host, and the frames on it. */
#include <asm/poll.h>

#include "init.h"

static int channel = -1;
static char input[HEADER + FRAME_MAX];
static unsigned filled;

static void wait_for(int fd, short events)
{
    struct pollfd one = {.fd = fd, .events = events};

    SYS(poll, &one, 1, -1);
}

/* Whether the host is at the other end; nothing can be read or waited for before. SIGIO, in `signals`, tells of it. */
static int has_host(int signals)
{
    char drained[1024];
    struct pollfd one = {.fd = channel, .events = POLLIN};

    SYS(poll, &one, 1, 0);
    if (!(one.revents & POLLHUP))
        return 1;
    wait_for(signals, POLLIN);
    SYS(read, signals, drained, sizeof drained);
    return 0;
}

void open_channel(int watch, int signals)
{
    char event[4096];

    /* The driver makes the port some time after it was loaded, and lets it be opened (-ENXIO) a little later yet. Last
     * it gives the port its name, which is an event. */
    while ((channel = open_port()) == -ENOENT || channel == -ENXIO)
        if (SYS(read, watch, event, sizeof event) < 0)
            break;
    SYS(close, watch);
    if (channel < 0)
        fail("open the port to the host", "", channel);
    SYS(fcntl, channel, F_SETOWN, SYS(getpid));
    SYS(fcntl, channel, F_SETFL, O_RDWR | O_NONBLOCK | FASYNC);
    while (!has_host(signals))
        ;
    SYS(fcntl, channel, F_SETFL, O_RDWR | O_NONBLOCK);
}

int channel_fd(void)
{
    return channel;
}

static void send(const void *data, size_t size)
{
    const char *next = data;

    while (size) {
        long done = SYS(write, channel, next, size);

        if (done == -EAGAIN)
            wait_for(channel, POLLOUT);
        else if (done < 0 && done != -EINTR)
            power_off(); /* nobody is there to be told */
        if (done > 0)
            next += done, size -= done;
    }
}

void send_frame(int type, const void *data, unsigned size)
{
    /* In one write where it fits: each is a request of the device. */
    static char frame[HEADER + PIECE];

    memcpy(frame, &size, 4);
    frame[4] = type;
    if (size <= PIECE) {
        memcpy(frame + HEADER, data, size);
        send(frame, HEADER + size);
    } else {
        send(frame, HEADER);
        send(data, size);
    }
}

void send_error(int type, long error, const char *doing, const char *what)
{
    static char text[4 + 2 * 4096];
    int number = -error;

    memcpy(text, &number, 4);
    char *end = put_text(text + 4, doing);
    unsigned room = text + sizeof text - 1 - end, length = text_length(what);
    length = length < room ? length : room;
    memcpy(end, what, length);
    send_frame(type, text, end + length - text);
}

void read_frames(void (*take)(int type, char *data, unsigned size))
{
    long got = SYS(read, channel, input + filled, sizeof input - filled);

    if (got == -EAGAIN || got == -EINTR)
        return;
    if (got <= 0)
        power_off(); /* the host has gone */
    filled += got;
    unsigned at = 0, size;
    while (filled - at >= HEADER) {
        memcpy(&size, input + at, 4);
        if (size > FRAME_MAX)
            fail("read a frame from the host", "", -EMSGSIZE);
        if (filled - at < HEADER + size)
            break;
        take(input[at + 4], input + at + HEADER, size);
        at += HEADER + size;
    }
    memmove(input, input + at, filled - at);
    filled -= at;
}

int next_setting(char **next, char *end, char **key, char **value)
{
    if (*next == end)
        return 0;
    char **parts[] = {key, value};
    for (int part = 0; part < 2; part++) {
        *parts[part] = *next;
        while (*next < end && **next)
            ++*next;
        if (*next == end)
            fail("read the host's settings", "", -EBADMSG);
        ++*next;
    }
    return 1;
}
