"""Memory, atomics and waiting for kernels that work on addresses. Words are aligned int64.

Orderings are those of LLVM: acquire loads, release stores, sequentially consistent read-modify-write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from gguflike.kernels.engine.args import WORD_BYTES
from gguflike.kernels.engine.jit import intrinsic, types

_WORD = ir.IntType(64)
_I32 = ir.IntType(32)
_ORDERED = "seq_cst"
_i64 = types.int64


def _pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, _WORD.as_pointer())


@intrinsic
def load_word(typing_context: Any, address: Any) -> Any:
    """Plain load."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_pointer(builder, args[0]))

    return _i64(_i64), build


@intrinsic
def store_word(typing_context: Any, address: Any, value: Any) -> Any:
    """Plain store."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], _pointer(builder, args[0]))
        return context.get_dummy_value()

    return types.void(_i64, _i64), build


@intrinsic
def load_args(typing_context: Any, struct: Any, args: Any) -> Any:
    """Plain loads of all words of ``struct`` (an ``Args``, see args.py) at the address ``args``: a named tuple."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        words = [
            builder.load(_pointer(builder, builder.add(arguments[1], ir.Constant(_WORD, WORD_BYTES * index))))
            for index in range(struct.count)
        ]
        return context.make_tuple(builder, struct, words)

    return struct(struct, _i64), build


@intrinsic
def load_acquire(typing_context: Any, address: Any) -> Any:
    """Load that sees what was written before the store that it reads from."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_pointer(builder, args[0]), "acquire", 8)

    return _i64(_i64), build


@intrinsic
def store_release(typing_context: Any, address: Any, value: Any) -> Any:
    """Store after all that was written before."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], _pointer(builder, args[0]), "release", 8)
        return context.get_dummy_value()

    return types.void(_i64, _i64), build


def _read_modify_write(operation: str) -> Callable[..., Any]:
    """Return an intrinsic (address, value) that replaces a word and returns the one before."""

    @intrinsic
    def kernel(typing_context: Any, address: Any, value: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.atomic_rmw(operation, _pointer(builder, args[0]), args[1], _ORDERED)

        return _i64(_i64, _i64), build

    return kernel  # type: ignore[no-any-return]


fetch_add = _read_modify_write("add")
exchange = _read_modify_write("xchg")


@intrinsic
def compare_swap(typing_context: Any, address: Any, old: Any, new: Any) -> Any:
    """Store ``new`` if the word is ``old``; returns whether it was."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        result = builder.cmpxchg(_pointer(builder, args[0]), args[1], args[2], _ORDERED, _ORDERED)
        return builder.extract_value(result, 1)

    return types.boolean(_i64, _i64, _i64), build


@intrinsic
def call_op(typing_context: Any, function: Any, args: Any, state: Any, start: Any, stop: Any) -> Any:
    """Call the op whose machine code stands at the address ``function``."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_WORD] * 4)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(_i64, _i64, _i64, _i64, _i64), build


@intrinsic
def call_c(typing_context: Any, function: Any, argument: Any) -> Any:
    """Call the C function at the address ``function``, which takes one word (or none, and ignores it): its int."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_I32, [_WORD])
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [arguments[1]])

    return types.int32(_i64, _i64), build


@intrinsic
def pause(typing_context: Any) -> Any:
    """Tell the core that this is a spin loop."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        triple = context.codegen().magic_tuple()[0]
        if triple.startswith(("x86_64", "i686")):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), kind), [])
        elif triple.startswith(("aarch64", "arm64")):
            kind = ir.FunctionType(ir.VoidType(), [_I32])
            builder.call(builder.module.declare_intrinsic("llvm.aarch64.hint", (), kind), [_I32(1)])
        return context.get_dummy_value()

    return types.void(), build
