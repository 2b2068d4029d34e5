"""How kernels are compiled, kept, scheduled and waited for. Imports nothing else of ``kernels``.

    jit          decorators and settings of the compiler (imports numba, as do the next two)
    internals    the parts of numba that may change, with what is done where they have
    atomics      loads, stores and calls at addresses, for the interpreter and for ops
    native       ops as machine code that is kept and called without numba
    objects      object files mapped into memory without a linker
    relocations  what object files ask of a linker
    store        files of the kernel cache
    workers      processes that compile
    host         the cache folder, and how many threads to use
    threads      Python threads that share the calls of one kernel
    args         argument words of ops, by name
    memory       what the threads of a team share: structures, scratch memory, arrays on pages of their own
    program      programs, which are lists of ops, and teams of threads that run them
    interpreter  how a thread takes part in a pass of a program
    waiting      how idle workers of a team wait

An *op* is a compiled function ``op(args, state, start, stop)`` over items ``start`` to ``stop``: ``args`` and ``state``
are addresses of words. A *pass* runs a program once, over some tokens.

There are two kinds of threads. Encoding and decoding call one kernel at a time, milliseconds long, and share its rows
among plain Python threads (threads.py). A model's pass is a few hundred ops, some of them microseconds long: its team
(program.py) goes from op to op without Python in between. And there are two kinds of kept code: kernels for numpy
arrays in numba's format, which needs numba to be loaded, and ops as object files, which a model runs without it.
"""
