"""Merge an adapter into its base model: a model of its own, for the next stage to start from and to be compared with.

    python recipes/merge.py --adapter outputs/qwen2_vl_7b/sft --output_dir outputs/qwen2_vl_7b/merged

The base is the one that the adapter names, loaded unquantised in `dtype`, on the CPU: memory for its weights is all it
takes. Weights are saved as safetensors, together with the processor that the adapter was trained with. `output_dir` is
there when the merge is complete, not before; a merge that is done is not repeated.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from huggingface_hub import hf_hub_download
from peft import PeftConfig, PeftModel
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from transformers import AutoModelForImageTextToText

from sc_captioner.arguments import SettingError, run_recipe
from sc_captioner.data.model_checks import ModelError, cannot_be_loaded, load_config, load_processor
from sc_captioner.model_card import SETTINGS_FILE, RunSettings


@dataclass
class MergeArguments:
    """
    What to merge.

    Args:
        adapter (`str`): Folder or Hub id of the adapter.
        output_dir (`str`): Where the merged model goes.
        dtype (`str`): Type of the merged weights.
    """

    adapter: str = field(metadata={"help": "Folder or Hub id of the adapter, such as the output_dir of sft.py."})
    output_dir: str = field(metadata={"help": "Where the merged model goes."})
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = field(
        default="bfloat16", metadata={"help": "Type of the merged weights; 'auto' is the base model's own."}
    )


def main(args: MergeArguments) -> None:
    base, weights = base_and_weights(args.adapter)
    output = Path(args.output_dir)
    made_of = {"base": base, "adapter": sha256(weights), "dtype": args.dtype}
    made_before = output / "merge.json"
    if made_before.is_file() and json.loads(made_before.read_text()) == made_of:
        print(f"{output} is {args.adapter} merged into {base} already.")
        return
    if output.is_dir() and any(output.iterdir()) and not made_before.is_file():
        raise SettingError(f"output_dir={args.output_dir!r} holds something else; name a new folder.")
    unfinished = output.with_name(f"{output.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    save_merged(args, base, unfinished)
    (unfinished / "merge.json").write_text(json.dumps(made_of, indent=2) + "\n")
    shutil.rmtree(output, ignore_errors=True)
    unfinished.rename(output)
    print(f"{args.adapter} merged into {base} is in {output}.")


def base_and_weights(adapter: str) -> tuple[str, Path]:
    """Name of the base model, and the file with the adapter's weights.

    Raises:
        ModelError: If there is no adapter, or training has not written it yet.
    """
    folder = Path(adapter).expanduser()
    if folder.is_dir() and not all((folder / name).is_file() for name in (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME)):
        raise ModelError(
            f"adapter {adapter!r} is not there yet (no {SAFETENSORS_WEIGHTS_NAME} in that folder); let the stage that "
            "trains it finish, or name one of its checkpoints."
        )
    try:
        base = PeftConfig.from_pretrained(adapter).base_model_name_or_path
        is_here = folder.is_dir()
        weights = folder / SAFETENSORS_WEIGHTS_NAME if is_here else hf_hub_download(adapter, SAFETENSORS_WEIGHTS_NAME)
        return base, Path(weights)
    except (OSError, ValueError) as error:
        raise cannot_be_loaded(adapter, error, setting="adapter") from error


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_merged(args: MergeArguments, base: str, folder: Path) -> None:
    """Write the merged model and its processor."""
    load_config(base)  # refuses what is no model, before anything large is read
    try:
        processor = load_processor(args.adapter)
    except ModelError:  # an adapter that brings none
        processor = load_processor(base)
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=args.dtype)
    merged = PeftModel.from_pretrained(model, args.adapter).merge_and_unload(progressbar=True, safe_merge=True)
    merged.save_pretrained(folder)
    processor.save_pretrained(folder)
    if (settings := RunSettings.of(args.adapter)).steps:
        settings.save(folder / SETTINGS_FILE)  # it is asked what the adapter was trained to be asked


if __name__ == "__main__":
    run_recipe(main, (MergeArguments,), __doc__)
