"""`jaxmlip audit FILE...`: what is wrong with the labels of a data set, as far as they tell themselves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from jaxmlip.cli import settings
from jaxmlip.cli.config import parse
from jaxmlip.cli.html import Page
from jaxmlip.data import Dataset, read_dataset
from jaxmlip.data.audit import Audit, audit


@dataclasses.dataclass(frozen=True)
class AuditConfig:
    """What is wrong with the labels of a data set, as far as they tell themselves."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Labelled structures."""
    test: tuple[Path, ...] = ()
    """Structures to test on, which must not be among the others."""
    output: Path | None = None
    """Folder for `audit.json` and `report.html`; without it the findings are only printed."""
    energy_key: str | None = None
    """Where it is not REF_energy, nor energy."""
    forces_key: str | None = None
    stress_key: str | None = None

    def keys(self) -> dict[str, str]:
        named = {"energy": self.energy_key, "forces": self.forces_key, "stress": self.stress_key}
        return {label: key for label, key in named.items() if key}


def main(argv: Sequence[str]) -> int:
    """Print what was found; 1 where something is wrong."""
    config = parse(AuditConfig, argv, command="audit", toml=False)
    parts = _parts(config)
    found = audit(parts)
    for finding in found.findings:
        print(finding)
    for name, value in found.facts.items():
        print(f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    if config.output is not None:
        settings.check_writable(config.output)
        settings.write_run(config.output, config, command="audit", inputs=(*config.files, *config.test))
        record = {"findings": [dataclasses.asdict(f) for f in found.findings], "facts": found.facts}
        settings.write_text(config.output / "audit.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        settings.write_text(config.output / "report.html", page(config, parts, found))
        print(f"Open {config.output / 'report.html'}")
    alarms = len(found.alarms)
    print(f"{alarms or 'No'} alarm{'s' * (alarms != 1)}.")
    return 1 if alarms else 0


def _parts(config: AuditConfig) -> dict[str, Dataset]:
    """The frames by what they are for: by the options, else by their own key `split`."""
    train = read_dataset(config.files, keys=config.keys())
    if config.test:
        return {"train": train, "test": read_dataset(config.test, keys=config.keys())}
    return train.split_by_key() if all(r.split is not None for r in train) else {"all": train}


def page(config: AuditConfig, parts: dict[str, Dataset], found: Audit) -> str:
    """The report."""
    from jaxmlip.cli import figures

    names = ", ".join(str(f) for f in (*config.files, *config.test))
    out = Page("Audit of a data set", names)
    out.cards(
        {
            "alarms": str(len(found.alarms)),
            "frames": ", ".join(f"{len(part)} {name}" for name, part in parts.items()),
            "elements": " ".join(found.facts["elements"]),
        }
    )
    rows = [[f.level, f.check, f.text, "; ".join(f.frames[:10])] for f in found.findings]
    text = "Errors and warnings are alarms; notes are not." if rows else "Nothing was found."
    out.table("Findings", text, ("level", "check", "what", "where (the first ten)"), rows)
    whole = Dataset([r for part in parts.values() for r in part])
    out.figure(
        "Energies and forces",
        "Every frame: its energy above the references, and the RMS of its forces.",
        figures.coverage(whole),
    )
    out.figure("Distances", "How often atoms are how far apart, for each pair of elements.", figures.distances(whole))
    work: dict[str, Any] = found.facts["energy differences over work"]
    if work:
        cells = [[name, f"{w['slope']:.3f} ± {w['error']:.3f}", str(w["pairs"])] for name, w in work.items()]
        text = (
            "Slope of energy differences between close frames against the work of their forces and stress: 1 is right."
        )
        out.table("Energies against forces and stress", text, ("labels", "slope", "pairs of frames"), cells)
    facts = [[k, str(v)] for k, v in found.facts.items() if k != "energy differences over work"]
    out.table("Facts", "What the set holds.", ("", ""), facts)
    return out.html()
