"""Fail the build when a block loop of cpu_blocks.cpp was not vectorised at the full width of its instruction set.

    python check_vectorised.py CSRC REMARKS BYTES

REMARKS is what GCC wrote for -fopt-info-vec-optimized, BYTES the vector width. A loop that must be vectorised carries
`// vectorised: N` on its line, N the number of instances (dtypes); `N per dual` counts them for each nonlinearity.
"""

import re
import sys
from collections import Counter
from pathlib import Path

source = Path(sys.argv[1])
remarks = Path(sys.argv[2]).read_text()
width = int(sys.argv[3])

duals = len(re.findall(r"^\s*X\(", (source / "duals.h").read_text(), flags=re.M))
pattern = rf"cpu_blocks\.cpp:(\d+):\d+: optimized: +loop vectorized using {width} byte"
seen = Counter(int(line) for line in re.findall(pattern, remarks))
loops, failures = 0, []
for number, text in enumerate((source / "cpu_blocks.cpp").read_text().splitlines(), start=1):
    mark = re.search(r"// vectorised: (\d+)( per dual)?", text)
    if mark is None or "for (" not in text:
        continue
    loops += 1
    wanted = int(mark[1]) * (duals if mark[2] else 1)
    if seen[number] < wanted:
        failures.append(f"cpu_blocks.cpp:{number}: {seen[number]} of {wanted} instances vectorised at {width} bytes")

if not loops or not duals:
    failures.append("no marked loop or no dual found: the check itself is broken")
if failures:
    sys.exit("block loops that are not vectorised:\n  " + "\n  ".join(failures))
print(f"{loops} block loops vectorised at {width} bytes ({duals} duals)")
