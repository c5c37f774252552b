"""The C++ kernels."""
