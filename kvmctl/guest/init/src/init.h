/* The parts of the init. */
#ifndef KVMCTL_INIT_INIT_H
#define KVMCTL_INIT_INIT_H

#include "wire.h"

/* A socket that tells of devices from now on. */
int watch_devices(void);
/* Fail where no port will ever come: the kernel has not the drivers, or has no modules with them. */
void check_drivers(void);
/* The port to the host, opened; -ENOENT or -ENXIO as long as that is too early. */
int open_port(void);

/* Load the modules of a group from the initramfs. */
void load_modules(const char *group);

/* Mount, or fail. */
void mount_or_fail(const char *what, const char *where, const char *type, unsigned long flags, const char *options);
/* Make the directory `path` and those above it; what is there already stays. */
void make_directories(const char *path);

/* Make the root that the host's settings describe, and go into it. */
void set_up(char *settings, char *end);

/* The loopback, and a card (its driver loaded) with the address, mask, gateway (numbers in network order) in `settings`. */
void raise_loopback(void);
void raise_network(const char *settings);
/* Have names looked up as `text` says: the root's own resolv.conf is covered by it. */
void cover_resolver(const char *text);

/* Start what the host's settings describe. */
void start_command(char *settings, char *end);
int is_command_running(void);
void take_input(const char *data, unsigned size);
void end_input(void);
void signal_command(int number);
void resize_terminal(unsigned rows, unsigned columns);
/* Wait for anything that concerns the command or the host; `signals` is the signalfd. */
void turn(int signals, void (*take)(int type, char *data, unsigned size));

#endif
