/* What init and host say to each other over the virtio-serial port; kvmctl/guest/init/wire.py is the other side.
 *
 * A frame is a length (4 bytes, little-endian, of what follows the type), a type (1 byte), and that many bytes. Lists of
 * settings are pairs of zero-terminated texts: key, value, key, value.
 */
#ifndef KVMCTL_INIT_WIRE_H
#define KVMCTL_INIT_WIRE_H

#include "sys.h"

enum {
    /* from the host */
    SETUP = 'S',   /* settings: how to make the root; once, and first */
    COMMAND = 'C', /* settings: what to run */
    INPUT = 'I',   /* bytes for the command's stdin, never more than were granted */
    END = 'E',     /* there is no more input */
    SIGNAL = 'K',  /* 1 byte: a signal for the command's process group */
    SIZE = 'W',    /* rows and columns of the terminal, 2 bytes each */
    /* to the host */
    READY = 'R',   /* the root is made */
    OUTPUT = 'o',  /* bytes from the command's stdout, or its terminal */
    ERRORS = 'e',  /* bytes from its stderr */
    GRANT = 'g',   /* 4 bytes: that many more bytes of input may come */
    EXITED = 'x',  /* 4 bytes: the status as waitpid has it. All output came before. */
    REFUSED = 'r', /* 4 bytes: the errno with which the command could not be run; what failed, as text */
    FAILED = 'f',  /* 4 bytes: an errno; what failed, as text. The last frame. */
};

#define HEADER 5
#define FRAME_MAX (2 << 20)  /* a command's words and environment; the kernel takes no more than that */
#define WINDOW (128 << 10)   /* bytes of input that may be on their way */
#define PIECE (64 << 10)     /* bytes of output in a frame, at most */

/* Wait for the port, open it, and wait for the host at its other end. `watch` is from before its driver was loaded, and
 * closed; `signals` is a signalfd that has SIGIO. */
void open_channel(int watch, int signals);
/* Negative before it is open. */
int channel_fd(void);
void send_frame(int type, const void *data, unsigned size);
/* A frame of an errno and a text in up to two parts. */
void send_error(int type, long error, const char *doing, const char *what);
/* Read what there is, and give every whole frame to `take`. */
void read_frames(void (*take)(int type, char *data, unsigned size));

/* A list of settings, one after the other: moves `*next` on, and returns 0 at the end. Not ended is a failure. */
int next_setting(char **next, char *end, char **key, char **value);

#endif
