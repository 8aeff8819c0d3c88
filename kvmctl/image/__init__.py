"""I/O on images at rest: made and converted by qemu-img, and the locks that QEMU takes on them."""
