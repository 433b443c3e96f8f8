"""Whether a request gets the same bits in any crowd as alone: the real engine and CPU kernels over poisoned memory."""
