"""Which products of small integers a 64-bit Arm CPU has instructions for.

LLVM knows them by the CPU's name; the list of features that it gives for the host, and that numba compiles with, leaves
them out. So LLVM is asked to compile a sum of products, and its assembly is read.
"""

from __future__ import annotations

import llvmlite.binding as llvm

# The sum of products of 16 bytes each, the first of which are {extended}.
_SUM_OF_PRODUCTS = """
target triple = "{triple}"
declare i32 @llvm.vector.reduce.add.v16i32(<16 x i32>)
define i32 @sum_of_products(<16 x i8> %a, <16 x i8> %b) {{
  %x = {extended} <16 x i8> %a to <16 x i32>
  %y = sext <16 x i8> %b to <16 x i32>
  %product = mul <16 x i32> %x, %y
  %sum = call i32 @llvm.vector.reduce.add.v16i32(<16 x i32> %product)
  ret i32 %sum
}}
"""


def dot_products(triple: str, cpu: str, features: str) -> frozenset[str]:
    """Those of "dotprod" (sdot) and "i8mm" (usdot) that LLVM uses for a CPU and its features.

    LLVM's AArch64 backend must have been initialized. Before LLVM 22 it does not find usdot by itself.
    """
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features)

    def uses(instruction: str, extended: str) -> bool:
        module = llvm.parse_assembly(_SUM_OF_PRODUCTS.format(triple=triple, extended=extended))
        return f"\t{instruction}\t" in machine.emit_assembly(module)

    found = {"dotprod": uses("sdot", "sext"), "i8mm": uses("usdot", "zext")}
    return frozenset(name for name, has_it in found.items() if has_it)
