"""Every bench, one after the other, and then the report: `make bench`.

One that fails does not stop the others. Fails if any bar is not held.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCRIPTS = ("run", "databases", "peers", "memory", "load", "jobs", "runtime")


def main() -> None:
    failed = [
        script
        for script in SCRIPTS
        if subprocess.run([sys.executable, HERE / f"{script}.py"], check=False).returncode
    ]
    subprocess.run([sys.executable, HERE / "report.py"], check=True)
    if failed:
        sys.exit(f"not held in: {', '.join(failed)}")


if __name__ == "__main__":
    main()
