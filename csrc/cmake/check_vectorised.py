"""Fail the build, or warn, when a marked loop was not vectorised at the full width of its instruction set.

    python check_vectorised.py SOURCE REMARKS BYTES {error,warning}

REMARKS is what GCC wrote for -fopt-info-vec-optimized, BYTES the vector width. A loop that must be vectorised carries
`// vectorised: N` on its line, N the number of instances (dtypes); `M + N per dual` counts N for each nonlinearity,
`per cheap dual` for each that fits into the pass of a window.
"""

import re
import sys
from collections import Counter
from pathlib import Path

source = Path(sys.argv[1])
remarks = Path(sys.argv[2]).read_text()
width = int(sys.argv[3])
severity = sys.argv[4]

headers = [path.read_text() for path in (source.parents[1] / "math/duals").glob("*.h")]
duals = {
    "": 1,
    " per dual": sum(len(re.findall(r'\bX\(\w+, "', text)) for text in headers),
    " per cheap dual": sum(text.count("cheap = true") for text in headers),
}
pattern = rf"{re.escape(source.name)}:(\d+):\d+: optimized: +loop vectorized using {width} byte"
seen = Counter(int(line) for line in re.findall(pattern, remarks))
loops, failures = 0, []
for number, text in enumerate(source.read_text().splitlines(), start=1):
    mark = re.search(r"// vectorised: (?:(\d+) \+ )?(\d+)( per (?:cheap )?dual)?", text)
    if mark is None or "for (" not in text:
        continue
    loops += 1
    wanted = int(mark[1] or 0) + int(mark[2]) * duals[mark[3] or ""]
    if seen[number] < wanted:
        failures.append(f"{source.name}:{number}: {seen[number]} of {wanted} instances vectorised at {width} bytes")

if not loops or not all(duals.values()):
    failures.append("no marked loop or no dual found: the check itself is broken")
if failures:
    text = "loops that are not vectorised:\n  " + "\n  ".join(failures)
    if severity == "error":
        sys.exit(text)
    print(f"warning: {text}", file=sys.stderr)
else:
    print(f"{loops} loops of {source.name} vectorised at {width} bytes ({duals[' per dual']} duals)")
