"""Where the evaluate modules are."""

from __future__ import annotations

from pathlib import Path


def module_path(name: str) -> str:
    """Folder of the evaluate module `name`, for `evaluate.load(module_path("refined_capture"))`, without network.

    Args:
        name (`str`): `"capture"`, `"refined_capture"`, `"correction_reward"` or `"relation_qa"`.

    Raises:
        ValueError: If there is no such module.
    """
    package = Path(__file__).resolve().parents[1]
    # A wheel carries the modules inside the package; a checkout has them at its top.
    roots = (package / "evaluate_modules", package.parents[1] / "metrics")
    for root in roots:
        if (root / name / f"{name}.py").is_file():
            return str(root / name)
    scripts = (script for root in roots for script in root.glob("*/*.py") if script.stem == script.parent.name)
    known = sorted({script.stem for script in scripts})
    raise ValueError(f"There is no evaluate module {name!r}; there are {', '.join(known) or 'none installed'}.")
