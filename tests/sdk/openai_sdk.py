"""The official OpenAI client against a running server: everything an application would do in its first hour.

usage: openai_sdk.py BASE_URL MODEL
"""

import json
import sys
import unittest
import urllib.error
import urllib.request

import openai
from openai import OpenAI

BASE_URL, MODEL = sys.argv[1:3]


def client(**options):
    return OpenAI(base_url=BASE_URL, api_key="none", max_retries=0, timeout=60, **options)


def send(method, path, body=None):
    """A request that the SDK would never make: status and JSON of the answer."""
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(BASE_URL + path, body, headers, method=method)
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


MESSAGES = [{"role": "user", "content": "Name one city on the Baltic Sea."}]


class Chat(unittest.TestCase):
    def test_answer(self):
        answer = client().chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=8, temperature=0)
        choice = answer.choices[0]
        self.assertEqual(answer.object, "chat.completion")
        self.assertEqual(answer.model, MODEL)
        self.assertEqual(choice.message.role, "assistant")
        self.assertTrue(choice.message.content)
        self.assertIn(choice.finish_reason, ("stop", "length"))
        self.assertGreater(answer.usage.prompt_tokens, 0)
        self.assertLessEqual(answer.usage.completion_tokens, 8)
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
        self.assertTrue(answer._request_id)

    def test_stream_is_the_same_text(self):
        options = dict(model=MODEL, messages=MESSAGES, max_tokens=16, temperature=0, seed=7)
        whole = client().chat.completions.create(**options)
        chunks = list(client().chat.completions.create(stream=True, **options))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertTrue(all(chunk.choices[0].delta.role is None for chunk in chunks[1:]))
        self.assertEqual([c.choices[0].finish_reason for c in chunks][-1], whole.choices[0].finish_reason)
        self.assertTrue(all(chunk.choices[0].finish_reason is None for chunk in chunks[:-1]))
        self.assertEqual(len({chunk.id for chunk in chunks}), 1)

    def test_stream_with_usage(self):
        chunks = list(
            client().chat.completions.create(
                model=MODEL, messages=MESSAGES, max_tokens=5, stream=True, stream_options={"include_usage": True}
            )
        )
        self.assertEqual(chunks[-1].choices, [])
        self.assertLessEqual(chunks[-1].usage.completion_tokens, 5)
        self.assertTrue(all(chunk.usage is None for chunk in chunks[:-1]))

    def test_several_choices_with_a_seed(self):
        options = dict(model=MODEL, messages=MESSAGES, max_tokens=12, n=3, seed=1234, temperature=1.5)
        first = [choice.message.content for choice in client().chat.completions.create(**options).choices]
        again = [choice.message.content for choice in client().chat.completions.create(**options).choices]
        self.assertEqual(len(first), 3)
        self.assertEqual(first, again)
        self.assertGreater(len(set(first)), 1)

    def test_content_parts_are_joined(self):
        parts = [{"type": "text", "text": "Name one city "}, {"type": "text", "text": "on the Baltic Sea."}]
        options = dict(model=MODEL, max_tokens=8, temperature=0, seed=3)
        joined = client().chat.completions.create(messages=[{"role": "user", "content": parts}], **options)
        plain = client().chat.completions.create(messages=MESSAGES, **options)
        self.assertEqual(joined.choices[0].message.content, plain.choices[0].message.content)

    def test_logprobs_spell_the_answer(self):
        options = dict(model=MODEL, messages=MESSAGES, max_tokens=6, seed=2, logprobs=True, top_logprobs=3)
        choice = client().chat.completions.create(**options).choices[0]
        tokens = choice.logprobs.content
        spelled = b"".join(bytes(token.bytes) for token in tokens)
        self.assertEqual(spelled.decode(errors="replace"), choice.message.content)
        for token in tokens:
            self.assertLessEqual(token.logprob, 0)
            self.assertLessEqual(len(token.top_logprobs), 3)
            top = [likely.logprob for likely in token.top_logprobs]
            self.assertEqual(top, sorted(top, reverse=True))
        chunks = client().chat.completions.create(stream=True, **options)
        scored = [chunk.choices[0].logprobs for chunk in chunks]
        streamed = [token for logprobs in scored if logprobs for token in logprobs.content]
        self.assertEqual(streamed, tokens)

    def test_penalties_and_bias_are_taken(self):
        options = dict(model=MODEL, messages=MESSAGES, max_tokens=8, seed=4, temperature=0)
        client().chat.completions.create(
            frequency_penalty=1.5, presence_penalty=-0.5, logit_bias={"7": -100},
            extra_body={"repetition_penalty": 1.2, "min_tokens": 2, "stop_token_ids": [5], "top_k": 20}, **options,
        )

    def test_structured_output(self):
        schema = {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "baltic": {"type": "boolean"}},
            "required": ["city", "baltic"],
            "additionalProperties": False,
        }
        named = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": schema}}
        options = dict(model=MODEL, messages=MESSAGES, max_tokens=200, temperature=0)
        if MODEL == "sim":
            with self.assertRaises(openai.BadRequestError) as caught:
                client().chat.completions.create(response_format=named, **options)
            self.assertEqual(caught.exception.param, "response_format")
            return
        choice = client().chat.completions.create(response_format=named, **options).choices[0]
        city = json.loads(choice.message.content)
        self.assertEqual(set(city), {"city", "baltic"})
        self.assertIsInstance(city["baltic"], bool)
        self.assertEqual(choice.finish_reason, "stop")
        guided = {"structured_outputs": {"regex": "(Riga|Visby|Danzig)!"}}
        answer = client().chat.completions.create(extra_body=guided, **options)
        self.assertIn(answer.choices[0].message.content, ("Riga!", "Visby!", "Danzig!"))

    def test_max_completion_tokens(self):
        answer = client().chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=2)
        self.assertLessEqual(answer.usage.completion_tokens, 2)

    def test_stream_helper_of_the_sdk(self):
        with client().chat.completions.stream(model=MODEL, messages=MESSAGES, max_tokens=6) as stream:
            events = list(stream)
        deltas = "".join(event.delta for event in events if event.type == "content.delta")
        whole = [event.content for event in events if event.type == "content.done"]
        self.assertEqual([deltas], whole)

    def test_closing_a_stream_early(self):
        stream = client().chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=400, stream=True)
        next(iter(stream))
        stream.close()


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of the next days in a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Visby", "Riga", "Lübeck"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 3},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time", "description": "The time of day."}}


class Tools(unittest.TestCase):
    OPTIONS = dict(
        model=MODEL, messages=[{"role": "user", "content": "How is the weather in Visby?"}], max_tokens=200, temperature=0
    )

    def create(self, **options):
        return client().chat.completions.create(**{**self.OPTIONS, "tools": [WEATHER, CLOCK], **options})

    def check_weather(self, arguments):
        arguments = json.loads(arguments)
        self.assertEqual(set(arguments), {"city", "days"})
        self.assertIn(arguments["city"], ("Visby", "Riga", "Lübeck"))
        self.assertIn(arguments["days"], (1, 2, 3))

    @unittest.skipIf(MODEL == "sim", "the simulated model follows no grammar")
    def test_a_call_that_must_come(self):
        choice = self.create(tools=[WEATHER], tool_choice="required", parallel_tool_calls=False).choices[0]
        self.assertEqual(choice.finish_reason, "tool_calls")
        self.assertIsNone(choice.message.content)
        (call,) = choice.message.tool_calls
        self.assertEqual((call.type, call.function.name), ("function", "get_weather"))
        self.check_weather(call.function.arguments)
        # The answer and its result make sense as messages again.
        result = {"role": "tool", "tool_call_id": call.id, "content": "Sun."}
        messages = [*self.OPTIONS["messages"], choice.message, result]
        answer = self.create(messages=messages, max_tokens=16).choices[0]
        self.assertIn(answer.finish_reason, ("stop", "length", "tool_calls"))

    @unittest.skipIf(MODEL == "sim", "the simulated model follows no grammar")
    def test_a_named_call_streams(self):
        named = {"type": "function", "function": {"name": "get_weather"}}
        options = dict(tool_choice=named, parallel_tool_calls=False, seed=5)
        whole = self.create(**options).choices[0].message.tool_calls[0].function
        chunks = [chunk.choices[0] for chunk in self.create(stream=True, **options)]
        parts = [part for chunk in chunks for part in chunk.delta.tool_calls or []]
        self.assertEqual((parts[0].type, parts[0].function.name), ("function", "get_weather"))
        self.assertTrue(parts[0].id)
        self.assertTrue(all(part.id is None and part.index == 0 for part in parts[1:]))
        self.assertEqual("".join(part.function.arguments for part in parts), whole.arguments)
        self.check_weather(whole.arguments)
        self.assertFalse(any(chunk.delta.content for chunk in chunks))
        self.assertEqual([chunk.finish_reason for chunk in chunks if chunk.finish_reason], ["tool_calls"])

    @unittest.skipIf(MODEL == "sim", "the simulated model follows no grammar")
    def test_the_stream_helper_of_the_sdk_puts_calls_together(self):
        options = {**self.OPTIONS, "tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
        with client().chat.completions.stream(**options) as stream:
            done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
            final = stream.get_final_completion().choices[0]
        self.assertEqual([event.name for event in done], ["get_weather"])
        self.check_weather(done[0].arguments)
        self.assertEqual(final.message.tool_calls[0].function.arguments, done[0].arguments)

    def test_a_call_that_may_come(self):
        for stream in (False, True):
            answer = self.create(max_tokens=24, stream=stream)
            choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
            self.assertIn(choices[-1].finish_reason, ("stop", "length", "tool_calls"))

    def test_a_call_that_must_not_come(self):
        message = self.create(tool_choice="none", max_tokens=8).choices[0].message
        self.assertTrue(message.content)
        self.assertIsNone(message.tool_calls)

    @unittest.skipIf(MODEL != "sim", "this model follows grammars")
    def test_a_model_without_grammars_says_so(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.create(tool_choice="required")
        self.assertEqual(caught.exception.param, "tool_choice")


class Completions(unittest.TestCase):
    def test_answer_and_stream(self):
        options = dict(model=MODEL, prompt="The Hanseatic League was", max_tokens=12, temperature=0, seed=1)
        whole = client().completions.create(**options)
        streamed = client().completions.create(stream=True, **options)
        text = "".join(chunk.choices[0].text for chunk in streamed)
        self.assertEqual(whole.object, "text_completion")
        self.assertEqual(text, whole.choices[0].text)

    def test_several_prompts(self):
        answer = client().completions.create(model=MODEL, prompt=["One", "Two"], max_tokens=3, n=2)
        self.assertEqual(sorted(choice.index for choice in answer.choices), [0, 1, 2, 3])

    def test_echo_best_of_and_logprobs(self):
        options = dict(model=MODEL, prompt="Count: 1 2 3", max_tokens=4, seed=5)
        echoed = client().completions.create(echo=True, **options).choices[0].text
        plain = client().completions.create(logprobs=2, **options).choices[0]
        self.assertEqual(echoed, "Count: 1 2 3" + plain.text)
        self.assertEqual(len(plain.logprobs.tokens), len(plain.logprobs.token_logprobs))
        self.assertEqual(plain.logprobs.text_offset[0], 0)
        best = client().completions.create(best_of=3, n=2, **options)
        self.assertEqual([choice.index for choice in best.choices], [0, 1])

    def test_an_echoed_prompt_is_weighed(self):
        options = dict(model=MODEL, prompt="Count: 1 2 3", temperature=0, echo=True, logprobs=1)
        for max_tokens in (0, 1):
            answer = client().completions.create(max_tokens=max_tokens, **options)
            logprobs = answer.choices[0].logprobs
            self.assertEqual(len(logprobs.tokens), answer.usage.prompt_tokens + max_tokens)
            self.assertEqual(answer.usage.completion_tokens, max_tokens)
            self.assertIsNone(logprobs.token_logprobs[0])
            self.assertIsNone(logprobs.top_logprobs[0])
            self.assertTrue(all(logprob <= 0 for logprob in logprobs.token_logprobs[1:]))

    def test_stop_string_is_not_emitted(self):
        options = dict(model=MODEL, prompt="Count: 1 2 3", max_tokens=24, temperature=0, seed=5)
        text = client().completions.create(**options).choices[0].text
        stop = text[len(text) // 2 :][:3]
        stopped = client().completions.create(stop=[stop], **options).choices[0]
        self.assertEqual(stopped.text, text[: text.index(stop)])
        self.assertEqual(stopped.finish_reason, "stop")


class Models(unittest.TestCase):
    def test_list_and_retrieve(self):
        models = list(client().models.list())
        self.assertIn(MODEL, [model.id for model in models])
        self.assertEqual(client().models.retrieve(MODEL).object, "model")


class Errors(unittest.TestCase):
    def refused(self, error, **options):
        with self.assertRaises(error) as caught:
            client().chat.completions.create(**{"model": MODEL, "messages": MESSAGES, "max_tokens": 4, **options})
        return caught.exception

    def test_bad_request_names_the_parameter(self):
        cases = {
            "temperature": dict(temperature=9),
            "top_p": dict(top_p=-1),
            "n": dict(n=0),
            "messages": dict(messages=[]),
            "tools[0].function.name": dict(tools=[{"type": "function", "function": {"name": "a b"}}]),
            "tool_choice": dict(tool_choice="required"),
            "functions": dict(functions=[{"name": "f"}]),
            "top_logprobs": dict(top_logprobs=2),
            "response_format.type": dict(response_format={"type": "yaml"}),
            "logit_bias": dict(logit_bias={"4294967295": 1}),
            "frequency_penalty": dict(frequency_penalty=3),
            "frobnicate": dict(extra_body={"frobnicate": 1}),
        }
        for parameter, options in cases.items():
            with self.subTest(parameter):
                error = self.refused(openai.BadRequestError, **options)
                self.assertEqual(error.param, parameter)
                self.assertEqual(error.type, "invalid_request_error")
                self.assertEqual(set(error.body), {"message", "type", "param", "code"})

    def test_neutral_values_pass(self):
        client().chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=1, frequency_penalty=0, presence_penalty=0, logit_bias={},
            user="someone", metadata={"a": "b"}, logprobs=False, store=False, tools=openai.NOT_GIVEN,
        )

    def test_embeddings(self):
        if MODEL != "sim":
            return
        texts = ["salt", "fish", "salt and fish"]
        answer = client().embeddings.create(model="sim-embedder", input=texts, dimensions=16)
        self.assertEqual([item.index for item in answer.data], [0, 1, 2])
        self.assertEqual([len(item.embedding) for item in answer.data], [16] * 3)
        self.assertEqual(answer.usage.prompt_tokens, 6)
        written = client().embeddings.create(model="sim-embedder", input="salt", encoding_format="float")
        for coded, number in zip(answer.data[0].embedding, written.data[0].embedding):
            self.assertAlmostEqual(coded, number, places=6)
        for model, dimensions in [(MODEL, None), ("sim-embedder", 3)]:
            with self.assertRaises(openai.BadRequestError):
                options = {} if dimensions is None else {"dimensions": dimensions}
                client().embeddings.create(model=model, input="salt", **options)

    def test_unknown_model(self):
        error = self.refused(openai.NotFoundError, model="no-such-model")
        self.assertEqual(error.code, "model_not_found")

    def test_prompt_longer_than_the_context(self):
        error = self.refused(openai.BadRequestError, messages=[{"role": "user", "content": "word " * 40_000}])
        self.assertEqual(error.code, "context_length_exceeded")

    def test_body_over_the_cap(self):
        with self.assertRaises(openai.APIStatusError) as caught:
            client().completions.create(model=MODEL, prompt="x" * 5_000_000, max_tokens=1)
        self.assertEqual(caught.exception.status_code, 413)

    def test_what_the_sdk_would_never_send(self):
        cases = [
            (b"{", 400), (b"[]", 400), (b"", 400), (b"\xff\xfe", 400), (b'{"model": 3, "messages": []}', 400),
            (b'{"model": "%s"}' % MODEL.encode(), 400),
        ]
        for body, status in cases:
            with self.subTest(body):
                self.refused_with(status, "POST", "/chat/completions", body)
        for method, path, status in [("GET", "/chat/completions", 405), ("POST", "/nothing", 404), ("DELETE", "/models", 405)]:
            with self.subTest(path):
                self.refused_with(status, method, path)

    def refused_with(self, status, method, path, body=None):
        got, answer = send(method, path, body)
        self.assertEqual(got, status, answer)
        self.assertEqual(set(answer["error"]), {"message", "type", "param", "code"})


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=1)
