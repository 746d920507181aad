"""The one decorator of all kernels, and the target that this process compiles for.

Numba compiles for a processor other than its own through `numba.core.target_extension`: a target of our own with a
code generator that takes triple, processor and features. One process serves one target, named by the environment
variable ``EDGEREV_KERNEL_TARGET``, so that kernels stay flat modules. The host is treated like any other target: what
runs while developing and what is shipped are the same object code.
"""

from __future__ import annotations

import itertools
import os
import re
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils, codegen, cpu, dispatcher, typing
from numba.core import target_extension as extension
from numba.core.decorators import jit as numba_jit
from numba.core.descriptors import TargetDescriptor

from edgerev.kernels.layout import INTERFACE, INTERFACE_SYMBOL
from edgerev.kernels.targets import VARIABLE, host_target, named

TARGET = named(os.environ[VARIABLE]) if VARIABLE in os.environ else host_target()
TARGET_NAME = "edgerev"

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()


class _Library(codegen.AOTCodeLibrary):
    """The code of one function, simplified but not linked.

    Numba links into each library all that it calls and optimises that, so a helper is optimised again for every
    function above it. `emit` links each function once and optimises the whole once.
    """

    def finalize(self):
        self._raise_if_finalized()
        self._finalized = True

    def linked(self):
        """Return one module with this function and all that it calls, directly or not."""
        module, seen, waiting = self._final_module, {self}, list(self._linking_libraries)
        while waiting:
            library = waiting.pop()
            if library not in seen:
                seen.add(library)
                waiting.extend(library._linking_libraries)
                module.link_in(library._final_module)
        return module


class _Codegen(codegen.AOTCPUCodegen):
    """Numba's ahead-of-time code generator, for `TARGET` instead of the host."""

    _library_class = _Library

    def _init(self, llvm_module):
        options = {"opt": 3}
        self._tm_features = TARGET.features
        self._customize_tm_options(options)
        machine = llvm.Target.from_triple(TARGET.triple)
        self._tm = machine.create_target_machine(**options)
        self._target_data = self._tm.target_data
        self._data_layout = str(self._target_data)
        self._engine = None
        self._loopvect = True
        self._opt_level = 3

    def _create_empty_module(self, name):
        module = ir.Module(cgutils.normalize_ir_text(name))
        module.triple = TARGET.triple
        if self._data_layout:  # the base class makes one module before `_init`
            module.data_layout = self._data_layout
        return module


class _Context(cpu.CPUContext):
    def init(self):
        self.is32bit = False  # Numba would call functions of its own to divide; `_narrowed` does away with them
        self._internal_codegen = _Codegen("edgerev.aot", TARGET.cpu)

    def get_executable(self, library, fndesc, env):
        # Nothing is run in this process; Numba wants something callable and unique to remember.
        return [].append


class _Descriptor(TargetDescriptor):
    options = cpu.CPUTargetOptions

    def __init__(self):
        super().__init__(TARGET_NAME)
        self._typing = typing.Context()
        self._context = None

    @property
    def typing_context(self):
        return self._typing

    @property
    def target_context(self):
        if self._context is None:
            self._context = _Context(self._typing, TARGET_NAME)
        return self._context


class _Target(extension.CPU):
    pass


class _Dispatcher(dispatcher.Dispatcher):
    targetdescr = _Descriptor()

    def get_call_template(self, args, kws):
        # A constant argument is a type of its own to Numba; without this a kernel is compiled for each of them.
        return super().get_call_template([types.unliteral(kind) for kind in args], kws)


def _decorate(*args, **options):
    return numba_jit(*args, **{"_target": TARGET_NAME, "nopython": True, **options})


extension.target_registry[TARGET_NAME] = _Target
extension.dispatcher_registry[_Target] = _Dispatcher
extension.jit_registry[_Target] = _decorate


def jit(function):
    """Compile `function` as a kernel: no allocation, no exceptions, no bounds checks, IEEE arithmetic as written."""
    return _decorate(
        nogil=True, error_model="numpy", boundscheck=False, fastmath=False,
        no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False,
    )(function)


_kernels: list[_Dispatcher] = []


def kernel(function):
    """`jit` for a function that is worth a call: it stays one piece of code instead of a copy wherever it is used."""
    compiled = jit(function)
    _kernels.append(compiled)
    return compiled


def emit(function, signature, symbol: str) -> bytes:
    """Compile `function` for `TARGET` and return a relocatable object that defines the C function `symbol`.

    Numba's own convention (status returned, pointers to result and exception first) stays inside the object.
    """
    from numba.core.compiler_lock import global_compiler_lock

    with extension.target_override(TARGET_NAME), global_compiler_lock:
        function.compile(signature)
        result: Any = function.overloads[signature.args]
        module = result.library.linked()
        module.link_in(llvm.parse_assembly(_c_function(symbol, _symbol(result), signature)))
        if TARGET.bits == 32:
            module = llvm.parse_assembly(_narrowed(str(module)))
        for value in (*module.functions, *module.global_variables):
            if not value.is_declaration and value.name not in (symbol, INTERFACE_SYMBOL):
                value.linkage = "internal"  # so LLVM sees every call there is, and drops what nobody calls
        for value in module.functions:
            if not value.is_declaration:
                value.add_function_attribute("nounwind")  # no tables for exceptions, which refer to a library on ARM
        for separate in _kernels:
            for overload in separate.overloads.values():
                value = module.get_function(_symbol(overload))
                value.add_function_attribute("noinline")
                value.name = f"edgerev.{separate.py_func.__name__}"  # what a profiler shows
        return _optimised_object(result.library.codegen._tm, module)


def _symbol(result: Any) -> str:
    return result.fndesc.llvm_func_name


def _optimised_object(machine, module) -> bytes:
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = True
    # Most loops here are over a few dozen channels: several vectors at a time made the code a third larger, not faster.
    options.loop_interleaving = False
    options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return machine.emit_object(module)


# What is a library call for 64 bits on a 32-bit processor: division, and conversion from and to floating point.
_WIDE = re.compile(r"^.* = (?:[su](?:div|rem)(?: exact)? i64 .*|[su]itofp(?: nneg)? i64 .*|fpto[su]i .* to i64)$", re.M)
_WIDE_DIVISION = re.compile(r"^  (\S+) = (sdiv|srem|udiv|urem)(?: exact)? i64 (\S+), (\S+)$", re.MULTILINE)
_WIDE_CONVERSION = re.compile(r"^  (\S+) = (sitofp|uitofp)(?: nneg)? i64 (\S+) to (float|double)$", re.MULTILINE)


def _narrowed(assembly: str) -> str:
    """Return a module whose divisions and conversions of 64-bit integers are of 32 bits.

    Kernels divide and convert nothing but sizes, indices and counts of what lies in memory, which fit a pointer.
    """
    count = itertools.count()

    def division(match: re.Match[str]) -> str:
        (result, operator, a, b), name = match.groups(), f"%narrow.{next(count)}"
        extend = "sext" if operator.startswith("s") else "zext"
        return (
            f"  {name}.a = trunc i64 {a} to i32\n  {name}.b = trunc i64 {b} to i32\n"
            f"  {name}.c = {operator} i32 {name}.a, {name}.b\n  {result} = {extend} i32 {name}.c to i64"
        )

    def conversion(match: re.Match[str]) -> str:
        (result, operator, value, kind), name = match.groups(), f"%narrow.{next(count)}"
        return f"  {name} = trunc i64 {value} to i32\n  {result} = {operator} i32 {name} to {kind}"

    narrowed = _WIDE_CONVERSION.sub(conversion, _WIDE_DIVISION.sub(division, assembly))
    left = _WIDE.search(narrowed)
    if left:
        raise NotImplementedError(f"{TARGET.name} cannot do this without a library: {left[0].strip()}")
    return narrowed


def _c_function(symbol: str, inner: str, signature) -> str:
    """Return the IR of a C function that calls `inner`, which has Numba's convention and returns an int32.

    Whole numbers are as wide as a pointer in C, but always of 64 bits inside.
    """
    pointers = [isinstance(kind, types.CPointer) for kind in signature.args]
    inside = ", ".join(["ptr", "ptr", *("ptr" if pointer else "i64" for pointer in pointers)])
    outside = ", ".join(f"{'ptr' if pointer else f'i{TARGET.bits}'} %a{i}" for i, pointer in enumerate(pointers))
    widened, passed = "", "ptr %result, ptr %exception"
    for i, pointer in enumerate(pointers):
        name = f"%a{i}"
        if not pointer and TARGET.bits < 64:
            widened += f"  %w{i} = sext i{TARGET.bits} {name} to i64\n"
            name = f"%w{i}"
        passed += f", {'ptr' if pointer else 'i64'} {name}"
    return f"""
target triple = "{TARGET.triple}"
declare i32 @"{inner}"({inside})
define i32 @{symbol}({outside}) {{
  %result = alloca i32
  %exception = alloca ptr
{widened}  %status = call i32 @"{inner}"({passed})
  %value = load i32, ptr %result
  ret i32 %value
}}
define i32 @{INTERFACE_SYMBOL}() {{
  ret i32 {INTERFACE}
}}
"""
