/* The command that runs: how it was started, what of it is open, how it ended. */
#ifndef KVMCTL_INIT_COMMAND_H
#define KVMCTL_INIT_COMMAND_H

#include "init.h"

enum { STDIN, STDOUT, STDERR, STREAMS };

struct command {
    long pid;            /* 0 where none runs */
    int status;          /* as waitpid has it */
    int has_ended;
    int is_on_terminal;  /* then stdin and stdout are the terminal's master, and stderr is nothing */
    int fds[STREAMS];    /* our ends; -1 for what is closed */
    char input[WINDOW];  /* what the command has not read yet */
    unsigned waiting;
    int is_input_over;
};

extern struct command command;

/* What a command is started with, taken from the host's settings. */
struct order {
    const char *argv[65536];
    const char *environment[65536];
    const char *directory;
    const char *path;
    unsigned uid, gid;
    int groups[65536];
    unsigned arguments, variables, group_count;
    int has_terminal;
    unsigned rows, columns;
};

/* What kept a command from running: an errno (0: nothing did), and what was being done, to which thing. */
struct failure {
    long error;
    const char *doing, *what;
};

/* Become what `order` says; returns where that fails. `ends` are the command's stdin, stdout and stderr. */
struct failure become(const struct order *order, const int *ends);

/* Let go of our end of a stream. */
void close_stream(int number);

#endif
