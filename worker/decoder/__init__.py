"""Decoding on threads, and in a sandbox where a scan may do harm.

decoder: chooses between threads and the sandbox, with a time limit for each scan.
thread_pool: runs decoding and inference, one thread for each core.
sandbox: decodes in child processes under limits.
sandbox_child: the program of such a child process.
"""
