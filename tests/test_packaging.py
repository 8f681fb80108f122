"""What a user installs, launches and reads: light import, pinned environment, configurations that do what they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_qwen2_vl
from torch.distributed.fsdp import StateDictType

import sc_captioner


ACCELERATE = {
    "one_process": (DistributedType.NO, 1),
    "two_cpu_processes": (DistributedType.MULTI_GPU, 2),
    "multi_gpu": (DistributedType.MULTI_GPU, 8),
    "fsdp": (DistributedType.FSDP, 8),
    "zero2": (DistributedType.DEEPSPEED, 8),
    "zero3": (DistributedType.DEEPSPEED, 8),
}


@pytest.fixture(scope="module")
def project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def pins(repository: Path) -> dict[str, str]:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = (re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line) for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(match[1]): match[2] for match in found}


def python(repository: Path, code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(repository / "src")} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_is_light_and_opens_no_socket(repository):
    code = """
import sys
sockets = []
sys.addaudithook(lambda event, _: sockets.append(event) if event.startswith("socket.") else None)
import sc_captioner
heavy = {"torch", "transformers", "trl", "datasets", "nltk", "PIL", "sentence_transformers", "matplotlib", "numpy"}
print(sorted(heavy & set(sys.modules)), sockets)
from sc_captioner import SceneGraph
from sc_captioner.scene_graph import graph
from sc_captioner import report
from sc_captioner.data import columns, loading, model_checks
print(sorted({"torch", "transformers", "trl", "sentence_transformers", "matplotlib"} & set(sys.modules)), sockets)
"""
    assert python(repository, code).splitlines() == ["[] []", "[] []"]


def test_names_that_are_promised_exist():
    assert set(sc_captioner.__all__) <= set(dir(sc_captioner))
    with pytest.raises(AttributeError, match="no_such_name"):
        sc_captioner.no_such_name  # noqa: B018


def test_the_version_is_the_same_everywhere(repository, project):
    citation = yaml.safe_load((repository / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["version"] == sc_captioner.__version__ == citation["version"]
    assert f"## [{project['version']}]" in (repository / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_citation_names_the_paper(repository):
    citation = yaml.safe_load((repository / "CITATION.cff").read_text(encoding="utf-8"))
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Zhang", "Zeng", "Li", "Yu", "Chen"]
    assert paper["year"] == 2025 and "2508.06125" in paper["url"] and citation["license"] == "Apache-2.0"


def test_constraints_pin_every_direct_dependency(project, pins):
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"], *extras["quant"], *extras["judge"]]
    for text in wanted:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is missing in constraints.txt"
        assert requirement.specifier.contains(pins[name]), f"{name}=={pins[name]} contradicts {requirement}"


def needed_by(name: str) -> list[Requirement]:
    """What an installed package needs on this machine, extras apart."""
    declared = [Requirement(text) for text in metadata.requires(name) or ()]
    return [r for r in declared if r.marker is None or r.marker.evaluate({"extra": ""})]


def test_constraints_hold_together_as_a_set(project, pins):
    """Every pinned package that is installed here finds its own needs pinned, at a version that it accepts."""
    installed: dict[str, Message] = {
        canonicalize_name(d.metadata["Name"]): d.metadata for d in metadata.distributions()
    }
    problems = [
        f"{name} needs {need}, pinned is {pins.get(canonicalize_name(need.name))}"
        for name in sorted(pins.keys() & installed.keys())
        for need in needed_by(name)
        if not need.specifier.contains(pins.get(canonicalize_name(need.name), "0"), prereleases=True)
    ]
    assert problems == []


def test_no_constraint_is_a_local_build(pins):
    assert [f"{name}=={version}" for name, version in pins.items() if "+" in version] == []
    # torchvision is compiled against one torch; its wheel says which.
    assert {"torch", "torchvision"} <= pins.keys()
    if metadata.version("torchvision") == pins["torchvision"]:
        wanted = next(need for need in needed_by("torchvision") if need.name == "torch")
        assert wanted.specifier.contains(pins["torch"]) and not wanted.specifier.contains("0.0.1")


def test_every_yaml_file_parses(repository):
    files = [p for folder in ("recipes", "metrics") for p in (repository / folder).rglob("*.y*ml")]
    assert len(files) >= len(ACCELERATE)
    for file in files:
        assert isinstance(yaml.safe_load(file.read_text(encoding="utf-8")), dict), file


@pytest.mark.parametrize("name", ACCELERATE)
def test_accelerate_reads_its_configurations(repository, name):
    config = load_config_from_file(str(repository / "recipes" / "accelerate" / f"{name}.yaml"))
    assert (config.distributed_type, config.num_processes) == ACCELERATE[name]
    # Every setting of a plugin is one that `accelerate launch` knows: others are dropped without a word.
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(config.fsdp_config) <= known and set(config.deepspeed_config) <= known
    assert config.deepspeed_config.get("zero_stage") == {"zero2": 2, "zero3": 3}.get(name)
    assert bool(config.fsdp_config) == (name == "fsdp")


def environment_of(repository: Path, name: str) -> dict[str, str]:
    """What `accelerate launch` hands to the processes that it starts."""
    config = repository / "recipes" / "accelerate" / f"{name}.yaml"
    given = launch_command_parser().parse_args(["--config_file", str(config), "recipes/sc.py"])
    arguments, defaults, _ = _validate_launch_command(given)
    arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    return prepare_multi_gpu_env(arguments) if name == "fsdp" else prepare_deepspeed_cmd_env(arguments)[1]


def test_fsdp_wraps_the_layers_of_a_captioner_with_an_adapter(repository, monkeypatch):
    for key, value in environment_of(repository, "fsdp").items():
        monkeypatch.setenv(key, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.state_dict_type is StateDictType.FULL_STATE_DICT and plugin.cpu_ram_efficient_loading
    model = get_peft_model(tiny_qwen2_vl()[0], LoraConfig(target_modules=r".*\.language_model\..*_proj"))
    plugin.set_auto_wrap_policy(model)
    wrapped = plugin.auto_wrap_policy.keywords["transformer_layer_cls"]
    assert {layer.__name__ for layer in wrapped} == {"Qwen2VLDecoderLayer", "Qwen2VLVisionBlock"}


@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero3", 3)])
def test_deepspeed_reads_its_configurations(repository, monkeypatch, name, stage):
    config_module = pytest.importorskip("deepspeed.runtime.config", reason="DeepSpeed is not installed")
    for key, value in environment_of(repository, name).items():
        monkeypatch.setenv(key, value)
    plugin = DeepSpeedPlugin()
    assert plugin.zero3_init_flag == plugin.zero3_save_16bit_model == (stage == 3)
    # What transformers fills in from the training arguments.
    filled = {"train_batch_size": 16, "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 2}
    read = config_module.DeepSpeedConfig({**plugin.deepspeed_config, **filled, "gradient_clipping": 1.0})
    assert read.zero_config.stage == stage
    assert read.zero_config.offload_optimizer is None or read.zero_config.offload_optimizer.device == "none"


def launched(repository: Path, tmp_path: Path, name: str, code: str) -> list[dict]:
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    config = str(repository / "recipes" / "accelerate" / f"{name}.yaml")
    result = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, str(script), str(tmp_path)],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(file.read_text()) for file in sorted(tmp_path.glob("rank*.json"))]


RANKS = """
import json, os, sys, torch
from pathlib import Path
from transformers import TrainingArguments
args = TrainingArguments(output_dir=sys.argv[1], use_cpu=True, report_to=[])
total = torch.tensor([args.process_index + 1.0])
if args.world_size > 1:
    torch.distributed.all_reduce(total)
seen = {"rank": args.process_index, "world": args.world_size, "variable": os.environ.get("WORLD_SIZE"),
        "sum": total.item(), "device": str(args.device)}
Path(sys.argv[1], f"rank{args.process_index}.json").write_text(json.dumps(seen))
"""


def test_two_processes_really_are_two(repository, tmp_path):
    ranks = launched(repository, tmp_path, "two_cpu_processes", RANKS)
    assert [(r["rank"], r["world"], r["variable"], r["sum"], r["device"][:3]) for r in ranks] == [
        (0, 2, "2", 3.0, "cpu"),
        (1, 2, "2", 3.0, "cpu"),
    ]


def test_make_lists_its_targets_and_names_a_python_that_is_too_old(repository, tmp_path):
    make = ["make", "--no-print-directory", "-C", str(repository)]
    listed = subprocess.run(make, capture_output=True, text=True, check=True).stdout
    assert all(f"make {target} " in listed for target in ("venv", "quickstart", "test", "quality", "bench"))
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    overrides = [f"VENV={tmp_path / 'venv'}", f"PYTHON={old}"]
    # Without what a `make test` around this test hands down.
    outer = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS")}
    refused = subprocess.run([*make, "venv", *overrides], env=outer, capture_output=True, text=True)
    assert refused.returncode != 0 and "older than Python 3.11" in refused.stderr and not (tmp_path / "venv").exists()


def test_continuous_integration_runs_make_test(repository):
    script = repository / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0 and "make test" in script.read_text()
