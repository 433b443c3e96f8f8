// Continue: its own adapter, and its requests replayed byte for byte. Arguments as for openai_node.mjs.

import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { connect } from "node:net";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.cwd()}/`);
const { constructLlmApi } = await import(pathToFileURL(require.resolve("@continuedev/openai-adapters")).href);

const URL_ = new URL(process.env.LOOPSERVE_URLS.split(",")[0]);
const MODEL = process.env.LOOPSERVE_MODEL;
const KEY = process.env.LOOPSERVE_KEY;
const REQUESTS = new URL("continue_requests/", import.meta.url);
const api = constructLlmApi({ provider: "openai", apiKey: KEY, apiBase: `${URL_.origin}/v1/` });
const never = new AbortController().signal;
const MESSAGES = [{ role: "user", content: "Write a function that adds two numbers." }];
const FIM = {
  model: MODEL,
  prompt: "def add(a, b):\n    return ",
  suffix: "\n\nprint(add(1, 2))\n",
  max_tokens: 24,
  temperature: 0.01,
  stop: ["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"],
  stream: true,
};

function check(condition, message) {
  if (!condition) throw new Error(message);
}

function replay(name) {
  const recorded = readFileSync(new URL(name, REQUESTS), "latin1");
  const bytes = recorded.replaceAll("{key}", KEY).replaceAll("{host}", URL_.host);
  return new Promise((resolve, reject) => {
    let answer = "";
    const socket = connect(Number(URL_.port), URL_.hostname, () => socket.write(bytes, "latin1"));
    socket.setTimeout(60_000, () => socket.destroy(new Error(`no end of ${name} within 60 s`)));
    socket.on("data", (data) => {
      answer += data;
      // Chunked encoding ends with an empty chunk; Continue keeps the connection.
      if (answer.endsWith("\r\n0\r\n\r\n") || !answer.startsWith("HTTP/1.1 200")) socket.end();
    });
    socket.on("close", () => resolve(answer));
    socket.on("error", reject);
  });
}

async function replays(prefix, textOf) {
  const names = readdirSync(REQUESTS).filter((name) => name.startsWith(prefix));
  check(names.length > 0, `no request ${prefix}*`);
  for (const name of names) {
    const answer = await replay(name);
    check(answer.startsWith("HTTP/1.1 200"), `${name}: ${answer.slice(0, 500)}`);
    const events = [...answer.matchAll(/^data: (.*)\n/gm)].map((match) => match[1]);
    check(events.at(-1) === "[DONE]", `${name}: the last event is ${events.at(-1)}`);
    const chunks = events.slice(0, -1).map((event) => JSON.parse(event));
    check(chunks.every((chunk) => textOf(chunk) !== undefined), `${name}: a chunk without text: ${events}`);
  }
}

async function metric(name) {
  const answer = await fetch(new URL("/metrics", URL_), { headers: { Authorization: `Bearer ${KEY}` } });
  const line = (await answer.text()).split("\n").find((one) => one.startsWith(`${name} `));
  return line === undefined ? 0 : Number(line.split(" ").at(-1));
}

const checks = {
  chat: async () => {
    const body = { model: MODEL, messages: MESSAGES, max_tokens: 24, stream: true };
    let text = "";
    let usage;
    for await (const chunk of api.chatCompletionStream(body, never)) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    check(text, "no text");
    check(usage.completion_tokens > 0, "no usage");
  },
  FIM: async () => {
    let chunks = 0;
    for await (const chunk of api.fimStream(FIM, never)) {
      check(typeof (chunk.choices[0].delta.content ?? "") === "string", JSON.stringify(chunk));
      chunks += 1;
    }
    check(chunks > 0, "no chunks");
    await replays("fim", (chunk) => chunk.choices[0].delta.content ?? "");
    await replays("completions", (chunk) => chunk.choices[0].text);
  },
  "models list": async () => {
    const [card] = await api.list();
    check(card.id === MODEL && card.max_model_len > 0, `first model: ${JSON.stringify(card)}`);
  },
  cancel: async () => {
    // Every keystroke aborts the completion before it.
    const aborted = 'loopserve_request_success_total{finished_reason="abort"}';
    const before = await metric(aborted);
    for (let keystroke = 0; keystroke < 5; keystroke += 1) {
      const controller = new AbortController();
      const body = { model: MODEL, messages: MESSAGES, max_tokens: 1500, stream: true, ignore_eos: true };
      try {
        for await (const _ of api.chatCompletionStream(body, controller.signal)) controller.abort();
      } catch (error) {
        check(controller.signal.aborted, error.message);
      }
    }
    const deadline = Date.now() + 5000;
    while ((await metric(aborted)) < before + 5 || (await metric("loopserve_num_requests_running")) > 0) {
      check(Date.now() < deadline, `not within 5 s: aborted ${before} → ${await metric(aborted)}`);
      await new Promise((wake) => setTimeout(wake, 20));
    }
  },
};

const print = (line) => process.stdout.write(`\n${JSON.stringify(line)}\n`);
const { dependencies } = JSON.parse(readFileSync("package.json"));
print({ version: dependencies["@continuedev/openai-adapters"] });
for (const feature of process.argv.slice(2)) {
  let detail = "";
  try {
    await checks[feature]();
  } catch (error) {
    detail = `${error.constructor.name}: ${error.message}`.slice(0, 600);
  }
  print({ feature, passed: detail === "", detail });
}
process.exit(0);
