"""Multiply and add with one rounding, on processors that can and on those that cannot.

Without the instruction, the product of two float32 is exact in float64, and adding to it there rounds once; rounding
that to float32 is a second rounding, which matters only where the first gave a tie. `multiply_add` avoids ties for any
operands. `emit_chains` runs long chains without that care, notices ties and numbers out of the normal range on the way,
and then, rarely, does all again.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils

from edgerev.kernels.jit import TARGET

_i32, _i64, _f32, _f64 = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()
_LOST = 29  # bits of a float64's significand that a float32 has not
_SMALLEST, _TOO_LARGE = 0x38100000, 0x47F00000  # upper halves of 2**-126 and 2**128 in float64


def declare(builder, name, result, *arguments):
    """Declare an LLVM intrinsic in the module being built."""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def multiply_add(builder, a, b, c):
    """Return ``a * b + c`` rounded once: of float32, or of vectors of them."""
    if not TARGET.fused:
        return _rounded_to_odd(builder, a, b, c)
    kind = a.type
    name = f"llvm.fma.v{kind.count}f32" if isinstance(kind, ir.VectorType) else "llvm.fma.f32"
    return builder.call(declare(builder, name, kind, kind, kind, kind), [a, b, c])


def _like(kind, element):
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def _constant(kind, value):
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def _rounded_to_odd(builder, a, b, c):
    """Multiply and add in float64, the sum rounded to odd (Boldo and Melquiond 2008, section 3).

    That is: an inexact sum becomes whichever of its two neighbours is odd, so that it never looks like a tie.
    """
    real, whole = _like(a.type, _f64), _like(a.type, _i64)
    a, b, c = (builder.fpext(value, real) for value in (a, b, c))
    product = builder.fmul(a, b)
    total = builder.fadd(product, c)
    # Knuth's TwoSum; NaN where the sum is not finite, which is then not "ordered and not equal"
    part = builder.fsub(total, product)
    error = builder.fadd(builder.fsub(product, builder.fsub(total, part)), builder.fsub(c, part))
    inexact = builder.fcmp_ordered("!=", error, _constant(real, 0.0))
    bits = builder.bitcast(total, whole)
    differ = builder.ashr(builder.xor(bits, builder.bitcast(error, whole)), _constant(whole, 63))  # -1 if signs do
    odd = builder.or_(builder.add(bits, differ), _constant(whole, 1))
    return builder.fptrunc(builder.bitcast(builder.select(inexact, odd, bits), real), _like(real, _f32))


class _Exact:
    """Arithmetic of chains in float32."""

    def __init__(self, builder) -> None:
        self.builder = builder

    def widen(self, value):
        return value

    def multiply_add(self, a, b, c):
        return multiply_add(self.builder, a, b, c)


class _Called(_Exact):
    """The same as calls of one function, since it is rarely needed and long."""

    def multiply_add(self, a, b, c):
        kind = a.type
        function = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(kind, [kind] * 3), f"edgerev.multiply_add.{kind.count}"
        )
        if function.is_declaration:
            function.linkage = "linkonce_odr"
            function.attributes.add("noinline")
            inner = ir.IRBuilder(function.append_basic_block())
            inner.ret(_rounded_to_odd(inner, *function.args))
        return self.builder.call(function, [a, b, c])


class _Quick:
    """Arithmetic of chains in float64, on values that float32 has, right unless it is in doubt.

    Checks are made on the halves of a float64, lower and upper side by side, so that nothing need be shuffled.
    """

    def __init__(self, builder, count: int) -> None:
        self.builder, self.count = builder, count
        self.real, self.whole, self.halves = (
            ir.VectorType(kind, size) for kind, size in ((_f64, count), (_i64, count), (_i32, 2 * count))
        )
        self.least = cgutils.alloca_once_value(builder, _constant(self.halves, 0xFFFFFFFF))
        self.most = cgutils.alloca_once_value(builder, _constant(self.halves, 0))

    def widen(self, value):
        return self.builder.fpext(value, _like(value.type, _f64))

    def multiply_add(self, a, b, c):
        builder = self.builder
        bits = builder.bitcast(builder.fadd(builder.fmul(a, b), c), self.whole)
        bits = builder.add(bits, _constant(self.whole, 1 << (_LOST - 1)))  # half a unit: a tie now ends in zeros
        checked = builder.and_(builder.bitcast(bits, self.halves), self._both((1 << _LOST) - 1, 0x7FFFFFFF))
        self._keep(self.most, ">", checked)
        # less one, so that zero, which is harmless, becomes the largest
        self._keep(self.least, "<", builder.add(checked, self._both(0, 0xFFFFFFFF)))
        rounded = builder.and_(bits, _constant(self.whole, (1 << 64) - (1 << _LOST)))
        return builder.bitcast(rounded, self.real)

    def _both(self, lower, upper):
        return ir.Constant(self.halves, [lower, upper] * self.count)

    def _keep(self, slot, order, value) -> None:
        kept = self.builder.load(slot)
        self.builder.store(self.builder.select(self.builder.icmp_unsigned(order, value, kept), value, kept), slot)

    def in_doubt(self):
        """Return whether there was a tie, or a number that is not zero and too small or too large for float32."""
        builder = self.builder
        small = builder.icmp_unsigned("<", builder.load(self.least), self._both(1, _SMALLEST - 1))
        large = builder.icmp_unsigned(">=", builder.load(self.most), self._both(1 << _LOST, _TOO_LARGE))
        bits = builder.bitcast(builder.or_(small, large), ir.IntType(2 * self.count))
        return builder.icmp_unsigned("!=", bits, ir.IntType(2 * self.count)(0))


def emit_chains(builder, sums, start, add) -> None:
    """Emit chains of multiply-adds of vectors.

    Parameters
    ----------
    sums : slots of the chains, vectors of float32
    start : emits code that sets all slots to where the chains start
    add : ``add(arithmetic, slots)`` emits code that goes through the chains, in slots of any type: operands are what
        ``arithmetic.widen`` makes of float32, and ``arithmetic.multiply_add`` is what there is to do with them
    """
    start()
    if TARGET.fused:
        add(_Exact(builder), sums)
        return
    kind = sums[0].type.pointee
    quick = _Quick(builder, kind.count)
    wide = [cgutils.alloca_once_value(builder, quick.widen(builder.load(slot))) for slot in sums]
    add(quick, wide)
    for narrow, slot in zip(sums, wide):
        builder.store(builder.fptrunc(builder.load(slot), kind), narrow)
    with builder.if_then(quick.in_doubt(), likely=False):
        start()
        add(_Called(builder), sums)
