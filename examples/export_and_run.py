"""Export a checkpoint and run it, in ten lines.

python export_and_run.py [CHECKPOINT] [OUT]
"""

import sys
import tempfile
from pathlib import Path

import skipstone

checkpoint = sys.argv[1] if len(sys.argv) > 1 else "pebble"
output = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp()) / "bundle"
skipstone.export(checkpoint, output, precision="int4")
model = skipstone.load(output)
result = model.generate("def fibonacci(n):", max_new_tokens=48)
print(result.text)
print(f"{result.stats.decode_tokens_per_s:.0f} tokens/s, ended by {result.finish_reason}", file=sys.stderr)
