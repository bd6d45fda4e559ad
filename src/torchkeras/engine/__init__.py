"""The training core. Read step, epoch, loop and callback, in this order; it never draws and never prints."""
