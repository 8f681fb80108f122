"""The Hub over real HTTP: models, datasets and metrics pushed and loaded by the real clients, and what goes wrong."""

import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import evaluate
import hub_client
import numpy as np
import pytest
import torch
import yaml
from hub_server import HubServer
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load, load_file
from tiny_models import tiny_qwen2_vl

from sc_captioner.hub import PICKLES, without_tokens


ROOT = Path(__file__).parents[1]
REFERENCE = "A small red circle is above a big black square."
TRAINING = [
    "--dataset", "me/captions", "--parser", "compact", "--num_generations", "2", "--per_device_train_batch_size", "2",
    "--max_completion_length", "6", "--save_steps", "1", "--learning_rate", "1e-2", "--bf16", "false", "--dtype",
    "float32", "--report_to", "none", "--push_to_hub", "true", "--disable_tqdm", "true", "--temperature", "1.0",
]  # fmt: skip
LORA = ["--use_peft", "true", "--lora_r", "4", "--lora_target_modules", "q_proj", "v_proj"]


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("client") / "log"


@pytest.fixture(scope="module")
def client(hub, log):
    """Calls a function of `hub_client` in its process; all output at level DEBUG goes into `log`."""
    environment = {
        "HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HOME": str(log.parent / "home"), "HF_HUB_OFFLINE": "0",
        "HF_DATASETS_CACHE": str(log.parent / "datasets"), "HF_MODULES_CACHE": str(log.parent / "modules"),
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0", "HF_DEBUG": "1",
        "HF_HUB_VERBOSITY": "debug", "TRANSFORMERS_VERBOSITY": "debug", "DATASETS_VERBOSITY": "debug",
        "PYTHONWARNINGS": "always", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    before = dict(os.environ)
    os.environ.update(environment)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=hub_client.start, initargs=(str(log),)) as pool:
        pool.submit(os.getpid).result()
        os.environ.clear()
        os.environ.update(before)
        yield lambda function, *arguments: pool.submit(function, *arguments).result(timeout=300)


@pytest.fixture(scope="module", autouse=True)
def no_token_anywhere(hub, log, client):
    yield
    assert hub.token not in log.read_text(errors="replace")
    for (kind, name), repo in hub.repos.items():
        for files in repo.commits.values():
            assert not [path for path, content in files.items() if hub.token.encode() in content], (kind, name)


@pytest.fixture(scope="module")
def dataset(hub, client, tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    rows = [{"image": str(folder / f"{i}.png"), "reference": REFERENCE} for i in range(4)]
    for row in rows:
        Image.fromarray(rng.integers(0, 255, (56, 56, 3), dtype=np.uint8)).save(row["image"])
    hub.fail("PUT", "/lfs/")  # the line is cut while the shard goes up; the client sends it again
    client(hub_client.push_dataset, "me/captions", rows)
    return "me/captions"


@pytest.fixture(scope="module")
def base(hub, client, tmp_path_factory):
    """A captioner on the Hub, pushed by the recipe."""
    folder = tmp_path_factory.mktemp("base")
    for part in tiny_qwen2_vl():
        part.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# Written by hand\n")
    assert client(hub_client.recipe, "push_model", "--model", folder, "--hub_model_id", "me/tiny") == 0
    assert hub.files("model", "me/tiny")["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    card = ModelCard(hub.files("model", "me/tiny")["README.md"].decode())
    assert card.data.license == "mit" and card.data.library_name == "transformers" and "Written by hand" in card.text
    return "me/tiny"


@pytest.fixture(scope="module")
def adapter(hub, client, base, dataset, tmp_path_factory):
    """An adapter that a training run pushed: its folder."""
    folder = tmp_path_factory.mktemp("runs") / "tiny-sc"
    code = client(
        hub_client.recipe, "sc", "--model_name_or_path", base, *TRAINING, *LORA, "--output_dir", folder, "--max_steps",
        "2", "--hub_model_id", "me/tiny-sc", "--hub_private_repo", "true", "--hub_strategy", "all_checkpoints",
        "--hub_always_push", "true",
    )  # fmt: skip
    assert code == 0
    return folder


def test_dataset_is_pushed_and_loaded(hub, client, dataset):
    assert hub.repos["dataset", dataset].private
    assert ("PUT", 0) in [(method, status) for method, path, status in hub.requests if path.startswith("/lfs/")]
    for streaming in (False, True):
        assert client(hub_client.read_dataset, dataset, streaming) == [((56, 56), REFERENCE)] * 4
    assert client(hub_client.checked_references, dataset) == [REFERENCE] * 4


def test_metric_spaces_are_pushed_and_loaded(hub, client):
    package = "sc-captioner @ git+https://example.org/sc-captioner"
    push = ["push_metrics", "--private", "true", "--package", package, "--namespace"]
    assert client(hub_client.recipe, *push, "me", "--modules", "relation_qa") == 0
    space = hub.repos["space", "me/relation_qa"]
    assert space.sdk == "gradio" and space.private
    hub.files("space", "me/relation_qa")["old.py"] = b"of an earlier version"
    assert client(hub_client.recipe, *push, "me") == 0
    files = hub.files("space", "me/relation_qa")
    assert set(files) == {"README.md", "app.py", "relation_qa.py", "requirements.txt", "tests.py"}
    assert package.replace("sc-captioner", "sc-captioner[judge]", 1) in files["requirements.txt"].decode()
    for name in ("capture", "refined_capture", "correction_reward", "relation_qa"):
        client(hub_client.run_cases, name, f"me/{name}")
    inputs = {"predictions": ["A red circle is above a square."], "references": [REFERENCE]}
    found = client(hub_client.score, "me/capture", inputs)
    assert found == evaluate.load(str(ROOT / "metrics" / "capture")).compute(**inputs)


def test_the_space_is_pushed_with_the_models_it_offers(hub, client, base, log, tmp_path):
    push = ["push_space", "--space", "me/demo", "--package", "sc-captioner @ git+https://example.org/sc", "--models"]
    size = log.stat().st_size
    assert client(hub_client.recipe, *push, "outputs/quickstart/model") == 2
    assert "push it first (recipes/push_model.py)" in log.read_bytes()[size:].decode(errors="replace")
    assert client(hub_client.recipe, *push, base, "--dry_run", "true") == 0 and ("space", "me/demo") not in hub.repos
    assert client(hub_client.recipe, *push, base, "--private", "true") == 0
    space, files = hub.repos["space", "me/demo"], hub.files("space", "me/demo")
    assert space.sdk == "gradio" and space.private and set(files) == {"README.md", "app.py", "requirements.txt"}
    assert files["requirements.txt"].decode() == "sc-captioner @ git+https://example.org/sc\n"
    written = (ROOT / "spaces" / "self_correction" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    head, card = files["README.md"].decode().split("---\n", 2)[1:]
    assert yaml.safe_load(head) == {**yaml.safe_load(written[1]), "models": [base]} and card == written[2]


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "hf auth login"), (403, "may not write to me/capture"), (500, "did not take me/capture")],
)
def test_a_space_that_is_refused_says_why(hub, client, log, status, said):
    size = log.stat().st_size
    hub.repos.pop(("space", "me/capture"), None)  # where there is one, being unable to make it is no matter
    hub.fail("POST", "/api/repos/create", status=status, error=f"not {hub.token}")
    assert client(hub_client.recipe, "push_metrics", "--namespace", "me", "--modules", "capture") == 2
    told = log.read_bytes()[size:].decode(errors="replace")
    assert "error: " in told and said in told


def test_every_checkpoint_is_pushed_and_no_pickle(hub, adapter):
    files = hub.files("model", "me/tiny-sc")
    assert hub.repos["model", "me/tiny-sc"].private
    for file in ("adapter_model.safetensors", "adapter_config.json", "training_settings.json", "tokenizer.json"):
        assert files[file] == (adapter / file).read_bytes()
    for step in (1, 2):
        name = f"checkpoint-{step}/adapter_model.safetensors"
        assert files[name] == (adapter / name).read_bytes()
    weights = load_file(adapter / "adapter_model.safetensors")
    assert any(weight.any() for name, weight in weights.items() if "lora_B" in name)  # it learned something
    assert not [path for path in files if any(Path(path).match(pattern) for pattern in PICKLES)]
    assert (adapter / "checkpoint-2" / "optimizer.pt").is_file()  # which stays where the run can be resumed


def test_card_tells_all_and_its_snippet_runs(hub, client, base, dataset, adapter, tmp_path):
    scores = tmp_path / "scores"
    evaluation = ["--dataset", dataset, "--dataset_split", "train", "--metrics", "facts", "--max_new_tokens", "8"]
    assert client(hub_client.recipe, "evaluate", "--model", "me/tiny-sc", *evaluation, "--output_dir", scores) == 0
    push = ["push_model", "--model", adapter, "--hub_model_id", "me/tiny-sc", "--evaluation", scores]
    hub.fail("POST", "/commit/", status=500)
    assert client(hub_client.recipe, *push) == 2
    assert client(hub_client.recipe, *push) == 0

    text = hub.files("model", "me/tiny-sc")["README.md"].decode()
    card = ModelCard(text)
    assert card.data.base_model == base and card.data.base_model_relation == "adapter"
    assert card.data.datasets == [dataset] and card.data.library_name == "peft"
    results = json.loads((scores / "results.json").read_text())
    listed = {(found.metric_args["turn"], found.metric_type): found for found in card.data.eval_results}
    for turn in ("first", "second"):
        found = listed[turn, "mean_f1"]
        assert found.metric_value == pytest.approx(results[turn]["mean_f1"], abs=1e-5)
        assert found.metric_args["interval_95"] == pytest.approx(results[turn]["intervals"]["mean_f1"], abs=1e-5)
        assert found.metric_args["parser"] == "compact"
    told = (
        "preset `paper`",
        "objects, attributes, relations, mistakes",
        "compact (version ",
        "MiniLM-L6-v2 (version gt-",
        "trl ",
    )
    assert all(words in text for words in told)

    settings = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert settings["lora_r"] == 4 and settings["model_name_or_path"] == base
    assert client(hub_client.snippet, text)

    # The card's settings, as they stand there, train the same adapter.
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(settings))
    again = ["--config", tmp_path / "card.yaml", "--output_dir", tmp_path / "again", "--report_to", "none"]
    assert client(hub_client.recipe, "sc", *again) == 0
    first, second = (load_file(run / "adapter_model.safetensors") for run in (adapter, tmp_path / "again"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_an_adapter_on_the_hub_is_trained_further(hub, client, base, adapter, tmp_path):
    folder = tmp_path / "more"
    more = ["--output_dir", folder, "--max_steps", "1", "--hub_model_id", "me/more", "--hub_strategy", "end"]
    assert client(hub_client.recipe, "sc", "--model_name_or_path", "me/tiny-sc", *TRAINING, *LORA, *more) == 2
    assert client(hub_client.recipe, "sc", "--model_name_or_path", "me/tiny-sc", *TRAINING, *more) == 0
    files = hub.files("model", "me/more")
    started = load_file(folder / "checkpoint-1" / "ref" / "adapter_model.safetensors")
    pushed, trained = (
        load(hub.files("model", "me/tiny-sc")["adapter_model.safetensors"]),
        load(files["adapter_model.safetensors"]),
    )
    assert all(torch.equal(started[name], pushed[name]) for name in pushed)  # the reference model
    assert any(not torch.equal(trained[name], pushed[name]) for name in pushed)
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == base
    assert not [path for path in files if path.startswith(("ref/", "checkpoint"))]
    assert ModelCard(files["README.md"].decode()).data.base_model == base
    assert hub.repos["model", "me/more"].messages == ["Model save"]  # the strategy: once, at the end

    resume = ["--output_dir", folder, "--max_steps", "2", "--resume_from_checkpoint", "auto"]
    resume += ["--push_to_hub", "false"]
    assert client(hub_client.recipe, "sc", "--model_name_or_path", "me/tiny-sc", *TRAINING, *resume) == 0
    resumed = load_file(folder / "checkpoint-2" / "ref" / "adapter_model.safetensors")
    assert all(torch.equal(resumed[name], pushed[name]) for name in pushed)


def test_fine_tuning_pushes_alike_and_goes_on(hub, client, base, dataset, tmp_path):
    train = [
        "--dataset", dataset, "--max_steps", "1", "--bf16", "false", "--dtype", "float32", "--report_to", "none",
        "--max_length", "null", "--push_to_hub", "true", "--hub_model_id", "me/sft", "--save_steps", "1",
        "--hub_strategy", "checkpoint",
    ]  # fmt: skip
    hub.fail("POST", "/commit/", status=500)
    first = ["--model_name_or_path", base, *LORA, "--output_dir", tmp_path / "first"]
    assert client(hub_client.recipe, "sft", *train, *first) == 0
    files = hub.files("model", "me/sft")
    assert not [path for path in files if any(Path(path).match(pattern) for pattern in PICKLES)]
    assert files["last-checkpoint/trainer_state.json"]
    text = files["README.md"].decode()
    assert ModelCard(text).data.datasets == [dataset] and client(hub_client.snippet, text)
    more = ["--model_name_or_path", "me/sft", "--output_dir", tmp_path / "more"]
    assert client(hub_client.recipe, "sft", *train, *more) == 0
    name = "adapter_model.safetensors"
    before, after = load(files[name]), load_file(tmp_path / "more" / name)
    assert before.keys() == after.keys() and any(not torch.equal(before[part], after[part]) for part in before)
    assert hub.files("model", "me/sft")[name] == (tmp_path / "more" / name).read_bytes()


def test_a_checkpoint_of_the_hub_is_no_place_to_resume_from(hub, client, base, dataset, adapter, log, tmp_path):
    size = log.stat().st_size
    folder = client(hub_client.downloaded, "me/tiny-sc", "checkpoint-1/*") + "/checkpoint-1"
    run = [*TRAINING, *LORA, "--output_dir", tmp_path / "run", "--resume_from_checkpoint", folder]
    assert client(hub_client.recipe, "sc", "--model_name_or_path", base, *run) == 2
    assert "name it as model_name_or_path" in log.read_bytes()[size:].decode(errors="replace")


def test_pushing_by_hand_raises_and_adds_scores(hub, client, base, dataset, tmp_path):
    """`trainer.push_to_hub` is the user's own call: it says when nothing was pushed."""
    summary = {"capture": 0.5, "n": 2, "standard_errors": {"capture": 0.1}, "intervals": {"capture": [0.3, 0.7]}}
    (tmp_path / "results.json").write_text(json.dumps({"first": summary, "settings": {"dataset": dataset}}))
    hub.fail("POST", "/api/repos/create", status=500, error=hub.token)
    hub.fail("POST", "/commit/", status=403, error=hub.token)
    told = client(hub_client.push_by_hand, base, dataset, str(tmp_path / "hand"), str(tmp_path))
    assert told[0].startswith("HubError: the Hub did not take hand (status 500")
    assert told[1].startswith("HubError: your token may not write to me/hand")
    assert told[2] == "pushed" and (tmp_path / "hand" / "model.safetensors").is_file()
    text = hub.files("model", "me/hand")["README.md"].decode()
    assert "| CAPTURE |" in text and "0.500 ± 0.100" in text
    [found] = ModelCard(text).data.eval_results
    assert found.metric_args == {"turn": "first", "standard_error": 0.1, "interval_95": [0.3, 0.7]}


def test_the_next_save_pushes_what_failed(hub, client, base, dataset, log, tmp_path):
    """The repository cannot be made at first, then a commit fails, then a line is cut: the run goes on."""
    size = log.stat().st_size
    hub.fail("POST", "/api/repos/create", status=500, error=f"no room for {hub.token}")
    hub.fail("POST", "/commit/", status=500, error=f"{hub.token} came too early", **{"X-Error-Message": hub.token})
    hub.fail("POST", "/commit/")
    run = [*TRAINING, *LORA, "--output_dir", tmp_path / "run", "--max_steps", "4", "--hub_model_id", "me/late"]
    strategy = ["--hub_strategy", "all_checkpoints", "--hub_always_push", "true"]
    assert client(hub_client.recipe, "sc", "--model_name_or_path", base, *run, *strategy) == 0
    told = log.read_bytes()[size:].decode(errors="replace")
    assert "No repository yet: the Hub did not take me/late (status 500: no room for hf_***)" in told
    assert "Not pushed: the Hub did not take me/late (status 500" in told
    assert f"Not pushed: {hub.url} cannot be reached (" in told
    files = hub.files("model", "me/late")
    for file in ("adapter_model.safetensors", "README.md", "training_settings.json"):
        assert files[file] == (tmp_path / "run" / file).read_bytes()
    for step in (1, 2, 3, 4):
        name = f"checkpoint-{step}/adapter_model.safetensors"
        assert files[name] == (tmp_path / "run" / name).read_bytes()


def test_a_hub_that_never_answers_ends_no_run(hub, client, base, dataset, log, tmp_path):
    size = log.stat().st_size
    hub.fail("POST", "/commit/", status=403, times=1000, error=f"not with {hub.token}")
    run = [*TRAINING, *LORA, "--output_dir", tmp_path / "run", "--max_steps", "1", "--hub_model_id", "me/kept"]
    assert client(hub_client.recipe, "sc", "--model_name_or_path", base, *run) == 0
    hub.faults.clear()
    told = log.read_bytes()[size:].decode(errors="replace")
    repeat = f"python recipes/push_model.py --model {tmp_path / 'run'} --hub_model_id me/kept"
    assert "your token may not write to me/kept" in told and repeat in told
    assert "README.md" not in hub.files("model", "me/kept")
    assert client(hub_client.recipe, "push_model", *repeat.split()[2:]) == 0
    kept = (tmp_path / "run" / "adapter_model.safetensors").read_bytes()
    assert hub.files("model", "me/kept")["adapter_model.safetensors"] == kept


@pytest.mark.parametrize(
    ("status", "said"), [(401, "the Hub does not know your login"), (403, "your token may not write to me/refused")]
)
def test_a_refused_login_stops_before_training(hub, client, base, dataset, log, tmp_path, status, said):
    size = log.stat().st_size
    hub.fail("POST", "/api/repos/create", status=status, error=f"who is {hub.token}?")
    run = [*TRAINING, *LORA, "--output_dir", tmp_path / "run", "--max_steps", "1", "--hub_model_id", "me/refused"]
    assert client(hub_client.recipe, "sc", "--model_name_or_path", base, *run) == 2
    told = log.read_bytes()[size:].decode(errors="replace")
    assert f"error: {said}" in told and not (tmp_path / "run" / "checkpoint-1").exists()


def test_what_does_not_exist_is_said(client, dataset, log, tmp_path):
    size = log.stat().st_size
    run = [*TRAINING, "--output_dir", tmp_path / "run", "--max_steps", "1", "--push_to_hub", "false"]
    assert client(hub_client.recipe, "sc", "--model_name_or_path", "me/nowhere", *run) == 2  # 404
    assert "model 'me/nowhere' cannot be loaded" in log.read_bytes()[size:].decode(errors="replace")


@pytest.mark.parametrize(
    ("fault", "repeated"),
    [
        ({"method": "POST", "path": "/preupload/", "status": 429, "Retry-After": "0"}, True),
        ({"method": "POST", "path": "/objects/batch", "status": 500}, True),
        ({"method": "PUT", "path": "/lfs/"}, True),
        ({"method": "POST", "path": "/commit/", "status": 429}, False),
        ({"method": "POST", "path": "/commit/"}, False),
        ({"method": "POST", "path": "/info/lfs/verify", "status": 404}, False),
    ],
    ids=["429, asked again", "500, asked again", "cut upload, sent again", "429", "cut commit", "lost object"],
)
def test_a_push_that_failed_is_repeated_and_ends_complete(hub, client, adapter, fault, repeated):
    hub.objects.clear()
    name = f"me/again-{len(hub.repos)}"
    hub.fail(**fault, error=f"not {hub.token}")
    push = ["push_model", "--model", adapter, "--hub_model_id", name, "--private", "true"]
    assert client(hub_client.recipe, *push) == (0 if repeated else 2)
    assert client(hub_client.recipe, *push) == 0
    files = hub.files("model", name)
    kept = {file.name: file.read_bytes() for file in adapter.iterdir() if file.is_file() and file.name != "README.md"}
    assert {path: content for path, content in files.items() if path != "README.md"} == kept
    assert hub.repos["model", name].private


def test_errors_hold_no_token(hub, client, adapter):
    client(hub_client.recipe, "push_model", "--model", adapter, "--hub_model_id", "me/echo")
    hub.fail("POST", "/commit/", status=400, error=f"Authorization: Bearer {hub.token}")
    told = client(hub_client.raised, "me/echo", str(ROOT / "recipes" / "scenes"))
    assert "Bearer hf_***" in told and hub.token not in told


def test_tokens_are_blotted_out():
    given = "abc123 or hf_AbCdEf0123456789AbCdEf or hf_oauth_AbCdEf0123456789, by hf_hub_download"
    assert without_tokens(given, "abc123") == "hf_*** or hf_*** or hf_***, by hf_hub_download"


def test_an_adapter_of_a_local_model_needs_that_model_on_the_hub(hub, client, base, adapter, log, tmp_path):
    config = json.loads((adapter / "adapter_config.json").read_text())
    shutil.copytree(adapter, tmp_path / "adapter", ignore=shutil.ignore_patterns("checkpoint-*"))
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": "outputs/merged"})
    )
    push = ["push_model", "--model", tmp_path / "adapter", "--hub_model_id", "me/on-merged"]
    size = log.stat().st_size
    assert client(hub_client.recipe, *push) == 2
    assert "'outputs/merged', which is not on the Hub" in log.read_bytes()[size:].decode(errors="replace")
    assert client(hub_client.recipe, *push, "--base_model", base) == 0
    files = hub.files("model", "me/on-merged")
    assert json.loads(files["adapter_config.json"]) == config
    assert client(hub_client.snippet, files["README.md"].decode())
