"""Feeds mutated sidecars to a program built with sanitizers: `feed_mutations.py WRITE_SIDECARS READ_SIDECARS [COUNT]`.

COUNT files of each encoder; the standard library is all it needs. Fails where the program dies, and prints which file
it died on.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.gguf_mutations import mutations


def main() -> int:
    write_sidecars, read_sidecars = sys.argv[1:3]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 800
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([write_sidecars, folder], check=True)
        names = {}
        for valid in sorted(Path(folder).iterdir()):
            data = valid.read_bytes()
            for index, mutation in enumerate(mutations(data, seed=47, count=count)):
                names[f"{valid.stem}-{index}"] = mutation.name
                valid.with_name(f"{valid.stem}-{index}").write_bytes(mutation.data)
        run = subprocess.run([read_sidecars, folder], stdout=subprocess.PIPE, text=True, check=False)
    lines = run.stdout.splitlines()
    if run.returncode:
        last = lines[-1].split("\t")[0] if lines else "nothing"
        print(f"status {run.returncode} on {Path(last).name} ({names.get(Path(last).name)})", file=sys.stderr)
        return 1
    outcomes = Counter(line.split("\t")[1] for line in lines)
    print(f"{len(lines)} files: {dict(outcomes)}")
    # a mutator that breaks nothing, or a reader that refuses everything, would prove nothing
    return 0 if len(lines) == 3 * count + 3 and outcomes["error"] > len(lines) // 2 and outcomes["load"] > 20 else 1


if __name__ == "__main__":
    sys.exit(main())
