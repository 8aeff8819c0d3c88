# A program for x86-64 Linux guests that makes a fork different from its template: it reads from its standard input
#
#     struct timespec now         what the clock is set to
#     struct rand_pool_info seed  fresh bytes, as RNDADDENTROPY takes them: bits, bytes, the bytes
#     char name[]                 the host name to be given, if any
#
# and exits with 0 once all of it is done, else with the number of what failed (ERRORS in __init__.py). It needs nothing
# of the guest: no libraries, no interpreter. A whole ELF file, written out by hand; assembled by scripts/build-renew.

        .set    SYS_read, 0
        .set    SYS_open, 2
        .set    SYS_ioctl, 16
        .set    SYS_exit, 60
        .set    SYS_sethostname, 170
        .set    SYS_clock_settime, 227
        .set    O_WRONLY, 1
        .set    RNDADDENTROPY, 0x40085203       # linux/random.h: _IOW('R', 0x03, int[2])
        .set    RNDRESEEDCRNG, 0x5207           # linux/random.h: _IO('R', 0x07)
        .set    SEED, 64                        # bytes; SEED_BYTES in __init__.py
        .set    NAME, 16 + 8 + SEED             # where the name begins
        .set    SIZE, 4096
        .set    BASE, 0x400000

        .code64
        .text
header: .byte   0x7f, 'E', 'L', 'F', 2, 1, 1, 0 # 64 bits, little endian
        .fill   8, 1, 0
        .word   2, 62                           # ET_EXEC, EM_X86_64
        .long   1
        .quad   BASE + start - header
        .quad   segment - header, 0
        .long   0
        .word   64, 56, 1, 0, 0, 0
segment:.long   1, 7                            # PT_LOAD, readable, writable, executable
        .quad   0, BASE, BASE
        .quad   end - header, end - header + SIZE
        .quad   0x1000

# Everything is read until the end: it comes through a pipe, in as many pieces as the agent likes.
start:  lea     buffer(%rip), %rbx
        xor     %ebp, %ebp                      # bytes so far
more:   xor     %edi, %edi
        lea     (%rbx,%rbp), %rsi
        mov     $SIZE, %edx
        sub     %ebp, %edx
        xor     %eax, %eax                      # SYS_read
        syscall
        test    %rax, %rax
        jle     whole
        add     %eax, %ebp
        cmp     $SIZE, %ebp
        jb      more

whole:  mov     $1, %r12d
        cmp     $NAME, %ebp
        jb      fail

        inc     %r12d                           # 2: the random numbers
        lea     device(%rip), %rdi
        mov     $O_WRONLY, %esi
        mov     $SYS_open, %eax
        syscall
        test    %rax, %rax
        js      fail
        mov     %eax, %r13d
        mov     %r13d, %edi
        mov     $RNDADDENTROPY, %esi
        lea     16(%rbx), %rdx
        mov     $SYS_ioctl, %eax
        syscall
        test    %rax, %rax
        js      fail
        mov     %r13d, %edi
        mov     $RNDRESEEDCRNG, %esi
        xor     %edx, %edx
        mov     $SYS_ioctl, %eax
        syscall
        test    %rax, %rax
        js      fail

        inc     %r12d                           # 3: the clock
        xor     %edi, %edi                      # CLOCK_REALTIME
        mov     %rbx, %rsi
        mov     $SYS_clock_settime, %eax
        syscall
        test    %rax, %rax
        js      fail

        inc     %r12d                           # 4: the name
        mov     %ebp, %esi
        sub     $NAME, %esi
        jz      done
        lea     NAME(%rbx), %rdi
        mov     $SYS_sethostname, %eax
        syscall
        test    %rax, %rax
        js      fail

done:   xor     %r12d, %r12d
fail:   mov     %r12d, %edi
        mov     $SYS_exit, %eax
        syscall

device: .asciz  "/dev/urandom"
        .balign 16
end:
        .set    buffer, end                     # the segment is longer in memory than in the file
