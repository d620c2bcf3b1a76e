"""Every tolerance of a numerical comparison, in one place, each with its reason.

``NMSE`` is the mean squared error divided by the mean square of the expected values.
"""

from __future__ import annotations

from typing import Final

# float64 PyTorch against float64 NumPy, same formula: only the order of summation differs, over at most a few hundred
# terms of order 1, with 1e-16 each
F64_MAX_ABS: Final = 1e-11

# the same in float32, 6e-8 each: 3e-6 at most over thousands of drawn encoders, with room for other summation orders
F32_MAX_ABS: Final = 1e-4
F32_NMSE: Final = 1e-10

# the framework's own vectors, computed in float32 by another implementation; values up to about 4
CA_TESTCASE_MAX_ABS: Final = 1e-5

# logits of a tiny model (spread by about 3) in float32 against float64, through 6 to 8 blocks
F32_LOGITS_MAX_ABS: Final = 1e-4

# a base in bfloat16 has 8 bits of mantissa: one rounding of a value of magnitude up to 8 is off by up to 2^-6
BF16_ROUNDING_MAX_ABS: Final = 2.0**-6
