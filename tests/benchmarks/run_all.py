"""Runs every benchmark, one after another, and prints one Markdown table of what they found.

Run it on a machine that does nothing else: `python tests/benchmarks/run_all.py`. Each script's header says what it measures.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import RECORDS, machine

HERE = Path(__file__).resolve().parent

with tempfile.TemporaryDirectory() as folder:
    records = Path(folder, "records.jsonl")
    records.touch()
    before = machine()
    failed: list[str] = []
    for script in sorted(HERE.glob("bench_*.py")):
        print(f"\n{script.name}", flush=True)
        done = subprocess.run([sys.executable, script], env={**os.environ, RECORDS: str(records)})
        if done.returncode:
            failed.append(script.name)
    rows = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]

print(f"\nbefore: {before}\nafter: {machine()}\n")
print("| measure | target | | median | p10..p90 | against |\n| --- | --- | --- | --- | --- | --- |")
for name, aim, verdict, found, spread, versus in rows:
    print(f"| {name.strip()} | {aim} | {verdict} | {found} | {spread} | {versus} |")
if failed:
    sys.exit(f"failed: {', '.join(failed)}")
