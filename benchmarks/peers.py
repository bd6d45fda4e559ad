"""Set up the environments of the peers: ``python -m benchmarks.peers``.

torchkeras 4 has this package's import name, so it gets an environment of its own.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).parent
CONSTRAINTS = HERE.parent / "constraints.txt"
COMMON = ["torch", "torchmetrics", "scikit-learn", "mlxtend", "accelerate", "tqdm"]
ENVIRONMENTS = {
    ".venv": ["pytorch-lightning==2.6.6", "keras==3.15.1", "skorch==1.4.0", "pytorch-ignite==0.5.5",
              "poutyne==1.19.0", "pytorch-accelerated==0.1.61"],
    ".venv-old": ["torchkeras==4.0.5", "ipython", "matplotlib", "pandas"],
}
# pip gives up rather than install one of these: torchvision brings a torch of its own, and releases of the package
# "lightning" have carried malware
NEVER = ["torchvision<0", "lightning<0"]


def python_of(environment: str, folder: Path = HERE) -> Path | None:
    """The interpreter of an environment, None where it is not set up."""
    found = (folder / environment / where for where in ("bin/python", "Scripts/python.exe"))
    return next((path for path in found if path.exists()), None)


def set_up(environment: str, packages: list[str]) -> None:
    """Make the environment anew or bring it up to date, with the versions that this repository is tested with."""
    if python_of(environment) is None:
        venv.create(HERE / environment, with_pip=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as never:
        never.write("\n".join(NEVER) + "\n")
        never.flush()
        subprocess.run([str(python_of(environment)), "-m", "pip", "install", "--quiet", "--constraint", never.name,
                        "--constraint", str(CONSTRAINTS), *COMMON, *packages], check=True)


def main() -> None:
    chosen = sys.argv[1:] or list(ENVIRONMENTS)
    for environment in chosen:
        print(f"benchmarks/{environment}: {', '.join(ENVIRONMENTS[environment])}")
        set_up(environment, ENVIRONMENTS[environment])


if __name__ == "__main__":
    main()
