"""What an initramfs is made of: kernel modules in their order, and the archive itself. Pure but for reading files."""
