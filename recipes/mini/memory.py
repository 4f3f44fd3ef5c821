"""Write the memory of a saved model anew, without training: known proteins and molecules, and what is known of them.

python recipes/mini/memory.py --shared ../shared --model src/bioverse_sc/bundled/mini
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from data import Data
from recipe import Recipe

from bioverse_sc.models import write_checksums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the reference data")
    parser.add_argument("--model", type=Path, required=True, help="folder of the saved model")
    a = parser.parse_args()
    if not (a.model / "memory").is_dir():
        parser.error(f"{a.model} is no saved model with a memory; expected the folder {a.model / 'memory'}.")
    with tempfile.TemporaryDirectory() as work:
        for mod, memory in Data(a.shared, Path(work), Recipe()).memory.items():
            path = a.model / "memory" / f"{mod}.tsv.xz"
            memory.write(path)
            print(json.dumps({"mod": mod, "known": len(memory), "megabytes": round(path.stat().st_size / 1e6, 2)}))
    write_checksums(a.model)


if __name__ == "__main__":
    main()
