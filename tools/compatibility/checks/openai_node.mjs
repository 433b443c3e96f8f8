// openai-node. Run in the folder whose node_modules has the client; features to check are the arguments.
// The counterpart of checking.py and openai_python.py, whose comments hold here too.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { isDeepStrictEqual } from "node:util";

const require = createRequire(`${process.cwd()}/`);
const OpenAI = require("openai");

const URL = process.env.LOOPSERVE_URLS.split(",")[0];
const MODEL = process.env.LOOPSERVE_MODEL;
const KEY = process.env.LOOPSERVE_KEY;
const PROMPT = "def add(a, b):\n";
const MESSAGES = [{ role: "user", content: "Write a function that adds two numbers." }];
const TOO_LONG = "one two three four ".repeat(2000);
const GREEDY = { model: MODEL, max_tokens: 24, temperature: 0 };
const CITIES = ["Paris", "London", "Rome"];
const PARAMETERS = {
  type: "object",
  properties: { city: { type: "string", enum: CITIES } },
  required: ["city"],
  additionalProperties: false,
};
const TOOL = { type: "function", function: { name: "get_weather", description: "Weather.", parameters: PARAMETERS } };
const WITH_TOOL = {
  model: MODEL,
  messages: [{ role: "user", content: "What is the weather in Paris?" }],
  max_tokens: 200,
  seed: 1,
  tools: [TOOL],
  tool_choice: { type: "function", function: { name: "get_weather" } },
};

const connect = (apiKey = KEY, baseURL = `${URL}/v1`) =>
  new OpenAI({ apiKey, baseURL, maxRetries: 0, timeout: 60_000 });
const client = connect();

function check(condition, message) {
  if (!condition) throw new Error(message);
}

function equal(found, wanted, what) {
  check(isDeepStrictEqual(found, wanted), `${what}: ${JSON.stringify(found)}, not ${JSON.stringify(wanted)}`);
}

function checkCity(text) {
  const values = JSON.parse(text);
  equal(Object.keys(values), ["city"], "keys");
  check(CITIES.includes(values.city), `city is ${values.city}`);
}

async function all(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

async function fails(kind, code, call) {
  try {
    await call();
  } catch (error) {
    check(error instanceof kind, `${error.constructor.name}: ${error.message}`);
    equal(error.code, code, "code");
    return error;
  }
  throw new Error(`no error instead of ${kind.name}`);
}

async function metric(name) {
  const answer = await fetch(`${URL}/metrics`, { headers: { Authorization: `Bearer ${KEY}` } });
  const line = (await answer.text()).split("\n").find((one) => one.startsWith(`${name} `));
  return line === undefined ? 0 : Number(line.split(" ").at(-1));
}

async function within5Seconds(what, holds) {
  const deadline = Date.now() + 5000;
  while (!(await holds())) {
    check(Date.now() < deadline, `not within 5 s: ${what}`);
    await new Promise((wake) => setTimeout(wake, 20));
  }
}

const checks = {
  "models list": async () => {
    check((await all(client.models.list())).some((card) => card.id === MODEL), "the model is not in the list");
    equal((await client.models.retrieve(MODEL)).id, MODEL, "id");
  },
  completion: async () => {
    const answer = await client.completions.create({ ...GREEDY, prompt: PROMPT });
    check(answer.choices[0].text, "no text");
    equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens, "total_tokens");
  },
  chat: async () => {
    const answer = await client.chat.completions.create({ ...GREEDY, messages: MESSAGES });
    check(answer.choices[0].message.content, "no content");
  },
  stream: async () => {
    const text = (await client.completions.create({ ...GREEDY, prompt: PROMPT })).choices[0].text;
    const chunks = await all(await client.completions.create({ ...GREEDY, prompt: PROMPT, stream: true }));
    equal(chunks.map((chunk) => chunk.choices[0].text).join(""), text, "text");
    const helper = client.chat.completions.stream({ ...GREEDY, messages: MESSAGES });
    const final = await helper.finalChatCompletion();
    const whole = await client.chat.completions.create({ ...GREEDY, messages: MESSAGES });
    equal(final.choices[0].message.content, whole.choices[0].message.content, "text of the stream helper");
  },
  "usage in stream": async () => {
    const options = { ...GREEDY, messages: MESSAGES, stream: true, stream_options: { include_usage: true } };
    const last = (await all(await client.chat.completions.create(options))).at(-1);
    equal(last.choices, [], "choices of the last chunk");
    check(last.usage.completion_tokens > 0, "no usage");
  },
  logprobs: async () => {
    const options = { ...GREEDY, messages: MESSAGES, logprobs: true, top_logprobs: 2 };
    const [choice] = (await client.chat.completions.create(options)).choices;
    const bytes = choice.logprobs.content.flatMap((entry) => entry.bytes);
    equal(Buffer.from(bytes).toString(), choice.message.content, "bytes");
  },
  n: async () => {
    const options = { ...GREEDY, prompt: PROMPT, n: 3, temperature: 1, seed: 7 };
    const { choices } = await client.completions.create(options);
    equal(choices.map((choice) => choice.index), [0, 1, 2], "indices");
    check(new Set(choices.map((choice) => choice.text)).size > 1, "all choices are the same");
  },
  stop: async () => {
    const free = (await client.completions.create({ ...GREEDY, prompt: PROMPT })).choices[0].text;
    const word = free.slice(free.length / 2, free.length / 2 + 3);
    const cut = (await client.completions.create({ ...GREEDY, prompt: PROMPT, stop: [word] })).choices[0];
    equal(cut.text, free.slice(0, free.indexOf(word)), "text");
    equal(cut.finish_reason, "stop", "finish_reason");
  },
  tools: async () => {
    const [choice] = (await client.chat.completions.create(WITH_TOOL)).choices;
    equal(choice.message.tool_calls[0].function.name, "get_weather", "name");
    checkCity(choice.message.tool_calls[0].function.arguments);
    equal(choice.finish_reason, "tool_calls", "finish_reason");
  },
  "tools streamed": async () => {
    const final = await client.chat.completions.stream(WITH_TOOL).finalChatCompletion();
    const [call] = final.choices[0].message.tool_calls;
    equal(call.function.name, "get_weather", "name");
    checkCity(call.function.arguments);
  },
  json_schema: async () => {
    const json_schema = { name: "place", schema: PARAMETERS, strict: true };
    const answer = await client.chat.completions.parse({
      model: MODEL,
      messages: MESSAGES,
      max_tokens: 100,
      seed: 1,
      response_format: { type: "json_schema", json_schema },
    });
    checkCity(answer.choices[0].message.content);
  },
  "auth error": async () => {
    const call = () => connect("not-the-key").completions.create({ ...GREEDY, prompt: PROMPT });
    await fails(OpenAI.AuthenticationError, "invalid_api_key", call);
  },
  "context overflow": async () => {
    const call = (more) => client.completions.create({ ...GREEDY, prompt: TOO_LONG, ...more });
    await fails(OpenAI.BadRequestError, "context_length_exceeded", () => call({}));
    await fails(OpenAI.BadRequestError, "context_length_exceeded", () => call({ stream: true }));
  },
  "unknown model": async () => {
    const call = () => client.completions.create({ ...GREEDY, model: "no-such-model", prompt: PROMPT });
    await fails(OpenAI.NotFoundError, "model_not_found", call);
  },
  FIM: async () => {
    const answer = await client.completions.create({ ...GREEDY, prompt: PROMPT, suffix: "\nprint(add(1, 2))\n" });
    check(answer.usage.prompt_tokens > 0, "no usage");
  },
  tokenize: async () => {
    const bare = connect(KEY, URL);
    const { tokens } = await bare.post("/tokenize", { body: { prompt: PROMPT } });
    equal((await bare.post("/detokenize", { body: { tokens } })).prompt, PROMPT, "text");
  },
  responses: async () => {
    const options = { model: MODEL, input: "Say hello.", max_output_tokens: 24, store: false };
    const answer = await client.responses.create(options);
    check(answer.usage.output_tokens > 0, "no usage");
    const final = await client.responses.stream(options).finalResponse();
    equal(final.object, "response", "object");
    check(final.output.length > 0, "no output");
  },
  cancel: async () => {
    const aborted = 'loopserve_request_success_total{finished_reason="abort"}';
    const running = "loopserve_num_requests_running";
    const before = await metric(aborted);
    const stream = await client.completions.create({
      model: MODEL,
      prompt: PROMPT,
      max_tokens: 1500,
      ignore_eos: true,
      stream: true,
    });
    for await (const _ of stream) break; // leaving the loop aborts the request
    await within5Seconds("no request runs", async () => (await metric(running)) === 0);
    await within5Seconds("the request counts as aborted", async () => (await metric(aborted)) === before + 1);
  },
};

const print = (line) => process.stdout.write(`\n${JSON.stringify(line)}\n`);
print({ version: JSON.parse(readFileSync("node_modules/openai/package.json")).version });
for (const feature of process.argv.slice(2)) {
  let detail = "";
  try {
    await checks[feature]();
  } catch (error) {
    detail = `${error.constructor.name}: ${error.message}`.slice(0, 600);
  }
  print({ feature, passed: detail === "", detail });
}
