"""The judge behind an endpoint, against a real server on loopback that speaks OpenAI's protocol and misbehaves."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sc_captioner.judges import JudgeError, judged, load_judge
from sc_captioner.judges.answer_cache import AnswerCache
from sc_captioner.judges.openai_endpoint import OpenAIJudge
from sc_captioner.judges.prompts import numbered_answers
from sc_captioner.metrics.relation_qa import questions_of


pytest.importorskip("openai", reason="needs the extra judge")

KEY = "sk-a-very-secret-key-0123456789"
CAPTION = "Many things stand beside one another."
PROMPT_TOKENS, COMPLETION_TOKENS = 100, 3


class ChatServer(ThreadingHTTPServer):
    """Answers `Is thing N there?` with yes for even N, unless a fault is due.

    `faults[N]` lists what the first requests that ask about thing N get instead of an answer: a status and its
    headers, or the name of a way to misbehave. `hold` seconds pass before each reply.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), ChatHandler)
        self.lock = threading.Lock()
        self.faults, self.hold, self.usage, self.reply = {}, 0.0, True, None
        self.asked, self.times, self.bodies, self.keys = [], [], [], set()
        self.in_flight = self.most_in_flight = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        pass  # clients that time out or are killed hang up: that is part of the tests


class ChatHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        things = [int(n) for n in re.findall(r"Is thing (\d+) there\?", body["messages"][-1]["content"])]
        with server.lock:
            server.asked.append(tuple(things))
            server.times.append(time.monotonic())
            server.bodies.append(body)
            server.keys.add(self.headers["Authorization"])
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
            due = server.faults.get(things[0]) if things else None
            fault = due.pop(0) if due else None
        time.sleep(server.hold)
        with server.lock:
            server.in_flight -= 1
        if self.path != "/v1/chat/completions":
            self.send(404, {})
        elif fault is None:
            self.send(200, self.completion(things))
        elif isinstance(fault, tuple):
            # Like some real servers, this one quotes the key it was sent.
            self.send(fault[0], {"error": {"message": f"sorry, {self.headers['Authorization']}"}}, fault[1])
        else:
            getattr(self, fault)()

    def completion(self, things):
        words = ["Yes." if thing % 2 == 0 else "No." for thing in things]
        lines = [f"{number}. {word}" for number, word in enumerate(words, start=1)]
        text = words[0] if len(words) == 1 else "\n".join(lines)
        if self.server.reply:
            text = self.server.reply(things, text)
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS, "total_tokens": 103}
        return {
            "id": "x", "object": "chat.completion", "created": 0, "model": "tiny",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            **({"usage": usage} if self.server.usage else {}),
        }  # fmt: skip

    def send(self, status, content, headers=None):
        self.send_raw(status, json.dumps(content).encode(), headers)

    def send_raw(self, status, data, headers=None, length=None):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def hang(self):
        time.sleep(1.5)

    def cut(self):
        self.send_raw(200, b'{"id": "x", "choi', length=500)
        self.close_connection = True

    def no_json(self):
        self.send_raw(200, b"<html>Bad gateway</html>")

    def no_choices(self):
        self.send(200, {"id": "x", "choices": []})

    def no_text(self):
        self.send(200, {"id": "x", "choices": [{"index": 0, "message": {"role": "assistant", "content": None}}]})

    def a_list(self):
        self.send(200, [1, 2])


@pytest.fixture
def server():
    with ChatServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def judge_at(server, **options):
    options = {"max_retries": 3, "timeout": 0.7, "progress": False, **options}
    return OpenAIJudge("tiny", base_url=server.url, api_key=KEY, **options)


def questions_about(things):
    return [f"Is thing {thing} there?" for thing in things]


def right_answers(things):
    return ["Yes." if thing % 2 == 0 else "No." for thing in things]


FAULTS = {
    "rate limit": (429, {"Retry-After": "0.3"}),
    "server error": (500, {}),
    "overloaded": (503, {}),
    "timeout": "hang",
    "connection cut": "cut",
    "no JSON": "no_json",
    "no choices": "no_choices",
    "no text": "no_text",
    "a list": "a_list",
}


def test_every_fault_is_retried(server):
    server.faults = {number: [fault] for number, fault in enumerate(FAULTS.values())}
    things = list(range(len(FAULTS)))
    judge = judge_at(server, concurrency=len(FAULTS))
    assert judge.answers([CAPTION], [questions_about(things)]) == [right_answers(things)]
    assert Counter(server.asked) == {(thing,): 2 for thing in things}
    assert judge.usage["retries"] == len(FAULTS)
    assert judge.usage["failed_requests"] == 0
    assert server.keys == {f"Bearer {KEY}"}


def test_retry_after_is_heeded(server):
    server.faults = {0: [(429, {"Retry-After": "1.2"})]}
    assert judge_at(server).answers([CAPTION], [questions_about([0])]) == [["Yes."]]
    assert server.times[1] - server.times[0] >= 1.2


def test_requests_run_side_by_side_but_not_more_than_allowed(server):
    server.hold = 0.15
    things = list(range(32))
    assert judge_at(server, concurrency=8).answers([CAPTION], [questions_about(things)]) == [right_answers(things)]
    assert 5 <= server.most_in_flight <= 8
    assert server.times[-1] - server.times[0] < 32 * 0.15 / 2


def test_equal_questions_are_asked_once(server):
    asked = [questions_about([1, 2, 1]), questions_about([2]), []]
    assert judge_at(server).answers([CAPTION] * 3, asked) == [["No.", "Yes.", "No."], ["Yes."], []]
    assert sorted(server.asked) == [(1,), (2,)]
    # Of another caption the same question is another one.
    judge_at(server).answers(["Another caption."], [questions_about([1])])
    assert len(server.asked) == 3


def test_several_questions_per_request(server):
    things = list(range(7))
    judge = judge_at(server, questions_per_request=3)
    assert judge.answers([CAPTION], [questions_about(things)]) == [right_answers(things)]
    assert sorted(server.asked) == [(0, 1, 2), (3, 4, 5), (6,)]
    prompt = next(body for body in server.bodies if "thing 3" in json.dumps(body))["messages"][0]["content"]
    assert prompt.count(CAPTION) == 1 and "2. Is thing 4 there?" in prompt


def test_what_a_numbered_reply_leaves_out_is_asked_alone(server):
    server.reply = lambda things, text: text.replace("2. No.", "2. Perhaps") if len(things) > 1 else text
    judge = judge_at(server, questions_per_request=3)
    assert judge.answers([CAPTION], [questions_about([0, 1, 2])]) == [["Yes.", "No.", "Yes."]]
    assert server.asked == [(0, 1, 2), (1,)]


def test_request_that_fails_half_way_keeps_what_came_before(server):
    server.reply = lambda things, text: text.replace("2. No.", "") if len(things) > 1 else text
    server.faults = {1: [(400, {})]}
    judge = judge_at(server, questions_per_request=3)
    asked = [questions_about([0, 1, 2, 4])]
    assert judge.answers([CAPTION], asked) == [["Yes.", None, "Yes.", "Yes."]]
    assert judge.usage["failed_requests"] == 1


def test_answers_are_cached_by_model_prompt_caption_and_question(server, tmp_path):
    cache = tmp_path / "made" / "answers.jsonl"
    asked = [questions_about([1, 2])]
    first = judge_at(server, cache=cache)
    expected = first.answers([CAPTION], asked)
    again = judge_at(server, cache=cache)
    assert again.answers([CAPTION], asked) == expected and len(server.asked) == 2
    assert again.usage["cached_answers"] == 2 and again.usage["requests"] == 0
    for options, captions in (
        ({"request_options": {"temperature": 0, "max_tokens": 5}}, [CAPTION]),
        ({"questions_per_request": 2}, [CAPTION]),
        ({}, [CAPTION + " "]),
    ):
        before = len(server.asked)
        judge_at(server, cache=cache, **options).answers(captions, asked)
        assert len(server.asked) > before
    before = len(server.asked)
    other = OpenAIJudge("other", base_url=server.url, api_key=KEY, cache=cache, progress=False)
    other.answers([CAPTION], asked)
    assert len(server.asked) == before + 2
    assert server.bodies[-1]["model"] == "other" and server.bodies[-1]["temperature"] == 0


def test_unreadable_replies_are_counted_and_not_cached(server, tmp_path):
    server.reply = lambda things, text: "The caption does not tell." if things == [1] else text
    judge = judge_at(server, cache=tmp_path / "answers.jsonl")
    result = judged(judge, [CAPTION], questions_of([dict.fromkeys(questions_about([1, 3]), "No")]))
    assert result.score == 0.5 and result.corpus["answers_unparsable"] == 1
    assert result.answers == [[None, False]]
    assert Counter(server.asked) == {(1,): 2, (3,): 1}  # once more, in case it was chance
    server.reply = None
    assert judge_at(server, cache=tmp_path / "answers.jsonl").answers([CAPTION], [questions_about([1, 3])]) == [
        ["No.", "No."]
    ]
    assert Counter(server.asked) == {(1,): 3, (3,): 1}


def test_cost_is_what_the_server_counted(server, tmp_path):
    server.faults = {4: ["no_choices"]}  # tells no usage
    judge = judge_at(server, input_price=0.5, output_price=2.0, cache=tmp_path / "answers.jsonl")
    judge.answers([CAPTION], [questions_about(range(10))])
    usage = judge.usage
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (1000, 30)
    assert usage["cost"] == pytest.approx((1000 * 0.5 + 30 * 2.0) / 1e6)
    assert usage["requests"] == 11 and usage["replies_without_usage"] == 1
    cached = judge_at(server, input_price=0.5, output_price=2.0, cache=tmp_path / "answers.jsonl")
    cached.answers([CAPTION], [questions_about(range(10))])
    assert cached.usage["cost"] == 0.0 and cached.usage["cached_answers"] == 10
    assert judge_at(server).usage["cost"] is None


def test_progress_bar_shows_answers_tokens_and_cost(server, capsys):
    judge = judge_at(server, input_price=1.0, output_price=1.0, progress=True)
    judge.answers([CAPTION], [questions_about(range(4))])
    shown = capsys.readouterr().err
    assert "4/4" in shown and "400 + 12 tokens, cost 0.0004" in shown


def test_killed_run_goes_on_without_asking_twice(server, tmp_path):
    cache, things, concurrency = tmp_path / "answers.jsonl", list(range(60)), 3
    server.hold = 0.05
    code = (
        "from sc_captioner.judges.openai_endpoint import OpenAIJudge\n"
        f"judge = OpenAIJudge('tiny', base_url={server.url!r}, cache={str(cache)!r}, concurrency={concurrency})\n"
        f"judge.answers([{CAPTION!r}], [[f'Is thing {{n}} there?' for n in range(60)]])\n"
    )
    source = os.path.dirname(os.path.dirname(sys.modules["sc_captioner"].__file__))
    environment = {**os.environ, "OPENAI_API_KEY": KEY, "PYTHONPATH": source}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while len(server.asked) < 25 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        errors = process.communicate()[1].decode()
    assert process.returncode == -signal.SIGKILL, errors
    kept = [json.loads(line)["question"] for line in cache.read_text().splitlines()]
    asked_before = len(server.asked)
    assert 25 - concurrency <= len(kept) < len(things)
    time.sleep(2 * server.hold)

    judge = judge_at(server, cache=cache)
    assert judge.answers([CAPTION], [questions_about(things)]) == [right_answers(things)]
    assert judge.usage["cached_answers"] == len(kept)
    resumed = {f"Is thing {thing} there?" for (thing,) in server.asked[asked_before:]}
    assert resumed.isdisjoint(kept) and len(resumed) == len(things) - len(kept)
    # Only what was under way when the process died was asked a second time.
    assert len(server.asked) - len(things) <= concurrency
    assert KEY not in cache.read_text() + errors


def test_key_is_nowhere(server, tmp_path, caplog, capsys):
    """Not in logs of any level, cache, error messages with their tracebacks, or representations."""
    caplog.set_level(logging.DEBUG)
    server.faults = {
        0: [(429, {"Retry-After": "0.1"})],
        1: [(400, {})],
        2: ["no_choices"],
        3: ["hang"],
    }
    cache = tmp_path / "answers.jsonl"
    server.reply = lambda things, text: f"{text} {KEY}" if things == [5] else text
    judge = judge_at(server, cache=cache, progress=True)
    answers = judge.answers([CAPTION], [questions_about(range(6))])
    assert answers == [["Yes.", None, "Yes.", "No.", "Yes.", "No. ***"]]
    texts = [caplog.text, cache.read_text(), repr(judge), repr(judge.usage), repr(vars(judge)), *capsys.readouterr()]
    # The refused question was logged, and the client's own debugging was on.
    assert "no answer to" in caplog.text and "openai._base_client" in caplog.text
    for status in (401, 403, 404, 500):
        server.faults = {7: [(status, {})] * 9}
        with pytest.raises(JudgeError) as caught:
            judge_at(server, max_retries=0, cache=cache).answers([CAPTION], [questions_about([7])])
        texts += [str(caught.value), "".join(traceback.format_exception(caught.value)), cache.read_text()]
        assert "sorry, Bearer ***" in texts[-3]
    assert KEY not in "\n".join([*texts, caplog.text, *capsys.readouterr()])


def test_refused_questions_are_left_out_and_counted(server):
    server.faults = {3: [(400, {})]}
    questions = questions_of([dict.fromkeys(questions_about([2, 3, 4]), "Yes"), {"Is thing 6 there?": "Yes"}])
    result = judged(judge_at(server), [CAPTION, CAPTION], questions)
    assert result.answers == [[True, None, True], [True]]
    assert result.score == 1.0 and result.corpus["answers_missing"] == 1


def test_wrong_key_or_model_stops_at_once(server):
    server.faults = {thing: [(401, {})] for thing in range(50)}
    with pytest.raises(JudgeError, match="401.*Check api_key, model and base_url"):
        judge_at(server, concurrency=2).answers([CAPTION], [questions_about(range(50))])
    assert len(server.asked) <= 10


def test_endpoint_that_is_down_stops_the_run_and_keeps_answers(server, tmp_path):
    server.faults = {thing: [(500, {})] for thing in range(10, 60)}
    judge = judge_at(server, max_retries=0, concurrency=1, cache=tmp_path / "answers.jsonl")
    with pytest.raises(JudgeError, match="10 requests failed in a row.*a new run goes on from there"):
        judge.answers([CAPTION], [questions_about(range(60))])
    assert len(AnswerCache(tmp_path / "answers.jsonl")) == 10
    nobody = OpenAIJudge("tiny", base_url="http://127.0.0.1:9/v1", max_retries=0, timeout=1.0, progress=False)
    with pytest.raises(JudgeError, match="every request failed, the last with APIConnectionError.*Pass cache=FILE"):
        nobody.answers([CAPTION], [questions_about([1])])


def test_settings_are_checked(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(JudgeError, match="set the variable OPENAI_API_KEY"):
        OpenAIJudge("tiny")
    for setting in ("concurrency", "questions_per_request"):
        with pytest.raises(ValueError, match=f"{setting} must be at least 1"):
            OpenAIJudge("tiny", api_key=KEY, **{setting: 0})


def test_module_shows_usage(server, repository):
    import evaluate

    metric = evaluate.load(str(repository / "metrics" / "relation_qa"))
    options = {"model": "tiny", "base_url": server.url, "api_key": KEY, "input_price": 1.0, "output_price": 1.0}
    result = metric.compute(
        predictions=[CAPTION], questions=[{"Is thing 2 there?": "Yes"}], judge="openai", progress=False, **options
    )
    assert result["relation_qa"] == 1.0 and result["judge"] == "openai/tiny"
    assert result["usage"]["cost"] == pytest.approx(103e-6)
    assert load_judge("openai", **options).name == "openai/tiny"


# --- Cache file ------------------------------------------------------------------------------------------------------


def test_half_a_line_of_a_killed_process_is_passed_over(tmp_path, caplog):
    path = tmp_path / "answers.jsonl"
    cache = AnswerCache(path)
    for number in range(3):
        cache.add(f"key {number}", "tiny", "Is it?", "yes")
    path.write_bytes(path.read_bytes()[:-20])
    torn = AnswerCache(path)
    assert len(torn) == 2 and "1 unreadable line" in caplog.text
    torn.add("key 3", "tiny", "Is it?", "no")
    assert [AnswerCache(path).get(f"key {number}") for number in range(4)] == ["yes", "yes", None, "no"]


def test_another_file_is_no_cache(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("One line.\nAnother.\n")
    with pytest.raises(ValueError, match="notes.txt is no cache of answers"):
        AnswerCache(path)
    assert path.read_text() == "One line.\nAnother.\n"


def test_many_threads_write_whole_lines(tmp_path):
    caches = [AnswerCache(tmp_path / "answers.jsonl") for _ in range(4)]
    threads = [
        threading.Thread(target=lambda c=c, n=n: [c.add(f"{n}-{i}", "tiny", "q" * 300, "yes") for i in range(50)])
        for n, c in enumerate(caches)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(AnswerCache(tmp_path / "answers.jsonl")) == 200


def test_numbered_lines_are_read():
    assert numbered_answers("1. yes\n2) No\n\n3: Yes, it is", 3) == ["yes", "No", "Yes, it is"]
    assert numbered_answers("**2.** no\n- 1 yes", 3) == ["yes", "** no", None]
    assert numbered_answers("1. yes\n1. no\n99. no\n2.", 2) == [None, None]
