/* System calls without a C library: what the init asks of the kernel, and nothing else.
 *
 * Every call returns what the kernel does: a negative errno where it refuses. x86-64 only, as are the machines it runs
 * in. The layouts and numbers are the kernel's own headers'.
 */
#ifndef KVMCTL_INIT_SYS_H
#define KVMCTL_INIT_SYS_H

#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/types.h>

typedef unsigned long size_t;
typedef long ssize_t;

#define NULL ((void *)0)

static inline long sys6(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

/* SYS(read, fd, buffer, size): a call by its name, with none to five arguments. */
#define SYS_PICK(_1, _2, _3, _4, _5, _6, NAME, ...) NAME
#define SYS0(n) sys6(__NR_##n, 0, 0, 0, 0, 0, 0)
#define SYS1(n, a) sys6(__NR_##n, (long)(a), 0, 0, 0, 0, 0)
#define SYS2(n, a, b) sys6(__NR_##n, (long)(a), (long)(b), 0, 0, 0, 0)
#define SYS3(n, a, b, c) sys6(__NR_##n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define SYS4(n, a, b, c, d) sys6(__NR_##n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define SYS5(n, a, b, c, d, e) sys6(__NR_##n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define SYS(...) SYS_PICK(__VA_ARGS__, SYS5, SYS4, SYS3, SYS2, SYS1, SYS0)(__VA_ARGS__)

/* Text and memory. The compiler itself asks for the first three. */
void *memcpy(void *to, const void *from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *at, int byte, size_t size);
size_t text_length(const char *text);
int is_equal(const char *one, const char *other);
int begins_with(const char *text, const char *prefix);
/* The number that `*text` begins with; `*text` is moved behind it and one separator. */
unsigned long take_number(const char **text);
/* `number` in decimal at `to`, which has room for 21 bytes; returns the end. */
char *put_number(char *to, unsigned long number);
/* `text` at `to`; returns the end, where there is a zero byte. */
char *put_text(char *to, const char *text);

/* The whole of `size` bytes to `fd`, waiting where need be; 0 or a negative errno. */
long write_all(int fd, const void *data, size_t size);

/* An end with a reason: told to the host where it can be, else on the console. Powers off. */
__attribute__((noreturn)) void fail(const char *doing, const char *what, long error);
__attribute__((noreturn)) void power_off(void);

#endif
