/* The network, by the calls that ifconfig and route make: QEMU's own has the same addresses every time. */
#include <linux/if.h>
#include <linux/in.h>
#include <linux/mount.h>
#include <linux/route.h>
#include <linux/sockios.h>

#include "init.h"

#define RESOLVER "/etc/resolv.conf"
#define OURS "/run/kvmctl-resolv.conf"
#define CARD "eth0"

static struct sockaddr address(unsigned number)
{
    struct sockaddr whole;
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = number};

    memcpy(&whole, &in, sizeof whole);
    return whole;
}

static void ask(int fd, unsigned long request, void *what, const char *name)
{
    long error = SYS(ioctl, fd, request, what);

    if (error < 0)
        fail("bring up the network card ", name, error);
}

static void raise(int fd, const char *name)
{
    struct ifreq card = {.ifr_flags = IFF_UP | IFF_RUNNING};

    put_text(card.ifr_name, name);
    ask(fd, SIOCSIFFLAGS, &card, name);
}

void raise_loopback(void)
{
    int fd = SYS(socket, AF_INET, SOCK_DGRAM | O_CLOEXEC, 0);

    if (fd < 0)
        return; /* a kernel without networks */
    raise(fd, "lo");
    SYS(close, fd);
}

void raise_network(const char *settings)
{
    unsigned numbers[3]; /* address, mask, gateway */
    struct ifreq card = {};
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
    static const unsigned long requests[] = {SIOCSIFADDR, SIOCSIFNETMASK};

    int fd = SYS(socket, AF_INET, SOCK_DGRAM | O_CLOEXEC, 0);
    if (fd < 0)
        fail("bring up the network", "", fd);
    for (int index = 0; index < 3; index++)
        numbers[index] = take_number(&settings);
    put_text(card.ifr_name, CARD);
    for (int index = 0; index < 2; index++) {
        card.ifr_addr = address(numbers[index]);
        ask(fd, requests[index], &card, CARD);
    }
    raise(fd, CARD);
    route.rt_dst = route.rt_genmask = address(0);
    route.rt_gateway = address(numbers[2]);
    ask(fd, SIOCADDRT, &route, CARD);
    SYS(close, fd);
}

/* Where a link to nowhere leads (into /run mostly, which is empty), there may yet be a file. */
static void make_target(void)
{
    char target[4096] = "/etc/";
    long length = SYS(readlink, RESOLVER, target + 5, sizeof target - 6);

    if (length <= 0)
        return;
    target[5 + length] = 0;
    char *path = target[5] == '/' ? target + 5 : target, *last = path;
    for (char *at = path; *at; at++)
        if (*at == '/')
            last = at;
    *last = 0;
    make_directories(path);
    SYS(close, SYS(open, RESOLVER, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
}

void cover_resolver(const char *text)
{
    int fd = SYS(open, OURS, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    write_all(fd, text, text_length(text));
    SYS(close, fd);
    if (SYS(access, RESOLVER, 0) < 0)
        make_target();
    SYS(mount, OURS, RESOLVER, NULL, MS_BIND, NULL); /* a tree that has none looks no names up */
}
