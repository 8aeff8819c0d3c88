# What stands for a Linux kernel in a fork's QEMU: 32-bit code that finds the kernel behind the initial RAM disk.
#
# A boot loader enters it as it would the kernel (Linux's Documentation/arch/x86/boot.rst, "32-bit boot protocol"): flat
# segments, interrupts off, at code32_start, which is KERNEL, with %esi at the boot parameters. It moves itself out of
# the way, puts the kernel where it stood, tells it of the RAM disk without what is behind it, and enters it.
# __init__.py writes the three numbers at its end; assembled by scripts/build-renew.

        .set    KERNEL, 0x100000                # where every bzImage is loaded
        .set    ASIDE, 0x7c00                   # where a boot sector would be, and nobody else is
        .set    RAMDISK_IMAGE, 0x218            # in the boot parameters: where the RAM disk is,
        .set    RAMDISK_SIZE, 0x21c             # how long,
        .set    SETUP_DATA, 0x250               # and a list that QEMU 7.2.0 kept where the kernel belongs

        .code32
        .text
start:  cld
        mov     %esi, %edx
        mov     $KERNEL + aside - start, %esi
        mov     $ASIDE, %edi
        mov     $end - aside, %ecx
        rep movsb
        mov     $ASIDE, %eax
        jmp     *%eax

aside:  mov     RAMDISK_IMAGE(%edx), %esi
        add     ASIDE + place - aside, %esi
        mov     $KERNEL, %edi
        mov     ASIDE + words - aside, %ecx
        rep movsl
        xor     %eax, %eax
        mov     %eax, SETUP_DATA(%edx)
        mov     %eax, SETUP_DATA + 4(%edx)
        mov     ASIDE + size - aside, %ecx
        mov     %ecx, RAMDISK_SIZE(%edx)
        test    %ecx, %ecx
        jnz     enter
        mov     %ecx, RAMDISK_IMAGE(%edx)
enter:  mov     %edx, %esi
        xor     %ebx, %ebx
        xor     %ebp, %ebp
        xor     %edi, %edi
        mov     $KERNEL, %eax
        jmp     *%eax

        .balign 4
place:  .long   0                               # bytes from the RAM disk's beginning to the kernel
words:  .long   0                               # the kernel's length, in words of four bytes
size:   .long   0                               # bytes of the RAM disk proper
end:
