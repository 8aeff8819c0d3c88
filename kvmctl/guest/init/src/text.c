/* Text and memory, by the byte. */
#include "sys.h"

void *memcpy(void *to, const void *from, size_t size)
{
    void *start = to;

    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
    return start;
}

void *memmove(void *to, const void *from, size_t size)
{
    char *last_to = (char *)to + size;
    const char *last_from = (const char *)from + size;

    if ((char *)to <= (const char *)from || (char *)to >= (const char *)from + size)
        return memcpy(to, from, size);
    while (size--)
        *--last_to = *--last_from;
    return to;
}

void *memset(void *at, int byte, size_t size)
{
    void *start = at;

    __asm__ volatile("rep stosb" : "+D"(at), "+c"(size) : "a"(byte) : "memory");
    return start;
}

size_t text_length(const char *text)
{
    const char *end = text;

    while (*end)
        end++;
    return end - text;
}

int is_equal(const char *one, const char *other)
{
    while (*one && *one == *other)
        one++, other++;
    return *one == *other;
}

int begins_with(const char *text, const char *prefix)
{
    while (*prefix && *text == *prefix)
        text++, prefix++;
    return !*prefix;
}

unsigned long take_number(const char **text)
{
    unsigned long number = 0;

    while (**text >= '0' && **text <= '9')
        number = number * 10 + (*(*text)++ - '0');
    if (**text)
        (*text)++;
    return number;
}

char *put_number(char *to, unsigned long number)
{
    char digits[20], *first = digits + sizeof digits;

    do
        *--first = '0' + number % 10;
    while (number /= 10);
    while (first < digits + sizeof digits)
        *to++ = *first++;
    *to = 0;
    return to;
}

char *put_text(char *to, const char *text)
{
    while ((*to = *text))
        to++, text++;
    return to;
}

long write_all(int fd, const void *data, size_t size)
{
    const char *next = data;

    while (size) {
        long done = SYS(write, fd, next, size);

        if (done == -EINTR)
            continue;
        if (done < 0)
            return done;
        next += done;
        size -= done;
    }
    return 0;
}
