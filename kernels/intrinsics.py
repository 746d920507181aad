"""What Numba cannot say: typed pointers into the arena, fused multiply-add, conversions, atomics.

Each intrinsic emits LLVM IR without calls to a C library, so kernels compile for processors other than the host's.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from edgerev.kernels.fused import declare, multiply_add
from edgerev.kernels.jit import TARGET, jit

f32, f64 = ir.FloatType(), ir.DoubleType()
i8, i16, i32, i64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
intp = ir.IntType(TARGET.bits)

F32P = types.CPointer(types.float32)
F64P = types.CPointer(types.float64)
I16P = types.CPointer(types.int16)
I32P = types.CPointer(types.int32)
I64P = types.CPointer(types.int64)
U8P = types.CPointer(types.uint8)

_VOID = ir.VoidType()


def sizes(builder, arguments):
    """Return the arguments of an intrinsic with those of 64 bits as wide as a pointer.

    Numba's `intp` is the host's, and loops over counters of 64 bits would be slow on a 32-bit processor.
    """
    return [builder.trunc(value, intp) if value.type == i64 and intp != i64 else value for value in arguments]


def _pointer_at(pointer_type, element):
    """Make an intrinsic ``at(arena, byte_offset)`` that returns a typed pointer into the arena."""

    @intrinsic
    def at(typing_context, arena, offset):
        def generate(context, builder, signature, arguments):
            return builder.bitcast(builder.gep(arguments[0], [arguments[1]]), element.as_pointer())

        return pointer_type(U8P, types.intp), generate

    return at


f32_at = _pointer_at(F32P, f32)
f64_at = _pointer_at(F64P, f64)
i16_at = _pointer_at(I16P, i16)
i32_at = _pointer_at(I32P, i32)
i64_at = _pointer_at(I64P, i64)


@intrinsic
def advance(typing_context, pointer, elements):
    """Return ``pointer + elements``."""

    def generate(context, builder, signature, arguments):
        return builder.gep(arguments[0], [arguments[1]])

    return pointer(pointer, types.intp), generate


@intrinsic
def three_floats(typing_context, a, b, c):
    """Return a pointer to three float32 of the calling function."""

    def generate(context, builder, signature, arguments):
        slots = cgutils.alloca_once(builder, f32, size=3)
        for index, value in enumerate(arguments):
            builder.store(value, builder.gep(slots, [intp(index)]))
        return slots

    return F32P(types.float32, types.float32, types.float32), generate


@intrinsic
def block_of_floats(typing_context):
    """Return a pointer to 128 float32 of the calling function."""

    def generate(context, builder, signature, arguments):
        return builder.gep(cgutils.alloca_once(builder, ir.ArrayType(f32, 128)), [i32(0), i32(0)])

    return F32P(), generate


def _unary(name, result_type, argument_type, result, argument):
    @intrinsic
    def function(typing_context, value):
        def generate(context, builder, signature, arguments):
            return builder.call(declare(builder, name, result, argument), arguments)

        return result_type(argument_type), generate

    return function


sqrt = _unary("llvm.sqrt.f32", types.float32, types.float32, f32, f32)
sqrt64 = _unary("llvm.sqrt.f64", types.float64, types.float64, f64, f64)
absolute = _unary("llvm.fabs.f32", types.float32, types.float32, f32, f32)
to_int32 = _unary("llvm.fptosi.sat.i32.f32", types.int32, types.float32, i32, f32)  # saturates; NaN gives 0


@intrinsic
def to_int32_inside(typing_context, value):
    """Return a float32 that is known to be within the range of int32 as an int32; one instruction everywhere."""

    def generate(context, builder, signature, arguments):
        return builder.fptosi(arguments[0], i32)

    return types.int32(types.float32), generate


@intrinsic
def fma(typing_context, a, b, c):
    """Return ``a * b + c`` rounded once, in float32."""

    def generate(context, builder, signature, arguments):
        return multiply_add(builder, *arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


@intrinsic
def copysign(typing_context, magnitude, sign):
    """Return `magnitude` with the sign of `sign`, in float32."""

    def generate(context, builder, signature, arguments):
        return builder.call(declare(builder, "llvm.copysign.f32", f32, f32, f32), arguments)

    return types.float32(types.float32, types.float32), generate


@intrinsic
def as_float(typing_context, bits):
    """Return the float32 with these bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], f32)

    return types.float32(types.int32), generate


# -- atomics (the barrier) ------------------------------------------------------------------------------------


@intrinsic
def atomic_load(typing_context, pointer, index):
    """Return ``pointer[index]``; acquires."""

    def generate(context, builder, signature, arguments):
        return builder.load_atomic(builder.gep(arguments[0], [arguments[1]]), "acquire", 4)

    return types.int32(I32P, types.intp), generate


@intrinsic
def atomic_store(typing_context, pointer, index, value):
    """Write ``pointer[index]``; releases."""

    def generate(context, builder, signature, arguments):
        builder.store_atomic(arguments[2], builder.gep(arguments[0], [arguments[1]]), "release", 4)
        return context.get_dummy_value()

    return types.void(I32P, types.intp, types.int32), generate


@intrinsic
def pause(typing_context):
    """Tell the processor that this is a spinning loop."""

    def generate(context, builder, signature, arguments):
        if TARGET.architecture == "x86_64":
            builder.call(declare(builder, "llvm.x86.sse2.pause", _VOID), [])
        else:
            hint = "llvm.aarch64.hint" if TARGET.architecture == "aarch64" else "llvm.arm.hint"
            builder.call(declare(builder, hint, _VOID, i32), [i32(1)])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def call_address(typing_context, pointer, index):
    """Call the function whose address lies at ``pointer[index]``, if it is not null: no symbol to resolve."""

    def generate(context, builder, signature, arguments):
        slot = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), intp.as_pointer())
        address = builder.load(slot)
        with builder.if_then(builder.icmp_unsigned("!=", address, intp(0))):
            builder.call(builder.inttoptr(address, ir.FunctionType(i32, []).as_pointer()), [])
        return context.get_dummy_value()

    return types.void(I32P, types.intp), generate


# -- floating-point environment -------------------------------------------------------------------------------


@intrinsic
def enter_float_environment(typing_context):
    """Round to nearest and keep denormals; return what was set before."""

    def generate(context, builder, signature, arguments):
        if TARGET.architecture == "x86_64":
            old, new = cgutils.alloca_once(builder, i32), cgutils.alloca_once(builder, i32)
            pointer = i8.as_pointer()
            builder.call(declare(builder, "llvm.x86.sse.stmxcsr", _VOID, pointer), [builder.bitcast(old, pointer)])
            builder.store(i32(0x1F80), new)
            builder.call(declare(builder, "llvm.x86.sse.ldmxcsr", _VOID, pointer), [builder.bitcast(new, pointer)])
            return builder.zext(builder.load(old), i64)
        if TARGET.architecture == "aarch64":
            previous = builder.call(declare(builder, "llvm.aarch64.get.fpcr", i64), [])
            builder.call(declare(builder, "llvm.aarch64.set.fpcr", _VOID, i64), [i64(0)])
            return previous
        previous = builder.call(declare(builder, "llvm.arm.get.fpscr", i32), [])
        builder.call(declare(builder, "llvm.arm.set.fpscr", _VOID, i32), [i32(0)])
        return builder.zext(previous, i64)

    return types.int64(), generate


@intrinsic
def leave_float_environment(typing_context, previous):
    """Set again what `enter_float_environment` returned."""

    def generate(context, builder, signature, arguments):
        if TARGET.architecture == "x86_64":
            slot = cgutils.alloca_once(builder, i32)
            builder.store(builder.trunc(arguments[0], i32), slot)
            pointer = i8.as_pointer()
            builder.call(declare(builder, "llvm.x86.sse.ldmxcsr", _VOID, pointer), [builder.bitcast(slot, pointer)])
        elif TARGET.architecture == "aarch64":
            builder.call(declare(builder, "llvm.aarch64.set.fpcr", _VOID, i64), arguments)
        else:
            builder.call(declare(builder, "llvm.arm.set.fpscr", _VOID, i32), [builder.trunc(arguments[0], i32)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@jit
def outside(x, limit):
    """Return whether x is not within +-limit, limit itself excluded; NaN is outside."""
    return not (absolute(x) < limit)


@jit
def round_half_even(x):
    """Round to the nearest whole number, ties to even, as float32; beyond 2**23 every float32 is whole already."""
    magic = copysign(np.float32(8388608.0), x)
    return (x + magic) - magic if absolute(x) < np.float32(8388608.0) else x
