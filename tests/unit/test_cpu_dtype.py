"""The type of number for the CPUs at hand."""

import pytest

from app.cpu_dtype import _flags, dtype_for

X86 = """processor\t: 0
model name\t: AMD EPYC
flags\t\t: fpu sse avx2 {}
"""


@pytest.mark.parametrize(
    ("cpuinfo", "dtype"),
    [
        (X86.format("fma"), "float32"),
        (X86.format("avx512f avx512_bf16"), "bfloat16"),
        (X86.format("amx_bf16 amx_tile"), "bfloat16"),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", "bfloat16"),
        ("processor\t: 0\nFeatures\t: fp asimd\n", "float32"),
        ("", "float32"),
    ],
)
def test_bfloat16_is_for_cpus_that_have_instructions_for_it(cpuinfo: str, dtype: str) -> None:
    assert dtype_for(_flags(cpuinfo)) == dtype
